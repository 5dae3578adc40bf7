//! Connections, one a peer, and what is remembered of peers beyond their connections.

use super::{
    Bucket, ConnId, Moment, PurseId,
    lean::push_back,
    pace::{self, Mark, Pace},
};
use barrow_wire::{Multihash, PeerId};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

/// Peers that are remembered; the longest unheard of goes first.
const RECORDS_MAX: usize = 1_000;
/// So many offences, and a peer is banned.
const OFFENCES_MAX: u32 = 3;
/// So many times in a row may a peer say that it has a block and then not have it.
const LIES_MAX: u32 = 3;
/// Blocks that may come although we took the wish back, as the two crossed.
const CROSSED_MAX: u32 = 1_024;
/// Of those, blocks that are remembered for their price: as many as are hashed at one time.
const LATE_MAX: usize = 64;
/// Control messages that a peer may send at once, and every second after.
const MESSAGES_MAX: u32 = 8_192;

/// A rate is measured over this time at least.
const LOOK_MIN: Duration = Duration::from_millis(40);
/// Who was slow is tried again after so long, if nothing is asked of it.
const REST_TIME: Duration = Duration::from_secs(5);
/// The rest of one that stalls again and again is so many times as long at most.
const RESTS_MAX: u32 = 12;
/// For each time that a peer stalled since it delivered, a block is expected so much later.
const STALL_COST: Duration = Duration::from_secs(2);
/// So many bytes on a connection count as progress of what was asked for there: pongs and the
/// like are none.
pub(super) const PROGRESS_BYTES_MIN: u64 = 2 << 10;

/// A block asked of a peer.
#[derive(Clone, Debug, Hash)]
pub(super) struct Request {
    pub hash: Multihash,
    /// Its length, or a guess.
    pub bytes: u64,
    pub sent_at: Moment,
    pub mark: Mark,
    /// When it is late, and to be looked after.
    pub late_at: Moment,
    /// Boxed, for few of all cost anything.
    cost: Option<Box<(PurseId, u128)>>,
}

impl Request {
    /// What it costs, and which purse it was taken out of.
    pub(super) fn cost(&self) -> Option<(PurseId, u128)> {
        self.cost.as_deref().copied()
    }
}

/// A connection and all that we want of the peer behind it.
#[derive(Clone, Debug, Hash)]
pub(super) struct Peer {
    pub id: PeerId,
    pub remote: SocketAddr,
    /// The address that we dialed, if we did.
    pub dialed: Option<SocketAddr>,
    /// Where it says that it listens.
    pub listens: Option<SocketAddr>,
    pub agent: Option<String>,
    pub connected_at: Moment,
    /// When anything was last received.
    pub heard_at: Moment,
    /// When block bytes last came.
    pub bytes_at: Moment,
    /// Bytes that came, of blocks whole or not, and of messages.
    pub bytes_in: u64,
    /// What that was at `bytes_at`.
    pub bytes_noted: u64,
    /// What it was when the last block was whole: the rest came of the oldest request.
    bytes_whole: u64,
    /// Since when, and since what of it, the rate is measured anew if a block is late.
    watched: (Moment, u64),
    pub pace: Pace,
    /// What may be asked of it, where that is limited.
    pub down: Option<Bucket>,
    /// What a MiB costs there, once it said so.
    pub price: Option<u64>,
    /// Blocks asked for, oldest first.
    pub requests: VecDeque<Request>,
    /// The sum of their bytes.
    pub outstanding_bytes: u64,
    /// Entries of `WantHave` that it did not answer yet.
    pub asked: u32,
    /// Wishes that may be taken back with the next message.
    pub cancels: Vec<Multihash>,
    /// One of them may spare a block that is on its way already.
    pub hurries_cancels: bool,
    /// Nothing came for long though blocks were asked for.
    pub stalled: bool,
    /// When that was seen, and how often since it last delivered a block.
    stalled_at: Moment,
    stalls: u32,
    /// Blocks that may still come although we no longer want them.
    crossed: u32,
    /// Of those, the latest that would cost something: how much a byte, out of which purse.
    late: VecDeque<(Multihash, PurseId, u128)>,
    messages: u32,
    messages_at: Moment,
    pub blocks_received: u64,
    pub bytes_received: u64,
}

impl Peer {
    pub(super) fn new(
        now: Moment,
        id: PeerId,
        remote: SocketAddr,
        dialed: Option<SocketAddr>,
        rate: Option<u64>,
    ) -> Self {
        Self {
            id,
            remote,
            dialed,
            listens: dialed,
            agent: None,
            connected_at: now,
            heard_at: now,
            bytes_at: now,
            bytes_in: 0,
            bytes_noted: 0,
            bytes_whole: 0,
            watched: (now, 0),
            pace: Pace::with_rate(rate),
            down: None,
            price: None,
            requests: VecDeque::new(),
            outstanding_bytes: 0,
            asked: 0,
            cancels: Vec::new(),
            hurries_cancels: false,
            stalled: false,
            stalled_at: now,
            stalls: 0,
            crossed: 0,
            late: VecDeque::new(),
            messages: 0,
            messages_at: now,
            blocks_received: 0,
            bytes_received: 0,
        }
    }

    /// Notes that a block is asked for.
    pub(super) fn request(
        &mut self,
        now: Moment,
        hash: Multihash,
        bytes: u64,
        patience: Duration,
        cost: Option<(PurseId, u128)>,
    ) {
        let idle = self.requests.is_empty();
        if idle {
            self.bytes_at = now;
            self.block_ended(now);
        }
        let mark = self.pace.mark(now, idle);
        self.outstanding_bytes += bytes;
        let (sent_at, late_at) = (now, now.after(patience));
        let cost = cost.map(Box::new);
        let request = Request { hash, bytes, sent_at, mark, late_at, cost };
        push_back(&mut self.requests, request);
    }

    /// What comes from now on is of the next block.
    pub(super) fn block_ended(&mut self, now: Moment) {
        self.bytes_whole = self.bytes_in;
        self.watched = (now, self.bytes_in);
    }

    /// A block is late: takes the rate from what came since the last one, or since this was done
    /// last, so that the second look sees nothing of a better past.
    pub(super) fn look_again(&mut self, now: Moment) {
        let (since, bytes_before) = self.watched;
        let elapsed = now.since(since);
        if elapsed >= LOOK_MIN.max(self.pace.rtt() / 2) {
            self.pace.slowed(self.bytes_in - bytes_before, elapsed);
            self.watched = (now, self.bytes_in);
        }
    }

    /// Takes a request out, if there is one.
    pub(super) fn take_request(&mut self, hash: &Multihash) -> Option<Request> {
        let at = self.requests.iter().position(|request| request.hash == *hash)?;
        let request = self.requests.remove(at)?;
        self.outstanding_bytes -= request.bytes;
        if self.requests.is_empty() {
            self.requests = VecDeque::new();
        }
        Some(request)
    }

    /// A wish is made anew: if it was to be taken back with the next message, that would take
    /// back this one.
    pub(super) fn keep_wish(&mut self, hash: &Multihash) {
        self.cancels.retain(|cancel| cancel != hash);
    }

    /// How a block was asked of it, if it was.
    pub(super) fn request_of(&self, hash: &Multihash) -> Option<&Request> {
        self.requests.iter().find(|request| request.hash == *hash)
    }

    /// Whether its blocks cost anything.
    pub(super) fn is_priced(&self) -> bool {
        self.price.is_some_and(|price| price > 0)
    }

    /// Bytes that have come of the oldest request.
    fn bytes_begun(&self) -> u64 {
        self.bytes_in - self.bytes_whole
    }

    /// Whether bytes of this request have come, as far as one can tell.
    pub(super) fn has_begun(&self, hash: &Multihash) -> bool {
        let oldest = self.requests.front().is_some_and(|request| request.hash == *hash);
        oldest && self.bytes_begun() >= PROGRESS_BYTES_MIN
    }

    /// How long a block that was asked for will still take, at the rate of late.
    pub(super) fn time_left(
        &self,
        now: Moment,
        hash: &Multihash,
        rate_unknown: u64,
    ) -> Option<Duration> {
        let at = self.requests.iter().position(|request| request.hash == *hash)?;
        let bytes: u64 = self.requests.iter().take(at + 1).map(|request| request.bytes).sum();
        let left = bytes.saturating_sub(self.bytes_begun());
        let way = self.pace.rtt().saturating_sub(now.since(self.requests.get(at)?.sent_at));
        Some(way + self.pace.bytes_time(left, rate_unknown))
    }

    /// How long a block takes that is asked for now behind `ahead` others' bytes.
    pub(super) fn time_for(&self, now: Moment, bytes: u64, rate_unknown: u64) -> Duration {
        let rested = self.is_rested(now, rate_unknown);
        let rate = if rested { rate_unknown } else { self.pace.rate().unwrap_or(rate_unknown) };
        let time = pace::time_of(self.outstanding_bytes + bytes, rate);
        let allowed = self.down.as_ref().map(|bucket| bucket.time_for(now, bytes));
        self.pace.rtt() + allowed.map_or(time, |allowed| time.max(allowed))
    }

    /// By how much a block is to be expected later than its pace says, as it has stalled.
    pub(super) fn stall_cost(&self) -> Duration {
        STALL_COST * self.stalls.min(RESTS_MAX)
    }

    /// Whether it was slow so long ago that it may be tried again.
    pub(super) fn is_rested(&self, now: Moment, rate_unknown: u64) -> bool {
        let slow = self.pace.rate().is_some_and(|rate| rate < rate_unknown / 4);
        slow && self.requests.is_empty() && now.since(self.bytes_at) >= REST_TIME
    }

    /// Nothing came for long.
    pub(super) fn stall(&mut self, now: Moment) {
        (self.stalled, self.stalled_at) = (true, now);
        self.stalls = self.stalls.saturating_add(1);
    }

    /// When a peer that stalled and is asked for nothing may be tried again: each time later.
    pub(super) fn rested_at(&self) -> Option<Moment> {
        let rest = REST_TIME * 2_u32.saturating_pow(self.stalls.saturating_sub(1)).min(RESTS_MAX);
        (self.stalled && self.requests.is_empty()).then(|| self.stalled_at.after(rest))
    }

    /// A block of it is here.
    pub(super) fn note_block(&mut self, now: Moment, bytes: u64) {
        (self.heard_at, self.bytes_at) = (now, now);
        (self.stalled, self.stalls) = (false, 0);
        self.blocks_received += 1;
        self.bytes_received += bytes;
    }

    /// When the limit lets a block be asked of it, if that is not now.
    pub(super) fn allowed_at(&self, now: Moment) -> Option<Moment> {
        self.down.as_ref().and_then(|bucket| bucket.wait(now))
    }

    /// Whether one more block may be asked of it now: two, or what its pace is worth.
    pub(super) fn has_room(&self, now: Moment) -> bool {
        !self.stalled
            && self.allowed_at(now).is_none()
            && (self.requests.len() < 2 || self.outstanding_bytes < self.pace.pipeline_bytes())
    }

    /// A block may still come that is no longer wanted.
    pub(super) fn may_cross(&mut self, blocks: u32) {
        self.crossed = self.crossed.saturating_add(blocks).min(CROSSED_MAX);
    }

    /// A request was taken back: its block may be here already, and being hashed.
    pub(super) fn may_be_late(&mut self, request: &Request) {
        let Some((purse, cost)) = request.cost() else { return };
        // Taken back twice, it is still one block that may be paid for.
        self.late.retain(|(late, ..)| *late != request.hash);
        if self.late.len() >= LATE_MAX {
            self.late.pop_front();
        }
        self.late.push_back((request.hash, purse, cost / u128::from(request.bytes.max(1))));
    }

    /// Whether a block that was taken back, and may come, is to be paid out of this purse.
    pub(super) fn may_be_late_for(&self, purse: PurseId) -> bool {
        self.late.iter().any(|(_, late, _)| *late == purse)
    }

    /// What a block of a request that was taken back costs a byte, out of which purse.
    pub(super) fn take_late(&mut self, hash: &Multihash) -> Option<(PurseId, u128)> {
        let at = self.late.iter().position(|(late, ..)| late == hash)?;
        self.late.remove(at).map(|(_, purse, price)| (purse, price))
    }

    /// Whether a block that comes may be one whose wish was taken back.
    pub(super) const fn may_have_crossed(&self) -> bool {
        self.crossed > 0
    }

    /// A block came that is not wanted: whether it may have crossed our change of mind.
    pub(super) fn crossed(&mut self) -> bool {
        let may = self.crossed > 0;
        self.crossed = self.crossed.saturating_sub(1);
        may
    }

    /// Counts a control message; false when there are too many of them.
    pub(super) fn count_message(&mut self, now: Moment) -> bool {
        let seconds = now.since(self.messages_at).as_secs();
        if seconds > 0 {
            let spared = u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(MESSAGES_MAX);
            self.messages = self.messages.saturating_sub(spared);
            self.messages_at = now;
        }
        self.messages += 1;
        self.messages <= MESSAGES_MAX
    }
}

/// What is remembered of a peer.
#[derive(Clone, Debug, Default, Hash)]
struct Record {
    offences: u32,
    /// Since the last block that it delivered.
    lies: u32,
    banned_until: Option<Moment>,
    rate: Option<u64>,
    /// Times that it stalled since then.
    stalls: u32,
    /// Order of the last change.
    touched: u64,
}

/// All connections and records.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Peers {
    /// Boxed, for a tree keeps room for twice as many as it holds.
    conns: BTreeMap<ConnId, Box<Peer>>,
    by_id: BTreeMap<PeerId, ConnId>,
    records: BTreeMap<PeerId, Record>,
    oldest: BTreeSet<(u64, PeerId)>,
    touches: u64,
}

impl Peers {
    /// A peer is connected; what it cost to wait for it before is not forgotten.
    pub(super) fn insert(&mut self, conn: ConnId, mut peer: Peer) {
        peer.stalls = self.records.get(&peer.id).map_or(0, |record| record.stalls);
        let replaced = self.by_id.insert(peer.id, conn);
        assert!(replaced.is_none(), "a peer has one connection");
        self.conns.insert(conn, Box::new(peer));
    }

    /// Takes a connection out; its rate is remembered, and that it stalled.
    pub(super) fn remove(&mut self, conn: ConnId) -> Option<Peer> {
        let peer = *self.conns.remove(&conn)?;
        self.by_id.remove(&peer.id);
        let rate = peer.pace.rate();
        if rate.is_some() || peer.stalls > 0 {
            let record = self.record(peer.id);
            record.rate = rate.or(record.rate);
            record.stalls = peer.stalls;
        }
        Some(peer)
    }

    pub(super) fn get(&self, conn: ConnId) -> Option<&Peer> {
        self.conns.get(&conn).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, conn: ConnId) -> Option<&mut Peer> {
        self.conns.get_mut(&conn).map(Box::as_mut)
    }

    pub(super) fn conn_of(&self, peer: &PeerId) -> Option<ConnId> {
        self.by_id.get(peer).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.conns.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnId, &Peer)> {
        self.conns.iter().map(|(conn, peer)| (*conn, &**peer))
    }

    pub(super) fn conns(&self) -> Vec<ConnId> {
        self.conns.keys().copied().collect()
    }

    /// The rate that the peer had when it was last here.
    pub(super) fn known_rate(&self, peer: &PeerId) -> Option<u64> {
        self.records.get(peer).and_then(|record| record.rate)
    }

    /// Counts an offence; true when it was one too many.
    pub(super) fn offend(&mut self, peer: PeerId) -> bool {
        let record = self.record(peer);
        record.offences += 1;
        record.offences >= OFFENCES_MAX
    }

    /// Counts a block that the peer said to have and had not; true when that is an offence.
    pub(super) fn lied(&mut self, peer: PeerId) -> bool {
        let record = self.record(peer);
        record.lies += 1;
        record.lies >= LIES_MAX
    }

    /// The peer delivered, so what it said was not all lies.
    pub(super) fn delivered(&mut self, peer: &PeerId) {
        if let Some(record) = self.records.get_mut(peer) {
            record.lies = 0;
        }
    }

    /// Takes up how often a peer offended before a restart.
    pub(super) fn recall(&mut self, peer: PeerId, offences: u32) {
        self.record(peer).offences = offences;
    }

    pub(super) fn ban(&mut self, peer: PeerId, until: Moment) {
        let record = self.record(peer);
        (record.banned_until, record.offences, record.lies) = (Some(until), 0, 0);
    }

    /// Until when the peer is banned, if it is.
    pub(super) fn banned_until(&self, peer: &PeerId, now: Moment) -> Option<Moment> {
        self.records.get(peer)?.banned_until.filter(|&until| until > now)
    }

    /// Everyone who is banned.
    pub(super) fn bans(&self, now: Moment) -> Vec<(PeerId, Moment)> {
        let banned = self.records.keys().map(|peer| (*peer, self.banned_until(peer, now)));
        banned.filter_map(|(peer, until)| Some((peer, until?))).collect()
    }

    /// Offences of a peer so far.
    pub(super) fn offences(&self, peer: &PeerId) -> u32 {
        self.records.get(peer).map_or(0, |record| record.offences)
    }

    fn record(&mut self, peer: PeerId) -> &mut Record {
        self.touches += 1;
        if let Some(record) = self.records.get(&peer) {
            self.oldest.remove(&(record.touched, peer));
        } else if self.records.len() >= RECORDS_MAX
            && let Some((_, oldest)) = self.oldest.pop_first()
        {
            self.records.remove(&oldest);
        }
        self.oldest.insert((self.touches, peer));
        let record = self.records.entry(peer).or_default();
        record.touched = self.touches;
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u32) -> PeerId {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        PeerId::from_public_key(key)
    }

    #[test]
    fn records_are_bounded_and_the_longest_unheard_of_goes_first() {
        let mut peers = Peers::default();
        for n in 0..RECORDS_MAX as u32 {
            peers.offend(peer(n));
        }
        peers.offend(peer(0));
        peers.offend(peer(5_000));
        assert_eq!(peers.records.len(), RECORDS_MAX);
        assert_eq!(peers.oldest.len(), RECORDS_MAX);
        assert_eq!(peers.offences(&peer(0)), 2);
        assert_eq!(peers.offences(&peer(1)), 0);
    }

    #[test]
    fn a_ban_ends() {
        let mut peers = Peers::default();
        let until = Moment::at(Duration::from_secs(10));
        peers.ban(peer(1), until);
        assert_eq!(peers.banned_until(&peer(1), Moment::at(Duration::from_secs(9))), Some(until));
        assert_eq!(peers.banned_until(&peer(1), until), None);
    }

    #[test]
    fn a_delivered_block_clears_lies_but_no_offences() {
        let mut peers = Peers::default();
        assert!(!peers.lied(peer(1)));
        assert!(!peers.lied(peer(1)));
        peers.delivered(&peer(1));
        assert!(!peers.lied(peer(1)));
        peers.offend(peer(1));
        peers.offend(peer(1));
        peers.delivered(&peer(1));
        assert!(peers.offend(peer(1)));
    }
}
