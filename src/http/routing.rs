//! Delegated routing: who has a CID, as this node knows it.
//!
//! Source: ipfs/specs "Delegated Routing V1 HTTP API".

use super::{error, gateway::with_cors};
use crate::{
    gate::{Reply, ReplyBody, Request},
    node::Node,
    store_stream::Scope,
};
use barrow_wire::Cid;
use serde_json::{Value, json};
use std::net::SocketAddr;

/// What is not known now may be soon.
const EMPTY_MAX_AGE: &str = "public, max-age=15, stale-while-revalidate=172800";
const FOUND_MAX_AGE: &str = "public, max-age=300, stale-while-revalidate=172800";

pub(super) fn answer(node: &Node, request: &Request<'_>, rest: &str) -> Reply {
    let reply = match (&request.method[..], rest.strip_prefix("v1/providers/")) {
        ("OPTIONS", _) => Reply { status: 204, headers: Vec::new(), body: ReplyBody::Absent(None) },
        ("GET" | "HEAD", Some(cid)) => match cid.parse() {
            Ok(cid) => providers(node, request, &cid),
            Err(failed) => error(422, "bad_cid", &format!("{cid:?}: {failed}")),
        },
        (_, Some(_)) => error(405, "method_not_allowed", "this is only read")
            .with("allow", "GET, HEAD, OPTIONS"),
        (_, None) => error(404, "not_found", "only /routing/v1/providers/{cid} is here"),
    };
    with_cors(reply)
}

/// This node, if it has the block: it serves it as a gateway at the name it was asked by.
fn providers(node: &Node, request: &Request<'_>, cid: &Cid) -> Reply {
    let host = request.header("host").unwrap_or_default();
    let is_here = cid.identity().is_none() && node.block(cid, Scope::Local).is_ok();
    let providers: Vec<Value> = match (is_here, multiaddr(host)) {
        (true, Some(address)) => vec![json!({
            "Schema": "peer",
            "ID": node.peer_id().to_string(),
            "Addrs": [address],
            "Protocols": ["transport-ipfs-gateway-http"],
        })],
        _ => Vec::new(),
    };
    let max_age = if providers.is_empty() { EMPTY_MAX_AGE } else { FOUND_MAX_AGE };
    let lines =
        request.header("accept").is_some_and(|accept| accept.contains("application/x-ndjson"));
    let (kind, body) = if lines {
        ("application/x-ndjson", providers.iter().map(|one| format!("{one}\n")).collect())
    } else {
        ("application/json", json!({ "Providers": providers }).to_string())
    };
    Reply::new(200, kind, body)
        .with("cache-control", max_age)
        .with("vary", "Accept")
        .with("x-content-type-options", "nosniff")
}

/// The multiaddr of our HTTP side, by the `Host` that the client reached it with.
fn multiaddr(host: &str) -> Option<String> {
    if let Ok(address) = host.parse::<SocketAddr>() {
        let kind = if address.is_ipv4() { "ip4" } else { "ip6" };
        return Some(format!("/{kind}/{}/tcp/{}/http", address.ip(), address.port()));
    }
    let (name, port) = host.rsplit_once(':').unwrap_or((host, "80"));
    let port: u16 = port.parse().ok()?;
    Some(format!("/dns/{name}/tcp/{port}/http"))
}
