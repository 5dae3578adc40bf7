//! Retrievals, as the network store runs them: who waits for which block is known to it at once,
//! and the engine hears of it later, in the order of the commands.

use crate::{
    network::{between, end_of, keys},
    plants::Plant,
    world::*,
};
use barrow::engine::{ConnId, Input, JobId, Order, PurseId};
use barrow::{Block, Multihash};
use std::{collections::BTreeSet, time::Duration};

impl World {
    pub(super) fn start_fetch(&mut self, node: usize, dataset: usize) {
        if self.nodes[node].engine.is_none() {
            return;
        }
        self.jobs += 1;
        let job = JobId(self.jobs);
        let order = if self.below(2) == 0 { Order::Bulk } else { Order::Sequential };
        let window = match order {
            Order::Bulk => usize::MAX,
            Order::Sequential => 1 + self.below(10),
        };
        let Dataset { root, blocks } = &self.datasets[dataset];
        let (root, left) = (*root, blocks.iter().copied().collect());
        let purse = PurseId(job.0);
        self.command(node, Input::JobStarted { job, root, order, purse });
        let asked = BTreeSet::new();
        self.nodes[node].fetches.push(Fetch { job, dataset, window, left, asked });
        self.want_more(node, job);
    }

    /// Asks for what a reader wants next: all, or a window.
    pub(super) fn want_more(&mut self, node: usize, job: JobId) {
        let here = &mut self.nodes[node];
        let Some(at) = here.fetches.iter().position(|fetch| fetch.job == job) else { return };
        let fetch = &mut here.fetches[at];
        fetch.left.retain(|hash| !here.store.contains_key(hash) || fetch.asked.contains(hash));
        let blocks = self.datasets[fetch.dataset].blocks.iter();
        let ahead = blocks.filter(|hash| fetch.left.contains(hash)).take(fetch.window);
        let wanted: Vec<_> = ahead.filter(|hash| !fetch.asked.contains(hash)).copied().collect();
        for hash in &wanted {
            fetch.asked.insert(*hash);
            here.waiting.entry(*hash).or_default().insert(job);
        }
        if fetch.left.is_empty() {
            let root = self.datasets[fetch.dataset].blocks[0];
            here.fetches.remove(at);
            here.complete.insert(root);
            self.end_fetch(node, job);
        } else if !wanted.is_empty() {
            self.command(node, Input::Want { job, blocks: wanted });
        }
    }

    fn end_fetch(&mut self, node: usize, job: JobId) {
        self.command(node, Input::JobEnded { job });
        self.command(node, Input::PurseClosed { purse: PurseId(job.0) });
    }

    /// A reader goes away, or skips some of what it waits for.
    pub(super) fn give_up(&mut self, node: usize) {
        if self.nodes[node].fetches.is_empty() {
            return;
        }
        let at = self.below(self.nodes[node].fetches.len());
        let all = self.below(3) > 0;
        let chance = self.rng.bits();
        let here = &mut self.nodes[node];
        let fetch = &mut here.fetches[at];
        let job = fetch.job;
        let mut taken: Vec<_> = fetch.asked.iter().copied().collect();
        if !all {
            let mut place = 0;
            taken.retain(|_| {
                place += 1;
                chance >> (place % 64) & 1 == 0
            });
        }
        for hash in &taken {
            fetch.left.remove(hash);
            fetch.asked.remove(hash);
            if let Some(jobs) = here.waiting.get_mut(hash) {
                jobs.remove(&job);
            }
        }
        here.waiting.retain(|_, jobs| !jobs.is_empty());
        if all {
            here.fetches.remove(at);
            self.end_fetch(node, job);
        } else {
            self.command(node, Input::Unwant { job, blocks: taken });
            self.want_more(node, job);
        }
    }

    /// A want failed; somebody asks again, and at last it must be there.
    pub(super) fn want_failed(&mut self, node: usize, job: JobId, hash: Multihash) {
        let here = &mut self.nodes[node];
        let waits = here.waiting.get_mut(&hash).is_some_and(|jobs| jobs.remove(&job));
        if waits {
            self.summary.failed += 1;
            let life = here.life;
            self.after(1_000 * MS, Event::Retry { node, life, job, hash });
        }
    }

    pub(super) fn retry(&mut self, node: usize, job: JobId, hash: Multihash) {
        let fetches = &mut self.nodes[node].fetches;
        if let Some(fetch) = fetches.iter_mut().find(|fetch| fetch.job == job) {
            fetch.asked.remove(&hash);
            self.want_more(node, job);
        }
    }

    fn command(&mut self, node: usize, input: Input) {
        let first = self.nodes[node].commands.is_empty();
        self.nodes[node].commands.push_back(input);
        if first {
            let life = self.nodes[node].life;
            let wait = between(&mut self.rng, Duration::ZERO, 2 * MS);
            self.after(wait, Event::Commands { node, life });
        }
    }

    /// Hands commands to the engine. What was delivered since a want was sent is no want.
    pub(super) fn take_commands(&mut self, node: usize) {
        while let Some(mut input) = self.nodes[node].commands.pop_front() {
            if let Input::Want { job, blocks } = &mut input {
                let waiting = &self.nodes[node].waiting;
                let waits =
                    |hash: &Multihash| waiting.get(hash).is_some_and(|jobs| jobs.contains(job));
                let stale = !blocks.iter().all(waits);
                if stale && !self.plants(Plant::StaleWants) {
                    let waiting = &self.nodes[node].waiting;
                    blocks.retain(|hash| waiting.get(hash).is_some_and(|jobs| jobs.contains(job)));
                }
            }
            self.inputs.push_back((node, input));
            self.settle();
        }
    }

    /// A worker has hashed a block.
    pub(super) fn verify(&mut self, node: usize, conn: ConnId, hash: Multihash, bytes: Vec<u8>) {
        let len = bytes.len() as u32;
        let mut result = Block::verify(hash, bytes.into());
        if self.plants(Plant::WrongVerdict) {
            result = Block::verify(hash, b"other bytes".as_slice().into());
        }
        let Ok(block) = result else {
            self.summary.rejected += 1;
            self.count_wrong(node, conn);
            let input = Input::BlockRejected { conn, hash, len, wanted: true };
            return self.inputs.push_back((node, input));
        };
        self.summary.blocks += 1;
        assert!(self.contents[&hash] == *block.data(), "a wrong byte was delivered");
        // One whose reader has left is kept all the same.
        self.nodes[node].store.insert(hash, block.into_data());
        for job in self.nodes[node].waiting.remove(&hash).unwrap_or_default() {
            let fetches = &mut self.nodes[node].fetches;
            if let Some(fetch) = fetches.iter_mut().find(|fetch| fetch.job == job) {
                fetch.left.remove(&hash);
                fetch.asked.remove(&hash);
            }
            self.want_more(node, job);
        }
        let life = self.nodes[node].life;
        // A worker may lose its core between the two.
        let longest = if self.below(4) == 0 { 10 * MS } else { MS };
        let wait = between(&mut self.rng, Duration::ZERO, longest);
        self.after(wait, Event::Delivered { node, life, conn, hash, len });
    }

    fn count_wrong(&mut self, node: usize, conn: ConnId) {
        let (link, side) = end_of(conn);
        let Some(wire) = &self.links[link] else { return };
        let from = wire.ends[1 - side].node;
        let planted = self.plant == Some(Plant::WrongVerdict);
        let honest = self.nodes[from].nature == Nature::Honest;
        assert!(!honest || planted, "honest peers send no garbage");
        let wrong = self.nodes[node].wrong.entry(keys()[from].0).or_default();
        *wrong += 1;
        // What was asked for before the third came may still arrive.
        assert!(*wrong <= 3 + 16 || planted, "{wrong} wrong blocks of one peer");
    }

    /// The engine takes every want of a block for answered that it knows of; whoever asked after
    /// the block was handed over still waits, and wants anew.
    pub(super) fn delivered(&mut self, node: usize, conn: ConnId, hash: Multihash, len: u32) {
        self.inputs.push_back((node, Input::BlockVerified { conn, hash, len }));
        let jobs = self.nodes[node].waiting.get(&hash).cloned().unwrap_or_default();
        for job in jobs {
            // Whose want still stands among the commands is not harmed.
            let heard = !self.nodes[node].commands.iter().any(|command| {
                matches!(command, Input::Want { job: of, blocks } if *of == job && blocks.contains(&hash))
            });
            if !heard || !self.plants(Plant::ForgottenWants) {
                self.inputs.push_back((node, Input::Want { job, blocks: vec![hash] }));
            }
        }
    }
}
