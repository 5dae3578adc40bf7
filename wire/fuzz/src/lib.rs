//! What the targets share: a bound on memory, and fixed keys, so that a finding repeats.

use barrow_wire::{Identity, Session, SessionConfig, StaticKey, Suites};
use std::sync::{LazyLock, atomic::Ordering::Relaxed};

#[path = "../../tests/common/mod.rs"]
pub mod common;

#[path = "../../tests/common/counting.rs"]
mod counting;

use counting::{LIVE_BYTES, PEAK_BYTES};

/// Runs `work`, and panics if it held more than `bytes_max` at one time.
pub fn within<T>(bytes_max: usize, work: impl FnOnce() -> T) -> T {
    let before = LIVE_BYTES.load(Relaxed);
    PEAK_BYTES.store(before, Relaxed);
    let result = work();
    let held = PEAK_BYTES.load(Relaxed) - before;
    assert!(held <= bytes_max, "{held} bytes were held, {bytes_max} allowed");
    result
}

/// The keys of `vectors/handshake.json`; side 0 dials.
pub static KEYS: LazyLock<[StaticKey; 2]> = LazyLock::new(|| {
    [1, 2].map(|n| {
        let identity = Identity::from_seed([n; 32]);
        StaticKey::from_private_for_testing_only(&identity, [0x10 + n; 32])
    })
});

/// A session of side 0 or 1 with the vectors' keys, configured by the low bits of `choice`.
pub fn session(side: usize, choice: u8) -> Session<Vec<u8>> {
    let config = SessionConfig {
        static_key: &KEYS[side],
        swarm_key: (choice & 1 != 0).then_some(&[0x5a; 32]),
        expected: None,
        suites: Suites { aes_gcm: choice & 2 != 0 },
    };
    match side {
        0 => Session::initiator_for_testing_only(&config, &[0x21; 32]),
        _ => Session::responder_for_testing_only(&config, &[0x22; 32]),
    }
}
