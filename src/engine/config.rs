//! What an engine is told once.

use super::{Account, Moment};
use barrow_wire::PeerId;
use std::time::Duration;

/// How an engine runs.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Who we are.
    pub peer_id: PeerId,
    /// Chooses among equals, and the jitter of back-off.
    pub seed: u64,
    /// The port that peers are told to reach us at; 0 for none.
    pub listen_port: u16,
    /// What we call ourselves: at most 64 bytes of printable ASCII.
    pub agent: String,
    /// Bytes asked for and not yet verified, of all peers together.
    pub inflight_bytes_max: u64,
    /// Bytes read for peers and not yet sent, of all peers together.
    pub serve_bytes_max: u64,
    /// Connections at most.
    pub connections_max: usize,
    /// How long a block may stay without any provider.
    pub provider_timeout: Duration,
    /// How long a block may stay without progress from its providers.
    pub fetch_timeout: Duration,
    /// How long a connection may stay silent.
    pub idle_timeout: Duration,
    /// How long a ban holds.
    pub ban_time: Duration,
    /// Bytes of blocks a second to all peers together.
    pub limit_up: Option<u64>,
    /// Bytes of blocks a second from all peers together.
    pub limit_down: Option<u64>,
    /// Bytes of blocks a second to one peer.
    pub limit_up_peer: Option<u64>,
    /// Bytes of blocks a second from one peer.
    pub limit_down_peer: Option<u64>,
    /// What a MiB costs here.
    pub price: u64,
    /// What a MiB may cost elsewhere.
    pub price_max: u64,
    /// What one download may spend in all.
    pub budget: u64,
    /// What a peer may owe before it must pay.
    pub credit: u64,
    /// Who is banned already, and until when.
    pub bans: Vec<(PeerId, Moment)>,
    /// Who offended already, and how often.
    pub offences: Vec<(PeerId, u32)>,
    /// What peers and we owe each other already.
    pub accounts: Vec<(PeerId, Account)>,
}

impl EngineConfig {
    /// The defaults of a node with 64 MiB.
    pub fn new(peer_id: PeerId, seed: u64) -> Self {
        Self {
            peer_id,
            seed,
            listen_port: 0,
            agent: concat!("barrow/", env!("CARGO_PKG_VERSION")).into(),
            inflight_bytes_max: 24 << 20,
            serve_bytes_max: 8 << 20,
            connections_max: 128,
            provider_timeout: Duration::from_secs(3),
            fetch_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(120),
            ban_time: Duration::from_secs(3_600),
            limit_up: None,
            limit_down: None,
            limit_up_peer: None,
            limit_down_peer: None,
            price: 0,
            price_max: 0,
            budget: 0,
            credit: 64,
            bans: Vec::new(),
            offences: Vec::new(),
            accounts: Vec::new(),
        }
    }
}
