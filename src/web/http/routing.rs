//! Delegated routing: who provides a CID (Routing V1), from the sources that the node itself has.

use super::error;
use crate::{
    net::discovery::{PROTOCOL, multiaddr},
    node::Node,
    web::gate::{Reply, ReplyBody, Request},
};
use barrow_wire::{Cid, PeerId};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// A client waits so long at most, although the DHT may still have something to say.
const ANSWER_TIME: Duration = Duration::from_secs(2);
const METHODS: &str = "GET, HEAD, OPTIONS";
const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
/// How routers name a gateway that answers by CID.
const GATEWAY: &str = "transport-ipfs-gateway-http";

pub(super) fn answer(node: &Node, request: &Request<'_>, rest: &str) -> Reply {
    let reply = match (&request.method[..], rest.strip_prefix("v1/providers/")) {
        ("OPTIONS", _) => Reply { status: 204, headers: Vec::new(), body: ReplyBody::Absent(None) },
        ("GET" | "HEAD", Some(cid)) => match cid.parse() {
            Ok(cid) => providers(node, request, &cid),
            Err(failed) => error(422, "bad_cid", &format!("{cid:?}: {failed}")),
        },
        ("GET" | "HEAD", None) => error(404, "not_found", "only /routing/v1/providers is here"),
        _ => error(405, "method_not_allowed", "this is only read").with("allow", METHODS),
    };
    let reply = reply
        .with("access-control-allow-origin", "*")
        .with("access-control-allow-methods", METHODS)
        .with("vary", "Accept");
    match (&request.method[..], reply.body) {
        ("HEAD", ReplyBody::Bytes(bytes)) => {
            Reply { body: ReplyBody::Absent(Some(bytes.len() as u64)), ..reply }
        }
        (_, body) => Reply { body, ..reply },
    }
}

fn providers(node: &Node, request: &Request<'_>, cid: &Cid) -> Reply {
    let mut addresses: BTreeMap<PeerId, BTreeSet<SocketAddr>> = BTreeMap::new();
    for hint in node.discovery().providers(cid, ANSWER_TIME) {
        // A record needs the provider's id; an address alone proves nothing to anybody.
        if let Some(peer) = hint.peer.filter(|peer| *peer != node.peer_id()) {
            addresses.entry(peer).or_default().insert(hint.address);
        }
    }
    let mut records = Vec::new();
    if matches!(node.dataset(cid), Ok(Some(_))) {
        records.push(ourselves(node, request));
    }
    for (peer, addresses) in addresses {
        let texts: Vec<String> = addresses.into_iter().map(multiaddr::write).collect();
        records.push(record(peer, &texts, &[PROTOCOL]));
    }
    let max_age = if records.is_empty() { 15 } else { 300 };
    let (media_type, body) = match request.header("accept") {
        Some(accept) if accept.contains(NDJSON) => {
            (NDJSON, records.iter().map(|record| format!("{record}\n")).collect())
        }
        Some(_) | None => (JSON, json!({ "Providers": records }).to_string()),
    };
    Reply::new(200, media_type, body)
        .with("x-content-type-options", "nosniff")
        .with("cache-control", format!("public, max-age={max_age}"))
}

/// Us, at the addresses that mean something to whoever asks: where it reached us, if we listen
/// on all.
fn ourselves(node: &Node, request: &Request<'_>) -> Value {
    let host: Option<SocketAddr> = request.header("host").and_then(|host| host.parse().ok());
    let reached = |ip: IpAddr| match host {
        Some(host) if ip.is_unspecified() && ip.is_ipv4() == host.is_ipv4() => Some(host.ip()),
        Some(_) | None => Some(ip).filter(|ip| !ip.is_unspecified()),
    };
    let listen = node.addresses().iter().filter_map(|address| {
        Some(multiaddr::write(SocketAddr::new(reached(address.ip())?, address.port())))
    });
    let gateway = host.map(|host| format!("{}/http", multiaddr::write(host)));
    let addresses: Vec<String> = listen.chain(gateway).collect();
    record(node.peer_id(), &addresses, &[PROTOCOL, GATEWAY])
}

fn record(peer: PeerId, addresses: &[String], protocols: &[&str]) -> Value {
    json!({
        "Schema": "peer",
        "ID": peer.to_string(),
        "Addrs": addresses,
        "Protocols": protocols,
    })
}
