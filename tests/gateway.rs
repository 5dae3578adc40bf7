//! The gateway's other forms, between real processes: CARs in and out, large directories, ranges
//! where blocks lack.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test reports by a panic"
)]

#[path = "flow/node.rs"]
#[allow(dead_code)]
mod node;

use node::{Node, make_file, run, unchunked};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
};

fn text(output: &std::process::Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap().trim().into()
}

/// A CAR's header, and its sections one by one.
fn split(car: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut sections = Vec::new();
    let mut rest = car;
    while !rest.is_empty() {
        let (mut len, mut at) = (0, 0);
        loop {
            len |= usize::from(rest[at] & 0x7f) << (7 * at);
            at += 1;
            if rest[at - 1] < 0x80 {
                break;
            }
        }
        sections.push(rest[..at + len].to_vec());
        rest = &rest[at + len..];
    }
    let header = sections.remove(0);
    (header, sections)
}

#[test]
fn a_tree_leaves_as_a_car_and_comes_back_as_the_same_cid_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    make_file(&tree.join("sub/large"), 5 << 20, 1);
    fs::write(tree.join("same"), "twice").unwrap();
    fs::write(tree.join("sub/same"), "twice").unwrap();
    let a = Node::start(&dir.path().join("a"), &[]);
    let cid = a.put(&tree);
    let car = dir.path().join("tree.car");
    let export = a.run(&["export", &cid, "-o", car.to_str().unwrap()]);
    assert!(export.status.success(), "{export:?}");
    let by_http = a.get(&format!("/ipfs/{cid}?format=car"));
    assert_eq!(by_http.header("transfer-encoding"), Some("chunked"));

    // Into a node that serves, and into a store without one.
    let b = Node::start(&dir.path().join("b"), &[]);
    let alone = dir.path().join("c");
    let import = b.run(&["import", car.to_str().unwrap()]);
    assert_eq!((text(&import), import.status.code()), (cid.clone(), Some(0)), "{import:?}");
    let import = run(&alone, &["import", car.to_str().unwrap()]);
    assert_eq!((text(&import), import.status.code()), (cid.clone(), Some(0)), "{import:?}");
    assert!(text(&run(&alone, &["ls"])).contains(&cid));
    b.run(&["gc"]);
    let large = b.get(&format!("/ipfs/{cid}/sub/large"));
    assert!(large.body == fs::read(tree.join("sub/large")).unwrap());
    // The store's own export is byte for byte the serving node's.
    let again = run(&alone, &["export", &cid]);
    assert!(again.stdout == fs::read(&car).unwrap());
}

#[test]
fn a_car_that_is_cut_or_wrong_pins_nothing_and_one_that_lacks_a_block_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = make_file(&dir.path().join("file"), 3 << 20, 2);
    let a = Node::start(&dir.path().join("a"), &[]);
    let cid = a.put(&file);
    let car = a.run(&["export", &cid]).stdout;
    let (header, sections) = split(&car);
    assert_eq!(sections.len(), 4);
    let path = dir.path().join("x.car");
    let b = Node::start(&dir.path().join("b"), &[]);
    let import = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        b.run(&["import", path.to_str().unwrap()])
    };
    assert_eq!(import(&car[..car.len() - 1]).status.code(), Some(1));
    let mut wrong = car.clone();
    let last = wrong.len() - 1;
    wrong[last] ^= 1;
    assert_eq!(import(&wrong).status.code(), Some(1));
    assert_eq!(import(b"").status.code(), Some(1));
    assert_eq!(import(&[0xff; 64]).status.code(), Some(1));
    assert_eq!(text(&b.run(&["ls"])), "");

    b.run(&["gc"]);
    let without_last = [header, sections[..3].concat()].concat();
    let lacking = import(&without_last);
    assert_eq!(lacking.status.code(), Some(3), "{lacking:?}");
    assert_eq!(text(&b.run(&["ls"])), "");
    // What is here is served, and what lacks ends the stream so that the client sees it.
    let range = b.request("GET", &format!("/ipfs/{cid}"), &[("Range", "bytes=0-9")]);
    assert_eq!((range.status, range.body.len()), (206, 10));
    let whole = b.get(&format!("/ipfs/{cid}?format=car&dag-scope=entity&entity-bytes=0:1048575"));
    assert_eq!(split(&unchunked(&whole.body)).1.len(), 2);
    let out = dir.path().join("out");
    for target in [format!("/ipfs/{cid}?format=car"), format!("/ipfs/{cid}")] {
        let url = format!("http://{}{target}", b.http);
        let curl = Command::new("curl").args(["-s", "-o", out.to_str().unwrap(), &url]).status();
        assert!(matches!(curl.unwrap().code(), Some(18 | 56)), "curl tells of the cut");
    }
}

/// Passes one connection on, and cuts it off once so many bytes came back.
fn relay_cut(listener: &TcpListener, to: &str, bytes: u64) {
    let (mut client, _) = listener.accept().unwrap();
    let server = TcpStream::connect(to).unwrap();
    let (mut asked, mut forward) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let request = thread::spawn(move || std::io::copy(&mut asked, &mut forward));
    let _ = std::io::copy(&mut server.try_clone().unwrap().take(bytes), &mut client);
    for end in [&client, &server] {
        let _ = end.shutdown(std::net::Shutdown::Both);
    }
    let _ = request.join();
}

#[test]
fn a_download_cut_ten_times_is_gone_on_with_by_curl_and_is_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = make_file(&dir.path().join("file"), (24 << 20) + 123, 5);
    let a = Node::start(&dir.path().join("a"), &[]);
    let cid = a.put(&file);
    let out = dir.path().join("out");
    let url = format!("http://{}/ipfs/{cid}", a.http);
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    let by_relay = format!("::{}", relay.local_addr().unwrap());
    let resume = |by: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-C", "-", "-o", out.to_str().unwrap(), &url]).args(by);
        curl.status().unwrap().code()
    };
    let mut have = 0;
    let mut point = 0x2545_f491_u64;
    for cut in 0..10 {
        // Within the next two blocks and a half, head and all.
        point = point.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let bytes = 4_096 + (point >> 33) % (5 << 19);
        let status = thread::scope(|scope| {
            scope.spawn(|| relay_cut(&relay, &a.http, bytes));
            resume(&["--connect-to", &by_relay])
        });
        assert!(matches!(status, Some(18 | 56)), "cut {cut} after {bytes}: curl says {status:?}");
        let now = fs::metadata(&out).unwrap().len();
        assert!(now > have, "cut {cut}: {now} after {have}");
        have = now;
    }
    assert_eq!(resume(&[]), Some(0));
    assert!(fs::read(&out).unwrap() == fs::read(&file).unwrap(), "another file");
}

#[test]
fn a_directory_of_many_files_is_sharded_and_walked_through_the_swarm() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(&tree).unwrap();
    for n in 0..6_000 {
        fs::write(tree.join(format!("file number {n}.txt")), format!("{n}")).unwrap();
    }
    let a = Node::start(&dir.path().join("a"), &[]);
    let cid = a.put(&tree);
    let b = Node::start(&dir.path().join("b"), &[&a.peer]);
    assert_eq!(b.get(&format!("/ipfs/{cid}/file%20number%204711.txt")).body, b"4711");
    assert!(b.metric("blocks_received_total") < 10, "only the shards on the way came");
    assert_eq!(b.get(&format!("/ipfs/{cid}/file%20number%206000.txt")).status, 404);
    let page = String::from_utf8(b.get(&format!("/ipfs/{cid}/")).body).unwrap();
    assert!((0..6_000).all(|n| page.contains(&format!(">file number {n}.txt<"))));
    assert!(b.run(&["pin", &cid]).status.success());
}

#[test]
fn a_page_of_the_swarm_is_not_in_the_nodes_origin_and_a_post_of_it_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("page.html");
    fs::write(&page, "<!doctype html><script>fetch('/api/v1/gc',{method:'POST'})</script>")
        .unwrap();
    let node = Node::start(Path::new(&dir.path().join("node")), &[]);
    let cid = node.put(&page);
    let shown = node.get(&format!("/ipfs/{cid}?filename=page.html"));
    let policy = shown.header("content-security-policy").unwrap();
    assert!(policy.starts_with("sandbox") && !policy.contains("same-origin"), "{policy}");
    // As a sandboxed page is named to servers.
    assert_eq!(node.request("POST", "/api/v1/gc", &[("Origin", "null")]).status, 403);
}

#[test]
fn a_car_may_be_streamed_from_standard_input_and_hostile_headers_take_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&dir.path().join("node"), &[]);
    let mut child = Command::new(node::BARROW)
        .args(["--data-dir", node.dir.to_str().unwrap(), "import", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A header that says it has a gigabyte.
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(&[0x80, 0x80, 0x80, 0x80, 0x04]);
    let _ = stdin.write_all(&[0xa2; 4_096]);
    drop(stdin);
    let mut message = String::new();
    child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(message.contains("header"), "{message}");
    assert!(node.peak_mib() < 64, "{} MiB", node.peak_mib());
}

#[test]
fn what_is_on_the_denylist_is_not_served_in_any_form_or_through_any_path() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join("denied"), "denied").unwrap();
    fs::write(tree.join("fine"), "fine").unwrap();
    let home = dir.path().join("node");
    let cid = node::put(&home, &tree);
    let denied = node::put(&home, &tree.join("denied"));
    let list = dir.path().join("list");
    fs::write(&list, format!("{denied} # as an example\n")).unwrap();
    let node = Node::start_with(&home, &[], &["--denylist", list.to_str().unwrap()]);
    for path in [
        format!("/ipfs/{denied}"),
        format!("/ipfs/{denied}?format=raw"),
        format!("/ipfs/{denied}?format=car"),
        format!("/ipfs/{cid}/denied"),
        format!("/ipfs/{cid}/denied?format=car"),
        format!("/api/codex/v1/data/{denied}"),
        format!("/api/storage/v1/data/{denied}/network/stream"),
    ] {
        assert_eq!(node.get(&path).status, 410, "{path}");
    }
    assert_eq!(node.get(&format!("/ipfs/{cid}/fine")).body, b"fine");
}

/// Sends requests on one connection, and gives the statuses and bodies of their answers.
fn keep_asking(node: &Node, requests: &[String]) -> Vec<(u16, Vec<u8>)> {
    let mut stream = std::net::TcpStream::connect(&node.http).unwrap();
    let mut answers = Vec::new();
    for request in requests {
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = node::Response::read(stream).unwrap();
        let length = answer.header("content-length").unwrap().parse().unwrap();
        let mut body = vec![0; length];
        answer.stream.read_exact(&mut body).unwrap();
        answers.push((answer.status, body));
        stream = answer.stream;
    }
    answers
}

#[test]
fn a_small_answer_is_given_again_by_the_gate_until_what_it_tells_of_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let file = make_file(&dir.path().join("small.txt"), 1_024, 4);
    let node = Node::start(&dir.path().join("node"), &[]);
    let cid = node.put(&file);
    let bytes = fs::read(&file).unwrap();
    let get =
        |lines: &str| format!("GET /ipfs/{cid} HTTP/1.1\r\nHost: {}\r\n{lines}\r\n", node.http);
    let repeated = || node.metric("http_repeated_total");

    let fifty = vec![get(""); 50];
    assert!(keep_asking(&node, &fifty).iter().all(|answer| *answer == (200, bytes.clone())));
    assert_eq!(repeated(), 49);
    // With a connection that ends, and as HEAD from its second time on.
    assert_eq!(node.get(&format!("/ipfs/{cid}")).body, bytes);
    let heads = [(); 2].map(|()| node.open("HEAD", &format!("/ipfs/{cid}"), &[]));
    assert!(heads.iter().all(|head| head.header("content-length") == Some("1024")));
    assert_eq!((repeated(), heads[0].headers == heads[1].headers), (51, true));
    // Whoever wants something special is answered as if there were nothing kept.
    let special = [get("Range: bytes=0-9\r\n"), get("Cache-Control: only-if-cached\r\n")];
    let special = keep_asking(&node, &special);
    assert_eq!((&special[0], special[1].0), (&(206, bytes[..10].to_vec()), 200));
    let etag = format!("\"{cid}\"");
    let known = node.request("GET", &format!("/ipfs/{cid}"), &[("If-None-Match", &etag)]);
    assert_eq!((known.status, repeated()), (304, 51));
    let foreign = format!("GET /ipfs/{cid} HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert_eq!(keep_asking(&node, &[foreign])[0].0, 403);

    // A new name is told at once.
    let named = node.run(&["put", file.to_str().unwrap(), "--name", "other.bin"]);
    assert!(named.status.success());
    let other = node.get(&format!("/ipfs/{cid}"));
    assert!(other.header("content-disposition").unwrap().contains("other.bin"));
    // What was removed is not given again.
    assert_eq!((keep_asking(&node, &fifty[..2])[1].0, repeated() > 51), (200, true));
    assert!(node.run(&["rm", &cid]).status.success());
    assert!(keep_asking(&node, &fifty[..2]).iter().all(|(status, _)| *status == 404));
}
