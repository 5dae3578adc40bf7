//! Every order in which what three engines say to each other can happen: one downloads three
//! blocks from the two others for two readers, one of whom may leave, and a connection may break.
//!
//! The search goes by breadth, so what it finds first is the shortest way to a broken rule. It
//! ends with the last state or after `BARROW_MODEL_STATES`. Control
//! messages and whole blocks are its grains, and time stands still until nothing else can happen.

use barrow::engine::{
    CloseReason, ConnId, Engine, EngineConfig, Input, JobId, Moment, Order, Output, PurseId,
};
use barrow::{Cid, Codec, Identity, Multihash};
use barrow_wire::{HashCode, Message, Presence};
use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    rc::Rc,
};

/// One block comes with the answer, the others must be asked for.
const LENGTHS: [u32; 3] = [100, 65_536, 70_000];
/// Who has which: the first all, the second the last two.
const HOLDINGS: [&[usize]; 2] = [&[0, 1, 2], &[1, 2]];
/// Times that the clock goes on to the next timer, before a want counts as forgotten.
const TICKS_MAX: u32 = 200;
const DOWNLOADER: usize = 0;
/// States that are looked at unless told: a few seconds' worth.
const STATES_MAX: u64 = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };

/// What travels on a connection.
#[derive(Clone, Debug)]
enum Item {
    /// With the hash of its encoding.
    Message(Rc<Message>, u64),
    Block(usize),
}

impl Hash for Item {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        match self {
            Self::Message(_, digest) => digest.hash(hasher),
            Self::Block(n) => n.hash(hasher),
        }
    }
}

/// A connection between the downloader (end 0) and a provider (end 1).
#[derive(Clone, Debug, Default, Hash)]
struct Link {
    closed: bool,
    /// What is on its way to each end.
    wires: [VecDeque<Item>; 2],
    /// Blocks that the session of each end has and did not begin to send.
    queued: [VecDeque<usize>; 2],
}

#[derive(Clone)]
struct Node {
    engine: Rc<Engine>,
    /// Of the engine's whole state.
    hash: u64,
}

/// The way to a state, backwards.
struct Step {
    action: Action,
    before: Option<Rc<Step>>,
}

#[derive(Clone)]
struct State {
    now: Moment,
    ticks: u32,
    nodes: [Node; 3],
    links: [Link; 2],
    /// Reads that providers have under way, by the connection.
    reads: Vec<(usize, usize)>,
    /// Blocks that came and are being hashed, by the connection.
    hashing: Vec<(usize, usize)>,
    discoveries: Vec<JobId>,
    waiting: BTreeSet<(JobId, usize)>,
    copies: [u32; 3],
    stored: [bool; 3],
    /// Whether both providers were asked for a block at one time.
    hedged: [bool; 3],
    /// Readers that went away, and connections.
    left: u32,
    second_began: bool,
    first_ended: bool,
    broken: bool,
}

/// What can happen next.
#[derive(Clone, Copy, Debug)]
enum Action {
    Arrive { link: usize, end: usize },
    Transmit { link: usize, end: usize },
    Read(usize),
    Hashed(usize),
    Discovered(usize),
    SecondBegins,
    FirstEnds,
    Break,
    Tick,
}

fn block(n: usize) -> Multihash {
    Multihash::of(HashCode::Sha2_256, &[n as u8])
}

fn number(hash: &Multihash) -> usize {
    (0..3).find(|n| block(*n) == *hash).expect("one of three")
}

/// What a provider says of a block; only the first has the whole dataset.
fn presence(link: usize, n: usize) -> Presence {
    let len = LENGTHS[n];
    match (HOLDINGS[link].contains(&n), n, link) {
        (false, ..) => Presence::DontHave,
        (true, 0, 0) => Presence::Complete { len },
        (true, ..) => Presence::Have { len },
    }
}

/// The same number at both ends.
fn conn(link: usize) -> ConnId {
    ConnId(link as u32)
}

fn node_of(link: usize, end: usize) -> usize {
    if end == 0 { DOWNLOADER } else { link + 1 }
}

fn digest(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

impl State {
    fn new() -> Self {
        let ids = [1, 2, 3].map(|n| Identity::from_seed([n; 32]).peer_id());
        let node = |n: usize| {
            let engine = Rc::new(Engine::new(EngineConfig::new(ids[n], 7)));
            Node { engine, hash: 0 }
        };
        let mut state = Self {
            now: Moment::default(),
            ticks: 0,
            nodes: [node(0), node(1), node(2)],
            links: Default::default(),
            reads: Vec::new(),
            hashing: Vec::new(),
            discoveries: Vec::new(),
            waiting: BTreeSet::new(),
            copies: [0; 3],
            stored: [false; 3],
            hedged: [false; 3],
            left: 0,
            second_began: false,
            first_ended: false,
            broken: false,
        };
        for link in 0..2 {
            for end in 0..2 {
                let peer = ids[node_of(link, 1 - end)];
                let remote = ([10, 0, 0, node_of(link, 1 - end) as u8], 4780).into();
                let input = Input::Connected { conn: conn(link), peer, remote, dialed: None };
                state.tell(node_of(link, end), input);
            }
        }
        // What they say in greeting changes nothing for each other.
        for link in 0..2 {
            for end in 0..2 {
                while !state.links[link].wires[end].is_empty() {
                    state.arrive(link, end);
                }
            }
        }
        state.begin(JobId(1), &[0, 1, 2]);
        state
    }

    fn begin(&mut self, job: JobId, blocks: &[usize]) {
        let root = Cid::v1(Codec::Raw, block(0));
        let (order, purse) = (Order::Sequential, PurseId(1));
        self.tell(DOWNLOADER, Input::JobStarted { job, root, order, purse });
        self.waiting.extend(blocks.iter().map(|n| (job, *n)));
        let blocks = blocks.iter().map(|n| block(*n)).collect();
        self.tell(DOWNLOADER, Input::Want { job, blocks });
    }

    fn tell(&mut self, node: usize, input: Input) {
        let now = self.now;
        Rc::make_mut(&mut self.nodes[node].engine).handle(now, input);
        self.act(node);
    }

    fn act(&mut self, node: usize) {
        while let Some(output) = Rc::make_mut(&mut self.nodes[node].engine).poll_output() {
            self.perform(node, output);
        }
        self.nodes[node].hash = digest(&self.nodes[node].engine);
        if node == DOWNLOADER {
            self.note_hedges();
        }
    }

    fn note_hedges(&mut self) {
        let engine = &self.nodes[DOWNLOADER].engine;
        for n in 0..3 {
            self.hedged[n] |= (0..2).all(|l| engine.expects(conn(l), &block(n), usize::MAX));
        }
    }

    fn perform(&mut self, node: usize, output: Output) {
        let end = usize::from(node != DOWNLOADER);
        match output {
            Output::Send { conn, message } => {
                let link = &mut self.links[conn.0 as usize];
                if !link.closed {
                    let mut bytes = Vec::new();
                    message.encode(&mut bytes);
                    let item = Item::Message(Rc::new(message), digest(&bytes));
                    link.wires[1 - end].push_back(item);
                }
            }
            Output::LookUp { conn, blocks } => {
                let link = conn.0 as usize;
                let found = blocks.into_iter().map(|hash| (hash, presence(link, number(&hash))));
                self.tell(node, Input::LookedUp { conn, found: found.collect() });
            }
            Output::SendBlock { conn, hash } => {
                self.reads.push((conn.0 as usize, number(&hash)));
            }
            Output::CancelBlock { conn, hash } => {
                let queued = &mut self.links[conn.0 as usize].queued[end];
                if let Some(at) = queued.iter().position(|n| block(*n) == hash) {
                    queued.remove(at);
                    self.tell(node, Input::BlockSent { conn, hash, len: 0 });
                }
            }
            Output::Discover { job, .. } => self.discoveries.push(job),
            Output::Failed { job, hash, .. } => {
                assert!(self.waiting.remove(&(job, number(&hash))), "an end without a want");
            }
            Output::Close { conn, reason } => {
                // Providers never stall here, and time goes on only when all is said.
                assert!(reason == CloseReason::Idle, "{node} closes {conn:?}: {reason:?}");
                self.disconnect(conn.0 as usize);
            }
            Output::Ban { .. } => panic!("{node} bans an honest peer"),
            Output::Connect { .. } | Output::Score { .. } => {}
            Output::Pay { .. } | Output::Keep { .. } => panic!("nothing costs anything here"),
            Output::SlotTold { .. } => panic!("nobody speaks of slots here"),
        }
    }

    fn disconnect(&mut self, link: usize) {
        self.links[link] = Link { closed: true, ..Link::default() };
        self.reads.retain(|(of, _)| *of != link);
        for end in 0..2 {
            let reason = CloseReason::Remote(String::new());
            self.tell(node_of(link, end), Input::Disconnected { conn: conn(link), reason });
        }
    }

    fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for (n, link) in self.links.iter().enumerate() {
            for end in 0..2 {
                if !link.wires[end].is_empty() {
                    actions.push(Action::Arrive { link: n, end });
                }
                if !link.queued[end].is_empty() {
                    actions.push(Action::Transmit { link: n, end });
                }
            }
        }
        actions.extend((0..self.reads.len()).map(Action::Read));
        actions.extend((0..self.hashing.len()).map(Action::Hashed));
        actions.extend((0..self.discoveries.len()).map(Action::Discovered));
        if !self.second_began {
            actions.push(Action::SecondBegins);
        }
        if !self.first_ended {
            actions.push(Action::FirstEnds);
        }
        if !self.broken {
            actions.push(Action::Break);
        }
        let only_choices = actions.iter().all(|action| {
            matches!(action, Action::SecondBegins | Action::FirstEnds | Action::Break)
        });
        if only_choices && !self.waiting.is_empty() {
            actions.push(Action::Tick);
        }
        actions
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Arrive { link, end } => self.arrive(link, end),
            Action::Transmit { link, end } => {
                let n = self.links[link].queued[end].pop_front().expect("it was there");
                self.links[link].wires[1 - end].push_back(Item::Block(n));
                let (conn, hash, len) = (conn(link), block(n), LENGTHS[n]);
                self.tell(node_of(link, end), Input::BlockSent { conn, hash, len });
            }
            Action::Read(at) => {
                let (link, n) = self.reads.remove(at);
                self.links[link].queued[1].push_back(n);
                let (conn, hash, len) = (conn(link), block(n), Some(LENGTHS[n]));
                self.tell(link + 1, Input::BlockQueued { conn, hash, len });
            }
            Action::Hashed(at) => self.hashed(at),
            Action::Discovered(at) => {
                let job = self.discoveries.remove(at);
                self.tell(DOWNLOADER, Input::DiscoveryDone { job });
            }
            Action::SecondBegins => {
                self.second_began = true;
                let lacking: Vec<_> = [1, 2].into_iter().filter(|n| !self.stored[*n]).collect();
                self.begin(JobId(2), &lacking);
            }
            Action::FirstEnds => {
                self.first_ended = true;
                self.left += 1;
                self.waiting.retain(|(job, _)| *job != JobId(1));
                self.tell(DOWNLOADER, Input::JobEnded { job: JobId(1) });
            }
            Action::Break => {
                self.broken = true;
                self.left += 1;
                self.disconnect(0);
            }
            Action::Tick => self.tick(),
        }
        self.check();
    }

    fn arrive(&mut self, link: usize, end: usize) {
        let (node, conn) = (node_of(link, end), conn(link));
        match self.links[link].wires[end].pop_front().expect("it was there") {
            Item::Message(message, _) => {
                let message = Message::clone(&message);
                self.tell(node, Input::Received { conn, message });
            }
            Item::Block(n) => {
                let (hash, len) = (block(n), LENGTHS[n]);
                self.copies[n] += 1;
                if self.nodes[node].engine.expects(conn, &hash, len as usize) {
                    self.hashing.push((link, n));
                } else {
                    let input = Input::BlockRejected { conn, hash, len, wanted: false };
                    self.tell(node, input);
                }
            }
        }
    }

    fn hashed(&mut self, at: usize) {
        let (link, n) = self.hashing.remove(at);
        // What nobody waits for is not kept.
        self.stored[n] |= self.waiting.iter().any(|(_, waited)| *waited == n);
        self.waiting.retain(|(_, waited)| *waited != n);
        let (conn, hash, len) = (conn(link), block(n), LENGTHS[n]);
        self.tell(DOWNLOADER, Input::BlockVerified { conn, hash, len });
    }

    fn tick(&mut self) {
        self.ticks += 1;
        assert!(self.ticks < TICKS_MAX, "{:?} wait for ever", self.waiting);
        let timers = self.nodes.iter().filter_map(|node| node.engine.next_timeout());
        let next = timers.min().expect("a want without a timer waits for ever");
        self.now = self.now.max(next);
        for node in 0..3 {
            if self.nodes[node].engine.next_timeout().is_some_and(|at| at <= self.now) {
                let now = self.now;
                Rc::make_mut(&mut self.nodes[node].engine).handle_timeout(now);
                self.act(node);
            }
        }
    }

    /// What holds in every state.
    fn check(&self) {
        let engine = &self.nodes[DOWNLOADER].engine;
        let outstanding: u64 = engine.peers().iter().map(|peer| peer.outstanding_bytes).sum();
        assert_eq!(engine.inflight_bytes(), outstanding);
        let open: usize = engine.jobs().iter().map(|job| job.blocks_open).sum();
        assert!(open >= self.waiting.len(), "the engine forgot of {:?}", self.waiting);
        // A reader that leaves, or a connection, may cost a second copy; nothing else does.
        let spare = self.left + self.ticks.min(1);
        for n in [1, 2] {
            let spare = spare + u32::from(self.hedged[n]);
            assert!(self.copies[n] <= 1 + spare, "block {n} came {} times", self.copies[n]);
        }
    }

    /// What holds when nothing can happen any more.
    fn at_rest(&self) {
        assert!(self.waiting.is_empty());
        for (n, node) in self.nodes.iter().enumerate() {
            assert_eq!(node.engine.inflight_bytes(), 0, "node {n} waits for bytes");
            assert_eq!(node.engine.sending_bytes(), 0, "node {n} leaks bytes read ahead");
        }
        let have = LENGTHS.iter().enumerate().all(|(n, _)| self.copies[n] > 0);
        assert!(have || self.left > 0, "not all came: {:?}", self.copies);
    }

    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.nodes.iter().for_each(|node| node.hash.hash(&mut hasher));
        let flags = (self.second_began, self.first_ended, self.broken);
        (self.now.time(), self.ticks, self.copies, self.stored, self.hedged, flags)
            .hash(&mut hasher);
        self.waiting.iter().for_each(|(job, n)| (job.0, n).hash(&mut hasher));
        (&self.reads, &self.hashing).hash(&mut hasher);
        self.discoveries.iter().for_each(|job| job.0.hash(&mut hasher));
        digest(&self.links).hash(&mut hasher);
        hasher.finish()
    }
}

impl State {
    /// The state after an action; if that breaks a rule, the way there is printed.
    fn after(&self, action: Action, way: Option<&Rc<Step>>) -> Self {
        let mut next = self.clone();
        let run = std::panic::AssertUnwindSafe(|| next.apply(action));
        if let Err(broken) = std::panic::catch_unwind(run) {
            let steps = std::iter::successors(way, |step| step.before.as_ref());
            let mut actions: Vec<_> = steps.map(|step| step.action).collect();
            actions.reverse();
            println!("{actions:?}, then {action:?}");
            std::panic::resume_unwind(broken);
        }
        next
    }
}

/// Looks at every state within reach, or at the nearest `states_max`. Returns whether all were.
fn search(first: State, states_max: usize) -> bool {
    let mut seen = HashSet::from([first.hash()]);
    let mut queue = VecDeque::from([(first, None::<Rc<Step>>)]);
    let (mut ends, mut steps) = (0_u64, 0_u64);
    while let Some((state, way)) = queue.pop_front()
        && seen.len() < states_max
    {
        let actions = state.actions();
        if actions.is_empty() {
            state.at_rest();
            ends += 1;
        }
        for action in actions {
            let next = state.after(action, way.as_ref());
            steps += 1;
            if seen.insert(next.hash()) {
                let step = Step { action, before: way.clone() };
                queue.push_back((next, Some(Rc::new(step))));
            }
        }
    }
    let all = seen.len() < states_max;
    println!("{} states, {steps} steps, {ends} ends; all there are: {all}", seen.len());
    all
}

#[test]
fn no_order_of_events_among_three_peers_and_three_blocks_breaks_a_rule() {
    let mut first = State::new();
    // One reader who stays, and connections that hold.
    (first.second_began, first.first_ended, first.broken) = (true, true, true);
    assert!(search(first, usize::MAX));
}

#[test]
fn no_order_with_readers_and_connections_that_come_and_go_breaks_a_rule() {
    let states_max = crate::number("BARROW_MODEL_STATES").unwrap_or(STATES_MAX);
    search(State::new(), states_max as usize);
}
