//! Twenty real processes beside the simulation of the same twenty, so that what the simulator says
//! of a thousand can be believed.

use crate::{
    common::is_smoke,
    crowds::{Crowd, Plan},
    knows,
    node::Node,
    pin,
};
use barrow::{
    Codec,
    data::{
        car::{encode_block_head, encode_header},
        unixfs::{FileBuilder, Leaf, Profile},
    },
};
use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// Bytes a second that each node may send: so little that not the two cores of a small machine
/// but the network of the nodes is what bounds.
const LIMIT_UP: u64 = 1_000_000;
/// The swarm of `tests/scale.rs`, of which the first of each hundred has everything. Loopback
/// is as near and wide as there; what hashing takes was taken from there as well. All of it was
/// fixed before the two were compared.
const PLAN: Plan = Plan {
    nodes: 20,
    seeds: |n| n.is_multiple_of(100),
    blocks: 100,
    block_bytes: 64 << 10,
    neighbours: 20,
    upload_bytes_per_second: 300_000_000,
    seeder_limit_up: Some(LIMIT_UP),
    limit_up: Some(LIMIT_UP),
    delay: (Duration::from_micros(100), Duration::from_micros(300)),
    socket_bytes: 2 << 20,
    work: Duration::from_millis(5),
    slowed: None,
};

/// When half of the downloaders, and when all of them had everything, in seconds.
type Times = (f64, f64);

pub fn processes(dir: &Path) {
    let rounds = if is_smoke() { 1 } else { 5 };
    let real = (0..rounds).map(|round| real(&dir.join(round.to_string()), round));
    let real = median(real.collect());
    let simulated = median((0..rounds).map(simulated).collect());
    let data = PLAN.blocks as f64 * f64::from(PLAN.block_bytes) / LIMIT_UP as f64;
    println!("nodes,limit_up,size_over_limit_s,of,median_s,last_s");
    for (of, (half, last)) in [("processes", real), ("simulated", simulated)] {
        println!("{},{LIMIT_UP},{data:.2},{of},{half:.2},{last:.2}", PLAN.nodes);
    }
    println!(
        "processes ÷ simulated: {:.3} of the last (bound 0.8-1.2), {:.3} of the median node",
        real.1 / simulated.1,
        real.0 / simulated.0,
    );
}

/// The round in the middle, by its end.
fn median(mut times: Vec<Times>) -> Times {
    times.sort_by(|a, b| a.1.total_cmp(&b.1));
    times[times.len() / 2]
}

fn simulated(round: u64) -> Times {
    let crowd = Crowd::run(PLAN, round + 1);
    let done = crowd.done();
    (done[done.len() / 2].time().as_secs_f64(), crowd.ended())
}

fn real(dir: &Path, round: u64) -> Times {
    fs::create_dir_all(dir).unwrap();
    let limit = LIMIT_UP.to_string();
    let mut nodes: Vec<Node> = Vec::new();
    for n in 0..PLAN.nodes {
        let known: Vec<&str> = nodes.iter().map(|node| &node.peer[..]).collect();
        nodes.push(Node::start_with(&dir.join(n.to_string()), &known, &["--limit-up", &limit]));
    }
    let (car, root) = make_car(dir, round);
    let put = nodes[0].run(&["import", car.to_str().unwrap()]);
    assert!(put.status.success(), "{put:?}");
    nodes.iter().for_each(|node| knows(node, PLAN.nodes as u64 - 1));

    let since = Instant::now();
    let mut done: Vec<f64> = thread::scope(|scope| {
        let pins = nodes[1..].iter().map(|node| {
            scope.spawn(|| {
                pin(node, &root);
                since.elapsed().as_secs_f64()
            })
        });
        let pins: Vec<_> = pins.collect();
        pins.into_iter().map(|pin| pin.join().unwrap()).collect()
    });
    done.sort_by(f64::total_cmp);
    (done[done.len() / 2], done[done.len() - 1])
}

/// A file of the plan's blocks, which are of another length than those of `put`, and its root.
fn make_car(dir: &Path, stamp: u64) -> (PathBuf, String) {
    let profile = Profile::UnixfsV1_2025;
    let mut builder = FileBuilder::new(profile);
    let mut blocks = Vec::new();
    for n in 0..PLAN.blocks as u64 {
        let mut chunk = vec![0; PLAN.block_bytes as usize];
        chunk[..8].copy_from_slice(&n.to_be_bytes());
        chunk[8..16].copy_from_slice(&stamp.to_be_bytes());
        let (leaf, block) = Leaf::of_chunk(profile, chunk.into()).unwrap();
        blocks.push((leaf.cid, block));
        builder.push(leaf, &mut |_| panic!("all links fit one node")).unwrap();
    }
    let mut top = Vec::new();
    let root = builder.finish(&mut |block| top.push(block)).unwrap().cid;
    assert_eq!(root.codec(), Codec::DagPb);
    blocks.extend(top.into_iter().map(|block| (root, block)));
    let mut car = encode_header(&[root]).unwrap();
    for (cid, block) in blocks {
        car.extend(encode_block_head(&cid, block.len()));
        car.extend_from_slice(block.data());
    }
    let path = dir.join("file.car");
    fs::write(&path, car).unwrap();
    (path, root.to_string())
}
