//! A protected dataset whose every slot is on a node of its own: what losing as many as it bears
//! costs its reader, what a slow one costs, what a range costs, and how fast it is put.
//!
//! `cargo bench --bench protected [NAME]...` with names of `put lost small slow range`.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a bench prints, and ends at what fails"
)]

mod common;
#[allow(dead_code)]
#[path = "../tests/flow/node.rs"]
mod node;
mod way;

use common::{Spread, cpu_seconds, file_bytes, is_smoke, runs, scratch, seconds, warm};
use node::{Node, Response, loop_until, make_file, run};
use std::{
    env, fs,
    io::Read as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use way::Way;

/// The scrub would take turns with what is measured.
const QUIET: [&str; 2] = ["--scrub-rate", "0"];
const DATA: usize = 10;
const PARITY: usize = 4;

/// What is measured, by its name.
type Scene = (&'static str, fn(&Path));

fn main() {
    let scenes: [Scene; 5] =
        [("put", put), ("lost", lost), ("small", small), ("slow", slow), ("range", range)];
    let words: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    for (name, scene) in scenes {
        if words.is_empty() || words.iter().any(|word| word == name) {
            println!("--- {name}");
            scene(scratch().path());
        }
    }
}

fn put_protected(dir: &Path, file: &Path, profile: &str) -> String {
    let (data, parity) = (DATA.to_string(), PARITY.to_string());
    let file = file.to_str().unwrap();
    let words = ["put", file, "--profile", profile, "--data", &data, "--parity", &parity];
    let stored = run(dir, &words);
    assert!(stored.status.success(), "{stored:?}");
    String::from_utf8(stored.stdout).unwrap().trim().into()
}

/// Encode, hashes of all shards and the sync included.
fn put(dir: &Path) {
    let file = make_file(&dir.join("file"), file_bytes(), 3);
    let mut rates = Vec::new();
    for _ in 0..runs() {
        warm(&file);
        let store = dir.join("store");
        let (_, time) = seconds(|| put_protected(&store, &file, "unixfs-v1-2025"));
        rates.push(file_bytes() as f64 / time / 1e9);
        fs::remove_dir_all(store).unwrap();
    }
    println!("put 10+4: {} GB/s of input (bound 0.35)", Spread::of(rates));
}

/// A file on fourteen nodes, a slot each; its origin is gone.
struct Swarm {
    dir: PathBuf,
    file: PathBuf,
    cid: String,
    holders: Vec<Option<Node>>,
}

impl Swarm {
    fn start(dir: &Path, profile: &str) -> Self {
        let file = make_file(&dir.join("file"), file_bytes(), 7);
        let origin = Node::start(&dir.join("origin"), &[]);
        let cid = put_protected(&origin.dir, &file, profile);
        let mut holders = Vec::new();
        for slot in 0..DATA + PARITY {
            let holder =
                Node::start_with(&dir.join(format!("slot-{slot}")), &[&origin.peer], &QUIET);
            let words = ["pin", &cid, "--slot", &format!("{slot}/{}", DATA + PARITY)];
            let pinned = holder.run(&words);
            assert!(pinned.status.success(), "{pinned:?}");
            holders.push(Some(holder));
        }
        origin.kill();
        fs::remove_dir_all(dir.join("origin")).unwrap();
        Self { dir: dir.into(), file, cid, holders }
    }

    /// The first slots are lost, or there again.
    fn set_lost(&mut self, lost: usize) {
        for slot in 0..PARITY {
            let dir = self.dir.join(format!("slot-{slot}"));
            match (slot < lost, self.holders[slot].take()) {
                (true, holder) => drop(holder),
                (false, holder) => {
                    self.holders[slot] =
                        Some(holder.unwrap_or_else(|| Node::start_with(&dir, &[], &QUIET)));
                }
            }
        }
    }

    fn peers(&self) -> Vec<&str> {
        self.holders.iter().flatten().map(|holder| &holder.peer[..]).collect()
    }

    /// A node that has nothing, and knows these.
    fn reader(&self, peers: &[&str]) -> Node {
        let dir = self.dir.join("reader");
        let _ = fs::remove_dir_all(&dir);
        let reader = Node::start_with(&dir, peers, &QUIET);
        loop_until("it knows them", || {
            (reader.metric("peers") == peers.len() as u64).then_some(())
        });
        reader
    }

    /// Downloads all through a new reader.
    fn read(&self, peers: &[&str]) -> Download {
        let reader = self.reader(peers);
        let since = Instant::now();
        let response = reader.open("GET", &format!("/ipfs/{}", self.cid), &[]);
        assert_eq!(response.status, 200);
        let first_byte = self.drain(response, since);
        let time = since.elapsed().as_secs_f64();
        println!(
            "  {time:.3} s, first byte after {:.1} ms, reader's peak {} MiB, {} stripes decoded",
            first_byte * 1e3,
            reader.peak_mib(),
            reader.metric("erasure_decoded_stripes_total"),
        );
        println!("  CPU seconds of the reader {:.2}", cpu_seconds(reader.pid()));
        Download { time, first_byte, peak_mib: reader.peak_mib() }
    }

    /// Checks what comes; gives when the first byte did.
    fn drain(&self, mut response: Response, since: Instant) -> f64 {
        let mut original = fs::File::open(&self.file).unwrap();
        let (mut got, mut want) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        let (mut all, mut first_byte) = (0, 0.0);
        loop {
            let count = response.stream.read(&mut got).unwrap();
            if all == 0 {
                first_byte = since.elapsed().as_secs_f64();
            }
            if count == 0 {
                break;
            }
            original.read_exact(&mut want[..count]).unwrap();
            assert!(got[..count] == want[..count], "wrong bytes");
            all += count as u64;
        }
        assert_eq!(all, file_bytes());
        first_byte
    }
}

struct Download {
    time: f64,
    first_byte: f64,
    peak_mib: u64,
}

fn median(downloads: &[Download], figure: impl Fn(&Download) -> f64) -> f64 {
    Spread::of(downloads.iter().map(figure).collect()).median
}

/// All slots, and without the first m, in turn.
fn compare(dir: &Path, profile: &str, peak_bound: u64) {
    let mut swarm = Swarm::start(dir, profile);
    let (mut whole, mut lost, mut ratios) = (vec![], vec![], vec![]);
    for _ in 0..runs() {
        swarm.set_lost(0);
        whole.push(swarm.read(&swarm.peers()));
        swarm.set_lost(PARITY);
        lost.push(swarm.read(&swarm.peers()));
        ratios.push(lost[lost.len() - 1].time / whole[whole.len() - 1].time);
    }
    let first_byte = |downloads| median(downloads, |one: &Download| one.first_byte) * 1e3;
    let stripes = file_bytes().div_ceil((DATA as u64) << 20) as f64;
    println!(
        "{profile}: whole {:.3} s, without slots 0-3 {:.3} s: ratio {} (bound 1.25)",
        median(&whole, |one| one.time),
        median(&lost, |one| one.time),
        Spread::of(ratios),
    );
    println!(
        "first byte {:.1} ms, {:.1} ms (bound {:.1} ms later); peak {} and {} MiB (bound {peak_bound})",
        first_byte(&whole),
        first_byte(&lost),
        20.0 + median(&whole, |one| one.time) * 1e3 / stripes,
        whole.iter().map(|one| one.peak_mib).max().unwrap(),
        lost.iter().map(|one| one.peak_mib).max().unwrap(),
    );
}

fn lost(dir: &Path) {
    compare(dir, "unixfs-v1-2025", 96);
}

fn small(dir: &Path) {
    compare(dir, "kubo-default", 48);
}

/// One holder of a data slot is a hundred times slower than the others.
fn slow(dir: &Path) {
    let swarm = Swarm::start(dir, "unixfs-v1-2025");
    // So fast that the network is what all wait for.
    let rate = if is_smoke() { 4_000_000 } else { 20_000_000 };
    let ways: Vec<Way> =
        swarm.peers().into_iter().map(|peer| Way::open(peer, Duration::ZERO, rate)).collect();
    let peers: Vec<&str> = ways.iter().map(|way| &way.address[..]).collect();
    let (mut even, mut slowed, mut ratios) = (vec![], vec![], vec![]);
    for _ in 0..runs() {
        ways[2].set_rate(rate);
        even.push(swarm.read(&peers));
        ways[2].set_rate(rate / 100);
        slowed.push(swarm.read(&peers));
        ratios.push(slowed[slowed.len() - 1].time / even[even.len() - 1].time);
    }
    let least = file_bytes() as f64 / (DATA as u64 * rate) as f64;
    println!(
        "all slots at {} kB/s: {:.2} x the time that {DATA} of them take at the least (bound 1.25)",
        rate / 1_000,
        median(&even, |one| one.time) / least,
    );
    println!(
        "a slot at {} kB/s, all others at {} kB/s: ratio {} (bound 1.1)",
        rate / 100_000,
        rate / 1_000,
        Spread::of(ratios),
    );
}

/// A MiB of what lost as many slots as it bears.
fn range(dir: &Path) {
    let mut swarm = Swarm::start(dir, "unixfs-v1-2025");
    swarm.set_lost(PARITY);
    for share in [0.0, 0.3, 0.5, 0.77] {
        let reader = swarm.reader(&swarm.peers());
        let from = (file_bytes() as f64 * share) as u64 + 12_345;
        let wanted = format!("bytes={from}-{}", from + (1 << 20) - 1);
        let path = format!("/ipfs/{}", swarm.cid);
        let (part, time) = seconds(|| reader.request("GET", &path, &[("Range", &wanted)]));
        assert_eq!((part.status, part.body.len()), (206, 1 << 20));
        std::thread::sleep(Duration::from_millis(500));
        println!(
            "1 MiB at {from}: {:.0} ms, {} blocks came, {} stripes decoded (bound 2)",
            time * 1e3,
            reader.metric("blocks_received_total"),
            reader.metric("erasure_decoded_stripes_total"),
        );
    }
}
