//! File names in `Content-Disposition`, read and written.
//!
//! Sources: RFC 6266 for the header, RFC 8187 for its extended values.

use super::escape_url;
use crate::web::gate::unescape_bytes;

/// Bytes of a file name at most, as file systems have it.
const NAME_BYTES_MAX: usize = 255;
/// Bytes of an escaped name in an answer: a client may read only 2 KiB of all headers together.
const ESCAPED_BYTES_MAX: usize = 540;
/// Bytes of the plain name beside an escaped one, for clients that know no other.
const FALLBACK_BYTES_MAX: usize = 64;
/// Bytes of an ending that is kept when a name is shortened: `.tar.gz` and the like.
const ENDING_BYTES_MAX: usize = 16;

/// Returns the file name of a `Content-Disposition`, or `None` if it has none that every system
/// can store. `filename*` goes before `filename`, as RFC 6266 (section 4.3) asks for.
pub(super) fn parse(text: &str) -> Option<String> {
    let (mut plain, mut extended) = (None, None);
    let (_, mut rest) = text.split_once(';')?;
    while let Some((key, tail)) = rest.split_once('=') {
        let (value, tail) = value(tail.trim_start());
        match key.trim_start_matches([';', ' ', '\t']).trim_end().to_ascii_lowercase().as_str() {
            "filename*" => extended = extended.or_else(|| extended_value(&value)),
            "filename" => plain = plain.or(Some(value)),
            _ => {}
        }
        rest = tail;
    }
    extended.into_iter().chain(plain).find(|name| is_sound(name))
}

/// Splits a parameter's value, a quoted string or a token, from what follows it.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        // Some clients send names with spaces unquoted, so that only `;` ends a token here.
        let (value, rest) = text.split_once(';').unwrap_or((text, ""));
        return (value.trim().to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// Decodes `charset'language'percent-escapes`.
fn extended_value(text: &str) -> Option<String> {
    let mut parts = text.splitn(3, '\'');
    let (charset, _language, escaped) = (parts.next()?, parts.next()?, parts.next()?);
    let bytes = unescape_bytes(escaped)?;
    match charset.to_ascii_lowercase().as_str() {
        "utf-8" => String::from_utf8(bytes).ok(),
        // Each byte is the code point of the same number.
        "iso-8859-1" => Some(bytes.into_iter().map(char::from).collect()),
        _ => None,
    }
}

fn is_sound(name: &str) -> bool {
    let sound = |c: char| !c.is_control() && c != '/' && c != '\\';
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && name.chars().all(sound)
}

/// Writes a `Content-Disposition`: a plain name as it is, any other as RFC 8187 escapes it, with
/// a plain one beside it. A name that is too long loses its middle, never its ending.
pub(super) fn disposition(how: &str, name: &str) -> String {
    let of_plain = |c: char| c.is_ascii_graphic() && !"\"\\/%".contains(c) || c == ' ';
    let plain: String = name.chars().map(|c| if of_plain(c) { c } else { '_' }).collect();
    if plain == name && name.len() <= NAME_BYTES_MAX {
        return format!("{how}; filename=\"{plain}\"");
    }
    let fallback = shortened(&plain, FALLBACK_BYTES_MAX, &str::to_owned);
    let escaped = shortened(name, ESCAPED_BYTES_MAX, &escape_url);
    format!("{how}; filename=\"{fallback}\"; filename*=UTF-8''{escaped}")
}

/// Escapes a name, and cuts characters before its ending until it has `bytes_max` bytes at most.
fn shortened(name: &str, bytes_max: usize, escape: &dyn Fn(&str) -> String) -> String {
    let cut = name.rfind('.').filter(|&at| at > 0 && name.len() - at <= ENDING_BYTES_MAX);
    let (stem, ending) = name.split_at(cut.unwrap_or(name.len()));
    let ending = escape(ending);
    let mut out = String::new();
    for c in stem.chars() {
        let escaped = escape(c.encode_utf8(&mut [0; 4]));
        if out.len() + escaped.len() + ending.len() > bytes_max {
            break;
        }
        out += &escaped;
    }
    out + &ending
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_rfc_6266_and_rfc_8187_write_them() {
        for (text, name) in [
            ("attachment; filename=\"a b.txt\"", "a b.txt"),
            ("attachment; filename=a.txt", "a.txt"),
            ("attachment; filename=a b.txt", "a b.txt"),
            ("attachment; filename=\"a;b.txt\"", "a;b.txt"),
            ("attachment; filename=\"name=eq.txt\"", "name=eq.txt"),
            ("attachment; filename=\"x\\\"y.txt\"", "x\"y.txt"),
            ("attachment; FILENAME = \"caps.txt\"", "caps.txt"),
            ("form-data; name=\"f\"; filename=\"up.txt\"", "up.txt"),
            ("attachment; filename=\"_\"; filename*=UTF-8''%C4%85.txt", "\u{105}.txt"),
            ("attachment; filename*=UTF-8'en'na%C3%AFve.txt", "na\u{ef}ve.txt"),
            ("attachment; filename*=ISO-8859-1''na%EFve; filename=\"n\"", "na\u{ef}ve"),
            ("attachment; filename*=KOI8-R''%C1; filename=\"n\"", "n"),
        ] {
            assert_eq!(parse(text).as_deref(), Some(name), "{text}");
        }
    }

    #[test]
    fn names_that_a_system_cannot_have_are_refused() {
        for bad in ["", "attachment", "inline; filename=\"\"", "x; filename=\"../a\""] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        for bad in ["a%0d%0ab", "a%00", "%2fetc", "..", ".", "a%5cb", "%ff"] {
            assert_eq!(parse(&format!("x; filename*=UTF-8''{bad}")), None, "{bad}");
        }
    }

    #[test]
    fn a_name_cannot_break_out_of_its_header_and_keeps_its_ending() {
        assert_eq!(disposition("inline", "a b.txt"), "inline; filename=\"a b.txt\"");
        let hostile = disposition("inline", "a\"; x=\"\r\nSet-Cookie: y/../\u{e9}");
        assert!(!hostile.contains('\r') && !hostile.contains('\n'), "{hostile}");
        assert_eq!(hostile.matches('"').count(), 2, "{hostile}");
        assert!(hostile.ends_with("..%2F%C3%A9"), "{hostile}");
        for name in ["\u{e9}".repeat(120) + ".mp4", "n".repeat(300) + ".mp4"] {
            let text = disposition("inline", &name);
            assert!(text.len() < 700 && text.ends_with(".mp4"), "{text}");
            assert!(text.contains(".mp4\";"), "{text}");
        }
        let whole = "\u{e9}".repeat(80) + ".mp4";
        assert_eq!(parse(&disposition("inline", &whole)).as_deref(), Some(&whole[..]));
    }
}
