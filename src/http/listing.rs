//! The page of a directory.

use crate::unixfs::Link;
use std::fmt::Write as _;

/// Bytes of a page's entries at most.
const ENTRIES_MAX: usize = 10_000;

/// The page for the directory at `path`, which ends with a slash.
pub(super) fn page(path: &str, links: &[Link]) -> String {
    let title = escape_html(path);
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width\"><title>{title}</title>\
         <style>:root{{color-scheme:light dark}}body{{font:16px/1.5 system-ui;margin:2rem auto;\
         max-width:60rem;padding:0 1rem}}h1{{font-size:1rem;overflow-wrap:anywhere}}\
         td{{padding:.1rem 1rem .1rem 0;overflow-wrap:anywhere}}</style><h1>{title}</h1><table>"
    );
    for link in links.iter().take(ENTRIES_MAX) {
        let _ = write!(
            page,
            "<tr><td><a href=\"./{}\">{}</a><td>{}",
            escape_url(&link.name),
            escape_html(&link.name),
            link.tsize
        );
    }
    if links.len() > ENTRIES_MAX {
        let _ = write!(page, "<tr><td>… and {} more", links.len() - ENTRIES_MAX);
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
    use barrow_wire::{Cid, Codec, HashCode, Multihash};

    #[test]
    fn a_hostile_name_stays_text() {
        let cid = Cid::v1(Codec::Raw, Multihash::of(HashCode::Sha2_256, b""));
        let name = "<script>\"x\"</script>/../a b\r\n".to_owned();
        let page = page("/ipfs/<x>/", &[Link { cid, name, tsize: 1 }]);
        assert!(!page.contains("<script>") && !page.contains("<x>"), "{page}");
        assert!(page.contains("href=\"./%3Cscript%3E%22x%22%3C%2Fscript%3E%2F..%2Fa%20b%0D%0A\""));
    }
}
