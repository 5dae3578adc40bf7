//! Retrievals: which blocks each still wants, and how it goes.

use super::{ConnId, JobId, Moment, Order, PurseId};
use barrow_wire::{Cid, Multihash};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// How far the search for a job's providers is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Search {
    NotYet,
    Running,
    Done(Moment),
}

/// One retrieval.
#[derive(Clone, Debug, Hash)]
pub(super) struct Job {
    pub root: Cid,
    pub order: Order,
    pub purse: PurseId,
    pub started_at: Moment,
    pub search: Search,
    /// Discovery has said all for the search under way.
    pub discovered: bool,
    /// Blocks wanted and not yet here.
    pub open: BTreeSet<Multihash>,
    /// Those of them that were not asked for yet, and some that are wanted no longer.
    pub backlog: VecDeque<Multihash>,
    /// Those of them that were asked for.
    pub active: usize,
    /// Connections whose peer has the whole DAG of the root.
    pub complete: BTreeSet<ConnId>,
    /// Connections whose peer delivered blocks.
    pub sources: BTreeSet<ConnId>,
    /// Connections whose peer has denied a block.
    pub partial: BTreeSet<ConnId>,
    /// When bytes of a block last came, or the job was started.
    pub progress_at: Moment,
    pub blocks_wanted: u64,
    pub blocks_received: u64,
    pub bytes_received: u64,
    rate: Rate,
    /// A guess at the next block's length: the longest one of late. Whoever guesses too little
    /// asks one peer for what others could send.
    pub block_bytes: u64,
}

/// Bytes a second, over a time that people look at.
#[derive(Clone, Copy, Debug, Default, Hash)]
struct Rate {
    since: Moment,
    bytes: u64,
    before: Option<u64>,
}

impl Rate {
    /// Of so much time a rate is taken.
    const SPAN: Duration = Duration::from_secs(2);
    /// And of no less: the first block alone says nothing.
    const SPAN_MIN: Duration = Duration::from_millis(500);

    fn add(&mut self, now: Moment, bytes: u64) {
        self.bytes += bytes;
        if now.since(self.since) >= Self::SPAN {
            let rate = self.of_span(now);
            *self = Self { since: now, bytes: 0, before: Some(rate) };
        }
    }

    fn get(&self, now: Moment) -> u64 {
        match self.before {
            Some(rate) if now.since(self.since) < Self::SPAN => rate,
            _ => self.of_span(now),
        }
    }

    fn of_span(&self, now: Moment) -> u64 {
        let millis = now.since(self.since).max(Self::SPAN_MIN).as_millis();
        u64::try_from(u128::from(self.bytes) * 1_000 / millis).unwrap_or(u64::MAX)
    }
}

/// A guess at a block of which nothing is known.
const BLOCK_BYTES_GUESS: u64 = 256 << 10;

impl Job {
    fn new(now: Moment, root: Cid, order: Order, purse: PurseId) -> Self {
        Self {
            root,
            order,
            purse,
            started_at: now,
            search: Search::NotYet,
            discovered: false,
            open: BTreeSet::new(),
            backlog: VecDeque::new(),
            active: 0,
            complete: BTreeSet::new(),
            sources: BTreeSet::new(),
            partial: BTreeSet::new(),
            progress_at: now,
            blocks_wanted: 0,
            blocks_received: 0,
            bytes_received: 0,
            rate: Rate { since: now, ..Rate::default() },
            block_bytes: BLOCK_BYTES_GUESS,
        }
    }

    /// A block came.
    pub(super) fn received(&mut self, now: Moment, bytes: u64) {
        self.progress_at = now;
        self.blocks_received += 1;
        self.bytes_received += bytes;
        self.block_bytes = bytes.max(self.block_bytes - self.block_bytes / 4);
        self.rate.add(now, bytes);
    }

    /// Bytes a second, of late.
    pub(super) fn rate(&self, now: Moment) -> u64 {
        self.rate.get(now)
    }

    /// A connection is gone.
    pub(super) fn forget(&mut self, conn: ConnId) {
        self.complete.remove(&conn);
        self.sources.remove(&conn);
        self.partial.remove(&conn);
    }

    /// Whether the peer surely has what the job wants next, or so likely that asking first
    /// would be a waste.
    pub(super) fn trusts(&self, conn: ConnId, alone: bool) -> bool {
        let proven = || self.sources.contains(&conn) && !self.partial.contains(&conn);
        self.complete.contains(&conn) || (alone && proven())
    }
}

/// All retrievals.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Jobs(BTreeMap<JobId, Box<Job>>);

impl Jobs {
    pub(super) fn start(
        &mut self,
        now: Moment,
        job: JobId,
        root: Cid,
        order: Order,
        purse: PurseId,
    ) {
        let before = self.0.insert(job, Box::new(Job::new(now, root, order, purse)));
        assert!(before.is_none(), "a job's id is its own");
    }

    pub(super) fn end(&mut self, job: JobId) -> Option<Job> {
        self.0.remove(&job).map(|job| *job)
    }

    pub(super) fn get(&self, job: JobId) -> Option<&Job> {
        self.0.get(&job).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, job: JobId) -> Option<&mut Job> {
        self.0.get_mut(&job).map(Box::as_mut)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (JobId, &Job)> {
        self.0.iter().map(|(id, job)| (*id, &**job))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (JobId, &mut Job)> {
        self.0.iter_mut().map(|(id, job)| (*id, &mut **job))
    }

    pub(super) fn ids(&self) -> Vec<JobId> {
        self.0.keys().copied().collect()
    }
}
