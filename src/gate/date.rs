//! The date that stands in the heads of answers (RFC 9110, section 5.6.7).

use std::time::{Instant, SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The date, written once a second.
pub(super) struct Date {
    text: String,
    written: Instant,
}

impl Date {
    pub(super) fn new() -> Self {
        Self { text: http_date(unix_seconds()), written: Instant::now() }
    }

    pub(super) fn at(&mut self, now: Instant) -> &str {
        if now.saturating_duration_since(self.written).as_millis() >= 1_000 {
            *self = Self { text: http_date(unix_seconds()), written: now };
        }
        &self.text
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn http_date(unix_seconds: u64) -> String {
    let days = unix_seconds / 86_400;
    let weekday = DAYS[(days % 7) as usize];
    // Counted from 1 March of the year 0, so that a leap day is the last of its year; 400 years
    // have 146,097 days, and the months from March on 153 in each five.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = MONTHS[((month_from_march + 2) % 12) as usize];
    let year = era * 400 + year_of_era + u64::from(month_from_march >= 10);
    let (hour, minute) = (unix_seconds / 3_600 % 24, unix_seconds / 60 % 60);
    let second = unix_seconds % 60;
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_the_rfc_writes_them() {
        for (unix_seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_798_761_599, "Thu, 31 Dec 2026 23:59:59 GMT"),
            (1_798_761_600, "Fri, 01 Jan 2027 00:00:00 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(http_date(unix_seconds), text);
        }
    }
}
