//! Everything that a node can be told, as plain data.

use barrow_wire::PeerId;
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// A peer given by a person: `[ID@]HOST:PORT`, resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerTarget {
    /// Who must answer there, if it matters.
    pub id: Option<PeerId>,
    /// Where.
    pub address: SocketAddr,
}

impl PeerTarget {
    /// Reads `[ID@]HOST:PORT`, and looks the name up.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        use std::net::ToSocketAddrs as _;
        let (id, host) = match text.rsplit_once('@') {
            Some((id, host)) => {
                (Some(id.parse().map_err(|error| format!("{id:?}: {error}"))?), host)
            }
            None => (None, text),
        };
        let mut addresses = host.to_socket_addrs().map_err(|error| format!("{host:?}: {error}"))?;
        let address = addresses.next().ok_or_else(|| format!("{host:?} has no address"))?;
        Ok(Self { id, address })
    }
}

/// Bounds that follow from how much memory the node may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of blocks received, read or hashed at one time (the global pool).
    pub pool_bytes_max: usize,
    /// Bytes of blocks read for peers and not yet sent, out of the pool.
    pub serve_bytes_max: usize,
    /// Bytes that one stream asks for ahead of its reader.
    pub window_bytes_max: usize,
    /// Connections to peers.
    pub connections_max: usize,
    /// Connections to the HTTP gate.
    pub http_connections_max: usize,
    /// Bytes of small answers that the HTTP gate keeps, to give them again by itself.
    pub http_kept_bytes_max: usize,
    /// Requests that tiny_http works on at one time.
    pub http_handlers: usize,
    /// SQLite page cache of each connection, in KiB.
    pub index_cache_kib: usize,
}

impl Limits {
    /// For a node of 64 MiB.
    pub const DEFAULT: Self = Self {
        pool_bytes_max: 30 << 20,
        serve_bytes_max: 8 << 20,
        window_bytes_max: 8 << 20,
        connections_max: 128,
        http_connections_max: 4_096,
        http_kept_bytes_max: 2 << 20,
        http_handlers: 16,
        index_cache_kib: 2_048,
    };
    /// For a node of 24 MiB (`--small`).
    pub const SMALL: Self = Self {
        pool_bytes_max: 8 << 20,
        serve_bytes_max: 2 << 20,
        window_bytes_max: 2 << 20,
        connections_max: 32,
        http_connections_max: 256,
        http_kept_bytes_max: 256 << 10,
        http_handlers: 8,
        index_cache_kib: 256,
    };
}

/// How a node runs. [`Config::new`] has the defaults of the command line.
///
/// ```
/// use barrow::base::config::{Config, Limits, PeerTarget};
/// let mut config = Config::new("/srv/barrow");
/// config.http = None;
/// config.limits = Limits::SMALL;
/// config.quota_bytes = Some(20 << 30);
/// config.peers.push(PeerTarget::parse("192.0.2.7:4780")?);
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// Where identity, packs and index are.
    pub data_dir: PathBuf,
    /// Where peers reach us; port 0 takes a free one. Empty: nowhere.
    pub listen: Vec<SocketAddr>,
    /// Where HTTP is answered; `None` for a node inside another program.
    pub http: Option<SocketAddr>,
    /// Peers to stay connected with.
    pub peers: Vec<PeerTarget>,
    /// Delegated routers to ask for providers, as `http://HOST:PORT`.
    pub routers: Vec<String>,
    /// Whether the BitTorrent DHT is used, where the build has it.
    pub dht: bool,
    /// Where the DHT is entered; empty: at its well-known nodes.
    pub bootstrap: Vec<String>,
    /// Whether nodes on the local network are looked for, where the build has it.
    pub mdns: bool,
    /// Whether a router of a home network is asked to map the port, where the build has it and
    /// the DHT is used.
    pub port_map: bool,
    /// Bytes on disk at most, if bounded.
    pub quota_bytes: Option<u64>,
    /// Time after which fetched blocks are committed to the index although nobody waits.
    pub commit_interval: Duration,
    /// Bytes a second that the scrub hashes; 0 for none.
    pub scrub_rate: u64,
    /// From one pass of the scrub to the next.
    pub scrub_rest: Duration,
    /// From one look for pins that have ended to the next.
    pub expiry_interval: Duration,
    /// Memory bounds.
    pub limits: Limits,
    /// A secret that all nodes of the swarm share.
    pub swarm_key: Option<[u8; 32]>,
    /// Peers trusted with slots; where `peers_only_allowed` is set, the only ones at all.
    pub allow_peers: Vec<PeerId>,
    /// Names that `Host` may carry beside the bind address and localhost.
    pub allow_hosts: Vec<String>,
    /// Origins beside our own that may use the API.
    pub allow_origins: Vec<String>,
    /// Bytes a second to all peers together.
    pub limit_up: Option<u64>,
    /// Bytes a second from all peers together.
    pub limit_down: Option<u64>,
    /// Bytes a second to one peer.
    pub limit_up_peer: Option<u64>,
    /// Bytes a second from one peer.
    pub limit_down_peer: Option<u64>,
    /// What a MiB costs here.
    pub price: u64,
    /// What a MiB may cost elsewhere.
    pub price_max: u64,
    /// What one download may cost in all.
    pub budget: u64,
    /// What a peer may owe before it must pay.
    pub credit: u64,
    /// How long a wanted block may stay without any provider before the request fails (404).
    pub provider_timeout: Duration,
    /// How long a wanted block whose providers fail may take before the request fails (504).
    pub fetch_timeout: Duration,
    /// A file of CIDs that are not served.
    pub denylist: Option<PathBuf>,
}

impl Config {
    /// A node in `data_dir`, with the defaults of `barrow serve`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        use std::net::{Ipv4Addr, Ipv6Addr};
        Self {
            data_dir: data_dir.into(),
            listen: vec![
                (Ipv4Addr::UNSPECIFIED, 4780).into(),
                (Ipv6Addr::UNSPECIFIED, 4780).into(),
            ],
            http: Some((Ipv4Addr::LOCALHOST, 4781).into()),
            peers: Vec::new(),
            routers: Vec::new(),
            dht: true,
            bootstrap: Vec::new(),
            mdns: true,
            port_map: true,
            quota_bytes: None,
            commit_interval: Duration::from_secs(1),
            scrub_rate: 4 << 20,
            scrub_rest: Duration::from_secs(7 * 24 * 3_600),
            expiry_interval: Duration::from_secs(3_600),
            limits: Limits::DEFAULT,
            swarm_key: None,
            allow_peers: Vec::new(),
            allow_hosts: Vec::new(),
            allow_origins: Vec::new(),
            limit_up: None,
            limit_down: None,
            limit_up_peer: None,
            limit_down_peer: None,
            price: 0,
            price_max: 0,
            budget: 0,
            credit: 64,
            provider_timeout: Duration::from_secs(3),
            fetch_timeout: Duration::from_secs(30),
            denylist: None,
        }
    }
}
