//! Downloads as jobs: what they tell, that they end when told to, and that a pin outlives a crash.

use super::{
    Pair,
    node::{Node, loop_until},
};
use serde_json::Value;
use std::{fs, io::Read as _, process::Command};

/// Slow enough to be looked at, and to be killed in the middle.
const SLOWLY: &[&str] = &["--limit-down", "4MiB"];

/// A node that has a file, and one that may fetch it slowly.
fn slow_pair() -> Pair {
    let mut pair = Pair::with_bytes(24 << 20);
    pair.b = Node::start_with(&pair.dir.path().join("slow"), &[&pair.a.peer], SLOWLY);
    pair
}

fn transfers(node: &Node) -> Vec<Value> {
    let told: Value = serde_json::from_slice(&node.get("/api/v1/transfers").body).unwrap();
    told["transfers"].as_array().unwrap().clone()
}

/// Waits until a transfer has begun to come and its size is known, and gives what is told of it.
fn coming(node: &Node, kind: &str) -> Value {
    loop_until("a transfer with a rate", || {
        transfers(node).into_iter().find(|one| {
            one["kind"] == kind && one["rate"].as_u64() > Some(0) && one["total"].is_u64()
        })
    })
}

fn with_status(node: &Node, status: &str) -> Option<Value> {
    transfers(node).into_iter().find(|one| one["status"] == status)
}

/// Begins `barrow pin`, which ends with the node.
fn begin_pin(node: &Node, cid: &str) -> std::process::Child {
    let mut command = Command::new(super::node::BARROW);
    command.arg("--data-dir").arg(&node.dir).args(["pin", cid]);
    command.stderr(std::process::Stdio::null()).spawn().unwrap()
}

/// The relations that hold of every transfer that comes.
fn assert_is_coherent(told: &Value, pair: &Pair) {
    let number = |key: &str| told[key].as_u64().unwrap_or_else(|| panic!("{key} in {told}"));
    assert_eq!(told["cid"], pair.cid[..], "{told}");
    assert_eq!(number("total"), pair.bytes.len() as u64, "{told}");
    assert!(number("done") < number("total"), "{told}");
    assert!(number("received") <= number("total") + (64 << 10), "{told}");
    let left = number("total") - number("done");
    assert_eq!(number("remaining_seconds"), left.div_ceil(number("rate")), "{told}");
    let (a, _) = pair.a.peer.split_once('@').unwrap();
    assert_eq!(told["peers"], serde_json::json!([a]), "{told}");
}

#[test]
fn a_transfer_tells_how_far_it_is_how_fast_and_from_whom() {
    let pair = slow_pair();
    let mut pin = begin_pin(&pair.b, &pair.cid);
    assert_is_coherent(&coming(&pair.b, "pin"), &pair);
    // The limit is 4 MiB a second, and what it lets pass at once.
    let rates: Vec<u64> = (0..20)
        .map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            coming(&pair.b, "pin")["rate"].as_u64().unwrap()
        })
        .collect();
    assert!(rates.iter().all(|rate| *rate < 16 << 20), "{rates:?}");
    let lines = String::from_utf8(pair.b.run(&["transfers"]).stdout).unwrap();
    assert!(lines.contains("pin active") && lines.contains("left, from 1 peer"), "{lines}");
    let mut events = pair.b.open("GET", "/api/v1/events", &[]).stream;
    let mut seen = String::new();
    while !seen.contains("event: datasets") {
        let mut some = [0; 4_096];
        let read = events.read(&mut some).unwrap();
        assert!(read > 0, "the events ended: {seen}");
        seen.push_str(&String::from_utf8_lossy(&some[..read]));
    }
    let state = seen.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let state: Value = serde_json::from_str(state).unwrap();
    assert_is_coherent(&state["transfers"][0], &pair);
    assert!(pin.wait().unwrap().success());
    let done = with_status(&pair.b, "done").expect("it is remembered");
    assert_eq!(done["done"], done["total"], "{done}");
}

#[test]
fn a_reader_is_a_transfer_that_can_be_ended() {
    let pair = slow_pair();
    let mut reader = pair.b.open("GET", &pair.path(), &[]);
    let told = std::thread::scope(|scope| {
        let reading = scope.spawn(|| reader.read_body());
        let told = coming(&pair.b, "read");
        assert_is_coherent(&told, &pair);
        let job = told["job"].to_string();
        let ended = pair.b.run(&["transfers", "cancel", &job]);
        assert!(ended.status.success(), "{ended:?}");
        let _ = reading.join().unwrap();
        told
    });
    assert!(reader.body.len() < pair.bytes.len(), "it was not cut");
    assert!(pair.bytes.starts_with(&reader.body), "other bytes came");
    loop_until("it is gone", || transfers(&pair.b).is_empty().then_some(()));
    assert_eq!(
        pair.b.request("DELETE", &format!("/api/v1/transfers/{}", told["job"]), &[]).status,
        404
    );
    // Who asks later gets all of it.
    assert!(pair.b.get(&pair.path()).body == pair.bytes);
}

#[test]
fn whoever_leaves_a_pin_ends_it_for_nobody_else() {
    let pair = slow_pair();
    let mut first = begin_pin(&pair.b, &pair.cid);
    let job = coming(&pair.b, "pin")["job"].clone();
    let mut second = begin_pin(&pair.b, &pair.cid);
    std::thread::sleep(std::time::Duration::from_millis(300));
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(second.wait().unwrap().success());
    let done = with_status(&pair.b, "done").expect("it is remembered");
    assert_ne!(done["job"], job, "the first one was ended");
}

#[test]
fn a_cancelled_pin_ends_and_is_not_gone_on_with_after_a_restart() {
    let mut pair = slow_pair();
    let mut pin = begin_pin(&pair.b, &pair.cid);
    let job = coming(&pair.b, "pin")["job"].to_string();
    assert!(pair.b.run(&["transfers", "cancel", &job]).status.success());
    assert_eq!(pin.wait().unwrap().code(), Some(1));
    assert_eq!(with_status(&pair.b, "cancelled").unwrap()["job"].to_string(), job);
    let dir = pair.b.dir.clone();
    pair.b.kill();
    pair.b = Node::start_with(&dir, &[&pair.a.peer], SLOWLY);
    assert_eq!(transfers(&pair.b), Vec::<Value>::new());
}

#[test]
fn a_pin_goes_on_by_itself_after_kill_9_as_the_same_job() {
    let mut pair = slow_pair();
    let mut pin = begin_pin(&pair.b, &pair.cid);
    let job = coming(&pair.b, "pin")["job"].clone();
    let dir = pair.b.dir.clone();
    pair.b.kill();
    assert!(!pin.wait().unwrap().success());
    pair.b = Node::start_with(&dir, &[&pair.a.peer], SLOWLY);
    assert_eq!(coming(&pair.b, "pin")["job"], job);
    let done = loop_until("it is whole", || with_status(&pair.b, "done"));
    assert_eq!(done["job"], job);
    let (status, _) = pair.a.terminate();
    assert_eq!(status, Some(0));
    assert!(pair.b.get(&format!("/ipfs/{}?download=true", pair.cid)).body == pair.bytes);
    let list = String::from_utf8(pair.b.run(&["ls", "--json"]).stdout).unwrap();
    assert!(list.contains("\"pinned\":true"), "{list}");
    assert_eq!(fs::read_to_string(dir.join("pinning")).unwrap(), "");
}
