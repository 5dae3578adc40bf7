//! Who there is, who has what and who wants what, and what breaks.

use crate::{
    money::Purse,
    network::{Link, NODES_MAX, address_of, between, keys},
    rules::{Asks, INFLIGHT_BYTES_MAX, SERVE_BYTES_MAX},
    world::*,
};
use barrow::engine::{CloseReason, Engine, EngineConfig, Input, Moment};
use barrow::{Block, Cid, Codec};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// The longest block here.
const BLOCK_BYTES_MAX: u64 = 96 << 10;

impl World {
    /// Makes datasets, nodes, who has what, and who wants what.
    pub(super) fn swarm(&mut self) {
        let honest = 2 + self.below(5);
        let faulty = if self.below(2) == 0 { 0 } else { 1 + self.below(NODES_MAX - honest - 1) };
        for _ in 0..1 + self.below(2) {
            let blocks = 1 + self.below(30);
            self.make_dataset(blocks);
        }
        for n in 0..honest + faulty {
            let nature = match (n < honest, self.below(4)) {
                (true, _) => Nature::Honest,
                (false, 0) => Nature::Garbage,
                (false, 1) => Nature::Liar,
                (false, 2) => Nature::Silent,
                (false, _) => Nature::Flooder,
            };
            self.add_node(nature);
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
            let wait = between(&mut self.rng, Duration::ZERO, self.setting.faults_end().time());
            self.after(wait, Event::Fault);
        }
    }

    /// One node on which many readers want the same, and a few who have it or want it too.
    pub(super) fn crowd(&mut self) {
        let blocks = 1 + self.below(30);
        self.make_dataset(blocks);
        for _ in 0..2 + self.below(4) {
            self.add_node(Nature::Honest);
        }
        let crowded = self.nodes.len() - 1;
        for provider in 0..1 + self.below(crowded) {
            let blocks = self.datasets[0].blocks.clone();
            for hash in blocks {
                if provider == 0 || self.below(2) == 0 {
                    self.nodes[provider].store.insert(hash, self.contents[&hash].clone());
                }
            }
        }
        let root = self.datasets[0].blocks[0];
        self.nodes[0].complete.insert(root);
        for node in 0..self.nodes.len() {
            self.nodes[node].upload_bytes_per_second = 1_000_000 + self.rng.below(10_000_000);
            self.after(Duration::ZERO, Event::Start { node });
        }
        let readers = 10 + self.below(10);
        let begin = between(&mut self.rng, Duration::ZERO, 500 * MS);
        for _ in 0..readers {
            let wait = begin + between(&mut self.rng, Duration::ZERO, 200 * MS);
            self.after(wait, Event::Begin { node: crowded, dataset: 0 });
        }
        for _ in 0..self.below(readers) {
            let wait = begin + between(&mut self.rng, Duration::ZERO, 400 * MS);
            self.after(wait, Event::GiveUp { node: crowded });
        }
    }

    pub(super) fn add_node(&mut self, nature: Nature) {
        let upload_bytes_per_second = 200_000 + self.rng.below(5_000_000);
        self.nodes.push(Node {
            nature,
            engine: None,
            life: 0,
            store: BTreeMap::new(),
            complete: BTreeSet::new(),
            bans: Vec::new(),
            fetches: Vec::new(),
            commands: VecDeque::new(),
            waiting: BTreeMap::new(),
            upload_bytes_per_second,
            upload_free_at: Moment::default(),
            wrong: BTreeMap::new(),
            offences: BTreeMap::new(),
            timer: None,
            asks: Asks::default(),
            purse: Purse::default(),
        });
    }

    pub(super) fn make_dataset(&mut self, count: usize) {
        let mut blocks = Vec::new();
        for _ in 0..count {
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

    pub(super) fn start(&mut self, node: usize) {
        if self.nodes[node].engine.is_some() {
            return;
        }
        let mut config = EngineConfig::new(keys()[node].0, self.rng.bits());
        config.listen_port = 4780;
        config.inflight_bytes_max = INFLIGHT_BYTES_MAX;
        config.serve_bytes_max = SERVE_BYTES_MAX;
        config.bans = self.nodes[node].bans.clone();
        if self.is_market() {
            self.endow(node, &mut config);
        }
        self.nodes[node].engine = Some(Engine::new(config));
        self.nodes[node].life += 1;
        self.nodes[node].asks = Asks::default();
        // Who has the datasets is known to all; who else there is, to some.
        for other in 0..self.nodes.len() {
            if other != node && (other < 2 || self.below(2) == 0) {
                let address = address_of(other);
                let peer = (self.below(2) == 0).then_some(keys()[other].0);
                let told = Input::Address { address, peer, job: None, keep: true };
                self.inputs.push_back((node, told));
            }
        }
        let crowded = self.setting == Setting::Crowd && node + 1 == self.nodes.len();
        if self.nodes[node].nature == Nature::Honest && !crowded {
            for dataset in 0..self.datasets.len() {
                self.start_fetch(node, dataset);
            }
        }
    }

    /// Something breaks.
    pub(super) fn fault(&mut self) {
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

    pub(super) fn stop(&mut self, node: usize) {
        if self.is_market() {
            self.close_purse(node);
        }
        let here = &mut self.nodes[node];
        (here.engine, here.timer) = (None, None);
        here.life += 1;
        here.fetches.clear();
        here.commands.clear();
        here.waiting.clear();
        self.cut_links(|(a, b)| a == node || b == node);
    }

    pub(super) fn cut_links(&mut self, which: impl Fn((usize, usize)) -> bool) {
        for link in 0..self.links.len() {
            let Some(Link { ends: [a, b], .. }) = &self.links[link] else { continue };
            if which((a.node.min(b.node), a.node.max(b.node))) {
                for side in 0..2 {
                    self.end_gone(link, side, CloseReason::Remote("cut".into()));
                }
            }
        }
    }
}
