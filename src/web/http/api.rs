//! The node's own JSON, for the command line and for scripts.

use super::{
    App, error, gateway::is_media_type, get_error, jobs, json_reply, ledger, protected, transfers,
};
use crate::{
    base::config::PeerTarget,
    content::{car_import::CarImportError, fetch::FetchProgress},
    data::unixfs::{Chunker, Profile},
    net::discovery::Source,
    node::{Node, PutError, PutOptions, Stored},
    store::{disk::VerifyReport, local_store::StoreError},
    web::gate::{Reply, ReplyBody, Request},
};
use barrow_wire::Cid;
use serde_json::{Value, json};
use std::io::Read as _;

/// Bytes of a JSON body at most.
const JSON_BYTES_MAX: u64 = 64 << 10;

pub(super) fn answer(app: &App, request: &mut Request<'_>, rest: &str) -> Reply {
    let node = &app.node;
    let (noun, name) = rest.split_once('/').unwrap_or((rest, ""));
    let method = if request.method == "HEAD" { "GET" } else { &request.method[..] }.to_owned();
    let Some(methods) = allowed(noun, name) else {
        return error(404, "not_found", "there is nothing here");
    };
    if !methods.split(", ").any(|own| own == request.method) {
        return error(405, "method_not_allowed", "this is not done here").with("allow", methods);
    }
    match (&method[..], noun, name) {
        ("GET", "node", "") => {
            let mut node_json = about(node);
            node_json["store"] = store_stat(node);
            // Nobody who came from outside proves nothing.
            let reached = node.discovery().was_reached();
            node_json["reachable"] = if reached { json!(true) } else { Value::Null };
            let mapping = node.discovery().mapping();
            node_json["port_mapping"] = mapping.map_or(
                Value::Null,
                |mapping| json!({ "external": mapping.external.to_string(), "by": mapping.by }),
            );
            json_reply(&node_json)
        }
        ("GET", "peers", "") => json_reply(&peers(node)),
        ("POST", "peers", "") => connect(node, request),
        ("GET" | "POST", "ledger", "") => ledger::answer(node, request),
        ("GET", "datasets", "") => datasets(node, request),
        ("GET", "datasets", name) => with_cid(name, |cid| dataset(node, cid)),
        ("DELETE", "datasets", name) => with_cid(name, |cid| match node.remove(cid) {
            Ok(Some(removed)) => json_reply(&json!(removed)),
            Ok(None) => error(404, "not_found", "no such dataset is stored here"),
            Err(failed) => store_error(&failed),
        }),
        ("POST", "pins", name) => with_cid(name, |cid| pin(node, request, cid)),
        ("POST", "protect", name) => {
            with_cid(name, |cid| protected::protect(&app.node, request, cid))
        }
        ("POST", "repair", name) => with_cid(name, |cid| protected::repair(&app.node, cid)),
        ("POST", "spread", name) => {
            with_cid(name, |cid| protected::spread(&app.node, request, cid))
        }
        ("GET", "spread", name) => with_cid(name, |cid| protected::last_spread(&app.node, cid)),
        ("GET", "losses", name) => with_cid(name, |cid| protected::losses(&app.node, cid)),
        ("DELETE", "pins", name) => with_cid(name, |cid| match node.unpin(cid) {
            Ok(true) => json_reply(&json!({ "unpinned": cid.to_string() })),
            Ok(false) => error(404, "not_found", "no such dataset is stored here"),
            Err(failed) => store_error(&failed),
        }),
        ("GET", "transfers", "") => transfers::list(node),
        ("DELETE", "transfers", name) => transfers::cancel(node, name),
        ("GET", "events", "") => app.events.answer(node),
        ("POST", "put", "") => put(node, request),
        ("POST", "blocks", "") => put_blocks(node, request),
        ("POST", "import", "") => import(node, request),
        ("POST", "gc", "") => match node.gc() {
            Ok(removed) => json_reply(&json!(removed)),
            Err(failed) => store_error(&failed),
        },
        ("POST", "verify", "") => match flag(request, "repair") {
            Ok(true) => protected::verify_and_repair(node),
            Ok(false) => verify(node),
            Err(reply) => reply,
        },
        _ => error(404, "not_found", "there is nothing here"),
    }
}

/// What may be done with a path that is there.
fn allowed(noun: &str, name: &str) -> Option<&'static str> {
    match (noun, name) {
        ("node" | "datasets" | "transfers" | "events", "") => Some("GET, HEAD"),
        ("peers" | "ledger", "") => Some("GET, HEAD, POST"),
        ("put" | "blocks" | "import" | "gc" | "verify", "") => Some("POST"),
        (_, "") => None,
        ("losses", _) => Some("GET, HEAD"),
        ("spread", _) => Some("GET, HEAD, POST"),
        ("datasets", _) => Some("GET, HEAD, DELETE"),
        ("pins", _) => Some("POST, DELETE"),
        ("transfers", _) => Some("DELETE"),
        ("protect" | "repair", _) => Some("POST"),
        _ => None,
    }
}

/// Whether a parameter is `true`; what is neither that nor `false` is refused.
fn flag(request: &Request<'_>, name: &str) -> Result<bool, Reply> {
    match request.param(name).as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(error(422, "bad_flag", &format!("{name} is true or false"))),
    }
}

pub(super) fn store_error(failed: &StoreError) -> Reply {
    let (status, code) = match failed {
        StoreError::OverQuota => (507, "over_quota"),
        StoreError::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            (507, "disk_full")
        }
        StoreError::ReadOnly(_) | StoreError::Closed => (503, "read_only"),
        StoreError::NotStorable => (422, "not_storable"),
        StoreError::Unreadable(_) | StoreError::Misplaced(_) => (503, "unreadable"),
        StoreError::Io(_)
        | StoreError::Index(_)
        | StoreError::BadIndex
        | StoreError::Locked
        | StoreError::Missing(_)
        | StoreError::Newer(_) => (500, "store"),
    };
    error(status, code, &failed.to_string())
}

fn with_cid(name: &str, act: impl FnOnce(&Cid) -> Reply) -> Reply {
    match name.parse() {
        Ok(cid) => act(&cid),
        Err(failed) => error(400, "bad_request", &format!("{name:?}: {failed}")),
    }
}

/// What `barrow id` and `node.json` tell.
pub(crate) fn about(node: &Node) -> Value {
    let listen: Vec<String> = node.addresses().iter().map(ToString::to_string).collect();
    json!({
        "peer_id": node.peer_id().to_string(),
        "listen": listen,
        "version": env!("CARGO_PKG_VERSION"),
    })
}

/// What `barrow stat` tells.
pub(crate) fn store_stat(node: &Node) -> Value {
    let metrics = node.metrics();
    json!({
        "blocks": metrics.store_blocks.get(),
        "bytes": metrics.store_bytes.get(),
        "quota_bytes": metrics.quota_bytes.get(),
        "scrub": node.scrub(),
    })
}

/// Who is connected.
pub(super) fn peers(node: &Node) -> Value {
    let peers = node.inspect(|engine| engine.peers()).unwrap_or_default();
    let source = |peer: &crate::engine::PeerSnapshot| match (peer.dialed, peer.remote) {
        (false, _) => "incoming",
        // What no source of discovery told came from a peer.
        (true, address) => node.discovery().source(address).map_or("exchange", Source::name),
    };
    let peers: Vec<Value> = peers
        .iter()
        .map(|peer| {
            json!({
                "peer_id": peer.peer.to_string(),
                "address": peer.remote.to_string(),
                "dialed": peer.dialed,
                "source": source(peer),
                "agent": peer.agent,
                "rtt_us": peer.rtt.map(|rtt| rtt.as_micros()),
                "rate": peer.rate,
                "price": peer.price,
                "blocks_received": peer.blocks_received,
                "bytes_received": peer.bytes_received,
                "blocks_sent": peer.blocks_sent,
                "bytes_sent": peer.bytes_sent,
                "outstanding_bytes": peer.outstanding_bytes,
                "offences": peer.offences,
            })
        })
        .collect();
    json!({ "peers": peers })
}

/// The JSON that a request carries, if it does.
pub(super) fn json_body(request: &mut Request<'_>) -> Option<Value> {
    let mut body = String::new();
    request.body().take(JSON_BYTES_MAX).read_to_string(&mut body).ok()?;
    serde_json::from_str(&body).ok()
}

fn connect(node: &Node, request: &mut Request<'_>) -> Reply {
    let body = json_body(request).unwrap_or_default();
    let Some(target) = body["address"].as_str().map(ToOwned::to_owned) else {
        return error(400, "bad_request", "{\"address\":\"[ID@]HOST:PORT\"} is expected");
    };
    match PeerTarget::parse(&target) {
        Ok(peer) => {
            node.connect(peer);
            json_reply(&json!({ "connecting": target }))
        }
        Err(failed) => error(400, "bad_request", &failed),
    }
}

/// All datasets; how the protected ones stand takes a look at each of their shards, and is told
/// where `standing=true` asks for it.
fn datasets(node: &Node, request: &Request<'_>) -> Reply {
    let with_standing = match flag(request, "standing") {
        Ok(flag) => flag,
        Err(reply) => return reply,
    };
    match node.datasets() {
        Ok(datasets) if with_standing => {
            let told: Vec<Value> = datasets.iter().map(|one| node.dataset_json(one)).collect();
            json_reply(&json!({ "datasets": told }))
        }
        Ok(datasets) => json_reply(&json!({ "datasets": datasets })),
        Err(failed) => store_error(&failed),
    }
}

fn dataset(node: &Node, cid: &Cid) -> Reply {
    match node.dataset(cid) {
        Ok(Some(dataset)) => node
            .dataset_detail(&dataset)
            .map_or_else(|failed| store_error(&failed), |told| json_reply(&told)),
        Ok(None) => error(404, "not_found", "no such dataset is stored here"),
        Err(failed) => store_error(&failed),
    }
}

/// Keeps a dataset or a slot of it, for good or for so many seconds.
fn pin(node: &Node, request: &Request<'_>, cid: &Cid) -> Reply {
    let slot = match protected::slot(request) {
        Ok(slot) => slot,
        Err(reply) => return reply,
    };
    let seconds = request.param("for").map(|text| text.parse::<u64>()).transpose();
    let Ok(seconds) = seconds else {
        return error(422, "bad_time", "for is a number of seconds");
    };
    let (node, cid) = (node.clone(), *cid);
    jobs::run(move |teller| {
        let mut tell = |progress: &FetchProgress| teller.tell(|| json!(progress));
        let done = match slot {
            Some(slot) => node.pin_slot(&cid, slot, &mut tell),
            None => node.pin(&cid, &mut tell),
        };
        let done = done.map_err(|failed| error_value(&get_error(&failed)))?;
        if let Some(seconds) = seconds {
            node.pin_for(&cid, seconds).map_err(|failed| error_value(&store_error(&failed)))?;
        }
        Ok(json!({ "done": true, "blocks": done.blocks }))
    })
}

fn verify(node: &Node) -> Reply {
    let node = node.clone();
    jobs::run(move |teller| {
        let report = node.verify(&mut |so_far| teller.tell(|| verify_progress(so_far)));
        match report {
            Ok(report) => {
                let mut last = verify_json(&report);
                last["done"] = true.into();
                Ok(last)
            }
            Err(failed) => Err(error_value(&store_error(&failed))),
        }
    })
}

/// What `verify` tells.
pub(crate) fn verify_json(report: &VerifyReport) -> Value {
    json!({
        "blocks": report.blocks,
        "bytes": report.bytes,
        "damaged": report.damaged_names(),
        "incomplete": report.incomplete_names(),
        "index": if report.is_index_damaged { "damaged" } else { "sound" },
    })
}

/// How far a verification is.
pub(super) fn verify_progress(so_far: &VerifyReport) -> Value {
    json!({
        "blocks": so_far.blocks,
        "blocks_total": so_far.blocks_total,
        "bytes": so_far.bytes,
        "bytes_total": so_far.bytes_total,
    })
}

/// The JSON of an error's answer, as the last line of a job.
pub(super) fn error_value(reply: &Reply) -> Value {
    match &reply.body {
        ReplyBody::Bytes(bytes) => serde_json::from_slice(bytes).unwrap_or_default(),
        ReplyBody::Stream(..) | ReplyBody::Absent(_) => Value::Null,
    }
}

fn put(node: &Node, request: &mut Request<'_>) -> Reply {
    let profile: Result<Profile, String> =
        request.param("profile").map_or(Ok(Profile::default()), |name| name.parse());
    let profile = match profile {
        Ok(profile) => profile,
        Err(message) => return error(422, "bad_profile", &message),
    };
    let mimetype = request.header("content-type").map(ToOwned::to_owned);
    if let Some(mimetype) = mimetype.as_deref().filter(|mimetype| !is_media_type(mimetype)) {
        let message =
            format!("invalid Content-Type {mimetype:?}; use one type, for example text/plain");
        return error(422, "bad_media_type", &message);
    }
    let chunker = match request.param("chunker").map(|text| text.parse::<Chunker>()).transpose() {
        Ok(chunker) => chunker,
        Err(message) => return error(422, "bad_chunker", &message),
    };
    let wrap = match flag(request, "wrap") {
        Ok(wrap) => wrap,
        Err(reply) => return reply,
    };
    let options = PutOptions {
        profile,
        chunker,
        wrap,
        name: request.param("name"),
        mimetype,
        protect: match protected::shape(request) {
            Ok(shape) => shape,
            Err(reply) => return reply,
        },
    };
    stored(node.put_with(request.body(), options, &mut |_| {}))
}

fn put_blocks(node: &Node, request: &mut Request<'_>) -> Reply {
    let protect = match protected::shape(request) {
        Ok(shape) => shape,
        Err(reply) => return reply,
    };
    let options = PutOptions { name: request.param("name"), protect, ..PutOptions::default() };
    stored(node.put_blocks(request.body(), options))
}

fn import(node: &Node, request: &mut Request<'_>) -> Reply {
    match node.import_car(request.body(), &mut |_| {}) {
        Ok(imported) => json_reply(&json!(imported)),
        Err(CarImportError::Store(failed)) => store_error(&failed),
        Err(failed @ (CarImportError::Car(_) | CarImportError::Block(..))) => {
            error(400, "bad_car", &failed.to_string())
        }
    }
}

pub(super) fn stored(stored: Result<Stored, PutError>) -> Reply {
    match stored {
        Ok(stored) => json_reply(&stored.to_json()),
        Err(failed) => put_error(&failed),
    }
}

pub(super) fn put_error(failed: &PutError) -> Reply {
    match failed {
        PutError::Store(failed) => store_error(failed),
        PutError::Import(failed) => error(400, "upload", &failed.to_string()),
    }
}
