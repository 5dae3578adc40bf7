//! Encoding stripes and rebuilding m lost shards, in memory: GB of data a second of our kernels,
//! and of ISA-L and the crate's own SIMD in turn with the best of them.
//!
//! `cargo bench --bench erasure`

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints, and ends at what fails"
)]

mod common;
mod peers;

use barrow::erasure::{Code, Kernel, Shape, kernels};
use common::{Spread, is_smoke, runs, seconds};
use peers::Peer;
use reed_solomon_erasure::galois_8;
use std::thread;

/// Bytes of data that one measurement goes through, a thread.
const WORK_BYTES: usize = 512 << 20;
const SHAPES: [(usize, usize); 3] = [(4, 2), (10, 4), (20, 10)];
const SHARD_BYTES: [usize; 2] = [64 << 10, 1 << 20];

fn main() {
    compare_kernels();
    let peers = Peer::build_all();
    println!(
        "\n{:9} {:>5} {:>3} {:8} {:>23} {:>23} {:>23} {:>6}",
        "shape", "KiB", "thr", "", "ours GB/s", "isa-l", "simd-accel", "ratio"
    );
    let mut least = f64::INFINITY;
    for shape in SHAPES {
        for shard_bytes in SHARD_BYTES {
            for threads in [1, 2] {
                least = least.min(compare_peers(&peers, shape, shard_bytes, threads));
            }
        }
    }
    if !peers.is_empty() {
        println!("at least {least:.2} x the better of the two at the median");
    }
}

/// Runs ours and the peers in turn; gives the lesser of the two ratios.
fn compare_peers(peers: &[Peer], shape: (usize, usize), shard_bytes: usize, threads: usize) -> f64 {
    let mut stripe = Stripe::new(shape.0, shape.1, shard_bytes);
    let code = Code::new(Shape::new(shape.0 as u64, shape.1 as u64).unwrap());
    let rounds = stripe.rounds();
    let mut rates = vec![[vec![], vec![]]; peers.len() + 1];
    for _ in 0..runs() {
        let ours = (
            stripe.rate(threads, |work| work.encode(&code)),
            stripe.rate(threads, |work| work.rebuild(&code)),
        );
        let theirs = peers.iter().map(|peer| peer.rates(shape, shard_bytes, threads, rounds));
        for (rates, (encode, rebuild)) in rates.iter_mut().zip([ours].into_iter().chain(theirs)) {
            rates[0].push(encode);
            rates[1].push(rebuild);
        }
    }
    let mut least = f64::INFINITY;
    for (at, what) in ["encode", "rebuild"].into_iter().enumerate() {
        let spreads: Vec<Spread> =
            rates.iter().map(|rates| Spread::of(rates[at].clone())).collect();
        let best = spreads[1..].iter().map(|spread| spread.median).fold(0.0, f64::max);
        let ratio = spreads[0].median / best;
        let column = |name: &str| {
            let at = peers.iter().position(|peer| peer.name == name);
            at.map_or_else(|| "-".to_owned(), |at| spreads[at + 1].to_string())
        };
        println!(
            "{:9} {:>5} {threads:>3} {what:8} {:>23} {:>23} {:>23} {ratio:>6.2}",
            format!("{}+{}", shape.0, shape.1),
            shard_bytes >> 10,
            spreads[0].to_string(),
            column("isa-l"),
            column("simd-accel"),
        );
        least = least.min(ratio);
    }
    least
}

/// Each kernel that this processor has, and the crate's arithmetic without its C code.
fn compare_kernels() {
    println!("{:9} {:14} {:>23} {:>23}", "64 KiB", "kernel", "encode GB/s", "rebuild m GB/s");
    for shape in SHAPES {
        let mut stripe = Stripe::new(shape.0, shape.1, 64 << 10);
        let name = format!("{}+{}", shape.0, shape.1);
        for kernel in kernels() {
            let code =
                Code::with_kernel(Shape::new(shape.0 as u64, shape.1 as u64).unwrap(), kernel);
            let mut measure = |act: &(dyn Fn(&mut Stripe) + Sync)| {
                Spread::of((0..runs()).map(|_| stripe.rate(1, act)).collect())
            };
            let encode = measure(&|work| work.encode(&code));
            let rebuild = measure(&|work| work.rebuild(&code));
            println!("{name:9} {:14} {encode:>23} {rebuild:>23}", kernel.name());
            if kernel == Kernel::Portable {
                let oracle = galois_8::ReedSolomon::new(shape.0, shape.1).unwrap();
                let encode = measure(&|work| work.encode_oracle(&oracle));
                println!("{name:9} {:14} {encode:>23}", "the crate's");
            }
        }
    }
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

    /// How often it is gone through.
    fn rounds(&self) -> usize {
        let stripe_bytes = self.data.len() * self.data[0].len();
        if is_smoke() { 1 } else { WORK_BYTES.div_ceil(stripe_bytes) }
    }

    /// GB of data a second of all threads together, each with a stripe of its own.
    fn rate(&mut self, threads: usize, act: impl Fn(&mut Self) + Sync) -> f64 {
        let (rounds, stripe_bytes) = (self.rounds(), self.data.len() * self.data[0].len());
        let mut stripes = vec![self.clone(); threads];
        stripes.iter_mut().for_each(&act);
        let ((), time) = seconds(|| {
            thread::scope(|scope| {
                for stripe in &mut stripes {
                    let act = &act;
                    scope.spawn(move || (0..rounds).for_each(|_| act(stripe)));
                }
            });
        });
        (threads * rounds * stripe_bytes) as f64 / time / 1e9
    }

    fn encode(&mut self, code: &Code) {
        let shards: Vec<(usize, &[u8])> = self.data.iter().map(|d| &d[..]).enumerate().collect();
        code.begin(code.parity_rows(), &shards, &mut self.parity);
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
        code.begin(&rows, &shards, &mut self.parity);
    }

    fn encode_oracle(&mut self, code: &galois_8::ReedSolomon) {
        code.encode_sep(&self.data, &mut self.parity).unwrap();
    }
}
