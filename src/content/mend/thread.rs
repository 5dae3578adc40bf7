//! A thread that mends for one stream: the stream says which block it needs and is woken when it
//! is here; the thread brings its stripe, and goes on with the next one.

use super::{Mender, Mending, hand::Hand};
use crate::{
    content::{
        network_store::NetworkStore,
        store_stream::{GetError, Scope},
    },
    data::block::Block,
    erasure::Manifest,
    store::disk::Disk,
};
use barrow_wire::{Cid, Codec, Multihash};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::{
    collections::HashSet,
    io, mem,
    sync::Arc,
    task::{Poll, Waker},
};

/// Bytes of stripes that are asked for behind the one that is read.
const AHEAD_BYTES: u64 = 8 << 20;

/// What the stream asked for, and what came of it.
#[derive(Default)]
struct State {
    wanted: Option<Wanted>,
    answer: Option<(Multihash, Answer)>,
    waker: Option<Waker>,
    /// Data of the stripe that was brought last. Once the stream reads of it, the next is due.
    latest: HashSet<Multihash>,
    is_next_due: bool,
    /// The stream is gone.
    closed: bool,
}

#[derive(Clone, Copy, PartialEq)]
struct Wanted {
    hash: Multihash,
    codec: Codec,
    place: ReadingPlace,
}

/// Where in a file its reader is, and how far it reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadingPlace {
    /// The next byte.
    pub position: u64,
    /// The byte behind the last.
    pub end: u64,
    /// Bytes of the file.
    pub size: u64,
}

impl ReadingPlace {
    /// Which part of the file is before `offset`.
    fn share(self, offset: u64) -> f64 {
        offset as f64 / self.size.max(1) as f64
    }

    /// The stripe behind the last that the reader needs, as far as can be told: only where the
    /// file is all that is protected do its offsets tell of stripes, and where all leaves are of
    /// one length they tell of each one.
    fn stripes_end(self, manifest: &Manifest) -> u64 {
        if self.size != manifest.size {
            return manifest.stripes();
        }
        let longest = manifest.longest as u64;
        if longest > 0 && self.size.div_ceil(longest) == manifest.leaves {
            let leaves = self.end.min(self.size).div_ceil(longest);
            return leaves.div_ceil(manifest.shape.data() as u64);
        }
        (self.share(self.end) * manifest.stripes() as f64).ceil() as u64
    }
}

enum Answer {
    Here,
    /// It is in no stripe: an inner node.
    NoShard,
    Failed(GetError),
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// What was brought and not read.
    hand: Arc<Hand>,
}

/// A stream's handle on its mender, which ends with it.
pub struct MendThread(Arc<Shared>);

impl Drop for MendThread {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.changed.notify_one();
    }
}

impl MendThread {
    /// Starts to mend the dataset that `manifest` protects.
    ///
    /// # Errors
    /// If the thread cannot be made.
    pub fn start(
        store: &NetworkStore,
        mending: Arc<Mending>,
        manifest: Cid,
        scope: Scope,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
            hand: Arc::default(),
        });
        let (own, store) = (shared.clone(), store.clone());
        std::thread::Builder::new().name("mender".into()).spawn(move || {
            match Mender::open(store, mending, manifest, scope, None) {
                Ok(mender) => {
                    let hand = own.hand.clone();
                    own.run(mender.with_ahead(AHEAD_BYTES).with_hand(hand));
                }
                Err(error) => own.fail(error),
            }
        })?;
        Ok(Self(shared))
    }

    /// A block that was brought, and is in memory yet.
    pub fn take(&self, hash: &Multihash) -> Option<Bytes> {
        let block = self.0.hand.take(hash)?;
        self.note_read(hash);
        Some(block)
    }

    /// The stream has read this block.
    pub fn note_read(&self, hash: &Multihash) {
        let mut state = self.0.state.lock();
        if state.latest.contains(hash) && !state.is_next_due {
            state.is_next_due = true;
            state.latest.clear();
            drop(state);
            self.0.changed.notify_one();
        }
    }

    /// The block of `cid`, or none if it is in no stripe.
    pub fn poll(
        &self,
        cid: &Cid,
        place: ReadingPlace,
        disk: &Disk,
        waker: &Waker,
    ) -> Poll<Result<Option<Bytes>, GetError>> {
        let Some(hash) = cid.multihash() else { return Poll::Ready(Ok(None)) };
        let mut state = self.0.state.lock();
        match state.answer.take() {
            Some((of, Answer::NoShard)) if of == hash => return Poll::Ready(Ok(None)),
            Some((of, Answer::Failed(error))) if of == hash => return Poll::Ready(Err(error)),
            Some(_) | None => {}
        }
        state.wanted = Some(Wanted { hash, codec: cid.codec(), place });
        state.waker = Some(waker.clone());
        drop(state);
        self.0.changed.notify_one();
        // It may have come just before the thread could know that it is waited for.
        let block = match self.0.hand.take(&hash) {
            Some(block) => Ok(Some(block)),
            None => disk.get(&hash).map(|block| block.map(Block::into_data)),
        };
        match block {
            Ok(Some(block)) => {
                self.0.state.lock().wanted = None;
                Poll::Ready(Ok(Some(block)))
            }
            Ok(None) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

impl Shared {
    fn run(&self, mut mender: Mender) {
        let (mut next, mut end) = (None, 0);
        loop {
            let Some(wanted) = self.next(next.is_some()) else { return };
            let target = match (wanted, next) {
                (Some(wanted), _) => {
                    self.locate(&mut mender, &wanted).map(|stripe| (stripe, Some(wanted)))
                }
                (None, next) => Ok((next, None)),
            };
            let (stripe, wanted) = match target {
                Ok((Some(stripe), wanted)) => (stripe, wanted),
                Ok((None, wanted)) => {
                    if let Some(wanted) = wanted {
                        self.answer(wanted.hash, Answer::NoShard);
                    }
                    next = None;
                    continue;
                }
                Err((hash, error)) => {
                    self.answer(hash, Answer::Failed(error));
                    continue;
                }
            };
            if let Some(wanted) = &wanted {
                end = wanted.place.stripes_end(mender.manifest());
                mender.read_until(end);
            }
            let obtained = self.bring(&mut mender, stripe);
            next = Some(stripe + 1).filter(|stripe| *stripe < end);
            match (obtained, wanted) {
                (Ok(()), Some(wanted)) => self.answer(wanted.hash, Answer::Here),
                (Err(error), Some(wanted)) => self.answer(wanted.hash, Answer::Failed(error)),
                // The reader will ask for it itself, and hear of it then.
                (Err(_), None) => next = None,
                (Ok(()), None) => {}
            }
        }
    }

    /// Waits until something is wanted, or the next stripe is due, if there is one. None at all
    /// when the stream is gone.
    fn next(&self, has_next: bool) -> Option<Option<Wanted>> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return None;
            }
            if state.wanted.is_some() || (has_next && state.is_next_due) {
                state.is_next_due = false;
                return Some(state.wanted);
            }
            self.changed.wait(&mut state);
        }
    }

    /// Brings a stripe's data.
    fn bring(&self, mender: &mut Mender, number: u64) -> Result<(), GetError> {
        let stripe = mender.stripe(number)?;
        let places: Vec<usize> = (0..stripe.data.len()).collect();
        let latest = stripe.data.iter().filter_map(|(cid, _)| cid.multihash()).collect();
        self.state.lock().latest = latest;
        mender.obtain(number, &places, &mut |hash| self.tell(hash))
    }

    fn locate(
        &self,
        mender: &mut Mender,
        wanted: &Wanted,
    ) -> Result<Option<u64>, (Multihash, GetError)> {
        let failed = |error| (wanted.hash, error);
        // Raw blocks have no links and are leaves; of others the manifest knows those with links.
        if wanted.codec != Codec::Raw {
            for index in 0..mender.manifest().nodes.len() {
                let nodes = mender.nodes(index).map_err(failed)?;
                if nodes.0.iter().any(|cid| cid.multihash() == Some(wanted.hash)) {
                    return Ok(None);
                }
            }
        }
        mender.find(&wanted.hash, wanted.place.share(wanted.place.position)).map_err(failed)
    }

    /// Wakes the stream if it waits for this block; `false` once it is gone.
    fn tell(&self, hash: &Multihash) -> bool {
        let mut state = self.state.lock();
        if state.wanted.is_some_and(|wanted| wanted.hash == *hash) {
            state.wanted = None;
            let waker = state.waker.take();
            let open = !state.closed;
            drop(state);
            waker.inspect(Waker::wake_by_ref);
            return open;
        }
        !state.closed
    }

    fn answer(&self, hash: Multihash, answer: Answer) {
        let mut state = self.state.lock();
        if state.wanted.is_some_and(|wanted| wanted.hash == hash) {
            state.wanted = None;
            state.answer = Some((hash, answer));
            let waker = state.waker.take();
            drop(state);
            waker.inspect(Waker::wake_by_ref);
        }
    }

    /// Nothing can be mended: whatever is wanted fails, the first time with the true reason.
    fn fail(&self, error: GetError) {
        let mut error = Some(error);
        while let Some(wanted) = self.next(false) {
            let Some(wanted) = wanted else { continue };
            let failed = mem::take(&mut error).unwrap_or(GetError::NotFound);
            self.answer(wanted.hash, Answer::Failed(failed));
        }
    }
}
