//! Encoding stripes and rebuilding m lost shards, in memory: GB of data a second, for each kernel
//! that this processor has, and beside the crate's own arithmetic without its C code.
//!
//! `cargo bench --bench erasure`

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints, and ends at what fails"
)]

mod common;

use barrow::erasure::{Code, Kernel, Shape, kernels};
use common::{Spread, is_smoke, runs, seconds};
use reed_solomon_erasure::galois_8;
use std::thread;

/// Bytes of data that one measurement goes through, a thread.
const WORK_BYTES: usize = 512 << 20;

fn main() {
    println!(
        "{:9} {:>7} {:>3} {:14} {:>24} {:>24}",
        "shape", "KiB", "thr", "kernel", "encode GB/s", "rebuild m GB/s"
    );
    for (data, parity) in [(4, 2), (10, 4), (20, 10)] {
        for shard_bytes in [64 << 10, 1 << 20] {
            for threads in [1, 2] {
                let stripe = Stripe::new(data, parity, shard_bytes);
                for kernel in kernels() {
                    let shape = Shape::new(data as u64, parity as u64).unwrap();
                    let code = Code::with_kernel(shape, kernel);
                    let encode = stripe.measure(threads, |work| work.encode(&code));
                    let rebuild = stripe.measure(threads, |work| work.rebuild(&code));
                    report(&stripe, threads, kernel.name(), &encode, Some(&rebuild));
                    if kernel == Kernel::Portable {
                        let oracle = galois_8::ReedSolomon::new(data, parity).unwrap();
                        let encode = stripe.measure(threads, |work| work.encode_oracle(&oracle));
                        report(&stripe, threads, "the crate's", &encode, None);
                    }
                }
            }
        }
    }
}

fn report(
    stripe: &Stripe,
    threads: usize,
    kernel: &str,
    encode: &Spread,
    rebuild: Option<&Spread>,
) {
    let shape = format!("{}+{}", stripe.data.len(), stripe.parity.len());
    let rebuild = rebuild.map_or_else(String::new, ToString::to_string);
    let kib = stripe.data[0].len() >> 10;
    println!(
        "{shape:9} {kib:>7} {threads:>3} {kernel:14} {:>24} {rebuild:>24}",
        encode.to_string()
    );
}

/// What one thread works on.
#[derive(Clone)]
struct Stripe {
    data: Vec<Vec<u8>>,
    parity: Vec<Vec<u8>>,
}

impl Stripe {
    fn new(data: usize, parity: usize, shard_bytes: usize) -> Self {
        let mut state = 1_u64;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let data = (0..data).map(|_| (0..shard_bytes).map(|_| byte()).collect()).collect();
        Self { data, parity: vec![vec![0; shard_bytes]; parity] }
    }

    /// GB of data a second of all threads together, each with a stripe of its own.
    fn measure(&self, threads: usize, act: impl Fn(&mut Self) + Sync) -> Spread {
        let stripe_bytes = self.data.len() * self.data[0].len();
        let work_bytes = if is_smoke() { stripe_bytes } else { WORK_BYTES };
        let rounds = work_bytes.div_ceil(stripe_bytes);
        let mut stripes = vec![self.clone(); threads];
        stripes.iter_mut().for_each(&act);
        let rates = (0..runs()).map(|_| {
            let ((), time) = seconds(|| {
                thread::scope(|scope| {
                    for stripe in &mut stripes {
                        let act = &act;
                        scope.spawn(move || (0..rounds).for_each(|_| act(stripe)));
                    }
                });
            });
            (threads * rounds * stripe_bytes) as f64 / time / 1e9
        });
        Spread::of(rates.collect())
    }

    fn encode(&mut self, code: &Code) {
        let shards: Vec<(usize, &[u8])> = self.data.iter().map(|d| &d[..]).enumerate().collect();
        self.parity.iter_mut().for_each(|sum| sum.fill(0));
        code.add(code.parity_rows(), &shards, &mut self.parity);
    }

    /// The first m data shards are lost; they are rebuilt into the sums, so that nothing is copied.
    fn rebuild(&mut self, code: &Code) {
        let (data, parity) = (self.data.len(), self.parity.len());
        let lost: Vec<usize> = (0..parity.min(data)).collect();
        let present: Vec<usize> = (lost.len()..lost.len() + data).collect();
        let rows = code.rows(&present, &lost);
        // Any bytes will do for the parity that takes part.
        let others = self.data[..lost.len()].iter();
        let shards: Vec<(usize, &[u8])> =
            self.data[lost.len()..].iter().chain(others).map(|d| &d[..]).enumerate().collect();
        self.parity.iter_mut().for_each(|sum| sum.fill(0));
        code.add(&rows, &shards, &mut self.parity);
    }

    fn encode_oracle(&mut self, code: &galois_8::ReedSolomon) {
        code.encode_sep(&self.data, &mut self.parity).unwrap();
    }
}
