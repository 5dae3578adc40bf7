//! Server-sent events: what changes in the node, told to pages and scripts as it happens.
//!
//! Source: the HTML standard, "Server-sent events".

use super::{error, transfers::Transfers};
use crate::{
    gate::{Body, Reply, ReplyBody},
    node::Node,
};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    task::{Poll, Waker},
    thread,
    time::Duration,
};

/// Listeners at one time.
const LISTENERS_MAX: usize = 32;
/// Events that may wait for a slow listener; those that come then are left out, as each tells all
/// there is.
const EVENTS_MAX: usize = 8;
/// Time between two looks at what changed.
const INTERVAL: Duration = Duration::from_millis(500);
/// Looks after which something is told even if nothing changed, so that dead listeners show.
const QUIET_LOOKS_MAX: u32 = 20;

/// Who listens.
#[derive(Clone, Default)]
pub(super) struct Events(Arc<Mutex<Listeners>>);

#[derive(Default)]
struct Listeners {
    queues: Vec<Weak<Mutex<Queue>>>,
    /// There is a thread that looks.
    is_watched: bool,
    closed: bool,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Bytes>,
    ended: bool,
    waker: Option<Waker>,
}

struct EventsBody(Arc<Mutex<Queue>>);

impl Events {
    /// Adds a listener.
    pub(super) fn listen(&self, node: &Node, transfers: &Transfers) -> Reply {
        let queue = Arc::new(Mutex::new(Queue::default()));
        let mut listeners = self.0.lock();
        listeners.queues.retain(|queue| queue.strong_count() > 0);
        if listeners.closed || listeners.queues.len() >= LISTENERS_MAX {
            return error(503, "busy", "too many listen");
        }
        if !listeners.is_watched {
            let (events, node, transfers) = (self.clone(), node.clone(), transfers.clone());
            let watch = thread::Builder::new().name("events".into());
            if let Err(failed) = watch.spawn(move || events.watch(&node, &transfers)) {
                return error(503, "busy", &failed.to_string());
            }
            listeners.is_watched = true;
        }
        let first = event("hello", &json!({ "version": env!("CARGO_PKG_VERSION") }));
        queue.lock().waiting.push_back(first);
        listeners.queues.push(Arc::downgrade(&queue));
        drop(listeners);
        let body = ReplyBody::Stream(Box::new(EventsBody(queue)), None);
        Reply { status: 200, headers: Vec::new(), body }
            .with("content-type", "text/event-stream")
            .with("x-content-type-options", "nosniff")
            .with("cache-control", "no-store")
    }

    /// Ends all listening, as the node stops.
    pub(super) fn close(&self) {
        let mut listeners = self.0.lock();
        listeners.closed = true;
        for queue in listeners.queues.iter().filter_map(Weak::upgrade) {
            let mut queue = queue.lock();
            queue.ended = true;
            queue.wake();
        }
    }

    /// Looks at what changes, as long as somebody listens.
    fn watch(&self, node: &Node, transfers: &Transfers) {
        let (mut told_transfers, mut told_node) = (Value::Null, Value::Null);
        let mut quiet_looks = 0;
        loop {
            thread::sleep(INTERVAL);
            let mut events = Vec::new();
            let now = json!({ "transfers": transfers.to_json() });
            if now != told_transfers {
                events.push(event("transfers", &now));
                told_transfers = now;
            }
            let now = figures(node);
            if now != told_node {
                events.push(event("node", &now));
                told_node = now;
            }
            quiet_looks = if events.is_empty() { quiet_looks + 1 } else { 0 };
            if quiet_looks == QUIET_LOOKS_MAX {
                quiet_looks = 0;
                events.push(Bytes::from_static(b": nothing new\n\n"));
            }
            if !self.tell(&events) {
                return;
            }
        }
    }

    /// Hands events out; `false` once nobody listens.
    fn tell(&self, events: &[Bytes]) -> bool {
        let mut listeners = self.0.lock();
        listeners.queues.retain(|queue| queue.strong_count() > 0);
        for queue in listeners.queues.iter().filter_map(Weak::upgrade) {
            let mut queue = queue.lock();
            if queue.waiting.len() + events.len() <= EVENTS_MAX {
                queue.waiting.extend(events.iter().cloned());
                queue.wake();
            }
        }
        listeners.is_watched = !listeners.queues.is_empty() && !listeners.closed;
        listeners.is_watched
    }
}

fn event(name: &str, data: &Value) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}

fn figures(node: &Node) -> Value {
    let metrics = node.metrics();
    json!({
        "peers": metrics.peers.get(),
        "store_blocks": metrics.store_blocks.get(),
        "store_bytes": metrics.store_bytes.get(),
        "peer_bytes_sent": metrics.peer_bytes_sent_total.get(),
        "peer_bytes_received": metrics.peer_bytes_received_total.get(),
        "http_bytes_sent": metrics.http_bytes_sent_total.get(),
    })
}

impl Queue {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Body for EventsBody {
    fn poll_chunk(&mut self, waker: &Waker) -> Poll<Option<Result<Bytes, String>>> {
        let mut queue = self.0.lock();
        match queue.waiting.pop_front() {
            Some(event) => Poll::Ready(Some(Ok(event))),
            None if queue.ended => Poll::Ready(None),
            None => {
                queue.waker = Some(waker.clone());
                Poll::Pending
            }
        }
    }
}
