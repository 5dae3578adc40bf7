//! CARs of a path and what it leads to.

use super::{
    Asked,
    conditions::{self, Known},
    content::{IMMUTABLE, finish, with_path},
    format::car_param,
};
use crate::{
    content::car_stream::CarStream,
    data::car::{DagScope, EntityBytes, WalkOptions},
    web::{
        gate::{Body, Reply, ReplyBody},
        http::{error, file_name::disposition},
    },
};
use bytes::Bytes;
use std::task::{Poll, Waker};

pub(super) fn answer(asked: &Asked<'_, '_>) -> Reply {
    let options = match options(asked) {
        Ok(options) => options,
        Err(message) => return error(400, "bad_request", &message),
    };
    let followed = match asked.follow() {
        Ok(followed) => followed,
        Err(reply) => return reply,
    };
    let key = format!("{:?} {options:?}", asked.path);
    let hash = xxhash_rust::xxh3::xxh3_64(key.as_bytes());
    let etag = format!("W/\"{}.car.{hash:x}\"", asked.cid);
    if let Some(reply) = conditions::ended(asked.request, &etag, IMMUTABLE, Known::Tag) {
        return reply;
    }
    // What cannot be had at all is told by a status.
    if let Err(failed) = asked.node.block(&followed.cid, asked.scope) {
        return asked.missing(&failed);
    }
    if let Some(reply) = conditions::ended(asked.request, &etag, IMMUTABLE, Known::Present) {
        return reply;
    }
    let name = asked.request.param("filename").unwrap_or_else(|| format!("{}.car", asked.cid));
    let dups = if options.dups { 'y' } else { 'n' };
    let body = CarBody(asked.node.car(&followed, options, asked.scope));
    let body = ReplyBody::Stream(Box::new(body), None);
    let reply = Reply { status: 200, headers: Vec::new(), body }
        .with(
            "content-type",
            format!("application/vnd.ipld.car; version=1; order=dfs; dups={dups}"),
        )
        .with("etag", etag)
        .with("cache-control", IMMUTABLE)
        .with("accept-ranges", "none")
        .with("content-disposition", disposition("attachment", &name));
    finish(asked, with_path(asked, &followed, reply))
}

/// What the CAR is to have: by parameters of the query, else by those of `Accept`.
fn options(asked: &Asked<'_, '_>) -> Result<WalkOptions, String> {
    let accept = asked.request.header("accept").unwrap_or_default();
    let param = |query: &str, name: &str| {
        let by_accept = || car_param(accept, name).map(ToOwned::to_owned);
        asked.request.param(query).or_else(by_accept)
    };
    if let Some(version) = param("car-version", "version").filter(|version| version != "1") {
        return Err(format!("no version {version:?} of CARs here"));
    }
    match param("car-order", "order").as_deref() {
        // Any order is as good as depth first to who has no wish.
        None | Some("dfs" | "unk") => {}
        Some(order) => return Err(format!("no order {order:?}: dfs or unk")),
    }
    let dups = match param("car-dups", "dups").as_deref() {
        None | Some("n") => false,
        Some("y") => true,
        Some(dups) => return Err(format!("no dups {dups:?}: y or n")),
    };
    let scope = match asked.request.param("dag-scope").as_deref() {
        Some("block") => DagScope::Block,
        Some("entity") => DagScope::Entity,
        Some("all") => DagScope::All,
        Some(scope) => return Err(format!("no dag-scope {scope:?}: block, entity or all")),
        // Bytes are those of an entity.
        None if asked.request.param("entity-bytes").is_some() => DagScope::Entity,
        None => DagScope::All,
    };
    let bytes = match asked.request.param("entity-bytes") {
        Some(text) => match EntityBytes::parse(&text) {
            Some(bytes) => Some(bytes),
            None => return Err(format!("no entity-bytes {text:?}: FROM:TO or FROM:*")),
        },
        None => None,
    };
    Ok(WalkOptions { scope, bytes, dups })
}

struct CarBody(CarStream);

impl Body for CarBody {
    fn poll_chunk(&mut self, waker: &Waker) -> Poll<Option<Result<Bytes, String>>> {
        let chunk = self.0.poll_chunk(waker);
        chunk.map(|chunk| chunk.map(|chunk| chunk.map_err(|failed| failed.to_string())))
    }
}
