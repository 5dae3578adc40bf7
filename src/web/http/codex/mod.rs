//! The REST of Codex, now Logos Storage, under both of its names: `/api/codex/v1` and
//! `/api/storage/v1`. docs/openapi.yaml describes it.

mod data;
mod node;

use super::{App, error, json_reply};
use crate::web::gate::{Reply, Request};
use barrow_wire::Cid;

pub(super) fn answer(app: &App, request: &mut Request<'_>, rest: &str) -> Reply {
    let parts: Vec<&str> = rest.split('/').collect();
    let method = if request.method == "HEAD" { "GET" } else { &request.method[..] }.to_owned();
    match (&method[..], &parts[..]) {
        ("GET", ["data"]) => data::list(app),
        ("POST", ["data"]) => data::upload(app, request),
        ("GET", ["data", cid]) => {
            with_cid(cid, |cid| allow(app, &cid, || data::local(app, request, &cid)))
        }
        ("DELETE", ["data", cid]) => with_cid(cid, |cid| data::delete(app, &cid)),
        ("GET", ["data", cid, "exists"]) => with_cid(cid, |cid| data::exists(app, &cid)),
        ("POST", ["data", cid, "network"]) => {
            with_cid(cid, |cid| allow(app, &cid, || data::fetch(app, &cid)))
        }
        ("GET", ["data", cid, "network", "stream"]) => {
            with_cid(cid, |cid| allow(app, &cid, || data::network(app, request, &cid)))
        }
        ("GET", ["data", cid, "network", "manifest"]) => {
            with_cid(cid, |cid| data::manifest(app, &cid))
        }
        ("GET", ["data", cid, "network", "progress", id]) => {
            with_cid(cid, |cid| data::progress(app, &cid, id))
        }
        ("DELETE", ["data", cid, "network", id]) => {
            with_cid(cid, |cid| data::cancel(app, &cid, id))
        }
        ("GET", ["space"]) => node::space(app),
        ("GET" | "POST", ["connect", peer]) => node::connect(app, request, peer),
        ("GET", ["peerid"] | ["node", "peerid"]) => node::peer_id(app, request),
        ("GET", ["spr"] | ["node", "spr"]) => node::record(app, request),
        ("GET", ["debug", "info"]) => node::info(app),
        ("POST", ["debug", "chronicles", "loglevel"]) => node::log_level(request),
        (_, parts) => match allowed(parts) {
            Some(methods) => {
                error(405, "method_not_allowed", "this is not done here").with("allow", methods)
            }
            None => error(404, "not_found", "there is nothing here"),
        },
    }
}

/// What may be done with a path that is there.
fn allowed(parts: &[&str]) -> Option<&'static str> {
    match parts {
        ["data"] => Some("GET, HEAD, POST"),
        ["data", _] => Some("GET, HEAD, DELETE"),
        ["data", _, "network"] | ["debug", "chronicles", "loglevel"] => Some("POST"),
        ["data", _, "exists"]
        | ["data", _, "network", "stream" | "manifest"]
        | ["data", _, "network", "progress", _]
        | ["space" | "peerid" | "spr"]
        | ["node", "peerid" | "spr"]
        | ["debug", "info"] => Some("GET, HEAD"),
        ["connect", _] => Some("GET, HEAD, POST"),
        ["data", _, "network", _] => Some("DELETE"),
        _ => None,
    }
}

fn with_cid(name: &str, act: impl FnOnce(Cid) -> Reply) -> Reply {
    match name.parse() {
        Ok(cid) => act(cid),
        Err(failed) => error(400, "bad_request", &format!("{name:?}: {failed}")),
    }
}

/// Does what the denylist does not forbid.
fn allow(app: &App, cid: &Cid, act: impl FnOnce() -> Reply) -> Reply {
    app.denylist.check(&[*cid]).map_or_else(|reply| reply, |()| act())
}
