//! The blocks of a CAR into the store, and its roots pinned.

use crate::{
    base::pool::Pool,
    data::{
        car::{CarError, CarReader},
        dag,
        unixfs::{UnixFsError, content_size},
    },
    erasure::Manifest,
    store::{
        disk::{DatasetId, Disk},
        local_store::{DatasetInfo, Protection, StoreError},
    },
};
use barrow_wire::{Cid, Codec, Multihash, Presence};
use bytes::Bytes;
use std::{collections::HashSet, fmt, io::Read};

/// Blocks looked up at one time.
const LOOK_UPS_MAX: usize = 256;

/// What was imported.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct CarImport {
    /// Blocks in the CAR.
    pub blocks: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Its roots.
    pub roots: Vec<ImportedRoot>,
}

/// A root of a CAR, and what became of it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ImportedRoot {
    /// What names it.
    pub cid: String,
    /// Whether all below it is here, and pinned. Otherwise what came is cache.
    pub pinned: bool,
    /// Blocks that are known to lack.
    pub blocks_missing: u64,
}

impl CarImport {
    /// Whether every root is pinned.
    pub fn is_whole(&self) -> bool {
        self.roots.iter().all(|root| root.pinned)
    }
}

/// Why a CAR was not imported.
#[derive(Debug)]
pub enum CarImportError {
    /// It is none, or was cut off.
    Car(CarError),
    /// A block is not what its codec says.
    Block(Box<Cid>, UnixFsError),
    /// The store.
    Store(StoreError),
}

impl fmt::Display for CarImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Car(error) => error.fmt(f),
            Self::Block(cid, error) => write!(f, "{cid}: {error}"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CarImportError {}

impl From<CarError> for CarImportError {
    fn from(error: CarError) -> Self {
        Self::Car(error)
    }
}

impl From<StoreError> for CarImportError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Stores a CAR; `progress` is told of bytes as they are read, `now` is in seconds of Unix time.
///
/// Only a root below which nothing lacks becomes a dataset: peers and `gc` rely on a dataset being
/// whole.
///
/// # Errors
/// [`CarImportError`]; then nothing is pinned, and nothing of it stays.
pub fn import(
    disk: &Disk,
    pool: &Pool,
    input: &mut dyn Read,
    now: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<CarImport, CarImportError> {
    let dataset = disk.begin_dataset()?;
    let done = store(disk, pool, input, dataset, progress).and_then(|(mut done, roots)| {
        for root in roots {
            done.roots.push(pin_root(disk, root, now)?);
        }
        Ok(done)
    });
    match &done {
        // What no root took is cache from now on.
        Ok(_) => disk.abandon_dataset(dataset),
        Err(_) => disk.discard_dataset(dataset),
    }
    done
}

fn store(
    disk: &Disk,
    pool: &Pool,
    input: &mut dyn Read,
    dataset: DatasetId,
    progress: &mut dyn FnMut(u64),
) -> Result<(CarImport, Vec<Cid>), CarImportError> {
    let mut reader = CarReader::open(input)?;
    let mut done = CarImport::default();
    let mut told = 0;
    while let Some((_, block)) = reader.next_block(pool)? {
        done.blocks += 1;
        done.bytes += block.len() as u64;
        disk.put(block, Some(dataset));
        progress(reader.offset() - told);
        told = reader.offset();
    }
    disk.check_dataset(dataset)?;
    Ok((done, reader.roots().to_vec()))
}

fn pin_root(disk: &Disk, root: Cid, now: u64) -> Result<ImportedRoot, CarImportError> {
    let imported =
        |pinned, blocks_missing| ImportedRoot { cid: root.to_string(), pinned, blocks_missing };
    let Some(hash) = root.multihash() else {
        // It carries its bytes itself.
        return Ok(imported(true, 0));
    };
    let dataset = disk.begin_dataset()?;
    let refer = &mut |here| disk.reference(dataset, here);
    let outcome = walk_local(disk, root, refer).and_then(|missing| {
        if missing > 0 {
            disk.abandon_dataset(dataset);
            return Ok(imported(false, missing));
        }
        let block = disk.get(&hash)?.ok_or(StoreError::BadIndex)?;
        let manifest = manifest(&root, block.data());
        let plain_size = || content_size(&root, block.data());
        let info = DatasetInfo {
            root,
            size: manifest.as_ref().map_or_else(plain_size, |manifest| manifest.size),
            pinned: true,
            expires: None,
            name: None,
            mimetype: None,
            created: now,
            protection: manifest.map(|Manifest { root, shape, .. }| {
                Protection::new(root, shape.data(), shape.parity(), None)
            }),
        };
        disk.finish_dataset(dataset, info)?;
        Ok(imported(true, 0))
    });
    if outcome.is_err() {
        disk.abandon_dataset(dataset);
    }
    outcome
}

/// What a root says, if it is a protected manifest and not other linked data.
fn manifest(root: &Cid, block: &Bytes) -> Option<Manifest> {
    Some(root).filter(|root| Manifest::may_be(root))?;
    Manifest::decode(block).ok()
}

/// Gives all blocks of a DAG that are here to `each`, and tells how many are known to lack.
///
/// # Errors
/// If the store cannot be asked, or a block is not what its codec says.
pub fn walk_local(
    disk: &Disk,
    root: Cid,
    each: &mut dyn FnMut(Vec<Multihash>),
) -> Result<u64, CarImportError> {
    let mut seen: HashSet<Multihash> = HashSet::new();
    let mut todo = vec![root];
    let mut missing = 0;
    while !todo.is_empty() {
        let from = todo.len() - todo.len().min(LOOK_UPS_MAX);
        let batch: Vec<(Multihash, Cid)> = todo
            .split_off(from)
            .into_iter()
            .filter_map(|cid| Some((cid.multihash()?, cid)))
            .filter(|(hash, _)| seen.insert(*hash))
            .collect();
        let hashes: Vec<Multihash> = batch.iter().map(|(hash, _)| *hash).collect();
        let mut here = Vec::new();
        for ((hash, cid), presence) in batch.iter().zip(disk.presence(&hashes)?) {
            if presence == Presence::DontHave {
                missing += 1;
                continue;
            }
            here.push(*hash);
            if cid.codec() != Codec::Raw {
                let block = disk.get(hash)?.ok_or(StoreError::BadIndex)?;
                let links = dag::links(cid, block.data());
                todo.extend(links.map_err(|error| CarImportError::Block(Box::new(*cid), error))?);
            }
        }
        if !here.is_empty() {
            each(here);
        }
    }
    Ok(missing)
}
