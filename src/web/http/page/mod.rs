//! The page for people. It is in the binary, and asks no other origin for anything.

use crate::web::gate::{Reply, Request};

/// Only what this node itself serves is run, shown or asked; no page may frame this one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; media-src 'self'; connect-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

/// The parts of the page by their paths, with what they are.
const PARTS: &[(&str, &str, &str)] = &[
    ("", HTML, include_str!("index.html")),
    ("page.css", "text/css; charset=utf-8", include_str!("page.css")),
    ("mark.svg", "image/svg+xml", include_str!("mark.svg")),
    ("api.js", SCRIPT, include_str!("api.js")),
    ("datasets.js", SCRIPT, include_str!("datasets.js")),
    ("dom.js", SCRIPT, include_str!("dom.js")),
    ("graph.js", SCRIPT, include_str!("graph.js")),
    ("health.js", SCRIPT, include_str!("health.js")),
    ("ledger.js", SCRIPT, include_str!("ledger.js")),
    ("now.js", SCRIPT, include_str!("now.js")),
    ("page.js", SCRIPT, include_str!("page.js")),
    ("peers.js", SCRIPT, include_str!("peers.js")),
    ("transfers.js", SCRIPT, include_str!("transfers.js")),
    ("upload.js", SCRIPT, include_str!("upload.js")),
    ("viewer.js", SCRIPT, include_str!("viewer.js")),
    ("words.js", SCRIPT, include_str!("words.js")),
];
const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A part of the page, if there is one of this name; the page itself has none.
pub(super) fn answer(request: &Request<'_>, name: &str) -> Option<Reply> {
    let (_, kind, text) = PARTS.iter().find(|(part, ..)| *part == name)?;
    if !matches!(&request.method[..], "GET" | "HEAD") {
        return Some(super::error(405, "method_not_allowed", "the page is only read"));
    }
    let mut reply = Reply::new(200, kind, *text)
        .with("content-security-policy", POLICY)
        .with("x-content-type-options", "nosniff")
        .with("referrer-policy", "no-referrer")
        // Another version's page would not fit this one's API.
        .with("cache-control", "no-cache");
    if request.method == "HEAD" {
        reply.body = crate::web::gate::ReplyBody::Absent(Some(text.len() as u64));
    }
    Some(reply)
}
