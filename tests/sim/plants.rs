//! Faults that are put in on purpose: the rules must find each.

use crate::world::{Setting, World};

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// One in four `Cancel` messages is not sent.
    LostCancel,
    /// One in eight right blocks is taken for a wrong one, so that honest peers get banned.
    WrongVerdict,
    /// Every other end of a connection is not told, so that what it held is never freed.
    LostDisconnect,
    /// One in sixteen blocks that were sent is not accounted for: its bytes stay read ahead.
    LostSent,
    /// Wants reach the engine although their blocks were delivered meanwhile.
    StaleWants,
    /// Wants that were made after a delivery, and heard of before it, are taken for answered.
    ForgottenWants,
}

impl Plant {
    /// One of so many is broken.
    const fn every(self) -> usize {
        match self {
            Self::LostCancel => 4,
            Self::WrongVerdict => 8,
            Self::LostDisconnect => 2,
            Self::LostSent => 16,
            Self::StaleWants | Self::ForgottenWants => 1,
        }
    }
}

impl World {
    /// Whether something is to be broken here and now.
    pub(super) fn plants(&mut self, plant: Plant) -> bool {
        let breaks = self.plant == Some(plant) && self.below(plant.every()) == 0;
        self.summary.planted += u64::from(breaks);
        breaks
    }
}

/// Asserts that of the seeds in which something was broken the rules find at least `least` in 100.
fn found(plant: Plant, setting: Setting, least: usize) {
    let seeds = crate::number("BARROW_SIM_PLANT_SEEDS").unwrap_or(60);
    let (mut found, mut unfound, mut example) = (0, 0, None);
    for seed in 0..seeds {
        match crate::outcome(seed, setting, Some(plant)) {
            Err(what) => {
                found += 1;
                example.get_or_insert(what.chars().take(100).collect::<String>());
            }
            Ok(summary) if summary.planted > 0 => unfound += 1,
            Ok(_) => {}
        }
    }
    let broken = found + unfound;
    println!("{plant:?}: broken in {broken} of {seeds} seeds, found in {found}: {example:?}");
    assert!(broken > 0 && found * 100 >= least * broken, "{plant:?}: {found} of {broken}");
}

#[test]
fn a_lost_cancel_is_found() {
    found(Plant::LostCancel, Setting::Crowd, 90);
}

#[test]
fn a_ban_of_an_honest_peer_is_found() {
    found(Plant::WrongVerdict, Setting::Swarm, 50);
}

#[test]
fn what_a_lost_connection_held_and_leaks_is_found() {
    found(Plant::LostDisconnect, Setting::Swarm, 90);
}

#[test]
fn a_leaked_read_ahead_is_found() {
    found(Plant::LostSent, Setting::Crowd, 90);
}

#[test]
fn a_want_that_came_too_late_is_found() {
    found(Plant::StaleWants, Setting::Crowd, 10);
}

#[test]
#[ignore = "so rare that it takes some ten thousand seeds: BARROW_SIM_PLANT_SEEDS=30000"]
fn a_want_that_is_forgotten_is_found() {
    found(Plant::ForgottenWants, Setting::Crowd, 90);
}
