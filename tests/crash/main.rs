//! The store over crashes: whatever a disk forgets, what was acknowledged is there, and what is
//! wrong is not served.
//!
//! `BARROW_CRASH_SEQUENCES` says how many random sequences are tried (2,000 by default; 100,000 in
//! CI; `BARROW_CRASH_SEQUENCES=5000000 cargo test --release --test crash random` is the long run),
//! and `BARROW_CRASH_FROM` with which seed they begin (0 by default). A sequence that fails is
//! printed with its seed, made as short as it can be; `BARROW_CRASH_SEED` tries one.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test reports by a panic"
)]

mod database;
mod medium;
mod model;

use database::CHANGES;
use medium::{Loss, Plant};
use model::{BLOCKS, Bench, Model, Op};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A small generator, the same everywhere.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 33) % n as u64) as usize
    }
}

fn sequence(seed: u64) -> Vec<Op> {
    let mut random = Random::new(seed);
    let len = 5 + random.below(40);
    let mut ops: Vec<Op> = (0..len)
        .map(|_| {
            let block = random.below(BLOCKS);
            let slot = random.below(2);
            match random.below(46) {
                0..10 => Op::Put(Some(slot), block),
                10..13 => Op::Put(None, block),
                13..17 => Op::Begin(slot),
                17..21 => Op::Finish(slot, random.below(3) > 0),
                21 => Op::Abandon(slot),
                22 => Op::Pin(block, random.below(2) == 0),
                23..26 => Op::Remove(block),
                26 => Op::Gc,
                27..29 => Op::Commit,
                29..31 => Op::Sync,
                31 => Op::Scrub,
                32 => Op::Touch(block),
                33 => Op::Fault(random.next() % 12),
                34 => Op::Reopen,
                40 => Op::PinUntil(block, random.next() % 4),
                41 => Op::Expire(random.next() % 3),
                42..44 => Op::Publish,
                44 => Op::RefuseIndex(Some(random.below(CHANGES.len()))),
                45 => Op::RefuseIndex(None),
                _ => Op::Crash(
                    random.next(),
                    if random.below(2) == 0 { 0 } else { random.below(12) },
                ),
            }
        })
        .collect();
    ops.push(Op::Crash(random.next(), random.below(4)));
    ops
}

/// Every third store has a quota, from less than two packs to more than all blocks.
fn quota(seed: u64) -> Option<u64> {
    (seed % 3 == 2).then_some((48 << 10) + seed / 3 % 64 * 4_096)
}

/// Tries a sequence, perhaps with something broken on purpose.
fn try_sequence(
    bench: &Bench,
    ops: &[Op],
    quota: Option<u64>,
    plant: Option<Plant>,
) -> Result<(), String> {
    let mut model = bench.model();
    if let Some(quota) = quota {
        model = model.bounded(quota);
    }
    if let Some(plant) = plant {
        model.medium.plant(plant);
    }
    let tried = catch_unwind(AssertUnwindSafe(|| {
        ops.iter().enumerate().try_for_each(|(at, op)| {
            model.step(*op).map_err(|broken| format!("after step {at}, {op:?}: {broken}"))
        })
    }));
    tried.unwrap_or_else(|_| Err("a panic".into()))
}

/// Leaves out what is not needed to fail.
fn shrink(bench: &Bench, mut ops: Vec<Op>, quota: Option<u64>, plant: Option<Plant>) -> Vec<Op> {
    let mut at = 0;
    while at < ops.len() {
        let mut shorter = ops.clone();
        shorter.remove(at);
        if try_sequence(bench, &shorter, quota, plant).is_err() {
            ops = shorter;
        } else {
            at += 1;
        }
    }
    ops
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn random_sequences_of_operations_faults_and_crashes_break_no_promise() {
    let one = number("BARROW_CRASH_SEED");
    let (from, count) = match one {
        Some(seed) => (seed, 1),
        None => (
            number("BARROW_CRASH_FROM").unwrap_or(0),
            number("BARROW_CRASH_SEQUENCES").unwrap_or(2_000),
        ),
    };
    let threads = 2;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let bench = Bench::new();
                for seed in (from..from + count).filter(|seed| seed % threads == thread) {
                    let ops = sequence(seed);
                    let quota = quota(seed);
                    if let Err(broken) = try_sequence(&bench, &ops, quota, None) {
                        let ops = shrink(&bench, ops, quota, None);
                        let shortest = try_sequence(&bench, &ops, quota, None);
                        panic!(
                            "seed {seed}, quota {quota:?}: {broken}\n\
                             shortest: {ops:?}\n{shortest:?}"
                        );
                    }
                }
            });
        }
    });
    println!("{count} sequences, from seed {from} on, without a broken promise");
}

/// Asserts that what is broken on purpose is found within so many sequences.
fn found(plant: Plant, within: u64) {
    let bench = Bench::new();
    let fails =
        |seed: &u64| try_sequence(&bench, &sequence(*seed), quota(*seed), Some(plant)).is_err();
    let seed = (0..within).find(fails);
    let seed = seed.unwrap_or_else(|| panic!("{plant:?} is not found within {within} sequences"));
    let quota = quota(seed);
    let shortest = shrink(&bench, sequence(seed), quota, Some(plant));
    let broken = try_sequence(&bench, &shortest, quota, Some(plant));
    println!("{plant:?}: found at seed {seed}, quota {quota:?}: {shortest:?}: {broken:?}");
    assert!(broken.is_err() && shortest.len() <= 12, "{shortest:?}");
}

#[test]
fn a_sync_left_out_is_found() {
    found(Plant::EverySync, 100);
}

#[test]
fn a_sync_left_out_before_a_dataset_is_whole_is_found() {
    found(Plant::SyncBeforeDataset, 20_000);
}

#[test]
fn a_sync_left_out_when_a_dataset_is_whole_is_found() {
    found(Plant::SyncOfDataset, 1_000);
}

#[test]
fn a_sync_left_out_when_a_dataset_is_forgotten_is_found() {
    found(Plant::SyncOfForget, 1_000);
}

#[test]
fn a_sync_left_out_when_a_pack_is_full_is_found() {
    found(Plant::SyncOfFullPack, 1_000);
}

#[test]
fn a_name_that_is_not_made_to_last_is_found() {
    found(Plant::NameUnsynced, 1_000);
}

#[test]
fn a_failed_sync_that_is_taken_for_done_is_found() {
    found(Plant::FailureSwallowed, 20_000);
}

#[test]
fn a_hole_that_is_too_wide_is_found() {
    found(Plant::HoleTooWide, 20_000);
}

/// Every workload of at most three operations, the power going at each change that it makes.
#[test]
fn every_short_workload_survives_a_crash_at_every_point() {
    let alphabet = [
        Op::Put(Some(0), 3),
        Op::Put(None, 8),
        Op::Finish(0, true),
        Op::Pin(3, false),
        Op::Remove(3),
        Op::Gc,
        Op::Publish,
        Op::Commit,
        Op::Sync,
        Op::Reopen,
    ];
    let bench = Bench::new();
    let mut tried = 0_u64;
    for a in alphabet {
        for b in alphabet {
            for c in alphabet {
                tried += crash_everywhere(&bench, &[a, b, c]);
            }
        }
    }
    println!("{tried} crashes");
    assert!(tried > 10_000);
}

/// The workload stands behind something stored, and is cut at each change; gives the crashes.
fn crash_everywhere(bench: &Bench, ops: &[Op]) -> u64 {
    let before =
        [Op::Begin(1), Op::Put(Some(1), 6), Op::Put(Some(1), 7), Op::Finish(1, true), Op::Begin(0)];
    let start = |model: &mut Model| before.iter().try_for_each(|op| model.step(*op));
    let mut whole = bench.model();
    start(&mut whole).unwrap();
    let (first, commits) = (whole.medium.calls(), whole.medium.commits());
    ops.iter().try_for_each(|op| whole.step(*op)).unwrap();
    let (last, back) = (whole.medium.calls(), whole.medium.commits() - commits);
    drop(whole);
    let mut tried = 0;
    for point in first + 1..=last + 1 {
        for loss in [Loss::All, Loss::Nothing, Loss::Some(point)] {
            for back in [0, back] {
                let mut model = bench.model();
                start(&mut model).unwrap();
                model.medium.die_at(point);
                for op in ops {
                    // A store that lost its power tells errors, no lies.
                    let _ = model.step(*op);
                }
                model.crash(loss, back);
                let checked = model.reopen().and_then(|()| model.check());
                assert_eq!(checked, Ok(()), "{ops:?}, change {point}, {loss:?}, {back} commits");
                tried += 1;
            }
        }
    }
    tried
}

#[test]
fn a_flipped_bit_is_never_served() {
    let bench = Bench::new();
    for seed in 0..2_000_u64 {
        let mut model = bench.model();
        model.step(Op::Begin(0)).unwrap();
        for n in 0..BLOCKS {
            model.step(Op::Put(Some(0), n)).unwrap();
        }
        model.step(Op::Finish(0, true)).unwrap();
        let mut random = Random::new(seed);
        model.medium.flip(random.below(8), random.next());
        model.look_at_blocks(true).unwrap();
        model.crash(Loss::Nothing, random.below(3));
        model.reopen().unwrap();
        model.look_at_blocks(true).unwrap();
    }
}

/// Whatever part of a pack the drive cannot read, and however much of the index is lost.
#[test]
fn a_sector_that_cannot_be_read_costs_what_lies_in_it_alone() {
    let bench = Bench::new();
    let mut lost = 0;
    for seed in 0..600_u64 {
        let mut model = bench.model();
        for op in [Op::Begin(0), Op::Begin(1)] {
            model.step(op).unwrap();
        }
        for n in 0..BLOCKS {
            model.step(Op::Put(Some(n % 2), n)).unwrap();
        }
        model.step(Op::Finish(0, true)).unwrap();
        model.step(Op::Finish(1, false)).unwrap();
        let mut random = Random::new(seed);
        let start = random.below(32) as u64 * 4_096;
        let spoilt = (1 + random.below(4) as u32, start..start + 4_096);
        model.medium.spoil(spoilt.0, spoilt.1.clone());
        let back = if seed % 2 == 0 { usize::MAX } else { random.below(3) };
        model.crash(Loss::Nothing, back);
        model.reopen().unwrap_or_else(|error| panic!("{spoilt:?}: {error}"));
        // A block of 20,000 bytes may go, with one at each of its ends and what describes a dataset.
        let here = model.count_blocks();
        assert!(here + 6 >= BLOCKS, "{spoilt:?}: {here} blocks are left");
        lost += BLOCKS - here;
        // What is left can be removed, though that reads through the packs.
        model.step(Op::Gc).unwrap();
        // It may have lost what describes it, and be said to be gone.
        let _ = model.step(Op::Remove(0));
        model.look_at_blocks(true).unwrap();
        assert_eq!(model.failure, None, "{spoilt:?}, seed {seed}");
    }
    assert!(lost > 0);
}

/// Whatever is done while a part of a pack cannot be read, and however much of the index is lost: as
/// soon as the drive returns it again, all that was stored is there.
#[test]
fn a_drive_that_is_well_again_has_lost_nothing() {
    let bench = Bench::new();
    for seed in 0..600_u64 {
        let mut model = bench.model();
        model.step(Op::Begin(0)).unwrap();
        for n in 0..BLOCKS {
            model.step(Op::Put(Some(0), n)).unwrap();
        }
        model.step(Op::Finish(0, true)).unwrap();
        let mut random = Random::new(seed);
        let pages = random.below(8) as u64 + 1;
        let start = random.below(32) as u64 * 4_096;
        model.medium.spoil(1 + random.below(4) as u32, start..start + pages * 4_096);
        if random.below(2) == 0 {
            let back = if seed % 2 == 0 { usize::MAX } else { random.below(3) };
            model.crash(Loss::Nothing, back);
            model.reopen().unwrap();
        }
        // What a node does by itself, and what moves blocks.
        for n in 0..BLOCKS {
            model.quarantine(n);
        }
        let _ = model.step(Op::Gc);
        let _ = model.step(Op::Sync);
        model.medium.heal();
        model.crash(Loss::Nothing, random.below(2));
        model.reopen().unwrap();
        assert_eq!(model.count_blocks(), BLOCKS, "seed {seed}");
        model.check().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

/// A pack that cannot be begun is begun when there is room again, without a restart.
#[test]
fn the_next_pack_is_begun_after_a_fault_at_any_call_of_its_making() {
    let bench = Bench::new();
    for after in 0..8 {
        let mut model = bench.model();
        model.step(Op::Begin(0)).unwrap();
        model.step(Op::Put(Some(0), 8)).unwrap();
        model.step(Op::Put(Some(0), 7)).unwrap();
        model.step(Op::Fault(after)).unwrap();
        // More than the pack has room for.
        for _ in 0..2 {
            for n in [6, 5, 4, 10] {
                model.step(Op::Put(None, n)).unwrap();
            }
        }
        let (here, is_read_only) = (model.count_blocks(), model.is_read_only());
        assert!(here >= 6 || is_read_only, "fault {after}: {here} blocks");
    }
}
