//! One block as itself: raw, or of a codec whose blocks are documents.

use super::{
    Asked,
    conditions::{self, Known, wanted_range},
    content::{self, IMMUTABLE, PAGE, content, finish, with_path},
    format::{CBOR, JSON},
    listing,
};
use crate::{
    content::{resolve::Followed, store_stream::Scope},
    data::dag,
    node::Node,
    web::{
        gate::{Body, Reply, ReplyBody},
        http::{error, file_name::disposition},
    },
};
use barrow_wire::{Cid, Codec};
use bytes::Bytes;
use std::{
    ops::Range,
    task::{Poll, Waker},
};

/// Bytes of a block that wait for their client as they are; a larger one is read again.
const KEPT_BYTES_MAX: usize = 4 << 10;

/// A block in one of its forms.
struct Form<'a> {
    etag: String,
    media_type: &'a str,
    disposition: String,
}

/// The media type of a document's codec, the ending of its file, and whether browsers show it.
pub(super) fn media_type(codec: Codec) -> (&'static str, &'static str, bool) {
    match codec {
        Codec::DagJson => ("application/vnd.ipld.dag-json", "json", true),
        Codec::DagCbor => ("application/vnd.ipld.dag-cbor", "cbor", false),
        JSON => ("application/json", "json", true),
        CBOR => ("application/cbor", "cbor", false),
        Codec::Raw | Codec::DagPb | Codec::Other(_) => ("application/octet-stream", "bin", false),
    }
}

pub(super) fn mismatch(codec: Codec) -> Reply {
    let message = format!("the block has the codec {:#x}; no other is made of it", codec.code());
    error(406, "not_acceptable", &message)
}

pub(super) fn raw(asked: &Asked<'_, '_>) -> Reply {
    let followed = match asked.follow() {
        Ok(followed) => followed,
        Err(reply) => return reply,
    };
    if !followed.rest.is_empty() {
        return error(404, "not_found", "the path ends within a block");
    }
    let cid = followed.cid;
    let name = asked.request.param("filename").unwrap_or_else(|| format!("{cid}.bin"));
    let form = Form {
        etag: format!("\"{cid}.raw\""),
        media_type: "application/vnd.ipld.raw",
        disposition: disposition("attachment", &name),
    };
    answer(asked, &followed, &form)
}

/// A document, as its codec says or as the plain codec that it is one of.
pub(super) fn data(asked: &Asked<'_, '_>, followed: &Followed, wanted: Option<Codec>) -> Reply {
    let own = followed.cid.codec();
    let fits = match wanted {
        None => true,
        Some(JSON) => matches!(own, Codec::DagJson | JSON),
        Some(CBOR) => matches!(own, Codec::DagCbor | CBOR),
        Some(wanted) => wanted == own,
    };
    if !fits {
        return mismatch(own);
    }
    let (media_type, ending, is_shown) = media_type(wanted.unwrap_or(own));
    let cid = followed.cid;
    let tag = match wanted.unwrap_or(own) {
        Codec::DagJson => "dag-json",
        Codec::DagCbor => "dag-cbor",
        JSON | CBOR | Codec::Raw | Codec::DagPb | Codec::Other(_) => ending,
    };
    let name = asked.request.param("filename").unwrap_or_else(|| format!("{cid}.{ending}"));
    let download = asked.request.param("download").as_deref() == Some("true");
    let how = if is_shown && !download { "inline" } else { "attachment" };
    let form =
        Form { etag: format!("\"{cid}.{tag}\""), media_type, disposition: disposition(how, &name) };
    answer(asked, followed, &form)
}

fn answer(asked: &Asked<'_, '_>, followed: &Followed, form: &Form<'_>) -> Reply {
    let etag = &form.etag;
    if let Some(reply) = conditions::ended(asked.request, etag, IMMUTABLE, Known::Tag) {
        return reply;
    }
    let block = match asked.node.block(&followed.cid, asked.scope) {
        Ok(block) => block,
        Err(failed) => return asked.missing(&failed),
    };
    if let Some(reply) = conditions::ended(asked.request, etag, IMMUTABLE, Known::Present) {
        return reply;
    }
    let size = block.len() as u64;
    let range = match wanted_range(asked.request, etag, size) {
        Ok(range) => range,
        Err(reply) => return reply,
    };
    let (from, to) = range.clone().map_or((0, size), |range| (range.start, range.end));
    let body = if block.len() <= KEPT_BYTES_MAX {
        // A copy, so that the block's buffer is free.
        ReplyBody::Bytes(Bytes::copy_from_slice(&block[bounds(from..to)]))
    } else {
        let body = BlockBody { node: asked.node.clone(), cid: followed.cid, range: from..to };
        ReplyBody::Stream(Box::new(body), Some(to - from))
    };
    let sent = content::Form { etag, media_type: form.media_type, size, range };
    content(asked, followed, sent, body).with("content-disposition", form.disposition.clone())
}

fn bounds(range: Range<u64>) -> Range<usize> {
    let index = |offset: u64| usize::try_from(offset).expect("within a block");
    index(range.start)..index(range.end)
}

/// A block that is read once its client can take it, and again if it did not.
struct BlockBody {
    node: Node,
    cid: Cid,
    range: Range<u64>,
}

impl Body for BlockBody {
    fn poll_chunk(&mut self, _: &Waker) -> Poll<Option<Result<Bytes, String>>> {
        if self.range.is_empty() {
            return Poll::Ready(None);
        }
        let range = self.range.clone();
        self.range.start = range.end;
        // It was here for the answer's head.
        let block = self.node.block(&self.cid, Scope::Local);
        let chunk = block.map(|block| block.slice(bounds(range)));
        Poll::Ready(Some(chunk.map_err(|failed| failed.to_string())))
    }

    fn can_rewind(&self) -> bool {
        true
    }

    fn rewind(&mut self, bytes: u64) -> bool {
        self.range.start -= bytes;
        true
    }
}

/// A page that tells of a document and its links.
pub(super) fn preview(asked: &Asked<'_, '_>, followed: &Followed) -> Reply {
    let cid = followed.cid;
    let etag = format!("\"DagIndex-{}_CID-{cid}\"", listing::VERSION);
    let block = match asked.node.block(&cid, asked.scope) {
        Ok(block) => block,
        Err(failed) => return asked.missing(&failed),
    };
    if let Some(reply) = conditions::ended(asked.request, &etag, PAGE, Known::Present) {
        return reply;
    }
    let links = dag::links(&cid, &block).unwrap_or_default();
    let page = listing::document(&cid, block.len(), &links);
    let reply = listing::reply(page, etag);
    finish(asked, with_path(asked, followed, reply))
}
