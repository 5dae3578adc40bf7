//! Making a dataset protected: its leaves in, parity and the manifest's blocks out.
//!
//! Memory is the sums of one stripe's parity, a batch of leaves, and what the workers hash,
//! whatever the size of the dataset.

use crate::{
    base::pool::{Buffer, Pool},
    data::{block::Block, dag, unixfs::UnixFsError},
    erasure::{Code, List, Manifest, ManifestError, Nodes, Shape, ShapeError, Stripe},
    store::disk::{DatasetId, Disk, StoreError},
};
use barrow_wire::{Cid, Codec, HashCode, Multihash};
use bytes::Bytes;
use crossbeam::channel::{Receiver, bounded};
use rayon::{ThreadPool, prelude::*};
use std::{
    collections::{HashSet, VecDeque},
    fmt, mem,
    sync::Arc,
};

/// Leaves that a worker adds to the sums in one go: each sum is read and written once for them.
const BATCH_LEAVES: usize = 8;
/// Their bytes at most; they hold memory of the pool.
const BATCH_BYTES: usize = 4 << 20;

/// Why a dataset was not protected.
#[derive(Debug)]
pub enum ProtectError {
    /// The numbers of shards do not go with the blocks.
    Shape(ShapeError),
    /// It is too large for a manifest.
    Manifest(ManifestError),
    /// A block of it is not here: protect what is whole.
    Lacks(Box<Cid>),
    /// A block of it is not what its codec says.
    Malformed(UnixFsError),
    /// The store fails.
    Store(StoreError),
    /// A worker failed: a bug, told in the log.
    Worker,
}

impl fmt::Display for ProtectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(error) => error.fmt(f),
            Self::Manifest(error) => error.fmt(f),
            Self::Lacks(cid) => write!(f, "block {cid} of it is not here; pin it first"),
            Self::Malformed(error) => write!(f, "a block of it is malformed: {error}"),
            Self::Store(error) => error.fmt(f),
            Self::Worker => f.write_str("a worker failed; the log says why"),
        }
    }
}

impl std::error::Error for ProtectError {}

impl From<ShapeError> for ProtectError {
    fn from(error: ShapeError) -> Self {
        Self::Shape(error)
    }
}

impl From<ManifestError> for ProtectError {
    fn from(error: ManifestError) -> Self {
        Self::Manifest(error)
    }
}

impl From<StoreError> for ProtectError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The sums of a stripe's parity, or the worker that has them.
enum Sums {
    Here(Vec<Vec<u8>>),
    Working(Receiver<Vec<Vec<u8>>>),
}

/// The parity of a stripe, each shard with its hash.
type Hashed = Vec<(Multihash, Vec<u8>)>;

/// Takes leaves one after the other, and makes parity of them.
pub struct Protector<'a> {
    code: Code,
    pool: &'a Pool,
    workers: &'a Arc<ThreadPool>,
    /// The stripe that is being filled.
    stripe: Stripe,
    stripe_hashes: HashSet<Multihash>,
    /// Leaves of it that are in no sum yet, by their place.
    batch: Vec<(usize, Bytes)>,
    batch_bytes: usize,
    sums: Sums,
    /// The stripe before, whose parity is being hashed.
    closing: Option<(Stripe, Receiver<Hashed>)>,
    /// Parity that is hashed and waits for a buffer of the pool: less than the leaves of the
    /// importer's pipeline can close stripes.
    unsent: VecDeque<(Multihash, Vec<u8>)>,
    /// Sums of stripes that are done: fresh memory costs more than the arithmetic.
    spare: Vec<Vec<u8>>,
    list: Vec<Stripe>,
    lists: Vec<Cid>,
    interior: Vec<Cid>,
    leaves: u64,
    longest: usize,
}

impl<'a> Protector<'a> {
    /// Begins a dataset.
    pub fn new(shape: Shape, pool: &'a Pool, workers: &'a Arc<ThreadPool>) -> Self {
        Self {
            code: Code::new(shape),
            pool,
            workers,
            stripe: Stripe { data: Vec::new(), parity: Vec::new() },
            stripe_hashes: HashSet::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            sums: Sums::Here(Vec::new()),
            closing: None,
            unsent: VecDeque::new(),
            spare: Vec::new(),
            list: Vec::new(),
            lists: Vec::new(),
            interior: Vec::new(),
            leaves: 0,
            longest: 0,
        }
    }

    /// Whether the leaf is in the stripe that is being filled: then it needs no second place.
    pub fn has_in_stripe(&self, hash: &Multihash) -> bool {
        self.stripe_hashes.contains(hash)
    }

    /// Takes the next leaf.
    ///
    /// # Errors
    /// [`ProtectError::Shape`] if it is too long for the stripes.
    pub fn leaf(
        &mut self,
        cid: Cid,
        data: &Bytes,
        sink: &mut dyn FnMut(Block),
    ) -> Result<(), ProtectError> {
        let Some(hash) = cid.multihash() else { return Ok(()) };
        if !self.stripe_hashes.insert(hash) {
            return Ok(());
        }
        self.longest = self.longest.max(data.len());
        self.code.shape().check_longest(self.longest)?;
        self.leaves += 1;
        self.batch.push((self.stripe.data.len(), data.clone()));
        self.batch_bytes += data.len();
        self.stripe.data.push((cid, data.len()));
        if self.stripe.data.len() == self.code.shape().data() {
            self.close_stripe(sink)?;
        } else if self.batch.len() >= BATCH_LEAVES || self.batch_bytes >= BATCH_BYTES {
            self.add_batch()?;
        }
        Ok(())
    }

    /// Takes a block with links, which every slot keeps.
    pub fn node(&mut self, cid: Cid) {
        self.interior.push(cid);
    }

    fn take_sums(&mut self) -> Result<Vec<Vec<u8>>, ProtectError> {
        match mem::replace(&mut self.sums, Sums::Here(Vec::new())) {
            Sums::Here(mut sums) => {
                sums.append(&mut self.spare);
                Ok(sums)
            }
            Sums::Working(sums) => sums.recv().map_err(|_| ProtectError::Worker),
        }
    }

    /// Lets a worker add the batch to the sums.
    fn add_batch(&mut self) -> Result<(), ProtectError> {
        let mut sums = self.take_sums()?;
        let (code, batch, longest) = (self.code.clone(), self.take_batch(), self.stripe.longest());
        let (done, working) = bounded(1);
        self.workers.spawn(move || {
            add(&code, &batch, longest, &mut sums);
            // Whoever waits for it may have given up.
            let _ = done.send(sums);
        });
        self.sums = Sums::Working(working);
        Ok(())
    }

    fn take_batch(&mut self) -> Vec<(usize, Bytes)> {
        self.batch_bytes = 0;
        mem::take(&mut self.batch)
    }

    /// Lets a worker add the last batch and hash the parity; gives on that of the stripe before.
    fn close_stripe(&mut self, sink: &mut dyn FnMut(Block)) -> Result<(), ProtectError> {
        let mut sums = self.take_sums()?;
        let (code, batch, longest) = (self.code.clone(), self.take_batch(), self.stripe.longest());
        let before = self.closing.take();
        let (done, parity) = bounded(1);
        self.workers.spawn(move || {
            add(&code, &batch, longest, &mut sums);
            drop(batch);
            let hash = |sum: Vec<u8>| (Multihash::of(HashCode::Sha2_256, &sum), sum);
            let _ = done.send(sums.into_par_iter().map(hash).collect());
        });
        self.stripe_hashes.clear();
        let stripe = Stripe { data: mem::take(&mut self.stripe.data), parity: Vec::new() };
        self.closing = Some((stripe, parity));
        self.give_closed(before, sink)
    }

    fn give_closed(
        &mut self,
        closed: Option<(Stripe, Receiver<Hashed>)>,
        sink: &mut dyn FnMut(Block),
    ) -> Result<(), ProtectError> {
        let Some((mut stripe, parity)) = closed else { return Ok(()) };
        for (hash, sum) in parity.recv().map_err(|_| ProtectError::Worker)? {
            stripe.parity.push(Cid::v1(Codec::Raw, hash));
            self.unsent.push_back((hash, sum));
        }
        self.send(sink);
        self.list.push(stripe);
        if self.list.len() == Manifest::stripes_per_list(self.code.shape()) {
            self.close_list(sink)?;
        }
        Ok(())
    }

    /// Gives parity on for as long as there is memory for it. What waits for the disk counts against
    /// the pool, and the caller may hold some of that: so this does not wait.
    fn send(&mut self, sink: &mut dyn FnMut(Block)) {
        while let Some((hash, mut sum)) = self.unsent.pop_front() {
            let Some(buffer) = self.pool.try_take(sum.len()) else {
                self.unsent.push_front((hash, sum));
                return;
            };
            sink(filled(hash, &sum, buffer));
            sum.clear();
            self.spare.push(sum);
        }
    }

    /// Whether parity waits for memory.
    pub fn is_backed_up(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Lets go of the leaves that are in no sum yet, and gives the parity on that waits for memory.
    /// The caller holds no buffer of the pool.
    ///
    /// # Errors
    /// [`ProtectError::Worker`].
    pub fn settle(&mut self, sink: &mut dyn FnMut(Block)) -> Result<(), ProtectError> {
        if !self.batch.is_empty() {
            self.add_batch()?;
        }
        while let Some((hash, mut sum)) = self.unsent.pop_front() {
            sink(pooled(hash, &sum, self.pool));
            sum.clear();
            self.spare.push(sum);
        }
        Ok(())
    }

    fn close_list(&mut self, sink: &mut dyn FnMut(Block)) -> Result<(), ProtectError> {
        let list = List(mem::take(&mut self.list));
        let cid = give(list.encode()?, sink)?;
        self.lists.push(cid);
        Ok(())
    }

    /// Closes the last stripe, and gives the manifest of the dataset `root` of `size` bytes.
    ///
    /// # Errors
    /// [`ProtectError::Manifest`] if it is too large for one.
    pub fn finish(
        mut self,
        root: Cid,
        size: u64,
        sink: &mut dyn FnMut(Block),
    ) -> Result<Cid, ProtectError> {
        if !self.stripe.data.is_empty() {
            self.close_stripe(sink)?;
        }
        let closed = self.closing.take();
        self.give_closed(closed, sink)?;
        self.settle(sink)?;
        if !self.list.is_empty() {
            self.close_list(sink)?;
        }
        let mut nodes = Vec::new();
        for part in Nodes::split(&self.interior) {
            nodes.push(give(part.encode()?, sink)?);
        }
        let manifest = Manifest {
            root,
            size,
            shape: self.code.shape(),
            leaves: self.leaves,
            longest: self.longest,
            interior: self.interior.len() as u64,
            lists: self.lists,
            nodes,
        };
        give(manifest.encode()?, sink)
    }
}

/// Adds leaves to the sums of their stripe's parity, which grow to the longest leaf so far.
fn add(code: &Code, batch: &[(usize, Bytes)], longest: usize, sums: &mut Vec<Vec<u8>>) {
    sums.resize(code.shape().parity(), Vec::new());
    for sum in &mut *sums {
        sum.resize(longest, 0);
    }
    let shards: Vec<(usize, &[u8])> = batch.iter().map(|(at, data)| (*at, &data[..])).collect();
    code.add(code.parity_rows(), &shards, sums);
}

/// Bytes that were just hashed as a block in a buffer of the pool.
pub(crate) fn pooled(hash: Multihash, bytes: &[u8], pool: &Pool) -> Block {
    filled(hash, bytes, pool.take(bytes.len()))
}

fn filled(hash: Multihash, bytes: &[u8], mut buffer: Buffer) -> Block {
    buffer.as_mut()[..bytes.len()].copy_from_slice(bytes);
    Block::from_store(hash, buffer.freeze(0..bytes.len()))
}

fn give(bytes: Bytes, sink: &mut dyn FnMut(Block)) -> Result<Cid, ProtectError> {
    let block = Block::of(bytes).map_err(|_| ProtectError::Manifest(ManifestError::Count))?;
    let cid = Cid::v1(Codec::DagCbor, *block.hash());
    sink(block);
    Ok(cid)
}

/// Protects the dataset `root` that is stored already: walks it, refers to each block of it from
/// `dataset`, and puts parity and manifest beside them.
///
/// # Errors
/// As [`ProtectError`] says.
pub fn protect_stored(
    mut protector: Protector<'_>,
    disk: &Disk,
    root: Cid,
    size: u64,
    dataset: DatasetId,
) -> Result<Cid, ProtectError> {
    let mut sink = |block| disk.put(block, Some(dataset));
    let mut walked = HashSet::new();
    let mut todo = vec![root];
    while let Some(cid) = todo.pop() {
        let Some(hash) = cid.multihash() else { continue };
        if walked.contains(&hash) || protector.has_in_stripe(&hash) {
            continue;
        }
        // Reading takes a buffer: nothing that is held may keep others, or this, from one.
        protector.settle(&mut sink)?;
        let block = disk.get(&hash)?.ok_or_else(|| ProtectError::Lacks(cid.into()))?.into_data();
        disk.reference(dataset, vec![hash]);
        let links = links_of(&cid, &block)?;
        if links.is_empty() {
            protector.leaf(cid, &block, &mut sink)?;
        } else {
            walked.insert(hash);
            protector.node(cid);
            todo.extend(links.into_iter().rev());
        }
    }
    protector.finish(root, size, &mut sink)
}

/// The links of a block; one whose codec cannot be read is a leaf.
fn links_of(cid: &Cid, block: &Bytes) -> Result<Vec<Cid>, ProtectError> {
    match dag::links(cid, block) {
        Ok(links) => Ok(links),
        Err(UnixFsError::Unsupported) => Ok(Vec::new()),
        Err(error) => Err(ProtectError::Malformed(error)),
    }
}
