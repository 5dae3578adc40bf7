//! The JSON of what is being fetched.

use super::{error, jobs, json_reply};
use crate::{
    engine::JobId,
    node::{Node, PinTransfer, Transfer, TransferStatus},
    web::gate::Reply,
};
use barrow_wire::Cid;
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) fn list(node: &Node) -> Reply {
    let all: Vec<Value> = node.transfers().iter().map(to_json).collect();
    json_reply(&json!({ "transfers": all }))
}

pub(super) fn cancel(node: &Node, job: &str) -> Reply {
    match job.parse().ok().and_then(|job| node.cancel_transfer(JobId(job))) {
        Some(transfer) => json_reply(&to_json(&transfer)),
        None => error(404, "not_found", "there is no such transfer"),
    }
}

/// Those that go on, for whoever looks at the node.
pub(super) fn active(node: &Node) -> Vec<Value> {
    let all = node.transfers();
    let active = all.iter().filter(|one| one.status.is_open());
    active.map(to_json).collect()
}

/// Keeps a dataset on a thread of its own; none if too many run.
pub(super) fn start(node: &Node, cid: &Cid) -> Option<Arc<PinTransfer>> {
    let pin = node.begin_pin(cid, None);
    if pin.status() == TransferStatus::Waiting {
        let (own, runner) = (pin.clone(), node.clone());
        let run = move || {
            if let Err(failed) = runner.run_pin(&own, &mut |_| true) {
                log::warn!("{} is not fetched: {failed}", own.cid());
            }
        };
        if jobs::spawn(run).is_err() {
            node.cancel_transfer(pin.job());
            return None;
        }
    }
    Some(pin)
}

fn to_json(transfer: &Transfer) -> Value {
    let (status, failed) = match &transfer.status {
        TransferStatus::Waiting => ("waiting", None),
        TransferStatus::Active => ("active", None),
        TransferStatus::Done => ("done", None),
        TransferStatus::Cancelled => ("cancelled", None),
        TransferStatus::Failed(message) => ("failed", Some(message)),
    };
    let sources: Vec<String> = transfer.sources.iter().map(ToString::to_string).collect();
    let mut json = json!({
        "job": transfer.job.0,
        "cid": transfer.cid.to_string(),
        "kind": if transfer.is_pin { "pin" } else { "read" },
        "status": status,
        "total": transfer.total,
        "done": transfer.done,
        "received": transfer.received,
        "rate": transfer.rate,
        "remaining_seconds": transfer.remaining().map(|left| left.as_secs()),
        "blocks": transfer.blocks,
        "blocks_left": transfer.blocks_left,
        "complete_peers": transfer.complete_peers,
        "peers": sources,
        "seconds": transfer.elapsed.as_secs(),
    });
    if let Some(message) = failed {
        json["error"] = message.as_str().into();
    }
    json
}
