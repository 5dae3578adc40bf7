//! How a store is opened.

use std::time::Duration;

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Bytes that its files may take, if bounded.
    pub quota_bytes: Option<u64>,
    /// SQLite's page cache, for each connection.
    pub cache_kib: usize,
    /// Make the directory if there is no store.
    pub create: bool,
    /// A pack that has this many bytes is left, and the next one begun.
    pub pack_bytes_max: u64,
    /// Bytes of one write: what is appended goes to the file in pieces of this size.
    pub piece_bytes: usize,
    /// Time after which the index is committed although nobody waits: longer wears a flash card
    /// less. Whoever puts or pins waits for a commit and a sync of its own.
    pub commit_interval: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            quota_bytes: None,
            cache_kib: 2_048,
            create: true,
            pack_bytes_max: 1 << 30,
            piece_bytes: 1 << 20,
            commit_interval: Duration::from_secs(1),
        }
    }
}
