//! Sizes, rates and times for people, and back.

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

/// Bytes with a binary unit: `1.5 GiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1_024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1_024.0;
    let mut unit = 0;
    while value >= 1_023.95 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Reads a number of bytes: `1000`, `512MiB`, `20GB`, `1.5G`.
///
/// # Errors
/// What was expected, for people.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size; 1000, 512MiB and 20GB are");
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(wrong);
    }
    let value = number.parse::<f64>().map_err(|_| wrong())? * factor as f64;
    if value.is_finite() && value < 9e18 { Ok(value as u64) } else { Err(wrong()) }
}

/// Reads a time: `90` seconds, `30min`, `12h`, `7d`, `4w`.
///
/// # Errors
/// What was expected, for people.
pub fn parse_seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no time; 90, 30min, 12h, 7d and 4w are");
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor: u64 = match unit.trim() {
        "" | "s" => 1,
        "min" => 60,
        "h" => HOUR,
        "d" => DAY,
        "w" => 7 * DAY,
        _ => return Err(wrong()),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(wrong)
}

/// Seconds in the largest unit that they fill, rounded down: `29d`, `23h`, `5min`.
pub fn time_left(n: u64) -> String {
    match n {
        0..HOUR => format!("{}min", n / 60),
        HOUR..DAY => format!("{}h", n / HOUR),
        _ => format!("{}d", n / DAY),
    }
}

/// Seconds as `3 s` or `2:05`.
pub fn seconds(n: u64) -> String {
    match n {
        0..60 => format!("{n} s"),
        60..3_600 => format!("{}:{:02} min", n / 60, n % 60),
        _ => format!("{}:{:02} h", n / 3_600, n / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        assert_eq!(parse_bytes("20GB"), Ok(20_000_000_000));
        assert_eq!(parse_bytes("1.5 GiB"), Ok(3 << 29));
        assert_eq!(parse_bytes("18446744073709551615"), Ok(u64::MAX));
        for wrong in ["", "x", "-1", "1.2.3", "1XB", "18446744073709551616", "99999999TB"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!(bytes(3 << 29), "1.5 GiB");
        assert_eq!(bytes(1_023), "1023 B");
        assert_eq!(bytes(1_048_575), "1.0 MiB");
        assert_eq!(seconds(125), "2:05 min");
    }

    #[test]
    fn times_read_as_people_write_them() {
        let times = [("90", 90), ("30min", 1_800), ("12h", 43_200), ("7 d", 604_800)];
        for (text, seconds) in times {
            assert_eq!(parse_seconds(text), Ok(seconds));
        }
        for wrong in ["", "d", "-1", "1.5h", "1m", "99999999999999w"] {
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
        let left = [(59, "0min"), (7_199, "1h"), (604_799, "6d")];
        for (seconds, text) in left {
            assert_eq!(time_left(seconds), text);
        }
    }
}
