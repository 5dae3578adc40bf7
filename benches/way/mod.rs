//! A way between two nodes, with a delay and a rate: a proxy of threads that pass bytes on late.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// Bytes that pass at one time.
const CHUNK_BYTES: usize = 16 << 10;
/// What may be on its way or wait for its turn, beside what the delay holds: as a router's queue.
const QUEUE_TIME: Duration = Duration::from_millis(50);

/// Passes bytes to and fro between whoever connects and one node.
pub struct Way {
    /// To be given as `--peer`.
    pub address: String,
    rate: Arc<AtomicU64>,
}

impl Way {
    /// A way to `peer` (`ID@ADDR:PORT`) of this delay in each direction and this many bytes a
    /// second.
    pub fn open(peer: &str, delay: Duration, rate: u64) -> Self {
        let (id, to) = peer.split_once('@').unwrap();
        let to = to.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("{id}@{}", listener.local_addr().unwrap());
        let rate = Arc::new(AtomicU64::new(rate));
        let shared = rate.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                // Half a handshake's round trip, which the proxy's own accept saved.
                thread::sleep(delay * 2);
                let Ok(far) = TcpStream::connect(&to) else { continue };
                for (from, into) in [(&near, &far), (&far, &near)] {
                    let (from, into) = (from.try_clone().unwrap(), into.try_clone().unwrap());
                    let rate = shared.clone();
                    thread::spawn(move || pass(from, into, delay, &rate));
                }
            }
        });
        Self { address, rate }
    }

    /// From now on it is as fast as this.
    pub fn set_rate(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
    }
}

fn pass(mut from: TcpStream, into: TcpStream, delay: Duration, rate: &AtomicU64) {
    let held = rate.load(Ordering::Relaxed) as f64 * (delay + QUEUE_TIME).as_secs_f64();
    let (sender, receiver) = sync_channel((held as usize / CHUNK_BYTES).max(4));
    thread::spawn(move || deliver(into, &receiver));
    read(&mut from, &sender, delay, rate);
}

fn read(
    from: &mut TcpStream,
    sender: &SyncSender<(Instant, Vec<u8>)>,
    delay: Duration,
    rate: &AtomicU64,
) {
    let mut free_at = Instant::now();
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let Ok(len @ 1..) = from.read(&mut chunk) else { return };
        chunk.truncate(len);
        let time = len as f64 / rate.load(Ordering::Relaxed) as f64;
        free_at = free_at.max(Instant::now()) + Duration::from_secs_f64(time);
        if sender.send((free_at + delay, chunk)).is_err() {
            return;
        }
    }
}

fn deliver(mut into: TcpStream, receiver: &Receiver<(Instant, Vec<u8>)>) {
    let _ = into.set_nodelay(true);
    for (at, chunk) in receiver {
        thread::sleep(at.saturating_duration_since(Instant::now()));
        if into.write_all(&chunk).is_err() {
            return;
        }
    }
    let _ = into.shutdown(std::net::Shutdown::Write);
}
