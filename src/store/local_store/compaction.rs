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
    record::{Header, Kind},
    recovery::{Headers, pack_seed},
};
use barrow_wire::{Cid, Codec, Multihash};

/// A pack is given up when less than this share of the space it takes is of use, in percent.
const LIVE_PERCENT_MIN: u64 = 70;
/// Blocks that are forgotten at a time, as no record tells of them.
const UNFOUND_MAX: u32 = 4_096;
/// Damaged blocks that are remembered until somebody asks for them; of more, `verify` tells.
const DAMAGED_MAX: usize = 256;
/// Space that is not worth the work, as a share of a whole pack.
const WASTE_SHARE_MIN: u64 = 1_024;

impl LocalStore {
    /// Gives up packs that hold mostly what is forgotten. Everything is synced before.
    pub(super) fn compact(&mut self) -> Result<(), StoreError> {
        for number in self.medium.packs()? {
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
            let Some(seed) = pack_seed(&*file)? else { continue };
            self.give_up(number, seed, &*file)?;
        }
        Ok(())
    }

    fn give_up(&mut self, number: u32, seed: u64, file: &dyn PackFile) -> Result<(), StoreError> {
        let is_oldest = self.medium.packs()?.first() == Some(&number);
        let end = self.tally.packs.get(&number).map_or(0, |pack| pack.indexed);
        let mut headers = Headers::new(file, seed, FIRST_RECORD, end);
        while let Some((offset, header)) = headers.next()? {
            self.make_batch_room()?;
            let place = Place { pack: number, offset, len: header.len };
            if self.is_needed(&header, place, is_oldest)? {
                self.move_record(&header, headers.payload(offset, &header)?, place)?;
            } else {
                self.keep_reference(&header)?;
            }
        }
        self.forget_unfound(number)?;
        // The old pack goes only when the new places are there for good, and the index forgets it
        // only after that: one that still knows it is made anew at the next start.
        self.sync()?;
        self.medium.remove_pack(number)?;
        // Had it come back after the index forgot it, so would what was deleted.
        self.sync_names()?;
        self.measure()?;
        self.begin()?;
        self.tally.packs.remove(&number);
        self.change(Change::DropPack(number))?;
        self.commit()
    }

    /// Forgets the blocks that the index has in a pack and that no record of it tells of, as their
    /// heads are damaged: they would be looked for in a pack that is no more.
    fn forget_unfound(&mut self, number: u32) -> Result<(), StoreError> {
        while self.tally.packs.get(&number).is_some_and(|pack| pack.live > 0) {
            self.commit()?;
            let unfound = index::blocks_of(&self.index, number, UNFOUND_MAX)?;
            if unfound.is_empty() {
                return Ok(());
            }
            for hash in unfound {
                self.note_damaged(hash);
                self.delete_block(&hash)?;
            }
        }
        Ok(())
    }

    fn note_damaged(&mut self, hash: Multihash) {
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
        if header.kind == Kind::Put && !header.matches(payload) {
            // Damaged: left behind, it is no longer here.
            if let Some(hash) = &header.hash {
                self.note_damaged(*hash);
                self.recent.set(hash, None);
                self.has_changed = true;
                self.tally.remove(from);
            }
            return self.keep_reference(header);
        }
        if header.kind == Kind::Dataset && self.is_old_description(header, payload)? {
            return Ok(());
        }
        let offset = self.append(header, payload)?;
        if let (Kind::Put, Some(hash)) = (header.kind, &header.hash) {
            let to = Place { pack: self.pack.number, offset, len: header.len };
            let used = self.row(hash)?.map_or(0, |row| row.used);
            self.recent.set(hash, Some(Row { place: to, used }));
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
