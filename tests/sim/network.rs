//! Links between nodes: two sessions, and bytes that take their time from one to the other.

use barrow::engine::{ConnId, Rng};
use barrow::{Identity, Multihash, PeerId};
use barrow_wire::{Session, SessionConfig, StaticKey, Suites};
use std::{collections::VecDeque, net::SocketAddr, sync::OnceLock, time::Duration};

/// Nodes of a world at most.
pub const NODES_MAX: usize = 12;

/// Keys are made once: they cost more than a small world.
pub fn keys() -> &'static [(PeerId, StaticKey)] {
    static KEYS: OnceLock<Vec<(PeerId, StaticKey)>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let identities = (0..NODES_MAX).map(identity);
        identities.map(|identity| (identity.peer_id(), StaticKey::generate(&identity))).collect()
    })
}

pub fn identity(node: usize) -> Identity {
    Identity::from_seed([node as u8 + 1; 32])
}

/// A block handed to the session.
pub struct Queued {
    pub hash: Multihash,
    pub len: u32,
    /// Its cancel had come before.
    pub after_cancel: bool,
}

/// One end of a connection.
pub struct End {
    pub node: usize,
    pub session: Session<Vec<u8>>,
    pub input: Vec<u8>,
    pub queued: VecDeque<Queued>,
    /// Blocks that are being read for it.
    pub reading: usize,
    /// What the other end took back and did not ask for again.
    pub cancelled: std::collections::BTreeSet<Multihash>,
    pub established: bool,
    pub open: bool,
    pub pumping: bool,
}

/// A connection.
pub struct Link {
    pub ends: [End; 2],
    pub delay: Duration,
}

impl Link {
    /// A connection that `from` dialed to `to`.
    pub fn new(from: usize, to: usize, expected: Option<PeerId>, delay: Duration) -> Self {
        let config = |node: usize, expected| SessionConfig {
            static_key: &keys()[node].1,
            swarm_key: None,
            expected,
            suites: Suites::default(),
        };
        let end = |node, session| End {
            node,
            session,
            input: Vec::new(),
            queued: VecDeque::new(),
            reading: 0,
            cancelled: Default::default(),
            established: false,
            open: true,
            pumping: false,
        };
        let dialing = end(from, Session::initiator(&config(from, expected)));
        let dialed = end(to, Session::responder(&config(to, None)));
        Self { ends: [dialing, dialed], delay }
    }
}

/// The connection's name at one of its ends.
pub fn conn(link: usize, side: usize) -> ConnId {
    ConnId((link * 2 + side) as u32)
}

/// The link and the end of a connection's name.
pub fn end_of(conn: ConnId) -> (usize, usize) {
    (conn.0 as usize / 2, conn.0 as usize % 2)
}

/// A duration between two bounds.
pub fn between(rng: &mut Rng, low: Duration, high: Duration) -> Duration {
    low + Duration::from_nanos(rng.below((high - low).as_nanos() as u64 + 1))
}

pub fn address_of(node: usize) -> SocketAddr {
    ([10, 0, 0, node as u8 + 1], 4780).into()
}

pub fn node_at(address: SocketAddr) -> usize {
    match address.ip() {
        std::net::IpAddr::V4(ip) => usize::from(ip.octets()[3]) - 1,
        std::net::IpAddr::V6(_) => panic!("addresses here are of IPv4"),
    }
}
