//! When to announce what: a steady trickle, however many datasets there are.
//!
//! Keys are announced in their own order, round after round, evenly over the round's time of 15
//! minutes: 100,000 keys cost 112 announcements a second. New keys, and those that failed, go
//! between them.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Bound,
    time::{Duration, Instant},
};

/// The length of a [`Key`].
pub(super) const KEY_BYTES: usize = 20;

/// The DHT's name for something.
pub(super) type Key = [u8; KEY_BYTES];

/// A key is announced again after so long. DHT nodes forget after 30 minutes to two hours.
const ROUND_TIME: Duration = Duration::from_secs(15 * 60);
/// New keys, failed ones and those of the first round follow each other so, or as closely as the
/// round's.
const GAP_SOON: Duration = Duration::from_millis(250);
/// No two announcements are closer than this: 125 a second, enough for 112,500 keys. A round of
/// more takes longer.
const GAP_MIN: Duration = Duration::from_millis(8);
/// New keys that wait for their first turn; more wait for the round.
const FRESH_MAX: usize = 1_024;
/// Keys that reached nobody and wait; more wait for the round.
const FAILED_MAX: usize = 1_024;
/// A round makes up for a delay of so much at most.
const LATE_MAX: Duration = Duration::from_millis(100);
/// A key that reached nobody waits so long.
const RETRY_TIME: Duration = Duration::from_secs(10);

/// The schedule of announcements.
#[derive(Debug)]
pub(super) struct Announcer {
    keys: BTreeSet<Key>,
    fresh: VecDeque<Key>,
    /// Those that reached nobody, and when each is tried again.
    failed: VecDeque<(Instant, Key)>,
    /// The last key of the round that was announced.
    cursor: Option<Key>,
    /// Keys of the first round still to come: at a start all are announced as soon as may be.
    first_round: usize,
    /// When the next of these may go.
    soon_at: Instant,
    round_at: Instant,
    /// [`GAP_MIN`] after the last announcement.
    quiet_until: Instant,
    jitter: u64,
}

impl Announcer {
    /// With the keys there are at the start.
    pub(super) fn new(now: Instant, keys: impl IntoIterator<Item = Key>, seed: u64) -> Self {
        let keys: BTreeSet<Key> = keys.into_iter().collect();
        let first_round = keys.len();
        let (fresh, failed) = (VecDeque::new(), VecDeque::new());
        let (soon_at, round_at, quiet_until) = (now, now, now);
        let jitter = seed | 1;
        let cursor = None;
        Self { keys, fresh, failed, cursor, first_round, soon_at, round_at, quiet_until, jitter }
    }

    /// How many are announced.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
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
        self.failed.retain(|(_, failed)| failed != key);
    }

    /// An announcement reached nobody: it is tried again before long.
    pub(super) fn failed(&mut self, now: Instant, key: Key) {
        let waits = self.failed.iter().any(|(_, failed)| *failed == key);
        if self.keys.contains(&key) && self.failed.len() < FAILED_MAX && !waits {
            self.failed.push_back((now + RETRY_TIME, key));
        }
    }

    /// The key to announce now, if one is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Key> {
        if now < self.quiet_until {
            return None;
        }
        let key = self.take_soon(now).or_else(|| self.take_of_round(now))?;
        self.quiet_until = now + GAP_MIN;
        Some(key)
    }

    fn take_soon(&mut self, now: Instant) -> Option<Key> {
        if now < self.soon_due()? {
            return None;
        }
        let failed = |(_, key)| key;
        let key = self.fresh.pop_front().or_else(|| self.failed.pop_front().map(failed))?;
        self.soon_at = now + self.gap().min(GAP_SOON);
        Some(key)
    }

    /// When the next new or failed key has its turn.
    fn soon_due(&self) -> Option<Instant> {
        match self.fresh.is_empty() {
            true => self.failed.front().map(|(at, _)| self.soon_at.max(*at)),
            false => Some(self.soon_at),
        }
    }

    fn take_of_round(&mut self, now: Instant) -> Option<Key> {
        if now < self.round_at {
            return None;
        }
        let after = self.cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.keys.range((after, Bound::Unbounded)).next().or_else(|| self.keys.first());
        let key = *next?;
        self.cursor = Some(key);
        self.first_round = self.first_round.saturating_sub(1);
        let gap = match self.first_round {
            0 => self.gap(),
            _ => self.gap().min(GAP_SOON),
        };
        // From when it was due: a turn that came late makes no round longer, nor a burst after a
        // sleep.
        let due = self.round_at.max(now.checked_sub(LATE_MAX).unwrap_or(now));
        self.round_at = due + self.jittered(gap);
        Some(key)
    }

    /// When [`Self::take_due`] has something next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let round = (!self.keys.is_empty()).then_some(self.round_at);
        Some([self.soon_due(), round].into_iter().flatten().min()?.max(self.quiet_until))
    }

    /// Between two keys of a round.
    fn gap(&self) -> Duration {
        ROUND_TIME / u32::try_from(self.keys.len().max(1)).unwrap_or(u32::MAX)
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
    fn a_hundred_thousand_datasets_are_announced_every_quarter_of_an_hour_by_a_steady_trickle() {
        let start = Instant::now();
        let mut announcer = Announcer::new(start, (0..100_000).map(key), 7);
        let hour = run(&mut announcer, start, ROUND_TIME * 4);
        let mut seconds = vec![0; 3_600];
        let mut last = std::collections::HashMap::new();
        for (at, key) in hour {
            seconds[usize::try_from(at.as_secs()).unwrap()] += 1;
            if let Some(before) = last.insert(key, at) {
                let age = at - before;
                assert!(age > ROUND_TIME * 9 / 10 && age < ROUND_TIME * 11 / 10, "{age:?}");
            }
        }
        assert_eq!(last.len(), 100_000, "each had its turn");
        let most = seconds.iter().max().unwrap();
        let least = seconds.iter().min().unwrap();
        assert!((85..=125).contains(least) && (85..=125).contains(most), "{least} to {most}");
    }

    #[test]
    fn a_million_datasets_cost_no_more_than_the_highest_rate() {
        let start = Instant::now();
        let mut announcer = Announcer::new(start, (0..1_000_000).map(key), 7);
        for n in 0..500 {
            announcer.add(start, key(1_000_000 + n));
        }
        let announced = run(&mut announcer, start, Duration::from_secs(60));
        assert!((7_000..=7_500).contains(&announced.len()), "{}", announced.len());
    }

    #[test]
    fn what_fails_holds_up_nothing_else() {
        let start = Instant::now();
        let mut announcer = Announcer::new(start, (0..90).map(key), 7);
        let (mut now, mut reached) = (start, BTreeSet::new());
        while let Some(at) = announcer.next_due().filter(|at| *at < start + ROUND_TIME) {
            now = now.max(at);
            match announcer.take_due(now).expect("it is due") {
                failing if failing == key(1) => announcer.failed(now, failing),
                other => drop(reached.insert(other)),
            }
        }
        assert_eq!(reached.len(), 89);
    }

    #[test]
    fn without_a_network_a_few_keys_are_tried_slowly_and_each_is_remembered_once() {
        let start = Instant::now();
        let mut announcer = Announcer::new(start, (0..90).map(key), 7);
        let (mut now, mut tries) = (start, 0);
        while let Some(at) = announcer.next_due().filter(|at| *at < start + ROUND_TIME * 4) {
            now = now.max(at);
            let key = announcer.take_due(now).expect("it is due");
            announcer.failed(now, key);
            assert!(announcer.failed.len() <= 90);
            tries += 1;
        }
        // Beside them the first round and four more.
        assert!(tries <= 4 * 3_600 + 5 * 90, "{tries}");
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
