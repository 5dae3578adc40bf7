//! The scrub: what is damaged is found without anybody asking for it, and brought back by whoever
//! can.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test reports by a panic"
)]

use barrow::{
    Block, Cid, Codec, Config, Node,
    content::store_stream::Scope,
    erasure::{List, Manifest, Shape},
    node::PutOptions,
};
use std::{
    fs,
    io::Read as _,
    path::Path,
    time::{Duration, Instant},
};

const FILE_BYTES: usize = 6_000_000;

fn config(dir: &Path) -> Config {
    let mut config = Config::new(dir);
    config.listen = vec!["127.0.0.1:0".parse().unwrap()];
    (config.dht, config.mdns) = (false, false);
    config.scrub_rate = 1 << 30;
    config
}

fn content() -> Vec<u8> {
    let mut x = 9_u64;
    (0..FILE_BYTES).map(|_| next_byte(&mut x)).collect()
}

fn next_byte(x: &mut u64) -> u8 {
    *x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*x >> 56) as u8
}

fn read(node: &Node, cid: &Cid) -> Vec<u8> {
    let mut bytes = Vec::new();
    node.get(cid).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Flips a bit within the content's block at `offset`; the node does not run.
fn damage(dir: &Path, offset: usize) {
    damage_where(dir, &content()[offset..offset + 64]);
}

/// Flips a bit of the stored bytes that are equal to these.
fn damage_where(dir: &Path, needle: &[u8]) {
    let pack = dir.join("packs/00000001.pack");
    let mut bytes = fs::read(&pack).unwrap();
    let at = bytes.windows(64).position(|window| window == needle).unwrap();
    bytes[at] ^= 1;
    fs::write(&pack, bytes).unwrap();
}

fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(30), "{what}: not within 30 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_damaged_block_comes_back_from_a_peer_though_nobody_asks_for_it() {
    let (dir_a, dir_b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let a = Node::start(config(dir_a.path())).unwrap();
    let cid = a.put(&mut &content()[..]).unwrap();
    let mut config_b = config(dir_b.path());
    config_b.peers = vec![barrow::base::config::PeerTarget { id: None, address: a.addresses()[0] }];
    let b = Node::start(config_b.clone()).unwrap();
    b.pin(&cid, &mut |_| true).unwrap();
    b.shutdown();
    drop(b);
    damage(dir_b.path(), 3_000_000);

    let b = Node::start(config_b).unwrap();
    b.start_upkeep().unwrap();
    wait_for("healed", || b.scrub().healed == 1);
    wait_for("a whole pass", || b.scrub().passes == 1);
    assert!(b.scrub().lost.is_empty());
    assert!(b.verify(&mut |_| true).unwrap().damaged.is_empty());
    a.shutdown();
    assert_eq!(read(&b, &cid), content());
    b.shutdown();
}

#[test]
fn a_damaged_block_of_a_protected_file_is_rebuilt_without_any_peer() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(config(dir.path())).unwrap();
    let options = PutOptions { protect: Some(Shape::new(4, 2).unwrap()), ..PutOptions::default() };
    let stored = node.put_with(&mut &content()[..], options, &mut |_| {}).unwrap();
    node.shutdown();
    drop(node);
    damage(dir.path(), 1_500_000);

    let node = Node::start(config(dir.path())).unwrap();
    node.start_upkeep().unwrap();
    wait_for("healed", || node.scrub().healed == 1);
    wait_for("a whole pass", || node.scrub().passes == 1);
    let dataset = node.dataset(&stored.cid).unwrap().unwrap();
    assert!(node.standing(&dataset).unwrap().unwrap().is_whole());
    assert_eq!(read(&node, &stored.root), content());
    node.shutdown();
}

#[test]
fn a_damaged_parity_shard_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut alone = config(dir.path());
    alone.provider_timeout = Duration::from_millis(200);
    let node = Node::start(alone.clone()).unwrap();
    let options = PutOptions { protect: Some(Shape::new(4, 2).unwrap()), ..PutOptions::default() };
    let stored = node.put_with(&mut &content()[..], options, &mut |_| {}).unwrap();
    let block = |cid: &Cid| node.block(cid, Scope::Local).unwrap();
    let manifest = Manifest::decode(&block(&stored.cid)).unwrap();
    let list = List::decode(&block(&manifest.lists[0]), &manifest, 0).unwrap();
    let cid = list.0[1].parity[1];
    let shard = block(&cid);
    node.shutdown();
    drop(node);
    damage_where(dir.path(), &shard[1_000..1_064]);

    let node = Node::start(alone).unwrap();
    node.start_upkeep().unwrap();
    wait_for("healed", || node.scrub().healed == 1);
    wait_for("a whole pass", || node.scrub().passes == 1);
    assert!(node.scrub().lost.is_empty());
    assert_eq!(node.block(&cid, Scope::Local).unwrap(), shard);
    let dataset = node.dataset(&stored.cid).unwrap().unwrap();
    assert!(node.standing(&dataset).unwrap().unwrap().is_whole());
    node.shutdown();
}

/// What marks the content of the small files among all else that is stored.
const MARK: &[u8; 12] = b"small file: ";

fn small_file(n: u32) -> Vec<u8> {
    let text = format!("{n:08}");
    // No two alike: the parity of some could be the content of another.
    let mut x = u64::from(n);
    let rest = (0..180).map(|_| next_byte(&mut x));
    [&MARK[..], text.as_bytes(), &rest.collect::<Vec<u8>>()].concat()
}

#[test]
fn verify_heals_ten_thousand_damaged_blocks_from_parity() {
    const FILES: u32 = 10_000;
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("files");
    fs::create_dir(&files).unwrap();
    for n in 0..FILES {
        fs::write(files.join(n.to_string()), small_file(n)).unwrap();
    }
    let store = dir.path().join("store");
    let mut alone = config(&store);
    alone.provider_timeout = Duration::from_millis(200);
    let node = Node::start(alone.clone()).unwrap();
    let root = node.put_path(&files, PutOptions::default(), &mut |_| {}).unwrap().cid;
    let protected = node.protect(&root, Shape::new(2, 2).unwrap()).unwrap().cid;
    node.shutdown();
    drop(node);

    let pack = store.join("packs/00000001.pack");
    let mut bytes = fs::read(&pack).unwrap();
    let len = small_file(0).len();
    // Of two shards that begin alike, parity may begin so as well.
    let is_small_file = |bytes: &[u8]| {
        let n = bytes.strip_prefix(MARK).and_then(|rest| std::str::from_utf8(&rest[..8]).ok());
        n.and_then(|n| n.parse().ok()).is_some_and(|n| bytes == small_file(n))
    };
    let places = bytes.windows(len).enumerate().filter(|(_, window)| is_small_file(window));
    let places: Vec<usize> = places.map(|(at, _)| at).collect();
    assert_eq!(places.len(), FILES as usize);
    for at in places {
        let bit = at % (len * 8);
        bytes[at + bit / 8] ^= 1 << (bit % 8);
    }
    fs::write(&pack, bytes).unwrap();

    let node = Node::start(alone).unwrap();
    let report = node.verify_and_repair(&mut |_| true).unwrap();
    assert_eq!(report.verified.damaged.len(), FILES as usize);
    assert!(report.repaired.contains(&protected), "{:?} {:?}", report.repaired, report.lost);
    assert!(report.lost.is_empty(), "{:?}", report.lost);
    for n in 0..FILES {
        let block = Block::of(small_file(n).into()).unwrap();
        let cid = Cid::v1(Codec::Raw, *block.hash());
        assert_eq!(node.block(&cid, Scope::Local).unwrap(), small_file(n), "file {n}");
    }
    assert!(node.verify(&mut |_| true).unwrap().damaged.is_empty());
    node.shutdown();
}

#[test]
fn verify_names_a_dataset_that_lacks_something_each_time_until_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(config(dir.path())).unwrap();
    let cid = node.put(&mut &content()[..]).unwrap();
    let verify = |node: &Node| {
        let report = node.verify(&mut |_| true).unwrap();
        (report.damaged.len(), report.incomplete)
    };
    assert_eq!(verify(&node), (0, vec![]));
    node.shutdown();
    drop(node);
    damage(dir.path(), 3_000_000);

    // The second time says the same as the first: the block lies where it lay, and is not served.
    let node = Node::start(config(dir.path())).unwrap();
    assert_eq!(verify(&node), (1, vec![cid]));
    assert_eq!(verify(&node), (1, vec![cid]));
    assert!(!node.is_whole(&node.dataset(&cid).unwrap().unwrap()).unwrap());
    node.shutdown();
    drop(node);
    // And so does an index that is made anew.
    fs::remove_file(dir.path().join("index.sqlite")).unwrap();
    let node = Node::start(config(dir.path())).unwrap();
    assert_eq!(verify(&node), (1, vec![cid]));
    assert_eq!(node.put(&mut &content()[..]).unwrap(), cid);
    assert_eq!(verify(&node), (0, vec![]));
    node.shutdown();
}

#[test]
fn what_nobody_has_is_named_until_somebody_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut alone = config(dir.path());
    alone.provider_timeout = Duration::from_millis(200);
    let node = Node::start(alone.clone()).unwrap();
    let cid = node.put(&mut &content()[..]).unwrap();
    node.shutdown();
    drop(node);
    damage(dir.path(), 3_000_000);
    let node = Node::start(alone.clone()).unwrap();
    node.start_upkeep().unwrap();
    wait_for("named", || node.scrub().lost.len() == 1);
    assert_eq!(node.metrics().store_lost.get(), 1);
    assert_eq!(node.metrics().store_damaged_total.get(), 1);
    node.shutdown();
    drop(node);

    // It is known over a restart, and forgotten when the content is put again.
    let node = Node::start(alone).unwrap();
    assert_eq!(node.scrub().lost.len(), 1);
    assert_eq!(node.put(&mut &content()[..]).unwrap(), cid);
    node.start_upkeep().unwrap();
    wait_for("whole", || node.scrub().lost.is_empty());
    node.shutdown();
}

#[test]
fn a_pass_goes_on_where_the_last_run_was_stopped_and_then_rests() {
    let dir = tempfile::tempdir().unwrap();
    let mut slow = config(dir.path());
    // A step is 1 MiB, and a pass six.
    slow.scrub_rate = 2 << 20;
    let node = Node::start(slow.clone()).unwrap();
    node.put(&mut &content()[..]).unwrap();
    let blocks = node.metrics().store_blocks.get();
    node.start_upkeep().unwrap();
    wait_for("a part of a pass", || node.scrub().blocks > 0);
    node.shutdown();
    let before = node.scrub();
    assert!(before.is_running && before.blocks < blocks, "{before:?}");
    drop(node);

    let node = Node::start(slow).unwrap();
    assert_eq!(node.scrub(), before);
    node.start_upkeep().unwrap();
    wait_for("a whole pass", || node.scrub().passes == 1);
    // No block was hashed twice, and none left out.
    assert_eq!(node.scrub().blocks, blocks);
    assert_eq!(node.metrics().scrub_blocks_total.get(), blocks - before.blocks);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(node.metrics().scrub_blocks_total.get(), blocks - before.blocks);
    node.shutdown();
}

#[test]
fn what_was_pinned_for_a_time_goes_when_it_is_over_and_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut hasty = config(dir.path());
    hasty.expiry_interval = Duration::from_millis(200);
    let node = Node::start(hasty.clone()).unwrap();
    let [kept, later, over] = [1, 2, 3].map(|n| node.put(&mut &[n; 5_000][..]).unwrap());
    assert!(node.pin_for(&later, 3_600).unwrap() && node.pin_for(&over, 0).unwrap());
    // Put again without an end, it has none.
    assert!(node.pin_for(&kept, 0).unwrap());
    assert_eq!(node.put(&mut &[1; 5_000][..]).unwrap(), kept);
    let end = node.dataset(&later).unwrap().unwrap().info.expires;
    assert!(end.is_some());
    node.shutdown();
    drop(node);

    // An index that is made anew knows the ends too.
    fs::remove_file(dir.path().join("index.sqlite")).unwrap();
    let node = Node::start(hasty).unwrap();
    node.start_upkeep().unwrap();
    wait_for("gone", || node.dataset(&over).unwrap().is_none());
    assert_eq!(node.dataset(&later).unwrap().unwrap().info.expires, end);
    assert_eq!(node.dataset(&kept).unwrap().unwrap().info.expires, None);
    assert_eq!(node.gc().unwrap().blocks, 0, "all that is left is kept");
    node.shutdown();
}
