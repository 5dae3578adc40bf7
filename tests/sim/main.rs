//! Many engines with real sessions on one seed: a network with delay, bandwidth, lost
//! connections, partitions and churn, and peers that send garbage, lie, fall silent or flood.
//!
//! `cargo test --test sim` runs 50 seeds of each setting; `BARROW_SIM_SEEDS=20000` that many; a
//! seed that fails is printed, and `BARROW_SIM_SEED=N` runs it alone, with its whole trace where
//! `BARROW_SIM_LOG=1` asks for it. `BARROW_SIM_PLANT_SEEDS=200` says in how many seeds each
//! planted fault is found, `BARROW_MODEL_STATES` how many states the model checker looks at.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test reports by a panic"
)]

mod bytes_between;
mod crowds;
mod liars;
mod model;
mod money;
mod network;
mod people;
mod plants;
mod retrievals;
mod rules;
mod scenes;
mod shell;
mod world;

use plants::Plant;
use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};
use world::{Setting, Summary, World};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// How a seed went, or the rule that it broke.
fn outcome(seed: u64, setting: Setting, plant: Option<Plant>) -> Result<Summary, String> {
    let run = std::panic::catch_unwind(|| World::new(seed, setting, plant).run());
    run.map_err(|error| {
        let text = error.downcast_ref::<String>().cloned();
        text.or_else(|| error.downcast_ref::<&str>().map(|s| (*s).into())).unwrap_or_default()
    })
}

/// Runs seeds on all cores; fails with those that broke a rule.
fn run_seeds(setting: Setting, seeds: u64) -> Vec<Summary> {
    if let Some(seed) = number("BARROW_SIM_SEED") {
        let summary = World::new(seed, setting, None).run();
        println!("{setting:?} seed {seed}: {summary:?}");
        return vec![summary];
    }
    let next = AtomicU64::new(0);
    let outcomes = std::sync::Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    let outcome = outcome(seed, setting, None);
                    if let Err(what) = &outcome {
                        eprintln!("{setting:?} BARROW_SIM_SEED={seed}: {what}");
                    }
                    outcomes.lock().unwrap().push((seed, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap();
    outcomes.sort_by_key(|(seed, _)| *seed);
    report(setting, &outcomes);
    outcomes.into_iter().filter_map(|(_, outcome)| outcome.ok()).collect()
}

fn report(setting: Setting, outcomes: &[(u64, Result<Summary, String>)]) {
    let sum = |what: fn(&Summary) -> u64| {
        outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().ok()).map(what).sum::<u64>()
    };
    println!(
        "{setting:?}: {} seeds, {} blocks, twice: {} hedged, {} inline, {} crossed a cancel; {} unasked, \
         {} wrong, {} bans, {} wants failed on the way, {} units paid",
        outcomes.len(),
        sum(|s| s.blocks),
        sum(|s| s.hedged),
        sum(|s| s.inline),
        sum(|s| s.crossed),
        sum(|s| s.unasked),
        sum(|s| s.rejected),
        sum(|s| s.bans),
        sum(|s| s.failed),
        sum(|s| s.paid),
    );
    let mut failed = 0;
    let mut text = String::new();
    for (seed, outcome) in outcomes {
        let Err(what) = outcome else { continue };
        failed += 1;
        if failed <= 10 {
            writeln!(text, "BARROW_SIM_SEED={seed}: {what}").unwrap();
        }
    }
    assert!(failed == 0, "{failed} of {} seeds failed:\n{text}", outcomes.len());
}

#[test]
fn no_seed_breaks_a_rule() {
    run_seeds(Setting::Swarm, number("BARROW_SIM_SEEDS").unwrap_or(50));
}

#[test]
fn whoever_sells_is_paid_for_what_came_and_once() {
    run_seeds(Setting::Market, number("BARROW_SIM_SEEDS").unwrap_or(50));
}

#[test]
fn many_readers_of_the_same_blocks_fetch_each_once() {
    run_seeds(Setting::Crowd, number("BARROW_SIM_SEEDS").unwrap_or(50));
}

#[test]
fn the_same_seed_has_the_same_trace() {
    for setting in [Setting::Swarm, Setting::Market, Setting::Crowd] {
        for seed in [3, 4, 5] {
            let run = |seed| World::new(seed, setting, None).run();
            let first = run(seed);
            assert_eq!(first, run(seed), "seed {seed}");
            assert_ne!(first.trace, run(seed + 100).trace);
        }
    }
}
