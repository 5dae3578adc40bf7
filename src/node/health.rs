//! What a node tells of its own state.

use super::Node;
use crate::base::metrics::Metrics;
use std::sync::Arc;

impl Node {
    /// Its counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.metrics
    }

    /// Whether it does what it promises.
    ///
    /// # Errors
    /// What is wrong.
    pub fn health(&self) -> Result<(), String> {
        self.inner.disk.health()
    }

    /// What was answered while this had another value may be untrue by now.
    pub fn changes(&self) -> u64 {
        self.inner.disk.changes()
    }
}
