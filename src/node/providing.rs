//! What a node tells others that it has.

use super::Node;
use crate::store::local_store::{DatasetId, DatasetInfo, StoreError};
use barrow_wire::Cid;

/// The CIDs by which a dataset is found: its root, and the plain root of a protected one that is
/// here whole. Who holds a slot can give too little of the plain one to be asked for it.
pub(super) fn names(info: &DatasetInfo) -> Vec<Cid> {
    let whole = info.protection.as_ref().filter(|protection| protection.slot.is_none());
    std::iter::once(info.root).chain(whole.map(|protection| protection.root)).collect()
}

impl Node {
    /// Makes a dataset of what it refers to, pinned, and tells others of it.
    pub(super) fn finish_dataset(
        &self,
        dataset: DatasetId,
        info: DatasetInfo,
    ) -> Result<(), StoreError> {
        let names = names(&info);
        self.inner.disk.finish_dataset(dataset, info)?;
        names.iter().for_each(|name| self.inner.discovery.announce(name));
        Ok(())
    }

    /// No longer tells others of a dataset, except for what another one has too.
    pub(super) fn withdraw(&self, cid: &Cid) -> Result<(), StoreError> {
        let Some(dataset) = self.inner.disk.dataset(cid)? else { return Ok(()) };
        for name in names(&dataset.info) {
            let other = if name == *cid { None } else { self.inner.disk.dataset(&name)? };
            if !other.is_some_and(|other| other.info.pinned) {
                self.inner.discovery.withdraw(&name);
            }
        }
        Ok(())
    }
}
