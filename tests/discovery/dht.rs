//! The DHT: a test network of its nodes on loopback, sound and poisoned.
//!
//! `BARROW_DHT_NODES` sets the barrow nodes of the large test (20), and 10 GETs go through them.

use super::{get, id, make_file, node, peers, put};
use mainline::{Dht, Id, Testnet};
use node::{Node, loop_until};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    io::Read as _,
    net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket},
    path::Path,
    thread,
    time::{Duration, Instant},
};

const GETS: usize = 10;
const FIRST_BYTE_MAX: Duration = Duration::from_secs(3);
/// As the node's documentation states it.
const DIALS_PER_LOOK_UP_MAX: usize = 64;

/// A node that enters the DHT by some of a test network's nodes.
fn start(dir: &Path, bootstrap: &[String], flags: &[&str]) -> Node {
    let bootstrap = bootstrap.iter().flat_map(|at| ["--bootstrap", at]);
    let flags: Vec<&str> =
        bootstrap.chain(flags.iter().copied()).chain(["--log", "debug"]).collect();
    Node::start_with(dir, &[], &flags)
}

fn announcements(node: &Node) -> usize {
    node.log().matches("is announced in the DHT").count()
}

/// Stores a file, and waits until the DHT knows of it.
fn put_announced(node: &Node, dir: &Path, bytes: u64, seed: u64) -> (String, Vec<u8>) {
    let before = announcements(node);
    let put = put(node, dir, bytes, seed);
    loop_until("the file is announced", || (announcements(node) > before).then_some(()));
    put
}

#[test]
fn a_cid_alone_is_enough() {
    let count = std::env::var("BARROW_DHT_NODES").map_or(20, |count| count.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let testnet = Testnet::builder(50).build().unwrap();
    let bootstrap = &testnet.bootstrap[..3];
    let nodes: Vec<Node> =
        (0..count).map(|n| start(&dir.path().join(format!("node-{n}")), bootstrap, &[])).collect();
    let mut times = Vec::new();
    let mut last = None;
    for n in 0..GETS {
        let provider = &nodes[n % (count - 1)];
        let (cid, bytes) = put_announced(provider, dir.path(), 2 << 20, 100 + n as u64);
        // Fresh each time: it knows nothing but the bootstrap nodes.
        let fresh = start(&dir.path().join(format!("fresh-{n}")), bootstrap, &[]);
        let (response, elapsed) = get(&fresh, &cid);
        assert!(response.body == bytes, "other bytes came");
        assert_eq!(peers(&fresh), [(id(provider).into(), "dht".into())]);
        times.push(elapsed);
        last = Some((cid, bytes, n % (count - 1)));
    }
    times.sort();
    eprintln!("DHT: first byte, median {:?}, all {times:?}", times[GETS / 2]);
    assert!(times[GETS / 2] < FIRST_BYTE_MAX, "{times:?}");

    // Another one keeps it too, then the provider is gone.
    let (cid, bytes, provider) = last.unwrap();
    let mut nodes = nodes;
    let other = nodes.pop().unwrap();
    assert!(other.run(&["pin", &cid]).status.success());
    loop_until("the pin is announced", || (announcements(&other) > 0).then_some(()));
    nodes.swap_remove(provider).kill();
    let fresh = start(&dir.path().join("fresh-last"), bootstrap, &[]);
    let (response, elapsed) = get(&fresh, &cid);
    assert!(response.body == bytes, "other bytes came");
    eprintln!("DHT: the provider gone, from another one: first byte after {elapsed:?}");
    assert_eq!(peers(&fresh), [(id(&other).into(), "dht".into())]);

    // Without a node of its own that serves.
    let (alone, out) = (dir.path().join("alone"), dir.path().join("out"));
    let mut get = std::process::Command::new(node::BARROW);
    get.arg("--data-dir").arg(&alone).args(["get", &cid, "-o", out.to_str().unwrap()]);
    get.env("BARROW_BOOTSTRAP", bootstrap.join(",")).env("BARROW_NO_MDNS", "true");
    // Where its peers may be it learns from the nodes it enters by.
    let got = get.output().unwrap();
    assert!(got.status.success(), "{got:?}");
    assert!(fs::read(out).unwrap() == bytes, "other bytes came");
}

#[test]
fn a_protected_dataset_is_found_by_both_its_names_and_a_slot_by_the_manifests() {
    let dir = tempfile::tempdir().unwrap();
    let testnet = Testnet::builder(20).build().unwrap();
    let bootstrap = &testnet.bootstrap[..3];
    let a = start(&dir.path().join("a"), bootstrap, &[]);
    let file = make_file(&dir.path().join("file"), 5 << 20, 202);
    let put = a.run(&["put", "--json", "--data", "2", "--parity", "1", file.to_str().unwrap()]);
    let put: serde_json::Value = serde_json::from_slice(&put.stdout).unwrap();
    let (cid, root) = (put["cid"].as_str().unwrap(), put["root"].as_str().unwrap());
    assert_ne!(cid, root);
    loop_until("both are announced", || (announcements(&a) == 2).then_some(()));

    let b = start(&dir.path().join("b"), bootstrap, &[]);
    assert!(b.run(&["pin", cid, "--slot", "0/3"]).status.success());
    assert_eq!(peers(&b), [(id(&a).into(), "dht".into())]);
    loop_until("the slot is announced", || (announcements(&b) == 1).then_some(()));
    let c = start(&dir.path().join("c"), bootstrap, &[]);
    let (response, _) = get(&c, root);
    assert!(response.body == fs::read(file).unwrap(), "other bytes came");
}

#[test]
fn a_swarm_with_a_key_is_silent_in_the_dht() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
    listener.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let at = [listener.local_addr().unwrap().to_string()];
    let key = dir.path().join("key");
    fs::write(&key, "11".repeat(32)).unwrap();
    let node = start(&dir.path().join("a"), &at, &["--swarm-key-file", key.to_str().unwrap()]);
    put(&node, dir.path(), 1 << 20, 200);
    assert_eq!(
        node.get("/ipfs/bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e").status,
        404
    );
    assert!(listener.recv(&mut [0; 2_048]).is_err(), "something was sent to the DHT");

    let node = start(&dir.path().join("b"), &at, &[]);
    assert!(listener.recv(&mut [0; 2_048]).is_ok(), "without a key it would be");
    drop(node);
}

#[test]
fn a_node_that_starts_without_a_network_is_quiet_and_enters_the_dht_later() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    nobody.set_nonblocking(true).unwrap();
    let at = nobody.local_addr().unwrap();
    let node = start(&dir.path().join("a"), &[at.to_string()], &[]);
    put(&node, dir.path(), 1 << 20, 201);
    loop_until("it gives up", || node.log().contains("the DHT cannot be entered").then_some(()));
    thread::sleep(Duration::from_secs(2));
    let datagrams = std::iter::from_fn(|| nobody.recv(&mut [0; 2_048]).ok()).count();
    eprintln!("{datagrams} datagrams to a DHT that does not answer");
    assert!(datagrams <= 16, "{datagrams} datagrams");
    drop(nobody);
    let mut first = Dht::builder();
    first.server_mode().no_bootstrap().bind_address(Ipv4Addr::LOCALHOST).port(at.port());
    let _first = first.build().unwrap();
    loop_until("it is announced", || (announcements(&node) > 0).then_some(()));
}

/// The DHT's name for a CID, as SPEC says it.
fn key(cid: &str) -> [u8; 20] {
    let hash = cid.parse::<barrow::Cid>().unwrap().multihash().unwrap();
    let digest = Sha256::new()
        .chain_update(b"barrow dht provider 1\0")
        .chain_update(hash.to_bytes())
        .finalize();
    digest[..20].try_into().unwrap()
}

/// A DHT node with an id of its choice that answers every question for peers with `values`.
fn liar(id: [u8; 20], values: Vec<SocketAddrV4>) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = socket.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut buffer = [0; 2_048];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let query = &buffer[..len];
            let has = |part: &[u8]| query.windows(part.len()).any(|window| window == part);
            let Some(at) = query.windows(3).rposition(|window| window == b"1:t") else { continue };
            let digits: Vec<u8> =
                query[at + 3..].iter().copied().take_while(u8::is_ascii_digit).collect();
            let id_len: usize = String::from_utf8(digits.clone()).unwrap().parse().unwrap();
            let start = at + 3 + digits.len() + 1;
            let transaction = &query[start..start + id_len];
            if !has(b"1:y1:q") {
                continue;
            }
            let mut reply = b"d1:rd2:id20:".to_vec();
            reply.extend(id);
            if has(b"9:find_node") {
                reply.extend(b"5:nodes0:");
            } else if has(b"9:get_peers") {
                reply.extend(b"5:nodes0:5:token4:aaaa6:valuesl");
                for value in &values {
                    reply.extend(b"6:");
                    reply.extend(value.ip().octets());
                    reply.extend(value.port().to_be_bytes());
                }
                reply.extend(b"e");
            } else if !has(b"4:ping") && !has(b"13:announce_peer") {
                reply.extend(b"5:nodes0:5:token4:aaaa");
            }
            reply.extend(format!("e1:t{id_len}:").bytes());
            reply.extend(transaction);
            reply.extend(b"1:y1:re");
            let _ = socket.send_to(&reply, from);
        }
    });
    at
}

/// Announces a port of this address in a test network.
#[allow(deprecated, reason = "a test may block")]
fn announce(testnet: &Testnet, ip: Ipv4Addr, name: [u8; 20], port: u16) {
    let mut builder = Dht::builder();
    let dht = builder.bootstrap(&testnet.bootstrap).bind_address(ip).build().unwrap();
    dht.announce_peer(Id::from(name), Some(port)).unwrap();
}

#[test]
fn a_poisoned_dht_is_found_through_with_a_bounded_number_of_dials() {
    let dir = tempfile::tempdir().unwrap();
    let testnet = Testnet::builder(20).build().unwrap();
    let file = make_file(&dir.path().join("file"), 2 << 20, 300);
    let bytes = fs::read(&file).unwrap();
    // Stored before the liars are there, so that their names may stand nearest to it.
    let provider = start(&dir.path().join("provider"), &testnet.bootstrap[..3], &[]);
    let cid = provider.put(&file);
    loop_until("it is announced", || (announcements(&provider) > 0).then_some(()));

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let web_port = web.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in web.incoming() {
            let mut stream = stream.unwrap();
            let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
            let _ = stream.read(&mut [0; 64]);
        }
    });
    let silent_port = silent.local_addr().unwrap().port();
    let at = |ip: [u8; 4], port| SocketAddrV4::new(Ipv4Addr::from(ip), port);
    // Some are announced as the provider is, so that nothing tells them from it.
    thread::scope(|scope| {
        for n in 0..18 {
            let port = [9, silent_port, web_port][usize::from(n) % 3];
            let (testnet, name) = (&testnet, key(&cid));
            scope.spawn(move || announce(testnet, Ipv4Addr::new(127, 9, n, 1), name, port));
        }
    });
    let mut bootstrap = testnet.bootstrap[..3].to_vec();
    for n in 0..9 {
        let mut values = Vec::new();
        for m in 0..16 {
            values.push(match m % 6 {
                0 => at([10, n, m, 1], 4780),
                1 => at([192, 168, n, m], 80),
                2 => at([127, 0, n, 1 + m], 9),
                3 => at([127, 1, n, m], silent_port),
                4 => at([127, 0, 0, 1], if n % 2 == 0 { silent_port } else { web_port }),
                _ => at([203, n, 113, m], 4780),
            });
        }
        let mut id = key(&cid);
        id[19] ^= 1 + n;
        bootstrap.push(liar(id, values));
    }
    let fresh = start(&dir.path().join("fresh"), &bootstrap, &[]);
    thread::sleep(Duration::from_millis(500));
    let since = Instant::now();
    let (response, first) = get(&fresh, &cid);
    assert!(response.body == bytes, "status {}, {} bytes", response.status, response.body.len());
    let log = fresh.log();
    let dials: Vec<&str> =
        log.lines().filter_map(|line| Some(line.split_once("dialing ")?.1.trim())).collect();
    eprintln!(
        "poisoned DHT: first byte after {first:?}, all after {:?}, {} dials",
        since.elapsed(),
        dials.len()
    );
    assert!(dials.len() > 8, "the liars were not heard: {dials:?}");
    assert!(dials.len() <= DIALS_PER_LOOK_UP_MAX, "{} dials", dials.len());
    let private = dials.iter().find(|at| at.starts_with("10.") || at.starts_with("192.168."));
    assert_eq!(private, None);
}

fn pid(node: &Node) -> String {
    let about = fs::read_to_string(node.dir.join("node.json")).unwrap();
    let about: serde_json::Value = serde_json::from_str(&about).unwrap();
    about["pid"].to_string()
}

/// Bytes and datagrams that a node sends in so many seconds.
fn sent(node: &Node, seconds: u64, meanwhile: impl FnOnce()) -> (u64, usize) {
    let trace = node.dir.join("trace");
    let mut strace = std::process::Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=sendto,sendmsg", "-p", &pid(node), "-o"])
        .arg(&trace)
        .spawn()
        .unwrap();
    meanwhile();
    thread::sleep(Duration::from_secs(seconds));
    strace.kill().unwrap();
    strace.wait().unwrap();
    let trace = fs::read_to_string(trace).unwrap();
    let sent: Vec<u64> =
        trace.lines().filter_map(|line| line.rsplit_once("= ")?.1.parse().ok()).collect();
    (sent.iter().sum(), sent.len())
}

fn cpu_ms(node: &Node) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid(node))).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10
}

/// `BARROW_IDLE_S` sets for how long.
#[test]
#[ignore = "takes a minute and needs strace; prints figures"]
fn what_the_dht_costs() {
    let seconds = std::env::var("BARROW_IDLE_S").map_or(60, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let testnet = Testnet::builder(50).build().unwrap();
    let node = start(&dir.path().join("node"), &testnet.bootstrap[..3], &[]);
    thread::sleep(Duration::from_secs(10));
    let before = cpu_ms(&node);
    thread::sleep(Duration::from_secs(seconds));
    let cpu = cpu_ms(&node) - before;
    let (bytes, datagrams) = sent(&node, seconds, || {});
    eprintln!(
        "idle in the DHT for {seconds} s: {bytes} bytes in {datagrams} datagrams, {cpu} ms of CPU"
    );
    let files = 20;
    let (bytes, datagrams) = sent(&node, 10, || {
        for seed in 0..files {
            put(&node, dir.path(), 1_000, 500 + seed);
        }
    });
    eprintln!("an announcement: {} bytes in {} datagrams", bytes / files, datagrams as u64 / files);
    assert_eq!(announcements(&node) as u64, files);
}

/// A CAR of small files, each of them a root: that many datasets in one import.
fn many_datasets(from: u32, count: u32) -> Vec<u8> {
    let block = |n: u32| {
        let bytes = n.to_be_bytes();
        let cid = [&[1, 0x55, 0x12, 32][..], &Sha256::digest(bytes)].concat();
        (cid, bytes)
    };
    let section = |bytes: &[u8]| {
        let mut varint = Vec::new();
        let mut rest = bytes.len();
        while rest > 127 {
            varint.push((rest & 127) as u8 | 128);
            rest >>= 7;
        }
        varint.push(rest as u8);
        [&varint[..], bytes].concat()
    };
    let blocks: Vec<_> = (from..from + count).map(block).collect();
    let mut header = b"\xa2\x65roots\x99".to_vec();
    header.extend(u16::try_from(count).unwrap().to_be_bytes());
    for (cid, _) in &blocks {
        header.extend([&[0xd8, 42, 0x58, 37, 0], &cid[..]].concat());
    }
    header.extend(b"\x67version\x01");
    let blocks = blocks.iter().flat_map(|(cid, bytes)| section(&[&cid[..], bytes].concat()));
    section(&header).into_iter().chain(blocks).collect()
}

/// `BARROW_ANNOUNCED` sets how many there are (100,000), `BARROW_IDLE_S` for how long (60 s).
#[test]
#[ignore = "takes minutes; prints figures"]
fn what_many_datasets_cost() {
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (count, seconds) = (number("BARROW_ANNOUNCED", 100_000), number("BARROW_IDLE_S", 60));
    let dir = tempfile::tempdir().unwrap();
    let testnet = Testnet::builder(50).build().unwrap();
    let path = dir.path().join("node");
    let node = start(&path, &testnet.bootstrap[..3], &[]);
    for from in (0..count).step_by(1_000) {
        let car = dir.path().join("datasets.car");
        fs::write(&car, many_datasets(from, 1_000.min(count - from))).unwrap();
        let imported = node.run(&["import", car.to_str().unwrap()]);
        assert!(imported.status.success(), "{imported:?}");
    }
    node.kill();
    let node = start(&path, &testnet.bootstrap[..3], &[]);
    // Announcements begin 5 s after the start.
    thread::sleep(Duration::from_secs(20));
    let (before, cpu) = (announcements(&node), cpu_ms(&node));
    thread::sleep(Duration::from_secs(seconds.into()));
    let (announced, cpu) = (announcements(&node) - before, cpu_ms(&node) - cpu);
    eprintln!(
        "{count} datasets: {:.1} announcements a second of {:.1} due, {:.1} % of a core",
        announced as f64 / f64::from(seconds),
        f64::from(count) / 900.0,
        cpu as f64 / f64::from(seconds) / 10.0
    );
    assert!(announced as u32 <= 125 * (seconds + 1), "{announced} announced");
}
