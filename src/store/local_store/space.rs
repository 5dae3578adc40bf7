//! Space: what the store takes on disk, the quota over it, and what is given back.

use super::{
    LocalStore, Removed, StoreError, StoreOptions,
    index::{self, Dead, Place},
    reading::is_put_at,
    record::HEADER_BYTES,
    recovery::pack_seed,
};
use barrow_wire::Multihash;

/// Blocks that are looked for at a time to make room: those that were not used for the longest time.
const EVICTABLE_MAX: u32 = 65_536;
/// The share of the quota that is made free at a time.
const EVICTION_SHARE: u64 = 64;
/// File systems give space back in pages.
const PAGE_BYTES: u64 = 4_096;
/// Space kept back, so that a full disk can still be told what to delete.
const RESERVE_BYTES_MAX: u64 = 16 << 20;
/// The share of the quota that a pack has at most.
const PACK_SHARE: u64 = 32;
/// The share of the quota that is kept back.
const RESERVE_SHARE: u64 = 16;
/// What a record lets the index and its log grow by until the next commit, at most: a leaf of each
/// of two tables, in both files.
const INDEX_BYTES: u64 = 4 * PAGE_BYTES;
/// What is set aside for the index is looked at again when it is more than this.
const EXACT_BYTES: u64 = 4 * INDEX_BYTES;
/// What a dataset's description takes.
pub(super) const DESCRIPTION_BYTES: u64 = 2 * PAGE_BYTES;

impl StoreOptions {
    /// A pack that has so many bytes is full. Giving one up takes the space of what it still has,
    /// which must be there within the quota.
    pub(super) fn full_pack_bytes(&self) -> u64 {
        let share = self.quota_bytes.map_or(u64::MAX, |quota| quota / PACK_SHARE);
        self.pack_bytes_max.min(share)
    }

    /// What may be filled.
    fn limit(&self) -> Option<u64> {
        self.quota_bytes.map(|quota| quota.saturating_sub(self.full_pack_bytes()))
    }

    /// What is kept back for deletions, and may be taken by what they need meanwhile.
    pub(super) fn reserve_bytes(&self) -> u64 {
        let share = self.quota_bytes.map(|quota| quota / RESERVE_SHARE);
        share.map_or(RESERVE_BYTES_MAX, |share| share.clamp(PAGE_BYTES, RESERVE_BYTES_MAX))
    }
}

/// Bytes on disk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    pub(super) packs: u64,
    /// Index, reserve and small files, when the index was committed last.
    rest: u64,
    /// What they may have grown by since.
    growth: u64,
}

impl LocalStore {
    /// Looks what the packs take. Everything is synced.
    pub(super) fn measure(&mut self) -> Result<(), StoreError> {
        self.held.packs = 0;
        for number in self.medium.packs()? {
            self.held.packs += self.medium.read_pack(number)?.allocated()?;
        }
        Ok(())
    }

    /// Looks what all else takes. The index is committed.
    pub(super) fn measure_rest(&mut self) {
        self.held.rest = self.medium.other_bytes();
        self.held.growth = 0;
    }

    /// Bytes that the store takes on disk, index and all; at most, while a batch is open.
    pub const fn disk_bytes(&self) -> u64 {
        // The open pack ends within a page.
        self.held.packs + PAGE_BYTES + self.held.rest + self.held.growth
    }

    /// Does something that gives space back, with the reserve if there is no other space.
    pub(super) fn on_reserve<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.medium.set_reserve(false);
        let done = act(self);
        let growth = self.held.growth;
        self.measure_rest();
        let needed = self.disk_bytes() + self.options.reserve_bytes();
        if self.options.quota_bytes.is_none_or(|quota| needed <= quota) {
            self.medium.set_reserve(true);
            self.measure_rest();
        }
        self.held.growth = growth;
        done
    }

    /// Blocks that are forgotten between two commits: what that takes in the index's log, a page
    /// each, stays within what is free, or within the reserve, which is free meanwhile.
    pub(super) fn deletion_batch(&self) -> usize {
        let quota = self.options.quota_bytes.unwrap_or(u64::MAX);
        let free = self.medium.free_bytes().min(quota.saturating_sub(self.disk_bytes()));
        let most = free.max(self.options.reserve_bytes()) / (2 * PAGE_BYTES);
        usize::try_from(most).unwrap_or(usize::MAX).clamp(1, self.recent.rows_max())
    }

    /// Frees cache until a record of so many bytes fits the quota.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<(), StoreError> {
        let Some(limit) = self.options.limit() else { return Ok(()) };
        self.held.growth += INDEX_BYTES;
        while self.disk_bytes() + bytes > limit {
            if self.held.growth > EXACT_BYTES {
                // The index took less than was set aside for it.
                self.commit()?;
                self.measure_rest();
            } else {
                let over = self.disk_bytes() + bytes - limit;
                self.evict(over.max(limit / EVICTION_SHARE))?;
            }
            self.held.growth += INDEX_BYTES;
        }
        Ok(())
    }

    /// Forgets cache of so many bytes, or as much as can be in one go: some more than is needed,
    /// so that the next block need not wait for a sync as well.
    fn evict(&mut self, bytes: u64) -> Result<(), StoreError> {
        if self.evictable.is_empty() {
            self.commit()?;
            self.evictable = index::unreferenced(&self.index, EVICTABLE_MAX)?.into();
        }
        let had_none = self.evictable.is_empty();
        let settled = |held: Held| held.packs + held.rest;
        let held_before = settled(self.held);
        self.on_reserve(|store| {
            let (mut removed, mut left) = (Removed::default(), store.deletion_batch());
            while removed.bytes < bytes
                && left > 0
                && let Some((hash, used)) = store.evictable.pop_front()
            {
                if store.is_evictable(&hash, used)? {
                    store.delete(&hash, &mut removed)?;
                    left -= 1;
                }
            }
            store.sync()?;
            store.compact()
        })?;
        if had_none && settled(self.held) >= held_before {
            return Err(StoreError::OverQuota);
        }
        Ok(())
    }

    /// Whether what was found to be cache still is, and was not used since.
    fn is_evictable(&self, hash: &Multihash, used: u32) -> Result<bool, StoreError> {
        let is_unused = self.row(hash)?.is_some_and(|row| row.used == used);
        Ok(is_unused
            && !self.recent.has_ref(hash)
            && index::is_dead(&self.index, Dead::Unreferenced, hash)?)
    }

    /// Gives the space of forgotten blocks back, as far as whole pages go. Where that cannot be
    /// done the space stays taken, and nothing else is wrong.
    pub(super) fn give_back(&mut self) {
        // The piece that is being filled will be written again, over any hole in it.
        let (number, piece) = (self.pack.number, self.pack.staged_from);
        let is_settled =
            |(_, place): &(Multihash, Place)| place.pack != number || place.offset < piece;
        let (mut freed, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.freed).into_iter().partition(is_settled);
        self.freed = later;
        freed.sort_unstable_by_key(|(_, place)| (place.pack, place.offset));
        for places in freed.chunk_by(|(_, a), (_, b)| a.pack == b.pack) {
            self.give_back_of(places);
        }
    }

    /// Gives space of one pack back: only where the record at that very place is the one that was
    /// forgotten. Where the index was wrong about it, something else lies there, and stays.
    fn give_back_of(&mut self, places: &[(Multihash, Place)]) {
        let Some(&(_, Place { pack: number, .. })) = places.first() else { return };
        let Ok(file) = self.medium.open_pack(number) else { return };
        let Ok(Some(seed)) = pack_seed(&*self.medium, number, &*file) else { return };
        let (compared, other): (Vec<_>, Vec<_>) =
            places.iter().partition(|(hash, place)| is_put_at(&*file, seed, hash, *place));
        if !other.is_empty() {
            log::error!("{} forgotten blocks are not where pack {number} has them", other.len());
        }
        let places: Vec<Place> = compared.into_iter().map(|&(_, place)| place).collect();
        // Neighbours go as one: small blocks have no page of their own.
        for range in places.chunk_by(|a, b| a.offset + a.record_bytes() == b.offset) {
            let (Some(first), Some(last)) = (range.first(), range.last()) else { continue };
            // The first header stays, to tell where the next record is.
            let start = first.offset + HEADER_BYTES as u64;
            let start = start.next_multiple_of(PAGE_BYTES);
            let end = last.offset + last.record_bytes();
            let end = end - end % PAGE_BYTES;
            if start >= end {
                continue;
            }
            match file.punch(start..end) {
                Ok(()) => self.held.packs = self.held.packs.saturating_sub(end - start),
                Err(error) => log::debug!("space of pack {number} is not given back: {error}"),
            }
        }
    }
}
