//! Packs that hold mostly what is forgotten are given up: what they still have goes to the open
//! pack first.
//!
//! A record that is moved comes to stand behind all others, so moving must not change what a
//! reading of all packs from the first on gives. A block that is here has no deletion behind it.
//! A dataset's id is never used again. A deletion is moved only while its block is not here, and
//! only while an older pack may hold what it deletes.

use super::{
    LocalStore, StoreError,
    index::{self, Place, Row},
    medium::PackFile,
    pack::FIRST_RECORD,
    recent::Change,
    record::{HEADER_BYTES, Header, Kind},
    recovery::pack_seed,
    scan::Headers,
};
use barrow_wire::{Cid, Codec, Multihash};

/// A pack is given up when less than this share of the space it takes is of use, in percent.
const LIVE_PERCENT_MIN: u64 = 70;
/// Damaged blocks that are remembered until somebody asks for them; of more, `verify` tells.
const DAMAGED_MAX: usize = 256;
/// Space that is not worth the work, as a share of a whole pack.
const WASTE_SHARE_MIN: u64 = 1_024;

impl LocalStore {
    /// Gives up packs that hold mostly what is forgotten. Everything is synced before.
    pub(super) fn compact(&mut self) -> Result<(), StoreError> {
        for number in self.medium.packs()? {
            if self.unread.contains(&number) {
                continue;
            }
            let file = self.medium.read_pack(number)?;
            let allocated = file.allocated()?;
            let live = self.tally.packs.get(&number).map_or(0, |pack| pack.live);
            let waste = allocated.saturating_sub(live);
            let fits =
                self.options.quota_bytes.is_none_or(|quota| self.disk_bytes() + live <= quota);
            if waste < self.options.full_pack_bytes() / WASTE_SHARE_MIN
                || live * 100 >= allocated * LIVE_PERCENT_MIN
                || !fits
            {
                continue;
            }
            if number == self.pack.number {
                self.next_pack()?;
            }
            let Ok(Some(seed)) = pack_seed(&*self.medium, number, &*file) else { continue };
            self.give_up(number, seed, &*file)?;
        }
        Ok(())
    }

    /// Moves what a pack still has to the open pack, and removes it. It stays where anything about it
    /// is in doubt: where the drive does not return all of it, or where its records are not those
    /// that the index knows of. What was moved by then is where the index says, and does no harm.
    fn give_up(&mut self, number: u32, seed: u64, file: &dyn PackFile) -> Result<(), StoreError> {
        if !self.agrees_with_index(number, seed, file)? {
            return Ok(());
        }
        let is_oldest = self.medium.packs()?.first() == Some(&number);
        let end = self.tally.packs.get(&number).map_or(0, |pack| pack.indexed);
        let mut headers = Headers::new(file, seed, FIRST_RECORD, end);
        let mut payload = Vec::new();
        while let Some((offset, header)) = headers.next()? {
            self.make_batch_room()?;
            let place = Place { pack: number, offset, len: header.len };
            if !self.is_needed(&header, place, is_oldest)? {
                self.keep_reference(&header)?;
                continue;
            }
            payload.clear();
            payload.extend_from_slice(headers.payload(offset, &header)?);
            if headers.is_unreadable() {
                return self.leave_unread(number);
            }
            if !header.matches(&payload)
                && file.read_fresh_at(&mut payload, offset + HEADER_BYTES as u64).is_err()
            {
                return self.leave_unread(number);
            }
            self.move_record(&header, &payload, place)?;
        }
        // The old pack goes only when the new places are there for good, and the index forgets it
        // only after that: one that still knows it is made anew at the next start.
        self.sync()?;
        if self.tally.packs.get(&number).is_some_and(|pack| pack.live > 0) {
            log::error!("pack {number} stays: not all that the index has in it was found");
            return Ok(());
        }
        self.medium.remove_pack(number)?;
        // Had it come back after the index forgot it, so would what was deleted.
        self.sync_names()?;
        self.measure()?;
        self.begin()?;
        self.tally.packs.remove(&number);
        self.change(Change::DropPack(number))?;
        self.commit()
    }

    /// Whether the records of a pack that are of use are as many bytes as the index has in it. A row
    /// that is missing, or wrong in any field, shows as a difference; the pack is right then, and
    /// giving it up by such an index would lose what a rebuild of the index finds.
    fn agrees_with_index(
        &mut self,
        number: u32,
        seed: u64,
        file: &dyn PackFile,
    ) -> Result<bool, StoreError> {
        let known = self.tally.packs.get(&number).copied().unwrap_or_default();
        let mut headers = Headers::new(file, seed, FIRST_RECORD, known.indexed);
        let mut found = 0;
        while let Some((offset, header)) = headers.next()? {
            let place = Place { pack: number, offset, len: header.len };
            if header.kind == Kind::Put && self.is_needed(&header, place, false)? {
                found += header.record_bytes();
            }
        }
        if headers.is_unreadable() {
            self.leave_unread(number)?;
            return Ok(false);
        }
        if found != known.live {
            log::error!(
                "pack {number} stays: it has {found} bytes of use, and the index says {}",
                known.live
            );
            self.correct_pack(number)?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Leaves a pack alone until the store is opened again, as the drive does not return all of it.
    fn leave_unread(&mut self, number: u32) -> Result<(), StoreError> {
        log::error!("pack {number} stays: the drive does not return all of it now");
        self.unread.insert(number);
        self.sync()
    }

    pub(super) fn note_damaged(&mut self, hash: Multihash) {
        let name = Cid::v1(Codec::Raw, hash);
        log::error!("block {name} is damaged on disk; it is no longer served");
        if self.damaged.len() < DAMAGED_MAX {
            self.damaged.push(hash);
        }
    }

    /// Blocks that were found damaged since this was last called, though nobody read them.
    pub fn take_damaged(&mut self) -> Vec<Multihash> {
        std::mem::take(&mut self.damaged)
    }

    /// A put says who refers to a block, which holds for as long as there is that dataset: also when
    /// the block was found damaged, and comes back in another record.
    fn keep_reference(&mut self, header: &Header) -> Result<(), StoreError> {
        let Some(hash) = header.hash.filter(|_| header.kind == Kind::Put) else { return Ok(()) };
        if self.has_dataset(header.dataset)? {
            self.append(&Header::new(Kind::Reference, header.dataset, Some(hash), &[]), &[])?;
        }
        Ok(())
    }

    fn has_dataset(&self, id: u64) -> Result<bool, StoreError> {
        Ok(self.open_datasets.contains_key(&id) || index::has_dataset(&self.index, id)?)
    }

    fn is_needed(
        &self,
        header: &Header,
        place: Place,
        is_oldest: bool,
    ) -> Result<bool, StoreError> {
        let here = |hash| self.row(hash).map(|row| row.map(|row| row.place));
        Ok(match (header.kind, &header.hash) {
            (Kind::Put, Some(hash)) => here(hash)? == Some(place),
            (Kind::Delete, Some(hash)) => !is_oldest && here(hash)?.is_none(),
            (Kind::Reference, Some(_)) | (Kind::Dataset, _) => self.has_dataset(header.dataset)?,
            (Kind::Forget, _) => !is_oldest,
            (Kind::Put | Kind::Delete | Kind::Reference, None) => false,
        })
    }

    fn move_record(
        &mut self,
        header: &Header,
        payload: &[u8],
        from: Place,
    ) -> Result<(), StoreError> {
        // A damaged block is moved as it is, with the checksum that it had: it stays damaged, and
        // its bytes stay until a replacement is synced.
        let is_damaged = header.kind == Kind::Put && !header.matches(payload);
        if header.kind == Kind::Dataset && self.is_old_description(header, payload)? {
            return Ok(());
        }
        let offset = self.append(header, payload)?;
        if let (Kind::Put, Some(hash)) = (header.kind, &header.hash) {
            let to = Place { pack: self.pack.number, offset, len: header.len };
            let before = self.row(hash)?;
            let used = before.map_or(0, |row| row.used);
            if is_damaged && before.is_some_and(|row| !row.is_quarantined) {
                self.note_damaged(*hash);
            }
            self.recent.set(hash, Some(Row { place: to, used, is_quarantined: is_damaged }));
            self.has_moved = true;
            self.tally.remove(from);
            self.tally.add(to);
        }
        Ok(())
    }

    /// Whether a description of a dataset is not the one that is known now.
    fn is_old_description(&self, header: &Header, payload: &[u8]) -> Result<bool, StoreError> {
        Ok(index::description(&self.index, header.dataset)?.is_none_or(|now| now != payload))
    }
}
