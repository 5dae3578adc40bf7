//! Bytes go from session to session, and what they mean goes to the engines.

use crate::{
    network::{Queued, address_of, between, conn, keys},
    plants::Plant,
    world::*,
};
use barrow::engine::{CloseReason, Input};
use barrow_wire::{Event as Came, Message, limits::BLOCK_BUFFER_SLACK_BYTES};
use std::{net::SocketAddr, time::Duration};

/// Bytes given to a socket at one time.
const PIECE_BYTES: usize = 16 << 10;

impl World {
    // --- The wire ---

    pub(super) fn pump(&mut self, link: usize, side: usize) {
        let Some(wire) = &mut self.links[link] else { return };
        let end = &mut wire.ends[side];
        end.pumping = false;
        if !end.open || !end.session.wants_transmit() {
            return;
        }
        let node = &mut self.nodes[end.node];
        let free_at = node.upload_free_at.max(self.now);
        // A socket's buffer holds a few milliseconds; until it is emptier, wait.
        if free_at.since(self.now) > 5 * MS {
            end.pumping = true;
            let wait = free_at.since(self.now);
            return self.after(wait, Event::Pump { link, side });
        }
        let mut bytes = Vec::new();
        end.session.transmit(&mut bytes, PIECE_BYTES).expect("no session wears out here");
        let mut sent = Vec::new();
        while end.queued.len() > end.session.queued_blocks() {
            sent.extend(end.queued.pop_front());
        }
        let (to, delay, number) = (end.node, wire.delay, conn(link, side));
        let time =
            Duration::from_nanos(bytes.len() as u64 * 1_000_000_000 / node.upload_bytes_per_second);
        node.upload_free_at = free_at.after(time);
        let wait = free_at.after(time).after(delay).since(self.now);
        for Queued { hash, len, after_cancel } in sent {
            assert!(!after_cancel, "a block was sent whose cancel had come before");
            if self.plants(Plant::LostSent) {
                continue;
            }
            self.inputs.push_back((to, Input::BlockSent { conn: number, hash, len }));
        }
        // Chopped anywhere, in order.
        let cut = self.below(bytes.len() + 1);
        let rest = bytes.split_off(cut);
        for bytes in [bytes, rest] {
            if !bytes.is_empty() {
                self.after(wait, Event::Arrive { link, side: 1 - side, bytes });
            }
        }
        self.wake(link, side);
    }

    pub(super) fn wake(&mut self, link: usize, side: usize) {
        let Some(wire) = &mut self.links[link] else { return };
        let end = &mut wire.ends[side];
        if end.open && !end.pumping && end.session.wants_transmit() {
            end.pumping = true;
            self.after(Duration::ZERO, Event::Pump { link, side });
        }
    }

    pub(super) fn arrive(&mut self, link: usize, side: usize, bytes: &[u8]) {
        let Some(wire) = &mut self.links[link] else { return };
        if !wire.ends[side].open {
            return;
        }
        wire.ends[side].input.extend_from_slice(bytes);
        let node = wire.ends[side].node;
        let count = bytes.len() as u32;
        if wire.ends[side].established {
            self.inputs.push_back((node, Input::Progress { conn: conn(link, side), bytes: count }));
        }
        loop {
            let Some(wire) = &mut self.links[link] else { return };
            let end = &mut wire.ends[side];
            if !end.open {
                return;
            }
            let mut rest = &end.input[..];
            let came = end.session.receive(&mut rest);
            let used = end.input.len() - rest.len();
            end.input.drain(..used);
            match came {
                Ok(Some(came)) => self.came(link, side, came),
                Ok(None) => break,
                Err(error) => {
                    let reason = CloseReason::Protocol(error.to_string());
                    self.end_gone(link, side, reason);
                    break;
                }
            }
            // As the reactor does, the engine hears of what came before the next decision.
            self.settle();
        }
        self.wake(link, side);
    }

    pub(super) fn came(&mut self, link: usize, side: usize, came: Came<Vec<u8>>) {
        let Some(wire) = &mut self.links[link] else { return };
        let other = wire.ends[1 - side].node;
        let end = &mut wire.ends[side];
        let (node, number) = (end.node, conn(link, side));
        match came {
            Came::Established { peer } => {
                assert_eq!(peer, keys()[other].0);
                end.established = true;
                let dialed = (side == 0).then(|| address_of(other));
                let remote = SocketAddr::new(address_of(other).ip(), 50_000);
                let remote = dialed.unwrap_or(remote);
                let input = Input::Connected { conn: number, peer, remote, dialed };
                self.inputs.push_back((node, input));
            }
            Came::Message(message) => {
                match &message {
                    Message::Cancel { blocks } => end.cancelled.extend(blocks),
                    Message::WantBlock { blocks } | Message::WantHave { blocks, .. } => {
                        blocks.iter().for_each(|hash| _ = end.cancelled.remove(hash));
                    }
                    _ => {}
                }
                self.inputs.push_back((node, Input::Received { conn: number, message }));
            }
            Came::BlockComing { hash, len } => {
                let engine = self.nodes[node].engine.as_ref();
                if engine.is_some_and(|engine| engine.expects(number, &hash, len)) {
                    end.session.accept_block(vec![0; len + BLOCK_BUFFER_SLACK_BYTES]);
                } else {
                    end.session.skip_block();
                }
            }
            Came::BlockSkipped { hash, len } => {
                self.summary.unasked += 1;
                self.block_skipped(node, other, &hash);
                let len = len as u32;
                let input = Input::BlockRejected { conn: number, hash, len, wanted: false };
                self.inputs.push_back((node, input));
            }
            Came::Block { hash, len, mut data } => {
                data.truncate(len);
                self.block_came(node, other, &hash);
                let life = self.nodes[node].life;
                let wait = between(&mut self.rng, Duration::ZERO, 2 * MS);
                let event = Event::Verified { node, life, conn: number, hash, bytes: data };
                self.after(wait, event);
            }
        }
    }

    /// A connection ends at one end.
    pub(super) fn end_gone(&mut self, link: usize, side: usize, reason: CloseReason) {
        let Some(wire) = &mut self.links[link] else { return };
        let end = &mut wire.ends[side];
        if !std::mem::replace(&mut end.open, false) {
            return;
        }
        let (node, established, delay) = (end.node, end.established, wire.delay);
        let other_open = wire.ends[1 - side].open;
        if established {
            self.closes(node, conn(link, side));
            if self.plants(Plant::LostDisconnect) {
                self.touched.insert(node);
            } else {
                self.inputs
                    .push_back((node, Input::Disconnected { conn: conn(link, side), reason }));
            }
        } else if side == 0 {
            let address = address_of(wire.ends[1].node);
            self.inputs.push_back((node, Input::DialFailed { address, reason: "cut".into() }));
        }
        if other_open {
            self.after(delay, Event::Gone { link, side: 1 - side });
        } else {
            self.links[link] = None;
        }
    }
}
