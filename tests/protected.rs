//! Protected datasets with real processes: slots on many nodes, losses, ranges and repair.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test reports by a panic"
)]

#[path = "flow/node.rs"]
#[expect(dead_code, reason = "shared with the tests of the flow")]
mod node;

use barrow::{
    Cid, Codec, Multihash,
    data::car::{encode_block_head, encode_header},
    erasure::{List, Manifest},
};
use barrow_wire::HashCode;
use node::{Node, loop_until, make_file, run, unchunked};
use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

const CHUNK: u64 = 256 << 10;

/// Puts a file protected, and gives the protected CID and the plain root.
fn put(dir: &Path, file: &Path, data: u64, parity: u64) -> (String, String) {
    let (data, parity) = (data.to_string(), parity.to_string());
    let file = file.to_str().unwrap();
    let words =
        ["put", file, "--profile", "kubo-default", "--data", &data, "--parity", &parity, "--json"];
    let stored = json(&run(dir, &words));
    let text = |key: &str| stored[key].as_str().unwrap().to_owned();
    (text("cid"), text("root"))
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Flips a bit of the stored block that begins with the bytes of `file` at `offset`.
fn damage(dir: &Path, file: &[u8], offset: u64) {
    let start = &file[offset as usize..][..32];
    for pack in fs::read_dir(dir.join("packs")).unwrap() {
        let path = pack.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(32).position(|window| window == start) {
            let pack = fs::File::options().write(true).open(path).unwrap();
            return pack.write_all_at(&[bytes[at + 7] ^ 1], at as u64 + 7).unwrap();
        }
    }
    panic!("no block of offset {offset} is stored");
}

#[test]
fn any_size_comes_back_with_every_shard_of_one_place_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let stripe = 3 * CHUNK;
    let blocks = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1];
    let stripes = [stripe - 1, stripe, stripe + 1, 10 * stripe + 1];
    for (n, size) in blocks.into_iter().chain(stripes).enumerate() {
        let store = dir.path().join(format!("store-{n}"));
        let file = make_file(&dir.path().join("file"), size, n as u64 + 1);
        let (cid, root) = put(&store, &file, 3, 2);
        let bytes = fs::read(&file).unwrap();
        // The first of each stripe; one of less than 32 bytes is left alone.
        for offset in (0..size.saturating_sub(32)).step_by(3 * CHUNK as usize) {
            damage(&store, &bytes, offset);
        }
        for name in [&cid, &root] {
            let got = run(&store, &["get", name]);
            assert!(got.status.success(), "{size}: {got:?}");
            assert_eq!(got.stdout, bytes, "{size}");
        }
    }
}

#[test]
fn damage_is_repaired_and_what_is_beyond_repair_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let file = make_file(&dir.path().join("file"), 10 * CHUNK + 77, 5);
    let bytes = fs::read(&file).unwrap();
    let (cid, _) = put(&store, &file, 4, 2);
    for block in [0, 3, 4, 8] {
        damage(&store, &bytes, block * CHUNK);
    }
    // What is found is told of, by what each stripe still bears.
    let said = |words: &[&str]| String::from_utf8(run(&store, words).stdout).unwrap();
    assert!(!said(&["ls"]).contains("barrow repair"), "of a whole one nobody is warned");
    assert_eq!(run(&store, &["verify"]).status.code(), Some(3));
    let listed = said(&["ls"]);
    assert!(listed.contains(&format!("bears 0 of 2 losses: barrow repair {cid}")), "{listed}");
    let stat = said(&["stat", &cid]);
    assert!(stat.contains("1 stripes bear 0 losses\n"), "{stat}");
    assert!(stat.contains("2 stripes bear 1 losses\n"), "{stat}");
    let repaired = json(&run(&store, &["verify", "--repair", "--json"]));
    assert_eq!(repaired["repaired"][0], cid.as_str());
    assert_eq!(run(&store, &["verify"]).status.code(), Some(0));
    assert!(said(&["stat", &cid]).contains("3 stripes bear 2 losses"));

    // Found and mended in one go.
    for block in [0, 3, 4, 8] {
        damage(&store, &bytes, block * CHUNK);
    }
    let repaired = json(&run(&store, &["verify", "--repair", "--json"]));
    assert_eq!(repaired["damaged"].as_array().unwrap().len(), 4, "{repaired}");
    assert_eq!(repaired["repaired"][0], cid.as_str());
    let verified = run(&store, &["verify"]);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");

    // The second stripe loses one more than it bears.
    for block in [4, 5, 6] {
        damage(&store, &bytes, block * CHUNK);
    }
    let got = run(&store, &["get", &cid]);
    assert_eq!(got.status.code(), Some(3), "{got:?}");
    let error = String::from_utf8_lossy(&got.stderr).into_owned();
    assert!(error.contains("stripe 1 is lost"), "{error}");
    assert_eq!(got.stdout, bytes[..got.stdout.len()], "nothing wrong is delivered");
    assert_eq!(got.stdout.len() as u64, 4 * CHUNK);
    let repair = run(&store, &["verify", "--repair"]);
    assert_eq!(repair.status.code(), Some(3), "{repair:?}");
    assert!(said(&["ls"]).contains("1 of 3 stripes are lost"), "{}", said(&["ls"]));
    assert!(said(&["stat", &cid]).contains("1 stripes lost 3 shards"), "{}", said(&["stat", &cid]));
}

#[test]
fn protect_gives_the_cid_that_put_gives() {
    let dir = tempfile::tempdir().unwrap();
    let file = make_file(&dir.path().join("file"), 9 * CHUNK + 5, 6);
    let (cid, root) = put(&dir.path().join("a"), &file, 3, 2);
    let store = dir.path().join("b");
    let plain =
        run(&store, &["put", file.to_str().unwrap(), "--profile", "kubo-default", "--json"]);
    assert_eq!(json(&plain)["cid"], root.as_str());
    let words = ["protect", &root, "--data", "3", "--parity", "2", "--json"];
    let protected = json(&run(&store, &words));
    assert_eq!((&protected["cid"], &protected["root"]), (&cid.into(), &root.into()));
    let wrong = run(&store, &["put", file.to_str().unwrap(), "--data", "0", "--parity", "2"]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn parity_is_the_same_without_any_special_instruction_and_rebuilds_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let file = make_file(&dir.path().join("file"), 23 * CHUNK + 5, 16);
    let bytes = fs::read(&file).unwrap();
    let (cid, _) = put(&dir.path().join("best"), &file, 5, 3);
    let store = dir.path().join("portable");
    let portable = |words: &[&str]| {
        let mut command = Command::new(node::BARROW);
        command.env("BARROW_ERASURE_KERNEL", "portable").arg("--data-dir").arg(&store);
        command.args(words).output().unwrap()
    };
    let file = file.to_str().unwrap();
    let words = ["put", file, "--profile", "kubo-default", "--data", "5", "--parity", "3"];
    let stored = portable(&words);
    assert!(stored.status.success(), "{stored:?}");
    // The CID has the hashes of all parity in it.
    assert_eq!(String::from_utf8(stored.stdout).unwrap().trim(), cid);
    [0, 1, 4].into_iter().for_each(|block| damage(&store, &bytes, block * CHUNK));
    assert!(portable(&["get", &cid]).stdout == bytes);
}

#[test]
fn a_manifest_is_data_where_it_is_asked_for_as_such_and_other_data_is_no_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let file = make_file(&dir.path().join("file"), 1_000, 8);
    let node = Node::start(&dir.path().join("store"), &[]);
    let (cid, root) = put(&node.dir, &file, 2, 1);
    let block = node.get(&format!("/ipfs/{cid}?format=dag-cbor"));
    assert_eq!(block.status, 200);
    let manifest = Manifest::decode(&block.body.into()).unwrap();
    assert_eq!(manifest.root.to_string(), root);
    // The list of stripes is DAG-CBOR too, and stands for itself.
    let list = &manifest.lists[0].to_string();
    let block = node.get(&format!("/ipfs/{list}?format=dag-cbor"));
    assert!(List::decode(&block.body.into(), &manifest, 0).is_ok());
    let pinned = node.run(&["pin", list]);
    assert!(pinned.status.success(), "{pinned:?}");
    assert_eq!(node.get(&format!("/ipfs/{cid}")).body, fs::read(&file).unwrap());
}

#[test]
fn a_car_of_all_holds_what_it_takes_to_rebuild() {
    let dir = tempfile::tempdir().unwrap();
    let file = make_file(&dir.path().join("file"), 9 * CHUNK + 5, 17);
    let bytes = fs::read(&file).unwrap();
    let origin = Node::start(&dir.path().join("origin"), &[]);
    let (cid, _) = put(&origin.dir, &file, 4, 2);
    let (path, store) = (dir.path().join("all.car"), dir.path().join("copy"));
    let car = origin.get(&format!("/ipfs/{cid}?format=car&dag-scope=all"));
    assert_eq!(car.status, 200);
    fs::write(&path, unchunked(&car.body)).unwrap();
    origin.kill();
    let stored = run(&store, &["import", path.to_str().unwrap()]);
    assert!(stored.status.success(), "{stored:?}");
    let stat = json(&run(&store, &["stat", &cid, "--json"]));
    assert_eq!(stat["size"], bytes.len(), "{stat}");
    assert_eq!(
        (&stat["protection"]["data"], &stat["protection"]["parity"]),
        (&4.into(), &2.into())
    );
    assert_eq!((&stat["standing"]["bears"], &stat["standing"]["whole"]), (&2.into(), &true.into()));
    // Two of each whole stripe, and one of the last.
    [0, 1, 6, 7, 8].into_iter().for_each(|block| damage(&store, &bytes, block * CHUNK));
    assert!(run(&store, &["get", &cid]).stdout == bytes);
    let repaired = run(&store, &["repair", &cid]);
    assert!(repaired.status.success(), "{repaired:?}");
    assert!(run(&store, &["verify"]).status.success());
}

#[test]
fn damage_is_named_once_however_often_it_is_met() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let file = make_file(&dir.path().join("file"), 40 * CHUNK, 18);
    let bytes = fs::read(&file).unwrap();
    let (cid, _) = put(&store, &file, 4, 2);
    (0..10).for_each(|stripe| damage(&store, &bytes, (4 * stripe + stripe % 4) * CHUNK));
    let node = Node::start(&store, &[]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(node.get(&format!("/ipfs/{cid}")).body == bytes));
        }
    });
    assert_eq!(node.log().matches("is damaged on disk").count(), 10, "{}", node.log());
    assert_eq!(node.metric("store_damaged_total"), 10);
}

/// Imports blocks below a root, as a CAR.
fn import(node: &Node, root: Cid, blocks: &[(Cid, Vec<u8>)]) {
    let mut car = encode_header(&[root]).unwrap();
    for (cid, data) in blocks {
        car.extend(encode_block_head(cid, data.len()));
        car.extend(data);
    }
    let path = node.dir.join("blocks.car");
    fs::write(&path, car).unwrap();
    let imported = node.run(&["import", path.to_str().unwrap()]);
    assert!(imported.status.success(), "{imported:?}");
}

fn dag_cbor(data: &[u8]) -> (Cid, Vec<u8>) {
    (Cid::v1(Codec::DagCbor, Multihash::of(HashCode::Sha2_256, data)), data.to_vec())
}

#[test]
fn a_sound_manifest_of_wrong_shards_is_named_and_gives_nothing_wrong() {
    type Lie = fn(&mut List);
    let lies: [Lie; 2] = [
        // Another block's bytes for parity; a leaf of another length, with its stripe's first lost.
        |list| list.0[1].parity.swap(0, 1),
        |list| list.0[1].data[2].1 -= 1,
    ];
    for lie in lies {
        let dir = tempfile::tempdir().unwrap();
        let file = make_file(&dir.path().join("file"), 9 * CHUNK + 5, 21);
        let bytes = fs::read(&file).unwrap();
        let node = Node::start(&dir.path().join("store"), &[]);
        let (honest, root) = put(&node.dir, &file, 4, 2);
        let block = |cid: &str| node.get(&format!("/ipfs/{cid}?format=dag-cbor")).body;
        let mut manifest = Manifest::decode(&block(&honest).into()).unwrap();
        let list = block(&manifest.lists[0].to_string()).into();
        let mut list = List::decode(&list, &manifest, 0).unwrap();
        lie(&mut list);
        let list = dag_cbor(&list.encode().unwrap());
        manifest.lists[0] = list.0;
        let (cid, manifest) = dag_cbor(&manifest.encode().unwrap());
        import(&node, cid, &[(cid, manifest), list]);
        let store = node.dir.clone();
        node.kill();

        damage(&store, &bytes, 4 * CHUNK);
        let got = run(&store, &["get", &cid.to_string()]);
        assert_eq!(got.status.code(), Some(1), "{got:?}");
        let said = String::from_utf8_lossy(&got.stderr).into_owned();
        assert!(said.contains("a rebuilt shard is not what it says"), "{said}");
        assert!(got.stdout == bytes[..4 * CHUNK as usize], "what is before it comes, and no more");
        // Who was told the lie is not held to it for the plain root: the honest one mends it.
        let node = Node::start(&store, &[]);
        let mut lied = node.open("GET", &format!("/ipfs/{cid}"), &[]);
        assert!(lied.read_body().is_err() || lied.body.len() < bytes.len());
        assert!(node.get(&format!("/ipfs/{root}")).body == bytes);
        assert!(node.get(&format!("/ipfs/{honest}")).body == bytes);
    }
}

#[test]
fn a_manifest_of_a_manifest_is_followed_no_further() {
    let dir = tempfile::tempdir().unwrap();
    let file = make_file(&dir.path().join("file"), 1_000, 22);
    let node = Node::start(&dir.path().join("store"), &[]);
    let (cid, _) = put(&node.dir, &file, 2, 1);
    let block = node.get(&format!("/ipfs/{cid}?format=dag-cbor")).body;
    let mut manifest = Manifest::decode(&block.clone().into()).unwrap();
    manifest.root = cid.parse().unwrap();
    let (outer, bytes) = dag_cbor(&manifest.encode().unwrap());
    import(&node, outer, &[(outer, bytes)]);
    let got = node.run(&["get", &outer.to_string()]);
    assert!(got.status.success() && got.stdout == block, "the inner one is data: {got:?}");
}

#[test]
fn the_plain_root_heals_where_its_protection_is_known_until_a_stripe_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let file = make_file(&dir.path().join("file"), 31 * CHUNK + 5, 23);
    let bytes = fs::read(&file).unwrap();
    let origin = Node::start(&dir.path().join("origin"), &[]);
    let (cid, root) = put(&origin.dir, &file, 3, 2);
    let mut holders: Vec<Node> = Vec::new();
    for slot in 0..5 {
        let holder = Node::start(&dir.path().join(format!("slot-{slot}")), &[&origin.peer]);
        let pinned = holder.run(&["pin", &cid, "--slot", &format!("{slot}/5")]);
        assert!(pinned.status.success(), "{pinned:?}");
        holders.push(holder);
    }
    origin.kill();
    holders.drain(..2).for_each(Node::kill);
    let peers: Vec<&str> = holders.iter().map(|holder| &holder.peer[..]).collect();

    // It has a slot and the manifest; two of three leaves are nowhere.
    let reader = Node::start(&dir.path().join("slot-2-again"), &peers);
    assert!(reader.run(&["pin", &cid, "--slot", "2/5"]).status.success());
    let got = reader.get(&format!("/ipfs/{root}"));
    assert!(got.status == 200 && got.body == bytes, "{}: {} bytes", got.status, got.body.len());
    assert_eq!(reader.metric("erasure_decoded_stripes_total"), 11);
    reader.kill();

    // One more is lost than is borne.
    holders.remove(0).kill();
    let peers: Vec<&str> = holders.iter().map(|holder| &holder.peer[..]).collect();
    let last = Node::start(&dir.path().join("last"), &peers);
    let got = last.run(&["get", &cid]);
    assert_eq!((got.status.code(), got.stdout.len()), (Some(3), 0), "{got:?}");
    let said = String::from_utf8_lossy(&got.stderr).into_owned();
    assert!(
        said.contains("stripe 0 is lost: 2 of its shards could be had, 3 are needed"),
        "{said}"
    );
}

#[test]
fn a_directory_is_protected_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, store) = (dir.path().join("tree"), dir.path().join("store"));
    fs::create_dir_all(tree.join("below")).unwrap();
    make_file(&tree.join("large"), 5 * CHUNK + 3, 1);
    make_file(&tree.join("below/small"), 1_000, 2);
    let node = Node::start(&store, &[]);
    let (cid, _) = put(&store, &tree, 4, 2);
    let large = fs::read(tree.join("large")).unwrap();
    drop(node);
    damage(&store, &large, 2 * CHUNK);
    damage(&store, &large, 3 * CHUNK);
    let node = Node::start(&store, &[]);
    assert_eq!(node.get(&format!("/ipfs/{cid}/large")).body, large);
    let small = fs::read(tree.join("below/small")).unwrap();
    assert_eq!(node.get(&format!("/ipfs/{cid}/below/small")).body, small);
}

#[test]
fn a_file_survives_its_origin_and_as_many_slots_as_there_is_parity() {
    let dir = tempfile::tempdir().unwrap();
    let file = make_file(&dir.path().join("file"), 81 * CHUNK + 12_345, 9);
    let bytes = fs::read(&file).unwrap();
    let origin = Node::start(&dir.path().join("origin"), &[]);
    let (cid, root) = put(&origin.dir, &file, 4, 2);
    let mut holders: Vec<Node> = Vec::new();
    for slot in 0..6 {
        let holder = Node::start(&dir.path().join(format!("slot-{slot}")), &[&origin.peer]);
        let pinned = holder.run(&["pin", &cid, "--slot", &format!("{slot}/6")]);
        assert!(pinned.status.success(), "{pinned:?}");
        // 21 stripes, of which a holder has a shard each, and the manifest and the tree.
        assert!(holder.metric("store_bytes") < 23 * CHUNK, "a slot is no more than its share");
        holders.push(holder);
    }
    origin.kill();
    holders.drain(..2).for_each(Node::kill);

    let peers: Vec<&str> = holders.iter().map(|holder| &holder.peer[..]).collect();
    let reader = Node::start(&dir.path().join("reader"), &peers);
    let since = Instant::now();
    let got = reader.get(&format!("/ipfs/{cid}"));
    assert_eq!(got.status, 200);
    assert!(got.body == bytes, "{} of {} bytes came", got.body.len(), bytes.len());
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    assert_eq!(reader.metric("erasure_decoded_stripes_total"), 21);
    assert!(reader.get(&format!("/ipfs/{root}")).body == bytes);
    // What was fetched to rebuild others is not stored.
    let stored = loop_until("all is in the index", || {
        Some(reader.metric("store_bytes")).filter(|stored| *stored > bytes.len() as u64)
    });
    assert!(stored < bytes.len() as u64 + CHUNK, "{stored}");
    // Nobody has the lost shards from reading.
    reader.kill();

    // A range decodes the stripes that it touches, and no others.
    let other = Node::start(&dir.path().join("other"), &peers);
    let from = 20 * CHUNK + 5;
    let range = format!("bytes={from}-{}", from + CHUNK - 1);
    let part = other.request("GET", &format!("/ipfs/{cid}"), &[("Range", &range)]);
    assert_eq!(part.status, 206);
    assert!(part.body == bytes[from as usize..][..CHUNK as usize]);
    assert_eq!(other.metric("erasure_decoded_stripes_total"), 1);
    // At most all shards of the stripe, the manifest, its list of stripes, that of nodes, the root.
    let received =
        || other.metric("blocks_received_total") - other.metric("blocks_duplicate_total");
    assert!(received() <= 6 + 4, "{}", received());
    let over_two = format!("bytes={}-{}", 48 * CHUNK - 10, 48 * CHUNK + 9);
    let part = other.request("GET", &format!("/ipfs/{cid}"), &[("Range", &over_two)]);
    assert!(part.body == bytes[(48 * CHUNK - 10) as usize..][..20]);
    assert!(other.metric("erasure_decoded_stripes_total") <= 3);
    assert!(received() <= 3 * 6 + 4, "{}", received());

    // Also where the range is far from the start.
    let far = Node::start(&dir.path().join("far"), &peers);
    let range = format!("bytes={}-", bytes.len() - 100);
    let tail = far.request("GET", &format!("/ipfs/{cid}"), &[("Range", &range)]);
    assert_eq!((tail.status, &tail.body[..]), (206, &bytes[bytes.len() - 100..]));
    far.kill();

    // A slot that was lost is made anew from the others.
    other.kill();
    let again = Node::start(&dir.path().join("again"), &peers);
    let pinned = again.run(&["pin", &cid, "--slot", "0/6"]);
    assert!(pinned.status.success(), "{pinned:?}");
    assert_eq!(again.metric("erasure_decoded_stripes_total"), 21);
    assert!(again.metric("store_bytes") < 23 * CHUNK, "and no more than the slot is kept");
}
