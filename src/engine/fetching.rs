//! Our side as a downloader: jobs, the blocks that they want, and who is asked for these.

use super::{ConnId, Engine, JobId, Order, PurseId, Timer, wants::Knows};
use barrow_wire::{Cid, Message, Multihash, limits::WANTS_MAX};
use std::{cmp::Reverse, collections::VecDeque};

/// Blocks that are asked for at one time, of all jobs; no peer hears of more.
const ACTIVE_MAX: usize = WANTS_MAX;
/// Of those, blocks of one bulk job: enough to know what is rare.
const BULK_ACTIVE_MAX: usize = 512;
/// Peers that are asked for a block at first; the others only when none of these has it.
const ASK_PEERS_MAX: usize = 32;
/// Entries that a peer may leave unanswered before it is asked no more.
pub(super) const UNANSWERED_MAX: u32 = 2 * WANTS_MAX as u32;

impl Engine {
    pub(super) fn on_job_started(&mut self, job: JobId, root: Cid, order: Order, purse: PurseId) {
        self.purses.open(purse);
        self.jobs.start(self.now, job, root, order, purse);
        if self.peers.len() == 0 {
            self.search(job);
        }
        self.dials.hurry();
        self.pump_dials();
    }

    pub(super) fn on_want(&mut self, id: JobId, blocks: Vec<Multihash>) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        for hash in blocks {
            if job.open.insert(hash) {
                job.blocks_wanted += 1;
                job.backlog.push_back(hash);
            }
        }
        self.activate(id);
        self.pump_dials();
    }

    pub(super) fn on_unwant(&mut self, id: JobId, blocks: &[Multihash]) {
        for hash in blocks {
            let Some(job) = self.jobs.get_mut(id) else { return };
            if job.open.remove(hash) {
                self.leave_want(hash, id);
            }
        }
        self.activate_all();
        self.flush_cancels();
    }

    pub(super) fn on_job_ended(&mut self, id: JobId) {
        let Some(job) = self.jobs.end(id) else { return };
        for hash in &job.open {
            self.leave_want(hash, id);
        }
        self.timers.clear(Timer::Job(id));
        self.timers.clear(Timer::Search(id));
        self.dials.job_ended(id);
        self.activate_all();
        self.flush_cancels();
    }

    /// Asks for what waits in the backlogs, as wants that ended have left room for it.
    pub(super) fn activate_all(&mut self) {
        for id in self.jobs.ids() {
            self.activate(id);
        }
    }

    /// Asks for more of a job's blocks, a batch at a time where it has many.
    fn activate(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let max = match job.order {
            Order::Sequential => ACTIVE_MAX,
            Order::Bulk => BULK_ACTIVE_MAX,
        };
        if job.backlog.len() > max && job.active > max * 3 / 4 {
            return;
        }
        let mut fresh = Vec::new();
        while job.active < max && self.wants.len() < ACTIVE_MAX {
            let bulk = match job.order {
                Order::Sequential => false,
                Order::Bulk => true,
            };
            if bulk && job.backlog.len() > 1 {
                let at = self.rng.below(job.backlog.len() as u64);
                job.backlog.swap(0, usize::try_from(at).expect("an index"));
            }
            let Some(hash) = job.backlog.pop_front() else { break };
            if job.backlog.is_empty() {
                job.backlog = VecDeque::new();
            }
            let waits = self.wants.get(&hash).is_some_and(|want| want.jobs.contains(&id));
            if waits || !job.open.contains(&hash) {
                continue;
            }
            job.active += 1;
            let chance = u32::try_from(self.rng.below(1 << 32)).expect("below 2^32");
            if self.wants.add(self.now, hash, id, job.order, chance) {
                fresh.push(hash);
            }
        }
        if job.active > 0 {
            let at = self.now.after(self.config.provider_timeout);
            self.timers.set_earlier(Timer::Job(id), at);
            self.search_soon(id);
        }
        self.ask(&fresh);
    }

    /// Asks the likeliest peers who has these, or takes it as known.
    fn ask(&mut self, blocks: &[Multihash]) {
        if blocks.is_empty() {
            return;
        }
        // Of equal peers, one that leaves questions open must not keep others from being asked.
        let mut conns: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.asked < UNANSWERED_MAX)
            .map(|(conn, peer)| {
                let unproven = peer.blocks_received == 0;
                (Reverse(peer.pace.rate().unwrap_or(0)), unproven, peer.asked, conn)
            })
            .collect();
        conns.sort_unstable();
        // The last place is for one who was never tried: it may be better than all of these.
        if let Some(rest) = conns.get(ASK_PEERS_MAX..)
            && let Some(untried) = rest.iter().find(|(_, unproven, ..)| *unproven).copied()
            && let Some(last) = conns.get_mut(ASK_PEERS_MAX - 1).filter(|last| !last.1)
        {
            *last = untried;
        }
        conns.truncate(ASK_PEERS_MAX);
        // Small blocks come from one alone, who is known to deliver; of those who may be, from
        // two for the first few: from more they would come for nothing.
        let unproven = conns.first().is_some_and(|(_, unproven, ..)| *unproven);
        let inline_max = if unproven && blocks.len() <= 4 { 2 } else { 1 };
        for (rank, (_, _, _, conn)) in conns.into_iter().enumerate() {
            self.ask_peer(conn, blocks, rank < inline_max);
        }
        self.recheck(blocks);
    }

    /// A peer that was not here before hears of all that we want.
    pub(super) fn ask_newcomer(&mut self, conn: ConnId) {
        let blocks: Vec<_> = self.wants.iter().map(|(hash, _)| *hash).collect();
        let inline = self.peers.len() == 1 || blocks.len() <= 4;
        self.ask_peer(conn, &blocks, inline);
    }

    pub(super) fn ask_peer(&mut self, conn: ConnId, blocks: &[Multihash], inline: bool) {
        let alone = self.peers.len() == 1;
        let Some(peer) = self.peers.get_mut(conn) else { return };
        let (mut trusted, mut asked) = (Vec::new(), Vec::new());
        for hash in blocks {
            let Some(want) = self.wants.get(hash).filter(|want| want.knows(conn).is_none()) else {
                continue;
            };
            let mut jobs = want.jobs.iter().filter_map(|job| self.jobs.get(*job));
            // What is to be paid is asked for by its length, which only an answer tells.
            if peer.price == Some(0) && jobs.any(|job| job.trusts(conn, alone)) {
                trusted.push(*hash);
            } else if peer.asked < UNANSWERED_MAX {
                peer.asked += 1;
                peer.keep_wish(hash);
                asked.push(*hash);
            }
        }
        for hash in trusted {
            self.wants.learn(&hash, conn, Knows::Has { len: 0, said: false });
        }
        for hash in &asked {
            self.wants.learn(hash, conn, Knows::Asked { inline });
        }
        for blocks in asked.chunks(WANTS_MAX) {
            self.send(conn, Message::WantHave { inline, blocks: blocks.to_vec() });
        }
        if !asked.is_empty() && self.peers.get(conn).is_some_and(|p| p.pace.wants_ping(self.now)) {
            self.ping(conn);
        }
    }
}
