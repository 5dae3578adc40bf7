//! Obtaining the shards of a stripe: from the store, from peers, or rebuilt from any k others.
//!
//! A [`Mender`] blocks, and so lives on a thread that may: a stream's own (see
//! [`MendThread`]), or that of whoever pins or repairs.

mod context;
mod punctuality;
mod rebuild;
mod thread;

pub use context::{ErasureError, Mending};
pub use thread::{MendThread, ReadingPlace};

use punctuality::Punctuality;
use rebuild::Rows;

use crate::{
    disk::DatasetId,
    engine::{Order, WantError},
    erasure::{Code, List, Manifest, Nodes, Stripe},
    network_store::{Arrival, NetworkStore, Retrieval},
    store_stream::{BlockSource, GetError, Scope, wait_until},
};
use barrow_wire::{Cid, Multihash, Presence};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

/// Lists that are kept, of some 45 KiB on disk and some 200 KiB in memory.
const LISTS_KEPT: usize = 4;
/// A shard is a straggler after so long without any other, at least.
const HEDGE_MIN: Duration = Duration::from_millis(20);
/// The same while nothing has come at all: peers may have to be found and dialed first.
const HEDGE_FIRST: Duration = Duration::from_millis(500);
/// The same for whoever only wants to keep a shard: others in its place would cost k times as much.
const HEDGE_KEEPING: Duration = Duration::from_secs(2);
/// A shard is a straggler after so many times the mean time between two.
const HEDGE_TIMES: u32 = 4;
/// Whoever waits looks so often whether anybody still wants it.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Stripes asked for ahead at most.
const AHEAD_MAX: u64 = 64;

/// A wish of a stripe's shards, while they come.
struct Wish {
    number: u64,
    stripe: Arc<Stripe>,
    /// The hash of each place; none where the stripe is padded.
    hashes: Vec<Option<Multihash>>,
    here: Vec<bool>,
    /// Places that are not waited for any longer.
    given_up: HashSet<usize>,
}

impl Wish {
    fn count(&self) -> usize {
        self.here.iter().filter(|here| **here).count()
    }

    /// The places of a block: with one data shard, all parity is equal to it.
    fn places_of(&self, hash: &Multihash) -> Vec<usize> {
        let places = self.hashes.iter().enumerate();
        places.filter(|(_, other)| other.as_ref() == Some(hash)).map(|(place, _)| place).collect()
    }
}

/// Obtains shards of one protected dataset.
pub struct Mender {
    store: NetworkStore,
    mending: Arc<Mending>,
    scope: Scope,
    cid: Cid,
    manifest: Arc<Manifest>,
    code: Code,
    dataset: Option<DatasetId>,
    blocks: BlockSource,
    lists: VecDeque<(usize, Arc<List>)>,
    retrieval: Option<Retrieval>,
    /// What peers were asked for and did not bring yet.
    asked: HashSet<Multihash>,
    failed: HashSet<Multihash>,
    /// Shards that came, of stripes that others are lost of.
    held: HashMap<Multihash, Bytes>,
    /// How punctual each place is.
    slots: Vec<Punctuality>,
    last_arrival: Option<Instant>,
    interval: Duration,
    /// The factors used last, for the losses of all stripes are often the same.
    rows: Option<Rows>,
    /// A shard is no straggler before this time.
    hedge_min: Duration,
    /// Bytes of stripes that are asked for ahead.
    ahead_bytes: u64,
    /// No stripe from this one on is asked for ahead.
    ahead_end: u64,
}

impl Mender {
    /// Reads the manifest `cid`. What is obtained goes to `dataset`, if there is one.
    ///
    /// # Errors
    /// If it cannot be had, or is none.
    pub fn open(
        store: NetworkStore,
        mending: Arc<Mending>,
        cid: Cid,
        scope: Scope,
        dataset: Option<DatasetId>,
    ) -> Result<Self, GetError> {
        let mut blocks = BlockSource::new(store.clone(), cid, scope);
        let manifest = Arc::new(Manifest::decode(&blocks.block(&cid)?)?);
        mending.learn(&manifest.root, cid);
        Ok(Self {
            store,
            mending,
            scope,
            cid,
            code: Code::new(manifest.shape),
            slots: vec![Punctuality::default(); manifest.shape.shards()],
            manifest,
            dataset,
            blocks,
            lists: VecDeque::new(),
            retrieval: None,
            asked: HashSet::new(),
            failed: HashSet::new(),
            held: HashMap::new(),
            last_arrival: None,
            interval: Duration::ZERO,
            rows: None,
            hedge_min: HEDGE_MIN,
            ahead_bytes: 0,
            ahead_end: u64::MAX,
        })
    }

    /// Asks for so many bytes ahead of the stripe that is being obtained.
    #[must_use]
    pub fn with_ahead(mut self, bytes: u64) -> Self {
        self.ahead_bytes = bytes;
        self
    }

    /// Nobody waits for the next byte: a shard that is late is waited for.
    #[must_use]
    pub fn with_patience(mut self) -> Self {
        self.hedge_min = HEDGE_KEEPING;
        self
    }

    /// Asks for nothing ahead from stripe `end` on.
    pub fn read_until(&mut self, end: u64) {
        self.ahead_end = end;
    }

    /// What it works by.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// A list of the manifest.
    ///
    /// # Errors
    /// If its block cannot be had, or lies.
    pub fn list(&mut self, index: usize) -> Result<Arc<List>, GetError> {
        if let Some((_, list)) = self.lists.iter().find(|(other, _)| *other == index) {
            return Ok(list.clone());
        }
        let block = self.blocks.block(&self.manifest.lists[index])?;
        let list = Arc::new(List::decode(&block, &self.manifest, index)?);
        if self.lists.len() == LISTS_KEPT {
            self.lists.pop_front();
        }
        self.lists.push_back((index, list.clone()));
        Ok(list)
    }

    /// A block that lists interior blocks.
    ///
    /// # Errors
    /// If it cannot be had, or lies.
    pub fn nodes(&mut self, index: usize) -> Result<Nodes, GetError> {
        let block = self.blocks.block(&self.manifest.nodes[index])?;
        Ok(Nodes::decode(&block, &self.manifest, index)?)
    }

    /// A block of the manifest or of the interior, which is in no stripe.
    ///
    /// # Errors
    /// If it cannot be had.
    pub fn plain_block(&mut self, cid: &Cid) -> Result<Bytes, GetError> {
        self.blocks.block(cid)
    }

    /// One stripe.
    ///
    /// # Errors
    /// If its list cannot be had, or lies.
    pub fn stripe(&mut self, number: u64) -> Result<Arc<Stripe>, GetError> {
        let index = self.manifest.list_of(number);
        let first = self.manifest.stripes_of(index).start;
        let list = self.list(index)?;
        let at = usize::try_from(number - first).expect("an index of the list");
        Ok(Arc::new(list.0[at].clone()))
    }

    /// The stripe that has this data shard, looked for first where `share` of all stripes are
    /// before it.
    ///
    /// # Errors
    /// If a list cannot be had, or lies.
    pub fn find(&mut self, hash: &Multihash, share: f64) -> Result<Option<u64>, GetError> {
        let count = self.manifest.lists.len();
        let guess = ((share * self.manifest.stripes() as f64) as u64)
            .min(self.manifest.stripes().saturating_sub(1));
        let guess = if count == 0 { 0 } else { self.manifest.list_of(guess) };
        let kept: Vec<usize> = self.lists.iter().map(|(index, _)| *index).collect();
        let around = (0..count).flat_map(|step| [guess + step, guess.wrapping_sub(step)]);
        let order: Vec<usize> = kept.into_iter().chain(around.filter(|at| *at < count)).collect();
        for index in order {
            let first = self.manifest.stripes_of(index).start;
            let list = self.list(index)?;
            let has = |stripe: &Stripe| {
                stripe.data.iter().any(|(cid, _)| cid.multihash().as_ref() == Some(hash))
            };
            if let Some(at) = list.0.iter().position(has) {
                return Ok(Some(first + at as u64));
            }
        }
        Ok(None)
    }

    /// Brings the shards at `places` of a stripe into the store. `tell` hears of each one that
    /// comes, and ends it with `false`.
    ///
    /// # Errors
    /// [`ErasureError::StripeLost`], or the store's.
    pub fn obtain(
        &mut self,
        number: u64,
        places: &[usize],
        tell: &mut dyn FnMut(&Multihash) -> bool,
    ) -> Result<(), GetError> {
        let mut wish = self.wish(number)?;
        let obtained = self.obtain_wish(&mut wish, places, tell);
        self.let_go(&wish);
        obtained
    }

    fn obtain_wish(
        &mut self,
        wish: &mut Wish,
        places: &[usize],
        tell: &mut dyn FnMut(&Multihash) -> bool,
    ) -> Result<(), GetError> {
        loop {
            let lacking: Vec<usize> =
                places.iter().copied().filter(|place| !wish.here[*place]).collect();
            if lacking.is_empty() {
                return Ok(());
            }
            let enough = wish.count() >= self.manifest.shape.data();
            let hopeless = lacking.iter().all(|place| self.is_given_up(wish, *place));
            if enough && (self.asked_none(wish, &lacking) || hopeless) {
                self.rebuild(wish, &lacking, tell)?;
                continue;
            }
            if self.scope == Scope::Local {
                return Err(self.lost(wish));
            }
            self.ask(wish, &lacking)?;
            self.ask_ahead(wish.number, places)?;
            self.wait(wish, tell)?;
        }
    }

    fn wish(&mut self, number: u64) -> Result<Wish, GetError> {
        let stripe = self.stripe(number)?;
        let shape = self.manifest.shape;
        let mut hashes = vec![None; shape.shards()];
        for (place, hash) in stripe.shards(shape) {
            hashes[place] = Some(hash);
        }
        let known: Vec<Multihash> = hashes.iter().flatten().copied().collect();
        let present: HashSet<Multihash> = known
            .iter()
            .zip(self.store.disk().presence(&known)?)
            .filter(|(_, presence)| *presence != Presence::DontHave)
            .map(|(hash, _)| *hash)
            .collect();
        // What pads a stripe is zeros, and always here.
        let here =
            hashes.iter().map(|hash| hash.is_none_or(|hash| present.contains(&hash))).collect();
        Ok(Wish { number, stripe, hashes, here, given_up: HashSet::new() })
    }

    fn lost(&self, wish: &Wish) -> GetError {
        let needed = self.manifest.shape.data();
        let (stripe, had) = (wish.number, wish.count());
        GetError::Erasure(ErasureError::StripeLost { stripe, had, needed })
    }

    fn is_given_up(&self, wish: &Wish, place: usize) -> bool {
        let failed = wish.hashes[place].is_none_or(|hash| self.failed.contains(&hash));
        failed || self.slots[place].is_absent(wish.number) || wish.given_up.contains(&place)
    }

    fn asked_none(&self, wish: &Wish, places: &[usize]) -> bool {
        let asked =
            |place: &usize| wish.hashes[*place].is_some_and(|hash| self.asked.contains(&hash));
        !places.iter().any(asked)
    }

    // --- Asking peers ---

    /// Asks for what lacks, and for as many others as it takes where some of it will not come.
    fn ask(&mut self, wish: &Wish, lacking: &[usize]) -> Result<(), GetError> {
        let hopeful = |place: &usize| !self.is_given_up(wish, *place);
        let mut places: Vec<usize> = lacking.iter().copied().filter(hopeful).collect();
        if places.len() < lacking.len() {
            let others = (0..wish.here.len())
                .filter(|place| !wish.here[*place] && !places.contains(place) && hopeful(place));
            let more = self.manifest.shape.data().saturating_sub(wish.count() + places.len());
            let others: Vec<usize> = others.take(more).collect();
            if others.len() < more {
                // Without those who were late before it cannot be done.
                let last = (0..wish.here.len()).filter(|place| {
                    let failed = wish.hashes[*place].is_some_and(|h| self.failed.contains(&h));
                    !wish.here[*place] && !failed
                });
                places.extend(last);
            }
            places.extend(others);
        }
        let hashes: Vec<Multihash> = places.iter().filter_map(|at| wish.hashes[*at]).collect();
        self.want(&hashes)?;
        let waits = wish.hashes.iter().flatten().any(|hash| self.asked.contains(hash));
        if waits || wish.count() >= self.manifest.shape.data() {
            Ok(())
        } else {
            Err(self.lost(wish))
        }
    }

    fn want(&mut self, hashes: &[Multihash]) -> Result<(), GetError> {
        let mut new = Vec::new();
        for hash in hashes {
            if !self.failed.contains(hash) && self.asked.insert(*hash) {
                new.push(*hash);
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let (store, cid, dataset) = (&self.store, self.cid, self.dataset);
        let retrieval =
            self.retrieval.get_or_insert_with(|| store.retrieve(cid, Order::Sequential, dataset));
        for (here, _) in retrieval.want(&new)? {
            self.asked.remove(&here);
        }
        Ok(())
    }

    /// Asks for the stripes behind this one, so that peers are never idle.
    fn ask_ahead(&mut self, number: u64, places: &[usize]) -> Result<(), GetError> {
        let mut bytes = 0;
        let end = self.manifest.stripes().min(number + 1 + AHEAD_MAX).min(self.ahead_end);
        for next in number + 1..end {
            if bytes >= self.ahead_bytes {
                break;
            }
            let wish = self.wish(next)?;
            bytes += (places.len() * wish.stripe.longest()) as u64;
            let lacking: Vec<usize> =
                places.iter().copied().filter(|place| !wish.here[*place]).collect();
            let enough = wish.count() >= self.manifest.shape.data();
            if !lacking.is_empty() && !enough {
                self.ask(&wish, &lacking)?;
            }
        }
        Ok(())
    }

    /// Waits for shards, or until those that lack are stragglers.
    fn wait(
        &mut self,
        wish: &mut Wish,
        tell: &mut dyn FnMut(&Multihash) -> bool,
    ) -> Result<(), GetError> {
        let since = Instant::now();
        loop {
            let deadline = Instant::now() + self.patience();
            let Some(retrieval) = &mut self.retrieval else { return self.look_again(wish) };
            let arrivals = wait_until(deadline, |waker| match retrieval.arrivals(waker) {
                arrivals if arrivals.is_empty() => Poll::Pending,
                arrivals => Poll::Ready(arrivals),
            });
            if let Some(arrivals) = arrivals {
                return self.take(wish, arrivals, tell);
            }
            if !tell(&self.cid.multihash().expect("a manifest has a hash")) {
                return Err(GetError::Cancelled);
            }
            let first = HEDGE_FIRST.max(self.hedge_min);
            let limit = if self.last_arrival.is_some() { self.hedge() } else { first };
            if since.elapsed() >= limit {
                self.give_up_stragglers(wish);
                return self.look_again(wish);
            }
        }
    }

    fn hedge(&self) -> Duration {
        self.hedge_min.max(self.interval * HEDGE_TIMES)
    }

    fn patience(&self) -> Duration {
        if self.last_arrival.is_some() { self.hedge().min(LOOK_AGAIN) } else { LOOK_AGAIN }
    }

    fn give_up_stragglers(&mut self, wish: &mut Wish) {
        for place in 0..wish.here.len() {
            let asked = wish.hashes[place].is_some_and(|hash| self.asked.contains(&hash));
            if asked && !wish.here[place] {
                wish.given_up.insert(place);
                self.slots[place].note_late(wish.number);
            }
        }
    }

    /// What came by another way, for instance for another reader.
    fn look_again(&mut self, wish: &mut Wish) -> Result<(), GetError> {
        let given_up = std::mem::take(&mut wish.given_up);
        *wish = self.wish(wish.number)?;
        wish.given_up = given_up;
        Ok(())
    }

    fn take(
        &mut self,
        wish: &mut Wish,
        arrivals: Vec<Arrival>,
        tell: &mut dyn FnMut(&Multihash) -> bool,
    ) -> Result<(), GetError> {
        for arrival in arrivals {
            match arrival {
                Arrival::Here { hash, block, .. } => {
                    self.asked.remove(&hash);
                    // The store has it; whoever reads takes it from there.
                    if let Some(block) = block {
                        self.hold(wish, block);
                    }
                    self.note_arrival();
                    for place in wish.places_of(&hash) {
                        wish.here[place] = true;
                        if !wish.given_up.remove(&place) {
                            self.slots[place] = Punctuality::default();
                        }
                    }
                    if !tell(&hash) {
                        return Err(GetError::Cancelled);
                    }
                }
                Arrival::Failed { error: WantError::Cancelled, .. } => {
                    return Err(GetError::Cancelled);
                }
                Arrival::Failed { hash, .. } => {
                    self.asked.remove(&hash);
                    self.failed.insert(hash);
                    for place in wish.places_of(&hash) {
                        self.slots[place].note_late(wish.number);
                    }
                }
            }
        }
        Ok(())
    }

    fn note_arrival(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last_arrival.replace(now) {
            self.interval = (self.interval * 7 + now.duration_since(last)) / 8;
        }
    }

    // --- Looking ---

    /// Whether one of a stripe's places is not in the store.
    ///
    /// # Errors
    /// If its list cannot be had, or the index cannot be read.
    pub fn lacks(&mut self, number: u64, places: &[usize]) -> Result<bool, GetError> {
        let wish = self.wish(number)?;
        Ok(places.iter().any(|place| !wish.here[*place]))
    }

    /// How many stripes lack how many of these places in the store.
    ///
    /// # Errors
    /// If a list cannot be had, or the index cannot be read.
    pub fn losses(&mut self, places: &[usize]) -> Result<BTreeMap<usize, u64>, GetError> {
        let mut counts = BTreeMap::new();
        for number in 0..self.manifest.stripes() {
            let wish = self.wish(number)?;
            let lacking = places.iter().filter(|place| !wish.here[**place]).count();
            *counts.entry(lacking).or_insert(0) += 1;
        }
        Ok(counts)
    }
}
