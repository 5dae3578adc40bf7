//! Blocks that are looked at for no other reason than to see whether they are sound.

use super::{Disk, Write};
use crate::store::local_store::{LocalStore, Reading, StoreError};
use barrow_wire::{Cid, Codec, Multihash};
use crossbeam::channel::Receiver;

/// Blocks that one step of `verify` takes from the index.
const VERIFY_BATCH: u32 = 256;

/// How far a `verify` is, and what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Blocks whose hash was checked.
    pub blocks: u64,
    /// Blocks in all.
    pub blocks_total: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes in all; the records' own heads are among them, which `bytes` leaves out.
    pub bytes_total: u64,
    /// Blocks whose bytes are wrong; they are no longer served.
    pub damaged: Vec<Multihash>,
    /// The index is damaged, and nothing else was looked at: it is made anew when the store is
    /// opened next.
    pub is_index_damaged: bool,
    /// Datasets of which something is not here, found damaged now or before; filled by
    /// [`crate::Node::verify`], which knows how to walk them.
    pub incomplete: Vec<Cid>,
}

impl VerifyReport {
    /// The damaged blocks, as CIDs by which their bytes can be asked for.
    pub fn damaged_names(&self) -> Vec<String> {
        self.damaged.iter().map(|hash| Cid::v1(Codec::Raw, *hash).to_string()).collect()
    }

    /// The incomplete datasets' names.
    pub fn incomplete_names(&self) -> Vec<String> {
        self.incomplete.iter().map(Cid::to_string).collect()
    }
}

/// What a look at a block came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// It has the hash that names it, and so many bytes.
    Sound(usize),
    /// It has not, and is no longer served.
    Damaged,
    /// It was removed meanwhile.
    Gone,
}

impl Disk {
    /// Hashes every block again. `progress` is called now and then, and ends it with `false`.
    ///
    /// # Errors
    /// If the index or a pack cannot be read.
    pub fn verify(
        &self,
        progress: &mut dyn FnMut(&VerifyReport) -> bool,
    ) -> Result<VerifyReport, StoreError> {
        let damaged = VerifyReport { is_index_damaged: true, ..VerifyReport::default() };
        // The index comes first: it is what leads to the blocks.
        if !self.control(|store| Ok(store.check_index()))? {
            return Ok(damaged);
        }
        match self.verify_blocks(progress) {
            // It has pages in memory, so that not all is seen by looking through it.
            Err(error) if error.is_damaged_index() => {
                self.control(|store| {
                    store.doubt_index();
                    Ok(())
                })?;
                Ok(damaged)
            }
            verified => verified,
        }
    }

    fn verify_blocks(
        &self,
        progress: &mut dyn FnMut(&VerifyReport) -> bool,
    ) -> Result<VerifyReport, StoreError> {
        self.sync()?;
        let (blocks_total, bytes_total) = self.with_reader(|reader| reader.counts())?;
        let mut report = VerifyReport { blocks_total, bytes_total, ..VerifyReport::default() };
        let mut after = None;
        loop {
            let batch = self.blocks_after(after.as_ref(), VERIFY_BATCH)?;
            let Some(last) = batch.last() else { return Ok(report) };
            after = Some(*last);
            for hash in &batch {
                match self.look_at(hash)? {
                    Looked::Sound(bytes) => report.bytes += bytes as u64,
                    Looked::Damaged => report.damaged.push(*hash),
                    Looked::Gone => continue,
                }
                report.blocks += 1;
            }
            if !progress(&report) {
                return Ok(report);
            }
        }
    }

    /// Blocks behind `after` in the order of their hashes.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn blocks_after(
        &self,
        after: Option<&Multihash>,
        limit: u32,
    ) -> Result<Vec<Multihash>, StoreError> {
        self.with_reader(|reader| reader.blocks_after(after, limit))
    }

    /// Hashes a block again. A damaged one is quarantined, and named in the log; one that was, and is
    /// sound after all, is served again.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] while the drive does not return it, or if the index cannot be read.
    pub fn look_at(&self, hash: &Multihash) -> Result<Looked, StoreError> {
        match self.read(hash, true)? {
            // Where the hash cannot be computed, the record's checksum must do, which held.
            Reading::Found(block) if !hash.code().is_computed() || hash.verifies(block.data()) => {
                if self.with_reader(|reader| reader.is_quarantined(hash))? {
                    let released = *hash;
                    self.control(move |store| store.release(&released))?;
                }
                Ok(Looked::Sound(block.len()))
            }
            Reading::Found(_) | Reading::Damaged => {
                self.quarantine(hash);
                Ok(Looked::Damaged)
            }
            Reading::Absent => Ok(Looked::Gone),
            Reading::Unreadable(error) => Err(StoreError::Unreadable(error)),
            Reading::Misplaced(pack) => Err(StoreError::Misplaced(pack)),
        }
    }

    /// Whether so many blocks were found damaged lately that looking for more does harm.
    pub fn is_failing(&self) -> bool {
        self.0.faults.are_too_many()
    }

    /// No longer serves a block whose bytes are wrong, and tells whoever brings blocks back. Its
    /// bytes stay where they are.
    pub(super) fn quarantine(&self, hash: &Multihash) {
        if !self.0.forgotten.lock().insert(*hash) {
            return;
        }
        // Named when it is found, and not when the writer has come to it: by then a replacement may
        // be here. What is quarantined already was named before.
        if self.with_reader(|reader| reader.is_quarantined(hash)).is_ok_and(|known| !known) {
            let name = Cid::v1(Codec::Raw, *hash);
            log::error!("block {name} is damaged on disk; it is no longer served");
            self.0.metrics.store_damaged_total.add(1);
            self.0.faults.note_finding();
        }
        let hash = *hash;
        let quarantine = move |store: &mut LocalStore| {
            if let Err(error) = store.quarantine(&hash) {
                log::error!("a damaged block cannot be quarantined: {error}");
            }
        };
        let _ = self.0.writes.send(Write::Control(Box::new(quarantine)));
        // Each is committed before the next: readers of the index know of it then.
        let shared = self.0.clone();
        let told = move |_: &mut LocalStore| {
            shared.forgotten.lock().remove(&hash);
            let _ = shared.damaged.0.try_send(hash);
        };
        let _ = self.0.writes.send(Write::Control(Box::new(told)));
    }

    /// Blocks as they are found damaged. Each goes to one receiver.
    pub fn damaged(&self) -> Receiver<Multihash> {
        self.0.damaged.1.clone()
    }
}
