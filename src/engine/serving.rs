//! Our side as a provider: what peers want of us, in a fair order and within bounds.

use super::{
    Bucket, CloseReason, ConnId, Engine, Moment, Output, Timer,
    lean::{free_if_empty, push, push_back},
};
use barrow_wire::{
    Message, Multihash, Presence,
    limits::{BLOCK_BYTES_MAX, INLINE_BLOCK_BYTES_MAX, WANTS_MAX},
};
use std::collections::{BTreeMap, VecDeque};

/// Bytes read ahead for one peer, unless it is a single block more.
const AHEAD_BYTES_MAX: u64 = 2 << 20;
/// Blocks that are read ahead for a peer whatever their length.
const AHEAD_BLOCKS_MIN: usize = 2;
/// Look-ups that a peer may have under way; what it asks beyond them it is denied.
const LOOKUPS_MAX: usize = 4 * WANTS_MAX;

/// A block that is being read or sent.
#[derive(Clone, Debug, Hash)]
struct Sending {
    bytes: u64,
    cancelled: bool,
}

/// What the store was asked and has not said yet.
#[derive(Clone, Copy, Debug, Hash)]
struct LookUp {
    /// Whether a small block may be sent at once.
    inline: bool,
    /// The block's length, if it came here since: the store may have looked before.
    came: Option<u32>,
}

/// What one peer wants of us.
#[derive(Clone, Debug, Default, Hash)]
struct Client {
    /// Blocks that it waits for in its order, with their lengths if known.
    queue: VecDeque<(Multihash, Option<u32>)>,
    sending: BTreeMap<Multihash, Sending>,
    sending_bytes: u64,
    lookups: BTreeMap<Multihash, LookUp>,
    /// Look-ups that the store was asked for, also those cancelled since.
    lookups_pending: usize,
    /// Blocks that it wants to hear of once they are here.
    waits: usize,
    /// What may be sent to it, where that is limited, once it got something.
    up: Option<Bucket>,
    /// Bytes served, from where the others were when it came: the least is next.
    share: u64,
    blocks_sent: u64,
    bytes_sent: u64,
}

impl Client {
    fn bytes_of_next(&self) -> Option<u64> {
        let (_, len) = self.queue.front()?;
        // What is not known is taken for the worst until it is read, or a peer could have far
        // more read than there is room for.
        Some(len.map_or(BLOCK_BYTES_MAX as u64, u64::from))
    }

    fn may_send(&self, bytes: u64) -> bool {
        self.sending.len() < AHEAD_BLOCKS_MIN || self.sending_bytes + bytes <= AHEAD_BYTES_MAX
    }

    /// When the limit lets a block be sent to it, if that is not now.
    fn allowed_at(&self, now: Moment) -> Option<Moment> {
        self.up.as_ref().and_then(|bucket| bucket.wait(now))
    }
}

/// What all peers want of us.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Serving {
    /// Bytes of blocks a second to one peer.
    limit_peer: Option<u64>,
    /// Boxed, for a tree keeps room for twice as many as it holds.
    clients: BTreeMap<ConnId, Box<Client>>,
    /// Bytes read or about to be, and not yet sent.
    sending_bytes: u64,
    /// The share of whoever was served last.
    share: u64,
    /// Blocks that are not here, and who wants to hear of them.
    waiting: BTreeMap<Multihash, Vec<ConnId>>,
}

impl Serving {
    pub(super) fn new(limit_peer: Option<u64>) -> Self {
        Self { limit_peer, ..Self::default() }
    }

    /// Frees all that a connection held.
    pub(super) fn remove(&mut self, conn: ConnId) {
        let Some(client) = self.clients.remove(&conn) else { return };
        self.sending_bytes -= client.sending_bytes;
        if client.waits > 0 {
            self.waiting.retain(|_, conns| {
                conns.retain(|waiting| *waiting != conn);
                !conns.is_empty()
            });
        }
    }

    /// Whether anything is under way for a peer.
    pub(super) fn is_busy(&self, conn: ConnId) -> bool {
        self.clients.get(&conn).is_some_and(|client| {
            !client.queue.is_empty() || !client.sending.is_empty() || !client.lookups.is_empty()
        })
    }

    /// Blocks and bytes sent to a peer, and blocks that wait to be.
    pub(super) fn totals(&self, conn: ConnId) -> (u64, u64, usize) {
        self.clients.get(&conn).map_or((0, 0, 0), |client| {
            (client.blocks_sent, client.bytes_sent, client.queue.len() + client.sending.len())
        })
    }

    /// Bytes read for peers and not yet sent.
    pub(super) const fn sending_bytes(&self) -> u64 {
        self.sending_bytes
    }

    fn wait_for(&mut self, conn: ConnId, hash: Multihash) {
        let Some(client) = self.clients.get_mut(&conn) else { return };
        let conns = self.waiting.entry(hash).or_default();
        if client.waits < WANTS_MAX && !conns.contains(&conn) {
            client.waits += 1;
            push(conns, conn);
        } else if conns.is_empty() {
            self.waiting.remove(&hash);
        }
    }

    fn stop_waiting(&mut self, conn: ConnId, hash: &Multihash) {
        let Some(conns) = self.waiting.get_mut(hash) else { return };
        if let Some(at) = conns.iter().position(|waiting| *waiting == conn) {
            conns.swap_remove(at);
            if let Some(client) = self.clients.get_mut(&conn) {
                client.waits -= 1;
            }
        }
        if conns.is_empty() {
            self.waiting.remove(hash);
        }
    }

    fn take_waiting(&mut self, hash: &Multihash) -> Vec<ConnId> {
        let conns = self.waiting.remove(hash).unwrap_or_default();
        for conn in &conns {
            if let Some(client) = self.clients.get_mut(conn) {
                client.waits -= 1;
            }
        }
        conns
    }

    /// Puts a block into a peer's queue, unless it is there. Returns false if the queue is full.
    fn enqueue(&mut self, conn: ConnId, hash: Multihash, len: Option<u32>) -> bool {
        let share = self.share;
        let client = self.clients.entry(conn).or_default();
        let under_way = client.sending.get(&hash).is_some_and(|sending| !sending.cancelled);
        if under_way || client.queue.iter().any(|(queued, _)| *queued == hash) {
            return true;
        }
        if client.queue.len() + client.sending.len() >= WANTS_MAX {
            return false;
        }
        if client.queue.is_empty() && client.sending.is_empty() {
            client.share = client.share.max(share);
        }
        push_back(&mut client.queue, (hash, len));
        true
    }

    /// The peer whose turn it is, of those for whom there is room and who may owe more: the one
    /// that had least.
    fn next(
        &self,
        now: Moment,
        bytes_max: u64,
        has_credit: impl Fn(ConnId, u64, u64) -> bool,
    ) -> Option<(ConnId, u64)> {
        let able = self.clients.iter().filter_map(|(conn, client)| {
            // A cancelled block of the same name must leave before it can be sent again.
            let (hash, _) = client.queue.front()?;
            let bytes = client.bytes_of_next().filter(|bytes| client.may_send(*bytes))?;
            let may = !client.sending.contains_key(hash)
                && client.allowed_at(now).is_none()
                && has_credit(*conn, client.sending_bytes, bytes);
            may.then_some((client.share, *conn, bytes))
        });
        let (_, conn, bytes) = able.min()?;
        let fits = self.sending_bytes == 0 || self.sending_bytes + bytes <= bytes_max;
        fits.then_some((conn, bytes))
    }

    /// When the limit of a peer that waits for blocks lets it have the next.
    fn next_allowed(&self, now: Moment) -> Option<Moment> {
        let waiting = self.clients.values().filter(|client| !client.queue.is_empty());
        waiting.filter_map(|client| client.allowed_at(now)).min()
    }

    fn start(&mut self, now: Moment, conn: ConnId, bytes: u64) -> Option<Multihash> {
        let client = self.clients.get_mut(&conn)?;
        let (hash, _) = client.queue.pop_front()?;
        if client.queue.is_empty() {
            client.queue = VecDeque::new();
        }
        if let Some(limit) = self.limit_peer {
            client.up.get_or_insert_with(|| Bucket::new(limit)).pass(now, bytes);
        }
        client.sending.insert(hash, Sending { bytes, cancelled: false });
        client.sending_bytes += bytes;
        self.sending_bytes += bytes;
        self.share = client.share;
        client.share += bytes;
        Some(hash)
    }

    /// Sets right what a block under way was taken to weigh. Returns the guess.
    fn weigh(&mut self, conn: ConnId, hash: &Multihash, bytes: u64) -> Option<u64> {
        let client = self.clients.get_mut(&conn)?;
        let sending = client.sending.get_mut(hash)?;
        let guess = std::mem::replace(&mut sending.bytes, bytes);
        client.up.iter_mut().for_each(|bucket| bucket.correct(guess, bytes));
        client.sending_bytes = client.sending_bytes - guess + bytes;
        client.share = client.share - guess + bytes;
        self.sending_bytes = self.sending_bytes - guess + bytes;
        Some(guess)
    }

    fn finish(&mut self, conn: ConnId, hash: &Multihash) -> Option<Sending> {
        let client = self.clients.get_mut(&conn)?;
        let sending = client.sending.remove(hash)?;
        free_if_empty(&mut client.sending);
        client.sending_bytes -= sending.bytes;
        self.sending_bytes -= sending.bytes;
        Some(sending)
    }
}

impl Engine {
    pub(super) fn on_want_have(&mut self, conn: ConnId, inline: bool, blocks: Vec<Multihash>) {
        let client = self.serving.clients.entry(conn).or_default();
        if client.lookups_pending + blocks.len() > LOOKUPS_MAX {
            let blocks = blocks.into_iter().map(|hash| (hash, Presence::DontHave)).collect();
            let price = self.config.price;
            return self.send(conn, Message::BlockPresence { price, blocks });
        }
        client.lookups_pending += blocks.len();
        for hash in &blocks {
            client.lookups.insert(*hash, LookUp { inline, came: None });
        }
        self.outputs.push_back(Output::LookUp { conn, blocks });
    }

    pub(super) fn on_looked_up(&mut self, conn: ConnId, found: Vec<(Multihash, Presence)>) {
        let price = self.config.price;
        let mut answers = Vec::new();
        if let Some(client) = self.serving.clients.get_mut(&conn) {
            client.lookups_pending -= found.len().min(client.lookups_pending);
        }
        for (hash, presence) in found {
            let Some(client) = self.serving.clients.get_mut(&conn) else { return };
            let Some(LookUp { inline, came }) = client.lookups.remove(&hash) else { continue };
            free_if_empty(&mut client.lookups);
            let (len, complete) = match (presence, came) {
                (Presence::DontHave, None) => {
                    self.serving.wait_for(conn, hash);
                    answers.push((hash, presence));
                    continue;
                }
                (Presence::DontHave, Some(len)) | (Presence::Have { len }, _) => (len, false),
                (Presence::Complete { len }, _) => (len, true),
            };
            let presence =
                if complete { Presence::Complete { len } } else { Presence::Have { len } };
            // What has a price is sent to nobody who did not say yes to it.
            let at_once = inline && price == 0 && len as usize <= INLINE_BLOCK_BYTES_MAX;
            if at_once && self.serving.enqueue(conn, hash, Some(len)) {
                if complete {
                    answers.push((hash, presence));
                }
            } else {
                let presence = if at_once { Presence::Have { len } } else { presence };
                answers.push((hash, presence));
            }
        }
        if !answers.is_empty() {
            self.send(conn, Message::BlockPresence { price, blocks: answers });
        }
        self.serve();
    }

    pub(super) fn on_want_block(&mut self, conn: ConnId, blocks: &[Multihash]) {
        for hash in blocks {
            if !self.serving.enqueue(conn, *hash, None) {
                return self.close(conn, CloseReason::Protocol("too many wants".into()));
            }
        }
        self.serve();
    }

    pub(super) fn on_cancel(&mut self, conn: ConnId, blocks: &[Multihash]) {
        for hash in blocks {
            self.serving.stop_waiting(conn, hash);
            let Some(client) = self.serving.clients.get_mut(&conn) else { return };
            client.lookups.remove(hash);
            client.queue.retain(|(queued, _)| queued != hash);
            if let Some(sending) = client.sending.get_mut(hash)
                && !std::mem::replace(&mut sending.cancelled, true)
            {
                self.outputs.push_back(Output::CancelBlock { conn, hash: *hash });
            }
        }
        if !self.serving.is_busy(conn)
            && let Some(id) = self.peers.get(conn).map(|peer| peer.id)
        {
            self.write_off(id);
        }
        self.serve();
    }

    pub(super) fn on_block_queued(&mut self, conn: ConnId, hash: Multihash, len: Option<u32>) {
        let bytes = u64::from(len.unwrap_or(0));
        let Some(guess) = self.serving.weigh(conn, &hash, bytes) else { return };
        if let Some(bucket) = &mut self.up {
            bucket.correct(guess, bytes);
        }
        match len {
            Some(_) => {
                let Some(client) = self.serving.clients.get(&conn) else { return };
                // It was still being read when it was cancelled.
                if client.sending.get(&hash).is_some_and(|sending| sending.cancelled) {
                    self.outputs.push_back(Output::CancelBlock { conn, hash });
                }
            }
            None => {
                let cancelled = self.serving.finish(conn, &hash).is_some_and(|s| s.cancelled);
                if !cancelled {
                    let (price, blocks) = (self.config.price, vec![(hash, Presence::DontHave)]);
                    self.send(conn, Message::BlockPresence { price, blocks });
                }
            }
        }
        self.serve();
    }

    pub(super) fn on_block_sent(&mut self, conn: ConnId, hash: Multihash, len: u32) {
        let Some(sending) = self.serving.finish(conn, &hash) else { return };
        if len == 0 && sending.bytes > 0 {
            // Taken back before any of it was sent.
            let client = self.serving.clients.get_mut(&conn);
            let buckets = self.up.iter_mut().chain(client.and_then(|client| client.up.as_mut()));
            buckets.for_each(|bucket| bucket.correct(sending.bytes, 0));
        } else if let Some(client) = self.serving.clients.get_mut(&conn) {
            client.blocks_sent += 1;
            client.bytes_sent += u64::from(len);
            // Its end went out after the peer changed its mind back: that answers the new wish.
            client.queue.retain(|(queued, _)| *queued != hash);
            self.sell(conn, u64::from(len));
        }
        self.serve();
    }

    /// A block is here that others wanted to hear of.
    pub(super) fn announce(&mut self, hash: &Multihash, len: u32) {
        let price = self.config.price;
        for client in self.serving.clients.values_mut() {
            if let Some(lookup) = client.lookups.get_mut(hash) {
                lookup.came = Some(len);
            }
        }
        for conn in self.serving.take_waiting(hash) {
            let blocks = vec![(*hash, Presence::Have { len })];
            self.send(conn, Message::BlockPresence { price, blocks });
        }
    }

    /// Has blocks read and sent while there is room for them.
    pub(super) fn serve(&mut self) {
        let (now, bytes_max) = (self.now, self.config.serve_bytes_max);
        while let Some((conn, bytes)) =
            self.serving.next(now, bytes_max, |conn, under_way, bytes| {
                self.has_credit(conn, under_way, bytes)
            })
        {
            if let Some(bucket) = &mut self.up {
                if let Some(at) = bucket.wait(now) {
                    self.timers.set(Timer::Upload, at);
                    return;
                }
                bucket.pass(now, bytes);
            }
            let Some(hash) = self.serving.start(now, conn, bytes) else { return };
            self.outputs.push_back(Output::SendBlock { conn, hash });
        }
        if let Some(at) = self.serving.next_allowed(now) {
            self.timers.set_earlier(Timer::Upload, at);
        }
    }
}
