//! Commands on what is stored: get, pin, ls and the like.

use super::{
    Access, CliError, args::Args, client::Bytes, draft, human, output, progress::Progress,
    settings::Settings,
};
use crate::{
    base::clock::unix_seconds,
    content::{
        fetch::FetchProgress,
        resolve::ResolvedKind,
        store_stream::{GetError, Scope},
    },
    node::Node,
    store::local_store::Slot,
};
use barrow_wire::Cid;
use serde_json::{Value, json};
use std::{
    io::{self, Read, Write},
    path::Path,
};

/// Bytes of one copy.
const COPY_BYTES: usize = 256 << 10;

pub(super) fn cid_operand(args: &Args) -> Result<Cid, CliError> {
    let text = args.operand(0).map_err(CliError::Usage)?.unwrap_or_default();
    text.parse().map_err(|error| CliError::Usage(format!("{text:?}: {error}; see barrow ls")))
}

/// Runs `act` on what the data directory is reached through, and closes it.
pub(super) fn with_access<T>(
    settings: &Settings,
    act: impl FnOnce(&Access) -> Result<T, CliError>,
) -> Result<T, CliError> {
    let access = Access::open(settings, false)?;
    let done = act(&access);
    access.close();
    done
}

pub(super) fn get(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let target = args.operand(0).map_err(CliError::Usage)?.unwrap_or_default();
    let target = target.strip_prefix("/ipfs/").unwrap_or(target);
    let (cid, path) = target.split_once('/').unwrap_or((target, ""));
    let cid: Cid = cid.parse().map_err(|error| CliError::Usage(format!("{cid:?}: {error}")))?;
    let path: Vec<String> =
        path.split('/').filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect();
    let output = args.last("output").map_err(CliError::Usage)?;
    // Without a store yet, a download makes one: what comes is kept there.
    let access = Access::open(settings, true)?;
    let done = match output.filter(|name| name != "-") {
        Some(name) => content(&access, &cid, &path).and_then(|(total, reader)| {
            draft::save(reader, Path::new(&name), total, &format!("{cid}/{}", path.join("/")))
        }),
        None => content(&access, &cid, &path).and_then(|(total, reader)| {
            copy(reader, &mut io::stdout().lock(), 0, total).map(|_| ())
        }),
    };
    access.close();
    done
}

/// Opens a file from its first byte. What an earlier run downloaded comes from the store.
fn content(access: &Access, cid: &Cid, path: &[String]) -> Result<Bytes, CliError> {
    match access {
        Access::Serving(client) => {
            let mut url = format!("/ipfs/{cid}");
            for name in path {
                url += &format!("/{}", crate::web::http::escape_url(name));
            }
            Ok(client.get_content(&url)?)
        }
        Access::Own(node) => {
            let node = node.for_one_download();
            let resolved = node.resolve(cid, path, Scope::Network)?;
            let ResolvedKind::File(size) = resolved.kind else {
                return Err(CliError::Failed("it is a directory: name a file in it".into()));
            };
            Ok((Some(size), Box::new(node.get(&resolved.cid)?)))
        }
    }
}

pub(super) fn copy(
    mut reader: Box<dyn Read>,
    out: &mut dyn Write,
    from: u64,
    total: Option<u64>,
) -> Result<u64, CliError> {
    let mut progress = Progress::new("fetching", total.map(|total| from + total));
    progress.set(from);
    let mut buffer = vec![0; COPY_BYTES];
    let mut written = 0;
    loop {
        let len = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(cut_off(error)),
        };
        match out.write_all(&buffer[..len]) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(written),
            wrote => wrote?,
        }
        written += len as u64;
        progress.add(len as u64);
    }
    out.flush()?;
    Ok(written)
}

/// A lost stripe is told as such, wherever in the file it is.
fn cut_off(error: io::Error) -> CliError {
    match error.downcast::<GetError>() {
        Ok(error) => error.into(),
        Err(error) => CliError::Failed(format!("cut off: {error}")),
    }
}

pub(super) fn pin(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let cid = cid_operand(args)?;
    let given = |name| args.last(name).map_err(CliError::Usage);
    let slot: Option<Slot> = given("slot")?
        .map(|text| text.parse().map_err(|error: &str| CliError::Usage(error.into())))
        .transpose()?;
    let seconds = given("for")?
        .map(|text| human::parse_seconds(&text).map_err(CliError::Usage))
        .transpose()?;
    let mut progress = Progress::new("fetching", None);
    let access = Access::open(settings, true)?;
    let done = match &access {
        Access::Serving(client) => {
            let slot = slot.map(|Slot { index, slots }| format!("slot={index}/{slots}"));
            let seconds = seconds.map(|seconds| format!("for={seconds}"));
            let asked: Vec<String> = slot.into_iter().chain(seconds).collect();
            let path = format!("/api/v1/pins/{cid}?{}", asked.join("&"));
            client.job(&path, &mut |line| progress.set_told(line)).map_err(CliError::from)
        }
        Access::Own(node) => pin_own(node, &cid, slot, seconds, &mut progress),
    };
    progress.end();
    access.close();
    let done = done?;
    if args.has("json") { output::json(&done) } else { output::text(&format!("{cid}\n")) }
}

fn pin_own(
    node: &Node,
    cid: &Cid,
    slot: Option<Slot>,
    seconds: Option<u64>,
    progress: &mut Progress,
) -> Result<Value, CliError> {
    let mut tell = |so_far: &FetchProgress| {
        progress.set_left(so_far.bytes_here, so_far.bytes_left);
        true
    };
    let done = match slot {
        Some(slot) => node.pin_slot(cid, slot, &mut tell)?,
        None => node.pin(cid, &mut tell)?,
    };
    if let Some(seconds) = seconds {
        node.pin_for(cid, seconds)?;
    }
    Ok(json!({ "done": true, "blocks": done.blocks }))
}

pub(super) fn unpin(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let cid = cid_operand(args)?;
    with_access(settings, |access| match access {
        Access::Serving(client) => {
            client.delete(&format!("/api/v1/pins/{cid}"))?;
            Ok(())
        }
        Access::Own(node) => match node.unpin(&cid)? {
            true => Ok(()),
            false => Err(not_stored(&cid)),
        },
    })
}

fn not_stored(cid: &Cid) -> CliError {
    CliError::Failed(format!("no dataset {cid} is stored here; see barrow ls"))
}

pub(super) fn ls(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let datasets = with_access(settings, |access| match access {
        Access::Serving(client) => {
            Ok(client.get_json("/api/v1/datasets?standing=true")?["datasets"].take())
        }
        Access::Own(node) => {
            Ok(node.datasets()?.iter().map(|dataset| node.dataset_json(dataset)).collect())
        }
    })?;
    for dataset in datasets.as_array().into_iter().flatten() {
        if args.has("json") {
            output::json(dataset)?;
        } else {
            let warning = super::protected::warning(dataset);
            output::text(&format!("{}{warning}\n", line_of(dataset)))?;
        }
    }
    Ok(())
}

fn line_of(dataset: &Value) -> String {
    let pinned = match (dataset["pinned"] == true, dataset["expires"].as_u64()) {
        (true, Some(end)) => human::time_left(end.saturating_sub(unix_seconds())),
        (true, None) => "pinned".into(),
        (false, _) => "cached".into(),
    };
    let size = human::bytes(dataset["size"].as_u64().unwrap_or(0));
    let root = dataset["root"].as_str().unwrap_or_default();
    let name = dataset["name"].as_str().unwrap_or_default();
    let name: String = name.chars().filter(|c| !c.is_control()).collect();
    format!("{root}  {pinned:<6}  {size:>10}  {name}").trim_end().to_owned()
}

pub(super) fn stat(args: &Args, settings: &Settings) -> Result<(), CliError> {
    if args.operands.is_empty() {
        return stat_store(args, settings);
    }
    let cid = cid_operand(args)?;
    let dataset = with_access(settings, |access| match access {
        Access::Serving(client) => Ok(client.get_json(&format!("/api/v1/datasets/{cid}"))?),
        Access::Own(node) => {
            Ok(node.dataset_detail(&node.dataset(&cid)?.ok_or_else(|| not_stored(&cid))?)?)
        }
    })?;
    if args.has("json") {
        return output::json(&dataset);
    }
    let blocks = dataset["blocks"].as_u64().unwrap_or(0);
    if !dataset["protection"].is_null() {
        return super::protected::stat(&cid, &dataset, &line_of(&dataset));
    }
    let state = match dataset["whole"] == false {
        true => format!("something is lost: barrow repair {cid}"),
        false => "complete".into(),
    };
    output::text(&format!("{}\n{blocks} blocks, {state}\n", line_of(&dataset)))
}

fn stat_store(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let stat = with_access(settings, |access| match access {
        Access::Serving(client) => Ok(client.get_json("/api/v1/node")?["store"].take()),
        Access::Own(node) => Ok(crate::web::http::store_stat(node)),
    })?;
    if args.has("json") {
        return output::json(&stat);
    }
    let number = |key: &str| stat[key].as_u64().unwrap_or(0);
    let quota = match number("quota_bytes") {
        0 => "no quota".to_owned(),
        quota => format!("quota {}", human::bytes(quota)),
    };
    output::text(&format!(
        "{} blocks, {}, {quota}\n",
        number("blocks"),
        human::bytes(number("bytes"))
    ))
}

pub(super) fn rm(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let cid = cid_operand(args)?;
    let removed = with_access(settings, |access| match access {
        Access::Serving(client) => Ok(client.delete(&format!("/api/v1/datasets/{cid}"))?),
        Access::Own(node) => Ok(json!(node.remove(&cid)?.ok_or_else(|| not_stored(&cid))?)),
    })?;
    print_removed(args, &removed)
}

pub(super) fn gc(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let removed = with_access(settings, |access| match access {
        Access::Serving(client) => Ok(client.post("/api/v1/gc", &mut io::empty())?),
        Access::Own(node) => Ok(json!(node.gc()?)),
    })?;
    print_removed(args, &removed)
}

fn print_removed(args: &Args, removed: &Value) -> Result<(), CliError> {
    if args.has("json") {
        return output::json(removed);
    }
    let blocks = removed["blocks"].as_u64().unwrap_or(0);
    let bytes = human::bytes(removed["bytes"].as_u64().unwrap_or(0));
    output::text(&format!("{blocks} blocks removed, {bytes}\n"))
}

pub(super) fn verify(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let report = verified(settings)?;
    // A store that was opened for this alone is opened once more, which makes the index anew.
    let report = match report["index"] == "damaged" {
        true => verified(settings)?,
        false => report,
    };
    let damaged = report["damaged"].as_array().map_or(0, Vec::len);
    if args.has("json") {
        output::json(&report)?;
    } else {
        output::text(&format!("{} blocks verified, {damaged} damaged\n", report["blocks"]))?;
    }
    if report["index"] == "damaged" {
        let text = "the index is damaged; start the node again, which makes it anew";
        return Err(CliError::Partial(text.into()));
    }
    let mut wrong = Vec::new();
    if damaged > 0 {
        wrong.push(format!("{damaged} blocks are damaged and no longer served"));
    }
    for cid in report["incomplete"].as_array().into_iter().flatten() {
        wrong.push(format!("{} lacks something", cid.as_str().unwrap_or_default()));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    wrong.push("barrow verify --repair brings it back from parity and peers".into());
    Err(CliError::Partial(wrong.join("; ")))
}

fn verified(settings: &Settings) -> Result<Value, CliError> {
    let mut progress = Progress::new("verifying", None);
    let report = with_access(settings, |access| match access {
        Access::Serving(client) => Ok(client.job("/api/v1/verify", &mut |line| {
            progress.set_of(line["bytes"].as_u64().unwrap_or(0), line["bytes_total"].as_u64());
        })?),
        Access::Own(node) => {
            let report = node.verify(&mut |so_far| {
                progress.set_of(so_far.bytes, Some(so_far.bytes_total));
                true
            })?;
            Ok(crate::web::http::verify_json(&report))
        }
    });
    progress.end();
    report
}
