//! The disk threads: one writer, a few readers.
//!
//! A block that was put is readable at once, from the table of pending blocks, until the index
//! has it. A queued block holds memory of the pool, which bounds the writer's queue in bytes.

mod faults;
mod verify;
mod writer;

pub use crate::store::local_store::{DatasetId, DatasetInfo, Removed, StoreError};
pub use verify::{Looked, VerifyReport};

use crate::{
    base::{clock::unix_seconds, metrics::Metrics, pool::Pool},
    data::block::Block,
    store::local_store::{Dataset, LocalStore, Reading, StoreReader},
};
use barrow_wire::{Cid, Multihash, Presence};
use crossbeam::channel::{Receiver, Sender, bounded};
use faults::Faults;
use parking_lot::{Condvar, Mutex};
use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

/// Operations that may wait for the writer. A put holds at least 4 KiB of the pool's 30 MiB.
const WRITES_MAX: usize = 16_384;
/// Reads that may wait for a reader thread; each peer has a bounded number under way.
const READS_MAX: usize = 4_096;
/// Reader threads, beside the callers that read on their own.
const READERS: usize = 2;
/// Connections to the index that callers share.
const SHARED_READERS_MAX: usize = 4;
/// Blocks of which it is remembered until the next commit that they were read.
const TOUCHED_MAX: usize = 4_096;
/// Damaged blocks that wait for somebody to bring them back; of more, `verify` tells.
const DAMAGED_MAX: usize = 256;

type Done<T> = Box<dyn FnOnce(Result<T, StoreError>) + Send>;
type Control = Box<dyn FnOnce(&mut LocalStore) + Send>;

enum Write {
    // In boxes: the queue has a place for each from the start, which counts while idle.
    Put(Box<(Block, Option<DatasetId>)>),
    Reference(Box<(DatasetId, Vec<Multihash>)>),
    Control(Control),
    Stop,
}

enum Read {
    Block(Multihash, Done<Option<Block>>),
    Presence(Vec<Multihash>, Done<Vec<Presence>>),
}

/// A handle on the disk threads. Cheap to clone.
#[derive(Clone)]
pub struct Disk(Arc<Shared>);

struct Shared {
    writes: Sender<Write>,
    reads: Mutex<Option<Sender<Read>>>,
    pending: Mutex<HashMap<Multihash, Block>>,
    readers: Mutex<Vec<StoreReader>>,
    reader_returned: Condvar,
    pool: Pool,
    metrics: Arc<Metrics>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The first write error of each dataset, told when it is to be finished.
    failed: Mutex<HashMap<DatasetId, StoreError>>,
    /// What reads came to lately.
    faults: Faults,
    /// Why the store does not do all that it promises.
    unhealthy: Mutex<Option<String>>,
    /// Blocks that were read: the cache goes in the order of its last use.
    touched: Mutex<HashSet<Multihash>>,
    /// Blocks that were found damaged and that the writer has yet to quarantine: they are not here.
    forgotten: Mutex<HashSet<Multihash>>,
    /// Blocks that were found damaged, for whoever brings them back.
    damaged: (Sender<Multihash>, Receiver<Multihash>),
    /// [`LocalStore::changes`], as far as they can be seen by readers.
    changes: AtomicU64,
}

impl Disk {
    /// Starts the threads.
    ///
    /// # Errors
    /// If a thread or a connection to the index cannot be made.
    pub fn start(store: LocalStore, pool: Pool, metrics: Arc<Metrics>) -> Result<Self, StoreError> {
        let (writes, writes_in) = bounded(WRITES_MAX);
        let (reads, reads_in) = bounded(READS_MAX);
        let readers = (0..SHARED_READERS_MAX).map(|_| store.reader()).collect::<Result<_, _>>()?;
        let shared = Arc::new(Shared {
            writes,
            reads: Mutex::new(Some(reads)),
            pending: Mutex::default(),
            readers: Mutex::new(readers),
            reader_returned: Condvar::new(),
            pool,
            metrics,
            threads: Mutex::default(),
            failed: Mutex::default(),
            faults: Faults::default(),
            unhealthy: Mutex::default(),
            touched: Mutex::default(),
            forgotten: Mutex::default(),
            damaged: bounded(DAMAGED_MAX),
            changes: AtomicU64::new(0),
        });
        let mut threads = Vec::new();
        for n in 0..READERS {
            let (disk, reads) = (Self(shared.clone()), reads_in.clone());
            threads.push(spawn(&format!("disk-reader-{n}"), move || disk.serve_reads(&reads))?);
        }
        let disk = Self(shared.clone());
        // Before anybody can ask what there is.
        disk.tell(&store);
        threads.push(spawn("disk-writer", move || disk.write(store, &writes_in))?);
        *shared.threads.lock() = threads;
        Ok(Self(shared))
    }

    // --- Writing ---

    /// Stores a block, readable as soon as this returns. A write that fails is told when its
    /// dataset is finished.
    pub fn put(&self, block: Block, dataset: Option<DatasetId>) {
        self.0.pending.lock().insert(*block.hash(), block.clone());
        let _ = self.0.writes.send(Write::Put(Box::new((block, dataset))));
    }

    /// Notes that `dataset` refers to blocks that are here already.
    pub fn reference(&self, dataset: DatasetId, blocks: Vec<Multihash>) {
        let _ = self.0.writes.send(Write::Reference(Box::new((dataset, blocks))));
    }

    /// Begins a dataset: its blocks are kept while it is being stored.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub fn begin_dataset(&self) -> Result<DatasetId, StoreError> {
        self.control(|store| Ok(store.begin_dataset()))
    }

    /// Makes a dataset whole. Once this returns without an error it outlives a power cut.
    ///
    /// # Errors
    /// The first that storing one of its blocks had, or that of the sync.
    pub fn finish_dataset(&self, id: DatasetId, info: DatasetInfo) -> Result<(), StoreError> {
        let shared = self.0.clone();
        self.control(move |store| {
            if let Some(error) = shared.failed.lock().remove(&id) {
                store.abandon_dataset(id)?;
                return Err(error);
            }
            store.finish_dataset(id, info)
        })
    }

    /// Waits until what was put so far of an open dataset is written; it is not synced.
    ///
    /// # Errors
    /// The first that storing one of its blocks had.
    pub fn await_dataset(&self, id: DatasetId) -> Result<(), StoreError> {
        let shared = self.0.clone();
        self.control(move |_| shared.failed.lock().remove(&id).map_or(Ok(()), Err))
    }

    /// Makes what was put so far of an open dataset outlive a power cut.
    ///
    /// # Errors
    /// The first that storing one of its blocks had, or that of the sync.
    pub fn check_dataset(&self, id: DatasetId) -> Result<(), StoreError> {
        let shared = self.0.clone();
        self.control(move |store| {
            let failed = shared.failed.lock().remove(&id);
            failed.map_or_else(|| store.sync(), Err)
        })
    }

    /// Leaves a dataset unfinished; its blocks become cache.
    pub fn abandon_dataset(&self, id: DatasetId) {
        self.0.failed.lock().remove(&id);
        let abandon = move |store: &mut LocalStore| {
            if let Err(error) = store.abandon_dataset(id) {
                log::warn!("an unfinished dataset is left until the next start: {error}");
            }
        };
        let _ = self.0.writes.send(Write::Control(Box::new(abandon)));
    }

    /// Gives up an unfinished dataset; the space of what only it has is given back.
    pub fn discard_dataset(&self, id: DatasetId) {
        self.0.failed.lock().remove(&id);
        let discard = move |store: &mut LocalStore| {
            if let Err(error) = store.discard_dataset(id) {
                log::warn!("an unfinished dataset is left until the next start: {error}");
            }
        };
        let _ = self.0.writes.send(Write::Control(Box::new(discard)));
    }

    /// Makes everything put so far outlive a power cut.
    ///
    /// # Errors
    /// If the sync fails.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.control(LocalStore::sync)
    }

    /// Pins or unpins a dataset; `false` if there is none of this root.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_pinned(&self, root: &Cid, pinned: bool) -> Result<bool, StoreError> {
        let root = *root;
        self.control(move |store| store.set_pinned(&root, pinned))
    }

    /// Pins a dataset until a second of Unix time; `false` if there is none of this root.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn pin_until(&self, root: &Cid, end: u64) -> Result<bool, StoreError> {
        let root = *root;
        self.control(move |store| store.pin_until(&root, end))
    }

    /// Removes a dataset and the blocks that only it refers to; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn remove_dataset(&self, root: &Cid) -> Result<Option<Removed>, StoreError> {
        let root = *root;
        self.control(move |store| store.remove_dataset(&root))
    }

    /// Removes the datasets whose pin has ended by then.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn remove_expired(&self, now: u64) -> Result<Removed, StoreError> {
        self.control(move |store| store.remove_expired(now))
    }

    /// Removes datasets that are not pinned, or no longer, and all that no dataset refers to.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn gc(&self) -> Result<Removed, StoreError> {
        self.control(|store| {
            store.set_time(now());
            store.gc()
        })
    }

    fn control<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut LocalStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = bounded(1);
        let disk = self.clone();
        let act: Control = Box::new(move |store| {
            let done = act(store);
            // Before anybody is told that it is done.
            disk.tell(store);
            let _ = answer.send(done);
        });
        self.0.writes.send(Write::Control(act)).map_err(|_| StoreError::Closed)?;
        answered.recv().unwrap_or(Err(StoreError::Closed))
    }

    // --- Reading, on the caller's thread ---

    /// Returns the block, if it is here and sound. A damaged one is quarantined and named in the log.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] while the drive does not return it, or if the index cannot be read.
    pub fn get(&self, hash: &Multihash) -> Result<Option<Block>, StoreError> {
        if let Some(block) = self.0.pending.lock().get(hash) {
            return Ok(Some(block.clone()));
        }
        if self.0.forgotten.lock().contains(hash) {
            return Ok(None);
        }
        let mut touched = self.0.touched.lock();
        if touched.len() < TOUCHED_MAX {
            touched.insert(*hash);
        }
        drop(touched);
        match self.read(hash, false)? {
            Reading::Found(block) => Ok(Some(block)),
            Reading::Absent => Ok(None),
            Reading::Damaged => {
                self.quarantine(hash);
                Ok(None)
            }
            Reading::Unreadable(error) => Err(StoreError::Unreadable(error)),
            Reading::Misplaced(pack) => Err(StoreError::Misplaced(pack)),
        }
    }

    /// Reads a block, a quarantined one only if it is asked for. Where the index turns out to be
    /// wrong it is corrected first, which waits for the writer: nothing of the caller's is held.
    fn read(&self, hash: &Multihash, quarantined: bool) -> Result<Reading, StoreError> {
        let read = || {
            let len =
                self.with_reader(|reader| match quarantined || !reader.is_quarantined(hash)? {
                    true => reader.len_to_read(hash),
                    false => Ok(None),
                })?;
            let Some(len) = len else { return Ok(Reading::Absent) };
            // The wait for memory is between two uses of a reader, and not during one: a thread that
            // has the memory may need a reader before it can release it.
            let buffer = self.0.pool.take(len);
            self.with_reader(|reader| reader.read_into(hash, buffer))
        };
        let mut reading = read()?;
        if let Reading::Misplaced(pack) = reading {
            self.0.faults.note_finding();
            self.control(move |store| store.correct_pack(pack))?;
            reading = match read()? {
                // No record of it is left that can be found: it is as good as damaged.
                Reading::Absent => Reading::Damaged,
                reading @ (Reading::Found(_)
                | Reading::Damaged
                | Reading::Misplaced(_)
                | Reading::Unreadable(_)) => reading,
            };
        }
        match &reading {
            Reading::Unreadable(error) => self.0.faults.note_unreadable(error),
            Reading::Found(_) => self.0.faults.note_readable(),
            Reading::Absent | Reading::Damaged | Reading::Misplaced(_) => {}
        }
        Ok(reading)
    }

    /// The datasets that refer to a block, here or not.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn datasets_of(&self, hash: &Multihash) -> Result<Vec<Dataset>, StoreError> {
        self.with_reader(|reader| reader.datasets_of(hash))
    }

    /// What is here of each of these.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn presence(&self, hashes: &[Multihash]) -> Result<Vec<Presence>, StoreError> {
        let mut found: Vec<Option<Presence>> = {
            let pending = self.0.pending.lock();
            let here = |hash| pending.get(hash).map(|block| have(block.len()));
            hashes.iter().map(here).collect()
        };
        let forgotten = self.0.forgotten.lock();
        for (hash, found) in hashes.iter().zip(&mut found) {
            if found.is_none() && forgotten.contains(hash) {
                *found = Some(Presence::DontHave);
            }
        }
        drop(forgotten);
        if found.iter().all(Option::is_some) {
            return Ok(found.into_iter().flatten().collect());
        }
        self.with_reader(|reader| {
            for (hash, found) in hashes.iter().zip(&mut found) {
                if found.is_none() {
                    *found = Some(reader.presence(hash)?);
                }
            }
            Ok(found.into_iter().flatten().collect())
        })
    }

    /// All finished datasets, the oldest first.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn datasets(&self) -> Result<Vec<Dataset>, StoreError> {
        self.with_reader(|reader| reader.datasets())
    }

    /// Datasets whose pin has ended by then, the oldest first.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn expired(&self, now: u64) -> Result<Vec<Dataset>, StoreError> {
        self.with_reader(|reader| reader.expired(now))
    }

    /// The finished dataset of this root.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn dataset(&self, root: &Cid) -> Result<Option<Dataset>, StoreError> {
        let Some(hash) = root.multihash() else { return Ok(None) };
        self.with_reader(|reader| reader.dataset(&hash))
    }

    fn with_reader<T>(
        &self,
        read: impl FnOnce(&mut StoreReader) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut readers = self.0.readers.lock();
        let mut reader = loop {
            if let Some(reader) = readers.pop() {
                break reader;
            }
            self.0.reader_returned.wait(&mut readers);
        };
        drop(readers);
        let result = read(&mut reader);
        self.0.readers.lock().push(reader);
        self.0.reader_returned.notify_one();
        if result.as_ref().is_err_and(StoreError::is_damaged_index) {
            // Whoever finds the queue full is not the last one to meet it.
            let doubt = |store: &mut LocalStore| store.doubt_index();
            let _ = self.0.writes.try_send(Write::Control(Box::new(doubt)));
        }
        result
    }

    // --- Reading, on a reader thread ---

    /// Reads a block, and calls `done` on a reader thread.
    pub fn read_then(&self, hash: Multihash, done: Done<Option<Block>>) {
        self.enqueue(Read::Block(hash, done));
    }

    /// Looks blocks up, and calls `done` on a reader thread.
    pub fn presence_then(&self, hashes: Vec<Multihash>, done: Done<Vec<Presence>>) {
        self.enqueue(Read::Presence(hashes, done));
    }

    fn enqueue(&self, read: Read) {
        let refused = match &*self.0.reads.lock() {
            Some(reads) => reads.try_send(read).err().map(|error| error.into_inner()),
            None => Some(read),
        };
        match refused {
            None => {}
            Some(Read::Block(_, done)) => done(Err(StoreError::Closed)),
            Some(Read::Presence(_, done)) => done(Err(StoreError::Closed)),
        }
    }

    fn serve_reads(&self, reads: &Receiver<Read>) {
        for read in reads {
            match read {
                Read::Block(hash, done) => done(self.get(&hash)),
                Read::Presence(hashes, done) => done(self.presence(&hashes)),
            }
        }
    }

    // --- The node's view ---

    /// Grows when something is no longer here, or told of in another way: what was read while it
    /// had another value may be untrue.
    pub fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Acquire)
    }

    /// Whether the store takes writes, and finds what it has.
    ///
    /// # Errors
    /// The reason why it does not.
    pub fn health(&self) -> Result<(), String> {
        let reason = self.0.unhealthy.lock().clone().or_else(|| self.0.faults.reason());
        reason.map_or(Ok(()), Err)
    }

    /// Writes and syncs what was put, and ends the threads.
    pub fn shutdown(&self) {
        let _ = self.0.writes.send(Write::Stop);
        *self.0.reads.lock() = None;
        let threads = std::mem::take(&mut *self.0.threads.lock());
        for thread in threads {
            let _ = thread.join();
        }
    }
}

/// As many seconds as the index has place for.
fn now() -> u32 {
    u32::try_from(unix_seconds()).unwrap_or(u32::MAX)
}

fn have(len: usize) -> Presence {
    Presence::Have { len: u32::try_from(len).expect("a block is at most 2 MiB") }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(run)
}
