//! The promises of the LocalStore and its disk threads, on a real file system.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test reports by a panic"
)]

use barrow::{
    Block, Cid, Codec, Pool,
    base::metrics::Metrics,
    store::{
        disk::{DatasetInfo, Disk},
        local_store::{LocalStore, StoreError, StoreOptions},
    },
};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

fn disk(dir: &Path) -> Disk {
    let store = LocalStore::open(dir, StoreOptions::default()).unwrap();
    Disk::start(store, Pool::new(32 << 20), Arc::new(Metrics::default())).unwrap()
}

fn block(n: usize) -> Block {
    let mut x = n as u64 + 1;
    let mut byte = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 56) as u8
    };
    Block::of((0..5_000 + n).map(|_| byte()).collect::<Vec<_>>().into()).unwrap()
}

fn info(root: &Block, pinned: bool) -> DatasetInfo {
    DatasetInfo {
        root: Cid::v1(Codec::Raw, *root.hash()),
        size: root.len() as u64,
        pinned,
        expires: None,
        name: Some("a name".into()),
        mimetype: None,
        created: 1,
        protection: None,
    }
}

/// A dataset of the blocks `range`, the first of which is its root.
fn store_dataset(disk: &Disk, range: std::ops::Range<usize>, pinned: bool) -> Cid {
    let id = disk.begin_dataset().unwrap();
    let root = block(range.start);
    for n in range {
        disk.put(block(n), Some(id));
    }
    let info = info(&root, pinned);
    let cid = info.root;
    disk.finish_dataset(id, info).unwrap();
    cid
}

#[test]
fn what_was_acknowledged_is_there_after_the_process_was_gone_without_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path());
    let root = store_dataset(&disk, 0..50, true);
    // What a killed process leaves is what the files hold now.
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), copy.path());
    let again = self::disk(copy.path());
    for n in 0..50 {
        assert_eq!(again.get(block(n).hash()).unwrap(), Some(block(n)), "block {n}");
    }
    assert!(again.dataset(&root).unwrap().unwrap().info.pinned);
    again.shutdown();
    disk.shutdown();
}

#[test]
fn a_lost_or_overwritten_index_is_made_anew_with_pins_and_without_what_was_removed() {
    let dir = tempfile::tempdir().unwrap();
    let first = disk(dir.path());
    let kept = store_dataset(&first, 0..20, true);
    let gone = store_dataset(&first, 15..40, true);
    assert_eq!(first.remove_dataset(&gone).unwrap().unwrap().blocks, 20);
    first.shutdown();
    for noise in [false, true] {
        for name in ["index.sqlite-wal", "index.sqlite-shm"] {
            let _ = fs::remove_file(dir.path().join(name));
        }
        let index = dir.path().join("index.sqlite");
        if noise { fs::write(&index, [0xa5; 65_536]) } else { fs::remove_file(&index) }.unwrap();
        let again = disk(dir.path());
        for n in 0..20 {
            assert_eq!(again.get(block(n).hash()).unwrap(), Some(block(n)));
        }
        for n in 20..40 {
            assert_eq!(again.get(block(n).hash()).unwrap(), None);
        }
        assert!(again.dataset(&kept).unwrap().unwrap().info.pinned);
        assert_eq!(again.dataset(&gone).unwrap(), None);
        again.shutdown();
    }
}

#[test]
fn removing_a_dataset_leaves_every_block_that_another_one_has() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path());
    let one = store_dataset(&disk, 0..10, true);
    let two = store_dataset(&disk, 5..15, true);
    disk.put(block(100), None);
    assert_eq!(disk.remove_dataset(&one).unwrap().unwrap().blocks, 5);
    assert_eq!(disk.remove_dataset(&one).unwrap(), None);
    for n in 5..15 {
        assert_eq!(disk.get(block(n).hash()).unwrap(), Some(block(n)));
    }
    assert!(disk.get(block(100).hash()).unwrap().is_some(), "cache stays until gc");
    assert!(disk.set_pinned(&two, false).unwrap());
    assert_eq!(disk.gc().unwrap().blocks, 11);
    assert!(disk.datasets().unwrap().is_empty());
    disk.shutdown();
}

#[test]
fn of_a_dataset_of_many_batches_every_block_goes_and_none_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path());
    let small = |n: u32| Block::of(n.to_be_bytes().to_vec().into()).unwrap();
    let dataset = |range: std::ops::Range<u32>| {
        let id = disk.begin_dataset().unwrap();
        let info = info(&small(range.start), true);
        range.for_each(|n| disk.put(small(n), Some(id)));
        disk.finish_dataset(id, info.clone()).unwrap();
        info.root
    };
    let (one, _other) = (dataset(0..6_000), dataset(5_900..6_100));
    assert_eq!(disk.remove_dataset(&one).unwrap().unwrap().blocks, 5_900);
    for n in 0..6_100 {
        assert_eq!(disk.get(small(n).hash()).unwrap().is_some(), n >= 5_900, "block {n}");
    }
    disk.shutdown();
}

#[test]
fn a_damaged_block_is_never_served_and_verify_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = disk(dir.path());
    store_dataset(&first, 0..10, true);
    first.shutdown();
    let pack = dir.path().join("packs/00000001.pack");
    let mut bytes = fs::read(&pack).unwrap();
    let damaged = block(3);
    let needle = &damaged.data()[100..200];
    let at = bytes.windows(100).position(|window| window == needle).unwrap();
    bytes[at] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let again = disk(dir.path());
    let report = again.verify(&mut |_| true).unwrap();
    assert_eq!(report.damaged, vec![*block(3).hash()]);
    assert_eq!(report.blocks, 10);
    assert_eq!(again.get(block(3).hash()).unwrap(), None);
    assert_eq!(again.get(block(4).hash()).unwrap(), Some(block(4)));
    again.shutdown();
}

/// Found when it is looked through, though it was sound when the store was opened.
#[test]
fn an_index_that_is_damaged_meanwhile_is_made_anew_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let first = disk(dir.path());
    let kept = store_dataset(&first, 0..600, true);
    first.shutdown();
    // A clean stop leaves all of it in one file: only after a crash a large one is looked through.
    let log = fs::metadata(dir.path().join("index.sqlite-wal"));
    assert!(log.is_ok_and(|log| log.len() == 0));
    drop(first);
    let second = disk(dir.path());
    assert_eq!(second.health(), Ok(()));
    let index = dir.path().join("index.sqlite");
    let mut bytes = fs::read(&index).unwrap();
    assert!(bytes.len() > 40_000, "{} bytes", bytes.len());
    // All but the first pages, which the node has read already.
    bytes[20_000..].fill(0xa5);
    let file = fs::File::options().write(true).open(&index).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes[20_000..], 20_000).unwrap();
    let report = second.verify(&mut |_| true).unwrap();
    assert!(report.is_index_damaged && report.damaged.is_empty(), "{report:?}");
    assert!(second.health().unwrap_err().contains("index"));
    second.shutdown();
    drop(second);

    let third = disk(dir.path());
    let report = third.verify(&mut |_| true).unwrap();
    assert!(!report.is_index_damaged && report.damaged.is_empty() && report.blocks == 600);
    assert!(third.dataset(&kept).unwrap().unwrap().info.pinned);
    assert_eq!(third.health(), Ok(()));
    third.shutdown();
    assert!(!dir.path().join("index.damaged").exists());
}

/// Turns over a bit of a block's record, so far behind its beginning.
fn damage_record(dir: &Path, block: &Block, at: usize) {
    let pack = dir.join("packs/00000001.pack");
    let mut bytes = fs::read(&pack).unwrap();
    let record = bytes.windows(100).position(|window| window == &block.data()[..100]).unwrap() - 64;
    bytes[record + at] ^= 1;
    fs::write(&pack, bytes).unwrap();
}

/// Wherever the only record was damaged that said so, and however it was found.
#[test]
fn a_block_that_was_damaged_and_came_back_is_kept_by_its_dataset_as_before() {
    // The record's head, which says who refers to the block; or the block.
    for at in [20, 1_000] {
        for is_index_lost_first in [false, true] {
            // Without its head nothing in the packs tells of it any more.
            if at < 64 && is_index_lost_first {
                continue;
            }
            for gives_pack_up in [false, true] {
                let case = (at, is_index_lost_first, gives_pack_up);
                let dir = tempfile::tempdir().unwrap();
                let disk = |dir: &Path| {
                    // Small, so that it is worth while to give one up.
                    let pack_bytes_max = 1 << 20;
                    let options = StoreOptions { pack_bytes_max, ..StoreOptions::default() };
                    let store = LocalStore::open(dir, options).unwrap();
                    Disk::start(store, Pool::new(32 << 20), Arc::new(Metrics::default())).unwrap()
                };
                let first = disk(dir.path());
                let other = first.begin_dataset().unwrap();
                // Between blocks that stay, those that go leave parts of pages behind.
                let id = first.begin_dataset().unwrap();
                for n in 0..20 {
                    first.put(block(n), Some(id));
                    (100 + 2 * n..102 + 2 * n).for_each(|n| first.put(block(n), Some(other)));
                }
                first.finish_dataset(id, info(&block(0), true)).unwrap();
                first.finish_dataset(other, info(&block(100), true)).unwrap();
                first.shutdown();
                damage_record(dir.path(), &block(3), at);
                if is_index_lost_first {
                    fs::remove_file(dir.path().join("index.sqlite")).unwrap();
                }
                let second = disk(dir.path());
                let damaged = second.verify(&mut |_| true).unwrap().damaged.len();
                assert_eq!(damaged, 1, "{case:?}");
                if gives_pack_up {
                    let other = Cid::v1(Codec::Raw, *block(100).hash());
                    second.remove_dataset(&other).unwrap().unwrap();
                    assert!(!dir.path().join("packs/00000001.pack").exists(), "{case:?}");
                }
                // As from a peer.
                second.put(block(3), None);
                second.shutdown();
                fs::remove_file(dir.path().join("index.sqlite")).unwrap();
                let third = disk(dir.path());
                assert_eq!(third.gc().unwrap().blocks, 0, "{case:?}");
                assert_eq!(third.get(block(3).hash()).unwrap(), Some(block(3)), "{case:?}");
                third.shutdown();
            }
        }
    }
}

#[test]
fn a_store_is_open_once_and_one_of_a_newer_format_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path(), StoreOptions::default()).unwrap();
    let second = LocalStore::open(dir.path(), StoreOptions::default());
    assert!(matches!(second, Err(StoreError::Locked)));
    drop(store);
    // A directory of another version, one whose packs alone are, and one that nobody knows.
    let version = dir.path().join("VERSION");
    let pack = dir.path().join("packs/00000001.pack");
    let (version_now, pack_now) = (fs::read(&version).unwrap(), fs::read(&pack).unwrap());
    let mut header = pack_now[..24].to_vec();
    header[14] = 1;
    header.extend(xxhash_rust::xxh3::xxh3_64(&header).to_be_bytes());
    let newer_pack = [&header[..], &header, &pack_now[64..]].concat();
    for (version_then, pack_then, told) in [
        (&b"2\n"[..], &pack_now, "2"),
        (b"\xff\x1b[2J", &pack_now, "\\xff\\x1b[2J"),
        (&version_now, &newer_pack, "257 of a pack"),
    ] {
        fs::write(&version, version_then).unwrap();
        fs::write(&pack, pack_then).unwrap();
        let _ = fs::remove_file(dir.path().join("reserve"));
        let before = files(dir.path());
        let newer = LocalStore::open(dir.path(), StoreOptions::default());
        assert!(matches!(newer, Err(StoreError::Newer(version)) if version == told), "{told}");
        assert_eq!(files(dir.path()), before, "{told}");
    }
    fs::write(&version, version_now).unwrap();
    fs::write(&pack, pack_now).unwrap();
    LocalStore::open(dir.path(), StoreOptions::default()).map(drop).unwrap();
}

/// What stands below a directory, byte for byte.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(files(&path)),
            false => drop(all.insert(path.clone(), fs::read(&path).unwrap())),
        }
    }
    all
}

#[test]
fn the_quota_is_hard_and_cache_makes_room_for_what_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let quota = 6 << 20;
    let options = StoreOptions {
        quota_bytes: Some(quota),
        pack_bytes_max: 2 << 20,
        ..StoreOptions::default()
    };
    let mut store = LocalStore::open(dir.path(), options).unwrap();
    let block = |n: u64| {
        let mut data = vec![5; 100_000];
        data[..8].copy_from_slice(&n.to_le_bytes());
        Block::of(data.into()).unwrap()
    };
    for n in 0..200 {
        store.put(&block(n), None).unwrap();
        assert!(disk_bytes(dir.path()) <= quota, "{} bytes", disk_bytes(dir.path()));
    }
    let id = store.begin_dataset();
    let refused = (300..400).find_map(|n| Some((n - 300, store.put(&block(n), Some(id)).err()?)));
    let (stored, error) = refused.expect("so many do not fit");
    assert!(matches!(error, StoreError::OverQuota), "{error:?}");
    assert!((45..=62).contains(&stored), "{stored} blocks fit");
    store.sync().unwrap();
    assert!(disk_bytes(dir.path()) <= quota, "{} bytes", disk_bytes(dir.path()));
}

/// What `du` says of a directory.
fn disk_bytes(dir: &Path) -> u64 {
    let each = fs::read_dir(dir).unwrap().map(|entry| {
        let entry = entry.unwrap();
        // SQLite may remove its log meanwhile.
        entry.metadata().map_or(0, |meta| match meta.is_dir() {
            true => disk_bytes(&entry.path()),
            false => meta.blocks() * 512,
        })
    });
    each.sum()
}

/// Small blocks, of which the index takes its share: kept ones, cache, deletions and restarts.
#[test]
fn the_quota_holds_for_all_that_the_disk_holds() {
    let dir = tempfile::tempdir().unwrap();
    let quota = 6 << 20;
    let options = StoreOptions {
        quota_bytes: Some(quota),
        pack_bytes_max: 2 << 20,
        ..StoreOptions::default()
    };
    let mut store = LocalStore::open(dir.path(), options).unwrap();
    let block = |n: u64| {
        let mut data = vec![5; 1_000];
        data[..8].copy_from_slice(&n.to_le_bytes());
        Block::of(data.into()).unwrap()
    };
    let most = std::cell::Cell::new(0);
    let within = |what: &str| {
        let bytes = disk_bytes(dir.path());
        assert!(bytes <= quota, "{what}: {bytes} bytes");
        most.set(bytes.max(most.get()));
    };
    let mut numbers = 0_u64..;
    for round in 0..4 {
        let id = store.begin_dataset();
        for n in numbers.by_ref().take(1_500) {
            // Every fourth is kept, the others are cache.
            store.put(&block(n), (n % 4 == 0).then_some(id)).unwrap();
            if n % 97 == 0 {
                store.commit().unwrap();
            }
            if n % 25 == 0 {
                within("put");
            }
        }
        let root = block(round * 1_500);
        store.put(&root, Some(id)).unwrap();
        let cid = Cid::v1(Codec::Raw, *root.hash());
        store.finish_dataset(id, info(&root, true)).unwrap();
        within("finished");
        if round % 2 == 1 {
            store.remove_dataset(&cid).unwrap().unwrap();
            within("removed");
        }
        if round == 3 {
            drop(store);
            store = LocalStore::open(dir.path(), options).unwrap();
            within("opened again");
        }
    }
    let id = store.begin_dataset();
    let refused = numbers.find_map(|n| store.put(&block(n), Some(id)).err());
    assert!(matches!(refused, Some(StoreError::OverQuota)), "{refused:?}");
    within("full");
    // Of what was allowed nearly all was used.
    assert!(most.get() >= quota - quota / 8, "{} bytes at most", most.get());
    store.discard_dataset(id).unwrap();
    store.gc().unwrap();
    within("empty");
    store.put(&block(u64::MAX), None).unwrap();
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if path.is_dir() {
            fs::create_dir_all(to.join(&name)).unwrap();
            copy_dir(&path, &to.join(&name));
        } else {
            fs::copy(&path, to.join(&name)).unwrap();
        }
    }
}

/// A peer's block may hold anything, also what looks like records. Deleted and partly given back,
/// it must not be read as such.
#[test]
fn bytes_of_a_block_are_never_taken_for_records() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let kept = Block::of(b"kept by its owner".to_vec().into()).unwrap();
    // A true deletion of it, as another store writes one.
    let other = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut deleting = LocalStore::open(other.path(), StoreOptions::default()).unwrap();
    deleting.put(&kept, None).unwrap();
    deleting.gc().unwrap();
    deleting.sync().unwrap();
    let mut forged = fs::read(other.path().join("packs/00000001.pack")).unwrap().split_off(64);
    forged.resize(100_000, 7);

    let store = || LocalStore::open(dir.path(), StoreOptions::default()).unwrap();
    let mut writing = store();
    writing.put(&kept, None).unwrap();
    writing.sync().unwrap();
    let pack = fs::read(dir.path().join("packs/00000001.pack")).unwrap();
    let forged = Block::of(forged.into()).unwrap();
    writing.put(&forged, None).unwrap();
    writing.put(&Block::of(vec![3; 2 << 20].into()).unwrap(), None).unwrap();
    writing.sync().unwrap();
    drop(writing);
    // Its record's header is damaged on disk: what follows is searched for the next one.
    let path = dir.path().join("packs/00000001.pack");
    let mut bytes = fs::read(&path).unwrap();
    bytes[pack.len() + 5] ^= 1;
    fs::write(&path, &bytes).unwrap();
    fs::remove_file(dir.path().join("index.sqlite")).unwrap();
    let mut reader = store().reader().unwrap();
    let pool = Pool::new(4 << 20);
    assert_eq!(reader.get(kept.hash(), &pool).unwrap(), Some(kept));
    assert_eq!(reader.get(forged.hash(), &pool).unwrap(), None);
}
