//! How a swarm goes with its size: its time and waste, and what each node of it holds besides blocks:
//! its engine, and a session with each neighbour. A program of its own, for it counts every allocation
//! of the process. Prints CSV.
//!
//! `BARROW_SCALE_NODES=1000 cargo test --release --test scale -- --include-ignored --nocapture`

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

#[path = "../wire/tests/common/counting.rs"]
mod counting;
#[path = "sim/crowds.rs"]
mod crowds;

use barrow::engine::Moment;
use barrow::{Identity, Multihash};
use barrow_wire::{
    Event, HashCode, Message, Session, SessionConfig, StaticKey, Suites,
    limits::BLOCK_BUFFER_SLACK_BYTES,
};
use bytes::Bytes;
use counting::LIVE_BYTES;
use crowds::{Crowd, Plan};
use std::{
    env,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

/// Of an engine with 20 neighbours and 100 wants.
const ENGINE_BYTES_MAX: usize = 100_000;

/// Many nodes of home connections, one in a hundred with everything.
const SCALE: Plan = Plan {
    nodes: 1_000,
    seeds: |n| n.is_multiple_of(100),
    blocks: 100,
    block_bytes: 64 << 10,
    neighbours: 20,
    upload_bytes_per_second: 5_000_000,
    seeder_limit_up: None,
    limit_up: None,
    delay: (Duration::from_millis(5), Duration::from_millis(50)),
    socket_bytes: 0,
    work: Duration::ZERO,
    slowed: None,
};

fn nodes(default: usize) -> usize {
    env::var("BARROW_SCALE_NODES").map_or(default, |text| text.parse().unwrap())
}

#[test]
fn an_engine_and_its_idle_sessions_are_small() {
    let nodes = nodes(100);
    let session = session_bytes();
    println!("nodes,moment_ms,bytes_per_engine,bytes_per_idle_session");
    // From the first questions to where a third of all is there, at which it is largest.
    for moment in [0, 100, 300, 500, 700, 900].map(Duration::from_millis) {
        let engine = engine_bytes(nodes, moment);
        println!("{nodes},{},{engine},{session}", moment.as_millis());
        assert!(engine <= ENGINE_BYTES_MAX, "{engine} bytes at {moment:?}");
    }
}

/// Bytes that `work` gave back.
fn freed(work: impl FnOnce()) -> usize {
    let before = LIVE_BYTES.load(Relaxed);
    work();
    before - LIVE_BYTES.load(Relaxed)
}

/// Of an engine, at a moment of a download from many who share.
fn engine_bytes(nodes: usize, moment: Duration) -> usize {
    let crowd = Crowd::until(Plan { nodes, ..SCALE }, 1, Moment::at(moment));
    let engines: Vec<_> = crowd.nodes.into_iter().map(|node| node.engine).collect();
    freed(|| drop(engines)) / nodes
}

/// Of one end of a connection on which there were messages and a block both ways.
fn session_bytes() -> usize {
    let keys = [1, 2].map(|n| StaticKey::generate(&Identity::from_seed([n; 32])));
    let config = |n: usize| SessionConfig {
        static_key: &keys[n],
        swarm_key: None,
        expected: None,
        suites: Suites::default(),
    };
    let mut ends =
        [Session::<Vec<u8>>::initiator(&config(0)), Session::<Vec<u8>>::responder(&config(1))];
    let data = vec![7; SCALE.block_bytes as usize];
    let hash = Multihash::of(HashCode::Sha2_256, &data);
    for end in &mut ends {
        end.send(&Message::Hello { listen_port: 4_780, agent: "example/1".into() });
        end.send(&Message::WantHave { inline: true, blocks: vec![hash; 100] });
    }
    let (mut blocks, mut rounds) = (0, 0);
    while blocks < 2 {
        rounds += 1;
        assert!(rounds < 1_000, "{blocks} blocks came");
        let mut wire = Vec::new();
        ends[0].transmit(&mut wire, 1 << 16).unwrap();
        let mut wire = &wire[..];
        while let Some(event) = ends[1].receive(&mut wire).unwrap() {
            match event {
                Event::BlockComing { len, .. } => {
                    ends[1].accept_block(vec![0; len + BLOCK_BUFFER_SLACK_BYTES])
                }
                Event::Message(Message::WantHave { .. }) => {
                    ends[1].send_block(hash, Bytes::from(data.clone()));
                }
                Event::Block { .. } => blocks += 1,
                Event::Established { .. } | Event::Message(_) | Event::BlockSkipped { .. } => {}
            }
        }
        ends.swap(0, 1);
    }
    freed(|| drop(ends)) / 2 + size_of::<Session<Vec<u8>>>()
}

#[test]
#[ignore = "takes half a minute for 1,000 nodes: BARROW_SCALE_NODES sets another number"]
fn a_swarm_of_many_wastes_little_and_ends_no_later_than_a_small_one() {
    let small = Crowd::run(Plan { nodes: 100, ..SCALE }, 1);
    let began = Instant::now();
    let nodes = nodes(1_000);
    let crowd = Crowd::run(Plan { nodes, ..SCALE }, 1);
    let done = crowd.done();
    let data = (crowd.received - crowd.duplicates) as f64 * f64::from(SCALE.block_bytes);
    let twice = crowd.duplicates as f64 * 100.0 / crowd.received as f64;
    let seeds = crowd.nodes.iter().step_by(100).map(|node| node.bytes_sent).sum::<u64>();
    println!(
        "nodes,blocks,median_s,last_s,received,duplicates,duplicates_percent,\
         control_per_data_byte,sent_by_seeders,events,wall_s"
    );
    println!(
        "{nodes},{},{:.2},{:.2},{},{},{twice:.3},{:.5},{:.3},{},{:.1}",
        SCALE.blocks,
        done[done.len() / 2].time().as_secs_f64(),
        crowd.ended(),
        crowd.received,
        crowd.duplicates,
        crowd.control_bytes as f64 / data,
        seeds as f64 / data,
        crowd.handled,
        began.elapsed().as_secs_f64(),
    );
    assert!(twice < 3.0, "{twice} % came twice");
    assert!(crowd.ended() < small.ended() * 1.25, "{} s", crowd.ended());
}
