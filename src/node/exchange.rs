//! A node's exchange with its peers: how it is set up, and what it owes.

use super::Node;
use crate::{
    base::config::Config,
    engine::{Engine, EngineConfig},
    net::ledger::{Ledger, Past},
};
use barrow_wire::PeerId;
use std::net::SocketAddr;

impl Node {
    /// Looks at the exchange, between two of its steps; `None` once the node has stopped.
    pub fn inspect<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Option<T> {
        self.inner.reactor.inspect(look)
    }

    /// What peers and it owe each other.
    pub fn ledger(&self) -> &Ledger {
        &self.inner.ledger
    }
}

pub(super) fn engine_config(
    config: &Config,
    peer_id: PeerId,
    addresses: &[SocketAddr],
    past: Past,
) -> EngineConfig {
    let [a, b, c, d, e, f, g, h, ..] = *peer_id.public_key();
    let mut engine = EngineConfig::new(peer_id, u64::from_be_bytes([a, b, c, d, e, f, g, h]));
    engine.listen_port = addresses.first().map_or(0, SocketAddr::port);
    // The pool bounds what comes of it: a buffer is taken when a block's first bytes are here.
    engine.inflight_bytes_max = (config.limits.pool_bytes_max / 3 * 2) as u64;
    engine.serve_bytes_max = config.limits.serve_bytes_max as u64;
    engine.connections_max = config.limits.connections_max;
    engine.provider_timeout = config.provider_timeout;
    engine.fetch_timeout = config.fetch_timeout;
    engine.limit_up = config.limit_up;
    engine.limit_up_peer = config.limit_up_peer;
    engine.limit_down_peer = config.limit_down_peer;
    engine.limit_down = config.limit_down;
    engine.price = config.price;
    engine.price_max = config.price_max;
    engine.budget = config.budget;
    engine.credit = config.credit;
    (engine.bans, engine.offences, engine.accounts) = (past.bans, past.offences, past.accounts);
    engine
}
