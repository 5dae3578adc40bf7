//! The global pool of block buffers: one bound on what blocks in flight may hold.

use barrow_wire::limits::{BLOCK_BUFFER_SLACK_BYTES, BLOCK_BYTES_MAX};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;

/// What a buffer has beyond the block's bytes: a session decrypts a tag and a kind behind them,
/// and a read of the store brings the record's header before them.
pub const SLACK_BYTES: usize = 64;
const _: () = assert!(SLACK_BYTES >= BLOCK_BUFFER_SLACK_BYTES);

/// Buffer sizes, of which the smallest that fits is taken; each has room for [`SLACK_BYTES`].
const CLASS_BYTES: [usize; 5] = [4 << 10, 64 << 10, 256 << 10, 1 << 20, BLOCK_BYTES_MAX];

/// Buffers for blocks, counted against one limit and used again.
///
/// A buffer counts from [`Pool::try_take`] until the last [`Bytes`] made of it is dropped, so
/// blocks held by a slow reader, a full disk queue or a busy worker all push back on the socket
/// that would bring more.
///
/// ```
/// let pool = barrow::Pool::new(2 << 20);
/// let mut buffer = pool.try_take(11).unwrap();
/// buffer.as_mut()[..11].copy_from_slice(b"hello world");
/// let bytes = buffer.freeze(0..11);
/// assert_eq!(&bytes[..], b"hello world");
/// ```
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    bytes_max: usize,
    state: Mutex<State>,
    returned: Condvar,
    on_return: Mutex<Option<Box<dyn Fn() + Send>>>,
}

#[derive(Default)]
struct State {
    bytes_taken: usize,
    /// Somebody was refused since the last return, and is to be told of it.
    refused: bool,
    free: [Vec<Vec<u8>>; CLASS_BYTES.len()],
}

impl Pool {
    /// A pool that lends at most `bytes_max` bytes at a time, at least one largest block.
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Shared {
            bytes_max: bytes_max.max(BLOCK_BYTES_MAX),
            state: Mutex::default(),
            returned: Condvar::new(),
            on_return: Mutex::new(None),
        }))
    }

    /// Calls `wake` whenever a buffer comes back after somebody was refused one.
    pub fn on_return(&self, wake: impl Fn() + Send + 'static) {
        *self.0.on_return.lock() = Some(Box::new(wake));
    }

    /// A buffer for a block of `len` bytes, or `None` while too much is lent.
    ///
    /// # Panics
    /// If `len` is over [`BLOCK_BYTES_MAX`]: lengths are checked where they come in.
    pub fn try_take(&self, len: usize) -> Option<Buffer> {
        let mut state = self.0.state.lock();
        self.take_locked(&mut state, len)
    }

    /// As [`Self::try_take`], but waits for a buffer. Never on the reactor or the gate.
    pub fn take(&self, len: usize) -> Buffer {
        let mut state = self.0.state.lock();
        loop {
            if let Some(buffer) = self.take_locked(&mut state, len) {
                return buffer;
            }
            self.0.returned.wait(&mut state);
        }
    }

    /// Bytes lent now.
    pub fn bytes_taken(&self) -> usize {
        self.0.state.lock().bytes_taken
    }

    /// Bytes that it can lend yet.
    pub fn bytes_free(&self) -> usize {
        self.0.bytes_max - self.bytes_taken()
    }

    /// Bytes that it lends at a time, at most.
    pub fn bytes_max(&self) -> usize {
        self.0.bytes_max
    }

    /// What a block of `len` bytes counts here: its buffer, not its bytes.
    pub fn counted_bytes(len: usize) -> usize {
        CLASS_BYTES.into_iter().find(|&bytes| len <= bytes).unwrap_or(len)
    }

    fn take_locked(&self, state: &mut State, len: usize) -> Option<Buffer> {
        let class = CLASS_BYTES.iter().position(|&bytes| len <= bytes).expect("a block's length");
        if state.bytes_taken + CLASS_BYTES[class] > self.0.bytes_max {
            state.refused = true;
            return None;
        }
        state.bytes_taken += CLASS_BYTES[class];
        let data =
            state.free[class].pop().unwrap_or_else(|| vec![0; CLASS_BYTES[class] + SLACK_BYTES]);
        Some(Buffer { data, class, pool: self.clone() })
    }

    fn put_back(&self, data: Vec<u8>, class: usize) {
        let mut state = self.0.state.lock();
        state.bytes_taken -= CLASS_BYTES[class];
        state.free[class].push(data);
        // What lies free counts too, once other sizes are asked for.
        let mut free_bytes: usize =
            state.free.iter().zip(CLASS_BYTES).map(|(free, bytes)| free.len() * bytes).sum();
        for (class, bytes) in CLASS_BYTES.iter().enumerate() {
            while free_bytes + state.bytes_taken > self.0.bytes_max
                && state.free[class].pop().is_some()
            {
                free_bytes -= bytes;
            }
        }
        let refused = std::mem::take(&mut state.refused);
        drop(state);
        if refused {
            self.0.returned.notify_all();
            if let Some(wake) = &*self.0.on_return.lock() {
                wake();
            }
        }
    }
}

/// A buffer lent by a [`Pool`], longer than was asked for by at least [`SLACK_BYTES`].
pub struct Buffer {
    data: Vec<u8>,
    class: usize,
    pool: Pool,
}

impl Buffer {
    /// The bytes of `range`, shared; the buffer goes back with the last clone of them.
    pub fn freeze(self, range: std::ops::Range<usize>) -> Bytes {
        Bytes::from_owner(self).slice(range)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.put_back(std::mem::take(&mut self.data), self.class);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn what_is_lent_never_passes_the_limit_and_comes_back_with_the_last_clone() {
        let pool = Pool::new(4 << 20);
        let woken = Arc::new(AtomicUsize::new(0));
        let count = woken.clone();
        pool.on_return(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let first = pool.try_take(2 << 20).unwrap().freeze(0..2 << 20);
        let second = pool.try_take(2 << 20).unwrap();
        assert!(pool.try_take(1).is_none());
        let clone = first.clone();
        drop(first);
        assert!(pool.try_take(1).is_none());
        drop(clone);
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        drop(second);
        assert_eq!(pool.bytes_taken(), 0);
    }
}
