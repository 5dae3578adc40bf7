//! The LocalStore: packs hold the blocks, an index in SQLite finds them.
//!
//! One [`LocalStore`] writes, any number of [`StoreReader`]s read beside it. A block that was
//! appended is found once its batch was committed; it outlives a power cut once it was synced.

mod dataset;
mod index;
mod pack;
mod reader;
mod record;
mod recovery;

pub use dataset::{Dataset, DatasetId, DatasetInfo};
pub use reader::StoreReader;

use crate::block::Block;
use barrow_wire::{Cid, Multihash};
use index::Place;
use pack::{OpenPack, PACK_BYTES_MAX};
use record::{Header, Kind};
use rusqlite::Connection;
use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// The version of the data directory, kept in its file VERSION.
const DIRECTORY_VERSION: &str = "1";
/// Blocks forgotten in one batch of `gc` or `remove_dataset`.
const GC_BATCH: u32 = 1_024;

/// What went wrong in the store.
#[derive(Debug)]
pub enum StoreError {
    /// The file system failed; nothing that was acknowledged is lost.
    Io(io::Error),
    /// SQLite failed.
    Index(rusqlite::Error),
    /// The index holds something impossible; delete `index.sqlite`, and it is made anew.
    BadIndex,
    /// Another process has the store open.
    Locked,
    /// There is no store in this directory.
    Missing(PathBuf),
    /// The directory was written by a newer barrow.
    Newer(String),
    /// A sync failed: nothing is written until the store is opened again.
    ReadOnly(String),
    /// It would take more bytes than the quota allows.
    OverQuota,
    /// An identity CID has no block to be stored.
    NotStorable,
    /// The node is stopping.
    Closed,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the store's files: {error}"),
            Self::Index(error) => write!(f, "the store's index: {error}"),
            Self::BadIndex => {
                f.write_str("the store's index is damaged; delete index.sqlite and it is made anew")
            }
            Self::Locked => f.write_str("another process has this store open"),
            Self::Missing(dir) => write!(f, "there is no store in {}", dir.display()),
            Self::Newer(version) => write!(
                f,
                "the store was written by a newer barrow (format {version}); nothing was touched"
            ),
            Self::ReadOnly(reason) => write!(
                f,
                "the store takes no writes since {reason}; start the node again and run verify"
            ),
            Self::OverQuota => f.write_str("the quota is used up"),
            Self::NotStorable => f.write_str("an identity CID carries its bytes itself"),
            Self::Closed => f.write_str("the node is stopping"),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Index(error)
    }
}

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Bytes that its files may take, if bounded.
    pub quota_bytes: Option<u64>,
    /// SQLite's page cache, for each connection.
    pub cache_kib: usize,
    /// Make the directory if there is no store.
    pub create: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { quota_bytes: None, cache_kib: 2_048, create: true }
    }
}

/// What was given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Removed {
    /// Blocks that are no longer here.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The one who writes.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use barrow::{Block, local_store::{LocalStore, StoreOptions}};
/// let mut store = LocalStore::open(dir.path(), StoreOptions::default()).unwrap();
/// let block = Block::of(b"hello world".to_vec().into()).unwrap();
/// store.put(&block, None).unwrap();
/// store.sync().unwrap();
/// let pool = barrow::Pool::new(4 << 20);
/// assert_eq!(store.reader().unwrap().get(block.hash(), &pool).unwrap(), Some(block));
/// ```
pub struct LocalStore {
    dir: PathBuf,
    options: StoreOptions,
    index: Connection,
    pack: OpenPack,
    /// A transaction is open.
    in_batch: bool,
    batch_bytes: u64,
    /// Blocks and bytes of datasets that are being stored.
    open_datasets: BTreeMap<u64, (u64, u64)>,
    next_dataset: u64,
    read_only: Option<String>,
    /// Held as long as the store is open.
    _lock: File,
}

impl LocalStore {
    /// Opens the store in `dir`, and mends what a crash left.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::Missing`], [`StoreError::Newer`]; or the file system.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let lock = prepare_dir(dir, options.create)?;
        let index = recovery::open_index(dir, options.cache_kib)?;
        let pack = recovery::recover(dir, &index)?;
        let next_dataset = index::last_dataset(&index)? + 1;
        let open_datasets = BTreeMap::new();
        Ok(Self {
            dir: dir.into(),
            options,
            index,
            pack,
            in_batch: false,
            batch_bytes: 0,
            open_datasets,
            next_dataset,
            read_only: None,
            _lock: lock,
        })
    }

    /// Someone who reads beside this writer.
    ///
    /// # Errors
    /// If the index cannot be opened.
    pub fn reader(&self) -> Result<StoreReader, StoreError> {
        StoreReader::open(&self.dir, self.options.cache_kib)
    }

    /// Appends a block, unless it is here; `dataset` refers to it then.
    ///
    /// # Errors
    /// [`StoreError::OverQuota`], [`StoreError::ReadOnly`], or the file system: then the block is
    /// not here, and all others are.
    pub fn put(&mut self, block: &Block, dataset: Option<DatasetId>) -> Result<(), StoreError> {
        self.begin()?;
        let hash = block.hash();
        if index::place(&self.index, hash)?.is_some() {
            return dataset.map_or(Ok(()), |id| self.reference(id, hash, block.len() as u64));
        }
        self.make_room(record::HEADER_BYTES as u64 + block.len() as u64)?;
        let id = dataset.map_or(0, |id| id.0);
        let header = Header::new(Kind::Put, id, Some(*hash), block.data());
        let offset = self.append(&header, block.data())?;
        let place = Place { pack: self.pack.number, offset, len: header.len };
        index::insert_block(&self.index, hash, place)?;
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
        self.begin()?;
        if self.note_ref(dataset, hash, len)? {
            self.append(&Header::new(Kind::Reference, dataset.0, Some(*hash), &[]), &[])?;
        }
        Ok(())
    }

    fn note_ref(&mut self, id: DatasetId, hash: &Multihash, len: u64) -> Result<bool, StoreError> {
        let new = index::insert_ref(&self.index, hash, id.0)?;
        if new && let Some((blocks, bytes)) = self.open_datasets.get_mut(&id.0) {
            *blocks += 1;
            *bytes += len;
        }
        Ok(new)
    }

    /// Length of a block, also of one of the batch that is not committed.
    ///
    /// # Errors
    /// If the index cannot be asked.
    pub fn block_len(&self, hash: &Multihash) -> Result<Option<u32>, StoreError> {
        Ok(index::place(&self.index, hash)?.map(|place| place.len))
    }

    /// Begins a dataset: its blocks are kept while it is being stored.
    pub fn begin_dataset(&mut self) -> DatasetId {
        let id = self.next_dataset;
        self.next_dataset += 1;
        self.open_datasets.insert(id, (0, 0));
        DatasetId(id)
    }

    /// Makes a dataset whole and lasting; if its root is one that was here before, it takes that
    /// one's place.
    ///
    /// # Errors
    /// As [`Self::put`]; then it is as if the dataset had been abandoned.
    pub fn finish_dataset(&mut self, id: DatasetId, info: DatasetInfo) -> Result<(), StoreError> {
        let (blocks, bytes) = self.open_datasets.remove(&id.0).unwrap_or_default();
        let mut dataset = Dataset { info, blocks, bytes };
        let root = dataset.root_hash().ok_or(StoreError::NotStorable)?;
        self.begin()?;
        let before = index::dataset(&self.index, &root)?;
        if let Some((_, before)) = &before {
            dataset.info.pinned |= before.info.pinned;
            dataset.info.name = dataset.info.name.or_else(|| before.info.name.clone());
            dataset.info.mimetype = dataset.info.mimetype.or_else(|| before.info.mimetype.clone());
        }
        self.write_dataset(id.0, &dataset)?;
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
        index::delete_refs(&self.index, id.0)
    }

    fn write_dataset(&mut self, id: u64, dataset: &Dataset) -> Result<(), StoreError> {
        let info = serde_json::to_string(dataset).expect("plain data becomes JSON");
        self.append(&Header::new(Kind::Dataset, id, None, info.as_bytes()), info.as_bytes())?;
        index::put_dataset(&self.index, id, dataset, &info)
    }

    fn forget(&mut self, id: u64) -> Result<(), StoreError> {
        self.append(&Header::new(Kind::Forget, id, None, &[]), &[])?;
        index::delete_dataset(&self.index, id)?;
        index::delete_refs(&self.index, id)
    }

    /// Pins or unpins; `false` if there is no such dataset. Synced on return.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn set_pinned(&mut self, root: &Cid, pinned: bool) -> Result<bool, StoreError> {
        self.begin()?;
        let Some(hash) = root.multihash() else { return Ok(false) };
        let Some((id, mut dataset)) = index::dataset(&self.index, &hash)? else {
            return Ok(false);
        };
        dataset.info.pinned = pinned;
        self.write_dataset(id, &dataset)?;
        self.sync()?;
        Ok(true)
    }

    /// Removes a dataset and the blocks that only it refers to; `None` if there is none.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn remove_dataset(&mut self, root: &Cid) -> Result<Option<Removed>, StoreError> {
        self.begin()?;
        let Some(hash) = root.multihash() else { return Ok(None) };
        let Some((id, _)) = index::dataset(&self.index, &hash)? else { return Ok(None) };
        let mut removed = Removed::default();
        self.append(&Header::new(Kind::Forget, id, None, &[]), &[])?;
        index::delete_dataset(&self.index, id)?;
        // The dataset must be gone for good before the first of its blocks is.
        self.sync()?;
        self.begin()?;
        self.sweep(|index| index::only_of(index, id, GC_BATCH), &mut removed)?;
        index::delete_refs(&self.index, id)?;
        self.sync()?;
        Ok(Some(removed))
    }

    /// Removes datasets that are not pinned, and all blocks that no dataset refers to.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn gc(&mut self) -> Result<Removed, StoreError> {
        self.begin()?;
        for dataset in index::datasets(&self.index)? {
            if !dataset.info.pinned
                && let Some(root) = dataset.root_hash()
                && let Some((id, _)) = index::dataset(&self.index, &root)?
            {
                self.forget(id)?;
            }
        }
        self.sync()?;
        self.begin()?;
        let mut removed = Removed::default();
        self.sweep(|index| index::unreferenced(index, GC_BATCH), &mut removed)?;
        self.sync()?;
        Ok(removed)
    }

    fn sweep(
        &mut self,
        next: impl Fn(&Connection) -> Result<Vec<Multihash>, StoreError>,
        removed: &mut Removed,
    ) -> Result<(), StoreError> {
        loop {
            let batch = next(&self.index)?;
            if batch.is_empty() {
                return Ok(());
            }
            for hash in &batch {
                self.delete(hash, removed)?;
            }
        }
    }

    /// Forgets a block, for instance a damaged one.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn delete_block(&mut self, hash: &Multihash) -> Result<(), StoreError> {
        self.begin()?;
        self.delete(hash, &mut Removed::default())
    }

    fn delete(&mut self, hash: &Multihash, removed: &mut Removed) -> Result<(), StoreError> {
        if let Some(place) = index::delete_block(&self.index, hash)? {
            self.append(&Header::new(Kind::Delete, 0, Some(*hash), &[]), &[])?;
            recovery::give_back(&self.dir, place)?;
            removed.blocks += 1;
            removed.bytes += u64::from(place.len);
        }
        Ok(())
    }

    /// Frees cache until `bytes` more fit the quota.
    fn make_room(&mut self, bytes: u64) -> Result<(), StoreError> {
        let Some(quota) = self.options.quota_bytes else { return Ok(()) };
        while index::counts(&self.index)?.1 + bytes > quota {
            let orphans = index::unreferenced(&self.index, 16)?;
            if orphans.is_empty() {
                return Err(StoreError::OverQuota);
            }
            for hash in orphans {
                self.delete(&hash, &mut Removed::default())?;
            }
        }
        Ok(())
    }

    fn append(&mut self, header: &Header, payload: &[u8]) -> Result<u64, StoreError> {
        if self.pack.end() >= PACK_BYTES_MAX {
            self.next_pack()?;
        }
        let offset = self.pack.end();
        let appended =
            self.pack.append(&header.to_bytes()).and_then(|()| self.pack.append(payload));
        if let Err(error) = appended {
            // The torn record must not stand before what is appended next.
            self.pack.rewind(offset).map_err(|error| self.fail(&error))?;
            return Err(error.into());
        }
        self.batch_bytes += header.record_bytes();
        Ok(offset)
    }

    fn next_pack(&mut self) -> Result<(), StoreError> {
        self.sync()?;
        self.pack = OpenPack::create(&self.dir.join("packs"), self.pack.number + 1)?;
        self.begin()
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        if let Some(reason) = &self.read_only {
            return Err(StoreError::ReadOnly(reason.clone()));
        }
        if !self.in_batch {
            self.index.execute_batch("BEGIN IMMEDIATE")?;
            self.in_batch = true;
        }
        Ok(())
    }

    /// Bytes appended since the last commit.
    pub fn batch_bytes(&self) -> u64 {
        self.batch_bytes
    }

    /// Lets readers find what was appended, without a promise over a power cut.
    ///
    /// # Errors
    /// If the file system or SQLite fails.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        if self.in_batch {
            self.pack.flush()?;
            index::set_indexed(&self.index, self.pack.number, self.pack.end())?;
            self.index.execute_batch("COMMIT")?;
            self.in_batch = false;
            self.batch_bytes = 0;
        }
        Ok(())
    }

    /// Makes everything appended so far outlive a power cut, and commits.
    ///
    /// # Errors
    /// After a failed sync the store is read-only: what the kernel dropped is not known.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        if let Some(reason) = &self.read_only {
            return Err(StoreError::ReadOnly(reason.clone()));
        }
        self.pack.flush()?;
        if let Err(error) = self.pack.sync() {
            return Err(self.fail(&error));
        }
        self.commit()
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

    /// Blocks, and bytes of their records.
    ///
    /// # Errors
    /// If the index cannot be asked.
    pub fn counts(&self) -> Result<(u64, u64), StoreError> {
        index::counts(&self.index)
    }
}

/// Makes or checks the directory, and locks it.
fn prepare_dir(dir: &Path, create: bool) -> Result<File, StoreError> {
    let version = dir.join("VERSION");
    match fs::read_to_string(&version) {
        Ok(text) if text.trim() == DIRECTORY_VERSION => {}
        Ok(text) => return Err(StoreError::Newer(text.trim().into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
            fs::create_dir_all(dir.join("packs"))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StoreError::Missing(dir.into()));
        }
        Err(error) => return Err(error.into()),
    }
    let lock = File::options().create(true).truncate(false).write(true).open(dir.join("lock"))?;
    lock.try_lock().map_err(|_| StoreError::Locked)?;
    if !version.exists() {
        fs::write(&version, format!("{DIRECTORY_VERSION}\n"))?;
        File::open(dir)?.sync_all()?;
    }
    Ok(lock)
}
