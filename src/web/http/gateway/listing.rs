//! Pages for people: of a directory, and of a document with links.

use super::content::PAGE;
use crate::{
    data::unixfs::Link,
    web::gate::{Reply, ReplyBody},
};
use barrow_wire::Cid;
use std::fmt::Write as _;

/// Entries of a page at most.
pub(super) const ENTRIES_MAX: usize = 10_000;
/// Stands in the tags of pages; another one for each form they take.
pub(super) const VERSION: &str = "2";

const STYLE: &str = "<meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
    <style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui;margin:2rem auto;\
    max-width:60rem;padding:0 1rem}h1{font-size:1rem;overflow-wrap:anywhere}\
    td{padding:.1rem 1rem .1rem 0;overflow-wrap:anywhere}.ipfs-hash{font-family:monospace}</style>";

/// A page as an answer.
pub(super) fn reply(page: String, etag: String) -> Reply {
    Reply { status: 200, headers: Vec::new(), body: ReplyBody::Bytes(page.into()) }
        .with("content-type", "text/html; charset=utf-8")
        .with("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'")
        .with("cache-control", PAGE)
        .with("etag", etag)
}

/// The page for the directory that a path leads to; one entry too many is told, not shown.
pub(super) fn page(root: &Cid, path: &[String], links: &[Link]) -> String {
    let mut here = format!("/ipfs/{root}");
    let mut crumbs = format!("/ipfs/<a href=\"{here}\">{root}</a>");
    let mut title = here.clone();
    for name in path {
        let _ = write!(here, "/{}", escape_url(name));
        let _ = write!(title, "/{}", escape_html(name));
        let _ = write!(crumbs, "/<a href=\"{here}\">{}</a>", escape_html(name));
    }
    let mut page = format!(
        "<!doctype html><html lang=en>{STYLE}<title>{title}</title>\
         <h1>Index of {crumbs}</h1><table>"
    );
    if !path.is_empty() {
        let _ = write!(page, "<tr><td><a href=\"{here}/..\">..</a>");
    }
    for link in links.iter().take(ENTRIES_MAX) {
        let name = escape_url(&link.name);
        let cid = link.cid.to_string();
        let short = if cid.len() > 16 {
            format!("{}…{}", &cid[..4], &cid[cid.len() - 4..])
        } else {
            cid.clone()
        };
        // The name is escaped twice here, as the pages of other gateways have it.
        let _ = write!(
            page,
            "<tr><td><a href=\"{here}/{name}\">{}</a><td>\
             <a class=\"ipfs-hash\" translate=\"no\" href=\"/ipfs/{cid}?filename={}\">{short}</a>\
             <td>{}",
            escape_html(&link.name),
            escape_url(&name),
            link.tsize
        );
    }
    if links.len() > ENTRIES_MAX {
        let _ = write!(page, "<tr><td>… and more than these {ENTRIES_MAX}");
    }
    page.push_str("</table></html>");
    page
}

/// The page for a document of linked data.
pub(super) fn document(cid: &Cid, bytes: usize, links: &[Cid]) -> String {
    let mut page = format!(
        "<!doctype html><html lang=en>{STYLE}<title>{cid}</title><h1>{cid}</h1>\
         <p>A document of {bytes} bytes, codec {:#x}: <a href=\"/ipfs/{cid}?format=raw\">raw</a>\
         <table>",
        cid.codec().code()
    );
    for link in links.iter().take(ENTRIES_MAX) {
        let _ = write!(page, "<tr><td><a href=\"/ipfs/{link}\">{link}</a>");
    }
    page.push_str("</table></html>");
    page
}

fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A name as one segment of a URL's path.
pub(crate) fn escape_url(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte.into());
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrow_wire::{Codec, HashCode, Multihash};

    #[test]
    fn a_hostile_name_stays_text() {
        let cid = Cid::v1(Codec::Raw, Multihash::of(HashCode::Sha2_256, b""));
        let name = "<script>\"x\"</script>/../a b\r\n".to_owned();
        let page = page(&cid, &["<x>".into()], &[Link { cid, name, tsize: 1 }]);
        assert!(!page.contains("<script>") && !page.contains("<x>"), "{page}");
        let href =
            format!("href=\"/ipfs/{cid}/%3Cx%3E/%3Cscript%3E%22x%22%3C%2Fscript%3E%2F..%2Fa");
        assert!(page.contains(&href), "{page}");
    }
}
