//! Obtaining the shards of a stripe: from the store, from peers, or rebuilt from any k others.
//!
//! A [`Mender`] blocks, and so lives on a thread that may: a stream's own (see
//! [`MendThread`]), or that of whoever pins or repairs.

mod asking;
mod context;
mod hand;
mod punctuality;
mod rebuild;
mod thread;
mod waiting;

pub use context::{ErasureError, Mending};
pub use thread::{MendThread, ReadingPlace};

use hand::Hand;
use punctuality::Punctuality;
use rebuild::Rows;
use waiting::Waiting;

use crate::{
    content::{
        network_store::{NetworkStore, Retrieval},
        store_stream::{BlockSource, GetError, Scope},
    },
    engine::WantError,
    erasure::{Code, List, Manifest, Nodes, Stripe},
    store::disk::DatasetId,
};
use barrow_wire::{Cid, Multihash, Presence};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

/// Lists that are kept, of some 45 KiB on disk and some 200 KiB in memory.
const LISTS_KEPT: usize = 4;
/// A shard is late by so much at least.
const HEDGE_MIN: Duration = Duration::from_millis(20);
/// The same for whoever only wants to keep a shard: others in its place would cost k times as much.
const HEDGE_KEEPING: Duration = Duration::from_secs(2);

/// What a shard was asked for.
#[derive(Clone, Copy)]
struct Asked {
    stripe: u64,
    place: usize,
    at: Instant,
}

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
    asked: HashMap<Multihash, Asked>,
    failed: HashMap<Multihash, WantError>,
    /// Shards that came, and were not read yet.
    hand: Arc<Hand>,
    /// How punctual each place is.
    slots: Vec<Punctuality>,
    waiting: Waiting,
    /// Nobody waits for the next byte.
    is_patient: bool,
    /// The factors used last, for the losses of all stripes are often the same.
    rows: Option<Rows>,
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
        let store = store.for_one_download();
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
            waiting: Waiting::new(manifest.shape.shards(), HEDGE_MIN),
            manifest,
            dataset,
            blocks,
            lists: VecDeque::new(),
            retrieval: None,
            asked: HashMap::new(),
            failed: HashMap::new(),
            hand: Arc::default(),
            is_patient: false,
            rows: None,
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

    /// Leaves what comes where its reader takes it from.
    #[must_use]
    fn with_hand(mut self, hand: Arc<Hand>) -> Self {
        self.hand = hand;
        self
    }

    /// Nobody waits for the next byte: a shard that is late is waited for.
    #[must_use]
    pub fn with_patience(mut self) -> Self {
        self.waiting = Waiting::new(self.manifest.shape.shards(), HEDGE_KEEPING);
        self.is_patient = true;
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

    /// Brings the shards at `places` of a stripe into the store; what else it takes to rebuild some
    /// of them is kept at hand alone. `tell` hears of each one that comes, and ends it with
    /// `false`.
    ///
    /// # Errors
    /// [`ErasureError::StripeLost`], [`GetError::OverBudget`], or the store's.
    pub fn obtain(
        &mut self,
        number: u64,
        places: &[usize],
        tell: &mut dyn FnMut(&Multihash) -> bool,
    ) -> Result<(), GetError> {
        let mut wish = self.wish(number)?;
        self.hand.open(number);
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
            if self.ask(wish, &lacking)? {
                // Some of it came meanwhile, for somebody else.
                continue;
            }
            self.ask_ahead(wish, places)?;
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
        let is_here = |hash: Multihash| present.contains(&hash) || self.hand.has(&hash);
        let here = hashes.iter().map(|hash| hash.is_none_or(is_here)).collect();
        Ok(Wish { number, stripe, hashes, here, given_up: HashSet::new() })
    }

    /// Why a stripe cannot be had: what costs too much is not lost.
    fn lost(&self, wish: &Wish) -> GetError {
        let mut errors = wish.hashes.iter().flatten().filter_map(|hash| self.failed.get(hash));
        if errors.any(|error| *error == WantError::OverBudget) {
            return GetError::OverBudget;
        }
        let needed = self.manifest.shape.data();
        let (stripe, had) = (wish.number, wish.count());
        GetError::Erasure(ErasureError::StripeLost { stripe, had, needed })
    }

    fn is_given_up(&self, wish: &Wish, place: usize) -> bool {
        self.has_failed(wish, place)
            || self.slots[place].is_late(self.is_patient)
            || wish.given_up.contains(&place)
    }

    fn has_failed(&self, wish: &Wish, place: usize) -> bool {
        wish.hashes[place].is_none_or(|hash| self.failed.contains_key(&hash))
    }

    fn asked_none(&self, wish: &Wish, places: &[usize]) -> bool {
        let asked =
            |place: &usize| wish.hashes[*place].is_some_and(|hash| self.asked.contains_key(&hash));
        !places.iter().any(asked)
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
