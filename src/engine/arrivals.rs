//! Blocks that come: bytes on their way, and then the block, right or wrong.

use super::{
    ConnId, Engine,
    peers::PROGRESS_BYTES_MIN,
    wants::{Knows, Want},
};
use barrow_wire::Multihash;

impl Engine {
    /// Bytes came. Returns whether anything can be asked for that could not before.
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
            Some(request) if request.cost().is_some() && request.bytes < len.into() => {
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
}
