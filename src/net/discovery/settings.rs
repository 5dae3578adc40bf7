//! What discovery is told once.

use super::{Mapped, router};
use crate::base::config::Config;
use barrow_wire::{Cid, PeerId};
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

/// Which sources there are, and what each needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where we listen; empty if nowhere.
    pub listen: Vec<SocketAddr>,
    /// Addresses that a person gave.
    pub given: Vec<SocketAddr>,
    /// Delegated routers, as `http://HOST:PORT`.
    pub routers: Vec<String>,
    /// How the DHT is used; `None` if it is not.
    #[cfg(feature = "dht")]
    pub dht: Option<super::DhtSettings>,
    /// How the local network is used; `None` if it is not.
    #[cfg(feature = "mdns")]
    pub mdns: Option<super::MdnsSettings>,
    /// Which port a router is asked to map; `None` if none is.
    #[cfg(feature = "portmap")]
    pub port_map: Option<super::PortMapSettings>,
    /// What it mapped.
    pub mapped: Mapped,
    /// Where addresses are remembered.
    pub book: PathBuf,
}

impl Settings {
    /// For the node `peer_id` that listens at `listen` and keeps datasets with these roots.
    #[cfg_attr(
        not(all(feature = "dht", feature = "mdns")),
        allow(unused_variables, reason = "the DHT and mDNS want to know more than the rest")
    )]
    pub fn of(
        config: &Config,
        peer_id: PeerId,
        listen: &[SocketAddr],
        roots: impl Iterator<Item = Cid>,
    ) -> Self {
        let mapped = Mapped::default();
        // Who leaves the DHT alone is not for the internet.
        #[cfg(feature = "portmap")]
        let port_map = match config.port_map && config.dht {
            true => super::PortMapSettings::new(listen, config.swarm_key.is_none()),
            false => None,
        };
        Self {
            listen: listen.to_vec(),
            given: config.peers.iter().map(|peer| peer.address).collect(),
            routers: config.routers.clone(),
            // A swarm with a key is nobody else's business: it is silent in the DHT.
            #[cfg(feature = "dht")]
            dht: (config.dht && config.swarm_key.is_none()).then(|| super::DhtSettings {
                bootstrap: config.bootstrap.clone(),
                listen: listen.to_vec(),
                mapped: mapped.clone(),
                #[cfg(feature = "portmap")]
                announce_after: port_map
                    .as_ref()
                    .map_or(std::time::Duration::ZERO, |_| super::port_map::SETTLE_TIME),
                #[cfg(not(feature = "portmap"))]
                announce_after: std::time::Duration::ZERO,
                roots: roots.filter_map(|root| root.multihash()).collect(),
                seed: u64::from(u32::from_be_bytes(first(peer_id.public_key()))),
            }),
            #[cfg(feature = "mdns")]
            mdns: match config.mdns {
                true => super::MdnsSettings::new(peer_id, listen, config.swarm_key),
                false => None,
            },
            #[cfg(feature = "portmap")]
            port_map,
            mapped,
            book: config.data_dir.join("peers.sqlite"),
        }
    }

    /// Addresses in whose ranges the node was put by a person.
    pub(super) fn configured(&self) -> Vec<IpAddr> {
        let given = self.listen.iter().chain(&self.given).map(SocketAddr::ip);
        let routers = self.routers.iter().filter_map(|url| router::ip_of(url));
        #[cfg(feature = "dht")]
        let nodes = self.dht.iter().flat_map(|dht| &dht.bootstrap);
        #[cfg(feature = "dht")]
        let routers =
            routers.chain(nodes.filter_map(|node| Some(node.parse::<SocketAddr>().ok()?.ip())));
        given.chain(routers).collect()
    }
}

/// Checks what `--bootstrap` was given.
///
/// # Errors
/// What is wrong with it, for people.
pub(crate) fn check_bootstrap(node: &str) -> Result<(), String> {
    if !cfg!(feature = "dht") {
        return Err("this build has no DHT".into());
    }
    let port = node.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    port.filter(|port| port.is_ok()).map(|_| ()).ok_or_else(|| "HOST:PORT is expected".into())
}

#[cfg(feature = "dht")]
fn first(key: &[u8; 32]) -> [u8; 4] {
    let [a, b, c, d, ..] = *key;
    [a, b, c, d]
}
