//! The media type of a file: from its name, then from its first bytes.

/// Endings that browsers and players care for.
const BY_ENDING: &[(&str, &str)] = &[
    ("avif", "image/avif"),
    ("css", "text/css; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("htm", "text/html; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("ico", "image/x-icon"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("md", "text/markdown; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("oga", "audio/ogg"),
    ("ogg", "audio/ogg"),
    ("ogv", "video/ogg"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("txt", "text/plain; charset=utf-8"),
    ("wasm", "application/wasm"),
    ("wav", "audio/wav"),
    ("webm", "video/webm"),
    ("webp", "image/webp"),
    ("xml", "application/xml"),
    ("zip", "application/zip"),
];

/// What files of a kind begin with.
const BY_START: &[(&[u8], &str)] = &[
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x1f\x8b", "application/gzip"),
    (b"\x1a\x45\xdf\xa3", "video/webm"),
    (b"OggS", "application/ogg"),
    (b"ID3", "audio/mpeg"),
    (b"\0asm", "application/wasm"),
    (b"<!DOCTYPE html", "text/html; charset=utf-8"),
    (b"<!doctype html", "text/html; charset=utf-8"),
    (b"<html", "text/html; charset=utf-8"),
];

/// The media type that a name's ending tells.
pub(super) fn of_name(name: &str) -> Option<&'static str> {
    let ending = name.rsplit_once('.')?.1.to_lowercase();
    let (_, media_type) = BY_ENDING.iter().find(|(own, _)| *own == ending)?;
    Some(media_type)
}

/// The media type that the first bytes tell.
pub(super) fn of_start(start: &[u8]) -> &'static str {
    if let Some((_, media_type)) = BY_START.iter().find(|(own, _)| start.starts_with(own)) {
        return media_type;
    }
    if start.get(4..8) == Some(b"ftyp") {
        return "video/mp4";
    }
    if start.starts_with(b"RIFF") && start.get(8..12) == Some(b"WEBP") {
        return "image/webp";
    }
    // The last character may be cut.
    let text = match std::str::from_utf8(start) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none() && error.valid_up_to() + 4 > start.len(),
    };
    if is_json(start) {
        return "application/json";
    }
    let control = start.iter().any(|&byte| byte < 0x20 && !b"\t\n\r\x0c\x1b".contains(&byte));
    if text && !control { "text/plain; charset=utf-8" } else { "application/octet-stream" }
}

/// Whether these bytes are JSON, or the beginning of it; a number or a word alone is text.
fn is_json(start: &[u8]) -> bool {
    if !matches!(start.trim_ascii_start().first(), Some(b'{' | b'[')) {
        return false;
    }
    let parsed: Result<serde::de::IgnoredAny, _> = serde_json::from_slice(start);
    parsed.map_or_else(|error| error.is_eof(), |_| true)
}

/// Types that no browser runs anything of. A PDF is shown by a viewer with an origin of its own.
const PASSIVE: &[&str] = &[
    "application/gzip",
    "application/octet-stream",
    "application/pdf",
    "application/vnd.ipld.car",
    "application/vnd.ipld.raw",
    "application/zip",
    "audio/flac",
    "audio/mp4",
    "audio/mpeg",
    "audio/ogg",
    "audio/wav",
    "audio/webm",
    "image/avif",
    "image/gif",
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/x-icon",
    "text/plain",
    "video/mp4",
    "video/ogg",
    "video/webm",
];
/// Bytes of a media type at most.
const BYTES_MAX: usize = 255;

/// Returns whether a browser runs nothing in content of this type; of an unknown type it may.
pub(super) fn is_passive(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    is_well_formed(media_type) && PASSIVE.contains(&&essence[..])
}

/// Returns whether it is one `type/subtype` with parameters or without (RFC 9110, section 8.3.1).
///
/// Browsers take `Content-Type` for a list and use its last type (Fetch, "extract a MIME type"),
/// so that a comma is refused even where a quoted string could have one.
pub(in crate::web::http) fn is_well_formed(text: &str) -> bool {
    let token = |text: &str| {
        let of_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        !text.is_empty() && text.chars().all(of_token)
    };
    let quoted = |text: &str| {
        let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        let of_text = |c: char| (c.is_ascii_graphic() || c == ' ') && !"\",\\;".contains(c);
        inner.is_some_and(|inner| inner.chars().all(of_text))
    };
    let parameter = |text: &str| {
        let text = text.trim_matches([' ', '\t']);
        let pair = text.split_once('=');
        text.is_empty()
            || pair.is_some_and(|(key, value)| token(key) && (token(value) || quoted(value)))
    };
    let mut parts = text.split(';');
    let essence = parts.next().unwrap_or_default().trim_end_matches([' ', '\t']);
    text.len() <= BYTES_MAX
        && essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype))
        && parts.all(parameter)
}

#[cfg(test)]
mod tests {
    use super::{is_passive, is_well_formed, of_name, of_start};

    #[test]
    fn a_name_tells_before_the_bytes_do_and_unknown_bytes_are_a_download() {
        assert_eq!(of_name("a.SVG"), Some("image/svg+xml"));
        assert_eq!(of_name("noend"), None);
        assert_eq!(of_start(b"\x89PNG\r\n\x1a\n"), "image/png");
        assert_eq!(of_start(b"hello"), "text/plain; charset=utf-8");
        let cut = "hell\u{f6}".as_bytes().split_last().unwrap().1;
        assert_eq!(of_start(cut), "text/plain; charset=utf-8");
        assert_eq!(of_start(&[0, 1, 2]), "application/octet-stream");
    }

    #[test]
    fn a_type_is_one_and_passive_only_if_it_is_listed() {
        for good in ["text/plain", "image/svg+xml", "text/html; charset=utf-8", "a/b; c=\"d e\""] {
            assert!(is_well_formed(good), "{good}");
        }
        for bad in [
            "",
            "text",
            "text/",
            "/plain",
            "te xt/plain",
            "a/b/c",
            "text/plain\r\nX: y",
            "text/plain;a, text/html",
            "image/png,text/html",
            "text/plain; x=\"",
            "text/plain; x=\"a, text/html\"",
            "text/plain; x",
            "text/plain; x=\"a\\\",text/html\"",
        ] {
            assert!(!is_well_formed(bad), "{bad}");
            assert!(!is_passive(bad), "{bad}");
        }
        for active in ["text/html", "image/svg+xml", "text/xml", "application/xhtml+xml", "x/y"] {
            assert!(!is_passive(active), "{active}");
        }
        assert!(is_passive("Image/PNG") && is_passive("text/plain; charset=utf-8"));
    }
}
