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
}

impl Progress {
    /// A line that begins with `verb`; `total` bytes are expected, if that is known.
    pub fn new(verb: &'static str, total: Option<u64>) -> Self {
        let shown = io::stderr().is_terminal();
        Self { verb, total, done: 0, started: Instant::now(), drawn: None, shown }
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

    fn draw(&self) {
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        let rate = (self.done as f64 / seconds) as u64;
        let mut line = format!("{} {}", self.verb, human::bytes(self.done));
        if let Some(total) = self.total.filter(|total| *total > 0) {
            let percent = self.done.saturating_mul(100) / total;
            line = format!("{} {percent}% of {}", self.verb, human::bytes(total));
        }
        line += &format!("  {}/s", human::bytes(rate));
        if let Some(total) = self.total.filter(|_| rate > 0) {
            let left = total.saturating_sub(self.done) / rate.max(1);
            line += &format!("  {} left", human::seconds(left));
        }
        let width = rustix::termios::tcgetwinsize(io::stderr()).map_or(80, |size| size.ws_col);
        let fitting: String = line.chars().take(usize::from(width.max(20)) - 1).collect();
        let _ = write!(io::stderr(), "\r\x1b[K{fitting}");
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
