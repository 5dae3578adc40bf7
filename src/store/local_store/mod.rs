//! The LocalStore: packs hold the blocks, an index in SQLite finds them.
//!
//! One [`LocalStore`] writes, any number of [`StoreReader`]s read beside it. A block that was
//! appended is found once its batch was committed; it outlives a power cut once it was synced.

mod compaction;
mod dataset;
mod directory;
mod error;
mod index;
pub mod medium;
mod options;
mod pack;
mod quarantine;
mod reader;
mod reading;
mod recent;
mod record;
mod recovery;
mod removal;
mod scan;
mod space;

pub use dataset::{Dataset, DatasetId, DatasetInfo, Protection, Slot};
pub use error::StoreError;
#[doc(hidden)]
pub use index::prepare as prepare_index;
pub use options::StoreOptions;
pub use reader::StoreReader;
pub use reading::Reading;
pub use removal::Removed;

use crate::data::block::Block;
use barrow_wire::{Cid, Multihash};
use index::{Place, Row, Tally};
use medium::{Directory, Index, Medium};
use pack::OpenPack;
use recent::{Change, Recent};
use record::{Header, Kind};
use space::Held;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::File,
    io,
    path::Path,
    sync::Arc,
    time::Duration,
};

/// The one who writes.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use barrow::{Block, store::local_store::{LocalStore, StoreOptions}};
/// let mut store = LocalStore::open(dir.path(), StoreOptions::default()).unwrap();
/// let block = Block::of(b"hello world".to_vec().into()).unwrap();
/// store.put(&block, None).unwrap();
/// store.sync().unwrap();
/// let pool = barrow::Pool::new(4 << 20);
/// assert_eq!(store.reader().unwrap().get(block.hash(), &pool).unwrap(), Some(block));
/// ```
pub struct LocalStore {
    medium: Arc<dyn Medium>,
    options: StoreOptions,
    index: Index,
    pack: OpenPack,
    tally: Tally,
    /// What the index does not have yet.
    recent: Recent,
    batch_bytes: u64,
    /// Bytes that it takes on disk.
    held: Held,
    /// Where blocks were that are forgotten: their space is given back after the next sync.
    freed: Vec<(Multihash, Place)>,
    /// Packs that the drive did not return whole since the start: they are not given up.
    unread: BTreeSet<u32>,
    /// Cache that may go, with its last use when that was looked at.
    evictable: VecDeque<(Multihash, u32)>,
    /// Blocks that a compaction found damaged.
    damaged: Vec<Multihash>,
    /// Blocks have moved since the last sync.
    has_moved: bool,
    /// Since the last commit something is no longer here, or is told of in another way.
    has_changed: bool,
    /// Commits before which that was so.
    changes: u64,
    /// Blocks and bytes of datasets that are being stored.
    open_datasets: BTreeMap<u64, (u64, u64)>,
    /// Seconds of Unix time, as far as the store was told.
    now: u32,
    read_only: Option<String>,
    is_index_damaged: bool,
    /// Held as long as the store is open.
    _lock: Option<File>,
}

impl LocalStore {
    /// Opens the store in `dir`, and mends what a crash left.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::Missing`], [`StoreError::Newer`]; or the file system.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let lock = directory::prepare(dir, options.create)?;
        let medium: Arc<dyn Medium> =
            Arc::new(Directory::new(dir, options.cache_kib, options.reserve_bytes()));
        let mut store = match Self::open_on(medium.clone(), options) {
            // Whoever opens it may want to delete something: the reserve is for that.
            Err(error) if error.is_full() => {
                medium.set_reserve(false);
                Self::open_on(medium, options)?
            }
            opened => {
                let store = opened?;
                medium.set_reserve(true);
                store
            }
        };
        store._lock = Some(lock);
        store.measure_rest();
        Ok(store)
    }

    /// Opens a store on something else than a directory.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on(medium: Arc<dyn Medium>, options: StoreOptions) -> Result<Self, StoreError> {
        let recovery::Recovered { index, pack, tally, recent, unread } =
            recovery::recover(&*medium, options.piece_bytes, options.cache_kib)?;
        let mut store = Self {
            medium,
            options,
            index,
            pack,
            tally,
            recent,
            batch_bytes: 0,
            held: Held::default(),
            freed: Vec::new(),
            unread,
            evictable: VecDeque::new(),
            damaged: Vec::new(),
            has_moved: false,
            has_changed: false,
            changes: 0,
            open_datasets: BTreeMap::new(),
            now: 0,
            read_only: None,
            is_index_damaged: false,
            _lock: None,
        };
        store.measure()?;
        Ok(store)
    }

    /// Someone who reads beside this writer.
    ///
    /// # Errors
    /// If the index cannot be opened.
    pub fn reader(&self) -> Result<StoreReader, StoreError> {
        StoreReader::open(self.medium.clone(), self.recent.published())
    }

    /// Tells the time, in seconds of Unix time: cache goes in the order of its last use, and a pin
    /// may have an end.
    pub fn set_time(&mut self, now: u32) {
        self.now = now;
    }

    /// Notes that a block was read.
    ///
    /// # Errors
    /// If SQLite fails.
    pub fn touch(&mut self, hash: &Multihash) -> Result<(), StoreError> {
        self.begin()?;
        self.recent.touch(&self.index, hash, self.now)
    }

    /// Appends a block, unless it is here; `dataset` refers to it then.
    ///
    /// # Errors
    /// [`StoreError::OverQuota`], [`StoreError::ReadOnly`], or the file system: then the block is
    /// not here, and all others are.
    pub fn put(&mut self, block: &Block, dataset: Option<DatasetId>) -> Result<(), StoreError> {
        self.make_batch_room()?;
        let hash = block.hash();
        let before = self.row(hash)?;
        if before.is_some_and(|row| self.holds(block, row)) {
            return dataset.map_or(Ok(()), |id| self.reference(id, hash, block.len() as u64));
        }
        self.make_room(record::HEADER_BYTES as u64 + block.len() as u64)?;
        let id = dataset.map_or(0, |id| id.0);
        let header = Header::new(Kind::Put, id, Some(*hash), block.data());
        let offset = self.append(&header, block.data())?;
        let place = Place { pack: self.pack.number, offset, len: header.len };
        self.recent.set(hash, Some(Row { place, used: self.now, is_quarantined: false }));
        self.tally.add(place);
        if let Some(Row { place, .. }) = before {
            // The old bytes go with the next sync, when the new ones are there for good.
            self.tally.remove(place);
            self.freed.push((*hash, place));
            self.has_moved = true;
            // Which datasets refer to it was said by the old record, whose head may be damaged too.
            for id in index::refs_of(&self.index, hash)? {
                self.append(&Header::new(Kind::Reference, id, Some(*hash), &[]), &[])?;
            }
        }
        if let Some(id) = dataset {
            self.note_ref(id, hash, block.len() as u64)?;
        }
        Ok(())
    }

    /// Notes that `dataset` refers to a block of `len` bytes, here or to come.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn reference(
        &mut self,
        dataset: DatasetId,
        hash: &Multihash,
        len: u64,
    ) -> Result<(), StoreError> {
        self.make_batch_room()?;
        if self.note_ref(dataset, hash, len)? {
            self.make_room(record::HEADER_BYTES as u64)?;
            self.append(&Header::new(Kind::Reference, dataset.0, Some(*hash), &[]), &[])?;
        }
        Ok(())
    }

    fn note_ref(&mut self, id: DatasetId, hash: &Multihash, len: u64) -> Result<bool, StoreError> {
        let new = self.recent.add_ref(&self.index, hash, id.0)?;
        if new && let Some((blocks, bytes)) = self.open_datasets.get_mut(&id.0) {
            *blocks += 1;
            *bytes += len;
        }
        Ok(new)
    }

    /// Length of a block that is here and not quarantined, also of one that is not committed.
    ///
    /// # Errors
    /// If the index cannot be asked.
    pub fn block_len(&self, hash: &Multihash) -> Result<Option<u32>, StoreError> {
        Ok(self.row(hash)?.filter(|row| !row.is_quarantined).map(|row| row.place.len))
    }

    fn row(&self, hash: &Multihash) -> Result<Option<Row>, StoreError> {
        self.recent.row(&self.index, hash)
    }

    /// Begins a dataset: its blocks are kept while it is being stored.
    pub fn begin_dataset(&mut self) -> DatasetId {
        let id = self.tally.next_dataset;
        self.tally.next_dataset += 1;
        self.open_datasets.insert(id, (0, 0));
        DatasetId(id)
    }

    /// Makes a dataset whole and lasting; if its root is one that was here before, it takes that
    /// one's place.
    ///
    /// # Errors
    /// As [`Self::put`]; then it is not known whether the dataset is whole, and the one before it
    /// is as it was or has given it its place.
    pub fn finish_dataset(&mut self, id: DatasetId, info: DatasetInfo) -> Result<(), StoreError> {
        let finished = self.try_finish(id, info);
        if finished.is_err() && self.open_datasets.contains_key(&id.0) {
            self.abandon_dataset(id)?;
        }
        finished
    }

    fn try_finish(&mut self, id: DatasetId, info: DatasetInfo) -> Result<(), StoreError> {
        self.begin()?;
        self.make_room(space::DESCRIPTION_BYTES)?;
        let (blocks, bytes) = self.open_datasets.get(&id.0).copied().unwrap_or_default();
        let mut dataset = Dataset { info, blocks, bytes };
        let root = dataset.root_hash().ok_or(StoreError::NotStorable)?;
        let before = index::dataset(&self.index, &root)?;
        if let Some((_, before)) = &before {
            if before.info.pinned && !dataset.info.pinned {
                (dataset.info.pinned, dataset.info.expires) = (true, before.info.expires);
            }
            dataset.info.name = dataset.info.name.or_else(|| before.info.name.clone());
            dataset.info.mimetype = dataset.info.mimetype.or_else(|| before.info.mimetype.clone());
        }
        // A description that outlives a power cut without its blocks would be a lie.
        self.sync_pack()?;
        self.write_dataset(id.0, dataset)?;
        if let Some((before, _)) = before
            && before != id.0
        {
            self.forget(before)?;
        }
        self.sync()
    }

    /// Leaves a dataset unfinished: its blocks are cache.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn abandon_dataset(&mut self, id: DatasetId) -> Result<(), StoreError> {
        self.open_datasets.remove(&id.0);
        self.begin()?;
        self.change(Change::DropRefs(id.0))
    }

    /// Appends a description, and takes it into the index: after an error that is done later.
    fn write_dataset(&mut self, id: u64, dataset: Dataset) -> Result<(), StoreError> {
        let info = serde_json::to_string(&dataset).expect("plain data becomes JSON");
        self.append(&Header::new(Kind::Dataset, id, None, info.as_bytes()), info.as_bytes())?;
        self.open_datasets.remove(&id);
        self.change(Change::Describe(id, Box::new((dataset, info))))
    }

    fn forget(&mut self, id: u64) -> Result<(), StoreError> {
        self.append(&Header::new(Kind::Forget, id, None, &[]), &[])?;
        self.change(Change::Forget(id))?;
        self.change(Change::DropRefs(id))
    }

    fn change(&mut self, change: Change) -> Result<(), StoreError> {
        self.has_changed = true;
        self.recent.change(&self.index, change)
    }

    /// Pins for good, or unpins; `false` if there is no such dataset. Synced on return.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn set_pinned(&mut self, root: &Cid, pinned: bool) -> Result<bool, StoreError> {
        self.set_pin(root, pinned, None)
    }

    /// Pins until a second of Unix time; `false` if there is no such dataset. Synced on return.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn pin_until(&mut self, root: &Cid, end: u64) -> Result<bool, StoreError> {
        self.set_pin(root, true, Some(end))
    }

    fn set_pin(
        &mut self,
        root: &Cid,
        pinned: bool,
        expires: Option<u64>,
    ) -> Result<bool, StoreError> {
        self.begin()?;
        let Some(hash) = root.multihash() else { return Ok(false) };
        let Some((id, mut dataset)) = index::dataset(&self.index, &hash)? else {
            return Ok(false);
        };
        (dataset.info.pinned, dataset.info.expires) = (pinned, expires);
        self.write_dataset(id, dataset)?;
        self.sync()?;
        Ok(true)
    }

    fn append(&mut self, header: &Header, payload: &[u8]) -> Result<u64, StoreError> {
        if self.pack.end() >= self.options.full_pack_bytes() {
            self.next_pack()?;
        }
        let offset = self.pack.end();
        let appended = self
            .pack
            .append(&header.to_bytes(self.pack.seed))
            .and_then(|()| self.pack.append(payload));
        if let Err(error) = appended {
            // The torn record must not stand before what is appended next.
            self.pack.rewind(offset).map_err(|error| self.fail(&error))?;
            return Err(error.into());
        }
        self.batch_bytes += header.record_bytes();
        self.held.packs += header.record_bytes();
        Ok(offset)
    }

    fn next_pack(&mut self) -> Result<(), StoreError> {
        self.sync()?;
        // One that could not be begun may still be there.
        let last = self.medium.packs()?.last().copied().unwrap_or(0).max(self.pack.number);
        let pack = OpenPack::create(&*self.medium, last + 1, self.options.piece_bytes)?;
        // The name must not be lost while what it names is kept.
        self.sync_names()?;
        self.tally.pack(pack.number).seed = pack.seed;
        self.pack = pack;
        self.begin()
    }

    /// Makes it last which packs there are.
    fn sync_names(&mut self) -> Result<(), StoreError> {
        self.medium.sync_names().map_err(|error| self.fail(&error))
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        self.read_only.clone().map_or(Ok(()), |reason| Err(StoreError::ReadOnly(reason)))
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        self.check_writable()?;
        if self.in_batch() {
            return Ok(());
        }
        if self.recent.has_changes() {
            // Undone: the index is first to say again what the packs do.
            self.commit()?;
        }
        Ok(index::begin(&self.index)?)
    }

    /// Whether a transaction is open: SQLite undoes one by itself where the disk is full.
    fn in_batch(&self) -> bool {
        !self.index.is_autocommit()
    }

    /// There is a place for one more row, and a transaction: looking up outside of one, SQLite asks
    /// the kernel for its locks each time.
    fn make_batch_room(&mut self) -> Result<(), StoreError> {
        self.check_writable()?;
        if self.recent.is_full() {
            self.commit()?;
        }
        self.begin()
    }

    /// Time after which what was appended is committed although nobody waits.
    pub fn commit_interval(&self) -> Duration {
        self.options.commit_interval
    }

    /// Bytes appended since readers were let find what there was.
    pub fn batch_bytes(&self) -> u64 {
        self.batch_bytes
    }

    /// Whether the index has all of it.
    pub fn is_committed(&self) -> bool {
        !self.in_batch() && self.recent.is_empty()
    }

    /// Lets readers find what was appended, without a promise over a power cut. The index need not
    /// have it for that.
    ///
    /// # Errors
    /// If the file system or SQLite fails.
    pub fn publish(&mut self) -> Result<(), StoreError> {
        if self.has_changed || self.has_moved || self.recent.is_full() {
            return self.commit();
        }
        self.check_writable()?;
        self.pack.flush()?;
        self.recent.publish();
        self.batch_bytes = 0;
        Ok(())
    }

    /// Publishes what was appended, and takes it into the index.
    ///
    /// # Errors
    /// If the file system or SQLite fails: then it is taken with the next commit.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        self.check_writable()?;
        if self.is_committed() {
            return Ok(());
        }
        if self.has_moved || self.recent.has_changes() {
            // After a crash it is not looked at again where a block moved from, nor whether the
            // packs say the same of datasets.
            self.sync_pack()?;
        } else {
            self.pack.flush()?;
        }
        let end = self.pack.end();
        self.tally.pack(self.pack.number).indexed = end;
        if let Err(error) = self.write_index() {
            index::roll_back(&self.index);
            self.tally.keep_all();
            return Err(error);
        }
        self.recent.clear();
        self.has_moved = false;
        self.batch_bytes = 0;
        self.changes += u64::from(std::mem::take(&mut self.has_changed));
        self.medium.committed(&mut self.index);
        self.measure_rest();
        Ok(())
    }

    fn write_index(&mut self) -> Result<(), StoreError> {
        if !self.in_batch() {
            index::begin(&self.index)?;
            self.recent.redo(&self.index)?;
        }
        self.recent.write(&self.index)?;
        index::save_tally(&self.index, &mut self.tally)?;
        Ok(index::commit(&self.index)?)
    }

    /// Commits since the store was opened that took something away or changed what is told of a
    /// dataset: what was answered before the last of them may be untrue.
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// Bytes appended since the last sync.
    pub fn unsynced_bytes(&self) -> u64 {
        let synced = self.tally.packs.get(&self.pack.number).map_or(0, |pack| pack.synced);
        self.pack.end().saturating_sub(synced)
    }

    /// Makes everything appended so far outlive a power cut, commits, and gives the space of
    /// forgotten blocks back.
    ///
    /// # Errors
    /// After a failed sync the store is read-only: what the kernel dropped is not known.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        self.sync_pack()?;
        self.commit()?;
        self.give_back();
        Ok(())
    }

    fn sync_pack(&mut self) -> Result<(), StoreError> {
        self.check_writable()?;
        if self.unsynced_bytes() == 0 {
            return Ok(());
        }
        self.pack.flush()?;
        if let Err(error) = self.pack.file.sync() {
            return Err(self.fail(&error));
        }
        let end = self.pack.end();
        self.tally.pack(self.pack.number).synced = end;
        // The index is to know it.
        self.begin()
    }

    fn fail(&mut self, error: &io::Error) -> StoreError {
        let reason = format!("a sync failed ({error})");
        log::error!("the store is read-only from now on: {reason}");
        self.read_only = Some(reason.clone());
        StoreError::ReadOnly(reason)
    }

    /// Why nothing is written any more, if so.
    pub fn read_only(&self) -> Option<&str> {
        self.read_only.as_deref()
    }

    /// Takes the write-ahead log into the index, as SQLite does only where no reader is left: the
    /// next start need not look through all of a large index then.
    pub fn fold_log(&mut self) {
        // One that stays costs that look.
        let _ = self.index.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }

    /// Looks through the whole index; `false` of a damaged one, as [`Self::doubt_index`].
    pub fn check_index(&mut self) -> bool {
        let is_sound = medium::is_sound(&self.index);
        if !is_sound {
            self.doubt_index();
        }
        is_sound
    }

    /// The index is damaged: it is made anew from the packs when the store is opened next.
    pub fn doubt_index(&mut self) {
        if !std::mem::replace(&mut self.is_index_damaged, true) {
            log::error!("the index is damaged; it is made anew when the store is opened next");
            self.medium.doubt_index();
        }
    }

    /// Whether the index was found damaged.
    pub const fn is_index_damaged(&self) -> bool {
        self.is_index_damaged
    }

    /// Blocks, and bytes of their records.
    ///
    /// # Errors
    /// If the index cannot be asked.
    pub fn counts(&self) -> Result<(u64, u64), StoreError> {
        Ok((self.tally.blocks, self.tally.bytes))
    }
}
