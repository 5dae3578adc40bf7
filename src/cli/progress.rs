//! One line of progress, on a terminal alone.

use super::human;
use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

/// Time between two drawings.
const INTERVAL: Duration = Duration::from_millis(100);

/// A line that tells how much is done, how fast, and how long it takes yet.
pub struct Progress {
    verb: &'static str,
    total: Option<u64>,
    done: u64,
    started: Instant,
    drawn: Option<Instant>,
    shown: bool,
    /// Things are counted, which have no size and no rate.
    counts: bool,
}

impl Progress {
    /// A line that begins with `verb`; `total` bytes are expected, if that is known.
    pub fn new(verb: &'static str, total: Option<u64>) -> Self {
        let shown = io::stderr().is_terminal();
        Self { verb, total, done: 0, started: Instant::now(), drawn: None, shown, counts: false }
    }

    /// A line that tells how many there are by now.
    pub fn count(verb: &'static str) -> Self {
        let mut progress = Self::new(verb, None);
        progress.counts = true;
        progress
    }

    /// Some bytes more.
    pub fn add(&mut self, bytes: u64) {
        self.set(self.done + bytes);
    }

    /// So many bytes in all.
    pub fn set(&mut self, bytes: u64) {
        self.done = bytes;
        if self.shown && self.drawn.is_none_or(|drawn| drawn.elapsed() >= INTERVAL) {
            self.drawn = Some(Instant::now());
            self.draw();
        }
    }

    /// So many bytes of so many, if that is known by now.
    pub fn set_of(&mut self, bytes: u64, total: Option<u64>) {
        self.total = total;
        self.set(bytes);
    }

    /// So many bytes that are here, and those that lack yet, if that is known.
    pub fn set_left(&mut self, here: u64, left: Option<u64>) {
        self.set_of(here, left.map(|left| here + left));
    }

    /// The same, as a line of the API's tells it.
    pub fn set_told(&mut self, line: &serde_json::Value) {
        self.set_left(line["bytes_here"].as_u64().unwrap_or(0), line["bytes_left"].as_u64());
    }

    fn draw(&self) {
        if self.counts {
            let _ = write!(io::stderr(), "\r\x1b[K{} {}", self.verb, self.done);
            return;
        }
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        let rate = (self.done as f64 / seconds) as u64;
        let mut line = format!("{} {}", self.verb, human::bytes(self.done));
        if let Some(total) = self.total.filter(|total| *total > 0) {
            let percent = self.done.saturating_mul(100) / total;
            line = format!("{} {percent}% of {}", self.verb, human::bytes(total));
        }
        let mut parts = vec![format!("  {}/s", human::bytes(rate))];
        if let Some(total) = self.total.filter(|_| rate > 0) {
            let left = total.saturating_sub(self.done) / rate.max(1);
            parts.push(format!("  {} left", human::seconds(left)));
        }
        let width = rustix::termios::tcgetwinsize(io::stderr()).map_or(80, |size| size.ws_col);
        // What would wrap could not be wiped; half a figure is worse than none.
        let fits = |line: &str| line.len() < usize::from(width.max(20));
        for part in parts {
            if fits(&format!("{line}{part}")) {
                line += &part;
            }
        }
        line.truncate(usize::from(width.max(20)) - 1);
        let _ = write!(io::stderr(), "\r\x1b[K{line}");
    }

    /// Wipes the line.
    pub fn end(&mut self) {
        if self.drawn.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
