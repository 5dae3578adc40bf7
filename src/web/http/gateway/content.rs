//! What answers with content have in common: their headers, validators and ranges.

use super::{Asked, escape_url};
use crate::{
    content::resolve::Followed,
    web::{
        gate::{Reply, ReplyBody, Request},
        http::error,
    },
};
use std::ops::Range;

/// A CID's content never changes.
pub(super) const IMMUTABLE: &str = "public, max-age=29030400, immutable";
/// Pages that we make may change with the next version.
pub(super) const PAGE: &str = "public, max-age=604800, stale-while-revalidate=2678400";
/// Bytes of one header that repeats what the client sent; clients read 2 KiB of all together.
const HEADER_BYTES_MAX: usize = 400;
/// Characters of a file name in a header.
const NAME_CHARS_MAX: usize = 64;

/// The headers that all content has, and the range.
pub(super) fn content(
    asked: &Asked<'_, '_>,
    followed: &Followed,
    etag: &str,
    size: u64,
    range: Option<Range<u64>>,
    body: ReplyBody,
) -> Reply {
    let status = if range.is_some() { 206 } else { 200 };
    let reply = Reply { status, headers: Vec::new(), body }
        .with("etag", etag)
        .with("cache-control", IMMUTABLE)
        .with("accept-ranges", "bytes");
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

/// Whether the client has what is tagged so (RFC 9110, section 13.1.2: weakly compared).
pub(in crate::web::http) fn is_unchanged(request: &Request<'_>, etag: &str) -> bool {
    let bare = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    request.header("if-none-match").is_some_and(|known| {
        known.split(',').map(str::trim).any(|one| one == "*" || bare(one) == bare(etag))
    })
}

pub(in crate::web::http) fn unchanged(etag: &str, cache_control: &str) -> Reply {
    Reply { status: 304, headers: Vec::new(), body: ReplyBody::Absent(None) }
        .with("etag", etag)
        .with("cache-control", cache_control)
}

/// The first range asked for, if it is one of bytes that can be satisfied and `If-Range`, if
/// given, names what is here.
pub(in crate::web::http) fn wanted_range(
    request: &Request<'_>,
    etag: &str,
    size: u64,
) -> Result<Option<Range<u64>>, Reply> {
    let Some(text) = request.header("range").and_then(|range| range.strip_prefix("bytes=")) else {
        return Ok(None);
    };
    if request.header("if-range").is_some_and(|known| known != etag) {
        return Ok(None);
    }
    let first = text.split(',').next().unwrap_or_default().trim();
    let Some((from, to)) = first.split_once('-') else { return Ok(None) };
    let number = |digits: &str| {
        let sound = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
        sound.then(|| digits.parse::<u64>().unwrap_or(u64::MAX))
    };
    let range = match (number(from), number(to)) {
        (Some(from), None) if to.is_empty() => from..size,
        (Some(from), Some(to)) if from <= to => from..to.saturating_add(1).min(size),
        (None, Some(last)) if from.is_empty() => size.saturating_sub(last)..size,
        // What is no range is ignored (RFC 9110, section 14.2).
        _ => return Ok(None),
    };
    if range.start >= size || range.is_empty() {
        return Err(error(416, "range", "there are no such bytes")
            .with("content-range", format!("bytes */{size}")));
    }
    Ok(Some(range))
}

/// Names a download: plain where the name is plain, else as RFC 5987 says.
pub(in crate::web::http) fn disposition(how: &str, name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_graphic() && !"\"\\/%".contains(c) || c == ' ' { c } else { '_' })
        .take(2 * NAME_CHARS_MAX)
        .collect();
    if plain == name {
        return format!("{how}; filename=\"{plain}\"");
    }
    let name: String = name.chars().take(NAME_CHARS_MAX).collect();
    format!("{how}; filename=\"{plain}\"; filename*=UTF-8''{}", escape_url(&name))
}

#[cfg(test)]
mod tests {
    use super::disposition;

    #[test]
    fn a_name_cannot_break_out_of_its_header() {
        assert_eq!(disposition("inline", "a b.txt"), "inline; filename=\"a b.txt\"");
        let hostile = disposition("inline", "a\"; x=\"\r\nSet-Cookie: y/../\u{e9}");
        assert!(!hostile.contains('\r') && !hostile.contains('\n'), "{hostile}");
        assert_eq!(hostile.matches('"').count(), 2, "{hostile}");
        assert!(hostile.ends_with("..%2F%C3%A9"), "{hostile}");
    }
}
