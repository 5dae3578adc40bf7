//! A rate limit: so many bytes a second, one block at a time.

use super::Moment;
use std::time::Duration;

/// Lets bytes pass at a rate. A block passes whole once the one before it is paid off, so what
/// passed never exceeds the rate by more than one block.
#[derive(Clone, Debug, Hash)]
pub(super) struct Bucket {
    bytes_per_second: u64,
    /// When all that passed is paid off.
    free_at: Moment,
}

impl Bucket {
    /// A limit of so many bytes a second, at least one.
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_at: Moment::default() }
    }

    /// When the next block may pass, if that is not now.
    pub(super) fn wait(&self, now: Moment) -> Option<Moment> {
        (self.free_at > now).then_some(self.free_at)
    }

    /// How long it takes until `bytes` have passed and are paid off.
    pub(super) fn time_for(&self, now: Moment, bytes: u64) -> Duration {
        self.free_at.since(now) + self.time_of(bytes)
    }

    /// Lets `bytes` pass.
    pub(super) fn pass(&mut self, now: Moment, bytes: u64) {
        self.free_at = self.free_at.max(now).after(self.time_of(bytes));
    }

    /// Sets right what passed as `guess` and weighs `bytes`.
    pub(super) fn correct(&mut self, guess: u64, bytes: u64) {
        let paid = self.free_at.after(self.time_of(bytes));
        self.free_at = paid.before(self.time_of(guess));
    }

    fn time_of(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_the_rate_and_at_most_a_block_more() {
        let mut bucket = Bucket::new(1_000_000);
        let (mut now, mut passed) = (Moment::default(), 0);
        while now.time() < Duration::from_secs(10) {
            match bucket.wait(now) {
                Some(at) => now = at,
                None => {
                    bucket.pass(now, 65_536);
                    passed += 65_536;
                }
            }
            let allowed = u64::try_from(now.time().as_micros()).unwrap() + 65_536;
            assert!(passed <= allowed, "{passed} bytes at {now:?}");
        }
        assert!(passed >= 10_000_000);
    }

    #[test]
    fn a_pause_saves_nothing_up() {
        let mut bucket = Bucket::new(1_000);
        bucket.pass(Moment::at(Duration::from_secs(100)), 1_000);
        assert_eq!(
            bucket.wait(Moment::at(Duration::from_secs(100))),
            Some(Moment::at(Duration::from_secs(101)))
        );
    }
}
