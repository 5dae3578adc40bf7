//! A swarm of many engines, without sessions: how its time, its waste and its memory grow.
//!
//! `cargo test --release --test sim swarm_of -- --ignored --nocapture` prints CSV for 1,000
//! engines; `BARROW_SCALE_NODES=10000` sets another number.

use barrow::engine::{ConnId, Engine, EngineConfig, Input, JobId, Moment, Order, Output, Rng};
use barrow::{Cid, Codec, Multihash, PeerId};
use barrow_wire::{HashCode, Message, Presence};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    time::Duration,
};

const BLOCKS: usize = 100;
const BLOCK_BYTES: u32 = 64 << 10;
const NEIGHBOURS: usize = 20;
/// One node in so many has everything.
const SEEDER_EVERY: usize = 100;
const UPLOAD_BYTES_PER_SECOND: u64 = 5_000_000;
const DELAY_MIN: Duration = Duration::from_millis(5);
const DELAY_MAX: Duration = Duration::from_millis(50);
/// Length, kind and tag of a record, and the length and type of its frame.
const RECORD_BYTES: u64 = 2 + 1 + 16;
/// What announces a block: its frame's head, its hash and its length.
const BLOCK_FRAME_BYTES: u64 = 5 + Multihash::BYTES as u64 + 4;
const END: Moment = Moment(Duration::from_secs(3_600));

enum Event {
    Message {
        node: u32,
        conn: ConnId,
        message: Box<Message>,
    },
    Block {
        node: u32,
        conn: ConnId,
        block: u16,
    },
    /// The uplink has sent a block.
    Sent {
        node: u32,
    },
    Timer {
        node: u32,
    },
}

struct Node {
    engine: Engine,
    has: [bool; BLOCKS],
    lacks: usize,
    done_at: Option<Moment>,
    /// Blocks read and not sent, oldest first; the front is on its way.
    uplink: VecDeque<(ConnId, u16)>,
    /// The moment that its timer event is set for.
    timer: Option<Moment>,
}

/// One end of a connection.
#[derive(Clone, Copy)]
struct End {
    to: u32,
    delay: Duration,
}

struct Swarm {
    now: Moment,
    nodes: Vec<Node>,
    /// By the connection's number: an even one and the next are the two ends of one.
    ends: Vec<End>,
    queue: BinaryHeap<Reverse<(Moment, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    sequence: u64,
    hashes: Vec<Multihash>,
    numbers: HashMap<Multihash, u16>,
    left: usize,
    received: u64,
    duplicates: u64,
    control_bytes: u64,
    handled: u64,
}

impl Swarm {
    fn new(count: usize, seed: u64) -> Self {
        let hash = |n: usize| Multihash::of(HashCode::Sha2_256, &(n as u32).to_be_bytes());
        let hashes: Vec<_> = (0..BLOCKS).map(hash).collect();
        let numbers = hashes.iter().enumerate().map(|(n, hash)| (*hash, n as u16)).collect();
        let node = |n: usize| {
            let mut config = EngineConfig::new(peer(n), seed.wrapping_add(n as u64));
            config.connections_max = NEIGHBOURS * 4;
            let seeds = n.is_multiple_of(SEEDER_EVERY);
            Node {
                engine: Engine::new(config),
                has: [seeds; BLOCKS],
                lacks: if seeds { 0 } else { BLOCKS },
                done_at: None,
                uplink: VecDeque::new(),
                timer: None,
            }
        };
        let nodes: Vec<_> = (0..count).map(node).collect();
        let left = nodes.iter().filter(|node| node.lacks > 0).count();
        Self {
            now: Moment::default(),
            nodes,
            ends: Vec::new(),
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            sequence: 0,
            hashes,
            numbers,
            left,
            received: 0,
            duplicates: 0,
            control_bytes: 0,
            handled: 0,
        }
    }

    /// Connects everybody with about [`NEIGHBOURS`] others, and starts the downloads.
    fn start(&mut self, seed: u64) {
        let mut rng = Rng::new(seed);
        let count = self.nodes.len() as u64;
        for node in 0..count {
            for turn in 0..NEIGHBOURS as u64 / 2 {
                // The first keeps the swarm in one piece.
                let other = if turn == 0 { (node + 1) % count } else { rng.below(count) };
                if other != node {
                    let span = (DELAY_MAX - DELAY_MIN).as_nanos() as u64;
                    let delay = DELAY_MIN + Duration::from_nanos(rng.below(span));
                    self.connect(node as u32, other as u32, delay);
                }
            }
        }
        let root = Cid::v1(Codec::Raw, self.hashes[0]);
        for node in 0..self.nodes.len() {
            if self.nodes[node].lacks > 0 {
                let job = JobId(0);
                self.tell(node, Input::JobStarted { job, root, order: Order::Bulk });
                self.tell(node, Input::Want { job, blocks: self.hashes.clone() });
            }
        }
    }

    fn connect(&mut self, a: u32, b: u32, delay: Duration) {
        if self.nodes[a as usize].engine.is_connected(&peer(b as usize)) {
            return;
        }
        let number = self.ends.len() as u64;
        self.ends.extend([End { to: b, delay }, End { to: a, delay }]);
        for (node, other, conn) in [(a, b, number), (b, a, number + 1)] {
            let [_, x, y, z] = other.to_be_bytes();
            let remote = ([10, x, y, z], 4780).into();
            let (conn, peer) = (ConnId(conn), peer(other as usize));
            self.tell(node as usize, Input::Connected { conn, peer, remote, dialed: None });
        }
    }

    fn run(&mut self) {
        while self.left > 0 {
            let Reverse((at, _, slot)) = self.queue.pop().expect("somebody still waits");
            assert!(at < END, "{} nodes are not done", self.left);
            self.now = at;
            self.handled += 1;
            let event = self.events[slot].take().expect("it was put there");
            self.free.push(slot);
            self.step(event);
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Message { node, conn, message } => {
                self.tell(node as usize, Input::Received { conn, message: *message });
            }
            Event::Block { node, conn, block } => self.arrive(node as usize, conn, block),
            Event::Sent { node } => self.sent(node as usize),
            Event::Timer { node } => {
                let now = self.now;
                let here = &mut self.nodes[node as usize];
                if here.timer == Some(now) {
                    here.timer = None;
                }
                if here.engine.next_timeout().is_some_and(|at| at <= now) {
                    here.engine.handle_timeout(now);
                }
                self.act(node as usize);
            }
        }
    }

    fn after(&mut self, wait: Duration, event: Event) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[slot] = Some(event);
        self.sequence += 1;
        self.queue.push(Reverse((self.now.after(wait), self.sequence, slot)));
    }

    fn tell(&mut self, node: usize, input: Input) {
        self.nodes[node].engine.handle(self.now, input);
        self.act(node);
    }

    fn act(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].engine.poll_output() {
            match output {
                Output::Send { conn, message } => {
                    let mut bytes = Vec::new();
                    message.encode(&mut bytes);
                    self.control_bytes += bytes.len() as u64 + RECORD_BYTES;
                    let End { to, delay } = self.ends[conn.0 as usize];
                    let (conn, message) = (ConnId(conn.0 ^ 1), Box::new(message));
                    self.after(delay, Event::Message { node: to, conn, message });
                }
                Output::LookUp { conn, blocks } => self.look_up(node, conn, &blocks),
                Output::SendBlock { conn, hash } => {
                    let block = self.numbers[&hash];
                    self.nodes[node].uplink.push_back((conn, block));
                    if self.nodes[node].uplink.len() == 1 {
                        self.send_next(node);
                    }
                    let len = Some(BLOCK_BYTES);
                    self.tell(node, Input::BlockQueued { conn, hash, len });
                }
                Output::CancelBlock { conn, hash } => {
                    let item = (conn, self.numbers[&hash]);
                    let uplink = &mut self.nodes[node].uplink;
                    if let Some(at) = uplink.iter().skip(1).position(|queued| *queued == item) {
                        uplink.remove(at + 1);
                        self.tell(node, Input::BlockSent { conn, hash, len: 0 });
                    }
                }
                Output::Discover { job, .. } => self.tell(node, Input::DiscoveryDone { job }),
                Output::Connect { .. } | Output::Score { .. } => {}
                Output::Close { .. }
                | Output::Failed { .. }
                | Output::Ban { .. }
                | Output::Pay { .. }
                | Output::SlotTold { .. }
                | Output::Keep { .. } => {
                    panic!("{node} at {:?}: {output:?}", self.now);
                }
            }
        }
        let here = &mut self.nodes[node];
        if let Some(at) = here.engine.next_timeout()
            && here.timer.is_none_or(|set| at < set)
        {
            here.timer = Some(at);
            let wait = at.since(self.now);
            self.after(wait, Event::Timer { node: node as u32 });
        }
    }

    fn look_up(&mut self, node: usize, conn: ConnId, blocks: &[Multihash]) {
        let here = &self.nodes[node];
        let found = blocks.iter().map(|hash| {
            let number = usize::from(self.numbers[hash]);
            let presence = match (here.has[number], number == 0 && here.lacks == 0) {
                (false, _) => Presence::DontHave,
                (true, false) => Presence::Have { len: BLOCK_BYTES },
                (true, true) => Presence::Complete { len: BLOCK_BYTES },
            };
            (*hash, presence)
        });
        let found = found.collect();
        self.tell(node, Input::LookedUp { conn, found });
    }

    fn send_next(&mut self, node: usize) {
        if !self.nodes[node].uplink.is_empty() {
            let nanos = u64::from(BLOCK_BYTES) * 1_000_000_000 / UPLOAD_BYTES_PER_SECOND;
            self.after(Duration::from_nanos(nanos), Event::Sent { node: node as u32 });
        }
    }

    fn sent(&mut self, node: usize) {
        let (conn, block) = self.nodes[node].uplink.pop_front().expect("it was under way");
        let records = u64::from(BLOCK_BYTES).div_ceil(65_518);
        self.control_bytes += BLOCK_FRAME_BYTES + RECORD_BYTES * (1 + records);
        let End { to, delay } = self.ends[conn.0 as usize];
        self.after(delay, Event::Block { node: to, conn: ConnId(conn.0 ^ 1), block });
        self.send_next(node);
        let hash = self.hashes[usize::from(block)];
        self.tell(node, Input::BlockSent { conn, hash, len: BLOCK_BYTES });
    }

    fn arrive(&mut self, node: usize, conn: ConnId, block: u16) {
        let (hash, len) = (self.hashes[usize::from(block)], BLOCK_BYTES);
        self.received += 1;
        self.tell(node, Input::Progress { conn, bytes: len });
        let here = &mut self.nodes[node];
        let had = here.has[usize::from(block)];
        self.duplicates += u64::from(had);
        if !here.engine.expects(conn, &hash, len as usize) {
            assert!(had, "a block that is wanted is refused");
            return self.tell(node, Input::BlockRejected { conn, hash, len, wanted: false });
        }
        if !had {
            here.has[usize::from(block)] = true;
            here.lacks -= 1;
            if here.lacks == 0 {
                here.done_at = Some(self.now);
                self.left -= 1;
            }
        }
        self.tell(node, Input::BlockVerified { conn, hash, len });
    }
}

fn peer(n: usize) -> PeerId {
    let mut key = [1; 32];
    key[..8].copy_from_slice(&(n as u64).to_be_bytes());
    PeerId::from_public_key(key)
}

/// Bytes of this process in memory.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4_096
}

#[test]
#[ignore = "takes a while: cargo test --release --test sim swarm_of -- --ignored --nocapture"]
fn a_swarm_of_many_engines_stays_small_and_wastes_little() {
    let count = crate::number("BARROW_SCALE_NODES").unwrap_or(1_000) as usize;
    let began = std::time::Instant::now();
    let before = resident_bytes();
    let mut swarm = Swarm::new(count, 1);
    swarm.start(1);
    swarm.run();
    let bytes = (resident_bytes() - before) / count as u64;
    let mut done: Vec<_> = swarm.nodes.iter().filter_map(|node| node.done_at).collect();
    done.sort();
    let seconds = |at: Moment| at.0.as_secs_f64();
    let data = (swarm.received - swarm.duplicates) as f64 * f64::from(BLOCK_BYTES);
    println!(
        "nodes,blocks,median_s,last_s,received,duplicates,duplicates_percent,\
         control_per_data_byte,bytes_per_engine_and_events,events,wall_s"
    );
    println!(
        "{count},{BLOCKS},{:.2},{:.2},{},{},{:.3},{:.5},{bytes},{},{:.1}",
        seconds(done[done.len() / 2]),
        seconds(done[done.len() - 1]),
        swarm.received,
        swarm.duplicates,
        swarm.duplicates as f64 * 100.0 / swarm.received as f64,
        swarm.control_bytes as f64 / data,
        swarm.handled,
        began.elapsed().as_secs_f64(),
    );
}
