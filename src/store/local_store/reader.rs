//! Reading beside the writer: a place from the index, then one read of the pack.

use super::{
    Dataset, StoreError,
    index::{self, Place},
    medium::{Index, Medium, PackFile, is_unreadable},
    recent::Published,
    record::{HEADER_BYTES, Header, Kind},
    recovery::pack_seed,
};
use crate::{base::pool::Pool, data::block::Block};
use barrow_wire::{Multihash, Presence};
use std::{io, sync::Arc};

/// Packs that a reader keeps open.
const OPEN_PACKS_MAX: usize = 32;

/// One who reads, with a connection to the index of its own.
pub struct StoreReader {
    medium: Arc<dyn Medium>,
    index: Index,
    recent: Published,
    open: Vec<(u32, OpenedPack)>,
}

struct OpenedPack {
    file: Box<dyn PackFile>,
    seed: u64,
}

impl StoreReader {
    pub(super) fn open(medium: Arc<dyn Medium>, recent: Published) -> Result<Self, StoreError> {
        let index = medium.read_index()?;
        Ok(Self { medium, index, recent, open: Vec::new() })
    }

    fn place(&self, hash: &Multihash) -> Result<Option<Place>, StoreError> {
        Ok(self.recent.row(&self.index, hash)?.map(|row| row.place))
    }

    /// The block, if it is here and its checksum holds. Waits while the pool has no buffer.
    ///
    /// # Errors
    /// If the index or the pack cannot be read. Damage is no error: see [`Self::is_damaged`].
    pub fn get(&mut self, hash: &Multihash, pool: &Pool) -> Result<Option<Block>, StoreError> {
        let mut place = self.place(hash)?;
        while let Some(at) = place {
            if let Some(block) = self.read(hash, at, pool)? {
                return Ok(Some(block));
            }
            // It may have moved to another pack since it was looked up.
            place = self.place(hash)?.filter(|now| *now != at);
        }
        Ok(None)
    }

    /// Whether the index knows the block and its bytes are not what was stored.
    ///
    /// # Errors
    /// If the index or the pack cannot be read.
    pub fn is_damaged(&mut self, hash: &Multihash, pool: &Pool) -> Result<bool, StoreError> {
        Ok(self.place(hash)?.is_some() && self.get(hash, pool)?.is_none())
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
        let Some(pack) = self.pack(place.pack)? else { return Ok(None) };
        match pack.file.read_at(record, place.offset) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            // A sector that cannot be read is damage like any other.
            Err(error) if is_unreadable(&error) => {
                log::error!("pack {} cannot be read at {}: {error}", place.pack, place.offset);
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        let (header, payload) = record.split_first_chunk().expect("a header was read");
        let sound = Header::from_bytes(header, pack.seed).is_some_and(|header| {
            header.kind == Kind::Put && header.hash == Some(*hash) && header.matches(payload)
        });
        if !sound {
            return Ok(None);
        }
        Ok(Some(Block::from_store(*hash, buffer.freeze(HEADER_BYTES..HEADER_BYTES + len))))
    }

    fn pack(&mut self, number: u32) -> Result<Option<&OpenedPack>, StoreError> {
        if let Some(at) = self.open.iter().position(|(open, _)| *open == number) {
            return Ok(Some(&self.open[at].1));
        }
        let file = match self.medium.read_pack(number) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(seed) = pack_seed(&*file)? else { return Ok(None) };
        if self.open.len() == OPEN_PACKS_MAX {
            self.open.remove(0);
        }
        self.open.push((number, OpenedPack { file, seed }));
        Ok(self.open.last().map(|(_, pack)| pack))
    }

    /// What is here of a block.
    ///
    /// # Errors
    /// If the index cannot be asked.
    pub fn presence(&self, hash: &Multihash) -> Result<Presence, StoreError> {
        let Some(place) = self.place(hash)? else {
            return Ok(Presence::DontHave);
        };
        let len = place.len;
        let complete =
            index::dataset(&self.index, hash)?.is_some_and(|(_, dataset)| dataset.is_whole());
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

    /// Datasets whose pin has ended by then, the oldest first.
    ///
    /// # Errors
    /// If the index cannot be asked.
    pub fn expired(&self, now: u64) -> Result<Vec<Dataset>, StoreError> {
        index::expired(&self.index, now)
    }

    /// The datasets that refer to a block, the oldest first.
    ///
    /// # Errors
    /// If the index cannot be asked.
    pub fn datasets_of(&self, hash: &Multihash) -> Result<Vec<Dataset>, StoreError> {
        index::datasets_of(&self.index, hash)
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
