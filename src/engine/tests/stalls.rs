//! Peers that stall and come back.

use super::*;
use crate::peers::Peer;

/// Time passes, and a peer that sends no block answers pings.
fn pass_alive(bench: &mut Bench, conn: ConnId, seconds: u64) -> Vec<Output> {
    let mut said = Vec::new();
    for _ in 0..seconds {
        said.extend(bench.pass(Duration::from_secs(1)));
        said.extend(bench.hear(conn, Message::Pong { nonce: 0 }));
    }
    said
}

/// A block is wanted that a peer has.
fn wanted_of(bench: &mut Bench, conn: ConnId, block: u32) -> Vec<Output> {
    let mut said = bench.want(&[block]);
    said.extend(bench.presence(conn, &[(block, HAVE)]));
    said
}

/// It stalls with a block that another one delivers in its place, and then that one leaves.
fn stall(bench: &mut Bench, stalling: ConnId, block: u32) {
    assert_eq!(asked(&wanted_of(bench, stalling, block), stalling), [block]);
    pass_alive(bench, stalling, 3);
    let (other, _) = bench.connect(2);
    let mut said = bench.presence(other, &[(block, HAVE)]);
    said.extend(pass_alive(bench, stalling, 1));
    assert_eq!(asked(&said, other), [block], "the other takes its place");
    bench.deliver(other, block, 65_536);
    bench.tell(Input::Disconnected { conn: other, reason: CloseReason::Remote(String::new()) });
}

#[test]
fn a_peer_that_stalled_is_asked_again_after_a_rest() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    bench.start(Order::Sequential);
    stall(&mut bench, a, 1);
    let said = wanted_of(&mut bench, a, 2);
    assert!(asked(&said, a).is_empty(), "it has not rested");
    let said = pass_alive(&mut bench, a, 5);
    assert_eq!(asked(&said, a), [2]);
    // It delivers, so that it is one like any other.
    bench.deliver(a, 2, 65_536);
    stall(&mut bench, a, 3);
    wanted_of(&mut bench, a, 4);
    assert_eq!(asked(&pass_alive(&mut bench, a, 5), a), [4]);
}

#[test]
fn a_peer_that_stalls_again_and_again_rests_longer() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    bench.start(Order::Sequential);
    let mut rests: Vec<u32> = Vec::new();
    for block in 1..=5 {
        stall(&mut bench, a, block);
        let rest = (1..).find(|_| {
            pass_alive(&mut bench, a, 1);
            let said = wanted_of(&mut bench, a, 100);
            bench.tell(Input::Unwant { job: JobId(1), blocks: vec![hash(100)] });
            asked(&said, a) == [100]
        });
        rests.extend(rest);
    }
    assert!(rests.is_sorted() && rests[0] <= 5 && (20..=60).contains(&rests[4]), "{rests:?}");
}

#[test]
fn one_that_stalled_comes_behind_one_that_was_never_tried_also_when_it_comes_back() {
    let left = || CloseReason::Remote(String::new());
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    bench.start(Order::Sequential);
    stall(&mut bench, a, 1);
    bench.tell(Input::Disconnected { conn: a, reason: left() });
    let (a, _) = bench.connect(1);
    assert_eq!(asked(&wanted_of(&mut bench, a, 2), a), [2], "it is not waited with if it is alone");
    bench.tell(Input::Unwant { job: JobId(1), blocks: vec![hash(2)] });
    // A third one has the block and leaves, so that either of them is to take its place.
    let [(b, _), (c, _)] = [bench.connect(3), bench.connect(4)];
    assert_eq!(asked(&wanted_of(&mut bench, c, 3), c), [3]);
    bench.presence(a, &[(3, HAVE)]);
    bench.presence(b, &[(3, HAVE)]);
    let said = bench.tell(Input::Disconnected { conn: c, reason: left() });
    assert_eq!((asked(&said, a), asked(&said, b)), (vec![], vec![3]));
    // It delivers, so that it is one like any other.
    bench.tell(Input::Disconnected { conn: b, reason: left() });
    bench.deliver(a, 3, 65_536);
    assert_eq!(bench.engine.peers.get(a).map(Peer::stall_cost), Some(Duration::ZERO));
}
