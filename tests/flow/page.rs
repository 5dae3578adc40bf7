//! The page for people, as it is served; `tests/page/run` drives it in a browser.

use super::node::Node;
use std::io::Read as _;

/// Bytes of the page and all that it loads, at most.
const PAGE_BYTES_MAX: usize = 100 << 10;

#[test]
fn the_page_is_small_and_runs_and_asks_nothing_of_another_origin() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&dir.path().join("a"), &[]);
    let mut bytes = 0;
    let parts =
        std::fs::read_dir("src/web/http/page").unwrap().map(|entry| entry.unwrap().file_name());
    for part in parts {
        let part = part.to_str().unwrap();
        // The module beside them, which serves them.
        if part == "mod.rs" {
            continue;
        }
        let (path, kind) = match part.rsplit('.').next().unwrap() {
            "html" => ("/".to_owned(), "html"),
            "js" => (format!("/page/{part}"), "javascript"),
            kind => (format!("/page/{part}"), kind),
        };
        let path = &path[..];
        let response = node.get(path);
        assert_eq!(response.status, 200, "{path}");
        assert!(response.header("content-type").unwrap().contains(kind), "{path}");
        let policy = response.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let text = String::from_utf8(response.body).unwrap();
        // The one address in it names the language of the graphs.
        let text = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http://") && !text.contains("https://"), "{path}");
        bytes += text.len();
    }
    assert!(bytes <= PAGE_BYTES_MAX, "{bytes}");
    assert_eq!(node.request("POST", "/", &[("Content-Length", "0")]).status, 405);
}

#[test]
fn events_tell_the_state_at_once_and_do_not_hold_up_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&dir.path().join("a"), &[]);
    let mut response = node.open("GET", "/api/v1/events", &[]);
    assert_eq!(response.header("content-type"), Some("text/event-stream"));
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("event: datasets") {
        let mut some = [0; 512];
        let read = response.stream.read(&mut some).unwrap();
        assert!(read > 0, "the events ended");
        seen.extend_from_slice(&some[..read]);
    }
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.contains("event: state") && seen.contains("\"peer_id\":\"12D3Koo"), "{seen}");
    let (status, took) = node.terminate();
    assert_eq!(status, Some(0));
    assert!(took.as_millis() < 1_500, "{took:?}");
}
