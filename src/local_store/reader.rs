//! Reading beside the writer: a place from the index, then one read of the pack.

use super::{
    Dataset, StoreError, index,
    index::Place,
    pack::pack_path,
    record::{HEADER_BYTES, Header, Kind},
};
use crate::{block::Block, pool::Pool};
use barrow_wire::{Multihash, Presence};
use rusqlite::Connection;
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Packs that a reader keeps open.
const OPEN_PACKS_MAX: usize = 32;

/// One who reads, with a connection to the index of its own.
pub struct StoreReader {
    packs: PathBuf,
    index: Connection,
    open: Vec<(u32, File)>,
}

impl StoreReader {
    pub(super) fn open(dir: &Path, cache_kib: usize) -> Result<Self, StoreError> {
        let index = index::open_reader(&dir.join("index.sqlite"), cache_kib)?;
        Ok(Self { packs: dir.join("packs"), index, open: Vec::new() })
    }

    /// The block, if it is here and its checksum holds. Waits while the pool has no buffer.
    ///
    /// # Errors
    /// If the index or the pack cannot be read. Damage is no error: see [`Self::is_damaged`].
    pub fn get(&mut self, hash: &Multihash, pool: &Pool) -> Result<Option<Block>, StoreError> {
        let Some(place) = index::place(&self.index, hash)? else { return Ok(None) };
        self.read(hash, place, pool)
    }

    /// Whether the index knows the block and its bytes are not what was stored.
    ///
    /// # Errors
    /// If the index or the pack cannot be read.
    pub fn is_damaged(&mut self, hash: &Multihash, pool: &Pool) -> Result<bool, StoreError> {
        let Some(place) = index::place(&self.index, hash)? else { return Ok(false) };
        Ok(self.read(hash, place, pool)?.is_none())
    }

    fn read(
        &mut self,
        hash: &Multihash,
        place: Place,
        pool: &Pool,
    ) -> Result<Option<Block>, StoreError> {
        let len = place.len as usize;
        let mut buffer = pool.take(len);
        let record = &mut buffer.as_mut()[..HEADER_BYTES + len];
        let file = match self.pack(place.pack) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match file.read_exact_at(record, place.offset) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let (header, payload) = record.split_first_chunk().expect("a header was read");
        let sound = Header::from_bytes(header).is_some_and(|header| {
            header.kind == Kind::Put && header.hash == Some(*hash) && header.matches(payload)
        });
        if !sound {
            return Ok(None);
        }
        Ok(Some(Block::from_store(*hash, buffer.freeze(HEADER_BYTES..HEADER_BYTES + len))))
    }

    fn pack(&mut self, number: u32) -> io::Result<&File> {
        if let Some(at) = self.open.iter().position(|(open, _)| *open == number) {
            return Ok(&self.open[at].1);
        }
        if self.open.len() == OPEN_PACKS_MAX {
            self.open.remove(0);
        }
        self.open.push((number, File::open(pack_path(&self.packs, number))?));
        Ok(&self.open.last().expect("just pushed").1)
    }

    /// What is here of a block.
    ///
    /// # Errors
    /// If the index cannot be asked.
    pub fn presence(&self, hash: &Multihash) -> Result<Presence, StoreError> {
        let Some(place) = index::place(&self.index, hash)? else {
            return Ok(Presence::DontHave);
        };
        let len = place.len;
        let complete = index::dataset(&self.index, hash)?.is_some();
        Ok(if complete { Presence::Complete { len } } else { Presence::Have { len } })
    }

    /// All finished datasets, the oldest first.
    ///
    /// # Errors
    /// If the index cannot be asked.
    pub fn datasets(&self) -> Result<Vec<Dataset>, StoreError> {
        index::datasets(&self.index)
    }

    /// The finished dataset of this root.
    ///
    /// # Errors
    /// If the index cannot be asked.
    pub fn dataset(&self, root: &Multihash) -> Result<Option<Dataset>, StoreError> {
        Ok(index::dataset(&self.index, root)?.map(|(_, dataset)| dataset))
    }

    /// Blocks behind `after` in the order of their hashes.
    ///
    /// # Errors
    /// If the index cannot be asked.
    pub fn blocks_after(
        &self,
        after: Option<&Multihash>,
        limit: u32,
    ) -> Result<Vec<Multihash>, StoreError> {
        index::blocks_after(&self.index, after, limit)
    }

    /// Blocks, and bytes of their records.
    ///
    /// # Errors
    /// If the index cannot be asked.
    pub fn counts(&self) -> Result<(u64, u64), StoreError> {
        index::counts(&self.index)
    }
}
