//! The store under real processes: killed at any moment, on a full disk, with bits flipped.
//!
//! `BARROW_KILL_ROUNDS` and `BARROW_FULL_ROUNDS` say how often (5 each by default; 200 and 100 in
//! CI; `BARROW_KILL_ROUNDS=2000 cargo test --release --test durability killed` is the long run).

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test reports by a panic"
)]

#[allow(dead_code)]
#[path = "flow/node.rs"]
mod node;

use barrow::{
    Block, Cid, Codec, Pool,
    base::metrics::Metrics,
    store::{
        disk::{DatasetInfo, Disk},
        local_store::{LocalStore, StoreOptions},
    },
};
use node::{Node, make_file, run};
use std::{
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

fn rounds(name: &str) -> u64 {
    std::env::var(name).map_or(5, |text| text.parse().unwrap())
}

fn random(seed: u64) -> u64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (seed >> 7);
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 32)
}

#[test]
fn what_was_acknowledged_outlives_a_node_that_is_killed_at_any_moment() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data = dir.path().join("data");
    let mut acknowledged: Vec<(String, u64, u64)> = Vec::new();
    for round in 0..rounds("BARROW_KILL_ROUNDS") {
        // Opens each time without help.
        let node = Node::start(&data, &[]);
        let recent = acknowledged.iter().rev().take(4);
        let picked = acknowledged.get(random(round) as usize % acknowledged.len().max(1));
        recent.chain(picked).for_each(|known| check(&node, dir.path(), known));
        let stop = AtomicBool::new(false);
        let new = thread::scope(|scope| {
            let putting = scope.spawn(|| {
                let mut new = Vec::new();
                for n in 0.. {
                    let (seed, len) = (round * 1_000 + n, random(round * 1_000 + n) % 3_000_000);
                    let file = make_file(&dir.path().join("in"), len, seed);
                    let put = run(&data, &["put", file.to_str().unwrap()]);
                    if stop.load(Ordering::Acquire) && !put.status.success() {
                        return new;
                    }
                    if put.status.success() {
                        let cid = String::from_utf8(put.stdout).unwrap().trim().to_owned();
                        new.push((cid, len, seed));
                    }
                    if stop.load(Ordering::Acquire) {
                        return new;
                    }
                }
                new
            });
            thread::sleep(Duration::from_millis(20 + random(round ^ 77) % 180));
            stop.store(true, Ordering::Release);
            node.kill();
            putting.join().unwrap()
        });
        acknowledged.extend(new);
    }
    assert!(!acknowledged.is_empty(), "nothing was put at all");
    let node = Node::start(&data, &[]);
    acknowledged.iter().for_each(|known| check(&node, dir.path(), known));
    let verify = node.run(&["verify"]);
    assert!(verify.status.success(), "{verify:?}");
    eprintln!("{} datasets, all there", acknowledged.len());
}

fn check(node: &Node, dir: &Path, (cid, len, seed): &(String, u64, u64)) {
    let path = format!("/ipfs/{cid}");
    let got = node.request("GET", &path, &[("Cache-Control", "only-if-cached")]);
    let expected = fs::read(make_file(&dir.join("expected"), *len, *seed)).unwrap();
    assert!(got.status == 200 && got.body == expected, "{cid}: {}", got.status);
}

/// A pinned dataset.
fn info(root: &Block, size: u64) -> DatasetInfo {
    DatasetInfo {
        root: Cid::v1(Codec::Raw, *root.hash()),
        size,
        pinned: true,
        expires: None,
        name: None,
        mimetype: None,
        created: 0,
        protection: None,
    }
}

/// A file system of few bytes; it goes with this value.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// `None` where nothing may be mounted.
    fn mount(path: &'a Path) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let mut mount = Command::new("mount");
        let mounted =
            mount.args(["-t", "tmpfs", "-o", "size=64m", "barrow-test"]).arg(path).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(path))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).output();
    }
}

#[test]
fn a_full_disk_fails_the_put_alone_and_what_is_deleted_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let mount_point = dir.path().join("disk");
    let count = rounds("BARROW_FULL_ROUNDS");
    for round in 0..count {
        let Some(disk) = SmallDisk::mount(&mount_point) else {
            return eprintln!("nothing may be mounted here; not tried");
        };
        fill(&disk, dir.path(), 100_000 + 120_000 * (round * 100 / count));
    }
}

/// Puts with `free` bytes left of the disk.
fn fill(disk: &SmallDisk<'_>, dir: &Path, free: u64) {
    let data = disk.0.join("data");
    let first = make_file(&dir.join("first"), 4_000_000, 1);
    let large = make_file(&dir.join("large"), 9_000_000, 2);
    let kept = node::put(&data, &first);
    let left = rustix::fs::statvfs(disk.0).unwrap();
    let filler = (left.f_bavail * left.f_frsize).saturating_sub(free);
    let file = fs::File::create(disk.0.join("filler")).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, filler.max(1)).unwrap();

    let put = run(&data, &["put", large.to_str().unwrap()]);
    if !put.status.success() {
        let told = String::from_utf8_lossy(&put.stderr);
        assert_eq!(put.status.code(), Some(1), "{free} bytes: {told}");
        assert!(told.contains("space") || told.contains("full"), "{free} bytes: {told}");
    }
    let out = dir.join("out");
    let get = run(&data, &["get", &kept, "-o", out.to_str().unwrap()]);
    assert!(get.status.success(), "{free} bytes: {get:?}");
    assert!(fs::read(&out).unwrap() == fs::read(&first).unwrap());
    fs::remove_file(out).unwrap();
    let removed = run(&data, &["rm", &kept]);
    assert!(removed.status.success(), "{free} bytes: {removed:?}");
    let small = make_file(&dir.join("small"), 1_000_000, 3);
    let again = run(&data, &["put", small.to_str().unwrap()]);
    assert!(again.status.success(), "{free} bytes: {again:?}");
}

/// What is known of peers lies on a disk of its own here, which fills up.
#[test]
fn a_ledger_that_cannot_be_written_fails_alone_and_is_written_later() {
    let dir = tempfile::tempdir().unwrap();
    let mount_point = dir.path().join("disk");
    let Some(disk) = SmallDisk::mount(&mount_point) else {
        return eprintln!("nothing may be mounted here; not tried");
    };
    let (data, other) = (dir.path().join("a"), dir.path().join("b"));
    fs::create_dir_all(&data).unwrap();
    std::os::unix::fs::symlink(disk.0.join("peers.sqlite"), data.join("peers.sqlite")).unwrap();
    let file = make_file(&dir.path().join("file"), 3_000_000, 1);
    let node = Node::start(&data, &[]);
    let cid = node.put(&file);
    let left = rustix::fs::statvfs(disk.0).unwrap();
    let filler = fs::File::create(disk.0.join("filler")).unwrap();
    let left = left.f_bavail * left.f_frsize;
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, left).unwrap();

    let peer = Node::start(&other, &[&node.peer]);
    assert!(peer.run(&["pin", &cid]).status.success());
    node::loop_until("the log tells", || {
        node.log().contains("the ledger cannot be written").then_some(())
    });
    assert_eq!(node.get("/healthz").status, 200);
    assert!(node.get(&format!("/ipfs/{cid}")).body == fs::read(&file).unwrap());
    let small = make_file(&dir.path().join("small"), 10_000, 2);
    node.put(&small);
    let ledger = node.run(&["ledger", "--json"]);
    assert!(ledger.status.success(), "{ledger:?}");

    filler.set_len(0).unwrap();
    let sent = |node: &Node| {
        let ledger = node.run(&["ledger", "--json"]);
        let line: serde_json::Value = serde_json::from_slice(&ledger.stdout).ok()?;
        line["sent"].as_u64().filter(|sent| *sent > 3_000_000)
    };
    let before = node::loop_until("the ledger is written", || sent(&node));
    node.terminate();
    let again = Node::start(&data, &[]);
    assert!(sent(&again) >= Some(before));
}

/// Each deletion is a record, and there is not a byte for it but the reserve: it has to be got back
/// on the way.
#[test]
fn very_many_small_blocks_can_be_removed_from_a_full_disk() {
    const BLOCKS: u64 = 12_000;
    let dir = tempfile::tempdir().unwrap();
    let mount_point = dir.path().join("disk");
    let small = |n: u64| Block::of([&n.to_be_bytes()[..], &[7; 192]].concat().into()).unwrap();
    for removes_by_gc in [false, true] {
        let Some(disk) = SmallDisk::mount(&mount_point) else {
            return eprintln!("nothing may be mounted here; not tried");
        };
        // The reserve is a sixteenth of the quota, the deletions take more than that again and half.
        let options = StoreOptions { quota_bytes: Some(6 << 20), ..StoreOptions::default() };
        const { assert!(BLOCKS * 64 > (6 << 20) * 3 / 32) };
        let mut store = LocalStore::open(&disk.0.join("data"), options).unwrap();
        let id = store.begin_dataset();
        (0..BLOCKS).for_each(|n| store.put(&small(n), Some(id)).unwrap());
        let info = info(&small(0), BLOCKS * 200);
        let root = info.root;
        store.finish_dataset(id, info).unwrap();
        let left = || {
            let left = rustix::fs::statvfs(disk.0).unwrap();
            left.f_bavail * left.f_frsize
        };
        let filler = fs::File::create(disk.0.join("filler")).unwrap();
        rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, left()).unwrap();
        assert_eq!(left(), 0);

        let removed = if removes_by_gc {
            assert!(store.set_pinned(&root, false).unwrap());
            store.gc().unwrap()
        } else {
            store.remove_dataset(&root).unwrap().unwrap()
        };
        assert_eq!(removed.blocks, BLOCKS);
        assert!(left() > BLOCKS * 200, "{} bytes are free", left());
        let again = store.begin_dataset();
        (0..1_000).for_each(|n| store.put(&small(n), Some(again)).unwrap());
        store.finish_dataset(again, self::info(&small(0), 200_000)).unwrap();
    }
}

#[test]
fn each_of_ten_thousand_flipped_bits_is_found_and_none_is_served() {
    const BLOCKS: u64 = 10_000;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let open = || {
        let store = LocalStore::open(dir.path(), StoreOptions::default()).unwrap();
        Disk::start(store, Pool::new(32 << 20), Arc::new(Metrics::default())).unwrap()
    };
    let block = |n: u64| {
        let data: Vec<u8> = (0..256).flat_map(|at| random(n * 256 + at).to_le_bytes()).collect();
        Block::of(data.into()).unwrap()
    };
    let disk = open();
    let id = disk.begin_dataset().unwrap();
    (0..BLOCKS).for_each(|n| disk.put(block(n), Some(id)));
    disk.finish_dataset(id, info(&block(0), BLOCKS * 2_048)).unwrap();
    disk.shutdown();
    drop(disk);

    let path = dir.path().join("packs/00000001.pack");
    let mut pack = fs::read(&path).unwrap();
    for n in 0..BLOCKS {
        // The pack's header, and each record's; any bit of the block itself.
        let start = 64 + n as usize * (64 + 2_048) + 64;
        let bit = random(n) as usize % (2_048 * 8);
        pack[start + bit / 8] ^= 1 << (bit % 8);
    }
    fs::write(&path, pack).unwrap();
    let disk = open();
    for n in (0..BLOCKS).step_by(97) {
        assert_eq!(disk.get(block(n).hash()).unwrap(), None, "block {n} is served");
    }
    let report = disk.verify(&mut |_| true).unwrap();
    let unread = BLOCKS.div_ceil(97);
    assert!(report.damaged.len() as u64 >= BLOCKS - unread, "{} found", report.damaged.len());
    assert!((0..BLOCKS).all(|n| disk.get(block(n).hash()).unwrap().is_none()));
    disk.shutdown();
}
