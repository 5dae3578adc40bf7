//! What a node does for its store while nobody asks: block after block is hashed again at a quiet
//! rate (the scrub), and what is found damaged is brought back, from peers or from parity.

use super::{Node, expiry::Clock};
use crate::{
    content::store_stream::{BlockSource, GetError, Scope, wait_until},
    store::{
        disk::Looked,
        local_store::{Dataset, StoreError},
    },
};
use barrow_wire::{Cid, Codec, Multihash, Presence};
use crossbeam::{
    channel::{Receiver, Sender, bounded},
    select,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// A node that has just started has better things to do.
const START_DELAY: Duration = Duration::from_secs(2);
/// Bytes hashed between two pauses.
const STEP_BYTES: u64 = 1 << 20;
/// What a block counts at least: the page that is read for it.
const BLOCK_BYTES_MIN: u64 = 4_096;
/// Blocks that a step takes from the index at most.
const STEP_BLOCKS: u32 = 256;
/// Reads and puts of others go first, for so long before each step.
const YIELD_MAX: Duration = Duration::from_secs(2);
const YIELD_INTERVAL: Duration = Duration::from_millis(50);
/// So often the position is written down.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// How long a drive that could not be read is left alone at first; doubled with each failure.
const RETRY_PAUSE_MIN: Duration = Duration::from_secs(1);
/// How often the scrub checks, between two passes, whether there is anything to do.
const REST_INTERVAL: Duration = Duration::from_secs(3_600);
/// Blocks that could not be brought back, remembered by name.
const LOST_MAX: usize = 1_000;
/// Whoever brings a block back looks so often whether the node stops.
const STOP_INTERVAL: Duration = Duration::from_millis(200);

/// How far the scrub is, as the file `scrub` and the API tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScrubReport {
    /// Passes that went through all blocks.
    pub passes: u64,
    /// When the last of them ended, in seconds of Unix time.
    pub finished: u64,
    /// A pass is under way.
    pub is_running: bool,
    /// Blocks of this pass so far, or of the last one.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks brought back, ever.
    pub healed: u64,
    /// Blocks that nobody could bring back so far, by their names as CIDs.
    pub lost: BTreeSet<String>,
    /// The last block that was hashed: the next is behind it in the order of the hashes.
    pub position: String,
}

/// The scrub of one node: where it is, and its thread.
pub(super) struct Upkeep {
    path: PathBuf,
    report: Mutex<ScrubReport>,
    /// Dropped at the stop.
    stop: Mutex<Option<Sender<()>>>,
    stopped: Receiver<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Upkeep {
    /// Reads where the last run came to. A file that cannot be read costs one more pass.
    pub(super) fn open(data_dir: &Path) -> Self {
        let path = data_dir.join("scrub");
        let text = fs::read(&path).unwrap_or_default();
        let report = serde_json::from_slice(&text).unwrap_or_default();
        let (stop, stopped) = bounded(0);
        Self {
            path,
            report: Mutex::new(report),
            stop: Mutex::new(Some(stop)),
            stopped,
            thread: Mutex::default(),
        }
    }

    /// Ends the thread, and waits for it.
    pub(super) fn stop(&self) {
        *self.stop.lock() = None;
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }

    fn is_stopping(&self) -> bool {
        self.stop.lock().is_none()
    }

    /// Not synced: what a power cut takes of it costs a part of a pass.
    fn save(&self) {
        let draft = self.path.with_extension("new");
        let text = serde_json::to_vec(&*self.report.lock()).expect("plain data becomes JSON");
        let written = fs::write(&draft, text).and_then(|()| fs::rename(&draft, &self.path));
        if let Err(error) = written {
            log::warn!("{}: {error}", self.path.display());
        }
    }
}

impl Node {
    /// Begins to hash what is stored, over and over at the rate of the configuration, and to bring
    /// back what is damaged.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub fn start_upkeep(&self) -> io::Result<()> {
        let node = self.clone();
        let thread = std::thread::Builder::new().name("upkeep".into());
        *self.inner.upkeep.thread.lock() = Some(thread.spawn(move || node.keep_up())?);
        Ok(())
    }

    /// How far the scrub is.
    pub fn scrub(&self) -> ScrubReport {
        self.inner.upkeep.report.lock().clone()
    }

    fn keep_up(&self) {
        // This thread alone: whoever waits for an answer goes first.
        if let Err(error) = rustix::process::setpriority_process(None, 19) {
            log::debug!("the scrub runs at the priority of all: {error}");
        }
        let upkeep = &self.inner.upkeep;
        let damaged = self.inner.disk.damaged();
        let mut due = Instant::now() + START_DELAY;
        let mut saved = Instant::now();
        let mut retry_due = due;
        let mut retry_pause = RETRY_PAUSE_MIN;
        let (interval, mut clock) = (self.inner.config.expiry_interval, Clock::new());
        let mut expiry_due = Instant::now() + interval;
        loop {
            select! {
                recv(upkeep.stopped) -> _ => break,
                recv(damaged) -> hash => if let Ok(hash) = hash { self.bring_back(&hash) },
                default(due.min(expiry_due).saturating_duration_since(Instant::now())) => {
                    if Instant::now() >= expiry_due {
                        self.let_expired_go(&mut clock);
                        expiry_due = Instant::now() + interval;
                        continue;
                    }
                    if Instant::now() >= retry_due {
                        self.retry_lost();
                        retry_due = Instant::now() + REST_INTERVAL;
                    }
                    let was_running = upkeep.report.lock().is_running;
                    let pause = match self.step_scrub() {
                        Ok(pause) => {
                            retry_pause = RETRY_PAUSE_MIN;
                            pause
                        }
                        // A drive that cannot be read now is asked again, ever more rarely, and
                        // what was not read is not passed over.
                        Err(error) => {
                            log::warn!("the scrub pauses for {retry_pause:?}: {error}");
                            retry_pause = (retry_pause * 2).min(REST_INTERVAL);
                            retry_pause
                        }
                    };
                    let is_running = upkeep.report.lock().is_running;
                    if is_running != was_running || (is_running && saved.elapsed() > SAVE_INTERVAL) {
                        upkeep.save();
                        saved = Instant::now();
                    }
                    due = Instant::now() + pause;
                }
            }
        }
        if upkeep.report.lock().is_running {
            upkeep.save();
        }
    }

    /// Hashes some blocks; gives how long to rest then.
    fn step_scrub(&self) -> Result<Duration, StoreError> {
        let (rate, rest) = (self.inner.config.scrub_rate, self.inner.config.scrub_rest);
        // A drive that fails in many places is left alone; `/healthz` says so.
        if rate == 0 || self.inner.disk.is_failing() {
            return Ok(REST_INTERVAL);
        }
        let report = &self.inner.upkeep.report;
        if !report.lock().is_running {
            if let Some(pause) = self.rests(rest) {
                return Ok(pause);
            }
            let mut report = report.lock();
            report.is_running = true;
            (report.blocks, report.bytes) = (0, 0);
            report.position.clear();
        }
        self.yield_to_others();
        let after = parse_hash(&report.lock().position);
        let batch = self.inner.disk.blocks_after(after.as_ref(), STEP_BLOCKS)?;
        if batch.is_empty() {
            let mut report = report.lock();
            report.is_running = false;
            report.passes += 1;
            report.finished = crate::base::clock::unix_seconds();
            self.inner.metrics.scrub_passes_total.add(1);
            log::info!("{} blocks scrubbed; the next pass is {rest:?} from now", report.blocks);
            return Ok(rest.min(REST_INTERVAL));
        }
        let mut bytes = 0;
        for hash in &batch {
            let looked = self.inner.disk.look_at(hash)?;
            let len = if let Looked::Sound(len) = looked { len as u64 } else { 0 };
            bytes += len.max(BLOCK_BYTES_MIN);
            self.inner.metrics.scrub_blocks_total.add(1);
            self.inner.metrics.scrub_bytes_total.add(len);
            let mut report = report.lock();
            report.blocks += 1;
            report.bytes += len;
            report.position = name_of(hash);
            if bytes >= STEP_BYTES {
                break;
            }
        }
        Ok(Duration::from_secs_f64(bytes as f64 / rate as f64))
    }

    /// How long no pass is due; none if one is.
    fn rests(&self, rest: Duration) -> Option<Duration> {
        let report = self.inner.upkeep.report.lock();
        // A clock that went back is none to wait for.
        let since = crate::base::clock::unix_seconds()
            .checked_sub(report.finished)
            .map(Duration::from_secs);
        let left = since.and_then(|since| rest.checked_sub(since)).filter(|left| !left.is_zero());
        let is_empty = self.metrics().store_blocks.get() == 0;
        match left {
            Some(left) if report.passes > 0 => Some(left.min(REST_INTERVAL)),
            Some(_) | None => is_empty.then_some(REST_INTERVAL),
        }
    }

    fn yield_to_others(&self) {
        let since = Instant::now();
        let busy = || self.inner.pool.bytes_taken() > self.inner.pool.bytes_max() / 4;
        while busy() && since.elapsed() < YIELD_MAX && !self.inner.upkeep.is_stopping() {
            std::thread::sleep(YIELD_INTERVAL);
        }
    }

    /// Tries again what nobody could bring back before.
    fn retry_lost(&self) {
        let lost: Vec<String> = self.inner.upkeep.report.lock().lost.iter().cloned().collect();
        for text in lost {
            match parse_hash(&text) {
                Some(hash) if !self.inner.upkeep.is_stopping() => self.bring_back(&hash),
                Some(_) => {}
                None => drop(self.inner.upkeep.report.lock().lost.remove(&text)),
            }
        }
    }

    /// Brings a damaged block back, or names it among the lost ones.
    fn bring_back(&self, hash: &Multihash) {
        let healed = self.heal_block(hash);
        let mut report = self.inner.upkeep.report.lock();
        let name = name_of(hash);
        match healed {
            Ok(Healed::Back) => {
                report.healed += 1;
                report.lost.remove(&name);
                self.inner.metrics.store_healed_total.add(1);
                log::info!("block {name} is whole again");
            }
            Ok(Healed::Needless) => drop(report.lost.remove(&name)),
            Err(GetError::Cancelled) => {}
            Err(error) => {
                if report.lost.len() < LOST_MAX && report.lost.insert(name.clone()) {
                    log::error!("block {name} is lost until somebody has it: {error}");
                }
            }
        }
        self.inner.metrics.store_lost.set(report.lost.len() as u64);
        drop(report);
        self.inner.upkeep.save();
    }

    /// Makes one block of the kept datasets whole again: from peers, or from parity. The one way
    /// back for whatever is found damaged.
    ///
    /// # Errors
    /// If nobody has it, and too little of its stripe is left.
    fn heal_block(&self, hash: &Multihash) -> Result<Healed, GetError> {
        // The writer forgets what is damaged in its own time.
        self.inner.disk.sync()?;
        if self.inner.disk.presence(&[*hash])? != [Presence::DontHave] {
            return Ok(Healed::Back);
        }
        let mut datasets = self.inner.disk.datasets_of(hash)?;
        // Those with parity first: they need no peer.
        datasets.sort_by_key(|dataset| dataset.info.protection.is_none());
        let mut failed = None;
        for dataset in &datasets {
            match self.fetch_again(dataset, hash) {
                Ok(()) => {
                    self.inner.disk.sync()?;
                    return Ok(Healed::Back);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(Healed::Needless), Err)
    }

    fn fetch_again(&self, dataset: &Dataset, hash: &Multihash) -> Result<(), GetError> {
        let info = &dataset.info;
        let protection = info.protection.as_ref();
        // What is protected is rebuilt by its plain root, which leads to the parity.
        let root = protection.map_or(info.root, |protection| protection.root);
        if let Some(protection) = protection {
            self.inner.mending.learn(&protection.root, info.root);
        }
        let node = self.for_one_download();
        let mut source = node.source(&root, Scope::Network);
        let fetched = self.wait_for(&mut source, &Cid::v1(Codec::Raw, *hash));
        match fetched {
            // Of a parity shard the whole dataset's repair knows how it is made.
            Err(GetError::NotFound | GetError::Timeout) if protection.is_some() => {
                let stops = || self.inner.upkeep.is_stopping();
                node.repair(&info.root, &mut |_| !stops()).map(drop)
            }
            fetched => fetched,
        }
    }

    fn wait_for(&self, source: &mut BlockSource, cid: &Cid) -> Result<(), GetError> {
        let mut waited = Duration::ZERO;
        // The Engine has the true limits; this one is for a node that nobody answers.
        let limit = self.inner.config.fetch_timeout * 2;
        while waited < limit && !self.inner.upkeep.is_stopping() {
            let deadline = Instant::now() + STOP_INTERVAL;
            let poll = |waker: &std::task::Waker| source.poll_block(cid, Vec::new, waker);
            if let Some(answer) = wait_until(deadline, poll) {
                return answer.map(drop);
            }
            waited += STOP_INTERVAL;
        }
        Err(if self.inner.upkeep.is_stopping() { GetError::Cancelled } else { GetError::Timeout })
    }
}

/// What came of a damaged block.
enum Healed {
    /// It is here again.
    Back,
    /// No dataset refers to it: it was cache.
    Needless,
}

/// A block's name for people: the CID by which its bytes can be asked for.
fn name_of(hash: &Multihash) -> String {
    Cid::v1(Codec::Raw, *hash).to_string()
}

fn parse_hash(text: &str) -> Option<Multihash> {
    text.parse::<Cid>().ok()?.multihash()
}
