//! What is answered over HTTP: the gateway, the node's own API, metrics and health.

mod api;
mod codex;
mod denylist;
mod events;
mod file_name;
mod gateway;
mod jobs;
mod ledger;
mod metrics;
mod page;
mod policy;
mod protected;
mod routing;
mod transfers;

pub(crate) use api::{about, store_stat, verify_json};
pub(crate) use gateway::escape_url;
pub(crate) use ledger::{entries_json as ledger_json, entry_json as ledger_entry_json};
pub(crate) use protected::report_json;

use crate::{
    content::{mend::ErasureError, store_stream::GetError},
    node::Node,
    web::gate::{Gate, GateConfig, Reply, Request},
};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};

/// Requests by their status, for the metrics.
type Statuses = parking_lot::Mutex<std::collections::BTreeMap<u16, u64>>;

/// What handlers work with.
struct App {
    node: Node,
    statuses: Arc<Statuses>,
    events: events::Events,
    denylist: denylist::Denylist,
}

/// The HTTP side of a node.
pub struct HttpServer {
    gate: Gate,
    events: events::Events,
}

impl HttpServer {
    /// Answers at `address`.
    ///
    /// # Errors
    /// If it cannot be bound, or a thread or file cannot be made.
    pub fn start(node: &Node, address: SocketAddr) -> io::Result<Self> {
        let config = node.config();
        let policy = Arc::new(policy::Policy::new(config, address)?);
        let statuses = Arc::new(Statuses::default());
        let (counters, repeated) = (node.metrics().clone(), node.metrics().clone());
        let told_of = node.clone();
        let app = App {
            node: node.clone(),
            statuses: statuses.clone(),
            events: events::Events::default(),
            denylist: config
                .denylist
                .as_deref()
                .map_or_else(|| Ok(denylist::Denylist::default()), denylist::Denylist::read)?,
        };
        let events = app.events.clone();
        let handler = Arc::new(move |request: &mut Request<'_>| route(&app, request));
        let bound = policy.clone();
        let gate = Gate::start(GateConfig {
            address,
            socket_dir: config.data_dir.clone(),
            connections_max: config.limits.http_connections_max,
            handlers: config.limits.http_handlers,
            body_bytes_max: config.limits.pool_bytes_max / 4,
            kept_bytes_max: config.limits.http_kept_bytes_max,
            policy: Arc::new(move |head| policy.check(head)),
            handler,
            changes: Arc::new(move || told_of.changes()),
            sent: Arc::new(move |bytes| counters.http_bytes_sent_total.add(bytes)),
            repeated: Arc::new(move || repeated.http_repeated_total.add(1)),
            answered: Arc::new(move |status| *statuses.lock().entry(status).or_insert(0) += 1),
        })?;
        bound.set_port(gate.address().port());
        Ok(Self { gate, events })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.gate.address()
    }

    /// Finishes what is under way within `limit`.
    pub fn shutdown(self, limit: Duration) {
        // Listening has no end of its own.
        self.events.close();
        self.gate.shutdown(limit);
    }
}

fn route(app: &App, request: &mut Request<'_>) -> Reply {
    let path = request.path.clone();
    // One slash, as the policy reads it: what begins with two would be another host's name if it
    // came back in a Location.
    let mut parts = path.strip_prefix('/').unwrap_or_default().splitn(2, '/');
    match (parts.next().unwrap_or_default(), parts.next().unwrap_or_default()) {
        ("ipfs", rest) => gateway::answer(app, request, rest),
        ("api", rest) => match rest.split_once('/') {
            Some(("v1", rest)) => api::answer(app, request, rest),
            Some(("codex" | "storage", rest)) => match rest.strip_prefix("v1/") {
                Some(rest) => codex::answer(app, request, rest),
                None => error(404, "not_found", "there is no such API"),
            },
            Some(_) | None => error(404, "not_found", "there is no such API"),
        },
        ("routing", rest) => routing::answer(&app.node, request, rest),
        ("healthz", "") => match app.node.health() {
            Ok(()) => Reply::new(200, "text/plain; charset=utf-8", "ok\n"),
            Err(reason) => error(503, "unhealthy", &reason),
        },
        ("metrics", "") => metrics::answer(&app.node, &app.statuses.lock()),
        ("", name) | ("page", name) => page::answer(request, name)
            .unwrap_or_else(|| error(404, "not_found", "there is nothing here")),
        _ => error(404, "not_found", "there is nothing here"),
    }
}

fn json_reply(value: &serde_json::Value) -> Reply {
    Reply::new(200, "application/json", value.to_string())
        .with("x-content-type-options", "nosniff")
        .with("cache-control", "no-store")
}

/// An answer that tells of an error, as all do.
fn error(status: u16, code: &str, message: &str) -> Reply {
    let body = serde_json::json!({"error": {"code": code, "message": message}});
    let reply = Reply::new(status, "application/json", body.to_string())
        .with("x-content-type-options", "nosniff")
        .with("cache-control", "no-store");
    match status {
        502..=504 => reply.with("retry-after", "5"),
        _ => reply,
    }
}

/// The answer to something that could not be got.
fn get_error(get: &GetError) -> Reply {
    let (status, code) = match get {
        GetError::NotFound | GetError::NoSuchPath(_) => (404, "not_found"),
        GetError::Timeout => (504, "timeout"),
        GetError::OverBudget => (502, "over_budget"),
        GetError::Unverifiable => (501, "unverifiable"),
        GetError::NotAFile(_) => (406, "not_a_file"),
        GetError::Erasure(ErasureError::StripeLost { .. }) => (502, "stripe_lost"),
        GetError::Erasure(ErasureError::Manifest(_)) => (502, "bad_manifest"),
        GetError::Store(_) => (500, "store"),
        GetError::Cancelled => (503, "cancelled"),
    };
    error(status, code, &get.to_string())
}
