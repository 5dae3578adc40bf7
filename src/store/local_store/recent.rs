//! What was put, moved and forgotten since the index was committed last.
//!
//! SQLite may undo a transaction at any moment, as on a full disk. The packs have by then what it
//! was to say, and are not read again before the next start: so all of it is kept here until it is
//! committed.
//!
//! Blocks come in no order of their hashes, so each that is written alone costs the index a page,
//! and its log another. Many at a time, and sorted, they share them. The packs have all of it, so
//! nothing is lost with this: what the index lacks is read there at the next start.

use super::{
    Dataset, StoreError,
    index::{self, Prefix, Row},
};
use barrow_wire::Multihash;
use parking_lot::RwLock;
use rusqlite::Connection;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Rows for each KiB of SQLite's page cache, at most. A row takes some 100 bytes, and its reference
/// 40.
const ROWS_PER_CACHE_KIB: usize = 32;
/// A change that describes a dataset takes the place of so many rows.
const ROWS_PER_CHANGE: usize = 8;
/// Rows at least, however small the cache.
const ROWS_MIN: usize = 8;

/// By hash; `None` of what is no longer here.
type Rows = BTreeMap<Multihash, Option<Row>>;

/// What readers see of it.
#[derive(Clone, Default)]
pub(super) struct Published(Arc<RwLock<Rows>>);

impl Published {
    /// Where a block is, for a reader. A row leaves here only when the index has it.
    pub(super) fn row(
        &self,
        index: &Connection,
        hash: &Multihash,
    ) -> Result<Option<Row>, StoreError> {
        let recent = self.0.read().get(hash).copied();
        recent.map_or_else(|| index::row(index, hash), Ok)
    }
}

/// What is done in the index at once, as much else asks for it.
pub(super) enum Change {
    /// A dataset is whole, or is described in another way; with the text of the packs.
    Describe(u64, Box<(Dataset, String)>),
    /// A dataset is no more.
    Forget(u64),
    /// A dataset refers to nothing any more.
    DropRefs(u64),
    /// A pack is no more.
    DropPack(u32),
}

impl Change {
    fn apply(&self, index: &Connection) -> Result<(), StoreError> {
        match self {
            Self::Describe(id, described) => {
                index::put_dataset(index, *id, &described.0, &described.1)
            }
            Self::Forget(id) => index::delete_dataset(index, *id),
            Self::DropRefs(id) => index::delete_refs(index, *id),
            Self::DropPack(number) => index::delete_pack(index, *number),
        }
    }
}

/// What the index does not have yet.
pub(super) struct Recent {
    /// Those that readers do not see.
    rows: Rows,
    published: Published,
    refs: BTreeSet<(Prefix, u64)>,
    /// What was done in the open transaction, or in one that was undone.
    changes: Vec<Change>,
    rows_max: usize,
}

impl Recent {
    /// Of a store whose connections to the index have a page cache of so many KiB.
    pub(super) fn new(cache_kib: usize) -> Self {
        let rows_max = cache_kib.saturating_mul(ROWS_PER_CACHE_KIB).max(ROWS_MIN);
        Self {
            rows: Rows::new(),
            published: Published::default(),
            refs: BTreeSet::new(),
            changes: Vec::new(),
            rows_max,
        }
    }

    pub(super) fn published(&self) -> Published {
        self.published.clone()
    }

    /// Rows that there are at most before the index has to be committed.
    pub(super) const fn rows_max(&self) -> usize {
        self.rows_max
    }

    pub(super) fn is_full(&self) -> bool {
        let published = self.published.0.read().len();
        self.rows.len() + published >= self.rows_max
            || self.refs.len() >= self.rows_max
            || self.changes.len() * ROWS_PER_CHANGE >= self.rows_max
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
            && self.refs.is_empty()
            && self.changes.is_empty()
            && self.published.0.read().is_empty()
    }

    /// Whether something was changed that is not committed: without an open transaction, it was
    /// undone.
    pub(super) const fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Changes the index in the open transaction.
    pub(super) fn change(&mut self, index: &Connection, change: Change) -> Result<(), StoreError> {
        if let Change::DropRefs(id) = change {
            self.refs.retain(|(_, other)| *other != id);
        }
        self.changes.push(change);
        let applied = self.changes.last().map_or(Ok(()), |change| change.apply(index));
        if applied.is_err() {
            // The rest of the transaction is not to be committed without it.
            index::roll_back(index);
        }
        applied
    }

    /// Does once more, in a new transaction, what was undone.
    pub(super) fn redo(&self, index: &Connection) -> Result<(), StoreError> {
        self.changes.iter().try_for_each(|change| change.apply(index))
    }

    /// Where a block is, for the writer.
    pub(super) fn row(
        &self,
        index: &Connection,
        hash: &Multihash,
    ) -> Result<Option<Row>, StoreError> {
        match self.rows.get(hash) {
            Some(row) => Ok(*row),
            None => self.published.row(index, hash),
        }
    }

    /// Notes where a block is now, or with `None` that it is no longer here.
    pub(super) fn set(&mut self, hash: &Multihash, row: Option<Row>) {
        self.rows.insert(*hash, row);
    }

    /// Notes when a block was last used.
    pub(super) fn touch(
        &mut self,
        index: &Connection,
        hash: &Multihash,
        used: u32,
    ) -> Result<(), StoreError> {
        if let Some(row) = self.row(index, hash)?.filter(|row| row.used < used) {
            self.set(hash, Some(Row { used, ..row }));
        }
        Ok(())
    }

    /// Notes that a dataset refers to a block; `false` if that was known.
    pub(super) fn add_ref(
        &mut self,
        index: &Connection,
        hash: &Multihash,
        dataset: u64,
    ) -> Result<bool, StoreError> {
        let prefix = index::prefix(hash);
        let is_new =
            !self.refs.contains(&(prefix, dataset)) && !index::has_ref(index, &prefix, dataset)?;
        if is_new {
            self.refs.insert((prefix, dataset));
        }
        Ok(is_new)
    }

    /// Whether a dataset refers to a block that the index does not know of yet.
    pub(super) fn has_ref(&self, hash: &Multihash) -> bool {
        let prefix = index::prefix(hash);
        self.refs.range((prefix, 0)..=(prefix, u64::MAX)).next().is_some()
    }

    /// Notes the same where it does not matter whether it was known.
    pub(super) fn set_ref(&mut self, hash: &Multihash, dataset: u64) {
        self.refs.insert((index::prefix(hash), dataset));
    }

    /// Lets readers see all of it: the packs have the bytes.
    pub(super) fn publish(&mut self) {
        if !self.rows.is_empty() {
            self.published.0.write().extend(std::mem::take(&mut self.rows));
        }
    }

    /// Writes all of it into the open transaction, and keeps it.
    pub(super) fn write(&mut self, index: &Connection) -> Result<(), StoreError> {
        self.publish();
        // Nobody else adds to it: readers read beside this.
        for (hash, row) in &*self.published.0.read() {
            match row {
                Some(row) => index::put_block(index, hash, *row)?,
                None => index::delete_block(index, hash)?,
            }
        }
        self.refs.iter().try_for_each(|(prefix, dataset)| index::put_ref(index, prefix, *dataset))
    }

    /// Lets go of it, as the transaction is committed.
    pub(super) fn clear(&mut self) {
        self.refs.clear();
        self.changes.clear();
        self.published.0.write().clear();
    }
}
