//! A swarm, its events in the order of their moments, and the rules that hold after each.

use crate::network::{Link, NODES_MAX, Queued, between, conn, end_of, keys};
use barrow::engine::{
    CloseReason, ConnId, Engine, EngineConfig, Input, JobId, Moment, Order, Output, Rng,
};
use barrow::{Block, Cid, Codec, Multihash, PeerId};
use barrow_wire::{Event as Came, Message, Presence, limits::BLOCK_BUFFER_SLACK_BYTES};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

const MS: Duration = Duration::from_millis(1);
/// Faults happen until then; afterwards everything must come to a good end.
const FAULTS_END: Moment = Moment(Duration::from_secs(20));
/// By then it must have.
const WORLD_END: Moment = Moment(Duration::from_secs(600));
/// More events than this are a livelock.
const EVENTS_MAX: u64 = 3_000_000;
/// Bytes given to a socket at one time.
const PIECE_BYTES: usize = 16 << 10;
/// Bytes in flight and read ahead that engines are held to here: small, so that they matter.
const INFLIGHT_BYTES_MAX: u64 = 1 << 20;
const SERVE_BYTES_MAX: u64 = 512 << 10;
/// The longest block here.
const BLOCK_BYTES_MAX: u64 = 96 << 10;

/// What is wrong with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    Honest,
    /// Says to have everything, and sends other bytes.
    Garbage,
    /// Says to have everything, and then does not.
    Liar,
    /// Says to have everything, and sends nothing.
    Silent,
    /// Sends blocks that nobody asked for.
    Flooder,
}

struct Dataset {
    root: Cid,
    blocks: Vec<Multihash>,
}

struct Fetch {
    job: JobId,
    dataset: usize,
    order: Order,
    /// Sequential readers ask for no more than this ahead.
    window: usize,
    open: BTreeSet<Multihash>,
}

struct Node {
    nature: Nature,
    engine: Option<Engine>,
    /// Grows with each start, so that what belonged to the life before is not mistaken.
    life: u64,
    store: BTreeMap<Multihash, Bytes>,
    complete: BTreeSet<Multihash>,
    bans: Vec<(PeerId, Moment)>,
    fetches: Vec<Fetch>,
    upload_bytes_per_second: u64,
    upload_free_at: Moment,
    /// Wrong blocks received of each peer since its last ban.
    wrong: BTreeMap<PeerId, u32>,
    timer: Option<Moment>,
}

enum Event {
    Arrive { link: usize, side: usize, bytes: Vec<u8> },
    Pump { link: usize, side: usize },
    Gone { link: usize, side: usize },
    Timer { node: usize },
    Told { node: usize, life: u64, input: Input },
    Read { node: usize, life: u64, conn: ConnId, hash: Multihash },
    Verified { node: usize, life: u64, conn: ConnId, hash: Multihash, bytes: Vec<u8> },
    Retry { node: usize, life: u64, job: JobId, hash: Multihash },
    Fault,
    Start { node: usize },
    Heal { pair: (usize, usize) },
}

/// How a run went; equal for equal seeds.
#[derive(Debug, PartialEq, Eq)]
pub struct Summary {
    pub trace: u64,
    pub ended: Moment,
    pub blocks: u64,
    pub duplicates: u64,
    pub rejected: u64,
    pub bans: u64,
}

pub struct World {
    rng: Rng,
    now: Moment,
    queue: BTreeMap<(Moment, u64), Event>,
    sequence: u64,
    nodes: Vec<Node>,
    datasets: Vec<Dataset>,
    contents: BTreeMap<Multihash, Bytes>,
    links: Vec<Option<Link>>,
    cut: BTreeSet<(usize, usize)>,
    inputs: VecDeque<(usize, Input)>,
    jobs: u64,
    /// Prints the trace: `BARROW_SIM_LOG=1`.
    loud: bool,
    summary: Summary,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut world = Self {
            rng: Rng::new(seed ^ 0xBA44_0112),
            now: Moment::default(),
            queue: BTreeMap::new(),
            sequence: 0,
            nodes: Vec::new(),
            datasets: Vec::new(),
            contents: BTreeMap::new(),
            links: Vec::new(),
            cut: BTreeSet::new(),
            inputs: VecDeque::new(),
            jobs: 0,
            loud: std::env::var_os("BARROW_SIM_LOG").is_some(),
            summary: Summary {
                trace: 0xcbf2_9ce4_8422_2325,
                ended: Moment::default(),
                blocks: 0,
                duplicates: 0,
                rejected: 0,
                bans: 0,
            },
        };
        world.people();
        world
    }

    fn below(&mut self, bound: usize) -> usize {
        self.rng.below(bound as u64) as usize
    }

    /// Makes datasets, nodes, who has what, and who wants what.
    fn people(&mut self) {
        let honest = 2 + self.below(5);
        let faulty = if self.below(2) == 0 { 0 } else { 1 + self.below(NODES_MAX - honest - 1) };
        for _ in 0..1 + self.below(2) {
            self.make_dataset();
        }
        for n in 0..honest + faulty {
            let nature = match (n < honest, self.below(4)) {
                (true, _) => Nature::Honest,
                (false, 0) => Nature::Garbage,
                (false, 1) => Nature::Liar,
                (false, 2) => Nature::Silent,
                (false, _) => Nature::Flooder,
            };
            self.nodes.push(Node {
                nature,
                engine: None,
                life: 0,
                store: BTreeMap::new(),
                complete: BTreeSet::new(),
                bans: Vec::new(),
                fetches: Vec::new(),
                upload_bytes_per_second: 200_000 + self.rng.below(5_000_000),
                upload_free_at: Moment::default(),
                wrong: BTreeMap::new(),
                timer: None,
            });
        }
        for dataset in 0..self.datasets.len() {
            // Its provider, and others who may have a part of it.
            let provider = self.below(honest.min(2));
            for node in 0..honest {
                let whole = node == provider;
                for at in 0..self.datasets[dataset].blocks.len() {
                    if whole || self.below(8) == 0 {
                        let hash = self.datasets[dataset].blocks[at];
                        let data = self.contents[&hash].clone();
                        self.nodes[node].store.insert(hash, data);
                    }
                }
                if whole {
                    let root = self.datasets[dataset].blocks[0];
                    self.nodes[node].complete.insert(root);
                }
            }
        }
        for node in 0..self.nodes.len() {
            let wait = between(&mut self.rng, Duration::ZERO, 3_000 * MS);
            self.after(wait, Event::Start { node });
        }
        for _ in 0..self.below(30) {
            let wait = between(&mut self.rng, Duration::ZERO, FAULTS_END.0);
            self.after(wait, Event::Fault);
        }
    }

    fn make_dataset(&mut self) {
        let mut blocks = Vec::new();
        for _ in 0..1 + self.below(30) {
            let len = match self.below(4) {
                0 => self.below(4_096),
                1 => 65_536,
                _ => self.below(BLOCK_BYTES_MAX as usize),
            };
            let mut data = vec![0; len];
            let stamp = self.rng.bits().to_be_bytes();
            data.iter_mut().zip(stamp).for_each(|(to, from)| *to = from);
            let block = Block::of(data.into()).unwrap();
            blocks.push(*block.hash());
            self.contents.insert(*block.hash(), block.into_data());
        }
        let root = Cid::v1(Codec::Raw, blocks[0]);
        self.datasets.push(Dataset { root, blocks });
    }

    /// Runs to the good end, or panics with the rule that was broken.
    pub fn run(mut self) -> Summary {
        let mut events = 0;
        while let Some(((at, _), event)) = self.queue.pop_first() {
            assert!(at < WORLD_END, "not done after {WORLD_END:?}: {}", self.unfinished());
            self.now = at;
            self.step(event);
            self.settle();
            self.check();
            events += 1;
            assert!(events < EVENTS_MAX, "a livelock at {:?}: {}", self.now, self.unfinished());
            if self.now > FAULTS_END && self.is_done() {
                break;
            }
        }
        assert!(self.is_done(), "nothing happens any more: {}", self.unfinished());
        self.at_rest();
        self.summary.ended = self.now;
        self.summary
    }

    fn after(&mut self, wait: Duration, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now.after(wait), self.sequence), event);
    }

    fn trace(&mut self, what: std::fmt::Arguments<'_>) {
        if self.loud {
            println!("{:?} {what}", self.now.0);
        }
        for byte in format!("{:?} {what}", self.now.0).bytes() {
            let mixed = self.summary.trace ^ u64::from(byte);
            self.summary.trace = mixed.wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn is_done(&self) -> bool {
        let honest = self.nodes.iter().filter(|node| node.nature == Nature::Honest);
        honest.into_iter().all(|node| {
            node.engine.is_some() && node.fetches.iter().all(|fetch| fetch.open.is_empty())
        })
    }

    fn unfinished(&self) -> String {
        let nodes = self.nodes.iter().enumerate();
        let mut open: Vec<_> = nodes
            .filter(|(_, node)| node.nature == Nature::Honest)
            .map(|(n, node)| {
                let open: Vec<_> = node.fetches.iter().flat_map(|fetch| &fetch.open).collect();
                (n, node.engine.is_some(), open, node.engine.as_ref().map(Engine::peers))
            })
            .filter(|(_, up, open, _)| !up || !open.is_empty())
            .collect();
        open.truncate(1);
        format!("{open:?}")
    }

    // --- Events ---

    fn step(&mut self, event: Event) {
        match event {
            Event::Arrive { link, side, bytes } => self.arrive(link, side, &bytes),
            Event::Pump { link, side } => self.pump(link, side),
            Event::Gone { link, side } => {
                self.end_gone(link, side, CloseReason::Remote("closed".into()));
            }
            Event::Timer { node } => {
                let now = self.now;
                self.nodes[node].timer = None;
                if let Some(engine) = &mut self.nodes[node].engine
                    && engine.next_timeout().is_some_and(|at| at <= now)
                {
                    engine.handle_timeout(now);
                    assert!(engine.next_timeout() > Some(now) || engine.next_timeout().is_none());
                    self.act(node);
                }
            }
            Event::Told { node, life, input } => {
                if self.nodes[node].life == life {
                    self.inputs.push_back((node, input));
                }
            }
            Event::Read { node, life, conn, hash } => {
                if self.nodes[node].life == life {
                    self.read(node, conn, hash);
                }
            }
            Event::Verified { node, life, conn, hash, bytes } => {
                if self.nodes[node].life == life {
                    self.verify(node, conn, hash, bytes);
                }
            }
            Event::Retry { node, life, job, hash } => {
                let wants = self.nodes[node].life == life
                    && self.nodes[node]
                        .fetches
                        .iter()
                        .any(|f| f.job == job && f.open.contains(&hash));
                if wants {
                    self.inputs.push_back((node, Input::Want { job, blocks: vec![hash] }));
                }
            }
            Event::Fault => self.fault(),
            Event::Start { node } => self.start(node),
            Event::Heal { pair } => _ = self.cut.remove(&pair),
        }
    }

    fn settle(&mut self) {
        while let Some((node, input)) = self.inputs.pop_front() {
            if self.nodes[node].engine.is_none() {
                continue;
            }
            self.trace(format_args!("{node} < {input:?}"));
            let now = self.now;
            self.nodes[node].engine.as_mut().expect("it runs").handle(now, input);
            self.act(node);
        }
    }

    fn start(&mut self, node: usize) {
        if self.nodes[node].engine.is_some() {
            return;
        }
        let mut config = EngineConfig::new(keys()[node].0, self.rng.bits());
        config.listen_port = 4780;
        config.inflight_bytes_max = INFLIGHT_BYTES_MAX;
        config.serve_bytes_max = SERVE_BYTES_MAX;
        config.bans = self.nodes[node].bans.clone();
        self.nodes[node].engine = Some(Engine::new(config));
        self.nodes[node].life += 1;
        // Who has the datasets is known to all; who else there is, to some.
        for other in 0..self.nodes.len() {
            if other != node && (other < 2 || self.below(2) == 0) {
                let address = address_of(other);
                let peer = (self.below(2) == 0).then_some(keys()[other].0);
                let told = Input::Address { address, peer, job: None, keep: true };
                self.inputs.push_back((node, told));
            }
        }
        if self.nodes[node].nature == Nature::Honest {
            for dataset in 0..self.datasets.len() {
                self.start_fetch(node, dataset);
            }
        }
    }

    fn start_fetch(&mut self, node: usize, dataset: usize) {
        self.jobs += 1;
        let job = JobId(self.jobs);
        let order = if self.below(2) == 0 { Order::Bulk } else { Order::Sequential };
        let window = match order {
            Order::Bulk => usize::MAX,
            Order::Sequential => 1 + self.below(10),
        };
        let Dataset { root, blocks } = &self.datasets[dataset];
        let lacks = blocks.iter().filter(|hash| !self.nodes[node].store.contains_key(hash));
        let open = lacks.copied().collect();
        self.inputs.push_back((node, Input::JobStarted { job, root: *root, order }));
        let old = self.nodes[node].fetches.iter().position(|fetch| fetch.dataset == dataset);
        if let Some(old) = old {
            self.nodes[node].fetches.remove(old);
        }
        self.nodes[node].fetches.push(Fetch { job, dataset, order, window, open });
        let at = self.nodes[node].fetches.len() - 1;
        self.want_more(node, at, usize::MAX);
    }

    /// Asks for what a reader wants next: all, or a window that moves on by `step`.
    fn want_more(&mut self, node: usize, at: usize, step: usize) {
        let fetch = &self.nodes[node].fetches[at];
        let open = self.datasets[fetch.dataset].blocks.iter().filter(|h| fetch.open.contains(h));
        let ahead: Vec<_> = match fetch.order {
            Order::Bulk => open.copied().collect(),
            Order::Sequential => open.take(fetch.window.min(step)).copied().collect(),
        };
        let (job, done) = (fetch.job, fetch.open.is_empty());
        if done {
            let root = self.datasets[self.nodes[node].fetches[at].dataset].blocks[0];
            self.nodes[node].complete.insert(root);
            self.inputs.push_back((node, Input::JobEnded { job }));
        } else if !ahead.is_empty() {
            self.inputs.push_back((node, Input::Want { job, blocks: ahead }));
        }
    }

    /// Something breaks.
    fn fault(&mut self) {
        let node = self.below(self.nodes.len());
        match self.below(4) {
            0 => {
                self.stop(node);
                let wait = between(&mut self.rng, 10 * MS, 5_000 * MS);
                self.after(wait, Event::Start { node });
            }
            1 => {
                let other = self.below(self.nodes.len());
                let pair = (node.min(other), node.max(other));
                self.cut.insert(pair);
                self.cut_links(|ends| ends == pair);
                let wait = between(&mut self.rng, 100 * MS, 5_000 * MS);
                self.after(wait, Event::Heal { pair });
            }
            2 => self.cut_links(|(a, b)| a == node || b == node),
            // A hundredfold slower, until the end.
            _ => {
                let speed = &mut self.nodes[node].upload_bytes_per_second;
                *speed = (*speed / 100).max(20_000);
            }
        }
    }

    fn stop(&mut self, node: usize) {
        self.nodes[node].engine = None;
        self.nodes[node].life += 1;
        self.nodes[node].timer = None;
        self.cut_links(|(a, b)| a == node || b == node);
    }

    fn cut_links(&mut self, which: impl Fn((usize, usize)) -> bool) {
        for link in 0..self.links.len() {
            let Some(Link { ends: [a, b], .. }) = &self.links[link] else { continue };
            if which((a.node.min(b.node), a.node.max(b.node))) {
                for side in 0..2 {
                    self.end_gone(link, side, CloseReason::Remote("cut".into()));
                }
            }
        }
    }

    /// A connection ends at one end.
    fn end_gone(&mut self, link: usize, side: usize, reason: CloseReason) {
        let Some(wire) = &mut self.links[link] else { return };
        let end = &mut wire.ends[side];
        if !std::mem::replace(&mut end.open, false) {
            return;
        }
        let (node, established, delay) = (end.node, end.established, wire.delay);
        let other_open = wire.ends[1 - side].open;
        if established {
            self.inputs.push_back((node, Input::Disconnected { conn: conn(link, side), reason }));
        } else if side == 0 {
            let address = address_of(wire.ends[1].node);
            self.inputs.push_back((node, Input::DialFailed { address, reason: "cut".into() }));
        }
        if other_open {
            self.after(delay, Event::Gone { link, side: 1 - side });
        } else {
            self.links[link] = None;
        }
    }

    // --- The wire ---

    fn pump(&mut self, link: usize, side: usize) {
        let Some(wire) = &mut self.links[link] else { return };
        let end = &mut wire.ends[side];
        end.pumping = false;
        if !end.open || !end.session.wants_transmit() {
            return;
        }
        let node = &mut self.nodes[end.node];
        let free_at = node.upload_free_at.max(self.now);
        // A socket's buffer holds a few milliseconds; until it is emptier, wait.
        if free_at.since(self.now) > 5 * MS {
            end.pumping = true;
            let wait = free_at.since(self.now);
            return self.after(wait, Event::Pump { link, side });
        }
        let mut bytes = Vec::new();
        end.session.transmit(&mut bytes, PIECE_BYTES).expect("no session wears out here");
        let mut sent = Vec::new();
        while end.queued.len() > end.session.queued_blocks() {
            sent.extend(end.queued.pop_front());
        }
        let (to, delay, number) = (end.node, wire.delay, conn(link, side));
        let time =
            Duration::from_nanos(bytes.len() as u64 * 1_000_000_000 / node.upload_bytes_per_second);
        node.upload_free_at = free_at.after(time);
        let wait = free_at.after(time).after(delay).since(self.now);
        for Queued { hash, len, after_cancel } in sent {
            assert!(!after_cancel, "a block was sent whose cancel had come before");
            self.inputs.push_back((to, Input::BlockSent { conn: number, hash, len }));
        }
        // Chopped anywhere, in order.
        let cut = self.below(bytes.len() + 1);
        let rest = bytes.split_off(cut);
        for bytes in [bytes, rest] {
            if !bytes.is_empty() {
                self.after(wait, Event::Arrive { link, side: 1 - side, bytes });
            }
        }
        self.wake(link, side);
    }

    fn wake(&mut self, link: usize, side: usize) {
        let Some(wire) = &mut self.links[link] else { return };
        let end = &mut wire.ends[side];
        if end.open && !end.pumping && end.session.wants_transmit() {
            end.pumping = true;
            self.after(Duration::ZERO, Event::Pump { link, side });
        }
    }

    fn arrive(&mut self, link: usize, side: usize, bytes: &[u8]) {
        let Some(wire) = &mut self.links[link] else { return };
        if !wire.ends[side].open {
            return;
        }
        wire.ends[side].input.extend_from_slice(bytes);
        let node = wire.ends[side].node;
        let count = bytes.len() as u32;
        if wire.ends[side].established {
            self.inputs.push_back((node, Input::Progress { conn: conn(link, side), bytes: count }));
        }
        loop {
            let Some(wire) = &mut self.links[link] else { return };
            let end = &mut wire.ends[side];
            if !end.open {
                return;
            }
            let mut rest = &end.input[..];
            let came = end.session.receive(&mut rest);
            let used = end.input.len() - rest.len();
            end.input.drain(..used);
            match came {
                Ok(Some(came)) => self.came(link, side, came),
                Ok(None) => break,
                Err(error) => {
                    let reason = CloseReason::Protocol(error.to_string());
                    self.end_gone(link, side, reason);
                    break;
                }
            }
            // As the reactor does, the engine hears of what came before the next decision.
            self.settle();
        }
        self.wake(link, side);
    }

    fn came(&mut self, link: usize, side: usize, came: Came<Vec<u8>>) {
        let Some(wire) = &mut self.links[link] else { return };
        let other = wire.ends[1 - side].node;
        let end = &mut wire.ends[side];
        let (node, number) = (end.node, conn(link, side));
        match came {
            Came::Established { peer } => {
                assert_eq!(peer, keys()[other].0);
                end.established = true;
                let dialed = (side == 0).then(|| address_of(other));
                let remote = SocketAddr::new(address_of(other).ip(), 50_000);
                let remote = dialed.unwrap_or(remote);
                let input = Input::Connected { conn: number, peer, remote, dialed };
                self.inputs.push_back((node, input));
            }
            Came::Message(message) => {
                match &message {
                    Message::Cancel { blocks } => end.cancelled.extend(blocks),
                    Message::WantBlock { blocks } | Message::WantHave { blocks, .. } => {
                        blocks.iter().for_each(|hash| _ = end.cancelled.remove(hash));
                    }
                    _ => {}
                }
                self.inputs.push_back((node, Input::Received { conn: number, message }));
            }
            Came::BlockComing { hash, len } => {
                let engine = self.nodes[node].engine.as_ref();
                if engine.is_some_and(|engine| engine.expects(number, &hash, len)) {
                    end.session.accept_block(vec![0; len + BLOCK_BUFFER_SLACK_BYTES]);
                } else {
                    end.session.skip_block();
                }
            }
            Came::BlockSkipped { hash, len } => {
                self.summary.duplicates += 1;
                let len = len as u32;
                let input = Input::BlockRejected { conn: number, hash, len, wanted: false };
                self.inputs.push_back((node, input));
            }
            Came::Block { hash, len, mut data } => {
                data.truncate(len);
                let life = self.nodes[node].life;
                let wait = between(&mut self.rng, Duration::ZERO, 2 * MS);
                let event = Event::Verified { node, life, conn: number, hash, bytes: data };
                self.after(wait, event);
            }
        }
    }

    fn verify(&mut self, node: usize, conn: ConnId, hash: Multihash, bytes: Vec<u8>) {
        let len = bytes.len() as u32;
        let Ok(block) = Block::verify(hash, bytes.into()) else {
            self.summary.rejected += 1;
            let (link, side) = end_of(conn);
            if let Some(wire) = &self.links[link] {
                let from = wire.ends[1 - side].node;
                assert_ne!(self.nodes[from].nature, Nature::Honest, "honest peers send no garbage");
                let wrong = self.nodes[node].wrong.entry(keys()[from].0).or_default();
                *wrong += 1;
                // What was asked for before the third came may still arrive.
                assert!(*wrong <= 3 + 16, "{wrong} wrong blocks of one peer");
            }
            let input = Input::BlockRejected { conn, hash, len, wanted: true };
            return self.inputs.push_back((node, input));
        };
        self.summary.blocks += 1;
        assert!(self.contents[&hash] == *block.data(), "a wrong byte was delivered");
        if self.nodes[node].store.insert(hash, block.into_data()).is_some() {
            self.summary.duplicates += 1;
        }
        self.inputs.push_back((node, Input::BlockVerified { conn, hash, len }));
        self.settle();
        for at in 0..self.nodes[node].fetches.len() {
            if self.nodes[node].fetches[at].open.remove(&hash) {
                self.want_more(node, at, usize::MAX);
            }
        }
    }

    // --- The shell ---

    fn act(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].engine.as_mut().and_then(Engine::poll_output) {
            self.trace(format_args!("{node} > {output:?}"));
            match output {
                Output::Connect { address, peer } => self.connect(node, address, peer),
                Output::Close { conn, reason } => {
                    let (link, side) = end_of(conn);
                    self.end_gone(link, side, reason);
                }
                Output::Send { conn, message } => {
                    let (link, side) = end_of(conn);
                    if let Some(wire) = &mut self.links[link] {
                        wire.ends[side].session.send(&message);
                        self.wake(link, side);
                    }
                }
                Output::LookUp { conn, blocks } => self.look_up(node, conn, blocks),
                Output::SendBlock { conn, hash } => {
                    let life = self.nodes[node].life;
                    let wait = between(&mut self.rng, Duration::ZERO, 3 * MS);
                    self.after(wait, Event::Read { node, life, conn, hash });
                }
                Output::CancelBlock { conn, hash } => self.cancel_block(node, conn, hash),
                Output::Discover { job, .. } => {
                    let life = self.nodes[node].life;
                    let wait = between(&mut self.rng, Duration::ZERO, 500 * MS);
                    let input = Input::DiscoveryDone { job };
                    self.after(wait, Event::Told { node, life, input });
                }
                Output::Failed { job, hash, .. } => {
                    // Somebody asks again: at last it must be there.
                    let life = self.nodes[node].life;
                    self.after(1_000 * MS, Event::Retry { node, life, job, hash });
                }
                Output::Ban { peer, until, reason } => self.banned(node, peer, until, &reason),
            }
        }
        self.arm(node);
    }

    fn banned(&mut self, node: usize, peer: PeerId, until: Moment, reason: &str) {
        let who = keys().iter().position(|(id, _)| *id == peer).expect("somebody known");
        let honest = self.nodes[who].nature == Nature::Honest;
        // What faulty nodes think of others is their affair.
        assert!(
            !honest || self.nodes[node].nature != Nature::Honest,
            "{node} bans {who}, who is honest: {reason}"
        );
        self.nodes[node].bans.push((peer, until));
        self.nodes[node].wrong.remove(&peer);
        self.summary.bans += 1;
    }

    fn arm(&mut self, node: usize) {
        let Some(at) = self.nodes[node].engine.as_ref().and_then(Engine::next_timeout) else {
            return;
        };
        if self.nodes[node].timer.is_none_or(|set| at < set || set < self.now) {
            self.nodes[node].timer = Some(at);
            let wait = at.since(self.now);
            self.after(wait, Event::Timer { node });
        }
    }

    fn connect(&mut self, node: usize, address: SocketAddr, expected: Option<PeerId>) {
        let to = node_at(address);
        let delay = between(&mut self.rng, MS / 10, 60 * MS);
        let reachable = self.nodes.get(to).is_some_and(|other| other.engine.is_some())
            && !self.cut.contains(&(node.min(to), node.max(to)));
        if !reachable || to == node {
            let life = self.nodes[node].life;
            let input = Input::DialFailed { address, reason: "unreachable".into() };
            return self.after(delay * 2, Event::Told { node, life, input });
        }
        self.links.push(Some(Link::new(node, to, expected, delay)));
        self.wake(self.links.len() - 1, 0);
    }

    fn look_up(&mut self, node: usize, conn: ConnId, blocks: Vec<Multihash>) {
        let here = &self.nodes[node];
        let found = blocks.into_iter().map(|hash| {
            let presence = match (here.nature, here.store.get(&hash)) {
                (Nature::Garbage | Nature::Liar | Nature::Silent, _) => {
                    let len = self.contents.get(&hash).map_or(100, |data| data.len() as u32);
                    Presence::Complete { len }
                }
                (Nature::Honest | Nature::Flooder, None) => Presence::DontHave,
                (Nature::Honest | Nature::Flooder, Some(data)) => {
                    let len = data.len() as u32;
                    let complete = here.complete.contains(&hash);
                    if complete { Presence::Complete { len } } else { Presence::Have { len } }
                }
            };
            (hash, presence)
        });
        let input = Input::LookedUp { conn, found: found.collect() };
        let life = here.life;
        let wait = between(&mut self.rng, Duration::ZERO, 3 * MS);
        self.after(wait, Event::Told { node, life, input });
    }

    /// A block was read, as far as this node is honest about it.
    fn read(&mut self, node: usize, conn: ConnId, hash: Multihash) {
        let data = match self.nodes[node].nature {
            Nature::Honest => self.nodes[node].store.get(&hash).cloned(),
            Nature::Garbage => Some(Bytes::from(vec![0xEE; 1_000])),
            Nature::Liar => None,
            Nature::Silent => return,
            Nature::Flooder => {
                let junk = Bytes::from(vec![self.below(256) as u8; 2_000]);
                self.queue_block(conn, *Block::of(junk.clone()).unwrap().hash(), junk);
                self.nodes[node].store.get(&hash).cloned()
            }
        };
        let len = data.as_ref().map(|data| data.len() as u32);
        if let Some(data) = data {
            self.queue_block(conn, hash, data);
        }
        self.inputs.push_back((node, Input::BlockQueued { conn, hash, len }));
    }

    fn queue_block(&mut self, conn: ConnId, hash: Multihash, data: Bytes) {
        let (link, side) = end_of(conn);
        let Some(wire) = &mut self.links[link] else { return };
        let end = &mut wire.ends[side];
        let (len, after_cancel) = (data.len() as u32, end.cancelled.contains(&hash));
        end.session.send_block(hash, data);
        end.queued.push_back(Queued { hash, len, after_cancel });
        let queued = end.session.queued_bytes() as u64;
        assert!(
            self.nodes[end.node].nature != Nature::Honest
                || queued <= SERVE_BYTES_MAX + (300 << 10),
            "{queued} bytes wait to be sent to one peer"
        );
        // After the engine had its say, which may take it back.
        self.inputs.push_back((wire.ends[side].node, Input::Progress { conn, bytes: 0 }));
        self.wake(link, side);
    }

    fn cancel_block(&mut self, node: usize, conn: ConnId, hash: Multihash) {
        let (link, side) = end_of(conn);
        let Some(wire) = &mut self.links[link] else { return };
        let end = &mut wire.ends[side];
        if end.session.cancel_block(hash) {
            let at = end.queued.iter().rposition(|queued| queued.hash == hash);
            end.queued.remove(at.expect("the session had it"));
            self.inputs.push_back((node, Input::BlockSent { conn, hash, len: 0 }));
        }
    }

    // --- The rules ---

    /// What holds after every step.
    fn check(&self) {
        for (n, node) in self.nodes.iter().enumerate() {
            let Some(engine) = &node.engine else { continue };
            let inflight = engine.inflight_bytes();
            let peers = engine.peers();
            let outstanding: u64 = peers.iter().map(|peer| peer.outstanding_bytes).sum();
            assert_eq!(inflight, outstanding, "node {n} lost count of what is in flight");
            // A guess may be a block short of the truth.
            assert!(inflight <= INFLIGHT_BYTES_MAX + (2 << 20), "node {n}: {inflight} in flight");
            let sending = engine.sending_bytes();
            assert!(sending <= SERVE_BYTES_MAX.max(2 << 20), "node {n}: {sending} read ahead");
            assert!(!peers.is_empty() || sending == 0, "node {n} leaks {sending} bytes of nobody");
        }
    }

    /// What holds when everything has come to its end.
    fn at_rest(&mut self) {
        for node in self.nodes.iter().filter(|node| node.nature == Nature::Honest) {
            for dataset in &self.datasets {
                for hash in &dataset.blocks {
                    assert!(node.store.contains_key(hash), "a block was not fetched");
                }
            }
            let engine = node.engine.as_ref().expect("it runs");
            assert_eq!(engine.inflight_bytes(), 0, "bytes in flight for nobody");
            assert!(engine.jobs().iter().all(|job| job.blocks_open == 0), "a want without an end");
        }
    }
}

fn address_of(node: usize) -> SocketAddr {
    ([10, 0, 0, node as u8 + 1], 4780).into()
}

fn node_at(address: SocketAddr) -> usize {
    match address.ip() {
        std::net::IpAddr::V4(ip) => usize::from(ip.octets()[3]) - 1,
        std::net::IpAddr::V6(_) => panic!("addresses here are of IPv4"),
    }
}
