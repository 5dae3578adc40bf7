//! What must hold: after every step, and when everything has come to its end.

use crate::{
    network::{conn, end_of},
    world::*,
};
use barrow::Multihash;
use barrow::engine::{ConnId, Engine, Input};
use barrow_wire::{Message, Presence, limits::INLINE_BLOCK_BYTES_MAX};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes in flight and read ahead that engines are held to here: small, so that they matter.
pub const INFLIGHT_BYTES_MAX: u64 = 1 << 20;
pub const SERVE_BYTES_MAX: u64 = 512 << 10;
/// A guess at a block may be short of its truth by the longest block.
const GUESS_BYTES_MAX: u64 = 2 << 20;

/// How a block was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Block,
    /// If it is small.
    Inline,
}

/// What went over a node's wires to ask for blocks, and was neither answered nor taken back.
#[derive(Default)]
pub struct Asks {
    open: BTreeMap<Multihash, BTreeMap<ConnId, Ask>>,
    /// Blocks that two peers were asked for at one time, or one was once more.
    hedged: BTreeSet<Multihash>,
    /// The same, where one of the two asked for the block in the place of an answer.
    inline: BTreeSet<Multihash>,
    /// Blocks whose wish was taken back, perhaps too late.
    withdrawn: BTreeSet<Multihash>,
    copies: BTreeMap<Multihash, u32>,
}

impl Asks {
    fn ask(&mut self, conn: ConnId, hash: Multihash, ask: Ask) {
        let open = self.open.entry(hash).or_default();
        if open.values().any(|other| *other == Ask::Inline || ask == Ask::Inline) {
            self.inline.insert(hash);
        } else if !open.is_empty() {
            self.hedged.insert(hash);
        }
        let twice = open.insert(conn, ask) == Some(Ask::Block) && ask == Ask::Block;
        assert!(!twice, "a block was asked for twice on one connection");
    }

    fn take(&mut self, conn: ConnId, hash: &Multihash, only: Option<Ask>) -> bool {
        let Some(open) = self.open.get_mut(hash) else { return false };
        if only.is_some() && open.get(&conn).copied() != only {
            return false;
        }
        let was = open.remove(&conn).is_some();
        if open.is_empty() {
            self.open.remove(hash);
        }
        was
    }

    /// Whether a message takes back a block that was asked for.
    pub fn takes_back(&self, conn: ConnId, message: &Message) -> bool {
        let Message::Cancel { blocks } = message else { return false };
        let asked = |hash| self.open.get(hash).and_then(|conns| conns.get(&conn));
        blocks.iter().any(|hash| asked(hash) == Some(&Ask::Block))
    }

    fn sent(&mut self, conn: ConnId, message: &Message) {
        match message {
            Message::WantBlock { blocks } => {
                blocks.iter().for_each(|hash| self.ask(conn, *hash, Ask::Block));
            }
            Message::WantHave { inline: true, blocks } => {
                blocks.iter().for_each(|hash| self.ask(conn, *hash, Ask::Inline));
            }
            Message::Cancel { blocks } => {
                for hash in blocks {
                    if self.take(conn, hash, None) {
                        self.withdrawn.insert(*hash);
                    }
                }
            }
            _ => {}
        }
    }

    fn answered(&mut self, conn: ConnId, hash: &Multihash, presence: Presence) {
        match presence {
            Presence::DontHave => _ = self.take(conn, hash, None),
            Presence::Complete { len } if len as usize <= INLINE_BLOCK_BYTES_MAX => {}
            Presence::Have { len } | Presence::Complete { len } => {
                let inline = self.take(conn, hash, Some(Ask::Inline));
                if inline && len as usize <= INLINE_BLOCK_BYTES_MAX {
                    // It answers an older question, and crossed this one, which brings the block.
                    self.inline.insert(*hash);
                }
            }
        }
    }

    fn gone(&mut self, conn: ConnId) {
        self.open.retain(|hash, conns| {
            // What came whole and is still being hashed counts as lost, and is asked for anew.
            if conns.remove(&conn).is_some() {
                self.withdrawn.insert(*hash);
            }
            !conns.is_empty()
        });
    }

    /// A connection is waited on for a block that the engine does not wait for.
    fn orphan(
        &self,
        engine: &Engine,
        len: impl Fn(&Multihash) -> usize,
    ) -> Option<(ConnId, Multihash)> {
        let asks = self.open.iter().flat_map(|(hash, conns)| {
            conns.iter().filter(|(_, ask)| **ask == Ask::Block).map(|(conn, _)| (*conn, *hash))
        });
        asks.into_iter().find(|(conn, hash)| !engine.expects(*conn, hash, len(hash)))
    }
}

impl World {
    /// A message goes to a wire.
    pub(super) fn says(&mut self, node: usize, conn: ConnId, message: &Message) {
        let here = &mut self.nodes[node];
        if let Message::WantBlock { blocks } | Message::WantHave { blocks, .. } = message {
            let asks = &here.asks;
            let vain = blocks.iter().find(|hash| {
                here.store.contains_key(hash)
                    && !asks.open.contains_key(hash)
                    && !asks.withdrawn.contains(hash)
                    && !asks.inline.contains(hash)
            });
            assert!(vain.is_none(), "node {node} asks for {vain:?}, which it has");
        }
        here.asks.sent(conn, message);
    }

    /// An engine hears something.
    pub(super) fn hears(&mut self, node: usize, input: &Input) {
        let market = self.is_market();
        let asks = &mut self.nodes[node].asks;
        match input {
            Input::Received { conn, message: Message::BlockPresence { blocks, .. } } => {
                blocks.iter().for_each(|(hash, presence)| asks.answered(*conn, hash, *presence));
            }
            Input::BlockVerified { conn, hash, .. }
            | Input::BlockRejected { conn, hash, wanted: true, .. } => {
                asks.take(*conn, hash, None);
            }
            // It was longer, and so dearer, than was agreed on.
            Input::BlockRejected { conn, hash, wanted: false, .. } if market => {
                asks.take(*conn, hash, None);
            }
            Input::Disconnected { conn, .. } => asks.gone(*conn),
            _ => {}
        }
    }

    /// An engine is through with a connection.
    pub(super) fn closes(&mut self, node: usize, conn: ConnId) {
        self.nodes[node].asks.gone(conn);
    }

    /// A whole block came over a wire, wanted or not.
    pub(super) fn block_came(&mut self, node: usize, from: usize, hash: &Multihash) {
        if self.nodes[from].nature != Nature::Honest || self.nodes[node].nature != Nature::Honest {
            return;
        }
        let asks = &mut self.nodes[node].asks;
        let copies = asks.copies.entry(*hash).or_default();
        *copies += 1;
        if *copies < 2 {
            return;
        }
        let (hedged, withdrawn) = (asks.hedged.contains(hash), asks.withdrawn.contains(hash));
        let inline = asks.inline.contains(hash);
        let excused = hedged || withdrawn || inline;
        assert!(excused, "node {node} got {hash:?} twice of honest peers, unhedged");
        self.trace(format_args!("{node} ! a second {hash:?}, hedged: {hedged}, inline: {inline}"));
        if hedged {
            self.summary.hedged += 1;
        } else if inline {
            self.summary.inline += 1;
        } else {
            self.summary.crossed += 1;
        }
    }

    /// A whole block came that its engine did not expect. If its want was given up before the wish
    /// was taken back it went nowhere: whoever wants it again has to fetch it.
    pub(super) fn block_skipped(&mut self, node: usize, from: usize, hash: &Multihash) {
        let here = &self.nodes[node];
        let waits = here.waiting.get(hash).is_some_and(|jobs| !jobs.is_empty());
        if waits || here.store.contains_key(hash) {
            self.block_came(node, from, hash);
        }
    }

    /// What holds after every step.
    pub(super) fn check(&mut self) {
        for n in std::mem::take(&mut self.touched) {
            self.check_debts(n);
            let node = &self.nodes[n];
            let Some(engine) = &node.engine else { continue };
            let inflight = engine.inflight_bytes();
            let peers = engine.peers();
            let outstanding: u64 = peers.iter().map(|peer| peer.outstanding_bytes).sum();
            assert_eq!(inflight, outstanding, "node {n} lost count of what is in flight");
            let most = INFLIGHT_BYTES_MAX + GUESS_BYTES_MAX;
            assert!(inflight <= most, "node {n}: {inflight} in flight");
            let sending = engine.sending_bytes();
            let most = SERVE_BYTES_MAX.max(GUESS_BYTES_MAX);
            assert!(sending <= most, "node {n}: {sending} read ahead");
            assert!(!peers.is_empty() || sending == 0, "node {n} leaks {sending} bytes of nobody");
            // A longer block than was agreed on is not expected where it costs something.
            let len = |hash: &Multihash| match self.is_market() {
                true => self.contents.get(hash).map_or(0, |data| data.len()),
                false => usize::MAX,
            };
            let orphan = node.asks.orphan(engine, len);
            assert!(orphan.is_none(), "node {n} let go of {orphan:?} and did not take it back");
            assert!(engine.connections() <= self.ends_of(n), "node {n} keeps a lost connection");
        }
    }

    fn ends_of(&self, node: usize) -> usize {
        let ends = self.links.iter().flatten().flat_map(|link| &link.ends);
        ends.filter(|end| end.node == node && end.open && end.established).count()
    }

    /// What holds when everything has come to its end.
    pub(super) fn at_rest(&mut self) {
        self.settle_debts();
        for (n, node) in self.nodes.iter().enumerate() {
            if node.nature != Nature::Honest {
                continue;
            }
            for dataset in self.datasets.iter().filter(|_| self.setting != Setting::Crowd) {
                for hash in &dataset.blocks {
                    assert!(node.store.contains_key(hash), "a block was not fetched");
                }
            }
            assert!(node.waiting.is_empty(), "node {n}: a want without an end");
            let engine = node.engine.as_ref().expect("it runs");
            assert_eq!(engine.inflight_bytes(), 0, "bytes in flight for nobody");
            assert!(engine.jobs().iter().all(|job| job.blocks_open == 0), "a want without an end");
            let queued = self.queued_for_honest(n);
            assert!(queued || engine.sending_bytes() == 0, "node {n} leaks read-ahead bytes");
        }
    }

    /// Whether a node still has blocks to read or send for others.
    fn queued_for_honest(&self, node: usize) -> bool {
        self.links.iter().enumerate().any(|(at, link)| {
            link.as_ref().is_some_and(|link| {
                (0..2).any(|side| {
                    let end = &link.ends[side];
                    debug_assert_eq!(end_of(conn(at, side)), (at, side));
                    end.node == node && (!end.queued.is_empty() || end.reading > 0)
                })
            })
        })
    }
}
