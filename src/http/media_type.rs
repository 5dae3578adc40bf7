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

/// The media type of a file with this name, if it has one, and these first bytes.
pub(super) fn media_type(name: Option<&str>, start: &[u8]) -> &'static str {
    let ending = name.and_then(|name| name.rsplit_once('.')).map(|(_, end)| end.to_lowercase());
    let by_ending = ending.and_then(|ending| BY_ENDING.iter().find(|(own, _)| *own == ending));
    if let Some((_, media_type)) = by_ending {
        return media_type;
    }
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
    let control = start.iter().any(|&byte| byte < 0x20 && !b"\t\n\r\x0c\x1b".contains(&byte));
    if text && !control { "text/plain; charset=utf-8" } else { "application/octet-stream" }
}

#[cfg(test)]
mod tests {
    use super::media_type;

    #[test]
    fn a_name_tells_before_the_bytes_do_and_unknown_bytes_are_a_download() {
        assert_eq!(media_type(Some("a.SVG"), b"<svg"), "image/svg+xml");
        assert_eq!(media_type(Some("noend"), b"\x89PNG\r\n\x1a\n"), "image/png");
        assert_eq!(media_type(None, b"hello"), "text/plain; charset=utf-8");
        assert_eq!(
            media_type(None, "hellö".as_bytes().split_last().unwrap().1),
            "text/plain; charset=utf-8"
        );
        assert_eq!(media_type(None, &[0, 1, 2]), "application/octet-stream");
    }
}
