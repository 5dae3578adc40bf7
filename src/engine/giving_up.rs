//! Blocks that nobody has: more peers are asked, others looked for, and in the end it is given up.

use super::{
    Engine, JobId, Moment, Order, Output, Timer, WantError, fetching::UNANSWERED_MAX, jobs::Search,
    wants::Want,
};
use barrow_wire::Multihash;
use std::time::Duration;

/// After so long, discovery may be asked again for a job that found nobody.
const SEARCH_AGAIN: Duration = Duration::from_secs(15);

impl Engine {
    pub(super) fn recheck_all(&mut self) {
        let blocks: Vec<_> = self.wants.iter().map(|(hash, _)| *hash).collect();
        self.recheck(&blocks);
    }

    /// Whether these can still be had: asks more peers, looks for others, or gives up.
    pub(super) fn recheck(&mut self, blocks: &[Multihash]) {
        for hash in blocks {
            let Some(want) = self.wants.get(hash).filter(|want| want.is_exhausted()) else {
                continue;
            };
            let unasked = self
                .peers
                .iter()
                .find(|(conn, peer)| want.knows(*conn).is_none() && peer.asked < UNANSWERED_MAX);
            if let Some((conn, _)) = unasked {
                self.ask_peer(conn, blocks, false);
                continue;
            }
            for id in want.jobs.clone() {
                self.recheck_job(hash, id);
            }
        }
    }

    fn recheck_job(&mut self, hash: &Multihash, id: JobId) {
        let Some(job) = self.jobs.get(id) else { return };
        match job.search {
            Search::NotYet => self.search(id),
            Search::Running => {}
            Search::Done(at) if self.now.since(at) >= SEARCH_AGAIN => self.search(id),
            Search::Done(_) => match job.order {
                // Others who fetch the same may have it soon; the job's timer ends the wait.
                Order::Bulk => {}
                Order::Sequential if self.may_find(id) => {}
                Order::Sequential => {
                    let Some(error) = self.wants.get(hash).map(Want::failure) else { return };
                    self.fail(hash, id, error);
                }
            },
        }
    }

    /// Whether somebody may come who was not asked yet.
    fn may_find(&self, id: JobId) -> bool {
        self.dials.may_help(id, |peer| {
            self.peers.conn_of(peer).is_some() || self.peers.banned_until(peer, self.now).is_some()
        })
    }

    pub(super) fn fail(&mut self, hash: &Multihash, id: JobId, error: WantError) {
        self.leave_want(hash, id);
        // Whoever waits for room among the wants has it now.
        self.room_left = true;
        if let Some(job) = self.jobs.get_mut(id)
            && job.open.remove(hash)
        {
            self.outputs.push_back(Output::Failed { job: id, hash: *hash, error });
        }
    }

    pub(super) fn on_job_timer(&mut self, id: JobId) {
        let wants = self.wants.iter().filter(|(_, want)| want.jobs.contains(&id));
        let deadlines: Vec<_> =
            wants.filter_map(|(hash, want)| Some((*hash, self.deadline(id, want)?))).collect();
        let mut next: Option<Moment> = None;
        for (hash, (at, error)) in deadlines {
            if at <= self.now {
                self.fail(&hash, id, error);
            } else {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        if let Some(at) = next {
            self.timers.set(Timer::Job(id), at);
        }
    }

    /// When a job gives a want up, and how.
    fn deadline(&self, id: JobId, want: &Want) -> Option<(Moment, WantError)> {
        let job = self.jobs.get(id)?;
        let progress = want.asked_at.max(job.progress_at);
        if want.has_provider() {
            return Some((progress.after(self.config.fetch_timeout), WantError::ProviderFailed));
        }
        let since = match job.order {
            Order::Sequential => want.asked_at,
            Order::Bulk => progress,
        };
        let wait = if job.search == Search::Running || self.may_find(id) {
            self.config.fetch_timeout
        } else {
            self.config.provider_timeout
        };
        Some((since.after(wait), want.failure()))
    }
}
