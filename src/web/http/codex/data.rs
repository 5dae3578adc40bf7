//! Datasets: upload, list, download, delete, fetch from the swarm.

use super::{App, error, json_reply};
use crate::{
    content::store_stream::{GetError, Scope},
    data::unixfs::{Node as UnixFsNode, Profile, content_size},
    engine::JobId,
    node::{Node, PinTransfer, PutOptions},
    store::local_store::DatasetInfo,
    web::{
        gate::{Reply, ReplyBody, Request},
        http::{
            api,
            file_name::{self, disposition},
            gateway::{FileBody, Known, ended, is_media_type, wanted_range},
            get_error, transfers,
        },
    },
};
use barrow_wire::{Cid, Codec};
use serde_json::{Value, json};
use std::sync::Arc;

/// Content may change its name, but not its bytes; the name is not in the tag.
const REVALIDATE: &str = "no-cache";

pub(super) fn list(app: &App) -> Reply {
    match app.node.datasets() {
        Ok(datasets) => {
            let items: Vec<Value> = datasets
                .iter()
                .map(|dataset| item(&app.node, &dataset.info.root, Some(&dataset.info)))
                .collect();
            json_reply(&json!({ "content": items }))
        }
        Err(failed) => api::store_error(&failed),
    }
}

/// A dataset as the REST shows it.
fn item(node: &Node, cid: &Cid, info: Option<&DatasetInfo>) -> Value {
    let block = node.block(cid, Scope::Local).unwrap_or_default();
    let block_size = match UnixFsNode::parse(cid, &block) {
        Ok(UnixFsNode::File { children, .. }) => children.first().map(|child| child.size),
        Ok(_) | Err(_) => None,
    };
    let mut manifest = json!({
        "treeCid": cid.to_string(),
        "datasetSize": info.map_or_else(|| content_size(cid, &block), |info| info.size),
        "blockSize": block_size.unwrap_or(Profile::default().chunk_bytes() as u64),
        "protected": cid.codec() == Codec::DagCbor,
    });
    if let Some(name) = info.and_then(|info| info.name.as_ref()) {
        manifest["filename"] = name.as_str().into();
    }
    if let Some(mimetype) = info.and_then(|info| info.mimetype.as_ref()) {
        manifest["mimetype"] = mimetype.as_str().into();
    }
    json!({ "cid": cid.to_string(), "manifest": manifest })
}

pub(super) fn upload(app: &App, request: &mut Request<'_>) -> Reply {
    let options = match upload_options(request) {
        Ok(options) => options,
        Err(message) => return error(422, "unprocessable", &message),
    };
    match app.node.put_with(request.body(), options, &mut |_| {}) {
        Ok(stored) => Reply::new(200, "text/plain; charset=utf-8", stored.cid.to_string())
            .with("cache-control", "no-store")
            .with("x-content-type-options", "nosniff"),
        Err(failed) => api::put_error(&failed),
    }
}

fn upload_options(request: &Request<'_>) -> Result<PutOptions, String> {
    let name = match request.header("content-disposition") {
        Some(text) => {
            let name = file_name::parse(text);
            Some(name.ok_or("the Content-Disposition has no filename that can be stored")?)
        }
        None => None,
    };
    let mimetype = request.header("content-type").map(ToOwned::to_owned);
    if let Some(mimetype) = mimetype.as_deref().filter(|mimetype| !is_media_type(mimetype)) {
        return Err(format!(
            "invalid Content-Type {mimetype:?}; use one type, for example text/plain"
        ));
    }
    let profile = match request.param("blockSize").as_deref() {
        None => Profile::default(),
        Some(size) => [Profile::UnixfsV1_2025, Profile::KuboDefault]
            .into_iter()
            .find(|profile| size.parse() == Ok(profile.chunk_bytes()))
            .ok_or("the blockSize is neither 1048576 nor 262144")?,
    };
    Ok(PutOptions { profile, name, mimetype, ..PutOptions::default() })
}

/// A download of what is here in whole; no packet is sent for it.
pub(super) fn local(app: &App, request: &Request<'_>, cid: &Cid) -> Reply {
    match app.node.is_here(cid) {
        Ok(true) => stream(app, request, cid, Scope::Local),
        Ok(false) => error(404, "not_found", "not all of it is in the store of this node"),
        Err(failed) => error(500, "store", &failed.to_string()),
    }
}

/// A download through the swarm.
pub(super) fn network(app: &App, request: &Request<'_>, cid: &Cid) -> Reply {
    stream(app, request, cid, Scope::Network)
}

fn stream(app: &App, request: &Request<'_>, cid: &Cid, scope: Scope) -> Reply {
    let etag = format!("\"{cid}\"");
    if let Some(reply) = ended(request, &etag, REVALIDATE, Known::Tag) {
        return reply;
    }
    let stream = match app.node.open(cid, scope) {
        Ok(stream) => stream,
        Err(failed) => return data_error(&failed),
    };
    if let Some(reply) = ended(request, &etag, REVALIDATE, Known::Present) {
        return reply;
    }
    let size = stream.size();
    let range = match wanted_range(request, &etag, size) {
        Ok(range) => range,
        Err(reply) => return reply,
    };
    let info = app.node.dataset(cid).ok().flatten().map(|dataset| dataset.info);
    let mimetype = info.as_ref().and_then(|info| info.mimetype.clone());
    let mimetype = mimetype.filter(|mimetype| is_media_type(mimetype));
    let mimetype = mimetype.unwrap_or_else(|| "application/octet-stream".into());
    let (from, to) = range.clone().map_or((0, size), |range| (range.start, range.end));
    let (body, mimetype) = match FileBody::begin(stream, from..to, Some(mimetype)) {
        Ok(begun) => begun,
        Err(failed) => return data_error(&failed),
    };
    let name = info.and_then(|info| info.name).unwrap_or_else(|| cid.to_string());
    let is_head = request.method == "HEAD";
    let body = match is_head {
        true => ReplyBody::Absent(Some(to - from)),
        false => ReplyBody::Stream(Box::new(body), Some(to - from)),
    };
    let status = if range.is_some() { 206 } else { 200 };
    let reply = Reply { status, headers: Vec::new(), body }
        .with("content-type", mimetype)
        // Never shown in this node's origin, whose API a page could use.
        .with("content-disposition", disposition("attachment", &name))
        .with("content-security-policy", "sandbox")
        .with("x-content-type-options", "nosniff")
        .with("vary", "Accept")
        .with("cache-control", REVALIDATE)
        .with("accept-ranges", "bytes")
        .with("etag", etag);
    match range {
        Some(range) => {
            reply.with("content-range", format!("bytes {}-{}/{size}", range.start, range.end - 1))
        }
        None => reply,
    }
}

/// What is no file cannot be downloaded as one: the request is wrong.
fn data_error(failed: &GetError) -> Reply {
    if matches!(failed, GetError::NotAFile(_)) {
        return error(400, "not_a_file", &failed.to_string());
    }
    get_error(failed)
}

pub(super) fn delete(app: &App, cid: &Cid) -> Reply {
    match app.node.remove(cid) {
        // What is not here is deleted.
        Ok(_) => done(),
        Err(failed) => api::store_error(&failed),
    }
}

fn done() -> Reply {
    Reply { status: 204, headers: Vec::new(), body: ReplyBody::Absent(None) }
}

/// Both the name that the reference's code answers with and that of its description.
pub(super) fn exists(app: &App, cid: &Cid) -> Reply {
    match app.node.is_here(cid) {
        Ok(here) => json_reply(&json!({ cid.to_string(): here, "has": here })),
        Err(failed) => error(500, "store", &failed.to_string()),
    }
}

pub(super) fn manifest(app: &App, cid: &Cid) -> Reply {
    match fetch_item(&app.node, cid) {
        Ok(item) => json_reply(&item),
        Err(reply) => reply,
    }
}

/// The root block is enough to know the dataset by; it is fetched if it lacks.
fn fetch_item(node: &Node, cid: &Cid) -> Result<Value, Reply> {
    node.block(cid, Scope::Network).map_err(|failed| data_error(&failed))?;
    let info = node.dataset(cid).ok().flatten().map(|dataset| dataset.info);
    Ok(item(node, cid, info.as_ref()))
}

/// Begins to fetch a dataset to keep it.
pub(super) fn fetch(app: &App, cid: &Cid) -> Reply {
    let node = app.node.for_one_download();
    let mut item = match fetch_item(&node, cid) {
        Ok(item) => item,
        Err(reply) => return reply,
    };
    match transfers::start(&node, cid) {
        Some(transfer) => {
            item["downloadId"] = transfer.job().0.into();
            json_reply(&item)
        }
        None => error(409, "busy", "too many downloads run at this time"),
    }
}

fn download(app: &App, cid: &Cid, id: &str) -> Option<Arc<PinTransfer>> {
    let pin = app.node.pin_transfer(JobId(id.parse().ok()?))?;
    Some(pin).filter(|pin| pin.cid().multihash() == cid.multihash())
}

pub(super) fn progress(app: &App, cid: &Cid, id: &str) -> Reply {
    let Some(transfer) = download(app, cid, id) else {
        return error(404, "not_found", "there is no such download");
    };
    let progress = transfer.progress();
    json_reply(&json!({
        "active": transfer.is_open(),
        "received": progress.blocks,
        "total": progress.blocks + progress.blocks_left,
        "bytes": progress.bytes_fetched,
    }))
}

pub(super) fn cancel(app: &App, cid: &Cid, id: &str) -> Reply {
    match download(app, cid, id) {
        Some(transfer) => {
            app.node.cancel_transfer(transfer.job());
            done()
        }
        None => error(404, "not_found", "there is no such download"),
    }
}
