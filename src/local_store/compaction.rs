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

/// A pack is given up when less than this share of the space it takes is of use, in percent.
const LIVE_PERCENT_MIN: u64 = 70;
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
            }
        }
        // The old pack goes only when the new places are there for good, and the index forgets it
        // only after that: one that still knows it is made anew at the next start.
        self.sync()?;
        self.medium.remove_pack(number)?;
        self.measure()?;
        self.begin()?;
        self.tally.packs.remove(&number);
        self.change(Change::DropPack(number))?;
        self.commit()
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
            (Kind::Reference, Some(_)) | (Kind::Dataset, _) => {
                index::has_dataset(&self.index, header.dataset)?
                    || self.open_datasets.contains_key(&header.dataset)
            }
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
                log::error!("block {hash:?} is damaged on disk; it is no longer served");
                self.recent.set(hash, None);
                self.has_changed = true;
                self.tally.remove(from);
            }
            return Ok(());
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
