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
use crate::{node::Stored, web::http::report_json};
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

pub(super) fn repair(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let cid = cid_operand(args)?;
    let mut progress = Progress::new("repairing", None);
    let done = with_access(settings, |access| match access {
        Access::Serving(client) => {
            Ok(client.job(&format!("/api/v1/repair/{cid}"), &mut |line| {
                progress.set_told(line);
            })?)
        }
        Access::Own(node) => {
            let done = node.repair(&cid, &mut |so_far| {
                progress.set_left(so_far.bytes_here, so_far.bytes_left);
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
    let mut progress = Progress::new("verifying", None);
    let report = with_access(settings, |access| match access {
        Access::Serving(client) => Ok(client.job("/api/v1/verify?repair=true", &mut |line| {
            progress.set_of(line["bytes"].as_u64().unwrap_or(0), line["bytes_total"].as_u64());
        })?),
        Access::Own(node) => {
            let report = node.verify_and_repair(&mut |so_far| {
                progress.set_of(so_far.bytes, Some(so_far.bytes_total));
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
    if report["index"] == "damaged" {
        let text = "the index is damaged; start the node again, or run verify without one, which makes it anew";
        return Err(CliError::Partial(text.into()));
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
pub(super) fn stat(cid: &Cid, dataset: &Value, line: &str) -> Result<(), CliError> {
    let protection = &dataset["protection"];
    let parity = protection["parity"].as_u64().unwrap_or(0);
    let root = protection["root"].as_str().unwrap_or_default();
    let mut text = format!("{line}\n{} blocks, protects {root}\n", dataset["blocks"]);
    text += &format!("{} data and {parity} parity shards a stripe", protection["data"]);
    let slot = protection["slot"].as_object();
    if let Some(slot) = slot {
        text += &format!(", slot {} of {} is here", slot["index"], slot["slots"]);
    }
    if let Some(error) = dataset["standing"]["error"].as_str() {
        text += &format!("\nits manifest is damaged, {error}: barrow repair {cid}");
    }
    for (lost, stripes) in dataset["standing"]["losses"].as_object().into_iter().flatten() {
        let lost: u64 = lost.parse().unwrap_or(0);
        text += &match parity.checked_sub(lost) {
            _ if slot.is_some() && lost == 0 => format!("\n{stripes} stripes are whole"),
            Some(left) if slot.is_none() => format!("\n{stripes} stripes bear {left} losses"),
            _ => format!("\n{stripes} stripes lost {lost} shards: barrow repair {cid}"),
        };
    }
    text.push('\n');
    if !dataset["spread"].is_null() {
        text += &super::spread::lines_of(&dataset["spread"]);
    }
    output::text(&text)
}

/// What `ls` says behind a dataset that lacks something.
pub(super) fn warning(dataset: &Value) -> String {
    let standing = &dataset["standing"];
    if standing.is_null() || standing["whole"] == true {
        return String::new();
    }
    let what = match (standing["lost"].as_u64(), standing["bears"].as_u64()) {
        (Some(lost), _) if lost > 0 => {
            format!("{lost} of {} stripes are lost", standing["stripes"])
        }
        (_, Some(bears)) => {
            format!("bears {bears} of {} losses", dataset["protection"]["parity"])
        }
        _ => "some of it is lost".to_owned(),
    };
    format!("  {what}: barrow repair {}", dataset["root"].as_str().unwrap_or_default())
}
