//! What waits for a moment to come. One entry a purpose, so the table is as small as its owners.

use super::{ConnId, JobId, Moment};
use std::collections::{BTreeMap, BTreeSet};

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Timer {
    /// A transfer on this connection may have become slow or silent.
    Transfer(ConnId),
    /// Nothing may have been said on this connection for long.
    Idle(ConnId),
    /// A want of this job may have waited too long.
    Job(JobId),
    /// A job's blocks may have waited too long for peers that say nothing.
    Search(JobId),
    /// Peers that were asked around may have been silent too long.
    Exchange,
    /// An address may be dialed again.
    Dials,
    /// There may be bytes to send within the upload limit again.
    Upload,
    /// There may be bytes to ask for within the download limit again.
    Download,
}

/// Timers in the order in which they fall due.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Timers {
    due: BTreeSet<(Moment, Timer)>,
    at: BTreeMap<Timer, Moment>,
}

impl Timers {
    /// Sets a timer, in place of what it was.
    pub(super) fn set(&mut self, timer: Timer, at: Moment) {
        self.clear(timer);
        self.at.insert(timer, at);
        self.due.insert((at, timer));
    }

    /// Sets a timer unless it rings earlier anyway.
    pub(super) fn set_earlier(&mut self, timer: Timer, at: Moment) {
        if self.at.get(&timer).is_none_or(|&set| at < set) {
            self.set(timer, at);
        }
    }

    /// Forgets a timer.
    pub(super) fn clear(&mut self, timer: Timer) {
        if let Some(at) = self.at.remove(&timer) {
            self.due.remove(&(at, timer));
        }
    }

    /// Takes a timer that is due.
    pub(super) fn pop(&mut self, now: Moment) -> Option<Timer> {
        let &(at, timer) = self.due.first()?;
        if at > now {
            return None;
        }
        self.clear(timer);
        Some(timer)
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Moment> {
        self.due.first().map(|(at, _)| *at)
    }
}
