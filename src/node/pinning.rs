//! Datasets being fetched to be kept: each is a job, remembered in a file, so that a node which was
//! stopped goes on with it.

use super::{Node, TransferStatus};
use crate::{
    content::{fetch::FetchProgress, network_store::Purse, store_stream::GetError},
    engine::JobId,
    store::local_store::Slot,
};
use barrow_wire::Cid;
use parking_lot::{Condvar, Mutex};
use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Pins under way that are remembered.
const PINS_MAX: usize = 1_000;
/// Ended ones that are kept for whoever asks what became of them.
const ENDED_MAX: usize = 64;
/// Time between two looks at a pin that another thread does.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// What nobody has now is tried again after this time.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// One of them.
pub struct PinTransfer {
    job: JobId,
    cid: Cid,
    /// What of a protected dataset is kept, if not all.
    slot: Option<Slot>,
    since: Instant,
    state: Mutex<PinState>,
    /// What all its runs pay from, once the first has begun.
    purse: OnceLock<Arc<Purse>>,
    cancelled: AtomicBool,
}

#[derive(Clone)]
struct PinState {
    progress: FetchProgress,
    /// What it has cost in all its runs, in price times bytes.
    spent: u128,
    status: TransferStatus,
}

/// All of them, those that ended lately with them. The file `pinning` has a line for each that has
/// not: its job, its CID, its slot, if it has one, and what it has cost, if anything.
pub(super) struct Pins {
    path: PathBuf,
    table: Mutex<Table>,
    /// A status, or that the node stops.
    changed: Condvar,
}

#[derive(Default)]
struct Table {
    pins: BTreeMap<JobId, Arc<PinTransfer>>,
    /// The node stops: what is under way stays in the file.
    frozen: bool,
}

impl PinTransfer {
    fn new(job: JobId, cid: Cid, slot: Option<Slot>) -> Self {
        let (progress, status) = (FetchProgress::default(), TransferStatus::Waiting);
        let state = Mutex::new(PinState { progress, spent: 0, status });
        let (since, cancelled) = (Instant::now(), AtomicBool::new(false));
        Self { job, cid, slot, since, state, purse: OnceLock::new(), cancelled }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let job = JobId(words.next()?.parse().ok()?);
        let cid = words.next()?.parse().ok()?;
        let (mut slot, mut spent) = (None, 0);
        for word in words {
            match word.strip_prefix("spent=") {
                Some(cost) => spent = cost.parse().ok()?,
                None => slot = Some(word.parse().ok()?),
            }
        }
        let pin = Self::new(job, cid, slot);
        pin.state.lock().spent = spent;
        Some(pin)
    }

    fn line(&self) -> String {
        let slot = self.slot.map(|Slot { index, slots }| format!(" {index}/{slots}"));
        let spent = Some(self.state.lock().spent).filter(|spent| *spent > 0);
        let spent = spent.map(|spent| format!(" spent={spent}")).unwrap_or_default();
        format!("{} {}{}{spent}\n", self.job.0, self.cid, slot.unwrap_or_default())
    }

    /// Its number.
    pub const fn job(&self) -> JobId {
        self.job
    }

    /// What it fetches.
    pub const fn cid(&self) -> &Cid {
        &self.cid
    }

    /// Since when this run of the node knows of it.
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// How far it is.
    pub fn progress(&self) -> FetchProgress {
        self.state.lock().progress
    }

    /// What is with it.
    pub fn status(&self) -> TransferStatus {
        self.state.lock().status.clone()
    }

    /// Whether it has not ended.
    pub fn is_open(&self) -> bool {
        self.status().is_open()
    }
}

impl Pins {
    /// Reads what was under way; lines that say something else are left out.
    pub(super) fn open(data_dir: &Path) -> Self {
        let path = data_dir.join("pinning");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let pins = text.lines().take(PINS_MAX).filter_map(PinTransfer::parse);
        let pins = pins.map(|pin| (pin.job, Arc::new(pin))).collect();
        let table = Mutex::new(Table { pins, frozen: false });
        Self { path, table, changed: Condvar::new() }
    }

    /// The last number that was given.
    pub(super) fn last_job(&self) -> JobId {
        self.table.lock().pins.last_key_value().map_or(JobId(0), |(job, _)| *job)
    }

    pub(super) fn all(&self) -> Vec<Arc<PinTransfer>> {
        self.table.lock().pins.values().cloned().collect()
    }

    pub(super) fn get(&self, job: JobId) -> Option<Arc<PinTransfer>> {
        self.table.lock().pins.get(&job).cloned()
    }

    /// The open pin of these, which `make` begins if there is none.
    fn begin(
        &self,
        cid: &Cid,
        slot: Option<Slot>,
        make: impl FnOnce() -> PinTransfer,
    ) -> Arc<PinTransfer> {
        let mut table = self.table.lock();
        let mut open = table.pins.values().filter(|pin| pin.is_open());
        if let Some(open) = open.find(|pin| pin.cid == *cid && pin.slot == slot) {
            return open.clone();
        }
        let ended = table.pins.values().filter(|pin| !pin.is_open());
        let ended: Vec<JobId> = ended.map(|pin| pin.job).collect();
        for job in ended.iter().take(ended.len().saturating_sub(ENDED_MAX)) {
            table.pins.remove(job);
        }
        let pin = Arc::new(make());
        table.pins.insert(pin.job, pin.clone());
        self.write(&table);
        pin
    }

    fn set(&self, pin: &PinTransfer, status: TransferStatus) {
        let table = self.table.lock();
        pin.state.lock().status = status;
        if !table.frozen {
            self.write(&table);
        }
        self.changed.notify_all();
    }

    /// Notes what a pin has cost, at once: after a kill it may spend the rest alone.
    fn note_spent(&self, pin: &PinTransfer, spent: u128) {
        let table = self.table.lock();
        let before = std::mem::replace(&mut pin.state.lock().spent, spent);
        if spent > before && !table.frozen {
            self.write(&table);
        }
    }

    /// Makes a pin that waits the caller's to do; `false` if it is another's, or has ended.
    fn claim(&self, pin: &PinTransfer) -> bool {
        let mut state = pin.state.lock();
        let waits = state.status == TransferStatus::Waiting;
        if waits {
            state.status = TransferStatus::Active;
        }
        waits
    }

    /// From now on nothing is forgotten: the node stops.
    pub(super) fn freeze(&self) {
        self.table.lock().frozen = true;
        self.changed.notify_all();
    }

    /// Without the file nothing but the going-on is lost, so it need not be synced.
    fn write(&self, table: &Table) {
        let open = table.pins.values().filter(|pin| pin.is_open()).take(PINS_MAX);
        let text: String = open.map(|pin| pin.line()).collect();
        let draft = self.path.with_extension("new");
        let written = fs::write(&draft, text).and_then(|()| fs::rename(&draft, &self.path));
        if let Err(error) = written {
            log::warn!("{}: {error}", self.path.display());
        }
    }

    /// Waits; `true` if the node stops meanwhile.
    fn stops_within(&self, wait: Duration) -> bool {
        let mut table = self.table.lock();
        self.changed.wait_while_for(&mut table, |table| !table.frozen, wait);
        table.frozen
    }

    /// Waits for a change, for a short time.
    fn watch(&self) {
        self.changed.wait_for(&mut self.table.lock(), WATCH_INTERVAL);
    }
}

impl Node {
    /// The job that keeps a dataset, or a slot of it: one that is open already, or a new one,
    /// which waits for [`Self::run_pin`].
    pub fn begin_pin(&self, cid: &Cid, slot: Option<Slot>) -> Arc<PinTransfer> {
        self.inner.pins.begin(cid, slot, || PinTransfer::new(self.store.number_job(), *cid, slot))
    }

    /// Does it on the caller's thread, or waits for whoever does it. `each` is told of progress,
    /// and ends it with `false`; where another does it, the waiting alone.
    ///
    /// # Errors
    /// As [`Node::pin`].
    pub fn run_pin(
        &self,
        pin: &PinTransfer,
        each: &mut dyn FnMut(&FetchProgress) -> bool,
    ) -> Result<FetchProgress, GetError> {
        loop {
            if self.inner.pins.claim(pin) {
                return self.run_claimed(pin, each);
            }
            match pin.status() {
                TransferStatus::Done => return Ok(pin.progress()),
                TransferStatus::Cancelled if pin.cancelled.load(Ordering::Relaxed) => {
                    return Err(GetError::Cancelled);
                }
                // Nobody ended it: who did it has left, and another does it.
                TransferStatus::Cancelled => {
                    return self.run_pin(&self.begin_pin(&pin.cid, pin.slot), each);
                }
                // Why is known to whoever did it; here it is found out again.
                TransferStatus::Failed(_) => return self.pin_once(pin, each),
                TransferStatus::Active | TransferStatus::Waiting => self.inner.pins.watch(),
            }
            if !each(&pin.progress()) {
                return Err(GetError::Cancelled);
            }
        }
    }

    fn run_claimed(
        &self,
        pin: &PinTransfer,
        each: &mut dyn FnMut(&FetchProgress) -> bool,
    ) -> Result<FetchProgress, GetError> {
        let done = self.pin_once(pin, &mut |progress| {
            pin.state.lock().progress = *progress;
            each(progress) && !pin.cancelled.load(Ordering::Relaxed)
        });
        if let Ok(done) = &done {
            pin.state.lock().progress = FetchProgress { bytes_left: Some(0), ..*done };
        }
        self.inner.pins.set(pin, TransferStatus::of(&done));
        done
    }

    fn pin_once(
        &self,
        pin: &PinTransfer,
        progress: &mut dyn FnMut(&FetchProgress) -> bool,
    ) -> Result<FetchProgress, GetError> {
        if pin.cancelled.load(Ordering::Relaxed) {
            return Err(GetError::Cancelled);
        }
        let purse = pin.purse.get_or_init(|| {
            let purse = self.store.purse();
            purse.go_on_from(pin.state.lock().spent);
            purse
        });
        let note_spent = || {
            if let Some(spent) = Some(purse).filter(|_| self.inner.pays).and_then(|p| p.spent()) {
                self.inner.pins.note_spent(pin, spent);
            }
        };
        let node = Self { inner: self.inner.clone(), store: self.store.paying_from(purse.clone()) };
        let done = node.pin_all(pin, &mut |done| {
            note_spent();
            progress(done)
        });
        note_spent();
        done
    }

    /// Keeps a plain dataset, or a protected one or a slot of it.
    fn pin_all(
        &self,
        pin: &PinTransfer,
        progress: &mut dyn FnMut(&FetchProgress) -> bool,
    ) -> Result<FetchProgress, GetError> {
        match pin.slot {
            None if self.manifest(&pin.cid, super::Scope::Network)?.is_none() => {
                self.pin_plain(&pin.cid, progress)
            }
            slot => self.pin_protected(&pin.cid, slot, progress),
        }
    }

    /// Goes on with the pins that were under way when the node was last stopped, one after the
    /// other, until each is whole or cancelled.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub fn resume_pins(&self) -> io::Result<()> {
        let mut pins: VecDeque<Arc<PinTransfer>> = self.inner.pins.all().into();
        if pins.is_empty() {
            return Ok(());
        }
        let node = self.clone();
        let run = move || {
            while let Some(pin) = pins.pop_front() {
                // A client may have asked for it again, and have it done.
                if !node.inner.pins.claim(&pin) {
                    continue;
                }
                log::info!("going on with the pin of {}", pin.cid);
                match node.run_claimed(&pin, &mut |_| true) {
                    Ok(_) => log::info!("{} is pinned", pin.cid),
                    Err(GetError::NotFound | GetError::Timeout) => {
                        node.inner.pins.set(&pin, TransferStatus::Waiting);
                        pins.push_back(pin);
                        if node.inner.pins.stops_within(RETRY_INTERVAL) {
                            return;
                        }
                    }
                    Err(error) => log::warn!("the pin of {} ends: {error}", pin.cid),
                }
            }
        };
        std::thread::Builder::new().name("pins".into()).spawn(run).map(|_| ())
    }

    /// The pin of this number, also one that ended lately.
    pub fn pin_transfer(&self, job: JobId) -> Option<Arc<PinTransfer>> {
        self.inner.pins.get(job)
    }

    /// Ends a pin at its next step, and one that waits at once.
    pub(super) fn cancel_pin(&self, pin: &PinTransfer) {
        pin.cancelled.store(true, Ordering::Relaxed);
        match self.inner.pins.claim(pin) {
            true => self.inner.pins.set(pin, TransferStatus::Cancelled),
            false => self.store.cancel(&pin.cid, true),
        }
    }

    /// Tells that a stop is at hand: pins that end from now on are gone on with after the next
    /// start.
    pub fn prepare_stop(&self) {
        self.inner.pins.freeze();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrow_wire::{Codec, HashCode, Multihash};

    #[test]
    fn what_is_under_way_at_a_stop_is_remembered_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = |n: u8| Cid::v1(Codec::Raw, Multihash::of(HashCode::Sha2_256, &[n]));
        let pins = Pins::open(dir.path());
        let slots = [None, None, Some(Slot { index: 1, slots: 4 })];
        let all: Vec<_> = (1..=3)
            .zip(slots)
            .map(|(n, slot)| {
                let make = || PinTransfer::new(JobId(n.into()), root(n), slot);
                pins.begin(&root(n), slot, make)
            })
            .collect();
        let same = pins.begin(&root(3), slots[2], || unreachable!("it is open"));
        assert_eq!(same.job, JobId(3));
        pins.set(&all[0], TransferStatus::Done);
        pins.note_spent(&all[2], 1 << 70);
        pins.freeze();
        pins.set(&all[1], TransferStatus::Cancelled);
        let again = Pins::open(dir.path());
        let kept: Vec<_> = again.all().iter().map(|pin| (pin.job.0, pin.cid, pin.slot)).collect();
        assert_eq!(kept, [(2, root(2), None), (3, root(3), slots[2])]);
        assert_eq!(again.last_job(), JobId(3));
        let spent: Vec<u128> = again.all().iter().map(|pin| pin.state.lock().spent).collect();
        assert_eq!(spent, [0, 1 << 70]);
        assert!(again.all().iter().all(|pin| pin.status() == TransferStatus::Waiting));
    }
}
