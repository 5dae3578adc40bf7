//! The node itself: space, peers, identity, the level of the log.

use super::{App, error, json_reply};
use crate::{
    base::config::PeerTarget,
    web::gate::{Reply, Request},
};
use barrow_wire::PeerId;
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

/// How long `connect` waits for the peer to be there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_POLL: Duration = Duration::from_millis(50);
/// Addresses that one request may have dialled.
const ADDRESSES_MAX: usize = 8;

pub(super) fn space(app: &App) -> Reply {
    let metrics = app.node.metrics();
    let used = metrics.store_bytes.get();
    let quota = match metrics.quota_bytes.get() {
        // Without a quota the disk is the limit.
        0 => used + free_bytes(app),
        quota => quota,
    };
    json_reply(&json!({
        "totalBlocks": metrics.store_blocks.get(),
        "quotaMaxBytes": quota,
        "quotaUsedBytes": used,
        "quotaReservedBytes": 0,
    }))
}

fn free_bytes(app: &App) -> u64 {
    let stat = rustix::fs::statvfs(&app.node.config().data_dir);
    stat.map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

pub(super) fn connect(app: &App, request: &Request<'_>, peer: &str) -> Reply {
    let Ok(id) = peer.parse::<PeerId>() else {
        return error(400, "bad_request", &format!("{peer:?} is no peer's id"));
    };
    let mut addresses = Vec::new();
    for text in request.params("addrs").take(ADDRESSES_MAX) {
        match address(&text) {
            Some(address) => addresses.push(address),
            None => return error(400, "bad_request", &format!("{text:?} is no address")),
        }
    }
    let may_dial = request.method == "POST";
    let is_there = || {
        let peers = app.node.inspect(|engine| engine.peers()).unwrap_or_default();
        peers.iter().any(|peer| peer.peer == id)
    };
    if !is_there() {
        // Any page can cause a GET, with an image for instance, and it carries no Origin.
        if !may_dial {
            let message = "the peer is not connected, and a GET connects no peer; POST instead";
            return error(405, "method_not_allowed", message).with("allow", "POST");
        }
        if addresses.is_empty() {
            return error(400, "no_address", "no address of the peer is known; see addrs");
        }
        for address in addresses {
            app.node.connect(PeerTarget { id: Some(id), address });
        }
        let since = Instant::now();
        while !is_there() {
            if since.elapsed() > CONNECT_TIMEOUT {
                return error(
                    400,
                    "unreachable",
                    "the peer does not answer yet; it is tried again",
                );
            }
            thread::sleep(CONNECT_POLL);
        }
    }
    text("Successfully connected to peer")
}

/// Reads `/ip4/…/tcp/…` or `HOST:PORT`. Names are not looked up: pages could ask for any.
fn address(text: &str) -> Option<SocketAddr> {
    let text = text.strip_prefix('/').map_or(text, |_| text.trim_end_matches('/'));
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let mut parts = text.strip_prefix('/')?.split('/');
    let ip = match parts.next()? {
        "ip4" => std::net::IpAddr::V4(parts.next()?.parse().ok()?),
        "ip6" => std::net::IpAddr::V6(parts.next()?.parse().ok()?),
        _ => return None,
    };
    let port = (parts.next()? == "tcp").then(|| parts.next()?.parse().ok())??;
    match (parts.next(), parts.next(), parts.next()) {
        (None, ..) | (Some("p2p"), Some(_), None) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

fn text(text: &str) -> Reply {
    Reply::new(200, "text/plain; charset=utf-8", text.to_owned())
        .with("cache-control", "no-store")
        .with("x-content-type-options", "nosniff")
}

/// Whether JSON is wanted: clients of the reference say so in `Accept`, or in the `Content-Type`
/// of a request without content.
fn wants_json(request: &Request<'_>) -> bool {
    let has = |name: &str, kind: &str| request.header(name).is_some_and(|text| text.contains(kind));
    has("accept", "application/json")
        || (!has("accept", "text/plain") && has("content-type", "application/json"))
}

pub(super) fn peer_id(app: &App, request: &Request<'_>) -> Reply {
    let id = app.node.peer_id().to_string();
    if wants_json(request) { json_reply(&json!({ "id": id })) } else { text(&id) }
}

pub(super) fn record(app: &App, request: &Request<'_>) -> Reply {
    let record = own_record(app);
    if wants_json(request) { json_reply(&json!({ "spr": record })) } else { text(&record) }
}

/// Who we are and where, as `barrow connect` takes it: we have no signed peer records.
fn own_record(app: &App) -> String {
    let address = app.node.addresses().first().map(|address| format!("@{address}"));
    format!("{}{}", app.node.peer_id(), address.unwrap_or_default())
}

fn multiaddr(address: &SocketAddr) -> String {
    let kind = if address.is_ipv4() { "ip4" } else { "ip6" };
    format!("/{kind}/{}/tcp/{}", address.ip(), address.port())
}

pub(super) fn info(app: &App) -> Reply {
    let id = app.node.peer_id().to_string();
    let addresses: Vec<String> = app.node.addresses().iter().map(multiaddr).collect();
    let node = |peer: &str, address: &str, seen: bool| json!({ "nodeId": peer, "peerId": peer, "record": "", "address": address, "seen": seen });
    let peers = app.node.inspect(|engine| engine.peers()).unwrap_or_default();
    let nodes: Vec<Value> = peers
        .iter()
        .map(|peer| node(&peer.peer.to_string(), &peer.remote.to_string(), true))
        .collect();
    let own = addresses.first().cloned().unwrap_or_default();
    json_reply(&json!({
        "id": id,
        "addrs": addresses,
        "repo": app.node.config().data_dir.display().to_string(),
        "spr": own_record(app),
        "announceAddresses": addresses,
        "table": { "localNode": node(&id, &own, true), "nodes": nodes },
        "codex": {
            "version": env!("CARGO_PKG_VERSION"),
            "revision": concat!("barrow-", env!("CARGO_PKG_VERSION")),
        },
    }))
}

/// The levels are those of the reference's log.
pub(super) fn log_level(request: &Request<'_>) -> Reply {
    use log::LevelFilter;
    let level = request.param("level").unwrap_or_default();
    let level = match level.to_ascii_lowercase().as_str() {
        "trace" => LevelFilter::Trace,
        "debug" => LevelFilter::Debug,
        "info" | "notice" => LevelFilter::Info,
        "warn" => LevelFilter::Warn,
        "error" | "fatal" => LevelFilter::Error,
        "none" => LevelFilter::Off,
        _ => {
            return error(
                400,
                "bad_request",
                "level: trace, debug, info, notice, warn, error, fatal or none",
            );
        }
    };
    log::set_max_level(level);
    text("")
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn multiaddrs_and_plain_addresses_are_read_and_names_are_not() {
        let v4 = "127.0.0.1:8070".parse().ok();
        assert_eq!(address("/ip4/127.0.0.1/tcp/8070"), v4);
        assert_eq!(address("/ip4/127.0.0.1/tcp/8070/p2p/12D3KooW"), v4);
        assert_eq!(address("127.0.0.1:8070"), v4);
        assert_eq!(address("/ip6/::1/tcp/1"), "[::1]:1".parse().ok());
        for bad in [
            "",
            "/",
            "/ip4/x/tcp/1",
            "/ip4/1.2.3.4/udp/1",
            "/dns4/a/tcp/1",
            "a:1",
            "/ip4/1.2.3.4/tcp/99999",
        ] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }
}
