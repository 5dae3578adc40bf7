//! Many engines without sessions, and between them a network of uplinks, delays and sockets:
//! what a scene needs to tell how a swarm's time, waste and memory go.

use barrow::engine::{
    ConnId, Engine, EngineConfig, Input, JobId, Moment, Order, Output, PurseId, Rng,
};
use barrow::{Cid, Codec, Multihash, PeerId};
use barrow_wire::{HashCode, Message, Presence};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    time::Duration,
};

/// A long block goes over an uplink in pieces of so many bytes, each of which is seen to come.
const PIECE_BYTES: u32 = 64 << 10;
/// Length, kind and tag of a record, and the length and type of its frame.
const RECORD_BYTES: u64 = 2 + 1 + 16;
/// What announces a block: its frame's head, its hash and its length.
const BLOCK_FRAME_BYTES: u64 = 5 + Multihash::BYTES as u64 + 4;
const END: Moment = Moment::at(Duration::from_secs(3_600));

/// What a scene is made of.
#[derive(Clone, Copy)]
pub struct Plan {
    pub nodes: usize,
    /// Who has everything from the start.
    pub seeds: fn(usize) -> bool,
    pub blocks: usize,
    pub block_bytes: u32,
    /// Connections of a node, about; as many as there are nodes, and all know all.
    pub neighbours: usize,
    /// What an uplink carries.
    pub upload_bytes_per_second: u64,
    /// What the engine of a seeder, and of all others, is told to keep to.
    pub seeder_limit_up: Option<u64>,
    pub limit_up: Option<u64>,
    /// The way between two nodes.
    pub delay: (Duration, Duration),
    /// What a node's sockets take in before it is sent, and nobody takes back.
    pub socket_bytes: u32,
    /// What hashing a block and hearing of it takes.
    pub work: Duration,
    /// From then on the first node's uplink is so many times slower.
    pub slowed: Option<(Moment, u64)>,
}

enum Event {
    Message {
        node: u32,
        conn: ConnId,
        message: Box<Message>,
    },
    /// A piece of a block arrives, the last one with all of it.
    Piece {
        node: u32,
        conn: ConnId,
        block: u16,
        bytes: u32,
        last: bool,
    },
    Verified {
        node: u32,
        conn: ConnId,
        block: u16,
    },
    /// The uplink has sent a piece.
    Sent {
        node: u32,
    },
    Timer {
        node: u32,
    },
}

pub struct Node {
    pub engine: Engine,
    has: Vec<bool>,
    lacks: usize,
    pub done_at: Option<Moment>,
    /// Blocks read and not given to a socket, oldest first.
    queue: VecDeque<(ConnId, u16)>,
    /// Blocks in sockets, the first one being sent, with its bytes that went.
    socket: VecDeque<(ConnId, u16)>,
    went: u32,
    pub bytes_sent: u64,
    /// The moment that its timer event is set for.
    timer: Option<Moment>,
}

/// One end of a connection.
#[derive(Clone, Copy)]
struct End {
    to: u32,
    delay: Duration,
}

pub struct Crowd {
    plan: Plan,
    now: Moment,
    pub nodes: Vec<Node>,
    /// By the connection's number: an even one and the next are the two ends of one.
    ends: Vec<End>,
    queue: BinaryHeap<Reverse<(Moment, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    sequence: u64,
    hashes: Vec<Multihash>,
    numbers: HashMap<Multihash, u16>,
    left: usize,
    pub received: u64,
    pub duplicates: u64,
    pub control_bytes: u64,
    pub handled: u64,
}

impl Crowd {
    /// Runs a plan until everybody has everything.
    pub fn run(plan: Plan, seed: u64) -> Self {
        Self::until(plan, seed, END)
    }

    /// Runs a plan until then, or until everybody has everything.
    pub fn until(plan: Plan, seed: u64, end: Moment) -> Self {
        let mut crowd = Self::new(plan, seed);
        crowd.start(seed);
        while crowd.left > 0 {
            let Reverse((at, _, slot)) = crowd.queue.pop().expect("somebody still waits");
            if at >= end {
                break;
            }
            crowd.now = at;
            crowd.handled += 1;
            let event = crowd.events[slot].take().expect("it was put there");
            crowd.free.push(slot);
            crowd.step(event);
        }
        assert!(end < END || crowd.left == 0, "{} nodes are not done", crowd.left);
        crowd
    }

    fn new(plan: Plan, seed: u64) -> Self {
        let hash = |n: usize| Multihash::of(HashCode::Sha2_256, &(n as u32).to_be_bytes());
        let hashes: Vec<_> = (0..plan.blocks).map(hash).collect();
        let numbers = hashes.iter().enumerate().map(|(n, hash)| (*hash, n as u16)).collect();
        let node = |n: usize| {
            let mut config = EngineConfig::new(peer(n), seed.wrapping_add(n as u64));
            config.connections_max = plan.neighbours * 4;
            config.inflight_bytes_max = 8 << 20;
            let seeds = (plan.seeds)(n);
            config.limit_up = if seeds { plan.seeder_limit_up } else { plan.limit_up };
            Node {
                engine: Engine::new(config),
                has: vec![seeds; plan.blocks],
                lacks: if seeds { 0 } else { plan.blocks },
                done_at: None,
                queue: VecDeque::new(),
                socket: VecDeque::new(),
                went: 0,
                bytes_sent: 0,
                timer: None,
            }
        };
        let nodes: Vec<_> = (0..plan.nodes).map(node).collect();
        let left = nodes.iter().filter(|node| node.lacks > 0).count();
        Self {
            plan,
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

    /// When the last node had everything.
    pub fn ended(&self) -> f64 {
        self.done().last().expect("somebody fetched something").time().as_secs_f64()
    }

    /// When each had everything.
    pub fn done(&self) -> Vec<Moment> {
        let mut done: Vec<_> = self.nodes.iter().filter_map(|node| node.done_at).collect();
        done.sort();
        done
    }

    /// Connects everybody with about as many others as is planned, and starts the downloads.
    fn start(&mut self, seed: u64) {
        let mut rng = Rng::new(seed);
        let count = self.nodes.len() as u64;
        let all = self.plan.neighbours >= self.nodes.len();
        for node in 0..count {
            let turns = if all { count } else { self.plan.neighbours as u64 / 2 };
            for turn in 0..turns {
                let other = match (all, turn) {
                    (true, _) => turn,
                    // The first keeps the swarm in one piece.
                    (false, 0) => (node + 1) % count,
                    (false, _) => rng.below(count),
                };
                if other != node {
                    let (min, max) = self.plan.delay;
                    let span = (max - min).as_nanos() as u64 + 1;
                    let delay = min + Duration::from_nanos(rng.below(span));
                    self.connect(node as u32, other as u32, delay);
                }
            }
        }
        let root = Cid::v1(Codec::Raw, self.hashes[0]);
        for node in 0..self.nodes.len() {
            if self.nodes[node].lacks > 0 {
                let (job, order, purse) = (JobId(0), Order::Bulk, PurseId(0));
                self.tell(node, Input::JobStarted { job, root, order, purse });
                self.tell(node, Input::Want { job, blocks: self.hashes.clone() });
            }
        }
    }

    fn connect(&mut self, a: u32, b: u32, delay: Duration) {
        if self.nodes[a as usize].engine.is_connected(&peer(b as usize)) {
            return;
        }
        let number = self.ends.len() as u32;
        self.ends.extend([End { to: b, delay }, End { to: a, delay }]);
        for (node, other, conn) in [(a, b, number), (b, a, number + 1)] {
            let [_, x, y, z] = other.to_be_bytes();
            let remote = ([10, x, y, z], 4780).into();
            let (conn, peer) = (ConnId(conn), peer(other as usize));
            self.tell(node as usize, Input::Connected { conn, peer, remote, dialed: None });
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Message { node, conn, message } => {
                self.tell(node as usize, Input::Received { conn, message: *message });
            }
            Event::Piece { node, conn, block, bytes, last } => {
                self.tell(node as usize, Input::Progress { conn, bytes });
                if last {
                    let work = self.plan.work;
                    self.arrive(node as usize, conn, block, work);
                }
            }
            Event::Verified { node, conn, block } => self.verified(node as usize, conn, block),
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
                    self.nodes[node].queue.push_back((conn, block));
                    let len = Some(self.plan.block_bytes);
                    self.tell(node, Input::BlockQueued { conn, hash, len });
                    self.fill_socket(node);
                }
                Output::CancelBlock { conn, hash } => {
                    let item = (conn, self.numbers[&hash]);
                    let queue = &mut self.nodes[node].queue;
                    if let Some(at) = queue.iter().position(|queued| *queued == item) {
                        queue.remove(at);
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
        let (here, len) = (&self.nodes[node], self.plan.block_bytes);
        let found = blocks.iter().map(|hash| {
            let number = usize::from(self.numbers[hash]);
            let presence = match (here.has[number], number == 0 && here.lacks == 0) {
                (false, _) => Presence::DontHave,
                (true, false) => Presence::Have { len },
                (true, true) => Presence::Complete { len },
            };
            (*hash, presence)
        });
        let found = found.collect();
        self.tell(node, Input::LookedUp { conn, found });
    }

    /// Gives blocks to the sockets as long as they take them: then they count as sent.
    fn fill_socket(&mut self, node: usize) {
        loop {
            let here = &mut self.nodes[node];
            let held = here.socket.len() as u64 * u64::from(self.plan.block_bytes);
            let full = held + u64::from(self.plan.block_bytes) > u64::from(self.plan.socket_bytes);
            if full && !here.socket.is_empty() {
                return;
            }
            let Some((conn, block)) = here.queue.pop_front() else { return };
            here.socket.push_back((conn, block));
            if here.socket.len() == 1 {
                self.send_piece(node);
            }
            let hash = self.hashes[usize::from(block)];
            let len = self.plan.block_bytes;
            if self.plan.socket_bytes > 0 {
                self.tell(node, Input::BlockSent { conn, hash, len });
            }
        }
    }

    fn piece_bytes(&self, node: usize) -> u32 {
        PIECE_BYTES.min(self.plan.block_bytes - self.nodes[node].went)
    }

    fn send_piece(&mut self, node: usize) {
        let slower = match self.plan.slowed {
            Some((at, times)) if node == 0 && self.now >= at => times,
            Some(_) | None => 1,
        };
        let nanos = u64::from(self.piece_bytes(node)) * 1_000_000_000 * slower
            / self.plan.upload_bytes_per_second;
        self.after(Duration::from_nanos(nanos), Event::Sent { node: node as u32 });
    }

    /// A piece has left; the next one follows.
    fn sent(&mut self, node: usize) {
        let bytes = self.piece_bytes(node);
        let here = &mut self.nodes[node];
        let (conn, block) = *here.socket.front().expect("it was under way");
        here.went += bytes;
        here.bytes_sent += u64::from(bytes);
        self.control_bytes += RECORD_BYTES * u64::from(bytes).div_ceil(65_518);
        let last = here.went == self.plan.block_bytes;
        let End { to, delay } = self.ends[conn.0 as usize];
        let (node_at, conn_at) = (to, ConnId(conn.0 ^ 1));
        self.after(delay, Event::Piece { node: node_at, conn: conn_at, block, bytes, last });
        if !last {
            return self.send_piece(node);
        }
        let here = &mut self.nodes[node];
        here.went = 0;
        here.socket.pop_front();
        self.control_bytes += BLOCK_FRAME_BYTES + RECORD_BYTES;
        if !self.nodes[node].socket.is_empty() {
            self.send_piece(node);
        }
        let (hash, len) = (self.hashes[usize::from(block)], self.plan.block_bytes);
        if self.plan.socket_bytes == 0 {
            self.tell(node, Input::BlockSent { conn, hash, len });
        }
        self.fill_socket(node);
    }

    fn arrive(&mut self, node: usize, conn: ConnId, block: u16, work: Duration) {
        let (hash, len) = (self.hashes[usize::from(block)], self.plan.block_bytes);
        self.received += 1;
        let here = &self.nodes[node];
        let had = here.has[usize::from(block)];
        if !here.engine.expects(conn, &hash, len as usize) {
            assert!(had, "a block that is wanted is refused");
            self.duplicates += 1;
            return self.tell(node, Input::BlockRejected { conn, hash, len, wanted: false });
        }
        if work.is_zero() {
            self.verified(node, conn, block);
        } else {
            self.after(work, Event::Verified { node: node as u32, conn, block });
        }
    }

    fn verified(&mut self, node: usize, conn: ConnId, block: u16) {
        let (hash, len) = (self.hashes[usize::from(block)], self.plan.block_bytes);
        let here = &mut self.nodes[node];
        if std::mem::replace(&mut here.has[usize::from(block)], true) {
            self.duplicates += 1;
        } else {
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
