//! A swarm, its events in the order of their moments, and what runs them.

use crate::{money::Purse, network::Link, plants::Plant, rules::Asks};
use barrow::engine::{CloseReason, ConnId, Engine, Input, JobId, Moment, Rng};
use barrow::{Cid, Multihash, PeerId};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

pub const MS: Duration = Duration::from_millis(1);
/// What is still under way when all have what they want has come by so much later.
const REST: Duration = Duration::from_secs(5);
/// By then it must have.
const WORLD_END: Moment = Moment::at(Duration::from_secs(600));
/// More events than this are a livelock.
const EVENTS_MAX: u64 = 3_000_000;

/// What a world is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Everybody fetches everything, and things break.
    Swarm,
    /// The same, and everybody has a price.
    Market,
    /// Many retrievals of the same blocks begin and end on one node; nothing breaks.
    Crowd,
    /// So many of a hundred nodes send garbage or lie, and one honest node has everything.
    Liars(usize),
}

impl Setting {
    /// Something new happens until then; afterwards everything must come to a good end.
    pub const fn faults_end(self) -> Moment {
        Moment::at(match self {
            Self::Swarm | Self::Market => Duration::from_secs(20),
            Self::Crowd | Self::Liars(_) => Duration::from_secs(2),
        })
    }
}

/// What is wrong with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
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

pub struct Dataset {
    pub root: Cid,
    pub blocks: Vec<Multihash>,
}

/// A retrieval, as the network store and the stream on it run one.
pub struct Fetch {
    pub job: JobId,
    pub dataset: usize,
    /// Sequential readers ask for no more than this ahead.
    pub window: usize,
    /// Blocks that it has not come to.
    pub left: BTreeSet<Multihash>,
    /// Those of them that it waits for.
    pub asked: BTreeSet<Multihash>,
}

pub struct Node {
    pub nature: Nature,
    pub engine: Option<Engine>,
    /// Grows with each start, so that what belonged to the life before is not mistaken.
    pub life: u64,
    pub store: BTreeMap<Multihash, Bytes>,
    pub complete: BTreeSet<Multihash>,
    pub bans: Vec<(PeerId, Moment)>,
    pub fetches: Vec<Fetch>,
    /// What other threads tell the engine, in their order.
    pub commands: VecDeque<Input>,
    /// Who waits for which block.
    pub waiting: BTreeMap<Multihash, BTreeSet<JobId>>,
    pub upload_bytes_per_second: u64,
    pub upload_free_at: Moment,
    /// Wrong blocks received of each peer since its last ban.
    pub wrong: BTreeMap<PeerId, u32>,
    /// Offences that the engine counts of each peer.
    pub offences: BTreeMap<PeerId, u32>,
    pub timer: Option<Moment>,
    pub asks: Asks,
    pub purse: Purse,
}

pub enum Event {
    Arrive {
        link: usize,
        side: usize,
        bytes: Vec<u8>,
    },
    Pump {
        link: usize,
        side: usize,
    },
    Gone {
        link: usize,
        side: usize,
    },
    Timer {
        node: usize,
    },
    Told {
        node: usize,
        life: u64,
        input: Input,
    },
    Commands {
        node: usize,
        life: u64,
    },
    Read {
        node: usize,
        life: u64,
        conn: ConnId,
        hash: Multihash,
    },
    /// A worker has hashed a block, and hands it over.
    Verified {
        node: usize,
        life: u64,
        conn: ConnId,
        hash: Multihash,
        bytes: Vec<u8>,
    },
    /// The reactor hears of it.
    Delivered {
        node: usize,
        life: u64,
        conn: ConnId,
        hash: Multihash,
        len: u32,
    },
    Retry {
        node: usize,
        life: u64,
        job: JobId,
        hash: Multihash,
    },
    Begin {
        node: usize,
        dataset: usize,
    },
    GiveUp {
        node: usize,
    },
    Fault,
    Start {
        node: usize,
    },
    Heal {
        pair: (usize, usize),
    },
}

/// How a run went; equal for equal seeds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub trace: u64,
    pub ended: Moment,
    /// Blocks that came whole and right.
    pub blocks: u64,
    /// Of those, second copies, by whether two were asked at one time or a wish was taken back.
    pub hedged: u64,
    pub inline: u64,
    pub crossed: u64,
    /// Blocks that nobody asked for.
    pub unasked: u64,
    pub rejected: u64,
    pub bans: u64,
    /// Pairs of an honest node and a faulty one that offended against it.
    pub offenders: u64,
    /// The most offences that were counted of anybody.
    pub offences_most: u64,
    pub failed: u64,
    /// Units in vouchers.
    pub paid: u64,
    /// What the plant broke.
    pub planted: u64,
}

pub struct World {
    pub rng: Rng,
    pub setting: Setting,
    pub plant: Option<Plant>,
    pub now: Moment,
    queue: BTreeMap<(Moment, u64), Event>,
    sequence: u64,
    pub nodes: Vec<Node>,
    pub datasets: Vec<Dataset>,
    pub contents: BTreeMap<Multihash, Bytes>,
    pub links: Vec<Option<Link>>,
    /// Who is at the two ends of each link, also of those that are gone.
    pub parties: Vec<[usize; 2]>,
    pub cut: BTreeSet<(usize, usize)>,
    pub inputs: VecDeque<(usize, Input)>,
    pub jobs: u64,
    /// Nodes whose engines heard something since the rules were last checked.
    pub touched: BTreeSet<usize>,
    /// Prints the trace: `BARROW_SIM_LOG=1`.
    loud: bool,
    pub summary: Summary,
}

impl World {
    pub fn new(seed: u64, setting: Setting, plant: Option<Plant>) -> Self {
        let mut world = Self {
            rng: Rng::new(seed ^ 0xBA44_0112),
            setting,
            plant,
            now: Moment::default(),
            queue: BTreeMap::new(),
            sequence: 0,
            nodes: Vec::new(),
            datasets: Vec::new(),
            contents: BTreeMap::new(),
            links: Vec::new(),
            parties: Vec::new(),
            cut: BTreeSet::new(),
            inputs: VecDeque::new(),
            jobs: 0,
            touched: BTreeSet::new(),
            loud: std::env::var_os("BARROW_SIM_LOG").is_some(),
            summary: Summary { trace: 0xcbf2_9ce4_8422_2325, ..Summary::default() },
        };
        match setting {
            Setting::Swarm => world.swarm(),
            Setting::Market => world.market(),
            Setting::Crowd => world.crowd(),
            Setting::Liars(percent) => world.liars(percent),
        }
        world
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.rng.below(bound as u64) as usize
    }

    /// Runs to the good end, or panics with the rule that was broken.
    pub fn run(mut self) -> Summary {
        let mut events = 0;
        let mut done_at = None;
        while let Some(((at, _), event)) = self.queue.pop_first() {
            assert!(at < WORLD_END, "not done after {WORLD_END:?}: {}", self.unfinished());
            self.now = at;
            self.step(event);
            self.settle();
            self.check();
            events += 1;
            assert!(events < EVENTS_MAX, "a livelock at {:?}: {}", self.now, self.unfinished());
            if self.now < self.setting.faults_end() || !self.is_done() {
                done_at = None;
            } else if self.now.since(*done_at.get_or_insert(self.now)) > REST {
                break;
            }
        }
        assert!(self.is_done(), "nothing happens any more: {}", self.unfinished());
        self.now = done_at.unwrap_or(self.now);
        self.at_rest();
        self.summary.ended = self.now;
        self.summary.paid = self.turnover();
        self.summary
    }

    pub(super) fn after(&mut self, wait: Duration, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now.after(wait), self.sequence), event);
    }

    pub(super) fn trace(&mut self, what: std::fmt::Arguments<'_>) {
        if self.loud {
            println!("{:?} {what}", self.now.time());
        }
        for byte in format!("{:?} {what}", self.now.time()).bytes() {
            let mixed = self.summary.trace ^ u64::from(byte);
            self.summary.trace = mixed.wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn is_done(&self) -> bool {
        let honest = self.nodes.iter().filter(|node| node.nature == Nature::Honest);
        honest.into_iter().all(|node| {
            node.engine.is_some() && node.fetches.iter().all(|fetch| fetch.left.is_empty())
        })
    }

    fn unfinished(&self) -> String {
        let nodes = self.nodes.iter().enumerate();
        let mut open: Vec<_> = nodes
            .filter(|(_, node)| node.nature == Nature::Honest)
            .map(|(n, node)| {
                let open: Vec<_> = node.fetches.iter().flat_map(|fetch| &fetch.left).collect();
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
                    self.touched.insert(node);
                    engine.handle_timeout(now);
                    assert!(engine.next_timeout() > Some(now) || engine.next_timeout().is_none());
                    self.act(node);
                }
                self.arm(node);
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
            Event::Commands { node, life } => {
                if self.nodes[node].life == life {
                    self.take_commands(node);
                }
            }
            Event::Delivered { node, life, conn, hash, len } => {
                if self.nodes[node].life == life {
                    self.delivered(node, conn, hash, len);
                }
            }
            Event::Retry { node, life, job, hash } => {
                if self.nodes[node].life == life {
                    self.retry(node, job, hash);
                }
            }
            Event::Begin { node, dataset } => self.start_fetch(node, dataset),
            Event::GiveUp { node } => self.give_up(node),
            Event::Fault => self.fault(),
            Event::Start { node } => self.start(node),
            Event::Heal { pair } => _ = self.cut.remove(&pair),
        }
    }

    pub(super) fn settle(&mut self) {
        while let Some((node, input)) = self.inputs.pop_front() {
            if self.nodes[node].engine.is_none() {
                continue;
            }
            self.trace(format_args!("{node} < {input:?}"));
            let now = self.now;
            self.hears(node, &input);
            self.falls_due(node, &input);
            self.touched.insert(node);
            self.nodes[node].engine.as_mut().expect("it runs").handle(now, input);
            self.act(node);
        }
    }
}
