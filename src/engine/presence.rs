//! What peers say of the blocks that they were asked about: who has which, and who has not.

use super::{
    CloseReason, ConnId, Engine, JobId,
    peers::Peer,
    wants::{Knows, OWNERS_MAX},
};
use barrow_wire::{
    Multihash, Presence,
    limits::{BLOCK_BYTES_MAX, INLINE_BLOCK_BYTES_MAX},
};

impl Engine {
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
            if price > self.config.price_max {
                self.on_dear(conn, hash);
                denied.push(*hash);
                continue;
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

    pub(super) fn pump_dials_if_lacking(&mut self) {
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
        let may_own = want.owners().len() < OWNERS_MAX;
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

    /// A peer has a block for more than may be paid. Others are looked for as if it had it not, or
    /// whoever asks too much would keep us from all that others give.
    fn on_dear(&mut self, conn: ConnId, hash: &Multihash) {
        let before = self.wants.get(hash).and_then(|want| want.knows(conn));
        if before.is_some() && before != Some(Knows::Bad) {
            self.wants.too_dear(hash, conn);
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
            want.jobs.contains(&id)
                && matches!(want.knows(conn), None | Some(Knows::Not | Knows::Dear))
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
}
