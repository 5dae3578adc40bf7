//! Heads of answers, as clients get them.

use super::{inner::Answer, request};

/// An answer in the gate's own words.
pub(super) fn refusal(status: u16, code: &str, message: &str, keep_alive: bool) -> String {
    let body = serde_json::json!({"error": {"code": code, "message": message}}).to_string();
    let retry = if status == 503 { "retry-after: 1\r\ncache-control: no-store\r\n" } else { "" };
    format!(
        "HTTP/1.1 {status} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         x-content-type-options: nosniff\r\n{retry}{}{body}",
        request::reason(status),
        body.len(),
        connection_line(keep_alive),
    )
}

/// The end of a head.
pub(super) const fn connection_line(keep_alive: bool) -> &'static str {
    if keep_alive { "connection: keep-alive\r\n\r\n" } else { "connection: close\r\n\r\n" }
}

/// The head of a handler's answer up to its end, without what is between it and the gate.
pub(super) fn public_head(answer: &Answer, length: Option<u64>, chunked: bool) -> String {
    use std::fmt::Write as _;
    let mut head = format!("HTTP/1.1 {} {}\r\n", answer.status, answer.reason);
    for (name, value) in &answer.headers {
        let inner =
            matches!(&name[..], "connection" | "content-length" | "transfer-encoding" | "server")
                || name.starts_with(request::INNER_PREFIX);
        if !inner {
            let _ = write!(head, "{name}: {value}\r\n");
        }
    }
    match (length, chunked) {
        (_, true) => head.push_str("transfer-encoding: chunked\r\n"),
        (Some(length), false) => {
            let _ = write!(head, "content-length: {length}\r\n");
        }
        (None, false) if matches!(answer.status, 204 | 304) => {}
        (None, false) => head.push_str("content-length: 0\r\n"),
    }
    head
}
