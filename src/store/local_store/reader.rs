//! Reading beside the writer: a place from the index, then one read of the pack.

use super::{
    Dataset, StoreError,
    index::{self, Place, Row},
    medium::{Index, Medium, PackFile},
    reading::{Reading, Seen, read_put},
    recent::Published,
    record::HEADER_BYTES,
    recovery::{no_header, pack_seed},
};
use crate::{
    base::pool::{Buffer, Pool},
    data::block::Block,
};
use barrow_wire::{Multihash, Presence, limits::BLOCK_BYTES_MAX};
use std::sync::Arc;

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

    fn row(&self, hash: &Multihash) -> Result<Option<Row>, StoreError> {
        self.recent.row(&self.index, hash)
    }

    /// Returns the block, if it is here, is not quarantined, and its checksum holds. Waits while the
    /// pool has no buffer.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] and [`StoreError::Misplaced`], or if the index cannot be read.
    /// Damage is not an error: the block is not here.
    pub fn get(&mut self, hash: &Multihash, pool: &Pool) -> Result<Option<Block>, StoreError> {
        if self.row(hash)?.is_some_and(|row| row.is_quarantined) {
            return Ok(None);
        }
        match self.read(hash, pool)? {
            Reading::Found(block) => Ok(Some(block)),
            Reading::Absent | Reading::Damaged => Ok(None),
            Reading::Unreadable(error) => Err(StoreError::Unreadable(error)),
            Reading::Misplaced(pack) => Err(StoreError::Misplaced(pack)),
        }
    }

    /// Whether a block is known to be damaged, and is not served.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn is_quarantined(&self, hash: &Multihash) -> Result<bool, StoreError> {
        Ok(self.row(hash)?.is_some_and(|row| row.is_quarantined))
    }

    /// Reads a block, quarantined or not, and says what came of it. Waits while the pool has no
    /// buffer.
    ///
    /// # Errors
    /// If the index cannot be read, or a pack is of a newer format.
    pub fn read(&mut self, hash: &Multihash, pool: &Pool) -> Result<Reading, StoreError> {
        let Some(len) = self.len_to_read(hash)? else { return Ok(Reading::Absent) };
        self.read_into(hash, pool.take(len))
    }

    /// Bytes that the buffer for a block must have room for; `None` if the store does not have it.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn len_to_read(&self, hash: &Multihash) -> Result<Option<usize>, StoreError> {
        // A length that no block has is found out when the record is read.
        Ok(self.row(hash)?.map(|row| (row.place.len as usize).min(BLOCK_BYTES_MAX)))
    }

    /// As [`Self::read`], into a buffer of [`Self::len_to_read`]: so that nobody waits for memory
    /// who holds a reader.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_into(
        &mut self,
        hash: &Multihash,
        mut buffer: Buffer,
    ) -> Result<Reading, StoreError> {
        let mut row = self.row(hash)?;
        while let Some(at) = row {
            let seen = self.see(hash, at.place, &mut buffer)?;
            if let Seen::Sound = seen {
                let len = at.place.len as usize;
                let bytes = buffer.freeze(HEADER_BYTES..HEADER_BYTES + len);
                return Ok(Reading::Found(Block::from_store(*hash, bytes)));
            }
            // It may have moved to another pack since it was looked up.
            row = self.row(hash)?;
            if row.is_none_or(|now| now.place != at.place) {
                continue;
            }
            return Ok(match seen {
                Seen::Damaged => Reading::Damaged,
                Seen::Sound | Seen::Misplaced => Reading::Misplaced(at.place.pack),
                Seen::Unreadable(error) => Reading::Unreadable(error),
            });
        }
        Ok(Reading::Absent)
    }

    fn see(
        &mut self,
        hash: &Multihash,
        place: Place,
        buffer: &mut Buffer,
    ) -> Result<Seen, StoreError> {
        let end = HEADER_BYTES + place.len as usize;
        let Some(record) = buffer.as_mut().get_mut(..end) else { return Ok(Seen::Misplaced) };
        let pack = match self.pack(place.pack) {
            Ok(pack) => pack,
            Err(StoreError::Io(error)) => return Ok(Seen::Unreadable(error)),
            Err(error) => return Err(error),
        };
        let seen = read_put(&*pack.file, pack.seed, (hash, place), record);
        if let Seen::Unreadable(_) = seen {
            // A file that was replaced, or a drive that came back, is only seen by opening it again.
            self.open.retain(|(open, _)| *open != place.pack);
        }
        Ok(seen)
    }

    /// The pack, opened; fails with [`StoreError::Io`] while it cannot be.
    fn pack(&mut self, number: u32) -> Result<&OpenedPack, StoreError> {
        let at = match self.open.iter().position(|(open, _)| *open == number) {
            Some(at) => at,
            None => {
                let file = self.medium.read_pack(number)?;
                let seed = pack_seed(&*self.medium, number, &*file)?.ok_or_else(no_header)?;
                if self.open.len() == OPEN_PACKS_MAX {
                    self.open.remove(0);
                }
                self.open.push((number, OpenedPack { file, seed }));
                self.open.len() - 1
            }
        };
        Ok(&self.open[at].1)
    }

    /// What is here of a block.
    ///
    /// # Errors
    /// If the index cannot be asked.
    pub fn presence(&self, hash: &Multihash) -> Result<Presence, StoreError> {
        let row = self.row(hash)?.filter(|row| !row.is_quarantined);
        let Some(Row { place: Place { len, .. }, .. }) = row else {
            return Ok(Presence::DontHave);
        };
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
