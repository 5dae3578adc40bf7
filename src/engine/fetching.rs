//! Our side as a downloader: jobs and their wants, what peers say of them, and blocks that come.

use super::{
    CloseReason, ConnId, Engine, JobId, Moment, Order, Output, Timer, WantError,
    jobs::Search,
    peers::{PROGRESS_BYTES_MIN, Peer, Request},
    wants::{Knows, Want},
};
use barrow_wire::{
    Cid, Message, Multihash, Presence,
    limits::{BLOCK_BYTES_MAX, INLINE_BLOCK_BYTES_MAX, WANTS_MAX},
};
use std::cmp::Reverse;

/// Blocks that are asked for at one time, of all jobs; no peer hears of more.
const ACTIVE_MAX: usize = WANTS_MAX;
/// Of those, blocks of one bulk job: enough to know what is rare.
const BULK_ACTIVE_MAX: usize = 512;
/// Peers that are asked for a block at first; the others only when none of these has it.
const ASK_PEERS_MAX: usize = 32;
/// Entries that a peer may leave unanswered before it is asked no more.
const UNANSWERED_MAX: u32 = 2 * WANTS_MAX as u32;
/// Wishes that are taken back at the latest when there are so many.
const CANCELS_MAX: usize = 32;
/// After so long, discovery may be asked again for a job that found nobody.
const SEARCH_AGAIN: std::time::Duration = std::time::Duration::from_secs(15);

impl Engine {
    pub(super) fn on_job_started(&mut self, job: JobId, root: Cid, order: Order) {
        self.jobs.start(self.now, job, root, order);
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

    fn leave_want(&mut self, hash: &Multihash, id: JobId) {
        let waits = self.wants.get(hash).is_some_and(|want| want.jobs.contains(&id));
        if !waits {
            return;
        }
        if let Some(job) = self.jobs.get_mut(id) {
            job.active -= 1;
        }
        if let Some(want) = self.wants.remove_job(hash, id) {
            self.withdraw(hash, &want, None);
        }
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

    fn ask_peer(&mut self, conn: ConnId, blocks: &[Multihash], inline: bool) {
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

    pub(super) fn on_presence(
        &mut self,
        conn: ConnId,
        price: u64,
        blocks: &[(Multihash, Presence)],
    ) {
        let Some(peer) = self.peers.get_mut(conn) else { return };
        if peer.price.is_some_and(|before| price > before) {
            return self.close(conn, CloseReason::Protocol("it raises its price".into()));
        }
        peer.price = Some(price);
        peer.asked = peer.asked.saturating_sub(u32::try_from(blocks.len()).unwrap_or(u32::MAX));
        let (mut denied, mut owned) = (Vec::new(), Vec::new());
        for (hash, presence) in blocks {
            let (len, complete) = match *presence {
                Presence::DontHave => {
                    if !self.on_denied(conn, hash) {
                        return;
                    }
                    denied.push(*hash);
                    continue;
                }
                Presence::Have { len } => (len, false),
                Presence::Complete { len } => (len, true),
            };
            if len as usize > BLOCK_BYTES_MAX {
                return self.close(conn, CloseReason::Protocol("a block too long".into()));
            }
            self.on_has(conn, hash, len, complete, price);
            if self.wants.get(hash).is_some_and(|want| want.owners().len() == 1) {
                owned.push(*hash);
            }
        }
        self.take_over(conn, &owned);
        self.recheck(&denied);
        self.pump_dials_if_lacking();
    }

    fn pump_dials_if_lacking(&mut self) {
        if self.wants.iter().any(|(_, want)| !want.has_provider()) {
            self.pump_dials();
        }
    }

    fn on_has(&mut self, conn: ConnId, hash: &Multihash, len: u32, complete: bool, price: u64) {
        let Some(want) = self.wants.get(hash) else { return };
        let before = want.knows(conn);
        if before == Some(Knows::Bad) {
            return;
        }
        let may_own = want.owners().len() < super::wants::OWNERS_MAX;
        let roots: Vec<_> = want.jobs.clone();
        self.wants.learn(hash, conn, Knows::Has { len, said: true });
        if !complete {
            self.allow_inline(conn, before);
            return;
        }
        for id in roots {
            self.learn_complete(conn, id, hash);
        }
        // A small one that was asked for inline follows its answer.
        let follows = before == Some(Knows::Asked { inline: true })
            && price == 0
            && len as usize <= INLINE_BLOCK_BYTES_MAX;
        if follows && may_own {
            self.request(conn, hash, u64::from(len));
        } else {
            self.allow_inline(conn, before);
        }
    }

    /// What was just said may answer an earlier question: the block that was asked for inline
    /// since may still come.
    fn allow_inline(&mut self, conn: ConnId, before: Option<Knows>) {
        if before == Some(Knows::Asked { inline: true })
            && let Some(peer) = self.peers.get_mut(conn)
        {
            peer.may_cross(1);
        }
    }

    /// A peer has all of a job's DAG, if the block is its root.
    fn learn_complete(&mut self, conn: ConnId, id: JobId, hash: &Multihash) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        if job.root.multihash() != Some(*hash) || !job.complete.insert(conn) {
            return;
        }
        let silent = self.wants.iter().filter(|(_, want)| {
            // What was asked already has its answer under way, or comes in its place.
            want.jobs.contains(&id) && matches!(want.knows(conn), None | Some(Knows::Not))
        });
        let silent: Vec<_> = silent.map(|(hash, _)| *hash).collect();
        if self.peers.get(conn).is_some_and(Peer::is_priced) {
            return self.ask_peer(conn, &silent, false);
        }
        for hash in silent {
            self.wants.learn(&hash, conn, Knows::Has { len: 0, said: false });
        }
    }

    /// A peer does not have a block. Returns false if that was one lie too many.
    fn on_denied(&mut self, conn: ConnId, hash: &Multihash) -> bool {
        let requested = self.release(conn, hash).is_some();
        let Some(want) = self.wants.get(hash) else { return true };
        let before = want.knows(conn);
        if before.is_none() || before == Some(Knows::Bad) {
            return true;
        }
        let mut claimed = matches!(before, Some(Knows::Has { said: true, .. }));
        for id in want.jobs.clone() {
            if let Some(job) = self.jobs.get_mut(id) {
                claimed |= job.complete.remove(&conn);
                job.partial.insert(conn);
            }
        }
        self.wants.learn(hash, conn, Knows::Not);
        self.allow_inline(conn, before);
        let Some(id) = self.peers.get(conn).map(|peer| peer.id) else { return false };
        if requested && claimed && self.peers.lied(id) {
            self.offend(conn, "it says to have blocks that it has not");
        }
        self.peers.get(conn).is_some()
    }

    pub(super) fn on_verified(&mut self, conn: ConnId, hash: Multihash, len: u32) {
        let request = self.take_request(conn, &hash);
        if let Some(request) = &request {
            self.settle_request(request, true);
            if let Some(bucket) = &mut self.down {
                bucket.correct(request.bytes, u64::from(len));
            }
        }
        self.pay_for(conn, &hash, request.as_ref(), len);
        // Nobody is paid for a second copy, however late it was told not to send it, and though
        // the want was gone before the first.
        for conn in self.peers.conns() {
            self.peers.get_mut(conn).and_then(|peer| peer.take_late(&hash));
        }
        let knows = self.wants.get(&hash).and_then(|want| want.knows(conn));
        let (now, bytes) = (self.now, u64::from(len));
        let mut asked_for = true;
        if let Some(peer) = self.peers.get_mut(conn) {
            peer.note_block(now, bytes);
            match request {
                Some(request) => {
                    if let Some(bucket) = &mut peer.down {
                        bucket.correct(request.bytes, bytes);
                    }
                    peer.pace.delivered(now, bytes, request.mark);
                    peer.block_ended(now);
                }
                None if knows == Some(Knows::Asked { inline: true }) => {
                    peer.asked = peer.asked.saturating_sub(1);
                    // Nobody who has a price sends a block unasked.
                    peer.price = peer.price.or(Some(0));
                }
                None => asked_for = peer.crossed(),
            }
            let id = peer.id;
            self.peers.delivered(&id);
        }
        if let Some(want) = self.wants.remove(&hash) {
            self.credit_jobs(conn, &hash, bytes, &want);
            self.withdraw(&hash, &want, Some(conn));
            self.activate_all();
        }
        self.flush_cancels();
        if !asked_for {
            self.offend(conn, "it sends blocks that nobody asked for");
        }
    }

    fn credit_jobs(&mut self, conn: ConnId, hash: &Multihash, bytes: u64, want: &Want) {
        for id in &want.jobs {
            let Some(job) = self.jobs.get_mut(*id) else { continue };
            job.open.remove(hash);
            job.active -= 1;
            job.received(self.now, bytes);
            if self.peers.get(conn).is_some() {
                job.sources.insert(conn);
            }
        }
    }

    pub(super) fn on_rejected(&mut self, conn: ConnId, hash: Multihash, len: u32, wanted: bool) {
        let Some(peer) = self.peers.get_mut(conn) else { return };
        let offence = match peer.request_of(&hash) {
            _ if wanted => "it sends wrong bytes",
            Some(request) if request.cost.is_some() && request.bytes < len.into() => {
                "it sends more than it said"
            }
            _ => {
                // It was on its way before it was asked for. Whether the other end takes it for
                // the answer to that nobody here can tell, so that it is asked anew.
                if !peer.crossed() {
                    self.offend(conn, "it sends blocks that nobody asked for");
                } else if self.release(conn, &hash).is_some() {
                    self.take_back(conn, vec![hash]);
                }
                return;
            }
        };
        self.release(conn, &hash);
        self.wants.learn(&hash, conn, Knows::Bad);
        self.offend(conn, offence);
        self.recheck(&[hash]);
    }

    /// Returns whether anything can be asked for that could not before.
    pub(super) fn on_progress(&mut self, conn: ConnId, bytes: u32) -> bool {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(conn) else { return false };
        peer.heard_at = now;
        peer.bytes_in += u64::from(bytes);
        if peer.bytes_in < peer.bytes_noted + PROGRESS_BYTES_MIN {
            return false;
        }
        (peer.bytes_at, peer.bytes_noted) = (now, peer.bytes_in);
        let stalled = std::mem::replace(&mut peer.stalled, false);
        let Some(request) = peer.requests.front() else { return stalled };
        let Some(want) = self.wants.get(&request.hash) else { return stalled };
        for id in &want.jobs {
            if let Some(job) = self.jobs.get_mut(*id) {
                job.progress_at = now;
            }
        }
        stalled
    }

    /// A want ended: tells those who were asked, except the one who delivered.
    fn withdraw(&mut self, hash: &Multihash, want: &Want, delivered: Option<ConnId>) {
        for holder in want.holders().iter().filter(|holder| Some(holder.conn) != delivered) {
            let requested = want.owners().contains(&holder.conn);
            if requested && let Some(request) = self.take_request(holder.conn, hash) {
                self.settle_request(&request, false);
                self.send(holder.conn, Message::Cancel { blocks: vec![*hash] });
                if delivered.is_none()
                    && let Some(peer) = self.peers.get_mut(holder.conn)
                {
                    peer.may_be_late(&request);
                }
            }
            let Some(peer) = self.peers.get_mut(holder.conn) else { continue };
            match holder.knows {
                Knows::Asked { inline } => {
                    peer.may_cross(u32::from(inline));
                    peer.asked = peer.asked.saturating_sub(1);
                    peer.cancels.push(*hash);
                }
                // It would tell us once it has the block.
                Knows::Not => peer.cancels.push(*hash),
                Knows::Has { .. } | Knows::Bad => {}
            }
            if requested {
                peer.may_cross(1);
            }
        }
    }

    /// Takes wishes back: many at a time while a transfer goes on, all when it is over.
    pub(super) fn flush_cancels(&mut self) {
        let least = if self.wants.len() == 0 { 1 } else { CANCELS_MAX };
        for conn in self.peers.conns() {
            let Some(peer) = self.peers.get_mut(conn) else { continue };
            if peer.cancels.len() >= least {
                let cancels = std::mem::take(&mut peer.cancels);
                for blocks in cancels.chunks(WANTS_MAX) {
                    self.send(conn, Message::Cancel { blocks: blocks.to_vec() });
                }
            }
        }
    }

    /// Takes a request off a peer and its want.
    pub(super) fn release(&mut self, conn: ConnId, hash: &Multihash) -> Option<Request> {
        let request = self.take_request(conn, hash)?;
        self.settle_request(&request, false);
        if let Some(peer) = self.peers.get_mut(conn) {
            peer.may_be_late(&request);
        }
        self.wants.disown(hash, conn);
        Some(request)
    }

    fn take_request(&mut self, conn: ConnId, hash: &Multihash) -> Option<Request> {
        self.peers.get_mut(conn)?.take_request(hash)
    }

    /// A request is over: its bytes are no longer in flight, and its price is paid or free again.
    pub(super) fn settle_request(&mut self, request: &Request, delivered: bool) {
        self.inflight_bytes -= request.bytes;
        if let Some((id, cost)) = request.cost
            && !delivered
            && let Some(job) = self.jobs.get_mut(id)
        {
            job.spent -= cost;
        }
    }

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
                    let seen = self.wants.get(hash).is_some_and(|want| want.seen);
                    let error =
                        if seen { WantError::ProviderFailed } else { WantError::NoProvider };
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
        let error = if want.seen { WantError::ProviderFailed } else { WantError::NoProvider };
        let since = match job.order {
            Order::Sequential => want.asked_at,
            Order::Bulk => progress,
        };
        let wait = if job.search == Search::Running || self.may_find(id) {
            self.config.fetch_timeout
        } else {
            self.config.provider_timeout
        };
        Some((since.after(wait), error))
    }
}
