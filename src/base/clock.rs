//! The time of day.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds of Unix time; 0 by a clock that is set before 1970.
#[must_use]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
