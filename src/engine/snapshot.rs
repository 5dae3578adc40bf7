//! What the engine shows of itself, for the API and the metrics.

use super::{Engine, JobId, Moment, Order};
use barrow_wire::{Cid, PeerId};
use std::{net::SocketAddr, time::Duration};

/// A peer that is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSnapshot {
    /// Who it is.
    pub peer: PeerId,
    /// Where it is.
    pub remote: SocketAddr,
    /// Whether we dialed it.
    pub dialed: bool,
    /// Where it says that it listens.
    pub listens: Option<SocketAddr>,
    /// What it calls itself.
    pub agent: Option<String>,
    /// Since when it is connected.
    pub connected_at: Moment,
    /// The round trip, if it was measured.
    pub rtt: Option<Duration>,
    /// Bytes a second that it delivers, if it did.
    pub rate: Option<u64>,
    /// What a MiB costs there, once it said so.
    pub price: Option<u64>,
    /// Blocks received from it, right ones.
    pub blocks_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Blocks sent to it on this connection.
    pub blocks_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Blocks asked of it now.
    pub requests: usize,
    /// Bytes of those.
    pub outstanding_bytes: u64,
    /// Blocks that it waits for now.
    pub serving: usize,
    /// Offences so far.
    pub offences: u32,
}

/// A retrieval under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSnapshot {
    /// Its id.
    pub job: JobId,
    /// What it fetches.
    pub root: Cid,
    /// In which order.
    pub order: Order,
    /// For how long.
    pub elapsed: Duration,
    /// Blocks wanted so far.
    pub blocks_wanted: u64,
    /// Of those, blocks that came.
    pub blocks_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Bytes a second, of late.
    pub rate: u64,
    /// Blocks still wanted.
    pub blocks_open: usize,
    /// Peers that have all of it.
    pub complete_peers: usize,
    /// Connected peers that delivered some of it.
    pub sources: Vec<PeerId>,
    /// What its download cost so far, in units of price, rounded up.
    pub spent: u64,
}

impl Engine {
    /// All connected peers.
    pub fn peers(&self) -> Vec<PeerSnapshot> {
        let all = self.peers.iter().map(|(conn, peer)| {
            let (blocks_sent, bytes_sent, serving) = self.serving.totals(conn);
            PeerSnapshot {
                peer: peer.id,
                remote: peer.remote,
                dialed: peer.dialed.is_some(),
                listens: peer.listens,
                agent: peer.agent.clone(),
                connected_at: peer.connected_at,
                rtt: peer.pace.rtt_measured(),
                rate: peer.pace.rate(),
                price: peer.price,
                blocks_received: peer.blocks_received,
                bytes_received: peer.bytes_received,
                blocks_sent,
                bytes_sent,
                requests: peer.requests.len(),
                outstanding_bytes: peer.outstanding_bytes,
                serving,
                offences: self.peers.offences(&peer.id),
            }
        });
        all.collect()
    }

    /// All retrievals.
    pub fn jobs(&self) -> Vec<JobSnapshot> {
        let all = self.jobs.iter().map(|(id, job)| JobSnapshot {
            job: id,
            root: job.root,
            order: job.order,
            elapsed: self.now.since(job.started_at),
            blocks_wanted: job.blocks_wanted,
            blocks_received: job.blocks_received,
            bytes_received: job.bytes_received,
            rate: job.rate(self.now),
            blocks_open: job.open.len(),
            complete_peers: job.complete.len(),
            sources: job
                .sources
                .iter()
                .filter_map(|conn| self.peers.get(*conn).map(|peer| peer.id))
                .collect(),
            spent: self
                .purses
                .taken(job.purse)
                .map_or(0, |taken| u64::try_from(taken.div_ceil(1 << 20)).unwrap_or(u64::MAX)),
        });
        all.collect()
    }

    /// Who is banned, and until when.
    pub fn bans(&self) -> Vec<(PeerId, Moment)> {
        self.peers.bans(self.now)
    }

    /// Connections now.
    pub fn connections(&self) -> usize {
        self.peers.len()
    }

    /// Whether a peer is connected.
    pub fn is_connected(&self, peer: &PeerId) -> bool {
        self.peers.conn_of(peer).is_some()
    }

    /// Addresses in the book.
    pub fn addresses(&self) -> usize {
        self.dials.len()
    }

    /// Bytes asked for and not yet verified.
    pub const fn inflight_bytes(&self) -> u64 {
        self.inflight_bytes
    }

    /// Bytes read for peers, or about to be, and not yet sent.
    pub const fn sending_bytes(&self) -> u64 {
        self.serving.sending_bytes()
    }
}
