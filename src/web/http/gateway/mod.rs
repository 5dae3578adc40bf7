//! GET by CID: files, directories, blocks and CARs, from the store and the swarm.
//!
//! Sources: ipfs/specs "Path Gateway" and "Trustless Gateway"; RFC 9110 for ranges and
//! conditional requests.

mod block;
mod car;
mod conditions;
mod content;
mod directory;
mod file;
mod format;
mod listing;
mod media_type;

pub(super) use conditions::{Known, ended, wanted_range};
pub(super) use file::FileBody;
pub(crate) use listing::escape_url;
pub(super) use media_type::is_well_formed as is_media_type;

use super::{App, denylist::Denylist, error, get_error};
use crate::{
    content::{
        resolve::{Followed, Resolved, ResolvedKind},
        store_stream::{GetError, Scope},
    },
    node::Node,
    web::gate::{Reply, ReplyBody, Request},
};
use barrow_wire::{Cid, Codec};
use format::Format;

const METHODS: &str = "GET, HEAD, OPTIONS";

/// What a client asked for, understood.
struct Asked<'a, 'b> {
    node: Node,
    denylist: &'a Denylist,
    request: &'a Request<'b>,
    cid: Cid,
    path: Vec<String>,
    /// The path ends with a slash.
    trailing_slash: bool,
    scope: Scope,
}

pub(super) fn answer(app: &App, request: &Request<'_>, rest: &str) -> Reply {
    let reply = match &request.method[..] {
        "GET" | "HEAD" => get(app, request, rest),
        "OPTIONS" => Reply { status: 204, headers: Vec::new(), body: ReplyBody::Absent(None) },
        _ => error(405, "method_not_allowed", "content is only read here").with("allow", METHODS),
    };
    with_cors(reply)
}

/// Lets pages of any origin read the answer.
pub(super) fn with_cors(reply: Reply) -> Reply {
    reply
        .with("access-control-allow-origin", "*")
        .with("access-control-allow-methods", METHODS)
        .with("access-control-allow-headers", "Content-Type, Range, User-Agent, X-Requested-With")
        .with(
            "access-control-expose-headers",
            "Content-Length, Content-Range, X-Ipfs-Path, X-Ipfs-Roots, Ipfs-Uri, X-Chunked-Output, X-Stream-Output",
        )
}

fn get(app: &App, request: &Request<'_>, rest: &str) -> Reply {
    if request.header("service-worker") == Some("script") {
        return error(400, "bad_request", "a service worker cannot be registered here");
    }
    let asked = match parse(app, request, rest) {
        Ok(asked) => asked,
        Err(reply) => return reply,
    };
    let accept = request.header("accept").unwrap_or_default();
    let (format, by_accept) = match request.param("format") {
        Some(name) => match Format::of_name(&name) {
            Some(format) => (Some(format), false),
            None => return error(406, "not_acceptable", &format!("no format {name:?} here")),
        },
        None => (format::preferred(accept), true),
    };
    let reply = match format {
        Some(Format::Raw) => block::raw(&asked),
        Some(Format::Car) => car::answer(&asked),
        Some(wanted @ Format::Codec(_)) => deserialized(&asked, Some(wanted)),
        Some(Format::Html) | None => deserialized(&asked, format),
    };
    match format {
        Some(Format::Raw | Format::Car) if by_accept && reply.status < 300 => {
            let and = if request.query.is_empty() { "" } else { "&" };
            let name = if format == Some(Format::Car) { "car" } else { "raw" };
            let location = format!("{}?{}{and}format={name}", request.path, request.query);
            content::with_bounded(reply, "content-location", location)
        }
        _ => reply,
    }
}

/// A file, a directory, or a block of linked data as itself.
fn deserialized(asked: &Asked<'_, '_>, format: Option<Format>) -> Reply {
    let Resolved { cid, kind, block, followed } = match asked.resolve(format) {
        Ok(resolved) => resolved,
        Err(reply) => return reply,
    };
    if !followed.rest.is_empty() {
        let message = "the path ends within a block, at something that is no link";
        return error(501, "not_implemented", message);
    }
    let plain = match format {
        Some(Format::Codec(code)) => Some(code),
        Some(Format::Raw | Format::Car | Format::Html) | None => None,
    };
    if kind == ResolvedKind::Data {
        return match format {
            Some(Format::Html) => block::preview(asked, &followed),
            _ => block::data(asked, &followed, plain),
        };
    }
    // A file has no codec of its own: as JSON or CBOR it can only be called so.
    if plain.is_some_and(|code| !matches!(code, Codec::Other(_))) {
        return block::mismatch(cid.codec());
    }
    match kind {
        ResolvedKind::Directory => directory::answer(asked, &followed),
        ResolvedKind::File(_) | ResolvedKind::Data => {
            let name = asked.request.param("filename").or_else(|| asked.path.last().cloned());
            let kind = plain.map(|code| block::media_type(code).0.to_owned());
            file::answer(asked, &followed, file::Shown { cid, block, tag: cid, name, kind })
        }
    }
}

fn parse<'a, 'b>(
    app: &'a App,
    request: &'a Request<'b>,
    rest: &str,
) -> Result<Asked<'a, 'b>, Reply> {
    let bad = |message: &str| error(400, "bad_request", message);
    let mut segments = rest.split('/');
    let cid = segments.next().unwrap_or_default();
    let cid = cid.parse().map_err(|failed| bad(&format!("{cid:?}: {failed}")))?;
    let path = segments
        .filter(|segment| !segment.is_empty())
        .map(|segment| crate::web::gate::unescape(segment).ok_or_else(|| bad("a malformed escape")))
        .collect::<Result<_, _>>()?;
    let cached = request.header("cache-control").unwrap_or_default().contains("only-if-cached");
    let scope = if cached { Scope::Local } else { Scope::Network };
    let (node, denylist) = (app.node.for_one_download(), &app.denylist);
    Ok(Asked { node, denylist, request, cid, path, trailing_slash: rest.ends_with('/'), scope })
}

impl Asked<'_, '_> {
    fn is_head(&self) -> bool {
        self.request.method == "HEAD"
    }

    /// Follows the path, and looks at what is there. A protected manifest stands for what it
    /// protects, unless it is asked for as data.
    fn resolve(&self, format: Option<Format>) -> Result<Resolved, Reply> {
        self.denylist.check(&[self.cid])?;
        let resolved = match format {
            Some(Format::Codec(_)) => self.node.resolve_as_it_is(&self.cid, &self.path, self.scope),
            Some(Format::Raw | Format::Car | Format::Html) | None => {
                self.node.resolve(&self.cid, &self.path, self.scope)
            }
        };
        let resolved = resolved.map_err(|failed| self.missing(&failed))?;
        self.denylist.check(&resolved.followed.roots)?;
        Ok(resolved)
    }

    /// Follows the path to a block, whatever it is.
    fn follow(&self) -> Result<Followed, Reply> {
        self.denylist.check(&[self.cid])?;
        let followed = self.node.follow(&self.cid, &self.path, self.scope);
        let followed = followed.map_err(|failed| self.missing(&failed))?;
        self.denylist.check(&followed.roots)?;
        Ok(followed)
    }

    /// What is missing in the store alone is no error of the node's.
    fn missing(&self, failed: &GetError) -> Reply {
        match (failed, self.scope) {
            (GetError::NotFound, Scope::Local) => {
                error(412, "not_cached", "it is not in the store of this node")
            }
            _ => get_error(failed),
        }
    }
}
