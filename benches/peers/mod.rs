//! Other programs that do the same arithmetic, built where they can be: ISA-L in C, and the
//! crate's own SIMD, which is a project apart so that nothing here depends on it.

use std::{path::PathBuf, process::Command};

const TARGET: &str = env!("CARGO_TARGET_TMPDIR");
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers");

/// A program that prints the rates of encoding and rebuilding.
pub struct Peer {
    pub name: &'static str,
    program: PathBuf,
}

impl Peer {
    /// All that can be built; of the others it is told why not.
    pub fn build_all() -> Vec<Self> {
        let target = PathBuf::from(TARGET).join("peers");
        std::fs::create_dir_all(&target).unwrap();
        let isal = Self { name: "isa-l", program: target.join("isal") };
        let mut compile = Command::new("cc");
        compile.args(["-O2", "-o"]).arg(&isal.program).arg(format!("{SOURCES}/isal.c"));
        compile.args(["-lisal", "-lpthread"]);
        let simd = Self { name: "simd-accel", program: target.join("release/simd_accel") };
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--release", "--locked", "--quiet", "--manifest-path"]);
        cargo.arg(format!("{SOURCES}/simd_accel/Cargo.toml")).arg("--target-dir").arg(&target);
        [(isal, compile), (simd, cargo)]
            .into_iter()
            .filter_map(|(peer, mut build)| match build.output() {
                Ok(done) if done.status.success() => Some(peer),
                failed => {
                    println!("{} is left out, it cannot be built: {failed:?}", peer.name);
                    None
                }
            })
            .collect()
    }

    /// GB of data a second of encoding and of rebuilding.
    pub fn rates(
        &self,
        shape: (usize, usize),
        shard_bytes: usize,
        threads: usize,
        rounds: usize,
    ) -> (f64, f64) {
        let words = [shape.0, shape.1, shard_bytes, threads, rounds].map(|n| n.to_string());
        let done = Command::new(&self.program).args(words).output().unwrap();
        assert!(done.status.success(), "{}: {done:?}", self.name);
        let text = String::from_utf8(done.stdout).unwrap();
        let rates: Vec<f64> = text.split_whitespace().map(|rate| rate.parse().unwrap()).collect();
        (rates[0], rates[1])
    }
}
