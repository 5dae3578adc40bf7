//! What answers with content have in common: their headers, validators and ranges.

use super::{Asked, media_type};
use crate::{
    content::resolve::Followed,
    web::gate::{Reply, ReplyBody},
};
use std::ops::Range;

/// A CID's content never changes.
pub(super) const IMMUTABLE: &str = "public, max-age=29030400, immutable";
/// Pages that we make may change with the next version.
pub(super) const PAGE: &str = "public, max-age=604800, stale-while-revalidate=2678400";
/// Bytes of one header that repeats what the client sent; clients read 2 KiB of all together.
const HEADER_BYTES_MAX: usize = 400;
/// What a stored page may do: run, but in an origin of its own. In the node's origin it could use
/// the API.
const SANDBOX: &str = "sandbox allow-scripts allow-forms allow-popups allow-downloads allow-modals";

/// What stored bytes are sent as.
pub(super) struct Form<'a> {
    pub(super) etag: &'a str,
    pub(super) media_type: &'a str,
    /// All the bytes, of which the range may be a part.
    pub(super) size: u64,
    pub(super) range: Option<Range<u64>>,
}

/// Makes the answer that carries stored bytes. No other function sends any, so that all of them
/// are sandboxed unless their type is known to be passive.
pub(super) fn content(
    asked: &Asked<'_, '_>,
    followed: &Followed,
    form: Form<'_>,
    body: ReplyBody,
) -> Reply {
    let Form { etag, media_type, size, range } = form;
    let status = if range.is_some() { 206 } else { 200 };
    let mut reply = Reply { status, headers: Vec::new(), body }
        .with("content-type", media_type)
        .with("etag", etag)
        .with("cache-control", IMMUTABLE)
        .with("accept-ranges", "bytes");
    if !media_type::is_passive(media_type) {
        reply = reply.with("content-security-policy", SANDBOX);
    }
    let mut reply = with_path(asked, followed, reply);
    if let Some(range) = range {
        let content_range = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        reply = reply.with("content-range", content_range);
    }
    finish(asked, reply)
}

/// Tells the path and what it led through.
pub(super) fn with_path(asked: &Asked<'_, '_>, followed: &Followed, reply: Reply) -> Reply {
    let path = &asked.request.path;
    let roots: Vec<String> = followed.roots.iter().map(ToString::to_string).collect();
    let reply = reply.with("x-content-type-options", "nosniff").with("vary", "Accept");
    let reply = with_bounded(reply, "x-ipfs-path", path.clone());
    let reply = with_bounded(reply, "x-ipfs-roots", roots.join(","));
    let uri = path.strip_prefix("/ipfs/").map(|rest| format!("ipfs://{rest}"));
    with_bounded(reply, "ipfs-uri", uri.unwrap_or_default())
}

/// With a header more, unless it is too long to be read.
pub(super) fn with_bounded(reply: Reply, name: &'static str, value: String) -> Reply {
    if value.is_empty() || value.len() > HEADER_BYTES_MAX { reply } else { reply.with(name, value) }
}

/// The answer as it is, or to HEAD: the length, and nothing else.
pub(super) fn finish(asked: &Asked<'_, '_>, mut reply: Reply) -> Reply {
    if asked.is_head() {
        let length = match &reply.body {
            ReplyBody::Bytes(bytes) => Some(bytes.len() as u64),
            ReplyBody::Stream(_, length) | ReplyBody::Absent(length) => *length,
        };
        reply.body = ReplyBody::Absent(length);
    }
    reply
}
