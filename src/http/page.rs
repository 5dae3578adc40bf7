//! The page for people. It is in the binary, and asks no other origin for anything.

use crate::gate::{Reply, Request};

/// Only what this node itself serves is run, shown or asked; no page may frame this one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; media-src 'self'; connect-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

/// A part of the page, if there is one of this name.
pub(super) fn answer(request: &Request<'_>, name: &str) -> Option<Reply> {
    let (kind, text) = match name {
        "" => ("text/html; charset=utf-8", include_str!("page/index.html")),
        "page.css" => ("text/css; charset=utf-8", include_str!("page/page.css")),
        "page.js" => ("text/javascript; charset=utf-8", include_str!("page/page.js")),
        _ => return None,
    };
    if !matches!(&request.method[..], "GET" | "HEAD") {
        return Some(super::error(405, "method_not_allowed", "the page is only read"));
    }
    let mut reply = Reply::new(200, kind, text)
        .with("content-security-policy", POLICY)
        .with("x-content-type-options", "nosniff")
        .with("referrer-policy", "no-referrer")
        // Another version's page would not fit this one's API.
        .with("cache-control", "no-cache");
    if request.method == "HEAD" {
        reply.body = crate::gate::ReplyBody::Absent(Some(text.len() as u64));
    }
    Some(reply)
}
