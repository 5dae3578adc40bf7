//! Heads of answers, as clients get them.

use super::{Reply, request};
use std::fmt::Write as _;

/// Bytes that most heads fit in.
const HEAD_BYTES_USUAL: usize = 1_024;

/// An answer in the gate's own words.
pub(super) fn refusal(status: u16, code: &str, message: &str, keep_alive: bool) -> String {
    let body = serde_json::json!({"error": {"code": code, "message": message}}).to_string();
    let retry = if status == 503 { "retry-after: 1\r\ncache-control: no-store\r\n" } else { "" };
    // A browser asks its user for the token, and sends it as a password.
    let ask = if status == 401 { "www-authenticate: Basic realm=\"barrow\"\r\n" } else { "" };
    format!(
        "HTTP/1.1 {status} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         x-content-type-options: nosniff\r\n{retry}{ask}{}{body}",
        request::reason(status),
        body.len(),
        connection_line(keep_alive),
    )
}

/// The end of a head.
pub(super) const fn connection_line(keep_alive: bool) -> &'static str {
    if keep_alive { "connection: keep-alive\r\n\r\n" } else { "connection: close\r\n\r\n" }
}

/// The head of a handler's answer up to its end.
pub(super) fn public_head(reply: &Reply, date: &str, length: Option<u64>, chunked: bool) -> String {
    let mut head = String::with_capacity(HEAD_BYTES_USUAL);
    let _ = write!(head, "HTTP/1.1 {} {}\r\n", reply.status, request::reason(reply.status));
    put_header(&mut head, "date", date);
    for (name, value) in &reply.headers {
        // How the answer is delimited is not the handlers' to say.
        if !matches!(*name, "connection" | "content-length" | "transfer-encoding") {
            put_header(&mut head, name, value);
        }
    }
    match (length, chunked) {
        (_, true) => head.push_str("transfer-encoding: chunked\r\n"),
        (Some(length), false) => {
            let _ = write!(head, "content-length: {length}\r\n");
        }
        (None, false) if matches!(reply.status, 204 | 304) => {}
        (None, false) => head.push_str("content-length: 0\r\n"),
    }
    head
}

/// Appends a header; what cannot stand in one becomes a question mark.
fn put_header(head: &mut String, name: &str, value: &str) {
    head.push_str(name);
    head.push_str(": ");
    let is_sound = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    if value.bytes().all(is_sound) {
        head.push_str(value);
    } else {
        head.extend(value.chars().map(|c| if c.is_ascii() && is_sound(c as u8) { c } else { '?' }));
    }
    head.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_of_a_header_begins_another_line() {
        let reply = Reply::new(200, "text/plain", "x")
            .with("etag", "a\r\nset-cookie: b\u{e9}\t\0")
            .with("content-length", "7")
            .with("transfer-encoding", "chunked");
        let head = public_head(&reply, "now", Some(1), false);
        let wanted = "HTTP/1.1 200 OK\r\ndate: now\r\ncontent-type: text/plain\r\n\
                      etag: a??set-cookie: b???\r\ncontent-length: 1\r\n";
        assert_eq!(head, wanted);
    }
}
