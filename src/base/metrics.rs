//! Counters of the whole node, as leaf data: anyone adds, `/metrics` reads.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number that only its owner's threads change and anyone may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    /// Sets a gauge.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }
    /// Reads it.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The figures of `/metrics`; names as there, without the prefix.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Bytes put on sockets to peers.
    pub peer_bytes_sent_total: Counter,
    /// Bytes read from sockets of peers.
    pub peer_bytes_received_total: Counter,
    /// Blocks sent whole.
    pub blocks_sent_total: Counter,
    /// Blocks received whole and right.
    pub blocks_received_total: Counter,
    /// Blocks received that were here already.
    pub blocks_duplicate_total: Counter,
    /// Blocks received that had a wrong hash or were not asked for.
    pub blocks_rejected_total: Counter,
    /// Bytes of HTTP answers.
    pub http_bytes_sent_total: Counter,
    /// Answers that the gate gave again by itself.
    pub http_repeated_total: Counter,
    /// Blocks in the store.
    pub store_blocks: Counter,
    /// Bytes that the store's files take on disk.
    pub store_bytes: Counter,
    /// The quota, 0 for none.
    pub quota_bytes: Counter,
    /// Peers connected.
    pub peers: Counter,
    /// Blocks found damaged on disk.
    pub store_damaged_total: Counter,
    /// Damaged blocks that were brought back.
    pub store_healed_total: Counter,
    /// Blocks of kept datasets that nobody could bring back so far.
    pub store_lost: Counter,
    /// Blocks that the scrub hashed.
    pub scrub_blocks_total: Counter,
    /// Their bytes.
    pub scrub_bytes_total: Counter,
    /// Times that it went through all blocks.
    pub scrub_passes_total: Counter,
    /// Stripes that were decoded.
    pub erasure_decoded_stripes_total: Counter,
}
