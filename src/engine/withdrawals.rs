//! What is no longer asked for: wants that end, and requests that are taken off their peers.

use super::{
    ConnId, Engine, JobId, lean,
    peers::Request,
    wants::{Knows, Want},
};
use barrow_wire::{Message, Multihash, limits::WANTS_MAX};

/// Wishes that are taken back at the latest when there are so many.
const CANCELS_MAX: usize = 16;

impl Engine {
    /// A job no longer wants a block: nobody does, if no other job did.
    pub(super) fn leave_want(&mut self, hash: &Multihash, id: JobId) {
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

    /// A want ended: tells those who were asked, except the one who delivered.
    pub(super) fn withdraw(&mut self, hash: &Multihash, want: &Want, delivered: Option<ConnId>) {
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
            match holder.knows() {
                Knows::Asked { inline } => {
                    peer.may_cross(u32::from(inline));
                    peer.asked = peer.asked.saturating_sub(1);
                    lean::push(&mut peer.cancels, *hash);
                    // What may come unasked from there is taken back at once, as a request is.
                    peer.hurries_cancels |= inline;
                }
                // It would tell us once it has the block.
                Knows::Not => lean::push(&mut peer.cancels, *hash),
                Knows::Has { .. } | Knows::Dear | Knows::Bad => {}
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
            if std::mem::take(&mut peer.hurries_cancels) || peer.cancels.len() >= least {
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

    pub(super) fn take_request(&mut self, conn: ConnId, hash: &Multihash) -> Option<Request> {
        self.peers.get_mut(conn)?.take_request(hash)
    }

    /// A request is over: its bytes are no longer in flight, and its price is paid or free again.
    pub(super) fn settle_request(&mut self, request: &Request, delivered: bool) {
        self.inflight_bytes -= request.bytes;
        if let Some((purse, cost)) = request.cost().filter(|_| !delivered) {
            self.purses.put_back(purse, cost);
        }
    }
}
