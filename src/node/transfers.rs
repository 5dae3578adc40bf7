//! What is being fetched, as jobs: datasets to be kept, and datasets that somebody reads.

use super::{Node, PinTransfer};
use crate::{
    content::{network_store::Reading, store_stream::GetError},
    engine::{JobId, JobSnapshot},
};
use barrow_wire::{Cid, PeerId};
use std::{collections::BTreeMap, time::Duration};

/// What is with a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferStatus {
    /// Its turn comes, or nobody had it and it is tried again.
    Waiting,
    /// It goes on.
    Active,
    /// All is here.
    Done,
    /// It ended, for this reason.
    Failed(String),
    /// Somebody ended it.
    Cancelled,
}

impl TransferStatus {
    pub(super) fn of<T>(done: &Result<T, GetError>) -> Self {
        match done {
            Ok(_) => Self::Done,
            Err(GetError::Cancelled) => Self::Cancelled,
            // A store that fails or closes may be better after a restart.
            Err(GetError::Store(_)) => Self::Waiting,
            Err(error) => Self::Failed(error.to_string()),
        }
    }

    /// Whether it has not ended.
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Waiting | Self::Active)
    }
}

/// One transfer: a dataset to be kept, or one that is read, by however many at one time.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Its number.
    pub job: JobId,
    /// What is fetched.
    pub cid: Cid,
    /// Whether it will be kept; else it is read.
    pub is_pin: bool,
    /// What is with it.
    pub status: TransferStatus,
    /// Bytes in all, once that is known: of the dataset, or of what its reader wants of it.
    pub total: Option<u64>,
    /// Of those, bytes that are here, or that the reader has.
    pub done: u64,
    /// Bytes that came from peers.
    pub received: u64,
    /// Bytes a second that come, of late.
    pub rate: u64,
    /// Blocks that are here.
    pub blocks: u64,
    /// Blocks that are known to lack.
    pub blocks_left: u64,
    /// Connected peers that have all of it.
    pub complete_peers: usize,
    /// Connected peers that some of it came from.
    pub sources: Vec<PeerId>,
    /// For how long this run of the node fetches it.
    pub elapsed: Duration,
}

impl Transfer {
    fn pin(pin: &PinTransfer) -> Self {
        let progress = pin.progress();
        Self {
            job: pin.job(),
            cid: *pin.cid(),
            is_pin: true,
            status: pin.status(),
            total: progress.bytes_left.map(|left| progress.bytes_here + left),
            done: progress.bytes_here,
            received: progress.bytes_fetched,
            rate: 0,
            blocks: progress.blocks,
            blocks_left: progress.blocks_left,
            complete_peers: 0,
            sources: Vec::new(),
            elapsed: pin.since().elapsed(),
        }
    }

    fn read(job: &JobSnapshot, reading: Option<Reading>) -> Self {
        Self {
            job: job.job,
            cid: job.root,
            is_pin: false,
            status: TransferStatus::Active,
            total: reading.map(|reading| reading.total),
            done: reading.map_or(0, |reading| reading.total - reading.left),
            received: job.bytes_received,
            rate: 0,
            blocks: job.blocks_received,
            blocks_left: job.blocks_open as u64,
            complete_peers: 0,
            sources: Vec::new(),
            elapsed: job.elapsed,
        }
    }

    /// Adds what the exchange knows of a retrieval. Blocks that several of one dataset wait for
    /// come once, so rates are not added up.
    fn note(&mut self, job: &JobSnapshot) {
        self.rate = self.rate.max(job.rate);
        self.complete_peers = self.complete_peers.max(job.complete_peers);
        self.sources.extend(&job.sources);
        self.sources.sort_unstable();
        self.sources.dedup();
    }

    /// Bytes that are to come yet, as far as that is known.
    fn left(&self) -> Option<u64> {
        Some(self.total?.saturating_sub(self.done))
    }

    /// How long the rest takes at this rate; none where nothing comes or the size is unknown.
    pub fn remaining(&self) -> Option<Duration> {
        match (self.left()?, self.rate) {
            (0, _) => Some(Duration::ZERO),
            (_, 0) => None,
            (left, rate) => Some(Duration::from_secs(left.div_ceil(rate))),
        }
    }
}

impl Node {
    /// All transfers, the oldest first: pins, those that ended lately with them, and reads.
    pub fn transfers(&self) -> Vec<Transfer> {
        let jobs = self.inspect(|engine| engine.jobs()).unwrap_or_default();
        let mut all: Vec<Transfer> =
            self.inner.pins.all().iter().map(|pin| Transfer::pin(pin)).collect();
        let readings: BTreeMap<JobId, Option<Reading>> =
            self.store.retrievals().iter().map(|one| (one.job, one.reading)).collect();
        for job in &jobs {
            // What is pinned shows as that, whoever reads it meanwhile.
            let mut of_root = all.iter_mut().filter(|one| one.cid == job.root);
            if let Some(known) = of_root.find(|one| one.status == TransferStatus::Active) {
                known.note(job);
                continue;
            }
            let Some(reading) = readings.get(&job.job) else { continue };
            let mut read = Transfer::read(job, *reading);
            read.note(job);
            all.push(read);
        }
        all.sort_by_key(|transfer| transfer.job);
        all
    }

    /// Ends a transfer, and all readers of it if it is a read; gives what it was, or nothing if
    /// there is none.
    pub fn cancel_transfer(&self, job: JobId) -> Option<Transfer> {
        if let Some(pin) = self.inner.pins.get(job) {
            self.cancel_pin(&pin);
            return Some(Transfer::pin(&pin));
        }
        let read = self.transfers().into_iter().find(|one| one.job == job)?;
        self.store.cancel(&read.cid, false);
        Some(Transfer { status: TransferStatus::Cancelled, ..read })
    }
}
