//! Spreading slots over trusted peers, with real processes.

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

use node::{Node, make_file, run};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

const CHUNK: u64 = 256 << 10;
/// Stripes of the file that is spread.
const STRIPES: u64 = 20;

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// A data directory with an identity, which others can be told of before it serves.
struct Place {
    dir: PathBuf,
    id: String,
}

impl Place {
    fn new(dir: &Path) -> Self {
        let seed = make_file(&dir.with_extension("seed"), 100, 1);
        assert!(run(dir, &["put", seed.to_str().unwrap()]).status.success());
        let about = json(&run(dir, &["id", "--json"]));
        Self { dir: dir.into(), id: about["peer_id"].as_str().unwrap().to_owned() }
    }

    /// Serves, with these peers on the allow-list.
    fn serve(&self, allowed: &[&Self], peers: &[&str]) -> Node {
        let flags: Vec<&str> =
            allowed.iter().flat_map(|place| ["--allow-peer", &place.id[..]]).collect();
        Node::start_with(&self.dir, peers, &flags)
    }
}

/// Puts a file protected, and gives the protected CID.
fn put(dir: &Path, file: &Path, data: &str, parity: &str) -> String {
    let file = file.to_str().unwrap();
    let words =
        ["put", file, "--profile", "kubo-default", "--data", data, "--parity", parity, "--json"];
    json(&run(dir, &words))["cid"].as_str().unwrap().to_owned()
}

/// Who holds each slot, and how it stands.
fn holders(spread: &Value) -> Vec<(String, String)> {
    let holders = spread["holders"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    holders.map(|holder| (text(&holder["peer"]), text(&holder["state"]))).collect()
}

#[test]
fn slots_are_spread_over_trusted_peers_and_outlive_the_origin() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| Place::new(&dir.path().join(name));
    let origin_place = place("origin");
    let places: Vec<Place> = (0..7).map(|n| place(&format!("holder-{n}"))).collect();
    let file = make_file(&dir.path().join("file"), STRIPES * 4 * CHUNK, 9);
    let cid = put(&origin_place.dir, &file, "4", "2");
    let bytes = fs::read(&file).unwrap();

    let origin = origin_place.serve(&places.iter().collect::<Vec<_>>(), &[]);
    let start = |place: &Place| place.serve(&[&origin_place], &[&origin.peer]);
    let mut nodes: Vec<Node> = places.iter().map(start).collect();
    let spread = origin.run(&["spread", &cid, "--json"]);
    assert!(spread.status.success(), "{spread:?}");
    let spread = json(&spread);
    assert_eq!((&spread["slots"], &spread["bears"]), (&6.into(), &2.into()), "{spread}");
    let first = holders(&spread);
    assert!(first.iter().all(|(_, state)| state == "held"), "{spread}");
    for (slot, (peer, _)) in first.iter().enumerate() {
        let holder = &nodes[places.iter().position(|place| place.id == *peer).unwrap()];
        let kept = json(&holder.run(&["stat", &cid, "--json"]));
        assert_eq!(kept["protection"]["slot"]["index"], slot, "{kept}");
        assert_eq!((&kept["pinned"], &kept["standing"]["whole"]), (&true.into(), &true.into()));
        let most = (STRIPES + 2) * CHUNK;
        assert!(holder.metric("store_bytes") < most, "a slot is no more than its share");
    }
    // Each shard went to one holder, once.
    let sent = origin.metric("peer_bytes_sent_total");
    assert!(sent < (STRIPES * 6 + 12) * CHUNK, "{sent} bytes were sent");

    // Again: the same ones, and no block goes anywhere.
    let blocks = origin.metric("blocks_sent_total");
    let again = json(&origin.run(&["spread", &cid, "--json"]));
    assert_eq!(holders(&again), first);
    assert_eq!(origin.metric("blocks_sent_total"), blocks);
    let stat = origin.run(&["stat", &cid]);
    let stat = String::from_utf8(stat.stdout).unwrap();
    assert!(stat.contains("slot 5 of 6") && stat.contains("20 stripes bear 2 losses"), "{stat}");

    // One holder is lost: the peer that had no slot takes its place, the others keep theirs.
    let lost = places.iter().position(|place| place.id == first[2].0).unwrap();
    nodes.remove(lost).kill();
    let healed = json(&origin.run(&["spread", &cid, "--json"]));
    assert_eq!(healed["whole"], true, "{healed}");
    for (slot, (peer, _)) in holders(&healed).iter().enumerate() {
        assert_eq!(*peer == first[slot].0, slot != 2, "{healed}");
    }

    // With the origin and two more gone, four slots are left, and that is enough.
    origin.kill();
    nodes.drain(..2).for_each(Node::kill);
    let peers: Vec<&str> = nodes.iter().map(|node| &node.peer[..]).collect();
    let reader = Node::start(&dir.path().join("reader"), &peers);
    let got = reader.get(&format!("/ipfs/{cid}"));
    assert!(got.status == 200 && got.body == bytes, "{} bytes, {}", got.body.len(), got.status);
}

#[test]
fn few_peers_hold_more_of_each_stripe_and_what_lacks_is_completed_later() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| Place::new(&dir.path().join(name));
    let origin_place = place("origin");
    let places: Vec<Place> = (0..3).map(|n| place(&format!("holder-{n}"))).collect();
    let file = make_file(&dir.path().join("file"), 5 * 4 * CHUNK + 7, 3);
    let cid = put(&origin_place.dir, &file, "4", "2");
    let origin = origin_place.serve(&places.iter().collect::<Vec<_>>(), &[]);
    let start = |place: &Place| place.serve(&[&origin_place], &[&origin.peer]);
    let _two: Vec<Node> = places[..2].iter().map(start).collect();

    let spread = origin.run(&["spread", &cid, "--json"]);
    assert_eq!(spread.status.code(), Some(3), "{spread:?}");
    let spread = json(&spread);
    let states: Vec<String> = holders(&spread).into_iter().map(|(_, state)| state).collect();
    assert_eq!(states, ["held", "held", "unreachable"], "{spread}");
    assert_eq!(spread["bears"], 0, "two of six shards lack, and two are borne: {spread}");

    let _third = start(&places[2]);
    let spread = json(&origin.run(&["spread", &cid, "--json"]));
    assert_eq!((&spread["whole"], &spread["bears"]), (&true.into(), &1.into()), "{spread}");
    // The API has the same for the page.
    let told: Value =
        serde_json::from_slice(&origin.get(&format!("/api/v1/spread/{cid}")).body).unwrap();
    assert_eq!(holders(&told), holders(&spread));
}

#[test]
fn who_is_not_on_the_list_is_neither_asked_nor_served() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| Place::new(&dir.path().join(name));
    let (origin_place, friend, stranger) = (place("origin"), place("friend"), place("stranger"));
    let file = make_file(&dir.path().join("file"), 5 * CHUNK, 4);
    let cid = put(&origin_place.dir, &file, "2", "1");
    let origin = origin_place.serve(&[&friend], &[]);
    // The friend is on the origin's list, and has nobody on its own; then somebody else.
    for allowed in [&[][..], &[&stranger]] {
        let friend_node = friend.serve(allowed, &[&origin.peer]);
        let refused = origin.run(&["spread", &cid, "--json"]);
        assert_eq!(refused.status.code(), Some(3), "{refused:?}");
        assert_eq!(holders(&json(&refused))[0].1, "refused");
        let kept = friend_node.run(&["stat", &cid]);
        assert!(!kept.status.success(), "nothing is kept for a stranger: {kept:?}");
    }
    let _stranger = stranger.serve(&[&origin_place], &[&origin.peer]);
    let named = origin.run(&["spread", &cid, "--to", &stranger.id]);
    assert_eq!(named.status.code(), Some(1), "{named:?}");
    let said = String::from_utf8_lossy(&named.stderr).into_owned();
    assert!(said.contains("not on the allow-list"), "{said}");
    let nonsense = origin.run(&["spread", &cid, "--to", "nobody"]);
    assert_eq!(nonsense.status.code(), Some(2), "{nonsense:?}");

    // Nobody to ask, and nothing to spread.
    let alone = Node::start(&dir.path().join("alone"), &[]);
    let plain = alone.put(&file);
    let nobody = alone.run(&["spread", &plain]);
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("allow-list"), "{nobody:?}");
    let plain = origin.put(&file);
    let unprotected = origin.run(&["spread", &plain]);
    assert!(String::from_utf8_lossy(&unprotected.stderr).contains("not protected"));
}
