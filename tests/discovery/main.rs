//! A CID alone is enough: real nodes that find each other by the DHT, a router, other peers, or
//! what they remember.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test reports by a panic"
)]

#[path = "../flow/node.rs"]
#[allow(dead_code)]
mod node;

#[cfg(feature = "dht")]
mod dht;
#[cfg(feature = "mdns")]
mod mdns;
#[cfg(feature = "portmap")]
mod port_map;

use node::{Node, Response, loop_until, make_file};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// Stores a file of so many bytes on a node, and gives its CID and content.
fn put(node: &Node, dir: &Path, bytes: u64, seed: u64) -> (String, Vec<u8>) {
    let file = make_file(&dir.join(format!("file-{seed}")), bytes, seed);
    (node.put(&file), fs::read(file).unwrap())
}

/// GETs a CID, and tells when its first byte came.
fn get(node: &Node, cid: &str) -> (Response, Duration) {
    let since = Instant::now();
    let mut response = node.open("GET", &format!("/ipfs/{cid}"), &[]);
    let mut first = [0; 1];
    let read = response.stream.read(&mut first).unwrap();
    let elapsed = since.elapsed();
    response.body.extend_from_slice(&first[..read]);
    response.read_body().unwrap();
    (response, elapsed)
}

/// The peers that a node is connected with, with the source of each address.
fn peers(node: &Node) -> Vec<(String, String)> {
    let body: serde_json::Value = serde_json::from_slice(&node.get("/api/v1/peers").body).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let peers = body["peers"].as_array().unwrap().iter();
    peers.map(|peer| (text(&peer["peer_id"]), text(&peer["source"]))).collect()
}

fn id(node: &Node) -> &str {
    node.peer.split('@').next().unwrap()
}

#[test]
fn in_a_line_of_nodes_the_first_gets_from_the_last_after_one_look_up() {
    let dir = tempfile::tempdir().unwrap();
    // Both neighbours dial the one in the middle, so that it is told of each after the other.
    let b = Node::start(&dir.path().join("b"), &[]);
    let a = Node::start(&dir.path().join("a"), &[&b.peer]);
    loop_until("A is with B", || (peers(&a).len() == 1).then_some(()));
    let c = Node::start(&dir.path().join("c"), &[&b.peer]);
    loop_until("C is with B", || (peers(&b).len() == 2).then_some(()));
    let (cid, bytes) = put(&c, dir.path(), 3 << 20, 1);
    let (response, elapsed) = get(&a, &cid);
    assert!(response.body == bytes, "other bytes came");
    eprintln!("peer exchange: first byte after {elapsed:?}");
    assert_eq!(b.metric("blocks_sent_total"), 0, "B never had any of it");
    assert!(peers(&a).contains(&(id(&c).into(), "exchange".into())), "{:?}", peers(&a));
}

#[test]
fn a_router_tells_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let a = Node::start(&dir.path().join("a"), &[]);
    let (cid, bytes) = put(&a, dir.path(), 3 << 20, 2);
    // The other node itself is the router.
    let url = format!("http://{}", a.http);
    let b = Node::start_with(&dir.path().join("b"), &[], &["--router", &url]);
    let (response, elapsed) = get(&b, &cid);
    assert!(response.body == bytes, "other bytes came");
    eprintln!("barrow as the router: first byte after {elapsed:?}");
    assert_eq!(peers(&b), [(id(&a).into(), "router".into())]);
}

/// A router that answers everything with `body`, after `delay`.
fn mock_router(body: String, delay: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let body = body.clone();
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 4_096]);
                thread::sleep(delay);
                let length = body.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
                );
            });
        }
    });
    url
}

fn record(peer: &str, address: &str) -> String {
    let (ip, port) = address.rsplit_once(':').unwrap();
    format!(
        r#"{{"Schema":"peer","ID":"{peer}","Addrs":["/ip4/{ip}/tcp/{port}"],"Protocols":["barrow"]}}"#
    )
}

fn answer(records: &[String]) -> String {
    format!(r#"{{"Providers":[{}]}}"#, records.join(","))
}

#[test]
fn a_slow_or_broken_router_delays_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let a = Node::start(&dir.path().join("a"), &[]);
    let (cid, bytes) = put(&a, dir.path(), 1 << 20, 3);
    let (peer, address) = a.peer.split_once('@').unwrap();
    let good = mock_router(answer(&[record(peer, address)]), Duration::ZERO);
    let slow = mock_router(answer(&[]), Duration::from_secs(60));
    let broken = mock_router("{".into(), Duration::ZERO);
    let flags = ["--router", &slow, "--router", &broken, "--router", &good];
    let b = Node::start_with(&dir.path().join("b"), &[], &flags);
    let (response, elapsed) = get(&b, &cid);
    assert!(response.body == bytes, "other bytes came");
    eprintln!("mock router beside a slow one: first byte after {elapsed:?}");
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");

    // The slow one holds the end back to the fixed time and no longer.
    let since = Instant::now();
    let missing = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
    assert_eq!(b.get(&format!("/ipfs/{missing}")).status, 404);
    eprintln!("a CID that nobody has: 404 after {:?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_millis(3_300), "{:?}", since.elapsed());
}

#[test]
fn where_peers_were_met_is_remembered_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let a = Node::start(&dir.path().join("a"), &[]);
    let (first, _) = put(&a, dir.path(), 1 << 20, 4);
    let url = format!("http://{}", a.http);
    let b = Node::start_with(&dir.path().join("b"), &[], &["--router", &url]);
    assert_eq!(get(&b, &first).0.status, 200);
    assert_eq!(b.terminate().0, Some(0));

    // Without the router, and for something else.
    let (second, bytes) = put(&a, dir.path(), 1 << 20, 5);
    let b = Node::start(&dir.path().join("b"), &[]);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(peers(&b), [], "nobody is dialed before there is a need");
    let (response, elapsed) = get(&b, &second);
    assert!(response.body == bytes, "other bytes came");
    eprintln!("from the address book: first byte after {elapsed:?}");
    assert_eq!(peers(&b), [(id(&a).into(), "router".into())]);
}

#[test]
fn routing_answers_as_clients_of_routers_expect() {
    let dir = tempfile::tempdir().unwrap();
    let a = Node::start(&dir.path().join("a"), &[]);
    let (cid, _) = put(&a, dir.path(), 1 << 20, 6);
    let path = format!("/routing/v1/providers/{cid}");

    let found = a.request("GET", &path, &[("Origin", "https://page.example")]);
    assert_eq!((found.status, found.header("content-type")), (200, Some("application/json")));
    assert_eq!(found.header("access-control-allow-origin"), Some("*"));
    assert_eq!(found.header("vary"), Some("Accept"));
    let json: serde_json::Value = serde_json::from_slice(&found.body).unwrap();
    let provider = &json["Providers"][0];
    assert_eq!((&provider["Schema"], provider["ID"].as_str()), (&"peer".into(), Some(id(&a))));
    let listen = a.peer.rsplit_once(':').unwrap().1;
    assert_eq!(provider["Addrs"][0], format!("/ip4/127.0.0.1/tcp/{listen}"));
    let http = a.http.rsplit_once(':').unwrap().1;
    assert_eq!(provider["Addrs"][1], format!("/ip4/127.0.0.1/tcp/{http}/http"));

    let lines = a.request("GET", &path, &[("Accept", "application/x-ndjson")]);
    assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(String::from_utf8(lines.body).unwrap().lines().count(), 1);

    let missing = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
    let none = a.get(&format!("/routing/v1/providers/{missing}"));
    assert_eq!((none.status, &none.body[..]), (200, &br#"{"Providers":[]}"#[..]));
    assert_eq!(none.header("cache-control"), Some("public, max-age=15"));
    assert_eq!(a.get("/routing/v1/providers/nonsense").status, 422);
    assert_eq!(a.get("/routing/v1/peers/x").status, 404);
    assert_eq!(a.request("POST", &path, &[]).status, 405);
    let head = a.request("HEAD", &path, &[]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(a.request("OPTIONS", &path, &[]).status, 204);
}

#[test]
fn two_nodes_that_are_each_others_router_ask_each_other_once() {
    let dir = tempfile::tempdir().unwrap();
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (http_a, http_b) = (free(), free());
    let (url_a, url_b) = (format!("http://{http_a}"), format!("http://{http_b}"));
    let start = |name: &str, http: &str, url: &str| {
        let flags = ["--http", http, "--router", url];
        Node::start_with(&dir.path().join(name), &[], &flags)
    };
    let a = start("a", &http_a, &url_b);
    let b = start("b", &http_b, &url_a);
    let missing = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
    assert_eq!(a.get(&format!("/ipfs/{missing}")).status, 404);
    let requests = |node: &Node| {
        let body = String::from_utf8(node.get("/metrics").body).unwrap();
        let lines = body.lines().filter(|line| line.starts_with("barrow_http_requests_total{"));
        let counts = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        counts.sum::<u64>()
    };
    assert_eq!(requests(&b), 1, "one question of A's, none in answer to it");
    drop((a, b));
}
