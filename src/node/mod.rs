//! The composition root: every thread and channel of a node is made here.

mod datasets;
mod exchange;
mod expiry;
mod health;
mod pinning;
mod protected;
mod providing;
mod slots;
mod spread;
mod standing;
mod transfers;
mod upkeep;

pub use pinning::PinTransfer;
pub use protected::RepairReport;
pub use spread::{Holder, HolderState, Spread, SpreadError};
pub use standing::Standing;
pub use transfers::{Transfer, TransferStatus};
pub use upkeep::ScrubReport;

use crate::{
    base::{
        clock::unix_seconds,
        config::{Config, PeerTarget},
        metrics::Metrics,
        pool::Pool,
        workers,
    },
    content::{
        block_stream,
        car_import::{self, CarImport, CarImportError},
        car_stream::CarStream,
        fetch::{FetchProgress, fetch_dataset},
        import::{ImportError, Importer},
        mend::Mending,
        network_store::NetworkStore,
        resolve::{self, Followed, Resolved},
        store_stream::{BlockSource, GetError, Scope, StoreStream},
    },
    data::{
        car::{CarWalk, WalkOptions},
        unixfs::{Chunker, Leaf, Link, Profile, content_size},
    },
    engine::{Engine, Input},
    erasure::Shape,
    net::{
        discovery::{self, Discovery},
        ledger::Ledger,
        reactor::{Keys, Parts, ReactorHandle, Setup},
    },
    store::{
        disk::Disk,
        local_store::{DatasetInfo, LocalStore, StoreError, StoreOptions},
    },
};
use barrow_wire::{Cid, PeerId, StaticKey};
use parking_lot::Mutex;
use rayon::ThreadPool;
use std::{
    fmt,
    io::{self, Read},
    net::SocketAddr,
    path::Path,
    sync::Arc,
    thread::JoinHandle,
};

pub use crate::net::identity::{identity, write_secret};

/// Why a node did not start.
#[derive(Debug)]
pub enum StartError {
    /// The store.
    Store(StoreError),
    /// A socket, a thread or a file.
    Io(&'static str, io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Io(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Why something was not stored.
#[derive(Debug)]
pub enum PutError {
    /// It cannot be read or built.
    Import(ImportError),
    /// It cannot be written.
    Store(StoreError),
}

impl fmt::Display for PutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Import(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PutError {}

impl From<StoreError> for PutError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// How something is put.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// How files become blocks.
    pub profile: Profile,
    /// Where files are cut; as the profile has it if it is not said.
    pub chunker: Option<Chunker>,
    /// Whether a directory is made around it, in which it has its name.
    pub wrap: bool,
    /// Its file name, if it has one.
    pub name: Option<String>,
    /// Its media type, if it is known.
    pub mimetype: Option<String>,
    /// How it is protected, if at all.
    pub protect: Option<Shape>,
}

impl PutOptions {
    /// Where files are cut.
    pub fn chunker(&self) -> Chunker {
        self.chunker.unwrap_or_else(|| self.profile.chunker())
    }
}

/// What was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// What names it.
    pub cid: Cid,
    /// The plain root: the same, or what `cid` protects.
    pub root: Cid,
    /// Bytes of content.
    pub size: u64,
    /// Its blocks.
    pub blocks: u64,
}

impl Stored {
    /// What `put --json` and the API tell.
    pub fn to_json(&self) -> serde_json::Value {
        let (cid, root) = (self.cid.to_string(), self.root.to_string());
        serde_json::json!({"cid": cid, "root": root, "size": self.size, "blocks": self.blocks})
    }
}

/// A running node. Cheap to clone; the last step of its life is [`Node::shutdown`].
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use std::io::Read;
/// let mut config = barrow::Config::new(dir.path());
/// config.listen = vec!["127.0.0.1:0".parse().unwrap()];
/// let node = barrow::Node::start(config).unwrap();
/// let cid = node.put(&mut &b"hello world"[..]).unwrap();
/// let mut text = String::new();
/// node.get(&cid).unwrap().read_to_string(&mut text).unwrap();
/// assert_eq!(text, "hello world");
/// node.shutdown();
/// ```
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
    /// What it reads from, and fetches into: for one download, or for any.
    store: NetworkStore,
}

struct Inner {
    config: Config,
    peer_id: PeerId,
    addresses: Vec<SocketAddr>,
    disk: Disk,
    discovery: Discovery,
    reactor: ReactorHandle,
    reactor_thread: Mutex<Option<JoinHandle<()>>>,
    workers: Arc<ThreadPool>,
    pool: Pool,
    mending: Arc<Mending>,
    ledger: Arc<Ledger>,
    pins: pinning::Pins,
    /// Whether anything may be paid for blocks.
    pays: bool,
    slots: Arc<slots::Slots>,
    spreads: spread::Spreads,
    upkeep: upkeep::Upkeep,
    metrics: Arc<Metrics>,
}

impl Node {
    /// Opens the store, binds the sockets and starts the threads.
    ///
    /// # Errors
    /// As [`StartError`] says; then nothing runs.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let limits = config.limits;
        let options = StoreOptions {
            quota_bytes: config.quota_bytes,
            cache_kib: limits.index_cache_kib,
            commit_interval: config.commit_interval,
            ..StoreOptions::default()
        };
        let store = LocalStore::open(&config.data_dir, options)?;
        let identity =
            identity(&config.data_dir).map_err(|error| StartError::Io("the identity", error))?;
        let setup = Setup::bind(&config.listen)
            .map_err(|error| StartError::Io("cannot listen for peers (--listen)", error))?;
        let metrics = Arc::new(Metrics::default());
        metrics.quota_bytes.set(config.quota_bytes.unwrap_or(0));
        let pool = Pool::new(limits.pool_bytes_max);
        let workers = workers::start()
            .map_err(|error| StartError::Io("the workers", io::Error::other(error)))?;
        let disk = Disk::start(store, pool.clone(), metrics.clone())?;
        let reactor = setup.handle();
        let held_bytes_max = limits.pool_bytes_max / 4;
        let store =
            NetworkStore::new(disk.clone(), reactor.clone(), metrics.clone(), held_bytes_max);
        let pins = pinning::Pins::open(&config.data_dir);
        store.skip_jobs(pins.last_job());
        let addresses = setup.addresses().to_vec();
        let pinned = disk.datasets()?.into_iter().filter(|dataset| dataset.info.pinned);
        let pinned = pinned.flat_map(|dataset| providing::names(&dataset.info));
        let peer_id = identity.peer_id();
        let static_key = StaticKey::generate(&identity);
        // Before anybody else opens the same file: a damaged one is put aside.
        let (ledger, past) = Ledger::open(&config.data_dir, identity)
            .map_err(|error| StartError::Io("the ledger", io::Error::other(error)))?;
        let ledger = Arc::new(ledger);
        let discovery = discovery::Settings::of(&config, peer_id, &addresses, pinned);
        let discovery = Discovery::start(&discovery, reactor.clone())
            .map_err(|error| StartError::Io("discovery", error))?;
        let slots = Arc::new(slots::Slots::new(config.allow_peers.clone()));
        let parts = Parts {
            keys: Keys { static_key, swarm_key: config.swarm_key },
            engine: Engine::new(exchange::engine_config(&config, peer_id, &addresses, past)),
            disk: disk.clone(),
            delivery: Arc::new(store.clone()),
            finder: Arc::new(discovery.clone()),
            keeper: slots.clone(),
            pool: pool.clone(),
            workers: workers.clone(),
            ledger: ledger.clone(),
            metrics: metrics.clone(),
            connections_max: limits.connections_max,
        };
        let thread = setup.run(parts).map_err(|error| StartError::Io("the reactor", error))?;
        let mending = Arc::new(Mending::new(pool.clone(), workers.clone(), metrics.clone()));
        let inner = Inner {
            peer_id,
            addresses,
            disk,
            discovery,
            reactor,
            reactor_thread: Mutex::new(Some(thread)),
            workers,
            pool,
            mending,
            ledger,
            pins,
            pays: config.price_max > 0 && config.budget > 0,
            slots,
            spreads: spread::Spreads::open(&config.data_dir),
            upkeep: upkeep::Upkeep::open(&config.data_dir),
            metrics,
            config,
        };
        let node = Self { inner: Arc::new(inner), store };
        node.keep_slots().map_err(|error| StartError::Io("the slots' thread", error))?;
        for peer in &node.inner.config.peers {
            node.connect(*peer);
        }
        Ok(node)
    }

    /// Stops fetching and serving, writes and syncs what was put, and ends the threads. Readers
    /// that are left get errors.
    pub fn shutdown(&self) {
        self.prepare_stop();
        self.inner.slots.close();
        self.inner.reactor.shutdown();
        if let Some(thread) = self.inner.reactor_thread.lock().take() {
            let _ = thread.join();
        }
        self.inner.upkeep.stop();
        self.inner.discovery.shutdown();
        self.inner.ledger.shutdown();
        self.inner.disk.shutdown();
    }

    // --- Storing ---

    /// Stores all that `reader` gives as one pinned file.
    ///
    /// # Errors
    /// [`PutError`]; then nothing of it stays.
    pub fn put(&self, reader: &mut dyn Read) -> Result<Cid, PutError> {
        self.put_with(reader, PutOptions::default(), &mut |_| {}).map(|stored| stored.cid)
    }

    /// As [`Self::put`], with a choice; `progress` is told of bytes as they are read.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn put_with(
        &self,
        reader: &mut dyn Read,
        options: PutOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Stored, PutError> {
        if let Some(shape) =
            options.protect.filter(|_| options.profile.raw_leaves() && !options.wrap)
        {
            return self.put_protected(reader, options, shape, progress);
        }
        self.import(options, progress, |importer| importer.stream(reader))
    }

    /// Stores a file or a directory, pinned.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn put_path(
        &self,
        path: &Path,
        options: PutOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Stored, PutError> {
        if options.protect.is_some() && path.is_file() && !options.wrap {
            return self.put_file_protected(path, options, progress);
        }
        self.import(options, progress, |importer| importer.path(path))
    }

    fn import(
        &self,
        options: PutOptions,
        progress: &mut dyn FnMut(u64),
        import: impl FnOnce(&mut Importer<'_>) -> Result<Leaf, ImportError>,
    ) -> Result<Stored, PutError> {
        let (profile, chunker) = (options.profile, options.chunker());
        let wrap = options.wrap.then(|| options.name.clone().unwrap_or_default());
        self.store_dataset(options, |sink| {
            let (pool, workers) = (&self.inner.pool, &self.inner.workers);
            let mut importer =
                Importer { profile, chunker, pool, workers, sink, leaf: None, progress };
            let mut leaf = import(&mut importer)?;
            if let Some(name) = wrap {
                leaf = importer.wrap(name, leaf)?;
            }
            Ok((leaf.cid, leaf.size))
        })
    }

    /// Stores a stream of blocks (see [`crate::content::block_stream`]), pinned.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn put_blocks(
        &self,
        reader: &mut dyn Read,
        options: PutOptions,
    ) -> Result<Stored, PutError> {
        self.store_dataset(options, |sink| {
            block_stream::read(reader, &self.inner.pool, sink)
                .map_err(|error| ImportError::Read(None, error))
        })
    }

    // --- Reading ---

    /// Opens a file, from the store and the swarm.
    ///
    /// # Errors
    /// If its first block cannot be had, or it is no file.
    pub fn get(&self, cid: &Cid) -> Result<StoreStream, GetError> {
        self.open(cid, Scope::Network)
    }

    /// Opens a file, asking the swarm or not.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn open(&self, cid: &Cid, scope: Scope) -> Result<StoreStream, GetError> {
        let window = self.inner.config.limits.window_bytes_max as u64;
        StoreStream::open(self.source(cid, scope), window)
    }

    /// As [`Self::open`], where the file's first block was read already.
    ///
    /// # Errors
    /// If it is no file's.
    pub fn open_block(
        &self,
        cid: &Cid,
        block: &bytes::Bytes,
        scope: Scope,
    ) -> Result<StoreStream, GetError> {
        let window = self.inner.config.limits.window_bytes_max as u64;
        StoreStream::of_block(self.source(cid, scope), block, window)
    }

    /// One block.
    ///
    /// # Errors
    /// If it cannot be had.
    pub fn block(&self, cid: &Cid, scope: Scope) -> Result<bytes::Bytes, GetError> {
        self.source(cid, scope).block(cid)
    }

    /// The same node for one download: whatever it fetches from here on counts against one budget.
    #[must_use]
    pub fn for_one_download(&self) -> Self {
        Self { inner: self.inner.clone(), store: self.store.for_one_download() }
    }

    fn source(&self, cid: &Cid, scope: Scope) -> BlockSource {
        BlockSource::new(self.store.clone(), *cid, scope).with_mending(self.inner.mending.clone())
    }

    /// The CID that a path leads to, whatever its block is, and the way there.
    ///
    /// # Errors
    /// As [`resolve::follow`].
    pub fn follow(&self, root: &Cid, path: &[String], scope: Scope) -> Result<Followed, GetError> {
        resolve::follow(&mut self.source(root, scope), root, path)
    }

    /// Follows a path from a root, and looks at what is there.
    ///
    /// # Errors
    /// As [`resolve::resolve`].
    pub fn resolve(&self, root: &Cid, path: &[String], scope: Scope) -> Result<Resolved, GetError> {
        if let Some(resolved) = self.resolve_protected(root, path, scope)? {
            return Ok(resolved);
        }
        self.resolve_as_it_is(root, path, scope)
    }

    /// As [`Self::resolve`], but a protected manifest is linked data as any other.
    ///
    /// # Errors
    /// As [`resolve::resolve`].
    pub fn resolve_as_it_is(
        &self,
        root: &Cid,
        path: &[String],
        scope: Scope,
    ) -> Result<Resolved, GetError> {
        resolve::resolve(&mut self.source(root, scope), root, path)
    }

    /// The entries of a directory, at most `entries_max`.
    ///
    /// # Errors
    /// As [`resolve::list`].
    pub fn list(&self, cid: &Cid, scope: Scope, entries_max: usize) -> Result<Vec<Link>, GetError> {
        resolve::list(&mut self.source(cid, scope), cid, entries_max)
    }

    /// The blocks of a path and what it leads to, as a CAR.
    pub fn car(&self, followed: &Followed, options: WalkOptions, scope: Scope) -> CarStream {
        let root = followed.roots.first().copied().unwrap_or(followed.cid);
        let walk = CarWalk::new(&followed.trail, followed.cid, options);
        CarStream::new(self.source(&root, scope), walk, root)
    }

    /// Whether all blocks of a DAG are here.
    ///
    /// # Errors
    /// As [`car_import::walk_local`].
    pub fn is_here(&self, root: &Cid) -> Result<bool, CarImportError> {
        if self.dataset(root)?.is_some() {
            return Ok(true);
        }
        Ok(car_import::walk_local(&self.inner.disk, *root, &mut |_| {})? == 0)
    }

    /// Stores the blocks of a CAR, and pins its roots as far as all below them is here.
    ///
    /// # Errors
    /// As [`car_import::import`].
    pub fn import_car(
        &self,
        input: &mut dyn Read,
        progress: &mut dyn FnMut(u64),
    ) -> Result<CarImport, CarImportError> {
        let now = unix_seconds();
        let imported =
            car_import::import(&self.inner.disk, &self.inner.pool, input, now, progress)?;
        let pinned = imported.roots.iter().filter(|root| root.pinned);
        pinned.filter_map(|root| root.cid.parse().ok()).for_each(|root| {
            self.inner.discovery.announce(&root);
        });
        Ok(imported)
    }

    /// Keeps a dataset: fetches what lacks, and returns when all of it is verified and synced.
    ///
    /// # Errors
    /// If a block cannot be had; what came stays, and the next try goes on from there.
    pub fn pin(
        &self,
        cid: &Cid,
        progress: &mut dyn FnMut(&FetchProgress) -> bool,
    ) -> Result<FetchProgress, GetError> {
        self.run_pin(&self.begin_pin(cid, None), progress)
    }

    fn pin_plain(
        &self,
        cid: &Cid,
        progress: &mut dyn FnMut(&FetchProgress) -> bool,
    ) -> Result<FetchProgress, GetError> {
        let disk = &self.inner.disk;
        let dataset = disk.begin_dataset()?;
        let done = fetch_dataset(&self.store, *cid, dataset, progress)
            .and_then(|done| Ok((done, self.content_size(cid)?)));
        match done {
            Ok((done, size)) => {
                let info = DatasetInfo {
                    root: *cid,
                    size,
                    pinned: true,
                    expires: None,
                    name: None,
                    mimetype: None,
                    created: unix_seconds(),
                    protection: None,
                };
                self.finish_dataset(dataset, info)?;
                Ok(done)
            }
            Err(error) => {
                disk.abandon_dataset(dataset);
                Err(error)
            }
        }
    }

    /// Bytes of a file, or of all that a directory's entries say.
    fn content_size(&self, cid: &Cid) -> Result<u64, GetError> {
        Ok(content_size(cid, &self.block(cid, Scope::Local)?))
    }

    // --- The node and its peers ---

    /// Dials a peer, and again whenever the connection is lost.
    pub fn connect(&self, peer: PeerTarget) {
        let PeerTarget { id, address } = peer;
        self.inner.discovery.given(address);
        self.inner.reactor.send(Input::Address { address, peer: id, job: None, keep: true });
    }

    /// Who finds providers.
    pub fn discovery(&self) -> &Discovery {
        &self.inner.discovery
    }

    /// Who it is.
    pub fn peer_id(&self) -> PeerId {
        self.inner.peer_id
    }

    /// Where peers reach it.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.inner.addresses
    }

    /// How it runs.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }
}
