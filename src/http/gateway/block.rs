//! One block as itself: raw, or of a codec whose blocks are documents.

use super::{
    Asked,
    content::{
        IMMUTABLE, PAGE, content, disposition, finish, is_unchanged, unchanged, wanted_range,
        with_path,
    },
    format::{CBOR, JSON},
    listing,
};
use crate::{
    dag,
    gate::{Reply, ReplyBody},
    http::error,
    resolve::Followed,
};
use barrow_wire::Codec;

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
    let followed = match asked.node.follow(&asked.cid, &asked.path, asked.scope) {
        Ok(followed) => followed,
        Err(failed) => return asked.missing(&failed),
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
    if is_unchanged(asked.request, etag) {
        return unchanged(etag, IMMUTABLE);
    }
    let block = match asked.node.block(&followed.cid, asked.scope) {
        Ok(block) => block,
        Err(failed) => return asked.missing(&failed),
    };
    let size = block.len() as u64;
    let range = match wanted_range(asked.request, etag, size) {
        Ok(range) => range,
        Err(reply) => return reply,
    };
    let (from, to) = range.clone().map_or((0, size), |range| (range.start, range.end));
    let index = |offset: u64| usize::try_from(offset).expect("within a block");
    let body = ReplyBody::Bytes(block.slice(index(from)..index(to)));
    content(asked, followed, etag, size, range, body)
        .with("content-type", form.media_type)
        .with("content-disposition", form.disposition.clone())
}

/// A page that tells of a document and its links.
pub(super) fn preview(asked: &Asked<'_, '_>, followed: &Followed) -> Reply {
    let cid = followed.cid;
    let etag = format!("\"DagIndex-{}_CID-{cid}\"", listing::VERSION);
    if is_unchanged(asked.request, &etag) {
        return unchanged(&etag, PAGE);
    }
    let block = match asked.node.block(&cid, asked.scope) {
        Ok(block) => block,
        Err(failed) => return asked.missing(&failed),
    };
    let links = dag::links(&cid, &block).unwrap_or_default();
    let page = listing::document(&cid, block.len(), &links);
    let reply = listing::reply(page, etag);
    finish(asked, with_path(asked, followed, reply))
}
