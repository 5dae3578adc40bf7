//! LocalStore first, then the Engine: one place that knows which blocks are being fetched and who
//! waits for them.

mod held;
mod purse;

pub use held::HeldBlock;
pub use purse::Purse;

use crate::{
    base::metrics::Metrics,
    data::block::Block,
    engine::{Input, JobId, Order, PurseId, WantError},
    net::reactor::{Delivery, ReactorHandle},
    store::disk::{DatasetId, Disk, StoreError},
};
use barrow_wire::{Cid, Multihash, Presence};
use held::Allowance;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    time::Instant,
};

/// The store with the swarm behind it. Cheap to clone.
#[derive(Clone)]
pub struct NetworkStore {
    shared: Arc<Shared>,
    /// What its retrievals pay from, unless each has its own.
    purse: Option<Arc<Purse>>,
}

struct Shared {
    disk: Disk,
    reactor: ReactorHandle,
    metrics: Arc<Metrics>,
    next_job: AtomicU64,
    next_purse: AtomicU64,
    wants: Mutex<Wants>,
    /// For blocks whose readers have not come to them; the store has these too.
    held: Allowance,
    /// For blocks that are needed in passing, and not stored.
    passing: Allowance,
}

/// Blocks of which a retrieval remembers that they passed.
const PASSED_MAX: usize = 1_024;

#[derive(Default)]
struct Wants {
    by_hash: HashMap<Multihash, Vec<Arc<Waiter>>>,
    /// Of each retrieval that goes on.
    waiters: BTreeMap<JobId, Arc<Waiter>>,
    /// Grows with each delivery, so that a look-up made without the lock can be told to be stale.
    deliveries: u64,
}

/// What a block that was fetched came to.
#[derive(Debug)]
pub enum Arrival {
    /// It is here.
    Here {
        /// Which.
        hash: Multihash,
        /// Its bytes.
        len: usize,
        /// The block itself, unless the holding limit was reached: then the store has it.
        block: Option<HeldBlock>,
        /// When it came; who waited may look later.
        at: Instant,
    },
    /// It could not be had.
    Failed {
        /// Which.
        hash: Multihash,
        /// Why.
        error: WantError,
    },
}

/// A retrieval that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetrievalSnapshot {
    /// What the engine calls it.
    pub job: JobId,
    /// What it fetches.
    pub root: Cid,
    /// Whether a dataset is made of it; else somebody reads it.
    pub is_kept: bool,
    /// What its reader is to have in all and has yet to get, if that is known.
    pub reading: Option<Reading>,
}

/// How far a reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that it did not get yet.
    pub left: u64,
}

struct Waiter {
    job: JobId,
    root: Cid,
    dataset: Option<DatasetId>,
    state: Mutex<WaiterState>,
}

#[derive(Default)]
struct WaiterState {
    arrivals: Vec<Arrival>,
    /// What is wanted in passing.
    passing: HashSet<Multihash>,
    /// What was, and came or was taken back: coming again, or after all, it is nobody's cache.
    passed: HashSet<Multihash>,
    waker: Option<Waker>,
    reading: Option<Reading>,
    /// Somebody ended it: whatever it wants fails.
    cancelled: bool,
    /// The retrieval is gone: what arrives now is nobody's.
    closed: bool,
}

impl NetworkStore {
    /// Joins a store and the reactor that fetches what it lacks. Retrievals together hold at most
    /// `held_bytes_max` bytes for their readers, and as many of what they want in passing.
    pub fn new(
        disk: Disk,
        reactor: ReactorHandle,
        metrics: Arc<Metrics>,
        held_bytes_max: usize,
    ) -> Self {
        let shared = Shared {
            disk,
            reactor,
            metrics,
            next_job: AtomicU64::new(1),
            next_purse: AtomicU64::new(1),
            wants: Mutex::default(),
            held: Allowance::new(held_bytes_max),
            passing: Allowance::new(held_bytes_max),
        };
        Self { shared: Arc::new(shared), purse: None }
    }

    /// The budget of the download that this store is for, or of one that begins.
    pub fn purse(&self) -> Arc<Purse> {
        self.purse.clone().unwrap_or_else(|| {
            let id = PurseId(self.shared.next_purse.fetch_add(1, Ordering::Relaxed));
            Arc::new(Purse::new(id, self.shared.reactor.clone()))
        })
    }

    /// The same store, whose retrievals all pay from one purse.
    #[must_use]
    pub fn paying_from(&self, purse: Arc<Purse>) -> Self {
        Self { shared: self.shared.clone(), purse: Some(purse) }
    }

    /// The same store for one download: with its purse, if it has one already.
    #[must_use]
    pub fn for_one_download(&self) -> Self {
        self.paying_from(self.purse())
    }

    /// The local store alone.
    pub fn disk(&self) -> &Disk {
        &self.shared.disk
    }

    /// Begins to fetch blocks of the dataset `root`. Blocks of a bulk retrieval go to `dataset`.
    pub fn retrieve(&self, root: Cid, order: Order, dataset: Option<DatasetId>) -> Retrieval {
        let purse = self.purse();
        let job = self.number_job();
        self.shared.reactor.send(Input::JobStarted { job, root, order, purse: purse.open() });
        let waiter = Arc::new(Waiter { job, root, dataset, state: Mutex::default() });
        self.shared.wants.lock().waiters.insert(job, waiter.clone());
        Retrieval { store: self.paying_from(purse), waiter }
    }

    /// Bytes of what is wanted in passing that may be held; what is more is stored.
    pub fn passing_bytes_max(&self) -> usize {
        self.shared.passing.bytes_max
    }

    /// A stored block for a reader who is about to come to it, if it may be held.
    pub fn hold(&self, block: &Block) -> Option<HeldBlock> {
        self.shared.held.hold(block)
    }

    /// A number that no other job has.
    pub fn number_job(&self) -> JobId {
        JobId(self.shared.next_job.fetch_add(1, Ordering::Relaxed))
    }

    /// Leaves out all numbers up to this one, which an earlier run gave.
    pub fn skip_jobs(&self, last: JobId) {
        self.shared.next_job.fetch_max(last.0.saturating_add(1), Ordering::Relaxed);
    }

    /// All retrievals that go on, the oldest first.
    pub fn retrievals(&self) -> Vec<RetrievalSnapshot> {
        let wants = self.shared.wants.lock();
        let all = wants.waiters.values().map(|waiter| RetrievalSnapshot {
            job: waiter.job,
            root: waiter.root,
            is_kept: waiter.dataset.is_some(),
            reading: waiter.state.lock().reading,
        });
        all.collect()
    }

    /// Has all that retrieve `root`, be it to keep it or to read it, end as cancelled.
    pub fn cancel(&self, root: &Cid, is_kept: bool) {
        let mut wants = self.shared.wants.lock();
        let all = wants.waiters.values();
        let ended = all.filter(|one| one.root == *root && one.dataset.is_some() == is_kept);
        let ended: Vec<Arc<Waiter>> = ended.cloned().collect();
        let ended: Vec<_> = ended
            .into_iter()
            .map(|waiter| {
                waiter.state.lock().cancelled = true;
                let open = wants.forget(waiter.job);
                (waiter, open)
            })
            .collect();
        drop(wants);
        for (waiter, open) in ended {
            self.shared.reactor.send(Input::Unwant { job: waiter.job, blocks: open.clone() });
            for hash in open {
                waiter.push(Arrival::Failed { hash, error: WantError::Cancelled });
            }
        }
    }
}

impl Wants {
    /// Nobody waits for anything of this job any more; gives what it waited for.
    fn forget(&mut self, job: JobId) -> Vec<Multihash> {
        let mut open = Vec::new();
        self.by_hash.retain(|hash, waiters| {
            let before = waiters.len();
            waiters.retain(|waiter| waiter.job != job);
            if waiters.len() < before {
                open.push(*hash);
            }
            !waiters.is_empty()
        });
        open
    }
}

impl NetworkStore {
    /// A block whose reader has left is cached all the same; a second copy of a hedged one is not.
    fn keep_unwanted(&self, block: Block) {
        match self.shared.disk.presence(&[*block.hash()]).as_deref() {
            Ok([Presence::DontHave]) => self.shared.disk.put(block, None),
            Ok(_) | Err(_) => self.shared.metrics.blocks_duplicate_total.add(1),
        }
    }
}

impl Delivery for NetworkStore {
    fn deliver(&self, block: Block) -> bool {
        let (hash, len) = (*block.hash(), block.len());
        let mut wants = self.shared.wants.lock();
        wants.deliveries += 1;
        let Some(waiters) = wants.by_hash.remove(&hash) else {
            let has_passed = wants.waiters.values().any(|waiter| waiter.has_passed(&hash));
            drop(wants);
            if !has_passed {
                self.keep_unwanted(block);
            }
            return !has_passed;
        };
        let held: Vec<(Option<HeldBlock>, bool)> =
            waiters.iter().map(|waiter| self.shared.hold_for(waiter, &block)).collect();
        let passes = held.iter().all(|(held, in_passing)| held.is_some() && *in_passing);
        if !passes {
            // What is needed in passing, and could not be held, is a cache.
            let keepers = waiters.iter().zip(&held).filter(|(_, (_, in_passing))| !in_passing);
            let mut datasets = keepers.filter_map(|(waiter, _)| waiter.dataset);
            // Under the lock: whoever does not find it among the wants finds it in the store.
            self.shared.disk.put(block, datasets.next());
            for dataset in datasets {
                self.shared.disk.reference(dataset, vec![hash]);
            }
        }
        drop(wants);
        let at = Instant::now();
        for (waiter, (block, _)) in waiters.into_iter().zip(held) {
            waiter.push(Arrival::Here { hash, len, block, at });
        }
        !passes
    }

    fn retain_waited(&self, job: JobId, blocks: &mut Vec<Multihash>) {
        let wants = self.shared.wants.lock();
        let waits = |waiters: &Vec<Arc<Waiter>>| waiters.iter().any(|waiter| waiter.job == job);
        blocks.retain(|hash| wants.by_hash.get(hash).is_some_and(waits));
    }

    fn waiting(&self, hash: &Multihash) -> Vec<JobId> {
        let wants = self.shared.wants.lock();
        let waiters = wants.by_hash.get(hash).into_iter().flatten();
        waiters.map(|waiter| waiter.job).collect()
    }

    fn fail(&self, job: JobId, hash: Multihash, error: WantError) {
        let mut wants = self.shared.wants.lock();
        let Some(waiters) = wants.by_hash.get_mut(&hash) else { return };
        let Some(at) = waiters.iter().position(|waiter| waiter.job == job) else { return };
        let waiter = waiters.swap_remove(at);
        waiter.state.lock().passing.remove(&hash);
        if waiters.is_empty() {
            wants.by_hash.remove(&hash);
        }
        drop(wants);
        waiter.push(Arrival::Failed { hash, error });
    }
}

impl Shared {
    /// The block for a waiter's hand, if it is of use there and may be held; and whether that is
    /// all that it is wanted for.
    fn hold_for(&self, waiter: &Waiter, block: &Block) -> (Option<HeldBlock>, bool) {
        match waiter.state.lock().end_passing(block.hash()) {
            true => (self.passing.hold(block), true),
            false if waiter.dataset.is_none() => (self.held.hold(block), false),
            false => (None, false),
        }
    }
}

impl WaiterState {
    /// Whether it was wanted in passing; it is no longer.
    fn end_passing(&mut self, hash: &Multihash) -> bool {
        let was_passing = self.passing.remove(hash);
        if was_passing {
            // What is forgotten here is a cache when it comes.
            if self.passed.len() == PASSED_MAX {
                self.passed.clear();
            }
            self.passed.insert(*hash);
        }
        was_passing
    }
}

impl Waiter {
    fn has_passed(&self, hash: &Multihash) -> bool {
        self.state.lock().passed.contains(hash)
    }

    /// Hands an arrival over, unless the retrieval is gone.
    fn push(&self, arrival: Arrival) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        state.arrivals.push(arrival);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// One reader's fetching: it says what it wants next, and takes what arrived. Dropping it takes
/// back every want that is still open.
pub struct Retrieval {
    store: NetworkStore,
    waiter: Arc<Waiter>,
}

impl Retrieval {
    /// Asks for `blocks`, none of which it waits for already, and gives those that are here: they
    /// need no fetching, with their lengths.
    ///
    /// # Errors
    /// If the store cannot be asked.
    pub fn want(&mut self, blocks: &[Multihash]) -> Result<Vec<(Multihash, u32)>, StoreError> {
        let shared = &self.store.shared;
        let before = shared.wants.lock().deliveries;
        let (mut here, mut lacking) = split(&shared.disk, blocks)?;
        let mut wants = shared.wants.lock();
        if wants.deliveries != before {
            let (since, still) = split(&shared.disk, &lacking)?;
            here.extend(since);
            lacking = still;
        }
        // What came could not be told from what a liar sends.
        lacking.retain(|hash| {
            let unverifiable = !hash.code().is_computed();
            if unverifiable {
                let error = WantError::Unverifiable;
                self.waiter.push(Arrival::Failed { hash: *hash, error });
            }
            !unverifiable
        });
        if self.waiter.state.lock().cancelled {
            for hash in lacking {
                self.waiter.push(Arrival::Failed { hash, error: WantError::Cancelled });
            }
            return Ok(here);
        }
        for hash in &lacking {
            self.waiter.state.lock().passed.remove(hash);
            wants.by_hash.entry(*hash).or_default().push(self.waiter.clone());
        }
        drop(wants);
        if !lacking.is_empty() {
            shared.reactor.send(Input::Want { job: self.waiter.job, blocks: lacking });
        }
        Ok(here)
    }

    /// As [`Self::want`], for blocks whose bytes are needed once: what can be held is not stored.
    ///
    /// # Errors
    /// If the store cannot be asked.
    pub fn want_in_passing(
        &mut self,
        blocks: &[Multihash],
    ) -> Result<Vec<(Multihash, u32)>, StoreError> {
        self.waiter.state.lock().passing.extend(blocks);
        let here = self.want(blocks)?;
        let mut state = self.waiter.state.lock();
        for (hash, _) in &here {
            state.passing.remove(hash);
        }
        drop(state);
        Ok(here)
    }

    /// Waits for these no longer.
    pub fn unwant(&mut self, blocks: Vec<Multihash>) {
        let shared = &self.store.shared;
        let mut wants = shared.wants.lock();
        for hash in &blocks {
            self.waiter.state.lock().end_passing(hash);
            if let Some(waiters) = wants.by_hash.get_mut(hash) {
                waiters.retain(|waiter| waiter.job != self.waiter.job);
                if waiters.is_empty() {
                    wants.by_hash.remove(hash);
                }
            }
        }
        drop(wants);
        shared.reactor.send(Input::Unwant { job: self.waiter.job, blocks });
    }

    /// What arrived since the last call; if nothing did, `waker` is woken when something does.
    pub fn arrivals(&mut self, waker: &Waker) -> Vec<Arrival> {
        let mut state = self.waiter.state.lock();
        if state.arrivals.is_empty() {
            state.waker = Some(waker.clone());
        }
        mem::take(&mut state.arrivals)
    }

    /// Says how far its reader is.
    pub fn note(&self, reading: Reading) {
        self.waiter.state.lock().reading = Some(reading);
    }
}

impl Drop for Retrieval {
    fn drop(&mut self) {
        let shared = &self.store.shared;
        let mut wants = shared.wants.lock();
        wants.forget(self.waiter.job);
        wants.waiters.remove(&self.waiter.job);
        drop(wants);
        let mut state = self.waiter.state.lock();
        state.closed = true;
        drop(mem::take(&mut state.arrivals));
        drop(state);
        shared.reactor.send(Input::JobEnded { job: self.waiter.job });
    }
}

/// Blocks that are here, with their lengths, and those that lack.
type Split = (Vec<(Multihash, u32)>, Vec<Multihash>);

fn split(disk: &Disk, blocks: &[Multihash]) -> Result<Split, StoreError> {
    let (mut here, mut lacking) = (Vec::new(), Vec::new());
    for (hash, presence) in blocks.iter().zip(disk.presence(blocks)?) {
        match presence {
            Presence::Have { len } | Presence::Complete { len } => here.push((*hash, len)),
            Presence::DontHave => lacking.push(*hash),
        }
    }
    Ok((here, lacking))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::pool::Pool,
        net::reactor::Setup,
        store::local_store::{LocalStore, StoreOptions},
    };

    #[test]
    fn what_was_wanted_in_passing_is_not_stored_when_it_comes_again_or_after_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(dir.path(), StoreOptions::default()).unwrap();
        let metrics = Arc::new(Metrics::default());
        let disk = Disk::start(store, Pool::new(8 << 20), metrics.clone()).unwrap();
        let setup = Setup::bind(&[]).unwrap();
        let store = NetworkStore::new(disk.clone(), setup.handle(), metrics, 1 << 20);
        let blocks = [1_u8, 2, 3].map(|n| Block::of(vec![n; 100].into()).unwrap());
        let [passes, taken_back, read] = blocks.each_ref().map(|block| *block.hash());
        let root = Cid::v1(barrow_wire::Codec::Raw, passes);
        let is_stored = |hash| disk.presence(&[hash]).unwrap() != [Presence::DontHave];
        let deliver = |n: usize| store.deliver(blocks[n].clone());

        let mut retrieval = store.retrieve(root, Order::Sequential, None);
        assert!(retrieval.want_in_passing(&[passes, taken_back]).unwrap().is_empty());
        assert!(retrieval.want(&[read]).unwrap().is_empty());
        retrieval.unwant(vec![taken_back, read]);
        // The first time, and as a hedged block comes a second time.
        assert!(!deliver(0) && !deliver(0));
        assert!(!deliver(1));
        assert!(!is_stored(passes) && !is_stored(taken_back));
        // What somebody meant to read is a cache.
        assert!(deliver(2) && is_stored(read));
        // Somebody wants it after all.
        assert!(retrieval.want(&[passes]).unwrap().is_empty());
        assert!(deliver(0) && is_stored(passes));
        drop(retrieval);
        disk.shutdown();
    }
}
