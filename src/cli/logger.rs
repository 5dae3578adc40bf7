//! Log lines on standard error.

use log::{LevelFilter, Log, Metadata, Record};
use std::{
    io::{self, Write as _},
    time::{SystemTime, UNIX_EPOCH},
};

struct Logger {
    json: bool,
}

/// Begins to log; `json` makes an object of each line.
pub(super) fn start(level: LevelFilter, json: bool) {
    // A second start in one process keeps the first.
    if log::set_boxed_logger(Box::new(Logger { json })).is_ok() {
        log::set_max_level(level);
    }
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, millis) = (since.as_secs(), since.subsec_millis());
        let text = record.args().to_string();
        let line = if self.json {
            let level = record.level().as_str().to_ascii_lowercase();
            serde_json::json!({
                "time": format!("{seconds}.{millis:03}"), "level": level, "message": text,
            })
            .to_string()
        } else {
            let (h, m, s) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
            // What a peer or a client names may hold anything; a log line holds one line.
            let text: String =
                text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
            format!("{h:02}:{m:02}:{s:02}.{millis:03} {:5} {text}", record.level())
        };
        let _ = writeln!(io::stderr(), "{line}");
    }

    fn flush(&self) {}
}
