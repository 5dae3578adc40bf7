//! Scenes of whole swarms: what a seeder has to send, and what a peer costs that becomes slow.

use crate::crowds::{Crowd, Plan};
use barrow::engine::Moment;
use std::time::Duration;

/// One seeder whose upload is limited, and eight who fetch from it and from each other.
const SWARM: Plan = Plan {
    nodes: 9,
    seeds: |n| n == 0,
    blocks: 257,
    block_bytes: 1 << 20,
    neighbours: 9,
    upload_bytes_per_second: 300_000_000,
    seeder_limit_up: Some(50_000_000),
    limit_up: None,
    delay: (Duration::from_micros(100), Duration::from_micros(300)),
    socket_bytes: 2 << 20,
    work: Duration::from_millis(5),
    slowed: None,
};

#[test]
fn a_seeder_sends_little_more_than_one_copy_to_eight_who_share() {
    for seed in 1..=5 {
        let crowd = Crowd::run(SWARM, seed);
        let bytes = SWARM.blocks as f64 * f64::from(SWARM.block_bytes);
        let copies = crowd.nodes[0].bytes_sent as f64 / bytes;
        let time = crowd.ended() * 50e6 / bytes;
        let twice = crowd.duplicates as f64 * 100.0 / crowd.received as f64;
        println!("seed {seed}: {copies:.3} copies, {time:.3} × size ÷ limit, {twice:.2} % twice");
        assert!(copies < 1.25, "{copies} copies");
        assert!(time < 1.35, "{time} × size ÷ limit");
        assert!(twice < 2.0, "{twice} % came twice");
    }
}

/// Three peers of 100 Mbit/s who have everything, and one who fetches it.
const THREE: Plan = Plan {
    nodes: 4,
    seeds: |n| n < 3,
    blocks: 129,
    block_bytes: 1 << 20,
    neighbours: 4,
    upload_bytes_per_second: 12_500_000,
    seeder_limit_up: None,
    limit_up: None,
    delay: (Duration::from_millis(5), Duration::from_millis(5)),
    socket_bytes: 3 << 20,
    work: Duration::from_millis(3),
    slowed: None,
};

#[test]
fn a_peer_that_becomes_slow_costs_its_own_bandwidth_and_little_more() {
    for seed in 1..=5 {
        let whole = Crowd::run(THREE, seed).ended();
        for parts in [2, 3, 5, 10] {
            let at = whole * f64::from(parts - 1) / f64::from(parts);
            let slowed = Some((Moment::at(Duration::from_secs_f64(at)), 100));
            let time = Crowd::run(Plan { slowed, ..THREE }, seed).ended();
            let least = at + (whole - at) * 3.0 / 2.01;
            println!(
                "seed {seed}: {whole:.2} s; slowed at {at:.2}: {:.3} of {least:.2} s",
                time / least
            );
            assert!(time < least * 1.1, "{time} s of {least}");
        }
    }
}
