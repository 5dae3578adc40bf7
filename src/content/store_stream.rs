//! A dataset as a stream of verified bytes: it starts with the first block, asks for a window
//! ahead of its reader, and for no more.

use crate::{
    content::{
        mend::{ErasureError, MendThread, Mending, ReadingPlace},
        network_store::{Arrival, HeldBlock, NetworkStore, Reading, Retrieval},
    },
    data::unixfs::{FileWalk, Step, UnixFsError},
    engine::{Order, WantError},
    store::disk::StoreError,
};
use barrow_wire::{Cid, Multihash, Presence};
use bytes::Bytes;
use std::{
    collections::{HashMap, HashSet},
    fmt,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    sync::Arc,
    task::{Poll, Wake, Waker},
    thread::{self, Thread},
    time::Instant,
};

/// Whether the swarm is asked for what the store lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The store alone: no packet is sent.
    Local,
    /// The store, then the swarm.
    Network,
}

/// Why something could not be got.
#[derive(Debug)]
pub enum GetError {
    /// Nobody who could be asked has it.
    NotFound,
    /// Somebody has it and did not deliver it in time.
    Timeout,
    /// It costs more than may be spent.
    OverBudget,
    /// It is not here, and this build cannot check what a peer would send.
    Unverifiable,
    /// It is here, and no file; or a path that leads nowhere through it.
    NotAFile(UnixFsError),
    /// There is no such entry in a directory.
    NoSuchPath(String),
    /// The store fails.
    Store(StoreError),
    /// Shards of a protected dataset cannot be had or believed.
    Erasure(ErasureError),
    /// Whoever asked gave up.
    Cancelled,
}

impl fmt::Display for GetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str(
                "not in the store, and no known peer has it; connect one that does: barrow connect, or --peer",
            ),
            Self::Timeout => {
                f.write_str("a peer has it and did not deliver it in time; ask again, what came is kept")
            }
            Self::OverBudget => f.write_str("it costs more than the budget allows"),
            Self::Unverifiable => {
                f.write_str("its hash is blake3, which this build was made without")
            }
            Self::NotAFile(error) => write!(f, "not a file: {error}"),
            Self::NoSuchPath(name) => write!(f, "there is no {name:?} in that directory"),
            Self::Store(error) => error.fmt(f),
            Self::Erasure(error) => error.fmt(f),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl std::error::Error for GetError {}

impl From<StoreError> for GetError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<UnixFsError> for GetError {
    fn from(error: UnixFsError) -> Self {
        Self::NotAFile(error)
    }
}

impl From<WantError> for GetError {
    fn from(error: WantError) -> Self {
        match error {
            WantError::NoProvider => Self::NotFound,
            WantError::ProviderFailed => Self::Timeout,
            WantError::OverBudget => Self::OverBudget,
            WantError::Unverifiable => Self::Unverifiable,
            WantError::Cancelled => Self::Cancelled,
        }
    }
}

/// Blocks for one reader, from the store or the swarm, with what is fetched ahead of it.
pub struct BlockSource {
    store: NetworkStore,
    root: Cid,
    /// What discovery is asked for: the root, or the manifest that protects it.
    announced: Cid,
    scope: Scope,
    retrieval: Option<Retrieval>,
    /// What the swarm was asked for.
    asked: HashSet<Multihash>,
    /// What came before the reader did.
    held: HashMap<Multihash, HeldBlock>,
    failed: HashMap<Multihash, WantError>,
    /// What is ahead and was looked for already.
    looked_for: HashSet<Multihash>,
    /// How blocks are rebuilt, if the dataset is found to be protected once one lacks.
    mending: Option<Arc<Mending>>,
    mender: Option<MendThread>,
    place: ReadingPlace,
    /// Where the reader was when the swarm was first asked.
    first: u64,
}

impl BlockSource {
    /// A source of blocks of the dataset `root`.
    pub fn new(store: NetworkStore, root: Cid, scope: Scope) -> Self {
        Self {
            store: store.for_one_download(),
            root,
            announced: root,
            scope,
            retrieval: None,
            asked: HashSet::new(),
            held: HashMap::new(),
            failed: HashMap::new(),
            looked_for: HashSet::new(),
            mending: None,
            mender: None,
            place: ReadingPlace::default(),
            first: 0,
        }
    }

    /// Rebuilds what lacks, where the dataset is protected.
    #[must_use]
    pub fn with_mending(mut self, mending: Arc<Mending>) -> Self {
        self.mending = Some(mending);
        self
    }

    /// The block of `cid`, or a wake-up when there is news of it. `ahead` is what will be needed
    /// after it; it is fetched meanwhile, if anything has to be fetched at all.
    pub fn poll_block(
        &mut self,
        cid: &Cid,
        ahead: impl FnOnce() -> Vec<Cid>,
        waker: &Waker,
    ) -> Poll<Result<Bytes, GetError>> {
        let Some(hash) = cid.multihash() else {
            return Poll::Ready(Ok(Bytes::copy_from_slice(cid.identity().unwrap_or_default())));
        };
        if let Some(block) = self.mender.as_ref().and_then(|mender| mender.take(&hash)) {
            return Poll::Ready(Ok(block));
        }
        if self.retrieval.is_none() || self.mender.is_some() {
            // As long as everything is here, nothing is looked for ahead.
            match self.store.disk().get(&hash) {
                Ok(Some(block)) => {
                    self.mender.as_ref().inspect(|mender| mender.note_read(&hash));
                    return Poll::Ready(Ok(block.into_data()));
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
            self.look_for_protection();
            if let Some(mender) = &self.mender {
                match mender.poll(cid, self.place, self.store.disk(), waker) {
                    Poll::Ready(Ok(None)) => {}
                    Poll::Ready(Ok(Some(block))) => return Poll::Ready(Ok(block)),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            if self.scope == Scope::Local {
                return Poll::Ready(Err(GetError::NotFound));
            }
        }
        if self.retrieval.is_none() {
            self.retrieval = Some(self.store.retrieve(self.announced, Order::Sequential, None));
            self.first = self.place.position;
        }
        // A mender asks for stripes, and ahead of itself.
        let ahead = if self.mender.is_some() { Vec::new() } else { ahead() };
        self.poll_fetched(hash, &ahead, waker)
    }

    /// Begins to mend, if the dataset is known to be protected.
    fn look_for_protection(&mut self) {
        let Some(mending) = self.mending.clone().filter(|_| self.mender.is_none()) else { return };
        if let Some(manifest) = mending.protection(&self.store, &self.root) {
            match MendThread::start(&self.store, mending, manifest, self.scope) {
                Ok(mender) => {
                    self.mender = Some(mender);
                    // Peers announce what they keep by the manifest.
                    self.announced = manifest;
                }
                Err(error) => log::error!("nothing is mended: {error}"),
            }
        }
        self.mending = self.mending.take().filter(|_| self.mender.is_some());
    }

    fn poll_fetched(
        &mut self,
        hash: Multihash,
        ahead: &[Cid],
        waker: &Waker,
    ) -> Poll<Result<Bytes, GetError>> {
        if let Err(error) = self.look_ahead(hash, ahead) {
            return Poll::Ready(Err(error.into()));
        }
        self.note_reading();
        self.take_arrivals(waker);
        if let Some(block) = self.held.remove(&hash) {
            return Poll::Ready(Ok(block.data().clone()));
        }
        if let Some(error) = self.failed.remove(&hash) {
            return Poll::Ready(Err(error.into()));
        }
        if self.asked.contains(&hash) {
            return Poll::Pending;
        }
        match self.store.disk().get(&hash) {
            Ok(Some(block)) => Poll::Ready(Ok(block.into_data())),
            Ok(None) => {
                // It was here a moment ago: damaged, or given up for something else.
                self.looked_for.remove(&hash);
                waker.wake_by_ref();
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    fn note_reading(&self) {
        let ReadingPlace { position, end, size } = self.place;
        if let Some(retrieval) = self.retrieval.as_ref().filter(|_| size > 0) {
            let of = |from: u64| end.min(size).saturating_sub(from);
            retrieval.note(Reading { total: of(self.first), left: of(position) });
        }
    }

    fn look_ahead(&mut self, hash: Multihash, ahead: &[Cid]) -> Result<(), StoreError> {
        let Some(retrieval) = &mut self.retrieval else { return Ok(()) };
        let window: Vec<Multihash> =
            std::iter::once(hash).chain(ahead.iter().filter_map(Cid::multihash)).collect();
        let mut new = Vec::new();
        for hash in &window {
            let known = self.asked.contains(hash)
                || self.held.contains_key(hash)
                || self.failed.contains_key(hash);
            if self.looked_for.insert(*hash) && !known {
                new.push(*hash);
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        self.asked.extend(&new);
        for (here, _) in retrieval.want(&new)? {
            self.asked.remove(&here);
        }
        // Only what is ahead has to be remembered.
        let window: HashSet<Multihash> = window.into_iter().collect();
        self.looked_for.retain(|hash| window.contains(hash));
        Ok(())
    }

    fn take_arrivals(&mut self, waker: &Waker) {
        let Some(retrieval) = &mut self.retrieval else { return };
        loop {
            let arrivals = retrieval.arrivals(waker);
            if arrivals.is_empty() {
                return;
            }
            for arrival in arrivals {
                match arrival {
                    Arrival::Here { hash, block, .. } => {
                        self.asked.remove(&hash);
                        self.held.extend(block.map(|block| (hash, block)));
                    }
                    Arrival::Failed { hash, error } => {
                        self.asked.remove(&hash);
                        self.failed.insert(hash, error);
                    }
                }
            }
        }
    }

    /// Forgets what was asked for, which is then fetched no more.
    pub fn reset(&mut self) {
        let mending = self.mending.take();
        *self = Self { mending, ..Self::new(self.store.clone(), self.root, self.scope) };
    }

    /// As [`Self::poll_block`], but waits.
    ///
    /// # Errors
    /// If it cannot be had.
    pub fn block(&mut self, cid: &Cid) -> Result<Bytes, GetError> {
        wait(|waker| self.poll_block(cid, Vec::new, waker))
    }
}

/// A file being read: from its first byte on, or from any other.
///
/// Bytes are verified before they are given. [`Self::poll_chunk`] never waits for the network;
/// [`Read`] does.
pub struct StoreStream {
    source: BlockSource,
    walk: FileWalk,
    window_bytes: u64,
    /// What [`Read`] has left of the last chunk.
    rest: Bytes,
}

impl StoreStream {
    /// Opens the file `root`, whose first block is fetched at once. `window_bytes` are asked for
    /// ahead of the reader.
    ///
    /// # Errors
    /// If the first block cannot be had, or is no file's.
    pub fn open(mut source: BlockSource, window_bytes: u64) -> Result<Self, GetError> {
        let root = source.root;
        let block = source.block(&root)?;
        Self::of_block(source, &block, window_bytes)
    }

    /// As [`Self::open`], where the first block was read already.
    ///
    /// # Errors
    /// If it is no file's.
    pub fn of_block(
        source: BlockSource,
        block: &Bytes,
        window_bytes: u64,
    ) -> Result<Self, GetError> {
        let walk = FileWalk::new(source.root, block)?;
        Ok(Self { source, walk, window_bytes, rest: Bytes::new() })
    }

    /// Bytes of the file.
    pub const fn size(&self) -> u64 {
        self.walk.size()
    }

    /// Gives this range from now on. What was asked for ahead of a place far from there is given
    /// up.
    pub fn seek_to(&mut self, range: Range<u64>) {
        self.rest = Bytes::new();
        if range.start.abs_diff(self.walk.position()) > self.window_bytes {
            self.source.reset();
        }
        self.walk.seek(range);
    }

    /// Whether the next block lacks here and would be had by whole stripes of what is protected.
    pub fn needs_stripes(&mut self) -> bool {
        let Step::Need(cid) = self.walk.step() else { return false };
        let source = &self.source;
        let lacks = cid.multihash().is_some_and(|hash| {
            matches!(source.store.disk().presence(&[hash]).as_deref(), Ok([Presence::DontHave]))
        });
        let protection = |mending: &Arc<Mending>| mending.protection(&source.store, &source.root);
        lacks && source.mending.as_ref().and_then(protection).is_some()
    }

    /// The next bytes: at most a block, none at the end. While the swarm is asked it is pending,
    /// and `waker` is woken when there is news.
    pub fn poll_chunk(&mut self, waker: &Waker) -> Poll<Option<Result<Bytes, GetError>>> {
        loop {
            let cid = match self.walk.step() {
                Step::Content(bytes) => return Poll::Ready(Some(Ok(bytes))),
                Step::Done => return Poll::Ready(None),
                Step::Need(cid) => cid,
            };
            let ahead = || self.walk.ahead(self.window_bytes);
            self.source.place = ReadingPlace {
                position: self.walk.position(),
                end: self.walk.end(),
                size: self.walk.size(),
            };
            let block = match self.source.poll_block(&cid, ahead, waker) {
                Poll::Ready(Ok(block)) => block,
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                Poll::Pending => return Poll::Pending,
            };
            if let Err(error) = self.walk.supply(&block) {
                return Poll::Ready(Some(Err(error.into())));
            }
        }
    }
}

impl StoreStream {
    /// As [`Self::poll_chunk`], but waits.
    pub fn wait_chunk(&mut self) -> Option<Result<Bytes, GetError>> {
        wait(|waker| self.poll_chunk(waker))
    }
}

impl Read for StoreStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            match self.wait_chunk() {
                Some(Ok(bytes)) => self.rest = bytes,
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => return Ok(0),
            }
        }
        let len = self.rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&self.rest.split_to(len));
        Ok(len)
    }
}

impl Seek for StoreStream {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let here = self.walk.position() - self.rest.len() as u64;
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.size().checked_add_signed(offset),
            SeekFrom::Current(offset) => here.checked_add_signed(offset),
        };
        let target = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        if target != here {
            self.seek_to(target..u64::MAX);
        }
        Ok(target)
    }
}

/// Polls until there is an answer or it is too late; the thread sleeps meanwhile.
pub(crate) fn wait_until<T>(
    deadline: Instant,
    mut poll: impl FnMut(&Waker) -> Poll<T>,
) -> Option<T> {
    let waker = Waker::from(Arc::new(ThreadWaker(thread::current())));
    loop {
        match poll(&waker) {
            Poll::Ready(value) => return Some(value),
            Poll::Pending => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return None;
                }
                thread::park_timeout(left);
            }
        }
    }
}

/// Wakes a thread that waits for one poll after the other.
struct ThreadWaker(Thread);

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls until there is an answer; the thread sleeps meanwhile.
pub(crate) fn wait<T>(mut poll: impl FnMut(&Waker) -> Poll<T>) -> T {
    let waker = Waker::from(Arc::new(ThreadWaker(thread::current())));
    loop {
        match poll(&waker) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}
