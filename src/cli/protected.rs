//! Commands on protected datasets: protect, pin a slot, repair.

use super::{
    Access, CliError,
    args::Args,
    datasets::{cid_operand, with_access},
    output,
    progress::Progress,
    put,
    settings::Settings,
};
use crate::{http::report_json, local_store::Slot, node::Stored};
use barrow_wire::Cid;
use serde_json::{Value, json};
use std::io;

pub(super) fn protect(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let cid = cid_operand(args)?;
    let shape = put::protection(args)?
        .ok_or_else(|| CliError::Usage("--data and --parity are needed".into()))?;
    let stored = with_access(settings, |access| match access {
        Access::Serving(client) => {
            let query = format!("data={}&parity={}", shape.data(), shape.parity());
            Ok(client.post(&format!("/api/v1/protect/{cid}?{query}"), &mut io::empty())?)
        }
        Access::Own(node) => Ok(Stored::to_json(&node.protect(&cid, shape)?)),
    })?;
    if args.has("json") {
        return output::json(&stored);
    }
    output::text(&format!("{}\n", stored["cid"].as_str().unwrap_or_default()))
}

pub(super) fn pin_slot(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let cid = cid_operand(args)?;
    let text = args.last("slot").map_err(CliError::Usage)?.unwrap_or_default();
    let slot: Slot = text.parse().map_err(|error: &str| CliError::Usage(error.into()))?;
    let mut progress = Progress::new("fetching", None);
    let access = Access::open(settings, true)?;
    let done = match &access {
        Access::Serving(client) => client
            .job(&format!("/api/v1/pins/{cid}?slot={}/{}", slot.index, slot.slots), &mut |line| {
                progress.set(line["bytes_fetched"].as_u64().unwrap_or(0));
            })
            .map_err(CliError::from),
        Access::Own(node) => node
            .pin_slot(&cid, slot, &mut |so_far| {
                progress.set(so_far.bytes_fetched);
                true
            })
            .map(|done| json!({ "done": true, "blocks": done.blocks }))
            .map_err(CliError::from),
    };
    progress.end();
    access.close();
    let done = done?;
    if args.has("json") { output::json(&done) } else { output::text(&format!("{cid}\n")) }
}

pub(super) fn repair(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let cid = cid_operand(args)?;
    let mut progress = Progress::new("repairing", None);
    let done = with_access(settings, |access| match access {
        Access::Serving(client) => {
            Ok(client.job(&format!("/api/v1/repair/{cid}"), &mut |line| {
                progress.set(line["bytes_fetched"].as_u64().unwrap_or(0));
            })?)
        }
        Access::Own(node) => {
            let done = node.repair(&cid, &mut |so_far| {
                progress.set(so_far.bytes_fetched);
                true
            })?;
            Ok(json!({ "done": true, "blocks": done.blocks }))
        }
    });
    progress.end();
    let done = done?;
    if args.has("json") {
        return output::json(&done);
    }
    output::text(&format!("{cid} is whole, {} blocks\n", done["blocks"]))
}

pub(super) fn verify_and_repair(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let mut progress = Progress::new("blocks", None);
    let report = with_access(settings, |access| match access {
        Access::Serving(client) => Ok(client.job("/api/v1/verify?repair=true", &mut |line| {
            progress.set(line["blocks"].as_u64().unwrap_or(0));
        })?),
        Access::Own(node) => {
            let report = node.verify_and_repair(&mut |so_far| {
                progress.set(so_far.bytes);
                true
            })?;
            Ok(report_json(&report))
        }
    });
    progress.end();
    let report = report?;
    if args.has("json") {
        output::json(&report)?;
    } else {
        let count = |key: &str| report[key].as_array().map_or(0, Vec::len);
        output::text(&format!(
            "{} blocks verified, {} damaged, {} datasets repaired\n",
            report["blocks"],
            count("damaged"),
            count("repaired")
        ))?;
    }
    let lost: Vec<String> = report["lost"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|lost| {
            let text = |key: &str| lost[key].as_str().unwrap_or_default();
            format!("{}: {}", text("cid"), text("reason"))
        })
        .collect();
    if lost.is_empty() { Ok(()) } else { Err(CliError::Partial(lost.join("\n"))) }
}

/// What `stat` tells of a protected dataset: how many further losses each stripe bears.
pub(super) fn stat(
    settings: &Settings,
    cid: &Cid,
    dataset: &Value,
    line: &str,
) -> Result<(), CliError> {
    let protection = &dataset["protection"];
    let number = |key: &str| protection[key].as_u64().unwrap_or(0);
    let root = protection["root"].as_str().unwrap_or_default();
    let mut text = format!("{line}\n{} blocks, protects {root}\n", dataset["blocks"]);
    text += &format!("{} data and {} parity shards a stripe", number("data"), number("parity"));
    if let Some(slot) = protection["slot"].as_object() {
        text += &format!(", slot {} of {} is here", slot["index"], slot["slots"]);
        return output::text(&format!("{text}\n"));
    }
    let losses = with_access(settings, |access| match access {
        Access::Serving(client) => Ok(client.get_json(&format!("/api/v1/losses/{cid}"))?),
        Access::Own(node) => Ok(json!({ "losses": node.losses(cid)? })),
    })?;
    for (lost, stripes) in losses["losses"].as_object().into_iter().flatten() {
        let lost: u64 = lost.parse().unwrap_or(0);
        text += &match number("parity").checked_sub(lost) {
            Some(left) => format!("\n{stripes} stripes bear {left} losses"),
            None => format!("\n{stripes} stripes lost {lost} shards: barrow repair {cid}"),
        };
    }
    output::text(&format!("{text}\n"))
}
