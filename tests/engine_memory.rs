//! What a node of a swarm holds besides blocks: its engine, and a session with each neighbour. A
//! program of its own, for it counts every allocation of the process.
//!
//! `BARROW_SCALE_NODES=1000 cargo test --release --test engine_memory -- --nocapture` prints it of
//! 1,000 engines.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

#[path = "../wire/tests/common/counting.rs"]
mod counting;
#[allow(dead_code, reason = "the simulation uses more of it")]
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
use crowds::{Crowd, Plan, SCALE};
use std::{env, sync::atomic::Ordering::Relaxed, time::Duration};

/// Of an engine with 20 neighbours and 100 wants, and of it with a session for each neighbour.
const ENGINE_BYTES_MAX: usize = 100_000;

#[test]
fn an_engine_and_its_idle_sessions_are_small() {
    let nodes = env::var("BARROW_SCALE_NODES").map_or(100, |text| text.parse().unwrap());
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
    let crowd = Crowd::until(Plan { nodes, ..SCALE }, 1, Moment(moment));
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
    freed(|| drop(ends)) / 2
}
