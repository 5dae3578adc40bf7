//! When to announce what: a steady trickle, however many datasets there are.
//!
//! Keys are announced in their own order, round after round, evenly over the round's time. A
//! round takes 15 minutes, or longer where that would exceed the rate: 100,000 keys take seven
//! hours at 4 a second. New keys go first.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Bound,
    time::{Duration, Instant},
};

/// The DHT's name for something.
pub(super) type Key = [u8; 20];

/// A key is announced again after so long, where the rate allows it. DHT nodes forget after 30
/// minutes to two hours.
pub(super) const ROUND_TIME: Duration = Duration::from_secs(15 * 60);
/// Announcements follow each other no closer than this: 4 a second.
pub(super) const GAP_MIN: Duration = Duration::from_millis(250);
/// New keys that wait for their first turn; more wait for the round.
const FRESH_MAX: usize = 1_024;

/// The schedule of announcements.
#[derive(Debug)]
pub(super) struct Announcer {
    keys: BTreeSet<Key>,
    fresh: VecDeque<Key>,
    /// The last key of the round that was announced.
    cursor: Option<Key>,
    /// Keys of the first round still to come: at a start all are announced as soon as may be.
    first_round: usize,
    fresh_at: Instant,
    round_at: Instant,
    jitter: u64,
}

impl Announcer {
    /// With the keys there are at the start.
    pub(super) fn new(now: Instant, keys: impl IntoIterator<Item = Key>, seed: u64) -> Self {
        let keys: BTreeSet<Key> = keys.into_iter().collect();
        let first_round = keys.len();
        let fresh = VecDeque::new();
        let (fresh_at, round_at, jitter) = (now, now, seed | 1);
        Self { keys, fresh, cursor: None, first_round, fresh_at, round_at, jitter }
    }

    /// One more is to be announced, and soon.
    pub(super) fn add(&mut self, now: Instant, key: Key) {
        if self.keys.is_empty() {
            self.round_at = now + self.jittered(ROUND_TIME);
        }
        if self.keys.insert(key) && self.fresh.len() < FRESH_MAX {
            self.fresh.push_back(key);
        }
    }

    /// This one is announced no more; the DHT forgets it by itself.
    pub(super) fn remove(&mut self, key: &Key) {
        self.keys.remove(key);
        self.fresh.retain(|fresh| fresh != key);
    }

    /// An announcement reached nobody: it is tried again before long.
    pub(super) fn failed(&mut self, now: Instant, key: Key) {
        if self.keys.contains(&key) && self.fresh.len() < FRESH_MAX && !self.fresh.contains(&key) {
            self.fresh.push_back(key);
            self.fresh_at = self.fresh_at.max(now + Duration::from_secs(10));
        }
    }

    /// The key to announce now, if one is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Key> {
        if now >= self.fresh_at
            && let Some(key) = self.fresh.pop_front()
        {
            self.fresh_at = now + GAP_MIN;
            return Some(key);
        }
        if now < self.round_at || !self.fresh.is_empty() {
            return None;
        }
        let after = self.cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.keys.range((after, Bound::Unbounded)).next().or_else(|| self.keys.first());
        let key = *next?;
        self.cursor = Some(key);
        self.first_round = self.first_round.saturating_sub(1);
        let gap = self.gap();
        self.round_at = now + self.jittered(gap).max(GAP_MIN);
        Some(key)
    }

    /// When [`Self::take_due`] has something next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if !self.fresh.is_empty() {
            return Some(self.fresh_at);
        }
        (!self.keys.is_empty()).then_some(self.round_at)
    }

    fn gap(&self) -> Duration {
        match self.first_round {
            0 => ROUND_TIME / u32::try_from(self.keys.len().max(1)).unwrap_or(u32::MAX),
            _ => GAP_MIN,
        }
    }

    /// Three quarters of it to five quarters, so that nodes that started together drift apart.
    fn jittered(&mut self, time: Duration) -> Duration {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        let percent = u32::try_from(75 + self.jitter % 51).unwrap_or(100);
        time / 100 * percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Key {
        let mut key = [0; 20];
        key[..4].copy_from_slice(&n.wrapping_mul(2_654_435_761).to_be_bytes());
        key[4..8].copy_from_slice(&n.to_be_bytes());
        key
    }

    /// Announcements of `time`, each with its moment.
    fn run(announcer: &mut Announcer, start: Instant, time: Duration) -> Vec<(Duration, Key)> {
        let (mut now, mut announced) = (start, Vec::new());
        while let Some(at) = announcer.next_due().filter(|at| *at < start + time) {
            now = now.max(at);
            let key = announcer.take_due(now).expect("it is due");
            announced.push((now - start, key));
        }
        announced
    }

    #[test]
    fn each_dataset_is_announced_at_once_and_again_every_quarter_of_an_hour() {
        let start = Instant::now();
        let mut announcer = Announcer::new(start, (0..90).map(key), 7);
        let first = run(&mut announcer, start, Duration::from_secs(30));
        let keys: BTreeSet<Key> = first.iter().map(|(_, key)| *key).collect();
        assert_eq!(keys.len(), 90, "all at the start, though not all at one time");
        let later = run(&mut announcer, start + Duration::from_secs(30), ROUND_TIME * 4);
        for n in 0..90 {
            let times = later.iter().filter(|(_, k)| *k == key(n)).count();
            assert!((3..=5).contains(&times), "{times} times in an hour");
        }
        let gaps = later.windows(2).map(|pair| pair[1].0 - pair[0].0);
        assert!(gaps.clone().max() < Some(Duration::from_secs(13)), "no bursts, no pauses");
        assert!(gaps.min() > Some(Duration::from_secs(7)));
    }

    #[test]
    fn a_hundred_thousand_datasets_cost_four_announcements_a_second() {
        let start = Instant::now();
        let mut announcer = Announcer::new(start, (0..100_000).map(key), 7);
        let hour = run(&mut announcer, start, Duration::from_secs(3_600));
        assert!((11_000..=14_400).contains(&hour.len()), "{}", hour.len());
        let distinct: BTreeSet<Key> = hour.iter().map(|(_, key)| *key).collect();
        assert_eq!(distinct.len(), hour.len(), "none twice before all had their turn");
    }

    #[test]
    fn a_new_dataset_goes_first_and_a_removed_one_is_silent() {
        let start = Instant::now();
        let mut announcer = Announcer::new(start, [], 7);
        assert_eq!(announcer.next_due(), None);
        announcer.add(start, key(1));
        announcer.add(start, key(2));
        announcer.remove(&key(1));
        let announced = run(&mut announcer, start, Duration::from_secs(600));
        assert_eq!(announced, [(Duration::ZERO, key(2))]);
    }

    #[test]
    fn what_reached_nobody_is_tried_again_soon() {
        let start = Instant::now();
        let mut announcer = Announcer::new(start, [key(1)], 7);
        assert_eq!(announcer.take_due(start), Some(key(1)));
        announcer.failed(start, key(1));
        assert_eq!(announcer.next_due(), Some(start + Duration::from_secs(10)));
    }
}
