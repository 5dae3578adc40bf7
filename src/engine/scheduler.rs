//! Whom to ask for which block: the optimal peer, how far ahead, and what to do about late ones.

use super::{
    ConnId, Engine, Timer,
    peers::Peer,
    wants::{Knows, OWNERS_MAX, Want},
};
use barrow_wire::{Message, Multihash};
use std::{collections::BTreeMap, time::Duration};

/// Blocks that are looked at in one go: those behind them have their turn later.
const SCAN_MAX: usize = 64;
/// A block is late when it took so many times as long as its peer's rate lets expect.
const LATE_FACTOR: u32 = 2;
/// The least that a block is late by: threads and sockets on the way have their jitter.
const LATE_MIN: Duration = Duration::from_millis(50);
/// A peer of which no byte comes for so long has stalled, and more where it is far away.
const STALL_MIN: Duration = Duration::from_secs(2);
/// A peer that does not even answer a ping for so long is gone.
const SILENT_MAX: Duration = Duration::from_secs(10);
/// A rate for peers while no peer's is known, in bytes a second.
const RATE_GUESS: u64 = 2 << 20;
/// Blocks wanted up to which a peer with room may double what another is asked for.
const ENDGAME_WANTS_MAX: usize = 16;
/// A peer must promise to be faster by more than this to be asked as well, or instead.
const GAIN_MIN: Duration = Duration::from_millis(50);
/// Parts of its best time by which a peer may be slower and still count as equal.
const EQUAL_PARTS: u32 = 4;

impl Engine {
    /// Gives every block that can be asked for now to the peer that will have sent it first.
    pub(super) fn schedule(&mut self) {
        let mut lists: BTreeMap<ConnId, Vec<Multihash>> = BTreeMap::new();
        while self.wants.has_ready() && self.has_room() {
            if !self.assign(&mut lists) {
                break;
            }
        }
        if !self.wants.has_ready() && (1..=ENDGAME_WANTS_MAX).contains(&self.wants.len()) {
            self.endgame(&mut lists);
        }
        if self.config.limit_down_peer.is_some() && self.wants.has_ready() {
            let allowed = self.peers.iter().filter_map(|(_, peer)| peer.allowed_at(self.now));
            if let Some(at) = allowed.min() {
                self.timers.set_earlier(Timer::Download, at);
            }
        }
        for (conn, blocks) in lists {
            self.send(conn, Message::WantBlock { blocks });
        }
    }

    fn has_room(&mut self) -> bool {
        if let Some(at) = self.down.as_ref().and_then(|bucket| bucket.wait(self.now)) {
            self.timers.set(Timer::Download, at);
            return false;
        }
        self.inflight_bytes < self.config.inflight_bytes_max
            && self.peers.iter().any(|(_, peer)| peer.has_room(self.now))
    }

    /// One pass over the most urgent blocks. A block whose best peer is full waits for it, unless
    /// so much waits there already that another would be sooner. Returns whether it changed anything.
    fn assign(&mut self, lists: &mut BTreeMap<ConnId, Vec<Multihash>>) -> bool {
        let blocks: Vec<_> = self.wants.ready().take(SCAN_MAX).collect();
        let rate_unknown = self.rate_unknown();
        let mut waiting: BTreeMap<ConnId, u64> = BTreeMap::new();
        let mut any = false;
        for hash in blocks {
            if !self.has_room() {
                break;
            }
            let Some(want) = self.wants.get(&hash) else { continue };
            let best = self.best_peer(want, &waiting, rate_unknown, None);
            let Some((conn, bytes)) = best else {
                any |= self.pass_over_the_dear(&hash);
                continue;
            };
            let room = self.peers.get(conn).is_some_and(|peer| peer.has_room(self.now));
            let fits = self.inflight_bytes + bytes <= self.config.inflight_bytes_max
                || self.inflight_bytes == 0;
            if room && fits {
                self.request(conn, &hash, bytes);
                lists.entry(conn).or_default().push(hash);
                any = true;
            } else {
                *waiting.entry(conn).or_default() += bytes;
            }
        }
        any
    }

    /// The rate to expect of a peer that was never tried: the best known, so that it is tried.
    fn rate_unknown(&self) -> u64 {
        self.peers.iter().filter_map(|(_, peer)| peer.pace.rate()).max().unwrap_or(RATE_GUESS)
    }

    /// The peer that is expected to deliver first, or a cheaper one that is about as good, with the
    /// bytes that the block has or is guessed to have.
    fn best_peer(
        &self,
        want: &Want,
        waiting: &BTreeMap<ConnId, u64>,
        rate_unknown: u64,
        not: Option<ConnId>,
    ) -> Option<(ConnId, u64)> {
        let guess = self.bytes_guess(want);
        let mut offers = Vec::new();
        for holder in want.holders() {
            let Knows::Has { len, .. } = holder.knows() else { continue };
            let Some(peer) = self.peers.get(holder.conn) else { continue };
            let bytes = if len == 0 { guess } else { u64::from(len) };
            let price = peer.price.unwrap_or(0);
            if peer.stalled
                || Some(holder.conn) == not
                || want.owners().contains(&holder.conn)
                || self.payer(want, price, bytes).is_none()
            {
                continue;
            }
            let ahead = waiting.get(&holder.conn).copied().unwrap_or(0);
            let time = peer.time_for(self.now, ahead + bytes, rate_unknown) + peer.stall_cost();
            offers.push((time, price, holder.conn, bytes));
        }
        let fastest = offers.iter().map(|offer| offer.0).min()?;
        let equal = fastest + fastest / EQUAL_PARTS;
        offers
            .into_iter()
            .filter(|offer| offer.0 <= equal)
            .min_by_key(|&(time, price, conn, _)| (price, time, conn))
            .map(|(_, _, conn, bytes)| (conn, bytes))
    }

    fn bytes_guess(&self, want: &Want) -> u64 {
        let jobs = want.jobs.iter().filter_map(|id| self.jobs.get(*id));
        jobs.map(|job| job.block_bytes).max().unwrap_or(1)
    }

    /// Whoever has a block for more than may still be spent counts as one that has it not: others
    /// are looked for. Returns whether there was one.
    fn pass_over_the_dear(&mut self, hash: &Multihash) -> bool {
        let Some(want) = self.wants.get(hash) else { return false };
        let guess = self.bytes_guess(want);
        let dear = want.holders().iter().filter(|holder| {
            let Knows::Has { len, .. } = holder.knows() else { return false };
            let price = self.peers.get(holder.conn).and_then(|peer| peer.price).unwrap_or(0);
            let bytes = if len == 0 { guess } else { u64::from(len) };
            self.payer(want, price, bytes).is_none()
        });
        let dear: Vec<ConnId> = dear.map(|holder| holder.conn).collect();
        for conn in &dear {
            self.wants.too_dear(hash, *conn);
        }
        if !dear.is_empty() {
            self.recheck(&[*hash]);
            self.pump_dials_if_lacking();
        }
        !dear.is_empty()
    }

    /// Notes that a block is asked of a peer.
    pub(super) fn request(&mut self, conn: ConnId, hash: &Multihash, bytes: u64) {
        let rate_unknown = self.rate_unknown();
        let Some(want) = self.wants.get(hash) else { return };
        let price = self.peers.get(conn).and_then(|peer| peer.price).unwrap_or(0);
        let cost = self.payer(want, price, bytes).filter(|(_, cost)| *cost > 0);
        if let Some((purse, cost)) = cost {
            self.purses.take(purse, cost);
        }
        let now = self.now;
        let Some(peer) = self.peers.get_mut(conn) else { return };
        if peer.is_rested(now, rate_unknown) {
            peer.pace.forget();
        }
        let patience = peer.time_for(now, bytes, rate_unknown) * LATE_FACTOR + LATE_MIN;
        peer.keep_wish(hash);
        if let Some(bucket) = &mut peer.down {
            bucket.pass(now, bytes);
        }
        peer.request(now, *hash, bytes, patience, cost);
        let stall = stall_time(peer.pace.rtt());
        self.timers.set_earlier(Timer::Transfer(conn), now.after(patience.min(stall)));
        self.inflight_bytes += bytes;
        self.wants.own(hash, conn);
        if let Some(bucket) = &mut self.down {
            bucket.pass(now, bytes);
        }
    }

    /// Looks after a peer's late blocks.
    pub(super) fn on_transfer_timer(&mut self, conn: ConnId) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(conn) else { return };
        if peer.requests.is_empty() {
            return self.let_rest(conn);
        }
        let stall = stall_time(peer.pace.rtt());
        let silent = now.since(peer.bytes_at);
        if silent >= SILENT_MAX && now.since(peer.heard_at) >= SILENT_MAX {
            return self.close(conn, super::CloseReason::Stalled);
        }
        let late = peer.requests.iter().any(|request| request.late_at <= now);
        if late {
            peer.look_again(now);
            for request in peer.requests.iter_mut().filter(|request| request.late_at <= now) {
                // The longer it takes, the less is new about it.
                let waited = now.since(request.sent_at);
                request.late_at = now.after((waited / 2).max(LATE_MIN));
            }
        }
        if silent >= stall && !peer.stalled {
            peer.stall(now);
            self.ping(conn);
        }
        if late || silent >= stall {
            self.relieve(conn);
        }
        let Some(peer) = self.peers.get(conn).filter(|peer| !peer.requests.is_empty()) else {
            return self.let_rest(conn);
        };
        let late = peer.requests.iter().map(|request| request.late_at).min();
        let check = if peer.stalled { now.after(STALL_MIN) } else { peer.bytes_at.after(stall) };
        let next = late.map_or(check, |late| late.min(check));
        self.timers.set(Timer::Transfer(conn), next.max(now.after(LATE_MIN / 2)));
    }

    /// A peer that stalled, and whose blocks others were asked for, is tried again after a while:
    /// it answers pings, and others may be worse.
    fn let_rest(&mut self, conn: ConnId) {
        let Some(peer) = self.peers.get_mut(conn) else { return };
        match peer.rested_at() {
            Some(at) if at <= self.now => peer.stalled = false,
            Some(at) => self.timers.set(Timer::Transfer(conn), at),
            None => {}
        }
    }

    /// Gives a slow peer's blocks to others: the one that may be half here to a second owner,
    /// the rest for good, where that is sooner.
    fn relieve(&mut self, conn: ConnId) {
        let (now, rate_unknown) = (self.now, self.rate_unknown());
        let Some(peer) = self.peers.get(conn) else { return };
        let stalled = peer.stalled;
        let blocks: Vec<_> = peer
            .requests
            .iter()
            .filter_map(|request| {
                Some((request.hash, peer.time_left(now, &request.hash, rate_unknown)?))
            })
            .collect();
        let (mut cancelled, mut waiting) = (Vec::new(), BTreeMap::new());
        for (place, (hash, own_time)) in blocks.into_iter().enumerate() {
            let Some(want) = self.wants.get(&hash) else { continue };
            let Some((other, bytes)) = self.best_peer(want, &waiting, rate_unknown, Some(conn))
            else {
                continue;
            };
            let Some(helper) = self.peers.get(other) else { continue };
            let ahead = waiting.get(&other).copied().unwrap_or(0);
            if !stalled && helper.time_for(now, ahead + bytes, rate_unknown) * 2 > own_time {
                continue;
            }
            // What costs something is never fetched twice.
            let free =
                !helper.is_priced() && self.peers.get(conn).is_some_and(|peer| !peer.is_priced());
            if place == 0 && (free || !stalled) {
                if free && want.owners().len() < OWNERS_MAX {
                    self.request(other, &hash, bytes);
                    self.send(other, Message::WantBlock { blocks: vec![hash] });
                }
            } else if self.release(conn, &hash).is_some() {
                *waiting.entry(other).or_default() += bytes;
                cancelled.push(hash);
            }
        }
        self.take_back(conn, cancelled);
    }

    /// Tells a peer that blocks are no longer asked of it, which were until now.
    pub(super) fn take_back(&mut self, conn: ConnId, blocks: Vec<Multihash>) {
        if let Some(peer) = self.peers.get_mut(conn)
            && !blocks.is_empty()
        {
            peer.may_cross(u32::try_from(blocks.len()).unwrap_or(u32::MAX));
            self.send(conn, Message::Cancel { blocks });
        }
    }

    /// A peer has blocks that others were asked for before: it is asked instead for those of
    /// which nothing came yet and which it will have sent far sooner.
    pub(super) fn take_over(&mut self, conn: ConnId, blocks: &[Multihash]) {
        let (now, rate_unknown) = (self.now, self.rate_unknown());
        let (mut taken, mut freed): (_, BTreeMap<_, Vec<_>>) = (Vec::new(), BTreeMap::new());
        for hash in blocks {
            let Some(peer) = self.peers.get(conn).filter(|peer| peer.has_room(self.now)) else {
                break;
            };
            let Some(want) = self.wants.get(hash) else { continue };
            let (&[from], Some(Knows::Has { len, .. })) = (want.owners(), want.knows(conn)) else {
                continue;
            };
            let Some(owner) = self.peers.get(from).filter(|_| from != conn) else { continue };
            let bytes = if len == 0 { self.bytes_guess(want) } else { u64::from(len) };
            let time = peer.time_for(now, bytes, rate_unknown);
            let priced = peer.is_priced() || owner.is_priced();
            let sooner = owner
                .time_left(now, hash, rate_unknown)
                .is_some_and(|left| time * 2 + GAIN_MIN < left);
            if priced || !sooner || owner.has_begun(hash) {
                continue;
            }
            if self.release(from, hash).is_some() {
                freed.entry(from).or_default().push(*hash);
                self.request(conn, hash, bytes);
                taken.push(*hash);
            }
        }
        for (from, blocks) in freed {
            self.take_back(from, blocks);
        }
        if !taken.is_empty() {
            self.send(conn, Message::WantBlock { blocks: taken });
        }
    }

    /// Nothing is left to give out: a peer with room is asked for a block that another will not
    /// have sent for long.
    fn endgame(&mut self, lists: &mut BTreeMap<ConnId, Vec<Multihash>>) {
        let rate_unknown = self.rate_unknown();
        let none = BTreeMap::new();
        let mut late = Vec::new();
        for (hash, want) in self.wants.iter().filter(|(_, want)| want.owners().len() == 1) {
            let Some(owner) = want.owners().first().and_then(|owner| self.peers.get(*owner)) else {
                continue;
            };
            if owner.is_priced() {
                continue;
            }
            let Some(owner_time) = owner.time_left(self.now, hash, rate_unknown) else { continue };
            let best = self.best_peer(want, &none, rate_unknown, None);
            let Some((conn, bytes)) = best else { continue };
            let may = |peer: &&Peer| peer.has_room(self.now) && !peer.is_priced();
            let Some(peer) = self.peers.get(conn).filter(may) else { continue };
            let time = peer.time_for(self.now, bytes, rate_unknown);
            if time * 2 + GAIN_MIN < owner_time {
                late.push((*hash, conn, bytes));
            }
        }
        for (hash, conn, bytes) in late {
            if self.has_room() && self.peers.get(conn).is_some_and(|peer| peer.has_room(self.now)) {
                self.request(conn, &hash, bytes);
                lists.entry(conn).or_default().push(hash);
            }
        }
    }
}

fn stall_time(rtt: Duration) -> Duration {
    STALL_MIN.max(rtt * 8)
}
