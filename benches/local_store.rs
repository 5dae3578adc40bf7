//! The store alone: put, get, look-ups, many small blocks.
//!
//! `cargo bench --bench local_store`, or one of its parts: `-- put`, `-- get`, `-- small`

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a bench prints, and ends at what fails"
)]

mod common;

use barrow::{
    Block, Cid, Codec, Multihash, Pool,
    base::metrics::Metrics,
    store::{
        disk::{DatasetInfo, Disk},
        local_store::{LocalStore, StoreOptions},
    },
};
use common::{Spread, file_bytes, is_smoke, runs, scratch, seconds, warm};
use std::{env, fs, os::unix::fs::FileExt as _, path::Path, process::Command, sync::Arc};

fn main() {
    let words: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |part: &str| words.is_empty() || words.iter().any(|word| word == part);
    if wanted("put") {
        put_beside_cp();
    }
    if wanted("get") {
        get_beside_pread();
    }
    if wanted("small") {
        many_small_blocks();
    }
}

/// `barrow put` of a file without a serving node, in turn with cp, sha256sum and sync of it.
fn put_beside_cp() {
    let dir = scratch();
    let file = make_file(dir.path());
    let (mut puts, mut copies, mut ratios) = (vec![], vec![], vec![]);
    for _ in 0..runs() {
        warm(&file);
        let copy = dir.path().join("copy");
        let script = "cp \"$0\" \"$1\" && sha256sum \"$1\" > /dev/null && sync \"$1\"";
        let (status, cp) =
            seconds(|| Command::new("sh").args(["-c", script]).arg(&file).arg(&copy).status());
        assert!(status.unwrap().success());
        fs::remove_file(&copy).unwrap();
        let store = dir.path().join("store");
        warm(&file);
        let (output, put) = seconds(|| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_barrow"));
            command.arg("--data-dir").arg(&store).arg("put").arg(&file).output().unwrap()
        });
        assert!(output.status.success(), "{output:?}");
        fs::remove_dir_all(&store).unwrap();
        copies.push(cp);
        puts.push(put);
        ratios.push(put / cp);
    }
    println!("cp + sha256sum + sync   {} s", Spread::of(copies));
    println!("barrow put              {} s", Spread::of(puts));
    println!("ratio                   {}  (bound 1.1)", Spread::of(ratios));
}

fn make_file(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("file");
    let mut bytes = Vec::with_capacity(1 << 20);
    let file = fs::File::create(&path).unwrap();
    let mut state = 5_u64;
    for piece in 0..file_bytes() >> 20 {
        bytes.clear();
        while bytes.len() < 1 << 20 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend(state.to_le_bytes());
        }
        file.write_all_at(&bytes, piece << 20).unwrap();
    }
    path
}

/// Blocks of 1 MiB from the store, look-up and checksum included, in turn with bare reads.
fn get_beside_pread() {
    let dir = scratch();
    let pool = Pool::new(32 << 20);
    let mut store = LocalStore::open(dir.path(), StoreOptions::default()).unwrap();
    let blocks = file_bytes() >> 20;
    let mut hashes = Vec::new();
    for n in 0..blocks {
        let mut data = vec![n as u8; 1 << 20];
        data[..8].copy_from_slice(&n.to_le_bytes());
        let block = Block::of(data.into()).unwrap();
        store.put(&block, None).unwrap();
        hashes.push(*block.hash());
    }
    store.sync().unwrap();
    let mut reader = store.reader().unwrap();
    let pack = fs::File::open(dir.path().join("packs/00000001.pack")).unwrap();
    let pack_bytes = pack.metadata().unwrap().len();
    let (mut gets, mut preads, mut ratios) = (vec![], vec![], vec![]);
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..runs() + 1 {
        let ((), pread) = seconds(|| {
            for n in 0..pack_bytes >> 20 {
                pack.read_exact_at(&mut buffer, n << 20).unwrap();
            }
        });
        let ((), get) = seconds(|| {
            for hash in &hashes {
                assert!(reader.get(hash, &pool).unwrap().is_some());
            }
        });
        let pread = (pack_bytes >> 20 << 20) as f64 / pread / 1e9;
        let get = (blocks << 20) as f64 / get / 1e9;
        preads.push(pread);
        gets.push(get);
        ratios.push(get / pread);
    }
    println!("pread of 1 MiB          {} GB/s", Spread::of(preads));
    println!("get of 1 MiB blocks     {} GB/s", Spread::of(gets));
    println!("ratio                   {}  (bound 0.5)", Spread::of(ratios));
}

/// A million blocks of 1 KiB as two pinned datasets, a block of the one behind each of the other;
/// then one of them goes.
fn many_small_blocks() {
    let dir = scratch();
    let count: u64 = if is_smoke() { 10_000 } else { 1_000_000 };
    let block = |n: u64| {
        let mut data = vec![0; 1 << 10];
        data[..8].copy_from_slice(&n.to_le_bytes());
        Block::of(data.into()).unwrap()
    };
    let hash = |n: u64| -> Multihash { *block(n).hash() };
    let roots = [0, 1].map(|n| Cid::v1(Codec::Raw, hash(n)));
    let open = || LocalStore::open(dir.path(), StoreOptions::default()).unwrap();
    let disk = Disk::start(open(), Pool::new(32 << 20), Arc::new(Metrics::default())).unwrap();
    let ((), put) = seconds(|| {
        let ids = [disk.begin_dataset().unwrap(), disk.begin_dataset().unwrap()];
        for n in 0..count {
            disk.put(block(n), Some(ids[(n % 2) as usize]));
        }
        for (id, root) in ids.into_iter().zip(roots) {
            let info = DatasetInfo {
                root,
                size: count << 9,
                pinned: true,
                expires: None,
                name: None,
                mimetype: None,
                created: 0,
                protection: None,
            };
            disk.finish_dataset(id, info).unwrap();
        }
    });
    disk.shutdown();
    drop(disk);
    let index = fs::metadata(dir.path().join("index.sqlite")).unwrap().len() as f64;
    println!(
        "{count} blocks of 1 KiB: put in {put:.1} s, index {:.0} B a block",
        index / count as f64
    );
    let (mut store, opening) = seconds(open);
    let reader = store.reader().unwrap();
    let look_ups = count.min(200_000);
    let step = 7_919;
    let hashes: Vec<Multihash> = (0..look_ups).map(|n| hash(n * step % count)).collect();
    let ((), looking) = seconds(|| {
        for hash in &hashes {
            assert_ne!(reader.presence(hash).unwrap(), barrow::wire::Presence::DontHave);
        }
    });
    println!("open {opening:.3} s, {:.0} look-ups a second", look_ups as f64 / looking);
    let before = disk_bytes(dir.path());
    let (removed, removing) = seconds(|| store.remove_dataset(&roots[1]).unwrap().unwrap());
    assert_eq!(removed.blocks, count / 2);
    let after = disk_bytes(dir.path());
    println!(
        "half removed in {removing:.1} s: {} MiB on disk were {} MiB, ratio {:.3}  (bound 0.6)",
        after >> 20,
        before >> 20,
        after as f64 / before as f64
    );
    println!("peak RSS {} MiB", peak_mib());
}

/// What `du` says of the store, without what it keeps back.
fn disk_bytes(dir: &Path) -> u64 {
    let du = |path: &Path| {
        let output = Command::new("du").args(["-s", "-B1"]).arg(path).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().next().map_or(0, |bytes| bytes.parse::<u64>().unwrap())
    };
    du(dir) - du(&dir.join("reserve"))
}

fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1_024
}
