//! How long a shard is waited for before it counts as late.

use std::time::{Duration, Instant};

/// A shard is waited for so long while none has come: peers may have to be found and dialed first.
const FIRST: Duration = Duration::from_millis(500);
/// Times by which one wait may exceed what was the limit and still count in full: so one straggler
/// does not make all others be waited for, and a swarm that became slow is soon taken as it is.
const SAMPLE_TIMES_MAX: u32 = 2;
/// A shard is late by so many times the mean deviation of waits,
const DEVIATIONS: u32 = 4;
/// and by this part of the mean wait, however even they are: one and a half times the usual.
const MEAN_PARTS: u32 = 2;

/// How long the shards of each place usually take, as TCP estimates round trips (RFC 6298).
///
/// What counts is how long a place brought nothing that it was asked for: from the question, or
/// from its shard before, if that came later. How many stripes are asked for ahead does not matter
/// then, nor when the shards of other places come.
#[derive(Debug)]
pub(super) struct Waiting {
    /// By so much at least a shard is late.
    least: Duration,
    usual: Option<Usual>,
    /// When the latest shard of each place came.
    came_at: Vec<Option<Instant>>,
}

#[derive(Debug)]
struct Usual {
    mean: Duration,
    deviation: Duration,
}

impl Waiting {
    pub(super) fn new(places: usize, least: Duration) -> Self {
        Self { least, usual: None, came_at: vec![None; places] }
    }

    /// A shard of `place` came that was asked for at `asked_at`.
    pub(super) fn note(&mut self, place: usize, asked_at: Instant, came_at: Instant) {
        let wait = came_at.saturating_duration_since(self.since(place, asked_at));
        let wait = wait.min(self.limit() * SAMPLE_TIMES_MAX);
        self.usual = Some(match &self.usual {
            None => Usual { mean: wait, deviation: wait / 2 },
            Some(Usual { mean, deviation }) => Usual {
                deviation: (*deviation * 3 + mean.abs_diff(wait)) / 4,
                mean: (*mean * 7 + wait) / 8,
            },
        });
        self.came_at[place] = Some(came_at);
    }

    /// Whether any shard came.
    pub(super) const fn is_measured(&self) -> bool {
        self.usual.is_some()
    }

    /// When a shard of `place` is late that was asked for at `asked_at`.
    pub(super) fn late_at(&self, place: usize, asked_at: Instant) -> Instant {
        self.since(place, asked_at) + self.limit()
    }

    fn since(&self, place: usize, asked_at: Instant) -> Instant {
        self.came_at[place].map_or(asked_at, |came_at| came_at.max(asked_at))
    }

    fn limit(&self) -> Duration {
        match &self.usual {
            None => FIRST.max(self.least),
            Some(Usual { mean, deviation }) => {
                *mean + self.least.max(*mean / MEAN_PARTS).max(*deviation * DEVIATIONS)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_millis(20);
    /// A MiB at 20 MB/s.
    const SHARD: Duration = Duration::from_millis(52);

    /// Ten slots that bring stripes one after the other; the next one is asked for when one begins.
    struct Slots {
        waiting: Waiting,
        free_at: [Instant; 10],
        asked_at: Instant,
        begun_at: Instant,
    }

    impl Slots {
        fn new() -> Self {
            let now = Instant::now();
            let waiting = Waiting::new(10, LEAST);
            Self { waiting, free_at: [now; 10], asked_at: now, begun_at: now }
        }

        /// Brings the next stripe, each shard in the time that `time` gives for its place. Gives
        /// the places that were late, with how much later than its slot's turn they counted so.
        fn stripe(&mut self, time: impl Fn(usize) -> Duration) -> Vec<(usize, Duration)> {
            let turn = self.free_at.map(|free_at| free_at.max(self.asked_at));
            let mut order: Vec<usize> = (0..10).collect();
            order.sort_by_key(|place| turn[*place] + time(*place));
            let mut late = Vec::new();
            for place in order {
                let (came_at, late_at) =
                    (turn[place] + time(place), self.waiting.late_at(place, self.asked_at));
                if late_at < came_at {
                    late.push((place, late_at - turn[place]));
                }
                self.waiting.note(place, self.asked_at, came_at);
                self.free_at[place] = came_at;
            }
            self.asked_at = self.begun_at;
            self.begun_at = *self.free_at.iter().max().unwrap();
            late
        }
    }

    #[test]
    fn slots_that_are_equally_slow_are_not_late_though_nothing_comes_for_long() {
        for shard in [SHARD, SHARD * 6] {
            let mut slots = Slots::new();
            for stripe in 0..100 {
                let jitter = |place: usize| shard * ((place as u32 * 7 + stripe * 3) % 10) / 40;
                assert_eq!(slots.stripe(|place| shard + jitter(place)), [], "stripe {stripe}");
            }
        }
    }

    #[test]
    fn one_slot_that_becomes_slow_is_late_after_less_than_twice_the_usual_time() {
        let mut slots = Slots::new();
        for _ in 0..20 {
            assert_eq!(slots.stripe(|_| SHARD), []);
        }
        let late = slots.stripe(|place| if place == 3 { SHARD * 100 } else { SHARD });
        let [(3, after)] = late[..] else { panic!("{late:?}") };
        assert!(after < SHARD * 2, "after {after:?}");
    }

    #[test]
    fn a_straggler_does_not_make_the_others_be_waited_for() {
        let mut waiting = Waiting::new(10, LEAST);
        let start = Instant::now();
        for place in 0..9 {
            waiting.note(place, start, start + SHARD);
        }
        waiting.note(9, start, start + SHARD * 100);
        let asked_at = start + SHARD * 100;
        assert!(waiting.late_at(0, asked_at) < asked_at + SHARD * 5);
    }

    #[test]
    fn slots_that_all_become_slow_are_taken_as_they_are() {
        let mut slots = Slots::new();
        for _ in 0..20 {
            slots.stripe(|_| SHARD);
        }
        slots.stripe(|_| SHARD * 10);
        for stripe in 0..20 {
            assert_eq!(slots.stripe(|_| SHARD * 10), [], "stripe {stripe}");
        }
    }

    #[test]
    fn shards_that_one_peer_sends_one_after_the_other_are_waited_for() {
        let mut waiting = Waiting::new(10, LEAST);
        let mut now = Instant::now();
        let mut asked = [now; 2];
        for stripe in 0..20 {
            let begun_at = now;
            for place in 0..10 {
                now += SHARD;
                assert!(waiting.late_at(place, asked[0]) >= now, "{stripe}: {place}");
                waiting.note(place, asked[0], now);
            }
            asked = [asked[1], begun_at];
        }
    }

    #[test]
    fn until_a_shard_came_peers_may_have_to_be_found() {
        let (waiting, now) = (Waiting::new(1, LEAST), Instant::now());
        assert_eq!(waiting.late_at(0, now), now + FIRST);
        let patient = Waiting::new(1, Duration::from_secs(2));
        assert_eq!(patient.late_at(0, now), now + Duration::from_secs(2));
    }
}
