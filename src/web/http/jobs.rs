//! Work that takes its time, told line by line: newline-delimited JSON as the body of an answer.

use crate::web::gate::{Body, Reply, ReplyBody};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Poll, Waker},
    time::{Duration, Instant},
};

/// Jobs at one time; each has a thread.
const JOBS_MAX: usize = 16;
/// Lines that may wait for a slow reader; what comes then is left out, except the last.
const LINES_MAX: usize = 16;
/// Time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

static JOBS: AtomicUsize = AtomicUsize::new(0);

#[derive(Default)]
struct Lines {
    waiting: VecDeque<Bytes>,
    ended: bool,
    /// The reader has gone.
    left: bool,
    waker: Option<Waker>,
}

/// Where a job tells how far it is.
pub(super) struct Teller {
    lines: Arc<Mutex<Lines>>,
    told: Instant,
}

struct LinesBody(Arc<Mutex<Lines>>);

/// Runs `job` on a thread of its own; what it tells, and at last its result, are the answer's
/// lines. When the client leaves, [`Teller::tell`] says so.
pub(super) fn run(job: impl FnOnce(&mut Teller) -> Result<Value, Value> + Send + 'static) -> Reply {
    let lines = Arc::new(Mutex::new(Lines::default()));
    let mut teller = Teller { lines: lines.clone(), told: Instant::now() };
    let spawned = spawn(move || {
        let last = job(&mut teller).unwrap_or_else(|error| error);
        teller.end(&last);
    });
    if let Err(reply) = spawned {
        return reply;
    }
    let body = ReplyBody::Stream(Box::new(LinesBody(lines)), None);
    Reply { status: 200, headers: Vec::new(), body }
        .with("content-type", "application/x-ndjson")
        .with("cache-control", "no-store")
}

/// Runs `job` on a thread of its own, if not too many run.
pub(super) fn spawn(job: impl FnOnce() + Send + 'static) -> Result<(), Reply> {
    if JOBS.fetch_add(1, Ordering::Relaxed) >= JOBS_MAX {
        JOBS.fetch_sub(1, Ordering::Relaxed);
        return Err(super::error(503, "busy", "too many jobs run at this time"));
    }
    let spawned = std::thread::Builder::new().name("job".into()).spawn(move || {
        job();
        JOBS.fetch_sub(1, Ordering::Relaxed);
    });
    spawned.map(|_| ()).map_err(|error| {
        JOBS.fetch_sub(1, Ordering::Relaxed);
        super::error(503, "busy", &error.to_string())
    })
}

impl Teller {
    /// Tells how far the job is, not too often; `false` if nobody listens any more.
    pub(super) fn tell(&mut self, line: impl FnOnce() -> Value) -> bool {
        if self.told.elapsed() >= PROGRESS_INTERVAL {
            self.told = Instant::now();
            self.push(&line(), false);
        }
        !self.lines.lock().left
    }

    fn end(&self, line: &Value) {
        self.push(line, true);
    }

    fn push(&self, line: &Value, last: bool) {
        let mut lines = self.lines.lock();
        if last || lines.waiting.len() < LINES_MAX {
            lines.waiting.push_back(format!("{line}\n").into());
        }
        lines.ended |= last;
        if let Some(waker) = lines.waker.take() {
            drop(lines);
            waker.wake();
        }
    }
}

impl Body for LinesBody {
    fn poll_chunk(&mut self, waker: &Waker) -> Poll<Option<Result<Bytes, String>>> {
        let mut lines = self.0.lock();
        match lines.waiting.pop_front() {
            Some(line) => Poll::Ready(Some(Ok(line))),
            None if lines.ended => Poll::Ready(None),
            None => {
                lines.waker = Some(waker.clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for LinesBody {
    fn drop(&mut self) {
        self.0.lock().left = true;
    }
}
