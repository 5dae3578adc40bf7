//! The thread that writes: it takes what is queued, and says when readers find it in the store.

use super::{Disk, Write, now};
use crate::{
    base::pool::Pool,
    data::block::Block,
    store::local_store::{DatasetId, LocalStore, StoreError},
};
use barrow_wire::Multihash;
use crossbeam::channel::Receiver;
use std::{collections::HashSet, sync::atomic::Ordering, time::Instant};

/// Bytes appended before readers find them in the store, and they leave the memory.
const PUBLISH_BYTES: u64 = 8 << 20;
/// Share of the pool that blocks may hold which only wait for that: they would starve the rest.
const UNPUBLISHED_POOL_SHARE: usize = 4;
/// Bytes that a crash may make the next start read again.
const UNSYNCED_BYTES_MAX: u64 = 256 << 20;

impl Disk {
    /// Takes what is queued until there is no more, and makes it last at the end.
    pub(super) fn write(&self, mut store: LocalStore, writes: &Receiver<Write>) {
        let mut appended: HashSet<Multihash> = HashSet::new();
        let mut since = Instant::now();
        let held_bytes_max = self.0.pool.bytes_max() / UNPUBLISHED_POOL_SHARE;
        let mut held_bytes = 0;
        loop {
            let next = if appended.is_empty() && store.is_committed() {
                writes.recv().ok()
            } else {
                match writes.recv_deadline(since + store.commit_interval()) {
                    Ok(write) => Some(write),
                    Err(error) if error.is_timeout() => {
                        self.commit(&mut store, &mut appended);
                        // If it failed, not before the next time.
                        since = Instant::now();
                        continue;
                    }
                    Err(_) => None,
                }
            };
            if appended.is_empty() {
                held_bytes = 0;
                if store.is_committed() {
                    since = Instant::now();
                }
            }
            match next {
                Some(Write::Put(put)) => {
                    let (block, dataset) = *put;
                    self.write_block(&mut store, &block, dataset);
                    appended.insert(*block.hash());
                    held_bytes += Pool::counted_bytes(block.len());
                }
                Some(Write::Reference(reference)) => {
                    let (dataset, blocks) = *reference;
                    self.write_references(&mut store, dataset, &blocks);
                }
                Some(Write::Control(act)) => {
                    act(&mut store);
                    self.publish(&mut store, &mut appended);
                }
                Some(Write::Stop) | None => break,
            }
            self.tell_damaged(&mut store);
            if store.batch_bytes() >= PUBLISH_BYTES || held_bytes >= held_bytes_max {
                let is_due = since.elapsed() >= store.commit_interval()
                    || store.unsynced_bytes() >= UNSYNCED_BYTES_MAX;
                if is_due {
                    self.commit(&mut store, &mut appended);
                    since = Instant::now();
                } else {
                    self.publish(&mut store, &mut appended);
                }
            }
        }
        if let Err(error) = store.sync() {
            log::error!("the last sync failed: {error}");
        }
        self.commit(&mut store, &mut appended);
        store.fold_log();
    }

    fn write_block(&self, store: &mut LocalStore, block: &Block, dataset: Option<DatasetId>) {
        let Err(error) = store.put(block, dataset) else { return };
        log::warn!("block {:?} is not stored: {error}", block.hash());
        if let Some(id) = dataset {
            self.0.failed.lock().entry(id).or_insert(error);
        }
    }

    fn write_references(&self, store: &mut LocalStore, id: DatasetId, blocks: &[Multihash]) {
        for hash in blocks {
            let noted = store.block_len(hash).and_then(|len| match len {
                Some(len) => store.reference(id, hash, len.into()),
                // It can be read before the writer has it: then whoever put it is about to say so.
                None => {
                    let pending = self.0.pending.lock().get(hash).cloned();
                    store.put(&pending.ok_or(StoreError::BadIndex)?, Some(id))
                }
            });
            if let Err(error) = noted {
                self.0.failed.lock().entry(id).or_insert(error);
                return;
            }
        }
    }

    /// Takes all that was appended into the index.
    fn commit(&self, store: &mut LocalStore, appended: &mut HashSet<Multihash>) {
        store.set_time(now());
        let touched = std::mem::take(&mut *self.0.touched.lock());
        let noted = touched.iter().try_for_each(|hash| store.touch(hash));
        let committed = noted.and_then(|()| {
            if store.unsynced_bytes() >= UNSYNCED_BYTES_MAX { store.sync() } else { store.commit() }
        });
        self.release(store, appended, committed);
    }

    /// Lets readers find all that was appended.
    fn publish(&self, store: &mut LocalStore, appended: &mut HashSet<Multihash>) {
        store.set_time(now());
        let published = store.publish();
        self.release(store, appended, published);
    }

    /// Says what there is now, and whether something went: the writer alone knows of what the index
    /// does not have yet.
    pub(super) fn tell(&self, store: &LocalStore) {
        self.0.changes.store(store.changes(), Ordering::Release);
        if store.is_index_damaged() {
            let reason = "the index is damaged; start the node again, and it is made anew";
            *self.0.unhealthy.lock() = Some(reason.into());
        }
        if let Ok((blocks, bytes)) = store.counts() {
            self.0.metrics.store_blocks.set(blocks);
            self.0.metrics.store_bytes.set(bytes);
        }
    }

    /// Tells whoever brings blocks back of those that the writer itself came upon.
    fn tell_damaged(&self, store: &mut LocalStore) {
        for hash in store.take_damaged() {
            self.0.metrics.store_damaged_total.add(1);
            let _ = self.0.damaged.0.try_send(hash);
        }
    }

    /// Lets go of the blocks that readers find in the store now.
    fn release(
        &self,
        store: &mut LocalStore,
        appended: &mut HashSet<Multihash>,
        written: Result<(), StoreError>,
    ) {
        if let Err(error) = written {
            log::error!("the index cannot be written: {error}");
            if error.is_damaged_index() {
                store.doubt_index();
            }
        }
        self.tell(store);
        if store.read_only().is_some() {
            *self.0.unhealthy.lock() = store.read_only().map(Into::into);
        }
        let mut pending = self.0.pending.lock();
        let released: Vec<Block> =
            appended.drain().filter_map(|hash| pending.remove(&hash)).collect();
        drop(pending);
        // Their buffers go back to the pool outside the lock.
        drop(released);
    }
}
