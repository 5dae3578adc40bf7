//! Shards in memory, between whoever brings them and whoever reads them.

use crate::content::network_store::HeldBlock;
use barrow_wire::Multihash;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};

/// The shards at hand of one mender, which its stream reads from. Each counts where it is held.
#[derive(Default)]
pub(super) struct Hand(Mutex<State>);

#[derive(Default)]
struct State {
    shards: HashMap<Multihash, Shard>,
    /// The stripe that is being brought: what lacks of it may be made of any other of its shards.
    open: Option<u64>,
}

struct Shard {
    /// That it was asked for.
    stripe: u64,
    block: HeldBlock,
    /// The reader had it.
    is_read: bool,
}

impl Hand {
    /// Begins to bring a stripe. What is left of those behind the reader is let go of.
    pub(super) fn open(&self, stripe: u64) {
        let mut state = self.0.lock();
        state.open = Some(stripe);
        // The reader is in the one before.
        state.shards.retain(|_, shard| shard.stripe + 1 >= stripe);
    }

    /// A stripe is brought, or cannot be: of its shards, the reader needs these alone.
    pub(super) fn close(&self, stripe: u64, needed: &HashSet<Multihash>) {
        let mut state = self.0.lock();
        state.open = None;
        state.shards.retain(|hash, shard| {
            shard.stripe != stripe || (needed.contains(hash) && !shard.is_read)
        });
    }

    /// Adds a shard.
    pub(super) fn put(&self, stripe: u64, hash: Multihash, block: HeldBlock) {
        self.0.lock().shards.insert(hash, Shard { stripe, block, is_read: false });
    }

    /// Whether a shard is here.
    pub(super) fn has(&self, hash: &Multihash) -> bool {
        self.0.lock().shards.contains_key(hash)
    }

    /// A shard that stays.
    pub(super) fn get(&self, hash: &Multihash) -> Option<Bytes> {
        self.0.lock().shards.get(hash).map(|shard| shard.block.data().clone())
    }

    /// A shard for the reader, who does not come back to it.
    pub(super) fn take(&self, hash: &Multihash) -> Option<Bytes> {
        let State { shards, open } = &mut *self.0.lock();
        let shard = shards.get_mut(hash)?;
        shard.is_read = true;
        let data = shard.block.data().clone();
        if *open != Some(shard.stripe) {
            shards.remove(hash);
        }
        Some(data)
    }
}
