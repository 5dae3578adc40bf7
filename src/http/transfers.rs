//! Datasets being fetched to be kept: what runs, how far it is, and how to end it.

use super::jobs;
use crate::{fetch::FetchProgress, node::Node, store_stream::GetError};
use barrow_wire::Cid;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

/// Ended ones that are remembered, for whoever asks what became of them.
const ENDED_MAX: usize = 64;

/// All transfers of the API, those that ended lately with them.
#[derive(Clone, Default)]
pub(super) struct Transfers(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    next: u64,
    entries: BTreeMap<u64, Arc<Transfer>>,
}

/// One of them.
pub(super) struct Transfer {
    pub(super) id: u64,
    cid: Cid,
    since: Instant,
    state: Mutex<State>,
    cancelled: AtomicBool,
}

#[derive(Clone, Default)]
struct State {
    progress: FetchProgress,
    /// How it ended: `Err` with what is told of it.
    end: Option<Result<(), String>>,
}

impl Transfers {
    /// Fetches and pins a dataset on the caller's thread. `each` is told of progress, and ends it
    /// with `false`.
    pub(super) fn pin(
        &self,
        node: &Node,
        cid: &Cid,
        each: &mut dyn FnMut(&FetchProgress) -> bool,
    ) -> Result<FetchProgress, GetError> {
        let transfer = self.register(cid);
        transfer.run(node, each)
    }

    /// Fetches and pins a dataset on a thread of its own; `None` if too many run.
    pub(super) fn start(&self, node: &Node, cid: &Cid) -> Option<Arc<Transfer>> {
        if let Some(running) = self.running(cid) {
            return Some(running);
        }
        let transfer = self.register(cid);
        let (own, node) = (transfer.clone(), node.clone());
        let started = jobs::spawn(move || {
            if let Err(failed) = own.run(&node, &mut |_| true) {
                log::warn!("{} is not fetched: {failed}", own.cid);
            }
        });
        if started.is_err() {
            self.0.lock().entries.remove(&transfer.id);
            return None;
        }
        Some(transfer)
    }

    fn running(&self, cid: &Cid) -> Option<Arc<Transfer>> {
        let table = self.0.lock();
        table.entries.values().find(|one| one.cid == *cid && one.is_active()).cloned()
    }

    fn register(&self, cid: &Cid) -> Arc<Transfer> {
        let mut table = self.0.lock();
        let ended = table.entries.values().filter(|one| !one.is_active());
        let ended: Vec<u64> = ended.map(|one| one.id).collect();
        for id in ended.iter().take(ended.len().saturating_sub(ENDED_MAX)) {
            table.entries.remove(id);
        }
        table.next += 1;
        let id = table.next;
        let transfer = Arc::new(Transfer {
            id,
            cid: *cid,
            since: Instant::now(),
            state: Mutex::default(),
            cancelled: AtomicBool::new(false),
        });
        table.entries.insert(id, transfer.clone());
        transfer
    }

    pub(super) fn get(&self, id: &str) -> Option<Arc<Transfer>> {
        self.0.lock().entries.get(&id.parse().ok()?).cloned()
    }

    /// All, the oldest first.
    pub(super) fn to_json(&self) -> Vec<Value> {
        let entries: Vec<Arc<Transfer>> = self.0.lock().entries.values().cloned().collect();
        entries.iter().map(|transfer| transfer.to_json()).collect()
    }
}

impl Transfer {
    fn run(
        &self,
        node: &Node,
        each: &mut dyn FnMut(&FetchProgress) -> bool,
    ) -> Result<FetchProgress, GetError> {
        let done = node.pin(&self.cid, &mut |progress| {
            self.state.lock().progress = *progress;
            each(progress) && !self.cancelled.load(Ordering::Relaxed)
        });
        let mut state = self.state.lock();
        if let Ok(done) = &done {
            state.progress = *done;
        }
        state.end = Some(done.as_ref().map(|_| ()).map_err(ToString::to_string));
        done
    }

    pub(super) fn is_for(&self, cid: &Cid) -> bool {
        self.cid.multihash() == cid.multihash()
    }

    pub(super) fn is_active(&self) -> bool {
        self.state.lock().end.is_none()
    }

    /// Has it end at its next step.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// How far it is.
    pub(super) fn progress(&self) -> FetchProgress {
        self.state.lock().progress
    }

    pub(super) fn to_json(&self) -> Value {
        let state = self.state.lock().clone();
        let status = match &state.end {
            None => "active",
            Some(Ok(())) => "done",
            Some(Err(_)) => "failed",
        };
        let mut json = json!({
            "job": self.id,
            "cid": self.cid.to_string(),
            "status": status,
            "blocks": state.progress.blocks,
            "blocks_left": state.progress.blocks_left,
            "bytes_fetched": state.progress.bytes_fetched,
            "seconds": self.since.elapsed().as_secs(),
        });
        if let Some(Err(message)) = state.end {
            json["error"] = message.into();
        }
        json
    }
}
