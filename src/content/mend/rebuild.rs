//! The arithmetic of a mender: lost shards of any k that are here.

use super::{Mender, Wish};
use crate::{
    base::pool::Buffer,
    content::store_stream::GetError,
    data::block::Block,
    erasure::{Code, ManifestError},
};
use barrow_wire::Multihash;
use bytes::Bytes;
use rayon::prelude::*;

/// Shards read for one addition to the sums; they hold memory of the pool.
const BATCH_SHARDS: usize = 8;
/// Their bytes at most.
const BATCH_BYTES: usize = 4 << 20;
/// The part of the pool that sums may take, one at least: of a stripe that lost more, some are
/// rebuilt after the others.
const SUMS_POOL_SHARE: usize = 7;

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
        let shape = self.manifest.shape;
        let present: Vec<usize> =
            (0..shape.shards()).filter(|at| wish.here[*at]).take(shape.data()).collect();
        let sums_max = mending.pool.bytes_max() / SUMS_POOL_SHARE;
        let together = (sums_max / wish.stripe.longest().max(1)).max(1);
        for lost in lost.chunks(together) {
            let Some(blocks) = self.rebuilt(wish, &present, lost)? else { return Ok(()) };
            for (place, block) in lost.iter().zip(blocks) {
                let hash = *block.hash();
                if self.dataset.is_none()
                    && let Some(held) = self.store.hold(&block)
                {
                    self.hand.put(wish.number, hash, held);
                }
                self.store.disk().put(block, self.dataset);
                wish.here[*place] = true;
                if !tell(&hash) {
                    return Err(GetError::Cancelled);
                }
            }
        }
        mending.metrics.erasure_decoded_stripes_total.add(1);
        Ok(())
    }

    /// The lost shards, checked; none if one of those present turned out to be damaged.
    fn rebuilt(
        &mut self,
        wish: &mut Wish,
        present: &[usize],
        lost: &[usize],
    ) -> Result<Option<Vec<Block>>, GetError> {
        let Some(sums) = self.sums(wish, present, lost)? else { return Ok(None) };
        let longest = wish.stripe.longest();
        let len = |place: &usize| wish.stripe.data.get(*place).map_or(longest, |(_, len)| *len);
        let named: Vec<(Multihash, usize)> =
            lost.iter().filter_map(|at| Some((wish.hashes[*at]?, len(at)))).collect();
        let blocks: Result<Vec<Block>, _> = self.mending.workers.install(|| {
            sums.into_par_iter()
                .zip(named)
                .map(|(sum, (hash, len))| Block::verify(hash, sum.freeze(0..len)))
                .collect()
        });
        // All shards that went in had their hashes, so it is the manifest that is wrong.
        blocks.map(Some).map_err(|_| self.contradiction())
    }

    fn contradiction(&self) -> GetError {
        self.mending.forget(&self.cid);
        ManifestError::Contradiction.into()
    }

    /// The bytes of the lost shards, as long as the longest.
    fn sums(
        &mut self,
        wish: &mut Wish,
        present: &[usize],
        lost: &[usize],
    ) -> Result<Option<Vec<Buffer>>, GetError> {
        let rows = self.rows(present, lost);
        let longest = wish.stripe.longest();
        let mut sums: Vec<Buffer> = lost.iter().map(|_| self.mending.pool.take(longest)).collect();
        let mut sum = Sum { code: &self.code, rows: &rows, longest, fresh: true };
        let mut batch: Vec<(usize, Bytes)> = Vec::new();
        let mut batch_bytes = 0;
        for (at, place) in present.iter().enumerate() {
            if let Some(hash) = wish.hashes[*place] {
                let held = self.hand.get(&hash);
                let stored = || Ok(self.store.disk().get(&hash)?.map(Block::into_data));
                let Some(data) = held.map_or_else(stored, |held| Ok::<_, GetError>(Some(held)))?
                else {
                    wish.here[*place] = false;
                    return Ok(None);
                };
                let expected = wish.stripe.data.get(*place).map_or(longest, |(_, len)| *len);
                if data.len() != expected {
                    return Err(self.contradiction());
                }
                batch_bytes += data.len();
                batch.push((at, data));
            }
            let last = at + 1 == present.len();
            if last || batch.len() == BATCH_SHARDS || batch_bytes >= BATCH_BYTES {
                self.mending.workers.install(|| sum.add(&batch, &mut sums));
                batch.clear();
                batch_bytes = 0;
            }
        }
        Ok(Some(sums))
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

/// Sums of shards that come batch by batch.
struct Sum<'a> {
    code: &'a Code,
    rows: &'a [Vec<u8>],
    longest: usize,
    /// The first batch is to come: what is in the sums is nothing yet.
    fresh: bool,
}

impl Sum<'_> {
    /// Adds a batch, each worker a part of all sums: so each input is read once.
    fn add(&mut self, batch: &[(usize, Bytes)], sums: &mut [Buffer]) {
        let part_bytes = self.longest.div_ceil(rayon::current_num_threads()).max(1);
        let mut parts: Vec<Vec<&mut [u8]>> = Vec::new();
        for sum in sums {
            let chunks = sum.as_mut()[..self.longest].chunks_mut(part_bytes);
            for (n, chunk) in chunks.enumerate() {
                if parts.len() == n {
                    parts.push(Vec::new());
                }
                parts[n].push(chunk);
            }
        }
        let (code, rows, fresh) = (self.code, self.rows, self.fresh);
        parts.into_par_iter().enumerate().for_each(|(n, mut sums)| {
            let part = |data: &Bytes| {
                let start = (n * part_bytes).min(data.len());
                start..(start + part_bytes).min(data.len())
            };
            let shards: Vec<(usize, &[u8])> =
                batch.iter().map(|(at, data)| (*at, &data[part(data)])).collect();
            match fresh {
                true => code.begin(rows, &shards, &mut sums),
                false => code.add(rows, &shards, &mut sums),
            }
        });
        self.fresh = false;
    }
}
