//! Many engines with real sessions on one seed: a network with delay, bandwidth, lost
//! connections, partitions and churn, and peers that send garbage, lie, fall silent or flood.
//!
//! `cargo test --test sim` runs 50 seeds; `BARROW_SIM_SEEDS=20000` that many; a seed that fails
//! is printed, and `BARROW_SIM_SEED=N` runs it alone.

mod model;
mod network;
mod scale;
mod world;

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};
use world::World;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// What went wrong with a seed, if anything did.
fn violation(seed: u64) -> Option<String> {
    let run = std::panic::catch_unwind(|| World::new(seed).run());
    let error = run.err()?;
    let text = error.downcast_ref::<String>().cloned();
    Some(text.or_else(|| error.downcast_ref::<&str>().map(|s| (*s).into())).unwrap_or_default())
}

#[test]
fn no_seed_breaks_a_rule() {
    if let Some(seed) = number("BARROW_SIM_SEED") {
        let summary = World::new(seed).run();
        println!("seed {seed}: {summary:?}");
        return;
    }
    let seeds = number("BARROW_SIM_SEEDS").unwrap_or(50);
    let next = AtomicU64::new(0);
    let failed = std::sync::Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    if let Some(what) = violation(seed) {
                        failed.lock().unwrap().push((seed, what));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort();
    let mut report = String::new();
    for (seed, what) in failed.iter().take(10) {
        writeln!(report, "BARROW_SIM_SEED={seed}: {what}").unwrap();
    }
    assert!(failed.is_empty(), "{} of {seeds} seeds failed:\n{report}", failed.len());
}

#[test]
fn the_same_seed_has_the_same_trace() {
    for seed in [3, 4, 5] {
        let (first, second) = (World::new(seed).run(), World::new(seed).run());
        assert_eq!(first, second, "seed {seed}");
        assert_ne!(first.trace, World::new(seed + 100).run().trace);
    }
}
