//! `serve`, and the commands on a serving node.

use super::{Access, CliError, args::Args, client::Client, output, settings::Settings};
use crate::{node::Node, web::http::HttpServer};
use serde_json::{Value, json};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    low_level::pipe,
};
use std::{fs, io, io::Read as _, os::unix::net::UnixStream, path::Path, time::Duration};

/// What is under way at a stop may take this long; the rest of 5 s is for the store.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn serve(settings: &Settings) -> Result<(), CliError> {
    // Before anything else, so that no signal is missed.
    let (mut stop, signal) = UnixStream::pair()?;
    pipe::register(SIGINT, signal.try_clone()?)?;
    pipe::register(SIGTERM, signal)?;
    let node = Node::start(settings.config.clone())?;
    let file = settings.config.data_dir.join("node.json");
    let http = match settings.config.http {
        Some(address) => match HttpServer::start(&node, address) {
            Ok(http) => Some(http),
            Err(error) => {
                node.shutdown();
                return Err(CliError::Failed(format!("cannot answer HTTP at {error}")));
            }
        },
        None => None,
    };
    let mut about = crate::web::http::about(&node);
    about["pid"] = json!(std::process::id());
    about["http"] = json!(http.as_ref().map(|http| http.address().to_string()));
    write_atomically(&file, &about)?;
    let told = format!(
        "barrow {} is {}\n  peers: {}\n  http:  {}",
        env!("CARGO_PKG_VERSION"),
        node.peer_id(),
        node.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        http.as_ref().map_or_else(|| "off".into(), |http| format!("http://{}/", http.address())),
    );
    // Who reads objects gets nothing else.
    if settings.log_json {
        log::info!("{}", told.replace('\n', ","));
    } else {
        output::note(&told);
    }
    node.resume_pins()?;
    node.start_upkeep()?;
    // Waits for a signal.
    let _ = stop.read(&mut [0]);
    log::info!("stopping");
    node.prepare_stop();
    let _ = fs::remove_file(&file);
    if let Some(http) = http {
        http.shutdown(FINISH_TIMEOUT);
    }
    node.shutdown();
    Ok(())
}

fn write_atomically(path: &Path, value: &Value) -> io::Result<()> {
    let draft = path.with_extension("json.new");
    fs::write(&draft, format!("{value}\n"))?;
    fs::rename(&draft, path)
}

/// The serving node, without which there is nothing to ask.
pub(super) fn serving(settings: &Settings) -> Result<Client, CliError> {
    let dir = &settings.config.data_dir;
    Client::of(dir).ok_or_else(|| {
        CliError::Failed(format!("no node serves {}; start one with barrow serve", dir.display()))
    })
}

pub(super) fn id(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let access = Access::open(settings, false)?;
    let about = match &access {
        Access::Serving(client) => client.get_json("/api/v1/node").map_err(CliError::from),
        Access::Own(node) => Ok(crate::web::http::about(node)),
    };
    access.close();
    let about = about?;
    if args.has("json") {
        return output::json(&about);
    }
    output::text(&format!("{}\n", about["peer_id"].as_str().unwrap_or_default()))?;
    for address in about["listen"].as_array().into_iter().flatten() {
        output::text(&format!("{}\n", address.as_str().unwrap_or_default()))?;
    }
    if let Some(external) = about["port_mapping"]["external"].as_str() {
        let by = about["port_mapping"]["by"].as_str().unwrap_or_default();
        output::text(&format!("mapped by the router to {external} ({by})\n"))?;
    }
    match about["reachable"].as_bool() {
        Some(true) => output::text("reachable from outside\n")?,
        Some(false) | None => output::text("not known to be reachable from outside\n")?,
    }
    Ok(())
}

pub(super) fn peers(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let peers = serving(settings)?.get_json("/api/v1/peers")?["peers"].take();
    for peer in peers.as_array().into_iter().flatten() {
        if args.has("json") {
            output::json(peer)?;
            continue;
        }
        let text = |key: &str| peer[key].as_str().unwrap_or_default().to_owned();
        let received = super::human::bytes(peer["bytes_received"].as_u64().unwrap_or(0));
        let sent = super::human::bytes(peer["bytes_sent"].as_u64().unwrap_or(0));
        output::text(&format!(
            "{}  {}  {}  in {received}  out {sent}\n",
            text("peer_id"),
            text("address"),
            text("source"),
        ))?;
    }
    Ok(())
}

pub(super) fn connect(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let target = args.operand(0).map_err(CliError::Usage)?.unwrap_or_default();
    let body = json!({ "address": target }).to_string();
    serving(settings)?.post("/api/v1/peers", &mut body.as_bytes())?;
    Ok(())
}

pub(super) fn transfers(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let operand = |at| args.operand(at).map_err(CliError::Usage);
    let transfers = match (operand(0)?, operand(1)?) {
        (None, _) => serving(settings)?.get_json("/api/v1/transfers")?["transfers"].take(),
        (Some("cancel"), Some(job)) => {
            let job = crate::web::http::escape_url(job);
            json!([serving(settings)?.delete(&format!("/api/v1/transfers/{job}"))?])
        }
        (Some(_), _) => return Err(CliError::Usage("usage: barrow transfers [cancel JOB]".into())),
    };
    for transfer in transfers.as_array().into_iter().flatten() {
        if args.has("json") {
            output::json(transfer)?;
            continue;
        }
        let text = |key: &str| transfer[key].as_str().unwrap_or_default().to_owned();
        let how = format!("{} {}", text("kind"), text("status"));
        let line = progress_of(transfer);
        output::text(&format!("{}  {}  {how}  {line}\n", transfer["job"], text("cid")))?;
    }
    Ok(())
}

/// `1.0 MiB of 3.0 MiB, 500.0 KiB/s, 4 s left, from 2 peers`.
fn progress_of(transfer: &Value) -> String {
    let bytes = |key: &str| super::human::bytes(transfer[key].as_u64().unwrap_or(0));
    let mut parts = vec![match transfer["total"].as_u64() {
        Some(_) => format!("{} of {}", bytes("done"), bytes("total")),
        None => format!("{} received", bytes("received")),
    }];
    if transfer["status"] == "active" {
        parts.push(format!("{}/s", bytes("rate")));
        let left = transfer["remaining_seconds"].as_u64().map(super::human::seconds);
        parts.extend(left.map(|left| format!("{left} left")));
        let sources = transfer["peers"].as_array().map_or(0, Vec::len);
        parts.push(format!("from {sources} peer{}", if sources == 1 { "" } else { "s" }));
    }
    parts.extend(transfer["error"].as_str().map(ToOwned::to_owned));
    parts.join(", ")
}
