//! Pins that have an end: a dataset is let go when its end has come, by a clock to be believed.

use super::Node;
use std::time::{Duration, Instant};

/// What a clock that nobody sets may go wrong by from one look to the next.
const DRIFT_MAX: Duration = Duration::from_secs(60);

/// The clock that people set, beside one that only goes.
pub(super) struct Clock {
    begun: Instant,
    /// What both said at the last look.
    last: (Duration, Duration),
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), last: (wall(), Duration::ZERO) }
    }

    /// The time, if nobody has set the clock since the last look.
    fn look(&mut self, wall: Duration, steady: Duration) -> Option<Duration> {
        let (last_wall, last_steady) = std::mem::replace(&mut self.last, (wall, steady));
        let went = wall.checked_sub(last_wall)?;
        let drift = went.abs_diff(steady.saturating_sub(last_steady));
        (drift <= DRIFT_MAX).then_some(wall)
    }
}

fn wall() -> Duration {
    Duration::from_secs(crate::base::clock::unix_seconds())
}

impl Node {
    /// Removes the datasets whose pin has ended. If the clock was set meanwhile, the next look
    /// does.
    pub(super) fn let_expired_go(&self, clock: &mut Clock) {
        let steady = clock.begun.elapsed();
        let Some(now) = clock.look(wall(), steady) else {
            return log::info!("the clock was set: pins that have ended stay for now");
        };
        if let Err(error) = self.remove_expired(now.as_secs()) {
            log::warn!("a pin has ended, and its dataset stays: {error}");
        }
    }

    fn remove_expired(&self, now: u64) -> Result<(), crate::store::disk::StoreError> {
        let expired = self.inner.disk.expired(now)?;
        if expired.is_empty() {
            return Ok(());
        }
        for dataset in &expired {
            log::info!("the pin of {} has ended", dataset.info.root);
            self.withdraw(&dataset.info.root)?;
        }
        let removed = self.inner.disk.remove_expired(now)?;
        log::info!("{} blocks removed, {} bytes", removed.blocks, removed.bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: u64 = 365 * 86_400;

    /// A pin ends in a year; the clock jumps by up to twenty years, back and forth, between looks
    /// that are an hour apart.
    #[test]
    fn nothing_goes_while_the_clock_is_being_set() {
        let hour = Duration::from_secs(3_600);
        let true_start = Duration::from_secs(50 * YEAR);
        let end = true_start + Duration::from_secs(YEAR);
        let mut clock = Clock { begun: Instant::now(), last: (true_start, Duration::ZERO) };
        let mut state = 7_u64;
        for n in 1..=1_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let jump = Duration::from_secs(3_600 + (state >> 33) % (20 * YEAR));
            let steady = hour * n;
            // Always from somewhere else: by more or less than the hour that went by.
            let wall = if n % 2 == 0 { true_start + steady + jump } else { true_start + steady };
            let told = clock.look(wall, steady);
            assert!(told.is_none_or(|now| now < end), "look {n}: {told:?}");
        }
        // Left alone, it is believed again from the second look on.
        let (wall, steady) = (end + hour, hour * 2_000);
        assert_eq!(clock.look(wall, steady), None);
        assert_eq!(clock.look(wall + hour, steady + hour), Some(wall + hour));
    }
}
