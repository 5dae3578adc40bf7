//! The node's own JSON for protected datasets.

use super::{
    api::{error_value, store_error, stored, verify_json, verify_progress},
    error, get_error, jobs, json_reply,
};
use crate::{
    content::store_stream::GetError,
    erasure::Shape,
    node::{Node, RepairReport, SpreadError},
    store::local_store::Slot,
    web::gate::{Reply, Request},
};
use barrow_wire::{Cid, PeerId};
use serde_json::{Value, json};

fn number(request: &Request<'_>, name: &str) -> Result<Option<u64>, Reply> {
    let number = request.param(name).map(|text| text.parse()).transpose();
    number.map_err(|_| error(422, "bad_shape", &format!("{name} is a number")))
}

/// The shape that `data` and `parity` ask for, if they do.
pub(super) fn shape(request: &Request<'_>) -> Result<Option<Shape>, Reply> {
    match (number(request, "data")?, number(request, "parity")?) {
        (None, None) => Ok(None),
        (Some(data), Some(parity)) => Shape::new(data, parity)
            .map(Some)
            .map_err(|failed| error(422, "bad_shape", &failed.to_string())),
        _ => Err(error(422, "bad_shape", "data and parity are given together")),
    }
}

/// The slot that `slot=I/N` asks for, if it does.
pub(super) fn slot(request: &Request<'_>) -> Result<Option<Slot>, Reply> {
    let Some(text) = request.param("slot") else { return Ok(None) };
    text.parse().map(Some).map_err(|failed: &str| error(422, "bad_slot", failed))
}

pub(super) fn protect(node: &Node, request: &Request<'_>, cid: &Cid) -> Reply {
    match shape(request) {
        Ok(Some(shape)) => stored(node.protect(cid, shape)),
        Ok(None) => error(422, "bad_shape", "data and parity are needed"),
        Err(reply) => reply,
    }
}

pub(super) fn repair(node: &Node, cid: &Cid) -> Reply {
    let (node, cid) = (node.clone(), *cid);
    jobs::run(move |teller| {
        match node.repair(&cid, &mut |progress| teller.tell(|| json!(progress))) {
            Ok(done) => Ok(json!({ "done": true, "blocks": done.blocks })),
            Err(failed) => Err(error_value(&get_error(&failed))),
        }
    })
}

pub(super) fn spread(node: &Node, request: &Request<'_>, cid: &Cid) -> Reply {
    let peers: Result<Vec<PeerId>, _> = request.params("to").map(|text| text.parse()).collect();
    let Ok(to) = peers else { return error(422, "bad_peer", "to is a peer's ID") };
    let (node, cid) = (node.clone(), *cid);
    jobs::run(move |teller| {
        match node.spread(&cid, &to, &mut |so_far| teller.tell(|| so_far.to_json())) {
            Ok(spread) => {
                let mut last = spread.to_json();
                last["done"] = true.into();
                Ok(last)
            }
            Err(failed) => Err(error_value(&spread_error(&failed))),
        }
    })
}

fn spread_error(failed: &SpreadError) -> Reply {
    match failed {
        SpreadError::NoPeers => error(409, "no_peers", &failed.to_string()),
        SpreadError::NotAllowed(_) => error(403, "not_allowed", &failed.to_string()),
        SpreadError::NotProtected => error(422, "not_protected", &failed.to_string()),
        SpreadError::Get(failed) => get_error(failed),
    }
}

pub(super) fn last_spread(node: &Node, cid: &Cid) -> Reply {
    match node.last_spread(cid) {
        Some(spread) => json_reply(&spread.to_json()),
        None => error(404, "not_found", "its slots were not spread from here"),
    }
}

pub(super) fn losses(node: &Node, cid: &Cid) -> Reply {
    let standing = match node.dataset(cid) {
        Ok(Some(dataset)) => node.standing(&dataset),
        Ok(None) => Ok(None),
        Err(failed) => return store_error(&failed),
    };
    match standing {
        Ok(Some(standing)) => json_reply(&standing.to_json()),
        Ok(None) => error(404, "not_found", "no such protected dataset is stored here"),
        Err(failed) => get_error(&failed),
    }
}

pub(super) fn verify_and_repair(node: &Node) -> Reply {
    let node = node.clone();
    jobs::run(move |teller| {
        let report = node.verify_and_repair(&mut |so_far| teller.tell(|| verify_progress(so_far)));
        match report {
            Ok(report) => {
                let mut last = report_json(&report);
                last["done"] = true.into();
                Ok(last)
            }
            Err(GetError::Store(failed)) => Err(error_value(&store_error(&failed))),
            Err(failed) => Err(error_value(&get_error(&failed))),
        }
    })
}

/// What `verify --repair` tells.
pub(crate) fn report_json(report: &RepairReport) -> Value {
    let repaired: Vec<String> = report.repaired.iter().map(ToString::to_string).collect();
    let lost: Vec<Value> = report
        .lost
        .iter()
        .map(|(cid, reason)| json!({ "cid": cid.to_string(), "reason": reason }))
        .collect();
    let mut told = verify_json(&report.verified);
    told["repaired"] = repaired.into();
    told["lost"] = lost.into();
    told
}
