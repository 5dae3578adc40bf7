//! Paid downloads between real nodes, over kills of either.
//!
//! `BARROW_PAID_ROUNDS=50` sets how often one of the two is killed (6 by default).

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

use barrow::wire::{
    Event, HashCode, Identity, Message, Multihash, Session, SessionConfig, StaticKey, Suites,
    Voucher,
};
use node::{BARROW, Node, loop_until, make_file};
use serde_json::Value;
use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

const PRICE: u64 = 16;
/// What may be on its way when a connection breaks: what the seller reads ahead and both sockets
/// hold.
const IN_FLIGHT_BYTES_MAX: u64 = 8 << 20;
/// What may have been sent though it was no longer wanted, and is not paid.
const LATE_BYTES_MAX: u64 = 4 << 20;

fn seller(dir: &Path, credit: &str) -> Node {
    Node::start_with(dir, &[], &["--price", "16", "--credit", credit])
}

fn buyer(dir: &Path, seller: &Node, max_price: &str, budget: &str) -> Node {
    Node::start_with(dir, &[&seller.peer], &["--max-price", max_price, "--budget", budget])
}

/// What a node's ledger says of its only peer.
fn ledger(node: &Node) -> Value {
    let list = node.run(&["ledger", "--json"]);
    let text = String::from_utf8(list.stdout).unwrap();
    text.lines().next().map_or(Value::Null, |line| serde_json::from_str(line).unwrap())
}

fn paid(entry: &Value, key: &str) -> u64 {
    entry[key].as_u64().unwrap_or(0)
}

fn voucher(entry: &Value, key: &str) -> Voucher {
    let hex = entry[key]["bytes"].as_str().unwrap();
    let bytes: Vec<u8> =
        (0..144).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect();
    Voucher::from_bytes(&bytes.try_into().unwrap())
}

#[test]
fn a_paid_download_is_paid_by_vouchers_that_anyone_can_verify() {
    let dir = tempfile::tempdir().unwrap();
    let file = make_file(&dir.path().join("file"), 12 << 20, 5);
    let a = seller(&dir.path().join("a"), "64");
    let cid = a.put(&file);
    let b = buyer(&dir.path().join("b"), &a, "16", "1000");
    assert!(b.run(&["pin", &cid]).status.success());
    let (bought, sold) = loop_until("the last voucher is here", || {
        let (bought, sold) = (ledger(&b), ledger(&a));
        (paid(&bought, "paid_by_us") == paid(&sold, "paid_to_us")).then_some((bought, sold))
    });
    // Twelve blocks of a MiB, and the small one above them.
    assert_eq!(paid(&bought, "paid_by_us"), 12 * PRICE, "{bought}");
    assert!(bought["owed_by_us"].as_f64().unwrap() < 1.0, "{bought}");
    assert_eq!(bought["received"], sold["sent"], "{bought} {sold}");
    let proof = voucher(&sold, "voucher_received");
    let parties = [&bought["voucher_given"]["payer"], &bought["voucher_given"]["payee"]];
    let [payer, payee] = parties.map(|id| id.as_str().unwrap().parse().unwrap());
    assert_eq!(proof.verify(&payer, &payee), Ok(()));
    assert_eq!(proof, voucher(&bought, "voucher_given"));

    let id = b.peer.split('@').next().unwrap();
    assert!(a.run(&["ledger", "settle", id, "100"]).status.success());
    assert_eq!(paid(&ledger(&a), "to_settle"), 92);
    assert_eq!(a.run(&["ledger", "settle", id, "93"]).status.code(), Some(1));
    assert_eq!(a.run(&["ledger", "settle", id, "x"]).status.code(), Some(2));
}

#[test]
fn nobody_pays_more_than_was_agreed_to() {
    let dir = tempfile::tempdir().unwrap();
    let file = make_file(&dir.path().join("file"), 12 << 20, 5);
    let a = seller(&dir.path().join("a"), "64");
    let cid = a.put(&file);
    for (name, max_price, budget, most) in [("dear", "15", "1000", 0), ("poor", "16", "50", 50)] {
        let b = buyer(&dir.path().join(name), &a, max_price, budget);
        let pin = b.run(&["pin", &cid]);
        assert_eq!(pin.status.code(), Some(1), "{pin:?}");
        let told = String::from_utf8(pin.stderr).unwrap();
        assert!(told.contains("cost"), "{told}");
        assert!(paid(&ledger(&b), "paid_by_us") <= most, "{}", ledger(&b));
    }
}

/// The same file as parts of a protected dataset, which take many questions to get.
fn protect(node: &Node, cid: &str) -> String {
    let told = node.run(&["protect", "--data", "4", "--parity", "2", cid]);
    assert!(told.status.success(), "{told:?}");
    String::from_utf8(told.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_protected_dataset_costs_no_more_than_the_budget_of_one_download() {
    let dir = tempfile::tempdir().unwrap();
    let file = make_file(&dir.path().join("file"), 12 << 20, 5);
    let a = seller(&dir.path().join("a"), "64");
    let cid = protect(&a, &a.put(&file));
    for (name, read) in [("reads", true), ("keeps", false)] {
        let b = buyer(&dir.path().join(name), &a, "16", "40");
        let told = match read {
            true => b.run(&["get", &cid, "-o", "/dev/null"]),
            false => b.run(&["pin", &cid]),
        };
        assert_eq!(told.status.code(), Some(1), "{told:?}");
        let spent = paid(&ledger(&b), "paid_by_us");
        assert!((PRICE..=40).contains(&spent), "{name}: {spent} of 40");
    }
}

#[test]
fn a_pin_that_goes_on_after_a_kill_has_what_is_left_of_its_budget() {
    let dir = tempfile::tempdir().unwrap();
    let file = make_file(&dir.path().join("file"), 12 << 20, 5);
    let a_dir = dir.path().join("a");
    let slowly = &["--price", "16", "--limit-up", "4MiB"];
    let a = Node::start_with(&a_dir, &[], slowly);
    let plain = a.put(&file);
    let protected = protect(&a, &plain);
    for (name, cid) in [("plain", plain), ("protected", protected)] {
        go_on_after_a_kill(&dir.path().join(name), &a, &cid);
    }
}

/// All of it costs 192, or half as much again with its parity.
fn go_on_after_a_kill(b_dir: &Path, a: &Node, cid: &str) {
    let mut b = buyer(b_dir, a, "16", "112");
    let mut first = pin(b_dir, cid);
    loop_until("a third is bought", || (paid(&ledger(&b), "paid_by_us") >= 64).then_some(()));
    b.kill();
    let _ = first.kill();
    let _ = first.wait();
    b = buyer(b_dir, a, "16", "112");
    let ended = loop_until("it ends", || {
        let told: Value = serde_json::from_slice(&b.get("/api/v1/transfers").body).unwrap();
        let pin = told["transfers"].as_array().unwrap().first().cloned();
        pin.filter(|pin| !["active", "waiting"].contains(&pin["status"].as_str().unwrap()))
    });
    assert!(ended.to_string().contains("costs more"), "{ended}");
    let spent = paid(&ledger(&b), "paid_by_us");
    // A block that had come and was not noted yet is all that may be beyond it. Anew, the budget
    // would be enough for more than half of the file once more.
    assert!((64..=112 + PRICE).contains(&spent), "{spent} of 112");
}

#[test]
fn without_a_voucher_a_seller_stops_at_its_credit() {
    let dir = tempfile::tempdir().unwrap();
    let file = make_file(&dir.path().join("file"), 12 << 20, 5);
    let a = seller(&dir.path().join("a"), "40");
    let cid = a.put(&file);
    // One that wants all blocks without ever having heard of the price pays for none.
    assert!(!cid.is_empty());
    let got = cheat(&a.peer, &std::fs::read(&file).unwrap());
    // A block whose length was not looked up counts as the longest until it is read.
    assert!((1 << 20..=5 << 19).contains(&got), "{got} bytes on a credit of 2.5 MiB");
}

/// Wants all leaves of a file, says nothing of money, and gives the bytes of blocks that came.
fn cheat(peer: &str, file: &[u8]) -> usize {
    let address = peer.split('@').nth(1).unwrap();
    let identity = Identity::from_seed([77; 32]);
    let key = StaticKey::generate(&identity);
    let config = SessionConfig {
        static_key: &key,
        swarm_key: None,
        expected: None,
        suites: Suites::default(),
    };
    let mut session: Session<Vec<u8>> = Session::initiator(&config);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let leaves = file.chunks(1 << 20).map(|leaf| Multihash::of(HashCode::Sha2_256, leaf));
    let leaves: Vec<_> = leaves.collect();
    let (mut input, mut kept, mut got) = (vec![0; 256 << 10], 0, 0);
    loop {
        let mut output = Vec::new();
        while session.wants_transmit() {
            session.transmit(&mut output, 64 << 10).unwrap();
        }
        stream.write_all(&output).unwrap();
        let Ok(read) = stream.read(&mut input[kept..]) else { return got };
        let end = kept + read;
        let mut rest = &input[..end];
        while let Some(event) = session.receive(&mut rest).unwrap() {
            match event {
                Event::Established { .. } => {
                    session.send(&Message::Hello { listen_port: 0, agent: "cheat".into() });
                    session.send(&Message::WantBlock { blocks: leaves.clone() });
                }
                Event::BlockComing { .. } => session.skip_block(),
                Event::BlockSkipped { len, .. } => got += len,
                _ => {}
            }
        }
        kept = rest.len();
        input.copy_within(end - kept..end, 0);
    }
}

/// Starts a download that goes on while something is killed.
fn pin(dir: &Path, cid: &str) -> Child {
    let mut command = Command::new(BARROW);
    command.arg("--data-dir").arg(dir).args(["pin", cid]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn kills_lose_no_voucher_and_no_more_than_what_was_in_flight() {
    let rounds = std::env::var("BARROW_PAID_ROUNDS").map_or(6, |rounds| rounds.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let [a_dir, b_dir] = ["a", "b"].map(|name| dir.path().join(name));
    let bytes = 32 << 20;
    // A port that outlives a restart.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    // No faster than the buyer takes it, whatever the kernel lets sockets hold; and so slowly that
    // each kill comes before the end.
    let terms = ["--price", "16", "--credit", "128", "--limit-up", "96MiB"];
    let sell = || Node::start_with(&a_dir, &[], &[&["--listen", &free[..]], &terms[..]].concat());
    let buy = || Node::start_with(&b_dir, &[&free], &["--max-price", "16", "--budget", "2000"]);
    let (mut a, mut b) = (sell(), buy());
    let mut chance = 11_u64;
    let mut worth = 0;
    let gap = |bought: &Value, sold: &Value| {
        let owed = |entry: &Value, key: &str| entry[key].as_f64().unwrap_or(0.0);
        (owed(sold, "owed_to_us") - owed(bought, "owed_by_us")).abs()
    };
    let (mut worst, mut worst_at_rest) = (0.0_f64, 0.0_f64);
    for round in 0..rounds {
        let cid = a.put(&make_file(&dir.path().join("file"), bytes, 100 + round));
        worth += (bytes >> 20) * PRICE + 1;
        let mut first = pin(&b_dir, &cid);
        chance =
            chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        thread::sleep(Duration::from_millis(chance >> 32 & 255));
        if chance >> 60 & 1 == 0 {
            a.kill();
            a = sell();
        } else {
            b.kill();
            // Without the node it would open the store itself.
            let _ = first.kill();
            let _ = first.wait();
            b = buy();
        }
        let _ = first.kill();
        let _ = first.wait();
        let agreed = || {
            loop_until("both agree on what is paid", || {
                let (bought, sold) = (ledger(&b), ledger(&a));
                (paid(&bought, "paid_by_us") == paid(&sold, "paid_to_us")).then_some((bought, sold))
            })
        };
        // The pin goes on meanwhile.
        let (bought, sold) = agreed();
        worst = worst.max(gap(&bought, &sold));
        let most = ((IN_FLIGHT_BYTES_MAX * PRICE) >> 20) as f64;
        assert!(worst <= most, "round {round}: {bought} {sold}");
        let rest = b.run(&["pin", &cid]);
        assert!(rest.status.success(), "round {round}: {rest:?} {bought} {sold}");
        // What was lost on the way is no debt any more, but for blocks that came too late.
        let (bought, sold) = agreed();
        worst_at_rest = worst_at_rest.max(gap(&bought, &sold));
        let most = ((LATE_BYTES_MAX * PRICE) >> 20) as f64;
        assert!(worst_at_rest <= most, "round {round}, at rest: {bought} {sold}");
    }
    let paid = paid(&ledger(&b), "paid_by_us");
    eprintln!(
        "{rounds} rounds: paid {paid} for {worth}; owed differed by {worst} at most while blocks \
         were on their way, and by {worst_at_rest} when all had come"
    );
    // What a kill takes out of memory is bought anew.
    assert!(paid <= worth + ((rounds * IN_FLIGHT_BYTES_MAX * PRICE) >> 20), "{paid} for {worth}");
}
