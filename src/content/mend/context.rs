//! What all menders of a node share.

use crate::{
    base::{metrics::Metrics, pool::Pool},
    content::{network_store::NetworkStore, store_stream::GetError},
    erasure::ManifestError,
    store::local_store::Protection,
};
use barrow_wire::{Cid, Multihash};
use parking_lot::Mutex;
use rayon::ThreadPool;
use std::{collections::VecDeque, fmt, sync::Arc};

/// Protections of plain roots that are remembered beside those of the store's datasets.
const KNOWN_MAX: usize = 256;

/// Why shards cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErasureError {
    /// The manifest cannot be believed.
    Manifest(ManifestError),
    /// Too many shards of a stripe are lost.
    StripeLost {
        /// Its number, from 0.
        stripe: u64,
        /// Shards of it that could be had.
        had: usize,
        /// Shards of it that are needed.
        needed: usize,
    },
}

impl fmt::Display for ErasureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(error) => error.fmt(f),
            Self::StripeLost { stripe, had, needed } => write!(
                f,
                "stripe {stripe} is lost: {had} of its shards could be had, {needed} are needed"
            ),
        }
    }
}

impl From<ManifestError> for GetError {
    fn from(error: ManifestError) -> Self {
        Self::Erasure(ErasureError::Manifest(error))
    }
}

/// What all menders of a node share.
pub struct Mending {
    pub(super) pool: Pool,
    pub(super) workers: Arc<ThreadPool>,
    pub(super) metrics: Arc<Metrics>,
    /// One stripe is rebuilt at a time, by all workers: its sums are the memory that it takes.
    pub(super) rebuilding: Mutex<()>,
    /// Which manifest protects a plain root, the latest last.
    known: Mutex<VecDeque<(Multihash, Cid)>>,
}

impl Mending {
    /// For one node.
    pub fn new(pool: Pool, workers: Arc<ThreadPool>, metrics: Arc<Metrics>) -> Self {
        Self { pool, workers, metrics, rebuilding: Mutex::new(()), known: Mutex::default() }
    }

    /// Remembers that the blocks of `root` are protected by `manifest`.
    pub fn learn(&self, root: &Cid, manifest: Cid) {
        let Some(hash) = root.multihash() else { return };
        let mut known = self.known.lock();
        known.retain(|(other, _)| *other != hash);
        if known.len() == KNOWN_MAX {
            known.pop_front();
        }
        known.push_back((hash, manifest));
    }

    /// A manifest lied: whoever reads the plain root is not to meet it again.
    pub(super) fn forget(&self, manifest: &Cid) {
        self.known.lock().retain(|(_, other)| other != manifest);
    }

    /// The manifest that protects a plain root, if one is known.
    pub fn protection(&self, store: &NetworkStore, root: &Cid) -> Option<Cid> {
        let hash = root.multihash()?;
        let known = self.known.lock();
        if let Some((_, manifest)) = known.iter().find(|(other, _)| *other == hash) {
            return Some(*manifest);
        }
        drop(known);
        let datasets = store.disk().datasets().ok()?;
        let of_root = |protection: &Protection| protection.root.multihash() == Some(hash);
        let found = datasets
            .iter()
            .find(|dataset| dataset.info.protection.as_ref().is_some_and(of_root))?;
        Some(found.info.root)
    }
}
