//! The node's protected datasets: put, kept whole or by slots, repaired.

use super::{Node, PutError, PutOptions, Resolved, Stored, unix_seconds};
use crate::{
    content::{
        fetch::FetchProgress,
        import::{ImportError, Importer, LeafHook},
        mend::Mender,
        protect::{ProtectError, Protector, protect_stored},
        store_stream::{GetError, Scope},
    },
    data::{block::Block, dag},
    erasure::{Manifest, ManifestError, Shape},
    store::{
        disk::{DatasetId, Disk, VerifyReport},
        local_store::{Dataset, DatasetInfo, Protection, Slot},
    },
};
use barrow_wire::{Cid, Codec, Multihash};
use std::{fs::File, io::Read, path::Path};

/// What a `verify --repair` came to.
#[derive(Clone, Debug, Default)]
pub struct RepairReport {
    /// What was found.
    pub verified: VerifyReport,
    /// Datasets that are whole again.
    pub repaired: Vec<Cid>,
    /// Datasets that are not, and why.
    pub lost: Vec<(Cid, String)>,
}

/// Makes parity of a file's leaves as they are imported.
struct ParityHook<'h, 'p> {
    protector: &'h mut Protector<'p>,
    disk: &'h Disk,
    dataset: DatasetId,
}

impl LeafHook for ParityHook<'_, '_> {
    fn leaf(&mut self, cid: Cid, block: &Block) -> Result<(), ProtectError> {
        let mut sink = |parity| self.disk.put(parity, Some(self.dataset));
        self.protector.leaf(cid, block.data(), &mut sink)
    }

    fn is_backed_up(&self) -> bool {
        self.protector.is_backed_up()
    }

    fn settle(&mut self) -> Result<(), ProtectError> {
        let mut sink = |parity| self.disk.put(parity, Some(self.dataset));
        self.protector.settle(&mut sink)
    }
}

impl Node {
    // --- Storing ---

    /// Stores a stream, and makes parity of it as it comes.
    pub(super) fn put_protected(
        &self,
        reader: &mut dyn Read,
        options: PutOptions,
        shape: Shape,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Stored, PutError> {
        let (profile, chunker) = (options.profile, options.chunker());
        let (disk, pool, workers) = (&self.inner.disk, &self.inner.pool, &self.inner.workers);
        self.finish_put(options, |dataset| {
            let mut protector = Protector::new(shape, pool, workers);
            let mut sink = |block| disk.put(block, Some(dataset));
            let mut hook = ParityHook { protector: &mut protector, disk, dataset };
            let leaf = Some(&mut hook as &mut dyn LeafHook);
            let mut importer =
                Importer { profile, chunker, pool, workers, sink: &mut sink, leaf, progress };
            let file = importer.stream(reader)?;
            if file.size == 0 {
                // The one leaf of an empty file, which no chunk told of.
                protector.leaf(file.cid, &bytes::Bytes::new(), &mut |_| {})?;
            } else {
                self.note_interior(&mut protector, file.cid)?;
            }
            Ok((protector.finish(file.cid, file.size, &mut sink)?, file.cid, file.size))
        })
    }

    /// As [`Self::put_with`] of a file: its parity is made as it is read.
    pub(super) fn put_file_protected(
        &self,
        path: &Path,
        options: PutOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Stored, PutError> {
        let named = |error| PutError::Import(ImportError::Read(Some(path.into()), error));
        let mut file = File::open(path).map_err(named)?;
        self.put_with(&mut file, options, progress)
    }

    /// Adds what is above the leaves of a file with raw ones; all of it was just stored.
    fn note_interior(&self, protector: &mut Protector<'_>, root: Cid) -> Result<(), ProtectError> {
        let mut todo = vec![root];
        while let Some(cid) = todo.pop() {
            if cid.codec() == Codec::Raw {
                continue;
            }
            let hash = cid.multihash().ok_or_else(|| ProtectError::Lacks(cid.into()))?;
            let block = self
                .inner
                .disk
                .get(&hash)?
                .ok_or_else(|| ProtectError::Lacks(cid.into()))?
                .into_data();
            protector.node(cid);
            let links = dag::links(&cid, &block).map_err(ProtectError::Malformed)?;
            todo.extend(links.into_iter().rev());
        }
        Ok(())
    }

    /// Makes a dataset of the blocks that `fill` gives, protected or not.
    pub(super) fn store_dataset(
        &self,
        options: PutOptions,
        fill: impl FnOnce(&mut dyn FnMut(Block)) -> Result<(Cid, u64), ImportError>,
    ) -> Result<Stored, PutError> {
        let protect = options.protect;
        self.finish_put(options, |dataset| {
            let (root, size) = fill(&mut |block| self.inner.disk.put(block, Some(dataset)))?;
            match protect {
                None => Ok((root, root, size)),
                Some(shape) => {
                    self.protect_into(root, size, shape, dataset).map(|cid| (cid, root, size))
                }
            }
        })
    }

    /// Adds parity to a dataset that was just stored.
    pub(super) fn protect_into(
        &self,
        root: Cid,
        size: u64,
        shape: Shape,
        dataset: DatasetId,
    ) -> Result<Cid, ImportError> {
        let protector = Protector::new(shape, &self.inner.pool, &self.inner.workers);
        Ok(protect_stored(protector, &self.inner.disk, root, size, dataset)?)
    }

    /// Makes a dataset of what `fill` stores; it gives the CID, the plain root and the size.
    pub(super) fn finish_put(
        &self,
        options: PutOptions,
        fill: impl FnOnce(DatasetId) -> Result<(Cid, Cid, u64), ImportError>,
    ) -> Result<Stored, PutError> {
        let disk = &self.inner.disk;
        let dataset = disk.begin_dataset()?;
        let (cid, root, size) = match fill(dataset) {
            Ok(filled) => filled,
            Err(error) => {
                disk.discard_dataset(dataset);
                return Err(match error {
                    ImportError::Protect(ProtectError::Store(error)) => PutError::Store(error),
                    error @ (ImportError::Read(..)
                    | ImportError::Unsupported(_)
                    | ImportError::Tree(_)
                    | ImportError::Protect(_)
                    | ImportError::Worker) => PutError::Import(error),
                });
            }
        };
        if let Err(error) = disk.await_dataset(dataset) {
            // Nobody asked for a part of it as cache.
            disk.discard_dataset(dataset);
            return Err(error.into());
        }
        let info = DatasetInfo {
            root: cid,
            size,
            pinned: true,
            expires: None,
            name: options.name,
            mimetype: options.mimetype,
            created: unix_seconds(),
            protection: options
                .protect
                .map(|shape| Protection::new(root, shape.data(), shape.parity(), None)),
        };
        self.finish_dataset(dataset, info)?;
        let blocks = disk.dataset(&cid)?.map_or(0, |dataset| dataset.blocks);
        Ok(Stored { cid, root, size, blocks })
    }

    /// Adds parity to a dataset that is stored, as a dataset of its own.
    ///
    /// # Errors
    /// If some of it is not here, or it cannot be written.
    pub fn protect(&self, root: &Cid, shape: Shape) -> Result<Stored, PutError> {
        let known = self.inner.disk.dataset(root)?;
        let size = match &known {
            Some(dataset) => dataset.info.size,
            None => self.content_size(root).map_err(|_| {
                PutError::Import(ImportError::Protect(ProtectError::Lacks((*root).into())))
            })?,
        };
        let options = PutOptions {
            name: known.as_ref().and_then(|dataset| dataset.info.name.clone()),
            mimetype: known.and_then(|dataset| dataset.info.mimetype),
            protect: Some(shape),
            ..PutOptions::default()
        };
        self.finish_put(options, |dataset| {
            Ok((self.protect_into(*root, size, shape, dataset)?, *root, size))
        })
    }

    // --- Reading ---

    /// What a protected manifest says; `None` if the block is something else.
    pub(super) fn manifest(&self, cid: &Cid, scope: Scope) -> Result<Option<Manifest>, GetError> {
        if !Manifest::may_be(cid) {
            return Ok(None);
        }
        match Manifest::decode(&self.source(cid, scope).block(cid)?) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(ManifestError::Kind | ManifestError::Cbor(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Follows a path below what a manifest protects; `None` if the block is no manifest.
    pub(super) fn resolve_protected(
        &self,
        cid: &Cid,
        path: &[String],
        scope: Scope,
    ) -> Result<Option<Resolved>, GetError> {
        let Some(manifest) = self.manifest(cid, scope)? else { return Ok(None) };
        self.inner.mending.learn(&manifest.root, *cid);
        // What protects a manifest protects no file: that one is data as it is.
        let resolved = self.resolve_as_it_is(&manifest.root, path, scope)?;
        self.inner.mending.learn(&resolved.cid, *cid);
        Ok(Some(resolved))
    }

    pub(super) fn mender(
        &self,
        cid: &Cid,
        scope: Scope,
        dataset: Option<DatasetId>,
    ) -> Result<Mender, GetError> {
        Mender::open(self.store.clone(), self.inner.mending.clone(), *cid, scope, dataset)
    }

    // --- Keeping ---

    /// Keeps one slot of a protected dataset, with its manifest and all blocks with links.
    ///
    /// # Errors
    /// As [`Node::pin`].
    pub fn pin_slot(
        &self,
        cid: &Cid,
        slot: Slot,
        progress: &mut dyn FnMut(&FetchProgress) -> bool,
    ) -> Result<FetchProgress, GetError> {
        self.run_pin(&self.begin_pin(cid, Some(slot)), progress)
    }

    pub(super) fn pin_protected(
        &self,
        cid: &Cid,
        slot: Option<Slot>,
        progress: &mut dyn FnMut(&FetchProgress) -> bool,
    ) -> Result<FetchProgress, GetError> {
        let known = self.inner.disk.dataset(cid)?;
        let dataset = self.inner.disk.begin_dataset()?;
        let kept = self.keep(cid, slot, dataset, progress);
        let (done, manifest) = match kept {
            Ok(kept) => kept,
            Err(error) => {
                self.inner.disk.abandon_dataset(dataset);
                return Err(error);
            }
        };
        let shape = manifest.shape;
        let info = DatasetInfo {
            root: *cid,
            size: manifest.size,
            pinned: true,
            expires: None,
            name: None,
            mimetype: None,
            created: known.map_or_else(unix_seconds, |known| known.info.created),
            protection: Some(Protection::new(manifest.root, shape.data(), shape.parity(), slot)),
        };
        self.finish_dataset(dataset, info)?;
        Ok(done)
    }

    /// Brings what a slot has, or all, and refers to it from `dataset`.
    fn keep(
        &self,
        cid: &Cid,
        slot: Option<Slot>,
        dataset: DatasetId,
        progress: &mut dyn FnMut(&FetchProgress) -> bool,
    ) -> Result<(FetchProgress, Manifest), GetError> {
        let ahead = self.inner.config.limits.window_bytes_max as u64;
        let mut mender =
            self.mender(cid, Scope::Network, Some(dataset))?.with_ahead(ahead).with_patience();
        let manifest = Manifest::clone(mender.manifest());
        let slot = slot.unwrap_or(Slot { index: 0, slots: 1 });
        let places = slot.places(manifest.shape.shards());
        let mut done = FetchProgress::default();
        self.keep_plain(&mut mender, &manifest, *cid, dataset, &mut || progress(&done))?;
        for number in 0..manifest.stripes() {
            let stripe = mender.stripe(number)?;
            let shards: Vec<(usize, Multihash)> =
                stripe.shards(manifest.shape).filter(|(place, _)| places.contains(place)).collect();
            let own: Vec<usize> = shards.iter().map(|(place, _)| *place).collect();
            mender.obtain(number, &own, &mut |_| progress(&done))?;
            self.inner.disk.reference(dataset, shards.iter().map(|(_, hash)| *hash).collect());
            done.blocks += shards.len() as u64;
            done.bytes_fetched += (shards.len() * stripe.longest()) as u64;
            done.bytes_here = done.bytes_fetched;
            done.blocks_left = (manifest.stripes() - number - 1) * places.len() as u64;
            done.bytes_left = Some(done.blocks_left * stripe.longest() as u64);
            if !progress(&done) {
                return Err(GetError::Cancelled);
            }
        }
        Ok((done, manifest))
    }

    /// Brings the manifest's own blocks and the interior ones.
    fn keep_plain(
        &self,
        mender: &mut Mender,
        manifest: &Manifest,
        cid: Cid,
        dataset: DatasetId,
        tell: &mut dyn FnMut() -> bool,
    ) -> Result<(), GetError> {
        let mut keep = |cid: &Cid, mender: &mut Mender| -> Result<(), GetError> {
            let block = mender.plain_block(cid)?;
            if !tell() {
                return Err(GetError::Cancelled);
            }
            if let Some(hash) = cid.multihash() {
                // What was fetched for reading is in the store; this makes it the dataset's.
                let block = Block::from_store(hash, block);
                self.inner.disk.put(block, Some(dataset));
            }
            Ok(())
        };
        keep(&cid, mender)?;
        for list in &manifest.lists {
            keep(list, mender)?;
        }
        for index in 0..manifest.nodes.len() {
            keep(&manifest.nodes[index], mender)?;
            for node in mender.nodes(index)?.0 {
                keep(&node, mender)?;
            }
        }
        Ok(())
    }

    // --- Repairing ---

    /// Makes a dataset whole again, as far as it is kept here: from parity, and from peers.
    ///
    /// # Errors
    /// If something cannot be had; what could stays.
    pub fn repair(
        &self,
        cid: &Cid,
        progress: &mut dyn FnMut(&FetchProgress) -> bool,
    ) -> Result<FetchProgress, GetError> {
        let known = self.inner.disk.dataset(cid)?;
        let slot = known.and_then(|dataset| dataset.info.protection).and_then(|p| p.slot);
        match slot {
            Some(slot) => self.pin_protected(cid, Some(slot), progress),
            None => self.pin(cid, progress),
        }
    }

    /// Hashes all that is stored, and repairs the datasets that lack something then.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn verify_and_repair(
        &self,
        progress: &mut dyn FnMut(&VerifyReport) -> bool,
    ) -> Result<RepairReport, GetError> {
        let verified = self.verify(progress)?;
        let mut datasets = self.datasets()?;
        datasets.retain(|dataset| verified.incomplete.contains(&dataset.info.root));
        let mut report = RepairReport { verified, ..RepairReport::default() };
        // The protected ones first: what they bring back, others may have lost too.
        datasets.sort_by_key(|dataset| dataset.info.protection.is_none());
        for dataset in datasets {
            let cid = dataset.info.root;
            if self.is_whole(&dataset)? {
                continue;
            }
            match self.repair(&cid, &mut |_| true) {
                Ok(_) => report.repaired.push(cid),
                Err(error) => report.lost.push((cid, error.to_string())),
            }
        }
        Ok(report)
    }

    /// Whether blocks of a dataset are no longer here.
    pub(super) fn lacks_something(&self, dataset: &Dataset) -> Result<bool, GetError> {
        let cid = dataset.info.root;
        let slot = dataset.info.protection.as_ref().and_then(|p| p.slot);
        let looked = match dataset.info.protection {
            Some(_) => self.lacks_shards(&cid, slot),
            None => self.lacks_block(&cid),
        };
        match looked {
            Err(GetError::NotFound) => Ok(true),
            other => other,
        }
    }

    fn lacks_shards(&self, cid: &Cid, slot: Option<Slot>) -> Result<bool, GetError> {
        let mut mender = self.mender(cid, Scope::Local, None)?;
        let manifest = mender.manifest().clone();
        for index in 0..manifest.nodes.len() {
            for node in mender.nodes(index)?.0 {
                mender.plain_block(&node)?;
            }
        }
        let slot = slot.unwrap_or(Slot { index: 0, slots: 1 });
        let places = slot.places(manifest.shape.shards());
        for number in 0..manifest.stripes() {
            if mender.lacks(number, &places)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn lacks_block(&self, root: &Cid) -> Result<bool, GetError> {
        let mut todo = vec![*root];
        let mut walked = std::collections::HashSet::new();
        while let Some(cid) = todo.pop() {
            let Some(hash) = cid.multihash() else { continue };
            if !walked.insert(hash) {
                continue;
            }
            if cid.codec() == Codec::Raw {
                let presence = self.inner.disk.presence(&[hash])?;
                if presence.contains(&barrow_wire::Presence::DontHave) {
                    return Ok(true);
                }
                continue;
            }
            let Some(block) = self.inner.disk.get(&hash)? else { return Ok(true) };
            todo.extend(dag::links(&cid, block.data()).unwrap_or_default());
        }
        Ok(false)
    }
}
