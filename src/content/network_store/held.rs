//! Blocks in the hands of those who asked for them, within a bound.

use crate::data::block::Block;
use bytes::Bytes;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes of blocks that retrievals may hold.
#[derive(Clone)]
pub(super) struct Allowance {
    pub(super) bytes_max: usize,
    bytes: Arc<AtomicUsize>,
}

impl Allowance {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: Arc::default() }
    }

    /// The block, counted; none if that would be too much.
    pub(super) fn hold(&self, block: &Block) -> Option<HeldBlock> {
        let grown = |bytes| Some(bytes + block.len()).filter(|grown| *grown <= self.bytes_max);
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).ok()?;
        Some(HeldBlock { data: block.data().clone(), bytes: self.bytes.clone() })
    }
}

/// A block in the hand of whoever asked for it, and counted until it is given on.
#[derive(Debug)]
pub struct HeldBlock {
    data: Bytes,
    bytes: Arc<AtomicUsize>,
}

impl HeldBlock {
    /// Its bytes.
    pub const fn data(&self) -> &Bytes {
        &self.data
    }
}

impl Drop for HeldBlock {
    fn drop(&mut self) {
        self.bytes.fetch_sub(self.data.len(), Ordering::Relaxed);
    }
}
