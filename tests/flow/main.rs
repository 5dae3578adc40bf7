//! The download flow between real processes: put on one, GET by CID on another.
//!
//! `BARROW_FLOW_MIB` sets the size of the large file (48 by default).

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test reports by a panic"
)]

mod hostile;
#[allow(dead_code)]
mod node;
mod page;
mod small;
mod transfers;

use barrow::wire::{HashCode, Multihash};
use node::{Node, Response, loop_until, make_file, put, run};
use std::{
    collections::HashMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

fn large_bytes() -> u64 {
    let mib = std::env::var("BARROW_FLOW_MIB").map_or(48, |mib| mib.parse().unwrap());
    mib << 20
}

/// A node that has a file, and one that knows that node alone.
struct Pair {
    dir: tempfile::TempDir,
    a: Node,
    b: Node,
    cid: String,
    bytes: Vec<u8>,
}

impl Pair {
    fn with_bytes(bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = make_file(&dir.path().join("file"), bytes, 7);
        let a = Node::start(&dir.path().join("a"), &[]);
        let cid = a.put(&file);
        let b = Node::start(&dir.path().join("b"), &[&a.peer]);
        Self { a, b, cid, bytes: fs::read(file).unwrap(), dir }
    }

    fn path(&self) -> String {
        format!("/ipfs/{}", self.cid)
    }
}

#[test]
fn a_file_put_on_one_node_is_got_by_cid_on_another_and_stays_there() {
    let pair = Pair::with_bytes(large_bytes());
    let since = Instant::now();
    let mut response = pair.b.open("GET", &pair.path(), &[]);
    let mut first = [0; 1];
    response.stream.read_exact(&mut first).unwrap();
    eprintln!("first byte after {:?}", since.elapsed());
    response.read_body().unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-length"), Some(&pair.bytes.len().to_string()[..]));
    assert!(first[0] == pair.bytes[0] && response.body == pair.bytes[1..], "other bytes came");
    assert_eq!(pair.b.metric("blocks_duplicate_total"), 0);
    eprintln!("peak MiB: A {}, B {}", pair.a.peak_mib(), pair.b.peak_mib());
    assert!(pair.a.peak_mib() <= 64 && pair.b.peak_mib() <= 64);

    let Pair { a, b, cid, bytes, .. } = pair;
    a.kill();
    assert!(b.get(&format!("/ipfs/{cid}")).body == bytes, "other bytes came without A");
}

#[test]
fn ranges_head_and_conditional_requests_are_answered_as_http_says() {
    let pair = Pair::with_bytes(3 << 20);
    let (b, path, bytes) = (&pair.b, pair.path(), &pair.bytes);
    let size = bytes.len();

    let range = b.request("GET", &path, &[("Range", "bytes=1048570-1048590")]);
    assert_eq!((range.status, &range.body[..]), (206, &bytes[1_048_570..=1_048_590]));
    let content_range = format!("bytes 1048570-1048590/{size}");
    assert_eq!(range.header("content-range"), Some(&content_range[..]));
    let suffix = b.request("GET", &path, &[("Range", "bytes=-5")]);
    assert_eq!((suffix.status, &suffix.body[..]), (206, &bytes[size - 5..]));
    let beyond = b.request("GET", &path, &[("Range", &format!("bytes={size}-"))]);
    assert_eq!(beyond.status, 416);

    let head = b.request("HEAD", &path, &[]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some(&size.to_string()[..]));
    let etag = head.header("etag").unwrap().to_owned();
    assert_eq!(etag, format!("\"{}\"", pair.cid));
    let known = b.request("GET", &path, &[("If-None-Match", &etag)]);
    assert_eq!((known.status, known.body.len()), (304, 0));
}

#[test]
fn only_if_cached_asks_nobody() {
    let pair = Pair::with_bytes(1 << 20);
    let cached = [("Cache-Control", "only-if-cached")];
    assert_eq!(pair.b.request("GET", &pair.path(), &cached).status, 412);
    assert_eq!(pair.b.get(&pair.path()).status, 200);
    assert_eq!(pair.b.request("GET", &pair.path(), &cached).status, 200);
}

#[test]
fn ten_parallel_downloads_fetch_each_block_once() {
    let pair = Pair::with_bytes(large_bytes());
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                let got = pair.b.get(&pair.path());
                assert!(got.body == pair.bytes, "{} of {}", got.body.len(), pair.bytes.len());
            });
        }
    });
    let leaves = pair.bytes.len().div_ceil(1 << 20) as u64;
    let blocks = pair.b.metric("store_blocks");
    assert!(blocks > leaves);
    assert_eq!(pair.a.metric("blocks_sent_total"), blocks);
    assert_eq!(pair.b.metric("blocks_duplicate_total"), 0);
    eprintln!("peak MiB: A {}, B {}", pair.a.peak_mib(), pair.b.peak_mib());
}

#[test]
fn what_nobody_has_is_not_found_in_time_and_bad_requests_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&dir.path().join("node"), &[]);
    let since = Instant::now();
    let cid = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
    let missing = node.get(&format!("/ipfs/{cid}"));
    assert_eq!(missing.status, 404);
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert_eq!(node.get("/ipfs/nonsense").status, 400);
    let mut post = node.send(
        format!(
            "POST /ipfs/{cid} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
             Content-Length: 3\r\n\r\nabc",
            node.http
        )
        .as_bytes(),
    );
    post.read_body().unwrap();
    assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD, OPTIONS")));
}

#[test]
fn a_peer_that_has_it_and_does_not_deliver_is_a_timeout() {
    // A peer that is killed after its first block was taken: the rest has no provider left.
    let pair = Pair::with_bytes(large_bytes());
    let mut response = pair.b.open("GET", &pair.path(), &[]);
    let mut some = vec![0; 1 << 20];
    response.stream.read_exact(&mut some).unwrap();
    let Pair { a, b, .. } = pair;
    a.kill();
    let since = Instant::now();
    // Either everything was here, or the answer is cut, so that the client can tell.
    let _ = response.read_body();
    assert!(since.elapsed() < Duration::from_secs(35));
    assert_eq!(b.get("/healthz").status, 200);
}

#[test]
fn a_download_cut_by_kill_9_goes_on_with_what_was_stored() {
    let Pair { dir, a, b, cid, bytes } = Pair::with_bytes(large_bytes().max(192 << 20));
    let path = format!("/ipfs/{cid}");
    let mut response = b.open("GET", &path, &[]);
    let mut half = vec![0; bytes.len() / 2];
    response.stream.read_exact(&mut half).unwrap();
    b.kill();
    let b = Node::start(&dir.path().join("b"), &[&a.peer]);
    assert!(b.get(&path).body == bytes, "other bytes came");
    let twice = a.metric("blocks_sent_total") - b.metric("store_blocks");
    let blocks = bytes.len() as u64 >> 20;
    eprintln!("{twice} of {blocks} blocks travelled twice");
    // What was in memory, on its way or not yet in the index when it died, whatever the size.
    assert!(twice <= (blocks / 20).max(64), "{twice} of {blocks}");
    assert!(run(&b.dir, &["verify"]).status.success());
}

/// Answers peers with nonsense, or with nothing at all.
fn nonsense(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming().flatten().take(64) {
            let mut stream = stream;
            thread::spawn(move || {
                let _ = stream.write_all(bytes);
                let _ = stream.read(&mut [0; 64]);
                thread::sleep(Duration::from_millis(100));
            });
        }
    });
    address
}

#[test]
fn peers_that_talk_nonsense_or_stall_cost_no_download() {
    let dir = tempfile::tempdir().unwrap();
    let file = make_file(&dir.path().join("file"), 5 << 20, 3);
    let a = Node::start(&dir.path().join("a"), &[]);
    let cid = a.put(&file);
    let oversized = nonsense(b"\xff\xff\xff\xff\xff\xff\xff\xff");
    let http = nonsense(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let silent = nonsense(b"");
    let b = Node::start(&dir.path().join("b"), &[&oversized, &http, &silent, &a.peer]);
    assert!(b.get(&format!("/ipfs/{cid}")).body == fs::read(&file).unwrap());
    loop_until("the log names the peer", || b.log().contains(&oversized).then_some(()));
}

/// Whoever lies, not one wrong byte is delivered, and another peer has what it takes.
#[test]
fn peers_that_lie_cost_no_byte_and_the_log_names_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = make_file(&dir.path().join("file"), 24 << 20, 3);
    let a = Node::start(&dir.path().join("a"), &[]);
    let cid = a.put(&file);
    let bytes = fs::read(&file).unwrap();
    let blocks = blocks_of(&a, &cid, &bytes);
    for malice in hostile::ALL {
        let (peer, address) = hostile::start(malice, blocks.clone());
        let b = Node::start(&dir.path().join(format!("{malice:?}")), &[&address, &a.peer]);
        loop_until("B knows both", || (b.metric("peers") == 2).then_some(()));
        let got = b.get(&format!("/ipfs/{cid}"));
        assert!(got.body == bytes, "{malice:?}: {} bytes came", got.body.len());
        if malice != hostile::Malice::Stalls {
            loop_until("the log names the peer", || {
                b.log().contains(&peer.to_string()).then_some(())
            });
        }
        assert!(b.peak_mib() <= 64, "{malice:?}: {} MiB", b.peak_mib());
    }
}

/// Where the only peer that has it stalls, that is a timeout, within what `help` states.
#[test]
fn a_peer_that_stalls_alone_is_a_504_in_time_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let block = barrow::Block::of(vec![5; 1_000_000].into()).unwrap();
    let cid = barrow::Cid::v1(barrow::Codec::Raw, *block.hash());
    let blocks = [(*block.hash(), 1_000_000)].into();
    let (peer, address) = hostile::start(hostile::Malice::Stalls, blocks);
    let b = Node::start(&dir.path().join("b"), &[&address]);
    loop_until("B knows it", || (b.metric("peers") == 1).then_some(()));
    let since = Instant::now();
    assert_eq!(b.get(&format!("/ipfs/{cid}")).status, 504);
    assert!(since.elapsed() < Duration::from_secs(32), "{:?}", since.elapsed());
    assert!(b.log().contains(&peer.to_string()));
}

/// The blocks of a file, with their lengths.
fn blocks_of(node: &Node, cid: &str, bytes: &[u8]) -> HashMap<Multihash, u32> {
    let len = |data: &[u8]| u32::try_from(data.len()).unwrap();
    let hash = |data: &[u8]| Multihash::of(HashCode::Sha2_256, data);
    let root = node.get(&format!("/ipfs/{cid}?format=raw")).body;
    let leaves = bytes.chunks(1 << 20).map(|leaf| (hash(leaf), len(leaf)));
    leaves.chain([(hash(&root), len(&root))]).collect()
}

#[test]
fn a_client_that_reads_slowly_or_leaves_pauses_the_far_node() {
    let pair = Pair::with_bytes(large_bytes().max(128 << 20));
    let mut response = pair.b.open("GET", &pair.path(), &[]);
    let mut some = vec![0; 1 << 20];
    response.stream.read_exact(&mut some).unwrap();
    // Windows, buffers and sockets fill; then nothing moves.
    let mut sent = 0;
    loop_until("the far node pauses", || {
        let now = pair.a.metric("peer_bytes_sent_total");
        let quiet = now == std::mem::replace(&mut sent, now);
        thread::sleep(Duration::from_millis(300));
        quiet.then_some(())
    });
    assert!(sent < pair.bytes.len() as u64 / 2, "{sent} bytes were sent for 1 MiB read");
    drop(response);
    thread::sleep(Duration::from_millis(300));
    assert!(pair.a.metric("peer_bytes_sent_total") < pair.bytes.len() as u64 * 2 / 3);
    assert!(pair.b.peak_mib() <= 64, "{} MiB", pair.b.peak_mib());
    assert!(pair.b.get(&pair.path()).body == pair.bytes, "a later client gets all of it");
}

#[test]
fn more_slow_readers_than_memory_do_not_hold_up_an_honest_one() {
    let pair = Pair::with_bytes(32 << 20);
    assert!(pair.b.get(&pair.path()).body == pair.bytes);
    let slow: Vec<Response> = (0..64).map(|_| pair.b.open("GET", &pair.path(), &[])).collect();
    let since = Instant::now();
    assert!(pair.b.get(&pair.path()).body == pair.bytes);
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    // One of the slow ones wakes up, and misses nothing.
    let mut late = slow.into_iter().next_back().unwrap();
    late.read_body().unwrap();
    assert!(late.body == pair.bytes, "{} of {}", late.body.len(), pair.bytes.len());
    assert!(pair.b.peak_mib() <= 64, "{} MiB", pair.b.peak_mib());
}

#[test]
fn sigterm_in_the_middle_of_transfers_stops_cleanly() {
    let pair = Pair::with_bytes(large_bytes());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let mut stream = pair.b.open("GET", &pair.path(), &[]).stream;
                    let _ = stream.read(&mut [0; 65_536]);
                    thread::sleep(Duration::from_millis(5));
                    stop.store(true, Ordering::Relaxed);
                }
            });
        }
    });
    let mut running = pair.b.open("GET", &pair.path(), &[]);
    running.stream.read_exact(&mut [0; 1_000]).unwrap();
    let dir = pair.b.dir.clone();
    let (status, took) = pair.b.terminate();
    assert_eq!(status, Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(!dir.join("node.json").exists());
    assert!(run(&dir, &["verify"]).status.success());
}

#[test]
fn directories_list_walk_back_and_are_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("hello.txt"), "hello").unwrap();
    fs::write(tree.join("empty"), "").unwrap();
    make_file(&tree.join("sub/large"), 3 << 20, 5);
    let a = Node::start(&dir.path().join("a"), &[]);
    let cid = a.put(&tree);
    let b = Node::start(&dir.path().join("b"), &[&a.peer]);
    let redirect = b.get(&format!("/ipfs/{cid}"));
    assert_eq!(
        (redirect.status, redirect.header("location").unwrap()),
        (301, &format!("/ipfs/{cid}/")[..])
    );
    let page = String::from_utf8(b.get(&format!("/ipfs/{cid}/")).body).unwrap();
    assert!(page.contains("hello.txt") && page.contains("sub"), "{page}");
    assert_eq!(b.get(&format!("/ipfs/{cid}/hello.txt")).body, b"hello");
    assert!(
        b.get(&format!("/ipfs/{cid}/sub/large")).body == fs::read(tree.join("sub/large")).unwrap()
    );
    assert_eq!(b.get(&format!("/ipfs/{cid}/nothing")).status, 404);
    let pin = b.run(&["pin", &cid]);
    assert!(pin.status.success(), "{pin:?}");
    a.kill();
    assert_eq!(b.get(&format!("/ipfs/{cid}/empty")).status, 200);
    let list = String::from_utf8(b.run(&["ls", "--json"]).stdout).unwrap();
    assert!(list.contains(&cid), "{list}");
}

#[test]
fn get_resumes_and_every_end_has_its_exit_status() {
    let Pair { dir, a, b, cid, bytes } = Pair::with_bytes(5 << 20);
    let out = dir.path().join("out");
    let get = |node: &Node| node.run(&["get", &cid, "-o", out.to_str().unwrap()]);
    // As an interrupted one leaves it.
    fs::write(dir.path().join("out.part"), &bytes[..2_500_000]).unwrap();
    assert!(get(&b).status.success());
    assert!(fs::read(&out).unwrap() == bytes);

    assert_eq!(b.run(&["sreve"]).status.code(), Some(2));
    assert_eq!(run(&dir.path().join("nowhere"), &["ls"]).status.code(), Some(10));
    let unknown = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
    assert_eq!(b.run(&["get", unknown]).status.code(), Some(1));
    let (status, _) = a.terminate();
    assert_eq!(status, Some(0));
    // Without a serving node the commands open the store themselves.
    let alone = dir.path().join("a");
    assert_eq!(put(&alone, &out), cid);
    assert!(String::from_utf8(run(&alone, &["ls"]).stdout).unwrap().contains(&cid));
}

#[test]
fn a_foreign_host_or_origin_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(Path::new(&dir.path().join("node")), &[]);
    let evil = node.send(b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert!(evil.status == 403 || evil.status == 421, "{}", evil.status);
    let origin = node.request("GET", "/api/v1/node", &[("Origin", "http://evil.example")]);
    assert_eq!(origin.status, 403);
    assert_eq!(node.request("GET", "/api/v1/node", &[]).status, 200);
}
