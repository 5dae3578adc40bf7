//! The crate's own SIMD: `simd_accel K M SHARD_BYTES THREADS ROUNDS` prints GB of data a second of
//! encoding and of rebuilding the first m data shards, each thread with a stripe of its own.

use reed_solomon_erasure::galois_8::ReedSolomon;
use std::{env, thread, time::Instant};

#[derive(Clone)]
struct Stripe {
    data: Vec<Vec<u8>>,
    parity: Vec<Vec<u8>>,
    /// All shards, each with whether it is there: what was rebuilt keeps its memory.
    shards: Vec<(Vec<u8>, bool)>,
}

fn main() {
    let numbers: Vec<usize> = env::args().skip(1).map(|word| word.parse().unwrap()).collect();
    let [data, parity, shard_bytes, threads, rounds] = numbers[..] else { panic!("five numbers") };
    let code = ReedSolomon::new(data, parity).unwrap();
    let mut state = 1_u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    let plain: Vec<Vec<u8>> =
        (0..data).map(|_| (0..shard_bytes).map(|_| byte()).collect()).collect();
    let mut sums = vec![vec![0; shard_bytes]; parity];
    code.encode_sep(&plain, &mut sums).unwrap();
    let shards = plain.iter().chain(&sums).map(|shard| (shard.clone(), true)).collect();
    let stripe = Stripe { data: plain, parity: sums, shards };
    let mut stripes = vec![stripe; threads];
    let lost = parity.min(data);
    let mut rate = |act: &(dyn Fn(&mut Stripe) + Sync)| {
        stripes.iter_mut().for_each(act);
        let since = Instant::now();
        thread::scope(|scope| {
            for stripe in &mut stripes {
                scope.spawn(move || (0..rounds).for_each(|_| act(stripe)));
            }
        });
        (threads * rounds * data * shard_bytes) as f64 / since.elapsed().as_secs_f64() / 1e9
    };
    let encode = rate(&|stripe| code.encode_sep(&stripe.data, &mut stripe.parity).unwrap());
    let rebuild = rate(&|stripe| {
        stripe.shards[..lost].iter_mut().for_each(|(_, is_there)| *is_there = false);
        code.reconstruct_data(&mut stripe.shards).unwrap();
    });
    println!("{encode} {rebuild}");
}
