//! What is done about blocks that cannot be read as they should: nothing that could not be undone.

use super::{
    LocalStore, StoreError,
    index::{self, Place, Row},
    pack::FIRST_RECORD,
    reading::{Seen, is_put_at, read_put},
    record::{HEADER_BYTES, Header, Kind},
    recovery::{no_header, pack_seed},
    scan::Headers,
};
use crate::data::block::Block;
use barrow_wire::{Multihash, limits::BLOCK_BYTES_MAX};
use std::collections::BTreeMap;

/// Rows of a pack that are compared with it at a time.
const COMPARED_ROWS: u32 = 4_096;

impl LocalStore {
    /// Stops serving a block whose bytes differ from their checksum, after looking once more.
    /// Nothing is written but that: its bytes and its references stay until a verified replacement
    /// is synced, or until the datasets that refer to it are removed.
    ///
    /// # Errors
    /// If the index cannot be written.
    pub fn quarantine(&mut self, hash: &Multihash) -> Result<(), StoreError> {
        self.begin()?;
        // A replacement may have come since it was read.
        if let Some(row) = self.row(hash)?.filter(|row| !row.is_quarantined)
            && matches!(self.see(hash, row.place)?, Seen::Damaged)
        {
            self.recent.set(hash, Some(Row { is_quarantined: true, ..row }));
            self.has_changed = true;
        }
        Ok(())
    }

    /// Serves a quarantined block again, if its bytes match their checksum now: what was read
    /// before was wrong, and not what the drive holds.
    ///
    /// # Errors
    /// If the index cannot be written.
    pub fn release(&mut self, hash: &Multihash) -> Result<(), StoreError> {
        self.begin()?;
        if let Some(row) = self.row(hash)?.filter(|row| row.is_quarantined)
            && matches!(self.see(hash, row.place)?, Seen::Sound)
        {
            self.recent.set(hash, Some(Row { is_quarantined: false, ..row }));
            self.has_changed = true;
        }
        Ok(())
    }

    /// Whether the store has these very bytes, sound: what is put again is compared with them before
    /// it counts as stored.
    pub(super) fn holds(&self, block: &Block, row: Row) -> bool {
        let place = row.place;
        if row.is_quarantined || place.len as usize != block.len() {
            return false;
        }
        // What is still in memory was taken from a verified block, and is not in the file yet.
        if place.pack == self.pack.number
            && place.offset + place.record_bytes() > self.pack.written()
        {
            return true;
        }
        matches!(self.see(block.hash(), place), Ok(Seen::Sound))
    }

    /// Reads what the writer has not got in memory.
    fn see(&self, hash: &Multihash, place: Place) -> Result<Seen, StoreError> {
        if place.len as usize > BLOCK_BYTES_MAX {
            return Ok(Seen::Misplaced);
        }
        let file = match self.medium.read_pack(place.pack) {
            Ok(file) => file,
            Err(error) => return Ok(Seen::Unreadable(error)),
        };
        let seed = match pack_seed(&*self.medium, place.pack, &*file) {
            Ok(Some(seed)) => seed,
            Ok(None) => return Ok(Seen::Unreadable(no_header())),
            Err(StoreError::Io(error)) => return Ok(Seen::Unreadable(error)),
            Err(error) => return Err(error),
        };
        let mut record = vec![0; HEADER_BYTES + place.len as usize];
        Ok(match read_put(&*file, seed, (hash, place), &mut record) {
            // A checksum of 64 bits may hold for bytes that the hash refuses.
            Seen::Sound if hash.code().is_computed() && !hash.verifies(&record[HEADER_BYTES..]) => {
                Seen::Damaged
            }
            seen @ (Seen::Sound | Seen::Damaged | Seen::Misplaced | Seen::Unreadable(_)) => seen,
        })
    }

    /// Corrects what the index says of a pack by the pack itself, as both were found to disagree.
    /// A row that leads to no record of its block is pointed at the newest one that the pack has,
    /// and dropped only if it has none; the references stay. The whole index is made anew at the
    /// next start, because what was wrong once may be wrong elsewhere.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] while the pack cannot be read whole: then nothing is changed.
    pub fn correct_pack(&mut self, number: u32) -> Result<(), StoreError> {
        self.commit()?;
        let file = self.medium.read_pack(number).map_err(StoreError::Unreadable)?;
        let seed = match pack_seed(&*self.medium, number, &*file) {
            Ok(seed) => seed.ok_or_else(|| StoreError::Unreadable(no_header()))?,
            Err(StoreError::Io(error)) => return Err(StoreError::Unreadable(error)),
            Err(error) => return Err(error),
        };
        let mut after = None;
        loop {
            let hashes = index::blocks_of(&self.index, number, after.as_ref(), COMPARED_ROWS)?;
            let Some(last) = hashes.last() else { break };
            after = Some(*last);
            let mut wrong = BTreeMap::new();
            for hash in &hashes {
                if let Some(row) = self.row(hash)?
                    && !is_put_at(&*file, seed, hash, row.place)
                {
                    wrong.insert(*hash, None);
                }
            }
            if wrong.is_empty() {
                continue;
            }
            let end = file.size().map_err(StoreError::Unreadable)?;
            let mut headers = Headers::new(&*file, seed, FIRST_RECORD, end);
            while let Some((offset, header)) = headers.next()? {
                if let (Kind::Put, Some(hash)) = (header.kind, header.hash)
                    && let Some(place) = wrong.get_mut(&hash)
                {
                    *place = Some(Place { pack: number, offset, len: header.len });
                }
            }
            if headers.is_unreadable() {
                return Err(StoreError::Unreadable(std::io::Error::other(
                    "a part of the pack cannot be read",
                )));
            }
            self.correct_rows(&wrong)?;
        }
        self.doubt_index();
        self.commit()
    }

    /// Notes that no record of a block is left. Which datasets refer to it is written once more: the
    /// record that said so is the one that cannot be found.
    fn note_unfound(&mut self, hash: &Multihash) -> Result<(), StoreError> {
        for dataset in index::refs_of(&self.index, hash)? {
            self.append(&Header::new(Kind::Reference, dataset, Some(*hash), &[]), &[])?;
        }
        self.note_damaged(*hash);
        Ok(())
    }

    fn correct_rows(
        &mut self,
        wrong: &BTreeMap<Multihash, Option<Place>>,
    ) -> Result<(), StoreError> {
        self.begin()?;
        for (hash, place) in wrong {
            let Some(row) = self.row(hash)? else { continue };
            self.tally.remove(row.place);
            self.recent.set(hash, place.map(|place| Row { place, ..row }));
            match place {
                Some(place) => self.tally.add(*place),
                None => self.note_unfound(hash)?,
            }
        }
        self.has_changed = true;
        log::error!("the index was wrong about {} blocks of a pack", wrong.len());
        self.commit()
    }
}
