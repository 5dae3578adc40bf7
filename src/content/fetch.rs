//! Fetching a whole dataset: every block of its DAG, in whatever order it comes.

use crate::{
    content::{
        network_store::{Arrival, NetworkStore, Retrieval},
        store_stream::{GetError, wait},
    },
    data::{dag, unixfs::content_size},
    engine::Order,
    store::disk::DatasetId,
};
use barrow_wire::{Cid, Codec, Multihash};
use std::{
    collections::{HashMap, HashSet},
    task::Poll,
};

/// Blocks asked for at one time.
const WANTS_MAX: usize = 256;
/// Blocks looked up at one time.
const LOOK_UPS_MAX: usize = 64;

/// How far a fetch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct FetchProgress {
    /// Blocks that are here.
    pub blocks: u64,
    /// Their bytes.
    pub bytes_here: u64,
    /// Bytes that came from peers.
    pub bytes_fetched: u64,
    /// Blocks that are known to lack yet.
    pub blocks_left: u64,
    /// About so many bytes lack, once that is known.
    pub bytes_left: Option<u64>,
}

/// Fetches what lacks of the DAG below `root` into `dataset`. `progress` is told of every step, and
/// ends the fetch with `false`.
///
/// # Errors
/// The first block that cannot be had; what came before it stays in the store.
pub fn fetch_dataset(
    store: &NetworkStore,
    root: Cid,
    dataset: DatasetId,
    progress: &mut dyn FnMut(&FetchProgress) -> bool,
) -> Result<FetchProgress, GetError> {
    let mut fetch = Fetch {
        store,
        root,
        total: None,
        dataset,
        retrieval: store.retrieve(root, Order::Bulk, Some(dataset)),
        todo: vec![root],
        waiting: HashMap::new(),
        walked: HashSet::new(),
        done: FetchProgress::default(),
    };
    loop {
        fetch.look_up()?;
        if fetch.waiting.is_empty() && fetch.todo.is_empty() {
            return Ok(fetch.done);
        }
        if !fetch.waiting.is_empty() {
            fetch.take_arrivals()?;
        }
        let done = &mut fetch.done;
        done.blocks_left = (fetch.waiting.len() + fetch.todo.len()) as u64;
        done.bytes_left = fetch.total.map(|total| total.saturating_sub(done.bytes_here));
        if !progress(&fetch.done) {
            return Err(GetError::Cancelled);
        }
    }
}

struct Fetch<'a> {
    store: &'a NetworkStore,
    root: Cid,
    /// Bytes that the root speaks of, without those of inner blocks.
    total: Option<u64>,
    dataset: DatasetId,
    retrieval: Retrieval,
    /// What was not looked for yet; the next is the last.
    todo: Vec<Cid>,
    /// What the swarm was asked for.
    waiting: HashMap<Multihash, Cid>,
    /// Nodes whose links were followed.
    walked: HashSet<Multihash>,
    done: FetchProgress,
}

impl Fetch<'_> {
    /// Takes from what is to do until enough is asked for.
    fn look_up(&mut self) -> Result<(), GetError> {
        while self.waiting.len() < WANTS_MAX && !self.todo.is_empty() {
            let from = self.todo.len() - self.todo.len().min(LOOK_UPS_MAX);
            let mut batch: HashMap<Multihash, Cid> = HashMap::new();
            let mut order = Vec::new();
            for cid in self.todo.split_off(from).into_iter().rev() {
                let Some(hash) = cid.multihash() else { continue };
                let new = !self.waiting.contains_key(&hash) && !self.walked.contains(&hash);
                if new && batch.insert(hash, cid).is_none() {
                    order.push(hash);
                }
            }
            let here = self.retrieval.want(&order)?;
            let here_set: HashSet<Multihash> = here.iter().map(|(hash, _)| *hash).collect();
            let lacking = batch.iter().filter(|(hash, _)| !here_set.contains(hash));
            self.waiting.extend(lacking.map(|(hash, cid)| (*hash, *cid)));
            if !here.is_empty() {
                self.store.disk().reference(self.dataset, here_set.into_iter().collect());
            }
            for (hash, len) in here {
                self.done.blocks += 1;
                self.done.bytes_here += u64::from(len);
                self.follow(hash, &batch[&hash])?;
            }
        }
        Ok(())
    }

    fn take_arrivals(&mut self) -> Result<(), GetError> {
        let arrivals = wait(|waker| match self.retrieval.arrivals(waker) {
            arrivals if arrivals.is_empty() => Poll::Pending,
            arrivals => Poll::Ready(arrivals),
        });
        for arrival in arrivals {
            match arrival {
                Arrival::Here { hash, len, .. } => {
                    self.done.blocks += 1;
                    self.done.bytes_here += len as u64;
                    self.done.bytes_fetched += len as u64;
                    if let Some(cid) = self.waiting.remove(&hash) {
                        self.follow(hash, &cid)?;
                    }
                }
                Arrival::Failed { error, .. } => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Adds the links of a node that is here now.
    fn follow(&mut self, hash: Multihash, cid: &Cid) -> Result<(), GetError> {
        if cid.codec() == Codec::Raw || !self.walked.insert(hash) {
            return Ok(());
        }
        let block = self.store.disk().get(&hash)?.ok_or(GetError::NotFound)?;
        if *cid == self.root {
            self.total = Some(content_size(cid, block.data()));
        }
        let links = dag::links(cid, block.data())?;
        self.todo.extend(links.into_iter().rev());
        Ok(())
    }
}
