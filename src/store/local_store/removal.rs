//! Removal: what nobody keeps is forgotten, and its space given back.
//!
//! Each block that goes costs a record of its own, and on a full disk there is only the reserve for
//! them. So blocks that lie near to each other go in the order in which they lie: neighbours free
//! whole pages together, which is more than their records take.

use super::{
    Dataset, LocalStore, StoreError,
    index::{self, Dead, Place},
    recent::Change,
    record::{HEADER_BYTES, Header, Kind},
    recovery::pack_seed,
    scan::Headers,
};
use barrow_wire::{Cid, Multihash};
use std::collections::BTreeMap;

/// Dead blocks of which one comes in so many bytes of a pack, or more, are found by reading through
/// it; others need no neighbours to give a page back, and go in the order of the index.
const DENSE_BYTES: u64 = 16 << 10;

/// What was given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Removed {
    /// Blocks that are no longer here.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Where in a pack dead blocks are.
struct Span {
    blocks: u64,
    /// Where the first of them begins, and the last.
    first: u64,
    last: u64,
}

impl Span {
    fn is_dense(&self) -> bool {
        self.last - self.first <= self.blocks * DENSE_BYTES
    }
}

impl LocalStore {
    /// Removes a dataset and the blocks that only it refers to; `None` if there is none.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn remove_dataset(&mut self, root: &Cid) -> Result<Option<Removed>, StoreError> {
        let Some(hash) = root.multihash() else { return Ok(None) };
        self.on_reserve(|store| {
            store.begin()?;
            let Some((id, _)) = index::dataset(&store.index, &hash)? else { return Ok(None) };
            let mut removed = Removed::default();
            store.append(&Header::new(Kind::Forget, id, None, &[]), &[])?;
            store.change(Change::Forget(id))?;
            // The dataset must be gone for good before the first of its blocks is.
            store.sweep(Dead::OnlyOf(id), &mut removed)?;
            store.change(Change::DropRefs(id))?;
            store.sync()?;
            store.compact()?;
            Ok(Some(removed))
        })
    }

    /// Gives up an unfinished dataset with the blocks that only it refers to.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn discard_dataset(&mut self, id: super::DatasetId) -> Result<Removed, StoreError> {
        self.on_reserve(|store| {
            let mut removed = Removed::default();
            store.sweep(Dead::OnlyOf(id.0), &mut removed)?;
            store.abandon_dataset(id)?;
            store.sync()?;
            store.compact()?;
            Ok(removed)
        })
    }

    /// Removes the datasets whose pin has ended by then.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn remove_expired(&mut self, now: u64) -> Result<Removed, StoreError> {
        let mut all = Removed::default();
        for dataset in index::expired(&self.index, now)? {
            let removed = self.remove_dataset(&dataset.info.root)?.unwrap_or_default();
            all.blocks += removed.blocks;
            all.bytes += removed.bytes;
        }
        Ok(all)
    }

    /// Removes datasets that are not pinned, or no longer, and all blocks that no dataset refers
    /// to.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn gc(&mut self) -> Result<Removed, StoreError> {
        self.on_reserve(|store| {
            store.begin()?;
            for dataset in index::datasets(&store.index)? {
                if !dataset.info.is_kept(store.now.into()) {
                    store.forget_root(&dataset)?;
                }
            }
            let mut removed = Removed::default();
            store.sweep(Dead::Unreferenced, &mut removed)?;
            store.compact()?;
            Ok(removed)
        })
    }

    fn forget_root(&mut self, dataset: &Dataset) -> Result<(), StoreError> {
        let Some(root) = dataset.root_hash() else { return Ok(()) };
        let Some((id, _)) = index::dataset(&self.index, &root)? else { return Ok(()) };
        self.forget(id)
    }

    /// Forgets all dead blocks, in as many commits as the reserve asks for.
    fn sweep(&mut self, dead: Dead, removed: &mut Removed) -> Result<(), StoreError> {
        self.sync()?;
        let spans = self.spans(dead)?;
        let dead_blocks: u64 = spans.values().map(|span| span.blocks).sum();
        let goal = removed.blocks + dead_blocks;
        for (pack, span) in &spans {
            if span.is_dense() {
                self.sweep_pack(*pack, span, dead, removed)?;
            }
        }
        // Where a head is damaged, the index alone tells of the block.
        if removed.blocks == goal {
            return Ok(());
        }
        let mut after = None;
        loop {
            let mut batch = Vec::new();
            let limit = u32::try_from(self.deletion_batch()).unwrap_or(u32::MAX);
            index::each_dead(&self.index, dead, after.as_ref(), Some(limit), |hash, _| {
                batch.push(hash);
            })?;
            let Some(last) = batch.last() else { return Ok(()) };
            after = Some(*last);
            for hash in &batch {
                self.delete(hash, removed)?;
            }
            self.sync()?;
        }
    }

    fn spans(&self, dead: Dead) -> Result<BTreeMap<u32, Span>, StoreError> {
        let mut spans = BTreeMap::new();
        index::each_dead(&self.index, dead, None, None, |_, place| {
            let (first, last) = (place.offset, place.offset);
            let span = spans.entry(place.pack).or_insert(Span { blocks: 0, first, last });
            span.blocks += 1;
            (span.first, span.last) = (span.first.min(first), span.last.max(last));
        })?;
        Ok(spans)
    }

    /// Forgets the dead blocks of a part of a pack, one behind the other.
    fn sweep_pack(
        &mut self,
        number: u32,
        span: &Span,
        dead: Dead,
        removed: &mut Removed,
    ) -> Result<(), StoreError> {
        let file = self.medium.read_pack(number)?;
        let Ok(Some(seed)) = pack_seed(&*self.medium, number, &*file) else { return Ok(()) };
        let end = span.last + HEADER_BYTES as u64;
        let mut headers = Headers::new(&*file, seed, span.first, end);
        let mut left = self.deletion_batch();
        while let Some((offset, header)) = headers.next()? {
            self.begin()?;
            let Some(hash) = header.hash.filter(|_| header.kind == Kind::Put) else { continue };
            let here = Place { pack: number, offset, len: header.len };
            if self.row(&hash)?.is_some_and(|row| row.place == here)
                && index::is_dead(&self.index, dead, &hash)?
            {
                self.delete(&hash, removed)?;
                left -= 1;
            }
            if left == 0 {
                self.sync()?;
                left = self.deletion_batch();
            }
        }
        self.sync()
    }

    pub(super) fn delete(
        &mut self,
        hash: &Multihash,
        removed: &mut Removed,
    ) -> Result<(), StoreError> {
        self.begin()?;
        if let Some(index::Row { place, .. }) = self.row(hash)? {
            self.append(&Header::new(Kind::Delete, 0, Some(*hash), &[]), &[])?;
            self.recent.set(hash, None);
            self.has_changed = true;
            self.tally.remove(place);
            self.freed.push((*hash, place));
            removed.blocks += 1;
            removed.bytes += u64::from(place.len);
        }
        Ok(())
    }
}
