//! Nodes and the network between them: what a swarm wastes, how well a long or a narrow way is
//! filled, how many round trips a small thing takes, whether limits hold, and what floods cost.
//!
//! `cargo bench --bench swarm [NAME]...` with names of `swarm processes limits far three latency
//! flood`;
//! `BARROW_BENCH_MIB` sets the size (256).

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a bench prints, and ends at what fails"
)]

mod common;
#[allow(dead_code)]
#[path = "../tests/sim/crowds.rs"]
mod crowds;
#[allow(dead_code)]
#[path = "../tests/flow/node.rs"]
mod node;
mod processes;
mod way;

use barrow::wire::{Identity, Message, Session, SessionConfig, StaticKey, Suites};
use common::{is_smoke, scratch, seconds};
use node::{Node, make_file};
use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};
use way::Way;

const MBIT: u64 = 1_000_000 / 8;

/// What is measured, by its name.
type Scene = (&'static str, fn(&Path));

fn main() {
    let scenes: [Scene; 7] = [
        ("swarm", swarm),
        ("processes", processes::processes),
        ("limits", limits),
        ("far", far),
        ("three", three),
        ("latency", latency),
        ("flood", flood),
    ];
    let words: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    for (name, scene) in scenes {
        if words.is_empty() || words.iter().any(|word| word == name) {
            println!("--- {name}");
            scene(scratch().path());
        }
    }
}

fn mebibytes() -> u64 {
    let set = env::var("BARROW_BENCH_MIB").ok().map(|text| text.parse().unwrap());
    set.unwrap_or(if is_smoke() { 8 } else { 256 })
}

/// A node with a file of so many bytes.
fn source(dir: &Path, bytes: u64, flags: &[&str]) -> (Node, String) {
    let file = make_file(&dir.join("file"), bytes, bytes);
    let node = Node::start_with(&dir.join("a"), &[], flags);
    let cid = node.put(&file);
    (node, cid)
}

fn knows(node: &Node, peers: u64) {
    node::loop_until("it knows its peers", || (node.metric("peers") >= peers).then_some(()));
}

/// Seconds that a pin takes.
fn pin(node: &Node, cid: &str) -> f64 {
    let (pinned, time) = seconds(|| node.run(&["pin", cid]));
    assert!(pinned.status.success(), "{pinned:?}");
    time
}

fn swarm(dir: &Path) {
    let limit = if is_smoke() { 20_000_000 } else { 50_000_000 };
    let bytes = mebibytes() << 20;
    let (a, cid) = source(dir, bytes, &["--limit-up", &limit.to_string()]);
    let start = |n: usize| Node::start(&dir.join(n.to_string()), &[&a.peer]);
    let nodes: Vec<Node> = (0..8).map(start).collect();
    nodes.iter().for_each(|node| knows(node, 1));
    let (_, time) = seconds(|| {
        thread::scope(|scope| {
            for node in &nodes {
                scope.spawn(|| pin(node, &cid));
            }
        });
    });
    let sum = |name: &str| nodes.iter().map(|node| node.metric(name)).sum::<u64>() as f64;
    let (received, duplicate) = (sum("blocks_received_total"), sum("blocks_duplicate_total"));
    println!(
        "8 downloaders of {} MiB: {time:.2} s = {:.2} × size ÷ limit (bound 1.6); the seeder sent \
         {:.2} copies (bound 1.5); {:.2} % of received blocks were duplicates (bound 2)",
        bytes >> 20,
        time * limit as f64 / bytes as f64,
        a.metric("peer_bytes_sent_total") as f64 / bytes as f64,
        duplicate * 100.0 / received.max(1.0),
    );
}

fn limits(dir: &Path) {
    let bytes = if is_smoke() { 4 << 20 } else { 64 << 20 };
    let limit = 10_000_000.0;
    let tell = |what: &str, rate: f64| println!("{what}: {:.3} of the limit", rate / limit);
    let (a, cid) = source(dir, bytes, &["--limit-up", "10MB"]);
    let b = Node::start(&dir.join("b"), &[&a.peer]);
    knows(&b, 1);
    tell("--limit-up 10MB", bytes as f64 / pin(&b, &cid));
    drop((a, b));
    let a = Node::start(&dir.join("a"), &[]);
    let b = Node::start_with(&dir.join("c"), &[&a.peer], &["--limit-down", "10MB"]);
    knows(&b, 1);
    tell("--limit-down 10MB", bytes as f64 / pin(&b, &cid));
    drop((a, b));

    // Two who want different things of one node, and do not know each other's.
    let a = Node::start_with(&dir.join("a"), &[], &["--limit-up", "10MB"]);
    let other = a.put(&make_file(&dir.join("other"), bytes, 77));
    let [first, second] = pin_two(&a, [(&dir.join("d"), &cid), (&dir.join("e"), &other)]);
    println!("two peers at one time: {first:.2} s and {second:.2} s, ratio {:.3}", first / second);
    drop(a);

    // And where each of them has a limit of its own.
    let a = Node::start_with(&dir.join("a"), &[], &["--limit-up-peer", "10MB"]);
    let times = pin_two(&a, [(&dir.join("f"), &cid), (&dir.join("g"), &other)]);
    for time in times {
        tell("--limit-up-peer 10MB, one of two peers", bytes as f64 / time);
    }
    drop(a);
    let pair = ["a", "d"].map(|name| Node::start(&dir.join(name), &[]));
    let peers: Vec<&str> = pair.iter().map(|node| &node.peer[..]).collect();
    let b = Node::start_with(&dir.join("h"), &peers, &["--limit-down-peer", "10MB"]);
    knows(&b, 2);
    let rate = bytes as f64 / pin(&b, &cid);
    tell("--limit-down-peer 10MB, from each of two peers", rate / 2.0);
}

/// Seconds that two new nodes take to pin different things of one.
fn pin_two(a: &Node, pins: [(&Path, &str); 2]) -> [f64; 2] {
    let nodes = pins.map(|(dir, cid)| (Node::start(dir, &[&a.peer]), cid));
    nodes.iter().for_each(|(node, _)| knows(node, 1));
    thread::scope(|scope| {
        let pins = nodes.each_ref().map(|(node, cid)| scope.spawn(|| pin(node, cid)));
        pins.map(|pin| pin.join().unwrap())
    })
}

fn far(dir: &Path) {
    let bytes = mebibytes() << 20;
    let rate = 500 * MBIT;
    let (a, cid) = source(dir, bytes, &[]);
    let way = Way::open(&a.peer, Duration::from_millis(50), rate);
    let b = Node::start(&dir.join("b"), &[&way.address]);
    knows(&b, 1);
    let time = pin(&b, &cid);
    let share = bytes as f64 / time / rate as f64;
    println!("100 ms round trip, 500 Mbit/s: {time:.2} s, {share:.3} of the link (bound 0.85)");
}

fn three(dir: &Path) {
    let bytes = (mebibytes() << 20) / 2;
    let rate = 100 * MBIT;
    let (a, cid) = source(dir, bytes, &[]);
    let others = ["x", "y"].map(|name| Node::start(&dir.join(name), &[&a.peer]));
    for other in &others {
        knows(other, 1);
        pin(other, &cid);
    }
    let ways: Vec<Way> = [&a, &others[0], &others[1]]
        .map(|node| Way::open(&node.peer, Duration::from_millis(5), rate))
        .into();
    let peers: Vec<&str> = ways.iter().map(|way| &way.address[..]).collect();
    let b = Node::start(&dir.join("b"), &peers);
    knows(&b, 3);
    let time = pin(&b, &cid);
    let share = bytes as f64 / time / (3 * rate) as f64;
    println!("three peers of 100 Mbit/s: {time:.2} s, {share:.3} of their sum (bound 0.85)");
    drop(b);

    // The same, and one of them becomes a hundredfold slower half way.
    let b = Node::start(&dir.join("b2"), &peers);
    knows(&b, 3);
    let half = Duration::from_secs_f64(time / 2.0);
    let slow = &ways[1];
    let time = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(half);
            slow.set_rate(rate / 100);
        });
        pin(&b, &cid)
    });
    let left = bytes as f64 - half.as_secs_f64() * (3 * rate) as f64;
    let least = half.as_secs_f64() + left / (2.01 * rate as f64);
    println!("one slowed a hundredfold: {time:.2} s, {:.3} of {least:.2} s", time / least);
}

/// Seconds to the whole body.
fn get(node: &Node, cid: &str) -> f64 {
    let (response, time) = seconds(|| node.get(&format!("/ipfs/{cid}")));
    assert_eq!(response.status, 200);
    time
}

fn latency(dir: &Path) {
    let delay = Duration::from_millis(50);
    let round_trip = 2.0 * delay.as_secs_f64();
    let a = Node::start(&dir.join("a"), &[]);
    let cid = |n: u64| a.put(&make_file(&dir.join(n.to_string()), 1_024, n));
    let (first, second) = (cid(1), cid(2));
    let way = Way::open(&a.peer, delay, 500 * MBIT);
    let b = Node::start(&dir.join("b"), &[&way.address]);
    knows(&b, 1);
    thread::sleep(Duration::from_millis(500));
    println!("warm: {:.2} round trips (bound 1.2)", get(&b, &first) / round_trip);
    println!("warm: {:.2} round trips", get(&b, &second) / round_trip);
    // Cold: the address is told, and the block asked for at once.
    let c = Node::start(&dir.join("c"), &[]);
    let body = format!("{{\"address\":\"{}\"}}", way.address);
    let request = format!(
        "POST /api/v1/peers HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        c.http,
        body.len()
    );
    let (_, time) = seconds(|| {
        c.send(request.as_bytes());
        get(&c, &first)
    });
    println!("cold: {:.2} round trips (bound 3.3)", time / round_trip);
}

fn flood(dir: &Path) {
    let cycles = if is_smoke() { 200 } else { 10_000 };
    let bytes = if is_smoke() { 16 << 20 } else { 256 << 20 };
    let (a, cid) = source(dir, bytes, &[]);
    let address = a.peer.split('@').nth(1).unwrap().to_owned();
    let key = StaticKey::generate(&Identity::from_seed([9; 32]));
    // What grows once, as the first connections come, is no leak.
    (0..cycles / 10).for_each(|_| flood_once(&address, &key));
    let before = resident_kib(&a);
    let since = Instant::now();
    (0..cycles).for_each(|_| flood_once(&address, &key));
    thread::sleep(Duration::from_secs(1));
    let grown = resident_kib(&a) as i64 - before as i64;
    println!(
        "{cycles} floods in {:.1} s: resident memory grew by {grown} KiB (bound 1024), {} KiB now",
        since.elapsed().as_secs_f64(),
        resident_kib(&a),
    );

    let mut rates = Vec::new();
    for half_open in [0, if is_smoke() { 50 } else { 1_000 }] {
        let stop = std::sync::atomic::AtomicBool::new(false);
        let b = Node::start(&dir.join(half_open.to_string()), &[&a.peer]);
        knows(&b, 1);
        let time = thread::scope(|scope| {
            let (address, stop) = (&address, &stop);
            scope.spawn(move || hold_half_open(address, half_open, stop));
            thread::sleep(Duration::from_millis(300));
            let time = pin(&b, &cid);
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            time
        });
        rates.push(bytes as f64 / time);
    }
    println!(
        "beside 1,000 half-open handshakes: {:.3} of the rate (bound 0.8)",
        rates[1] / rates[0]
    );
}

/// Connects, wants more than there is, and goes away.
fn flood_once(address: &str, key: &StaticKey) {
    let config = SessionConfig {
        static_key: key,
        swarm_key: None,
        expected: None,
        suites: Suites::default(),
    };
    let mut session: Session<Vec<u8>> = Session::initiator(&config);
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let mut input = vec![0; 4_096];
    let mut output = Vec::new();
    loop {
        output.clear();
        let _ = session.transmit(&mut output, 256 << 10);
        if stream.write_all(&output).is_err() {
            return;
        }
        let Ok(read @ 1..) = stream.read(&mut input) else { return };
        let mut rest = &input[..read];
        if let Ok(Some(_)) = session.receive(&mut rest) {
            break;
        }
    }
    session.send(&Message::Hello { listen_port: 0, agent: "flood".into() });
    let name = |n: u32| barrow::Multihash::of(barrow::wire::HashCode::Sha2_256, &n.to_be_bytes());
    let blocks: Vec<_> = (0..1_000).map(name).collect();
    session.send(&Message::WantHave { inline: true, blocks: blocks.clone() });
    session.send(&Message::WantBlock { blocks });
    output.clear();
    while session.wants_transmit() {
        let _ = session.transmit(&mut output, 256 << 10);
    }
    let _ = stream.write_all(&output);
}

/// Opens connections that say nothing, and opens them anew when they are closed.
fn hold_half_open(address: &str, count: usize, stop: &std::sync::atomic::AtomicBool) {
    let mut open: Vec<TcpStream> = Vec::new();
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        open.retain_mut(|stream| {
            let _ = stream.set_nonblocking(true);
            let read = stream.read(&mut [0; 16]);
            matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        });
        while open.len() < count {
            let Ok(stream) = TcpStream::connect(address) else { break };
            open.push(stream);
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn resident_kib(node: &Node) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{}/statm", node.pid())).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4
}
