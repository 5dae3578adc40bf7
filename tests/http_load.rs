//! Clients that hold on to what they do not use, and a node without descriptors: honest requests
//! go on as if they were not there.
//!
//! `BARROW_LOAD=1000` sets how many idle ones there are (200 by default), half as many of each
//! other kind; with figures like that it wants `ulimit -n 8192` and a release build.

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

use barrow::wire::{Identity, Session, SessionConfig, StaticKey, Suites};
use node::{BARROW, Node, loop_until, make_file};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

fn idle_count() -> usize {
    std::env::var("BARROW_LOAD").map_or(200, |count| count.parse().unwrap())
}

/// The times of honest GETs, one connection each, the longest last.
fn honest(node: &Node, path: &str, count: usize) -> Vec<Duration> {
    let mut times: Vec<Duration> = (0..count)
        .map(|_| {
            let since = Instant::now();
            assert_eq!(node.get(path).status, 200);
            since.elapsed()
        })
        .collect();
    times.sort();
    times
}

fn p99(times: &[Duration]) -> Duration {
    times[times.len() * 99 / 100]
}

/// Hundredths of seconds of the CPU that a process has had.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

fn connect(node: &Node, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&node.http).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    stream
}

#[test]
fn idle_slow_and_stalled_clients_cost_honest_ones_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&dir.path().join("node"), &[]);
    let large = node.put(&make_file(&dir.path().join("large"), 64 << 20, 1));
    let small = node.put(&make_file(&dir.path().join("small"), 1_024, 2));
    let path = format!("/ipfs/{small}");
    honest(&node, &path, 200);
    let before = honest(&node, &path, 1_000);
    let threads_before = threads(node.pid());

    let (idle, others) = (idle_count(), idle_count() / 2);
    let host = "Host: localhost\r\n";
    let mut held: Vec<TcpStream> = Vec::new();
    held.extend((0..idle).map(|_| connect(&node, "")));
    held.extend((0..others).map(|_| connect(&node, &format!("GET / HTTP/1.1\r\n{host}X: "))));
    let read = format!("GET /ipfs/{large} HTTP/1.1\r\n{host}\r\n");
    held.extend((0..others).map(|_| connect(&node, &read)));
    let upload = format!("POST /api/v1/put HTTP/1.1\r\n{host}Content-Length: 1000000\r\n\r\nx");
    held.extend((0..others).map(|_| connect(&node, &upload)));
    // The slow readers' sockets are filled, and then there is nothing to do for them.
    let mut sent = 0;
    loop_until("nothing more is sent", || {
        thread::sleep(Duration::from_millis(300));
        let now = node.metric("http_bytes_sent_total");
        let moved = now - std::mem::replace(&mut sent, now);
        (moved < 64 << 10).then_some(())
    });

    // Nothing is pulled again and again for who does not read.
    let ticks = cpu_ticks(node.pid());
    thread::sleep(Duration::from_secs(1));
    let ticks = cpu_ticks(node.pid()) - ticks;
    let during = honest(&node, &path, 1_000);
    let (was, is) = (p99(&before), p99(&during));
    let (threads_now, peak) = (threads(node.pid()), node.peak_mib());
    eprintln!(
        "{} held: p99 {was:?} before, {is:?} during; {threads_before} threads before, \
         {threads_now} during; peak {peak} MiB; {ticks} % of a CPU while nobody reads",
        held.len()
    );
    // Other tests share the machine: the bound is on what grows with the number of clients.
    assert!(is < (was * 2).max(Duration::from_millis(20)), "{was:?} became {is:?}");
    assert!(threads_now <= threads_before + 32, "{threads_now} threads");
    assert!(ticks <= 20, "{ticks} % of a CPU for nothing");
    assert!(peak <= 64 + 32, "{peak} MiB");
    drop(held);
    // What was begun and never came leaves nothing.
    loop_until("the uploads are given up", || {
        (node.metric("store_blocks") == 64 + 2).then_some(())
    });
}

/// A node that may open few files.
struct Limited(Child);

impl Limited {
    fn start(dir: &Path, files: u32) -> (Self, String) {
        let script = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
        let child = Command::new("sh")
            .args(["-c", &script, BARROW, "--data-dir", dir.to_str().unwrap(), "serve"])
            .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let about = loop_until("the node answers", || {
            let text = fs::read_to_string(dir.join("node.json")).ok()?;
            serde_json::from_str::<serde_json::Value>(&text).ok()
        });
        (Self(child), about["http"].as_str().unwrap().into())
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether `/healthz` says 200 within the time.
fn is_healthy(http: &str, timeout: Duration) -> bool {
    let Ok(mut stream) = TcpStream::connect(http) else { return false };
    stream.set_read_timeout(Some(timeout)).unwrap();
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

#[test]
fn a_node_whose_descriptors_ran_out_answers_again_within_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let (_node, http) = Limited::start(&dir.path().join("node"), 256);
    assert!(is_healthy(&http, Duration::from_secs(5)));
    // More than it may have, three times over.
    for round in 0..3 {
        let held: Vec<TcpStream> =
            (0..400).filter_map(|_| TcpStream::connect(&http).ok()).collect();
        thread::sleep(Duration::from_millis(300));
        drop(held);
        let since = Instant::now();
        loop_until("it answers again", || is_healthy(&http, Duration::from_secs(1)).then_some(()));
        assert!(since.elapsed() < Duration::from_secs(1), "round {round}: {:?}", since.elapsed());
    }
}

/// A connection on which a peer said its first words.
fn begin_handshake(address: &str) -> TcpStream {
    let key = StaticKey::generate(&Identity::from_seed([1; 32]));
    let suites = Suites::default();
    let config = SessionConfig { static_key: &key, swarm_key: None, expected: None, suites };
    let mut flight = Vec::new();
    Session::<Vec<u8>>::initiator(&config).transmit(&mut flight, 1 << 10).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&flight).unwrap();
    stream
}

#[test]
fn a_peer_that_came_while_there_was_no_descriptor_is_answered_when_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&dir.path().join("node"), &[]);
    let limit = |files: u32| {
        let (pid, files) = (node.pid().to_string(), format!("--nofile={files}:"));
        assert!(Command::new("prlimit").args(["--pid", &pid, &files]).status().unwrap().success());
    };
    limit(4);
    let mut peer = begin_handshake(node.peer.split('@').nth(1).unwrap());
    peer.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(peer.read(&mut [0; 64]).is_err(), "it is answered without a descriptor");
    limit(1_024);
    // It waits in the backlog, of which nobody is told twice.
    peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(matches!(peer.read(&mut [0; 64]), Ok(1..)));
}
