//! What the store promises, as plain sets, and one step of both after the other.

use super::{
    database::Shelf,
    medium::{Forgetful, Loss},
};
use barrow::{
    Block, Cid, Codec, Multihash, Pool,
    store::local_store::{
        DatasetId, DatasetInfo, LocalStore, StoreError, StoreOptions, StoreReader,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

/// Different blocks; the first of a dataset is its root.
pub const BLOCKS: usize = 12;
/// A pack that has so many bytes is full.
pub const PACK_BYTES_MAX: u64 = 24 << 10;
/// Datasets that are stored at one time.
const SLOTS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Puts a block, for the dataset of a slot or for none.
    Put(Option<usize>, usize),
    Begin(usize),
    /// Finishes a slot's dataset; its root is the first block that was put for it.
    Finish(usize, bool),
    Abandon(usize),
    Pin(usize, bool),
    /// Pins until so long from now.
    PinUntil(usize, u64),
    /// So much time goes by, and what has ended goes.
    Expire(u64),
    Remove(usize),
    Gc,
    Publish,
    Commit,
    Sync,
    /// The index refuses one kind of change, and undoes the transaction; or no longer.
    RefuseIndex(Option<usize>),
    /// Reads every block: as a scrub does.
    Scrub,
    Touch(usize),
    /// The nth change from now on fails.
    Fault(u64),
    /// Closes and opens.
    Reopen,
    /// The power goes; so much of the index is lost.
    Crash(u64, usize),
}

/// A dataset that may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    pinned: bool,
    expires: Option<u64>,
    blocks: BTreeSet<usize>,
}

impl Kept {
    fn is_kept(&self, now: u64) -> bool {
        self.pinned && self.expires.is_none_or(|end| now < end)
    }
}

pub struct Model {
    pub medium: Forgetful,
    store: Option<LocalStore>,
    pool: Pool,
    /// Datasets that are promised, by root.
    kept: BTreeMap<usize, Kept>,
    /// Those of which it is not known whether they are there, and pinned, as an operation on them
    /// failed in the middle.
    unsure: BTreeSet<usize>,
    /// Blocks of no dataset that were synced, and not given up since.
    cached: BTreeSet<usize>,
    unsynced: BTreeSet<usize>,
    open: [Option<(DatasetId, Vec<usize>)>; SLOTS],
    /// What it may take on disk: then cache may go at any put.
    quota: Option<u64>,
    now: u64,
    pub steps: u64,
    /// Why the last removal or collection that failed did.
    pub failure: Option<String>,
}

fn blocks() -> &'static Vec<Block> {
    static ALL: OnceLock<Vec<Block>> = OnceLock::new();
    ALL.get_or_init(|| {
        let len =
            |n: usize| [0, 1, 60, 700, 3_000, 4_096, 5_000, 9_000, 20_000, 33, 12_345, 400][n];
        (0..BLOCKS)
            .map(|n| {
                let data: Vec<u8> = (0..len(n)).map(|at| (at * 7 + n * 31) as u8).collect();
                Block::of(data.into()).unwrap()
            })
            .collect()
    })
}

fn hash(n: usize) -> Multihash {
    *blocks()[n].hash()
}

fn cid(n: usize) -> Cid {
    Cid::v1(Codec::Raw, hash(n))
}

fn options(quota_bytes: Option<u64>) -> StoreOptions {
    // Small packs of small pieces, so that a short sequence fills and compacts some.
    let (pack_bytes_max, piece_bytes) = (PACK_BYTES_MAX, 8 << 10);
    // And so little memory for what the index lacks that it runs out.
    let cache_kib = 0;
    StoreOptions { quota_bytes, cache_kib, pack_bytes_max, piece_bytes, ..StoreOptions::default() }
}

/// What models are made of one after the other: they begin with nothing, and cost little.
pub struct Bench {
    shelf: Arc<Shelf>,
    pool: Pool,
}

impl Bench {
    pub fn new() -> Self {
        Self { shelf: Shelf::new(), pool: Pool::new(4 << 20) }
    }

    /// The store of no operation yet. One at a time.
    pub fn model(&self) -> Model {
        Model::on(Forgetful::new(&self.shelf), self.pool.clone())
    }
}

impl Model {
    fn on(medium: Forgetful, pool: Pool) -> Self {
        Self {
            medium,
            store: None,
            pool,
            kept: BTreeMap::new(),
            unsure: BTreeSet::new(),
            cached: BTreeSet::new(),
            unsynced: BTreeSet::new(),
            open: [None, None],
            quota: None,
            now: 1,
            steps: 0,
            failure: None,
        }
    }

    /// The same with a quota.
    pub fn bounded(self, quota_bytes: u64) -> Self {
        Self { quota: Some(quota_bytes), ..self }
    }

    /// Takes one step, and looks whether a promise is broken.
    pub fn step(&mut self, op: Op) -> Result<(), String> {
        self.steps += 1;
        if self.store.is_none() {
            self.reopen()?;
        }
        match op {
            Op::Reopen => {
                self.close();
                self.reopen()?;
                self.check()
            }
            Op::Crash(seed, back) => {
                let loss = match seed % 8 {
                    0 => Loss::All,
                    1 => Loss::Nothing,
                    _ => Loss::Some(seed),
                };
                self.crash(loss, back);
                self.reopen()?;
                self.check()
            }
            Op::Fault(after) => {
                self.medium.fail_at(self.medium.calls() + 1 + after);
                Ok(())
            }
            Op::Scrub => self.scrub(),
            Op::Remove(root) => self.remove(root),
            Op::Pin(root, pinned) => self.pin(root, pinned, None),
            Op::PinUntil(root, time) => self.pin(root, true, Some(self.now + time)),
            _ => {
                self.act(op);
                Ok(())
            }
        }
    }

    /// As a stop of the program does: what was committed stays.
    fn close(&mut self) {
        if let Some(mut store) = self.store.take() {
            let synced = store.sync();
            self.note_sync(&synced);
        }
        self.open = [None, None];
        self.medium.crash(Loss::Nothing, 0);
    }

    pub fn crash(&mut self, loss: Loss, commits_back: usize) {
        self.store = None;
        self.open = [None, None];
        self.medium.crash(loss, commits_back);
    }

    pub fn reopen(&mut self) -> Result<(), String> {
        let medium = Arc::new(self.medium.clone());
        let opened = LocalStore::open_on(medium, options(self.quota));
        let mut store = opened.map_err(|error| format!("the store does not open: {error}"))?;
        store.set_time(self.now as u32);
        self.store = Some(store);
        self.unsynced.clear();
        Ok(())
    }

    fn note_sync(&mut self, synced: &Result<(), StoreError>) {
        if synced.is_ok() && self.quota.is_none() {
            self.cached.append(&mut self.unsynced);
        }
    }

    fn act(&mut self, op: Op) {
        let Some(store) = self.store.as_mut() else { return };
        match op {
            Op::Put(slot, n) => {
                let open = slot.and_then(|slot| self.open[slot].as_mut());
                let id = open.as_ref().map(|(id, _)| *id);
                if store.put(&blocks()[n], id).is_ok() {
                    match open {
                        Some((_, blocks)) => blocks.push(n),
                        None => drop(self.unsynced.insert(n)),
                    }
                } else if let Some(slot) = slot {
                    self.abandon(slot);
                }
            }
            Op::Begin(slot) => {
                if self.open[slot].is_none() {
                    self.open[slot] = Some((store.begin_dataset(), Vec::new()));
                }
            }
            Op::Finish(slot, pinned) => self.finish(slot, pinned),
            Op::Abandon(slot) => self.abandon(slot),
            Op::Expire(time) => self.expire(time),
            Op::Gc => self.gc(),
            Op::Publish => drop(store.publish()),
            Op::Commit => drop(store.commit()),
            Op::Sync => {
                let synced = store.sync();
                self.note_sync(&synced);
            }
            Op::Touch(n) => drop(store.touch(&hash(n))),
            Op::RefuseIndex(refused) => self.medium.refuse_index(refused),
            Op::Remove(_)
            | Op::Pin(..)
            | Op::PinUntil(..)
            | Op::Scrub
            | Op::Fault(_)
            | Op::Reopen
            | Op::Crash(..) => {}
        }
    }

    fn remove(&mut self, root: usize) -> Result<(), String> {
        let Some(store) = self.store.as_mut() else { return Ok(()) };
        let done = store.remove_dataset(&cid(root));
        if matches!(done, Ok(None)) {
            return self.note_absence(root);
        }
        self.forget_cache();
        if let Err(error) = done {
            self.failure = Some(error.to_string());
            self.unsure.insert(root);
            return Ok(());
        }
        let was_sure = !self.unsure.remove(&root);
        let Some(removed) = self.kept.remove(&root).filter(|_| was_sure) else { return Ok(()) };
        self.check_gone(&removed)
    }

    /// Blocks of a dataset that was removed are here only if another one has them.
    fn check_gone(&self, removed: &Kept) -> Result<(), String> {
        let Some(store) = self.store.as_ref().filter(|_| self.unsure.is_empty()) else {
            return Ok(());
        };
        let has = |n: &usize| {
            self.kept.values().any(|kept| kept.blocks.contains(n))
                || self.open.iter().flatten().any(|(_, blocks)| blocks.contains(n))
        };
        for n in removed.blocks.iter().filter(|n| !has(n)) {
            if store.block_len(&hash(*n)).map_err(|error| error.to_string())?.is_some() {
                return Err(format!("block {n} was removed with its dataset, and is here"));
            }
        }
        Ok(())
    }

    /// The store says that there is no such dataset.
    fn note_absence(&self, root: usize) -> Result<(), String> {
        match self.kept.contains_key(&root) && !self.unsure.contains(&root) {
            true => Err(format!("dataset {root} is said to be gone")),
            false => Ok(()),
        }
    }

    fn pin(&mut self, root: usize, pinned: bool, expires: Option<u64>) -> Result<(), String> {
        let Some(store) = self.store.as_mut() else { return Ok(()) };
        let done = match expires {
            None => store.set_pinned(&cid(root), pinned),
            Some(end) => store.pin_until(&cid(root), end),
        };
        match done {
            Ok(false) => self.note_absence(root),
            Ok(true) => {
                self.note_sync(&Ok(()));
                // Now it is known that it is there, whatever failed before.
                self.unsure.remove(&root);
                let kept = self.kept.get_mut(&root);
                let kept = kept.ok_or_else(|| format!("dataset {root} was never whole"))?;
                (kept.pinned, kept.expires) = (pinned, expires);
                Ok(())
            }
            Err(_) => {
                self.unsure.insert(root);
                Ok(())
            }
        }
    }

    fn expire(&mut self, time: u64) {
        let Some(store) = self.store.as_mut() else { return };
        self.now += time;
        store.set_time(self.now as u32);
        let done = store.remove_expired(self.now);
        let ended = |kept: &Kept| kept.expires.is_some_and(|end| end <= self.now);
        if done.is_err() {
            // Of those that failed in the middle it is not known which are gone.
            let ended = self.kept.iter().filter(|(_, kept)| ended(kept));
            self.unsure.extend(ended.map(|(root, _)| *root));
        }
        self.kept.retain(|root, kept| self.unsure.contains(root) || !ended(kept));
        self.forget_cache();
    }

    /// A removal takes cache with it that the removed dataset referred to.
    fn forget_cache(&mut self) {
        self.cached.clear();
        self.unsynced.clear();
    }

    fn abandon(&mut self, slot: usize) {
        if let (Some((id, _)), Some(store)) = (self.open[slot].take(), self.store.as_mut()) {
            let _ = store.abandon_dataset(id);
        }
    }

    fn finish(&mut self, slot: usize, pinned: bool) {
        let (Some((id, put)), Some(store)) = (self.open[slot].take(), self.store.as_mut()) else {
            return;
        };
        let Some(&root) = put.first() else {
            let _ = store.abandon_dataset(id);
            return;
        };
        let info = DatasetInfo {
            root: cid(root),
            size: 0,
            pinned,
            expires: None,
            name: None,
            mimetype: None,
            created: 0,
            protection: None,
        };
        if store.finish_dataset(id, info).is_ok() {
            self.note_sync(&Ok(()));
            let before = self.kept.get(&root).filter(|kept| kept.pinned && !pinned);
            let expires = before.and_then(|kept| kept.expires);
            let is_unsure = self.unsure.remove(&root);
            let pinned_now = pinned || before.is_some();
            let kept = Kept { pinned: pinned_now, expires, blocks: put.into_iter().collect() };
            // Whether the one before was pinned is not known then.
            if is_unsure && !pinned {
                self.unsure.insert(root);
            }
            self.kept.insert(root, kept);
        } else {
            // If there turns out to be one, it is this one or the one before.
            self.unsure.insert(root);
            let blocks: BTreeSet<usize> = put.into_iter().collect();
            let kept = Kept { pinned, expires: None, blocks: blocks.clone() };
            let kept = self.kept.entry(root).or_insert(kept);
            kept.blocks.retain(|n| blocks.contains(n));
        }
    }

    fn gc(&mut self) {
        let Some(store) = self.store.as_mut() else { return };
        // What is being stored refers to its blocks, so they stay.
        let done = store.gc();
        if let Err(error) = done {
            self.failure = Some(error.to_string());
            let not_kept = self.kept.iter().filter(|(_, kept)| !kept.is_kept(self.now));
            self.unsure.extend(not_kept.map(|(root, _)| *root));
        }
        self.kept.retain(|root, kept| self.unsure.contains(root) || kept.is_kept(self.now));
        self.forget_cache();
    }

    fn scrub(&mut self) -> Result<(), String> {
        let Some(store) = self.store.as_mut() else { return Ok(()) };
        if store.publish().is_err() {
            return Ok(());
        }
        let mut reader = store.reader().map_err(|error| error.to_string())?;
        let here = self.read_blocks(&mut reader, false)?;
        // What the writer has, readers find, whether the index has it or not.
        let store = self.store.as_ref().ok_or("no store")?;
        for (n, here) in here.iter().enumerate() {
            let known = store.block_len(&hash(n)).map_err(|error| error.to_string())?;
            if known.is_some() != *here {
                return Err(format!("block {n}: read {here}, the writer says {known:?}"));
            }
        }
        Ok(())
    }

    /// Blocks that can be read.
    pub fn count_blocks(&mut self) -> usize {
        let Some(store) = self.store.as_mut() else { return 0 };
        // A store that takes no writes has published what it had.
        let _ = store.publish();
        let mut reader = store.reader().expect("the index can be opened");
        let here = self.read_blocks(&mut reader, true).expect("what is read is right");
        here.iter().filter(|here| **here).count()
    }

    /// What a reader does that finds a block damaged.
    pub fn quarantine(&mut self, n: usize) {
        if let Some(store) = self.store.as_mut() {
            let _ = store.quarantine(&hash(n));
        }
    }

    pub fn is_read_only(&self) -> bool {
        self.store.as_ref().is_some_and(|store| store.read_only().is_some())
    }

    /// Every block that the store says it has is there, and right; unless bits were flipped.
    pub fn look_at_blocks(&self, may_be_damaged: bool) -> Result<(), String> {
        let store = self.store.as_ref().ok_or("no store")?;
        let mut reader = store.reader().map_err(|error| error.to_string())?;
        self.read_blocks(&mut reader, may_be_damaged).map(drop)
    }

    /// Which blocks can be read; each is right, and is there if the index says so.
    fn read_blocks(
        &self,
        reader: &mut StoreReader,
        may_be_damaged: bool,
    ) -> Result<[bool; BLOCKS], String> {
        let limit = BLOCKS as u32 + 1;
        let said = reader.blocks_after(None, limit).map_err(|error| error.to_string())?;
        let mut here = [false; BLOCKS];
        for (n, here) in here.iter_mut().enumerate() {
            let got = match reader.get(&hash(n), &self.pool) {
                Err(StoreError::Unreadable(_) | StoreError::Misplaced(_)) if may_be_damaged => None,
                got => got.map_err(|error| error.to_string())?,
            };
            match got {
                Some(block) if block != blocks()[n] => return Err(format!("block {n} is wrong")),
                Some(_) => *here = true,
                None if said.contains(&hash(n)) && !may_be_damaged => {
                    return Err(format!("block {n} is said to be here, and is damaged"));
                }
                None => {}
            }
        }
        let (counted, _) = reader.counts().map_err(|error| error.to_string())?;
        if counted != said.len() as u64 {
            return Err(format!("{counted} blocks are counted, {} are here", said.len()));
        }
        Ok(here)
    }

    /// All that is promised holds.
    pub fn check(&self) -> Result<(), String> {
        let store = self.store.as_ref().ok_or("no store")?;
        let mut reader = store.reader().map_err(|error| error.to_string())?;
        let here = self.read_blocks(&mut reader, false)?;
        let datasets = reader.datasets().map_err(|error| error.to_string())?;
        for (root, kept) in &self.kept {
            let is_unsure = self.unsure.contains(root);
            let dataset = datasets.iter().find(|dataset| dataset.info.root == cid(*root));
            let Some(dataset) = dataset else {
                if is_unsure {
                    continue;
                }
                return Err(format!("dataset {root} is gone"));
            };
            let pin = (dataset.info.pinned, dataset.info.expires);
            if !is_unsure && pin != (kept.pinned, kept.expires) {
                return Err(format!("the pin of dataset {root} is not that of {kept:?}"));
            }
            for n in &kept.blocks {
                if !here[*n] {
                    return Err(format!("block {n} of dataset {root} is gone"));
                }
            }
        }
        for dataset in datasets {
            let root = (0..BLOCKS).find(|n| cid(*n) == dataset.info.root);
            let root = root.ok_or("a dataset that was never put")?;
            if !self.kept.contains_key(&root) && !self.unsure.contains(&root) {
                return Err(format!("dataset {root} has come back"));
            }
            if !here[root] && !self.unsure.contains(&root) {
                return Err(format!("dataset {root} has lost its root"));
            }
        }
        for n in &self.cached {
            if !here[*n] {
                return Err(format!("block {n}, which was synced, is gone"));
            }
        }
        Ok(())
    }
}
