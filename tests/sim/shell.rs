//! What the reactor, the store and the network store do for a real engine.

use crate::{
    network::{Link, Queued, between, end_of, keys, node_at},
    plants::Plant,
    rules::SERVE_BYTES_MAX,
    world::*,
};
use barrow::engine::{CloseReason, ConnId, Engine, Input, Moment, Output};
use barrow::{Block, Multihash, PeerId};
use barrow_wire::Presence;
use bytes::Bytes;
use std::{net::SocketAddr, time::Duration};

impl World {
    // --- The shell ---

    pub(super) fn act(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].engine.as_mut().and_then(Engine::poll_output) {
            self.trace(format_args!("{node} > {output:?}"));
            match output {
                Output::Connect { address, peer } => self.connect(node, address, peer),
                Output::Close { conn, reason } => {
                    let (link, side) = end_of(conn);
                    let calm = self.setting == Setting::Crowd;
                    assert!(!calm || reason != CloseReason::Stalled, "{node} gives {conn:?} up");
                    self.closes(node, conn);
                    self.end_gone(link, side, reason);
                }
                Output::Send { conn, message } => {
                    let asks = &self.nodes[node].asks;
                    if asks.takes_back(conn, &message) && self.plants(Plant::LostCancel) {
                        continue;
                    }
                    self.says(node, conn, &message);
                    let (link, side) = end_of(conn);
                    if let Some(wire) = &mut self.links[link] {
                        wire.ends[side].session.send(&message);
                        self.wake(link, side);
                    }
                }
                Output::LookUp { conn, blocks } => self.look_up(node, conn, blocks),
                Output::SendBlock { conn, hash } => {
                    let life = self.nodes[node].life;
                    let wait = between(&mut self.rng, Duration::ZERO, 3 * MS);
                    self.reading(conn, 1);
                    self.after(wait, Event::Read { node, life, conn, hash });
                }
                Output::CancelBlock { conn, hash } => self.cancel_block(node, conn, hash),
                Output::Discover { job, .. } => {
                    let life = self.nodes[node].life;
                    let wait = between(&mut self.rng, Duration::ZERO, 500 * MS);
                    let input = Input::DiscoveryDone { job };
                    self.after(wait, Event::Told { node, life, input });
                }
                Output::Failed { job, hash, .. } => self.want_failed(node, job, hash),
                Output::Ban { peer, until, reason } => self.banned(node, peer, until, &reason),
                Output::Score { peer, offences } => self.scored(node, peer, offences),
                Output::SlotTold { .. } => {}
                Output::Keep { peer, account } => self.keep(node, peer, *account),
                Output::Pay { conn, .. } => {
                    let message = self.pay(node, &output);
                    let (link, side) = end_of(conn);
                    if let Some(wire) = &mut self.links[link] {
                        wire.ends[side].session.send(&message);
                        self.wake(link, side);
                    }
                }
            }
        }
        self.arm(node);
    }

    fn scored(&mut self, node: usize, peer: PeerId, offences: u32) {
        if self.nodes[node].nature != Nature::Honest {
            return;
        }
        let who = keys().iter().position(|(id, _)| *id == peer).expect("somebody known");
        let planted = self.plant == Some(Plant::WrongVerdict);
        let honest = self.nodes[who].nature == Nature::Honest;
        assert!(!honest || planted, "{node} charges {who}, who is honest, with an offence");
        assert!(offences <= 3, "{offences} offences of {who}, and no ban");
        let first = self.nodes[node].offences.insert(peer, offences).is_none();
        self.summary.offenders += u64::from(first);
        self.summary.offences_most = self.summary.offences_most.max(offences.into());
    }

    pub(super) fn banned(&mut self, node: usize, peer: PeerId, until: Moment, reason: &str) {
        let who = keys().iter().position(|(id, _)| *id == peer).expect("somebody known");
        let honest = self.nodes[who].nature == Nature::Honest;
        // What faulty nodes think of others is their affair.
        assert!(
            !honest || self.nodes[node].nature != Nature::Honest,
            "{node} bans {who}, who is honest: {reason}"
        );
        self.nodes[node].bans.push((peer, until));
        self.nodes[node].wrong.remove(&peer);
        self.summary.bans += 1;
    }

    pub(super) fn arm(&mut self, node: usize) {
        let Some(at) = self.nodes[node].engine.as_ref().and_then(Engine::next_timeout) else {
            return;
        };
        if self.nodes[node].timer.is_none_or(|set| at < set || set < self.now) {
            self.nodes[node].timer = Some(at);
            let wait = at.since(self.now);
            self.after(wait, Event::Timer { node });
        }
    }

    pub(super) fn connect(&mut self, node: usize, address: SocketAddr, expected: Option<PeerId>) {
        let to = node_at(address);
        let delay = between(&mut self.rng, MS / 10, 60 * MS);
        let reachable = self.nodes.get(to).is_some_and(|other| other.engine.is_some())
            && !self.cut.contains(&(node.min(to), node.max(to)));
        if !reachable || to == node {
            let life = self.nodes[node].life;
            let input = Input::DialFailed { address, reason: "unreachable".into() };
            return self.after(delay * 2, Event::Told { node, life, input });
        }
        self.links.push(Some(Link::new(node, to, expected, delay)));
        self.parties.push([node, to]);
        self.wake(self.links.len() - 1, 0);
    }

    pub(super) fn look_up(&mut self, node: usize, conn: ConnId, blocks: Vec<Multihash>) {
        let here = &self.nodes[node];
        let found = blocks.into_iter().map(|hash| {
            let presence = match (here.nature, here.store.get(&hash)) {
                (Nature::Garbage | Nature::Liar | Nature::Silent, _) => {
                    let len = self.contents.get(&hash).map_or(100, |data| data.len() as u32);
                    Presence::Complete { len }
                }
                (Nature::Honest | Nature::Flooder, None) => Presence::DontHave,
                (Nature::Honest | Nature::Flooder, Some(data)) => {
                    let len = data.len() as u32;
                    let complete = here.complete.contains(&hash);
                    if complete { Presence::Complete { len } } else { Presence::Have { len } }
                }
            };
            (hash, presence)
        });
        let input = Input::LookedUp { conn, found: found.collect() };
        let life = here.life;
        let wait = between(&mut self.rng, Duration::ZERO, 3 * MS);
        self.after(wait, Event::Told { node, life, input });
    }

    fn reading(&mut self, conn: ConnId, change: isize) {
        let (link, side) = end_of(conn);
        if let Some(wire) = &mut self.links[link] {
            let reading = &mut wire.ends[side].reading;
            *reading = reading.checked_add_signed(change).expect("what is read was asked for");
        }
    }

    /// A block was read, as far as this node is honest about it.
    pub(super) fn read(&mut self, node: usize, conn: ConnId, hash: Multihash) {
        self.reading(conn, -1);
        let data = match self.nodes[node].nature {
            Nature::Honest => self.nodes[node].store.get(&hash).cloned(),
            Nature::Garbage => Some(Bytes::from(vec![0xEE; 1_000])),
            Nature::Liar => None,
            Nature::Silent => return,
            Nature::Flooder => {
                let junk = Bytes::from(vec![self.below(256) as u8; 2_000]);
                self.queue_block(conn, *Block::of(junk.clone()).unwrap().hash(), junk);
                self.nodes[node].store.get(&hash).cloned()
            }
        };
        let len = data.as_ref().map(|data| data.len() as u32);
        if let Some(data) = data {
            self.queue_block(conn, hash, data);
        }
        self.inputs.push_back((node, Input::BlockQueued { conn, hash, len }));
    }

    pub(super) fn queue_block(&mut self, conn: ConnId, hash: Multihash, data: Bytes) {
        let (link, side) = end_of(conn);
        let Some(wire) = &mut self.links[link] else { return };
        let end = &mut wire.ends[side];
        let (len, after_cancel) = (data.len() as u32, end.cancelled.contains(&hash));
        end.session.send_block(hash, data);
        end.queued.push_back(Queued { hash, len, after_cancel });
        let queued = end.session.queued_bytes() as u64;
        assert!(
            self.nodes[end.node].nature != Nature::Honest
                || queued <= SERVE_BYTES_MAX + (300 << 10),
            "{queued} bytes wait to be sent to one peer"
        );
        // After the engine had its say, which may take it back.
        self.inputs.push_back((wire.ends[side].node, Input::Progress { conn, bytes: 0 }));
        self.wake(link, side);
    }

    pub(super) fn cancel_block(&mut self, node: usize, conn: ConnId, hash: Multihash) {
        let (link, side) = end_of(conn);
        let Some(wire) = &mut self.links[link] else { return };
        let end = &mut wire.ends[side];
        if end.session.cancel_block(hash) {
            let at = end.queued.iter().rposition(|queued| queued.hash == hash);
            end.queued.remove(at.expect("the session had it"));
            self.inputs.push_back((node, Input::BlockSent { conn, hash, len: 0 }));
        }
    }
}
