//! What the node does, as server-sent events: `state` each second, `datasets` and `ledger` when
//! they change.
//!
//! One thread tells all listeners. It starts with the first and ends with the last, so that a
//! node at which nobody looks does nothing.

use super::{about, error, ledger::balances_json, store_stat, transfers};
use crate::{
    node::Node,
    web::gate::{Body, Reply, ReplyBody},
};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

/// Time between two states.
const INTERVAL: Duration = Duration::from_secs(1);
/// Pages that look at one time.
const LISTENERS_MAX: usize = 32;
/// Events that may wait for a slow listener; a state more is left out, the next one is newer.
const WAITING_MAX: usize = 4;
/// Datasets told of, the newest; a page with more could not be read.
const DATASETS_MAX: usize = 500;

/// Events that are told when they change: the datasets, the ledger.
const RARE: usize = 2;

/// What this node can do beside what every node can; the page shows no button for the rest.
const FEATURES: &[&str] = &["car", "protect", "spread"];

/// The listeners, and the thread that tells them.
#[derive(Clone, Default)]
pub(super) struct Events(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    closing: Condvar,
}

#[derive(Default)]
struct State {
    listeners: Vec<Arc<Mutex<Listener>>>,
    ticking: bool,
    closed: bool,
}

#[derive(Default)]
struct Listener {
    waiting: VecDeque<Bytes>,
    /// What it was told last of what changes rarely.
    told: [Option<Arc<str>>; RARE],
    ended: bool,
    /// The page was closed.
    left: bool,
    waker: Option<Waker>,
}

struct EventsBody(Arc<Mutex<Listener>>);

impl Events {
    /// Begins a stream of events.
    pub(super) fn answer(&self, node: &Node) -> Reply {
        let listener = Arc::new(Mutex::new(Listener::default()));
        let mut state = self.0.state.lock();
        state.listeners.retain(|listener| !listener.lock().left);
        if state.closed || state.listeners.len() >= LISTENERS_MAX {
            return error(503, "busy", "too many pages look at this node");
        }
        state.listeners.push(listener.clone());
        if !state.ticking {
            let (events, node) = (self.clone(), node.clone());
            let teller = std::thread::Builder::new().name("events".into());
            if let Err(failed) = teller.spawn(move || events.tell(&node)) {
                state.listeners.pop();
                return error(503, "busy", &failed.to_string());
            }
            state.ticking = true;
        }
        drop(state);
        let body = ReplyBody::Stream(Box::new(EventsBody(listener)), None);
        Reply { status: 200, headers: Vec::new(), body }
            .with("content-type", "text/event-stream")
            .with("cache-control", "no-store")
            .with("x-content-type-options", "nosniff")
    }

    /// Ends all streams, so that a stop need not wait for them.
    pub(super) fn close(&self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        for listener in state.listeners.drain(..) {
            Listener::end(&listener);
        }
        self.0.closing.notify_all();
    }

    fn tell(&self, node: &Node) {
        let started = Instant::now();
        loop {
            let now = format!("event: state\ndata: {}\n\n", snapshot(node, started));
            let rare: [Arc<str>; RARE] = [
                format!("event: datasets\ndata: {}\n\n", datasets(node)).into(),
                format!("event: ledger\ndata: {}\n\n", balances_json(node.ledger())).into(),
            ];
            let mut state = self.0.state.lock();
            state.listeners.retain(|listener| Listener::tell(listener, &now, &rare));
            if state.listeners.is_empty() {
                state.ticking = false;
                return;
            }
            self.0.closing.wait_for(&mut state, INTERVAL);
        }
    }
}

impl Listener {
    /// Hands over what is new; `false` if nobody listens any more.
    fn tell(listener: &Mutex<Self>, now: &str, rare: &[Arc<str>; RARE]) -> bool {
        let mut own = listener.lock();
        if own.left {
            return false;
        }
        if own.waiting.len() < WAITING_MAX {
            own.waiting.push_back(now.to_owned().into());
            for (at, event) in rare.iter().enumerate() {
                if own.told[at].as_ref() != Some(event) {
                    own.waiting.push_back(event.to_string().into());
                    own.told[at] = Some(event.clone());
                }
            }
        }
        let waker = own.waker.take();
        drop(own);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    fn end(listener: &Mutex<Self>) {
        let mut own = listener.lock();
        own.ended = true;
        let waker = own.waker.take();
        drop(own);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Body for EventsBody {
    fn poll_chunk(&mut self, waker: &Waker) -> Poll<Option<Result<Bytes, String>>> {
        let mut own = self.0.lock();
        match own.waiting.pop_front() {
            Some(event) => Poll::Ready(Some(Ok(event))),
            None if own.ended => Poll::Ready(None),
            None => {
                own.waker = Some(waker.clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for EventsBody {
    fn drop(&mut self) {
        self.0.lock().left = true;
    }
}

fn snapshot(node: &Node, started: Instant) -> Value {
    let metrics = node.metrics();
    let mut state = about(node);
    state["time_ms"] = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX).into();
    state["features"] = json!(FEATURES);
    state["store"] = store_stat(node);
    state["problem"] = json!(node.health().err());
    state["totals"] = json!({
        "received": metrics.peer_bytes_received_total.get(),
        "sent": metrics.peer_bytes_sent_total.get(),
        "http": metrics.http_bytes_sent_total.get(),
        "bans": node.inspect(|engine| engine.bans().len()).unwrap_or(0),
    });
    state["peers"] = super::api::peers(node)["peers"].take();
    state["transfers"] = json!(transfers::active(node));
    state
}

fn datasets(node: &Node) -> Value {
    let all = node.datasets().unwrap_or_default();
    let newest: Vec<_> = all.iter().rev().take(DATASETS_MAX).collect();
    json!({ "datasets": newest, "total": all.len() })
}
