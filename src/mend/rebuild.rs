//! The arithmetic of a mender: lost shards of any k that are here.

use super::{Mender, Wish};
use crate::{block::Block, erasure::ManifestError, protect::pooled, store_stream::GetError};
use barrow_wire::Multihash;
use bytes::Bytes;
use rayon::prelude::*;

/// Shards read for one addition to the sums; they hold memory of the pool.
const BATCH_SHARDS: usize = 8;
/// Their bytes at most.
const BATCH_BYTES: usize = 4 << 20;

/// The factors that make the lost shards of a stripe of those present.
pub(super) struct Rows {
    present: Vec<usize>,
    lost: Vec<usize>,
    rows: Vec<Vec<u8>>,
}

impl Mender {
    /// Rebuilds the shards at `lost` from k that are here, and stores them.
    pub(super) fn rebuild(
        &mut self,
        wish: &mut Wish,
        lost: &[usize],
        tell: &mut dyn FnMut(&Multihash) -> bool,
    ) -> Result<(), GetError> {
        let mending = self.mending.clone();
        let _one_at_a_time = mending.rebuilding.lock();
        let Some(sums) = self.sums(wish, lost)? else { return Ok(()) };
        let hashes: Vec<Multihash> = lost.iter().filter_map(|at| wish.hashes[*at]).collect();
        let blocks: Result<Vec<Block>, _> = mending.workers.install(|| {
            sums.into_par_iter()
                .zip(&hashes)
                .map(|(sum, hash)| Block::verify(*hash, sum.into()))
                .collect()
        });
        // All shards that went in had their hashes, so it is the manifest that is wrong.
        let blocks = blocks.map_err(|_| ManifestError::Contradiction)?;
        mending.metrics.erasure_decoded_stripes_total.add(1);
        for (place, block) in lost.iter().zip(blocks) {
            let stored = pooled(*block.hash(), block.data(), &mending.pool);
            self.store.disk().put(stored, self.dataset);
            wish.here[*place] = true;
            if !tell(block.hash()) {
                return Err(GetError::Cancelled);
            }
        }
        Ok(())
    }

    /// The bytes of the lost shards; none if a shard turned out to be damaged.
    fn sums(&mut self, wish: &mut Wish, lost: &[usize]) -> Result<Option<Vec<Vec<u8>>>, GetError> {
        let shape = self.manifest.shape;
        let present: Vec<usize> =
            (0..shape.shards()).filter(|at| wish.here[*at]).take(shape.data()).collect();
        let rows = self.rows(&present, lost);
        let longest = wish.stripe.longest();
        let mut sums = vec![vec![0; longest]; lost.len()];
        let mut batch: Vec<(usize, Bytes)> = Vec::new();
        let mut batch_bytes = 0;
        for (at, place) in present.iter().enumerate() {
            if let Some(hash) = wish.hashes[*place] {
                let Some(block) = self.store.disk().get(&hash)? else {
                    wish.here[*place] = false;
                    return Ok(None);
                };
                let expected = wish.stripe.data.get(*place).map_or(longest, |(_, len)| *len);
                if block.len() != expected {
                    return Err(ManifestError::Contradiction.into());
                }
                batch_bytes += block.len();
                batch.push((at, block.into_data()));
            }
            let last = at + 1 == present.len();
            if last || batch.len() == BATCH_SHARDS || batch_bytes >= BATCH_BYTES {
                self.add(&rows, &batch, &mut sums);
                batch.clear();
                batch_bytes = 0;
            }
        }
        for (place, sum) in lost.iter().zip(&mut sums) {
            sum.truncate(wish.stripe.data.get(*place).map_or(longest, |(_, len)| *len));
        }
        Ok(Some(sums))
    }

    fn add(&self, rows: &[Vec<u8>], batch: &[(usize, Bytes)], sums: &mut [Vec<u8>]) {
        let shards: Vec<(usize, &[u8])> = batch.iter().map(|(at, data)| (*at, &data[..])).collect();
        self.mending.workers.install(|| {
            sums.par_iter_mut().zip(rows).for_each(|(sum, row)| {
                self.code.add(std::slice::from_ref(row), &shards, std::slice::from_mut(sum));
            });
        });
    }

    fn rows(&mut self, present: &[usize], lost: &[usize]) -> Vec<Vec<u8>> {
        if let Some(kept) = &self.rows
            && kept.present == present
            && kept.lost == lost
        {
            return kept.rows.clone();
        }
        let rows = self.code.rows(present, lost);
        self.rows =
            Some(Rows { present: present.to_vec(), lost: lost.to_vec(), rows: rows.clone() });
        rows
    }
}
