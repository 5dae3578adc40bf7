//! Space: what the packs take on disk, the quota over it, and what is given back.

use super::{
    LocalStore, Removed, StoreError, index, index::Place, medium::PackFile, record::HEADER_BYTES,
};

/// Blocks of cache forgotten at a time to make room, at most.
const EVICTION_BATCH: u32 = 4_096;
/// The share of the quota that is made free at a time.
const EVICTION_SHARE: u64 = 64;
/// File systems give space back in pages.
const PAGE_BYTES: u64 = 4_096;

impl LocalStore {
    /// Looks what the packs take. Everything is synced.
    pub(super) fn measure(&mut self) -> Result<(), StoreError> {
        self.held_bytes = 0;
        for number in self.medium.packs()? {
            self.held_bytes += self.medium.read_pack(number)?.allocated()?;
        }
        Ok(())
    }

    /// Does something that gives space back, with the reserve if there is no other space.
    pub(super) fn on_reserve<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.medium.set_reserve(false);
        let done = act(self);
        self.medium.set_reserve(true);
        done
    }

    /// Frees cache until `bytes` more fit the quota.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<(), StoreError> {
        let Some(quota) = self.options.quota_bytes else { return Ok(()) };
        while self.held_bytes + bytes > quota {
            let orphans = index::unreferenced(&self.index, EVICTION_BATCH)?;
            let held_before = self.held_bytes;
            // Some more than is needed, so that the next block need not wait for a sync as well.
            let wanted = (self.held_bytes + bytes - quota).max(quota / EVICTION_SHARE);
            let mut removed = Removed::default();
            for hash in &orphans {
                if removed.bytes < wanted {
                    self.delete(hash, &mut removed)?;
                }
            }
            self.sync()?;
            self.compact()?;
            self.begin()?;
            if orphans.is_empty() && self.held_bytes >= held_before {
                return Err(StoreError::OverQuota);
            }
        }
        Ok(())
    }

    /// Gives the space of forgotten blocks back, as far as whole pages go. Where that cannot be
    /// done the space stays taken, and nothing else is wrong.
    pub(super) fn give_back(&mut self) {
        // The piece that is being filled will be written again, over any hole in it.
        let (number, piece) = (self.pack.number, self.pack.staged_from);
        let is_settled = |place: &Place| place.pack != number || place.offset < piece;
        let (mut freed, later) = std::mem::take(&mut self.freed).into_iter().partition(is_settled);
        self.freed = later;
        let freed: &mut Vec<Place> = &mut freed;
        freed.sort_unstable_by_key(|place| (place.pack, place.offset));
        // Neighbours go as one: small blocks have no page of their own.
        let ranges =
            freed.chunk_by(|a, b| a.pack == b.pack && a.offset + a.record_bytes() == b.offset);
        let mut open: Option<(u32, Box<dyn PackFile>)> = None;
        for range in ranges {
            let (Some(first), Some(last)) = (range.first(), range.last()) else { continue };
            // The first header stays, to tell where the next record is.
            let start = first.offset + HEADER_BYTES as u64;
            let start = start.next_multiple_of(PAGE_BYTES);
            let end = last.offset + last.record_bytes();
            let end = end - end % PAGE_BYTES;
            if start >= end {
                continue;
            }
            if open.as_ref().is_none_or(|(number, _)| *number != first.pack) {
                open = self.medium.open_pack(first.pack).ok().map(|file| (first.pack, file));
            }
            let Some((number, file)) = &open else { continue };
            match file.punch(start..end) {
                Ok(()) => self.held_bytes = self.held_bytes.saturating_sub(end - start),
                Err(error) => log::debug!("space of pack {number} is not given back: {error}"),
            }
        }
    }
}
