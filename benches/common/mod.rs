//! What all benches share: sizes, medians, a place for files.
//!
//! `BARROW_BENCH_SMOKE=1` makes every bench short, to see that it runs; `BARROW_BENCH_MIB` sets
//! the size of the large file (1,024 by default), `BARROW_BENCH_RUNS` the number of runs (5).

#![allow(dead_code, reason = "no bench uses all of it")]

use std::{env, path::Path, time::Instant};

/// Whether only a short run is wanted.
pub fn is_smoke() -> bool {
    env::var_os("BARROW_BENCH_SMOKE").is_some()
}

/// Bytes of the large file.
pub fn file_bytes() -> u64 {
    number("BARROW_BENCH_MIB").unwrap_or(if is_smoke() { 16 } else { 1_024 }) << 20
}

/// How often each thing is measured.
pub fn runs() -> usize {
    number("BARROW_BENCH_RUNS").unwrap_or(if is_smoke() { 1 } else { 5 }) as usize
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// A directory on the disk of the build, not on a tmpfs.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

/// Seconds that something takes.
pub fn seconds<T>(act: impl FnOnce() -> T) -> (T, f64) {
    let since = Instant::now();
    let done = act();
    (done, since.elapsed().as_secs_f64())
}

/// The middle one, and the spread.
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let (least, most) = (values[0], values[values.len() - 1]);
        Self { median: values[values.len() / 2], least, most }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{:.3} [{:.3}–{:.3}]", self.median, self.least, self.most))
    }
}

/// Reads a file once, so that every run finds it in the page cache.
pub fn warm(path: &Path) {
    std::io::copy(&mut std::fs::File::open(path).unwrap(), &mut std::io::sink()).unwrap();
}

/// CPU seconds of a process so far, its children's not counted.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok());
    // utime and stime are the 14th and 15th field, the state behind the name being the third.
    (ticks(12).unwrap_or(0.0) + ticks(13).unwrap_or(0.0)) / 100.0
}
