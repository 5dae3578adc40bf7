//! Bodies of answers: pulled chunk by chunk when their connection has room, by a few threads of
//! their own, so that slow clients hold no thread.

use super::Notice;
use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Poll, Wake, Waker},
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

    /// All of it, if nothing has to be read for that: it waits for no thread then.
    fn at_hand(&mut self) -> Option<Bytes> {
        None
    }

    /// Whether [`Self::rewind`] can do anything: what waits for slow clients can be taken from
    /// them then.
    fn can_rewind(&self) -> bool {
        false
    }

    /// Takes the last `bytes` bytes that it gave back, to give them again; `false` if it cannot.
    fn rewind(&mut self, bytes: u64) -> bool {
        bytes == 0
    }
}

/// A body of a request under way, shared by the gate, which takes chunks, and the pumps.
pub(super) struct Flow {
    pub(super) conn: u64,
    body: Mutex<Option<Box<dyn Body>>>,
    ready: Mutex<Ready>,
    scheduled: AtomicBool,
    closed: AtomicBool,
    /// Its client takes what there is; while it does not, nothing is pulled for it.
    is_wanted: AtomicBool,
    /// It waits for room, in the budget's queue.
    is_parked: AtomicBool,
    pumps: Pumps,
    budget: Arc<Budget>,
}

/// How the pumps tell the gate.
pub(super) type Notify = Arc<dyn Fn(Notice) + Send + Sync>;

/// What all bodies of a kind together may have waiting for their clients.
pub(super) struct Budget {
    bytes_max: usize,
    bytes_taken: AtomicUsize,
    /// Flows that wait for bytes of others to be gone.
    parked: Mutex<VecDeque<Arc<Flow>>>,
}

impl Budget {
    fn is_full(&self) -> bool {
        self.bytes_taken.load(Ordering::Acquire) >= self.bytes_max
    }

    /// Wakes who waits the longest, if there is room; `false` if somebody goes on waiting.
    fn wake_next(&self) -> bool {
        let mut parked = self.parked.lock();
        if self.is_full() {
            return parked.is_empty();
        }
        let next = parked.pop_front();
        drop(parked);
        if let Some(next) = next {
            next.is_parked.store(false, Ordering::Release);
            next.schedule();
        }
        true
    }
}

/// A chunk that counts against the budget until its last byte is sent.
struct Counted {
    chunk: Bytes,
    budget: Arc<Budget>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.chunk
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.budget.bytes_taken.fetch_sub(self.chunk.len(), Ordering::AcqRel);
        self.budget.wake_next();
    }
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
        self.is_wanted.store(true, Ordering::Release);
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
            let _ = self.pumps.queue.send(self.clone());
        }
    }

    /// The client is gone: so is the body, what it was fetching, and what waited for the client.
    ///
    /// The chunks have to go here. The budget's queue holds this flow while it waits for room, and
    /// would keep them: flows whose clients left while they waited would hold all of the budget
    /// between them, each waiting for the others, and no body would ever be pulled again.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        if let Some(mut body) = self.body.try_lock() {
            *body = None;
        }
        self.let_go();
    }

    /// Drops what is ready. Outside the lock: each chunk that goes wakes who waits for its room.
    fn let_go(&self) {
        let chunks = std::mem::take(&mut self.ready.lock().chunks);
        drop(chunks);
    }

    /// Gives back what is ready, and `bytes` taken before that, and pulls no more until something
    /// is taken again; `false` if nothing is given back now.
    pub(super) fn give_back(&self, bytes: u64) -> bool {
        self.is_wanted.store(false, Ordering::Release);
        let Some(mut body) = self.body.try_lock() else { return false };
        let Some(body) = body.as_mut() else { return false };
        let mut ready = self.ready.lock();
        let waiting: u64 = ready.chunks.iter().map(|chunk| chunk.len() as u64).sum();
        if ready.end.is_some() || bytes + waiting == 0 || !body.rewind(bytes + waiting) {
            return false;
        }
        ready.chunks.clear();
        true
    }

    /// Whether there is room; if not, it is scheduled once there is.
    fn has_room(self: &Arc<Self>) -> bool {
        let budget = &self.budget;
        if !budget.is_full() {
            return true;
        }
        if !self.is_parked.swap(true, Ordering::AcqRel) {
            budget.parked.lock().push_back(self.clone());
        }
        (self.pumps.notify)(Notice::Scarce);
        false
    }

    fn pump(self: &Arc<Self>) {
        self.scheduled.store(false, Ordering::Release);
        self.fill();
        // Room that this one did not use, or that was made before it was parked; and none where
        // this one took the last for a client that does not read.
        if !self.budget.wake_next() {
            (self.pumps.notify)(Notice::Scarce);
        }
    }

    fn fill(self: &Arc<Self>) {
        let waker = Waker::from(self.clone());
        let mut body = self.body.lock();
        loop {
            let Some(source) = body.as_mut().filter(|_| !self.closed.load(Ordering::Acquire))
            else {
                // A chunk may have become ready after it was closed.
                *body = None;
                drop(body);
                if self.closed.load(Ordering::Acquire) {
                    self.let_go();
                }
                return;
            };
            let wanted = self.is_wanted.load(Ordering::Acquire);
            if !wanted || self.ready.lock().chunks.len() >= CHUNKS_MAX || !self.has_room() {
                return;
            }
            let chunk = match source.poll_chunk(&waker) {
                Poll::Pending => return,
                Poll::Ready(chunk) => chunk.map(|chunk| chunk.map(|chunk| self.count(chunk))),
            };
            let mut ready = self.ready.lock();
            match chunk {
                Some(Ok(chunk)) => ready.chunks.push_back(chunk),
                Some(Err(error)) => ready.end = Some(Err(error)),
                None => ready.end = Some(Ok(())),
            }
            let ended = ready.end.is_some();
            drop(ready);
            if ended {
                *body = None;
            }
            (self.pumps.notify)(Notice::Ready(self.conn));
        }
    }

    fn count(&self, chunk: Bytes) -> Bytes {
        let budget = self.budget.clone();
        budget.bytes_taken.fetch_add(chunk.len(), Ordering::AcqRel);
        Bytes::from_owner(Counted { chunk, budget })
    }
}

impl Wake for Flow {
    fn wake(self: Arc<Self>) {
        self.schedule();
    }
}

/// The pumps' queue and budget, and how flows are made for them.
#[derive(Clone)]
pub(super) struct Pumps {
    queue: Sender<Arc<Flow>>,
    notify: Notify,
    /// Of bodies that cannot give anything back; slow clients of theirs leave the others alone.
    fixed: Arc<Budget>,
    rewindable: Arc<Budget>,
}

impl Pumps {
    /// Starts the threads; `notify` is told of connections that have something to take. They end
    /// with the last clone.
    pub(super) fn start(
        connections_max: usize,
        bytes_max: usize,
        notify: Notify,
    ) -> io::Result<Self> {
        // A flow stands in the queue once; those of closed connections may still be there.
        let (queue, flows): (_, Receiver<Arc<Flow>>) = bounded(2 * connections_max + 64);
        for n in 0..PUMPS {
            let flows = flows.clone();
            let pump = std::thread::Builder::new().name(format!("body-{n}"));
            pump.spawn(move || {
                for flow in flows {
                    flow.pump();
                }
            })?;
        }
        let budget = || {
            let (bytes_taken, parked) = (AtomicUsize::new(0), Mutex::default());
            Arc::new(Budget { bytes_max: bytes_max / 2, bytes_taken, parked })
        };
        Ok(Self { queue, notify, fixed: budget(), rewindable: budget() })
    }

    pub(super) fn flow(&self, conn: u64, body: Box<dyn Body>) -> Arc<Flow> {
        let budget = if body.can_rewind() { &self.rewindable } else { &self.fixed };
        Arc::new(Flow {
            budget: budget.clone(),
            conn,
            body: Mutex::new(Some(body)),
            ready: Mutex::default(),
            scheduled: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            is_wanted: AtomicBool::new(true),
            is_parked: AtomicBool::new(false),
            pumps: self.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// Gives chunks for ever.
    struct Endless;

    impl Body for Endless {
        fn poll_chunk(&mut self, _: &Waker) -> Poll<Option<Result<Bytes, String>>> {
            Poll::Ready(Some(Ok(vec![7; 1_024].into())))
        }
    }

    fn takes_a_chunk(flow: &Arc<Flow>) -> bool {
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            if let Taken::Chunk(_) = flow.take() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }

    #[test]
    fn clients_that_leave_while_their_bodies_wait_for_room_keep_none_of_it() {
        // Room for four chunks: some of these flows have one ready and wait for room for the next.
        let pumps = Pumps::start(64, 8 * 1_024, Arc::new(|_| {})).unwrap();
        for _ in 0..50 {
            let left: Vec<_> = (0..8).map(|conn| pumps.flow(conn, Box::new(Endless))).collect();
            left.iter().for_each(Flow::schedule);
            while !pumps.fixed.is_full() {
                std::thread::yield_now();
            }
            left.iter().for_each(|flow| flow.close());
            drop(left);
            let stays = pumps.flow(99, Box::new(Endless));
            assert!(takes_a_chunk(&stays), "no room came back");
            stays.close();
        }
    }
}
