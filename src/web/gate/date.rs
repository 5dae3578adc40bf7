//! The date that stands in the heads of answers (RFC 9110, section 5.6.7).

use crate::base::clock::unix_seconds;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// The last second of the year 9999: later ones cannot be written.
const SECONDS_MAX: u64 = 253_402_300_799;

/// The date, written once a second.
pub(super) struct Date {
    text: String,
    written: Instant,
}

impl Date {
    pub(super) fn new() -> Self {
        Self::of(Instant::now())
    }

    fn of(now: Instant) -> Self {
        Self { text: http_date(unix_seconds()), written: now }
    }

    pub(super) fn at(&mut self, now: Instant) -> &str {
        if now.saturating_duration_since(self.written).as_millis() >= 1_000 {
            *self = Self::of(now);
        }
        &self.text
    }
}

fn http_date(unix_seconds: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix_seconds.min(SECONDS_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_clock_can_be_written_and_is_for_a_second() {
        for (seconds, text) in [
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (SECONDS_MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(http_date(seconds), text);
        }
        let now = Instant::now();
        let mut date = Date { text: "old".into(), written: now };
        assert_eq!(date.at(now + Duration::from_millis(999)), "old");
        assert_ne!(date.at(now + Duration::from_secs(1)), "old");
    }
}
