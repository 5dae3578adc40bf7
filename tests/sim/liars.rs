//! Swarms of which a part sends garbage or lies.

use crate::{network::between, number, run_seeds, world::*};
use std::time::Duration;

/// Nodes of such a swarm, of which the first has everything.
const NODES: usize = 10;
/// So many blocks that whoever lies is asked often enough to be known for it.
const BLOCKS: usize = 60;
/// Seeds of each share at most.
const SEEDS_MAX: u64 = 40;

impl World {
    /// One honest source, others who fetch, and so many in a hundred who lie or send garbage.
    pub(super) fn liars(&mut self, percent: usize) {
        self.make_dataset(BLOCKS);
        for n in 0..NODES {
            let faulty = n >= NODES - NODES * percent / 100;
            let nature = match (faulty, self.below(2)) {
                (false, _) => Nature::Honest,
                (true, 0) => Nature::Garbage,
                (true, _) => Nature::Liar,
            };
            self.add_node(nature);
            let wait = between(&mut self.rng, Duration::ZERO, 1_000 * MS);
            self.after(wait, Event::Start { node: n });
        }
        let source = &mut self.nodes[0];
        for hash in &self.datasets[0].blocks {
            source.store.insert(*hash, self.contents[hash].clone());
        }
        source.complete.insert(self.datasets[0].blocks[0]);
    }
}

#[test]
fn a_part_that_lies_or_sends_garbage_spoils_nothing_and_is_banned() {
    // Such a swarm is ten times the work of another.
    let seeds = number("BARROW_SIM_SEEDS").unwrap_or(8).min(SEEDS_MAX);
    println!("percent,seeds,downloads_done,wrong_blocks,offenders,banned,offences_most,last_s");
    for percent in [10, 30, 50] {
        // Rules ended the run if a wrong byte was taken, or if somebody lacks a block.
        let runs = run_seeds(Setting::Liars(percent), seeds);
        let sum = |what: fn(&Summary) -> u64| runs.iter().map(what).sum::<u64>();
        let downloads = runs.len() * (NODES - NODES * percent / 100 - 1);
        let (offenders, bans) = (sum(|run| run.offenders), sum(|run| run.bans));
        let most = runs.iter().map(|run| run.offences_most).max().expect("a seed ran");
        let last = runs.iter().map(|run| run.ended).max().expect("a seed ran");
        println!(
            "{percent},{},{downloads},{},{offenders},{bans},{most},{:.1}",
            runs.len(),
            sum(|run| run.rejected),
            last.time().as_secs_f64(),
        );
        assert_eq!(most, 3, "nobody offends more often, and some do so often");
    }
}
