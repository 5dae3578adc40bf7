//! Bodies of answers: pulled chunk by chunk when their connection has room, by a few threads of
//! their own, so that slow clients hold no thread.

use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Poll, Wake, Waker},
    thread::JoinHandle,
};

/// Threads that pull.
const PUMPS: usize = 2;
/// Chunks of one body that may wait for its connection.
const CHUNKS_MAX: usize = 2;

/// Where an answer's body comes from.
pub trait Body: Send {
    /// The next bytes, or none at the end. It may read the disk; where it would wait for the
    /// network it is pending, and wakes `waker` later. An error ends the connection, so that the
    /// client sees it.
    fn poll_chunk(&mut self, waker: &Waker) -> Poll<Option<Result<Bytes, String>>>;
}

/// A body that is here already.
impl Body for Option<Bytes> {
    fn poll_chunk(&mut self, _: &Waker) -> Poll<Option<Result<Bytes, String>>> {
        Poll::Ready(self.take().map(Ok))
    }
}

/// A body of a request under way, shared by the gate, which takes chunks, and the pumps.
pub(super) struct Flow {
    pub(super) conn: u64,
    body: Mutex<Option<Box<dyn Body>>>,
    ready: Mutex<Ready>,
    scheduled: AtomicBool,
    closed: AtomicBool,
    pumps: Sender<Arc<Flow>>,
    notify: Arc<dyn Fn(u64) + Send + Sync>,
}

#[derive(Default)]
struct Ready {
    chunks: VecDeque<Bytes>,
    end: Option<Result<(), String>>,
}

/// What a flow has for its connection.
pub(super) enum Taken {
    Chunk(Bytes),
    End(Result<(), String>),
    Nothing,
}

impl Flow {
    /// Takes what is ready, and has more pulled.
    pub(super) fn take(self: &Arc<Self>) -> Taken {
        let mut ready = self.ready.lock();
        let taken = match ready.chunks.pop_front() {
            Some(chunk) => Taken::Chunk(chunk),
            None => ready.end.clone().map_or(Taken::Nothing, Taken::End),
        };
        let more = ready.end.is_none() && ready.chunks.len() < CHUNKS_MAX;
        drop(ready);
        if more {
            self.schedule();
        }
        taken
    }

    fn schedule(self: &Arc<Self>) {
        if !self.scheduled.swap(true, Ordering::AcqRel) {
            // There is a place for each connection.
            let _ = self.pumps.send(self.clone());
        }
    }

    /// The client is gone: so is the body, and what it was fetching.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        if let Some(mut body) = self.body.try_lock() {
            *body = None;
        }
    }

    fn pump(self: &Arc<Self>) {
        self.scheduled.store(false, Ordering::Release);
        let waker = Waker::from(self.clone());
        let mut body = self.body.lock();
        loop {
            let Some(source) = body.as_mut().filter(|_| !self.closed.load(Ordering::Acquire))
            else {
                *body = None;
                return;
            };
            if self.ready.lock().chunks.len() >= CHUNKS_MAX {
                return;
            }
            let mut ready = match source.poll_chunk(&waker) {
                Poll::Pending => return,
                Poll::Ready(chunk) => (self.ready.lock(), chunk),
            };
            match ready.1 {
                Some(Ok(chunk)) => ready.0.chunks.push_back(chunk),
                Some(Err(error)) => ready.0.end = Some(Err(error)),
                None => ready.0.end = Some(Ok(())),
            }
            let ended = ready.0.end.is_some();
            drop(ready.0);
            if ended {
                *body = None;
            }
            (self.notify)(self.conn);
        }
    }
}

impl Wake for Flow {
    fn wake(self: Arc<Self>) {
        self.schedule();
    }
}

/// Bodies that handlers have named and the gate has not yet taken, and the threads that pull.
pub(super) struct Bodies {
    waiting: Mutex<HashMap<u64, Box<dyn Body>>>,
    next: AtomicU64,
    /// Names cannot be guessed: they begin with this.
    secret: u64,
}

impl Bodies {
    pub(super) fn new() -> Self {
        use std::hash::{BuildHasher as _, RandomState};
        let secret = RandomState::new().hash_one(0_u64);
        Self { waiting: Mutex::default(), next: AtomicU64::new(0), secret }
    }

    /// Keeps a body until the gate asks for it; gives its name.
    pub(super) fn put(&self, body: Box<dyn Body>) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().insert(number, body);
        format!("{:016x}{number:016x}", self.secret)
    }

    /// The body of this name, once.
    pub(super) fn take(&self, name: &str) -> Option<Box<dyn Body>> {
        let number = name.strip_prefix(&format!("{:016x}", self.secret))?;
        self.waiting.lock().remove(&u64::from_str_radix(number, 16).ok()?)
    }
}

/// The pumps' queue, and how flows are made for it.
#[derive(Clone)]
pub(super) struct Pumps {
    queue: Sender<Arc<Flow>>,
    notify: Arc<dyn Fn(u64) + Send + Sync>,
}

impl Pumps {
    /// Starts the threads; `notify` is told of connections that have something to take.
    pub(super) fn start(
        connections_max: usize,
        notify: Arc<dyn Fn(u64) + Send + Sync>,
    ) -> io::Result<(Self, Vec<JoinHandle<()>>)> {
        // A flow stands in the queue once; those of closed connections may still be there.
        let (queue, flows): (_, Receiver<Arc<Flow>>) = bounded(2 * connections_max + 64);
        let mut threads = Vec::new();
        for n in 0..PUMPS {
            let flows = flows.clone();
            let pump = std::thread::Builder::new().name(format!("body-{n}"));
            threads.push(pump.spawn(move || {
                for flow in flows {
                    flow.pump();
                }
            })?);
        }
        Ok((Self { queue, notify }, threads))
    }

    pub(super) fn flow(&self, conn: u64, body: Box<dyn Body>) -> Arc<Flow> {
        Arc::new(Flow {
            conn,
            body: Mutex::new(Some(body)),
            ready: Mutex::default(),
            scheduled: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            pumps: self.queue.clone(),
            notify: self.notify.clone(),
        })
    }
}
