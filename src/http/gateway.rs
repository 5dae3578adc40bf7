//! GET by CID: files, directories and blocks, from the store and the swarm.
//!
//! Sources: ipfs/specs "Path Gateway" and "Trustless Gateway"; RFC 9110 for ranges and
//! conditional requests.

use super::{error, get_error, listing, media_type};
use crate::{
    gate::{Body, Reply, ReplyBody, Request},
    node::{Node, Resolved, ResolvedKind},
    store_stream::{GetError, Scope, StoreStream},
    unixfs::Link,
};
use barrow_wire::Cid;
use bytes::Bytes;
use std::{
    ops::Range,
    task::{Poll, Waker},
};

/// First bytes that tell what a file is.
const SNIFF_BYTES: u64 = 512;
const IMMUTABLE: &str = "public, max-age=29030400, immutable";
const METHODS: &str = "GET, HEAD, OPTIONS";

/// What a client asked for, understood.
struct Asked {
    cid: Cid,
    path: Vec<String>,
    /// The path ends with a slash.
    trailing_slash: bool,
    is_head: bool,
    scope: Scope,
}

pub(super) fn answer(node: &Node, request: &Request<'_>, rest: &str) -> Reply {
    let reply = match &request.method[..] {
        "GET" | "HEAD" => get(node, request, rest),
        "OPTIONS" => Reply { status: 204, headers: Vec::new(), body: ReplyBody::Absent(None) },
        _ => error(405, "method_not_allowed", "content is only read here").with("allow", METHODS),
    };
    reply
        .with("access-control-allow-origin", "*")
        .with("access-control-allow-methods", METHODS)
        .with("access-control-allow-headers", "Content-Type, Range, User-Agent, X-Requested-With")
        .with(
            "access-control-expose-headers",
            "Content-Length, Content-Range, X-Ipfs-Path, X-Ipfs-Roots, Ipfs-Uri",
        )
}

fn get(node: &Node, request: &Request<'_>, rest: &str) -> Reply {
    if request.header("service-worker") == Some("script") {
        return error(400, "bad_request", "a service worker cannot be registered here");
    }
    let asked = match parse(request, rest) {
        Ok(asked) => asked,
        Err(reply) => return reply,
    };
    let accept = request.header("accept").unwrap_or_default();
    let by_accept = accept.contains("application/vnd.ipld.raw").then(|| "raw".to_owned());
    match request.param("format").or(by_accept).as_deref() {
        Some("raw") => raw(node, request, &asked),
        None => match node.resolve(&asked.cid, &asked.path, asked.scope) {
            Ok(Resolved { cid, kind: ResolvedKind::File(_) }) => {
                let name = request.param("filename").or_else(|| asked.path.last().cloned());
                file(node, request, &asked, &cid, name.as_deref())
            }
            Ok(Resolved { cid, kind: ResolvedKind::Directory(links) }) => {
                directory(node, request, &asked, &cid, &links)
            }
            Err(failed) => missing(&failed, asked.scope),
        },
        Some(format) => {
            let message = format!("the format {format:?} is not spoken here; raw is");
            error(406, "not_acceptable", &message)
        }
    }
}

fn parse(request: &Request<'_>, rest: &str) -> Result<Asked, Reply> {
    let bad = |message: &str| error(400, "bad_request", message);
    let mut segments = rest.split('/');
    let cid = segments.next().unwrap_or_default();
    let cid = cid.parse().map_err(|failed| bad(&format!("{cid:?}: {failed}")))?;
    let path = segments
        .filter(|segment| !segment.is_empty())
        .map(|segment| crate::gate::unescape(segment).ok_or_else(|| bad("a malformed escape")))
        .collect::<Result<_, _>>()?;
    let cached = request.header("cache-control").unwrap_or_default().contains("only-if-cached");
    Ok(Asked {
        cid,
        path,
        trailing_slash: rest.ends_with('/'),
        is_head: request.method == "HEAD",
        scope: if cached { Scope::Local } else { Scope::Network },
    })
}

/// What is missing in the store alone is no error of the node's.
fn missing(failed: &GetError, scope: Scope) -> Reply {
    match (failed, scope) {
        (GetError::NotFound, Scope::Local) => {
            error(412, "not_cached", "it is not in the store of this node")
        }
        _ => get_error(failed),
    }
}

fn raw(node: &Node, request: &Request<'_>, asked: &Asked) -> Reply {
    let cid = match node.resolve_cid(&asked.cid, &asked.path, asked.scope) {
        Ok(cid) => cid,
        Err(failed) => return missing(&failed, asked.scope),
    };
    let etag = format!("\"{cid}.raw\"");
    if is_unchanged(request, &etag) {
        return unchanged(&etag);
    }
    let block = match node.block(&cid, asked.scope) {
        Ok(block) => block,
        Err(failed) => return missing(&failed, asked.scope),
    };
    let name = request.param("filename").unwrap_or_else(|| format!("{cid}.bin"));
    let size = block.len() as u64;
    let range = match wanted_range(request, &etag, size) {
        Ok(range) => range,
        Err(reply) => return reply,
    };
    let (from, to) = range.clone().map_or((0, size), |range| (range.start, range.end));
    let index = |offset: u64| usize::try_from(offset).expect("within a block");
    let body = ReplyBody::Bytes(block.slice(index(from)..index(to)));
    content(asked, request, &etag, size, range, body)
        .with("content-type", "application/vnd.ipld.raw")
        .with("content-disposition", disposition("attachment", &name))
}

fn file(node: &Node, request: &Request<'_>, asked: &Asked, cid: &Cid, name: Option<&str>) -> Reply {
    let etag = format!("\"{cid}\"");
    if is_unchanged(request, &etag) {
        return unchanged(&etag);
    }
    let stream = match node.open(cid, asked.scope) {
        Ok(stream) => stream,
        Err(failed) => return missing(&failed, asked.scope),
    };
    let size = stream.size();
    let range = match wanted_range(request, &etag, size) {
        Ok(range) => range,
        Err(reply) => return reply,
    };
    let stored = node.dataset(cid).ok().flatten().map(|dataset| dataset.info);
    let stored_name = stored.as_ref().and_then(|info| info.name.clone());
    let name = name.map(ToOwned::to_owned).or(stored_name);
    let kind = stored.and_then(|info| info.mimetype);
    let kind = kind.or_else(|| name.as_deref().and_then(media_type::of_name).map(Into::into));
    let (from, to) = range.clone().map_or((0, size), |range| (range.start, range.end));
    let begun = begin(stream, from..to, kind);
    let (body, kind) = match begun {
        Ok(begun) => begun,
        Err(failed) => return missing(&failed, asked.scope),
    };
    let body = ReplyBody::Stream(Box::new(body), Some(to - from));
    let reply = content(asked, request, &etag, size, range, body).with("content-type", kind);
    let download = request.param("download").as_deref() == Some("true");
    match name {
        Some(name) => {
            let how = if download { "attachment" } else { "inline" };
            reply.with("content-disposition", disposition(how, &name))
        }
        None if download => reply.with("content-disposition", "attachment"),
        None => reply,
    }
}

/// A file's bytes as the body of an answer.
struct FileBody {
    first: Option<Bytes>,
    stream: StoreStream,
    range: Range<u64>,
}

/// Waits for the first bytes, so that what cannot be had is told by a status; they also tell the
/// media type, if it is not known.
fn begin(
    mut stream: StoreStream,
    range: Range<u64>,
    kind: Option<String>,
) -> Result<(FileBody, String), GetError> {
    let mut start = Bytes::new();
    if kind.is_none() && range.start > 0 {
        stream.seek_to(0..SNIFF_BYTES.min(range.start));
        start = stream.wait_chunk().transpose()?.unwrap_or_default();
    }
    stream.seek_to(range.clone());
    let first = if range.is_empty() { None } else { stream.wait_chunk().transpose()? };
    if range.start == 0 {
        start = first.clone().unwrap_or_default();
    }
    start.truncate(SNIFF_BYTES as usize);
    let kind = kind.unwrap_or_else(|| media_type::of_start(&start).into());
    Ok((FileBody { first, stream, range }, kind))
}

impl Body for FileBody {
    fn poll_chunk(&mut self, waker: &Waker) -> Poll<Option<Result<Bytes, String>>> {
        let chunk = match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => self.stream.poll_chunk(waker),
        };
        if let Poll::Ready(Some(Ok(chunk))) = &chunk {
            self.range.start += chunk.len() as u64;
        }
        chunk.map(|chunk| chunk.map(|chunk| chunk.map_err(|failed| failed.to_string())))
    }

    fn rewind(&mut self, bytes: u64) -> bool {
        self.range.start -= bytes;
        self.first = None;
        self.stream.seek_to(self.range.clone());
        true
    }
}

fn directory(
    node: &Node,
    request: &Request<'_>,
    asked: &Asked,
    cid: &Cid,
    links: &[Link],
) -> Reply {
    if !asked.trailing_slash {
        let query = if request.query.is_empty() { "" } else { "?" };
        let to = format!("{}/{query}{}", request.path, request.query);
        return Reply { status: 301, headers: Vec::new(), body: ReplyBody::Absent(None) }
            .with("location", to);
    }
    if let Some(index) = links.iter().find(|link| link.name == "index.html") {
        return file(node, request, asked, &index.cid, Some("index.html"));
    }
    let etag = format!("\"dir-{cid}\"");
    if is_unchanged(request, &etag) {
        return unchanged(&etag);
    }
    let page = listing::page(&request.path, links);
    let body = ReplyBody::Bytes(page.into());
    let reply = Reply { status: 200, headers: Vec::new(), body }
        .with("content-type", "text/html; charset=utf-8")
        .with("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'")
        .with("x-content-type-options", "nosniff")
        .with("cache-control", "public, max-age=604800, stale-while-revalidate=2678400")
        .with("etag", etag);
    if asked.is_head { without_body(reply) } else { reply }
}

/// The headers that all content has, and the range.
fn content(
    asked: &Asked,
    request: &Request<'_>,
    etag: &str,
    size: u64,
    range: Option<Range<u64>>,
    body: ReplyBody,
) -> Reply {
    let status = if range.is_some() { 206 } else { 200 };
    let mut reply = Reply { status, headers: Vec::new(), body }
        .with("etag", etag)
        .with("cache-control", IMMUTABLE)
        .with("x-content-type-options", "nosniff")
        .with("accept-ranges", "bytes")
        .with("x-ipfs-path", request.path.chars().take(512).collect::<String>())
        .with("x-ipfs-roots", asked.cid.to_string());
    if let Some(range) = range {
        let content_range = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        reply = reply.with("content-range", content_range);
    }
    if asked.is_head { without_body(reply) } else { reply }
}

/// The answer to HEAD: the length, and nothing else.
fn without_body(mut reply: Reply) -> Reply {
    let length = match &reply.body {
        ReplyBody::Bytes(bytes) => Some(bytes.len() as u64),
        ReplyBody::Stream(_, length) | ReplyBody::Absent(length) => *length,
    };
    reply.body = ReplyBody::Absent(length);
    reply
}

fn is_unchanged(request: &Request<'_>, etag: &str) -> bool {
    request.header("if-none-match").is_some_and(|known| {
        known
            .split(',')
            .map(str::trim)
            .any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag)
    })
}

fn unchanged(etag: &str) -> Reply {
    Reply { status: 304, headers: Vec::new(), body: ReplyBody::Absent(None) }
        .with("etag", etag)
        .with("cache-control", IMMUTABLE)
}

/// The first range asked for, if it is one of bytes that can be satisfied and `If-Range`, if
/// given, names what is here.
fn wanted_range(request: &Request<'_>, etag: &str, size: u64) -> Result<Option<Range<u64>>, Reply> {
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
fn disposition(how: &str, name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_graphic() && !"\"\\/".contains(c) || c == ' ' { c } else { '_' })
        .take(128)
        .collect();
    if plain == name {
        return format!("{how}; filename=\"{plain}\"");
    }
    let name: String = name.chars().take(64).collect();
    format!("{how}; filename=\"{plain}\"; filename*=UTF-8''{}", listing::escape_url(&name))
}
