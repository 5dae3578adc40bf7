//! What the store promises, as plain sets, and one step of both after the other.

use super::{
    database::Shelf,
    medium::{Forgetful, Loss},
};
use barrow::{
    Block, Cid, Codec, Multihash, Pool,
    local_store::{DatasetId, DatasetInfo, LocalStore, StoreError, StoreOptions, StoreReader},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

/// Different blocks; the first of a dataset is its root.
pub const BLOCKS: usize = 12;
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
    Remove(usize),
    Gc,
    Commit,
    Sync,
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
    blocks: BTreeSet<usize>,
}

pub struct Model {
    pub medium: Forgetful,
    store: Option<LocalStore>,
    pool: Pool,
    /// Datasets that are promised, by root.
    kept: BTreeMap<usize, Kept>,
    /// Roots of which nothing is promised, as an operation on them failed in the middle.
    unsure: BTreeSet<usize>,
    /// Blocks of no dataset that were synced, and not given up since.
    cached: BTreeSet<usize>,
    unsynced: BTreeSet<usize>,
    open: [Option<(DatasetId, Vec<usize>)>; SLOTS],
    /// Blocks that may be gone, as what removes them failed in the middle.
    pub steps: u64,
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

fn options() -> StoreOptions {
    // Small packs of small pieces, so that a short sequence fills and compacts some.
    StoreOptions { pack_bytes_max: 24 << 10, piece_bytes: 8 << 10, ..StoreOptions::default() }
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
            steps: 0,
        }
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
        let opened = LocalStore::open_on(medium, options());
        self.store = Some(opened.map_err(|error| format!("the store does not open: {error}"))?);
        self.unsynced.clear();
        Ok(())
    }

    fn note_sync(&mut self, synced: &Result<(), StoreError>) {
        if synced.is_ok() {
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
            Op::Pin(root, pinned) => match store.set_pinned(&cid(root), pinned) {
                Ok(false) => {}
                Ok(true) => {
                    self.note_sync(&Ok(()));
                    if let Some(kept) = self.kept.get_mut(&root) {
                        kept.pinned = pinned;
                    }
                }
                Err(_) => drop(self.unsure.insert(root)),
            },
            Op::Remove(root) => match store.remove_dataset(&cid(root)) {
                Ok(Some(_)) => {
                    self.note_sync(&Ok(()));
                    self.kept.remove(&root);
                    self.unsure.remove(&root);
                    self.forget_cache();
                }
                Ok(None) => {}
                Err(_) => {
                    self.unsure.insert(root);
                    self.forget_cache();
                }
            },
            Op::Gc => self.gc(),
            Op::Commit => drop(store.commit()),
            Op::Sync => {
                let synced = store.sync();
                self.note_sync(&synced);
            }
            Op::Touch(n) => drop(store.touch(&hash(n))),
            Op::Scrub | Op::Fault(_) | Op::Reopen | Op::Crash(..) => {}
        }
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
            name: None,
            mimetype: None,
            created: 0,
            protection: None,
        };
        if store.finish_dataset(id, info).is_ok() {
            self.note_sync(&Ok(()));
            let was_pinned = self.kept.get(&root).is_some_and(|kept| kept.pinned);
            let is_unsure = self.unsure.remove(&root);
            let kept = Kept { pinned: pinned || was_pinned, blocks: put.into_iter().collect() };
            // Whether the one before was pinned is not known then.
            if is_unsure && !pinned {
                self.unsure.insert(root);
            }
            self.kept.insert(root, kept);
        } else {
            self.unsure.insert(root);
        }
    }

    fn gc(&mut self) {
        let Some(store) = self.store.as_mut() else { return };
        // What is being stored refers to its blocks, so they stay.
        let done = store.gc();
        for (root, kept) in &self.kept {
            if !kept.pinned && done.is_err() {
                self.unsure.insert(*root);
            }
        }
        self.kept.retain(|_, kept| kept.pinned);
        self.forget_cache();
    }

    fn scrub(&mut self) -> Result<(), String> {
        let Some(store) = self.store.as_mut() else { return Ok(()) };
        if store.commit().is_err() {
            return Ok(());
        }
        self.look_at_blocks(false)
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
            let got = reader.get(&hash(n), &self.pool).map_err(|error| error.to_string())?;
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
            if self.unsure.contains(root) {
                continue;
            }
            let dataset = datasets.iter().find(|dataset| dataset.info.root == cid(*root));
            let Some(dataset) = dataset else { return Err(format!("dataset {root} is gone")) };
            if dataset.info.pinned != kept.pinned {
                return Err(format!("the pin of dataset {root} is not {}", kept.pinned));
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
