//! What a node keeps: its datasets, and the space they take.

use super::Node;
use crate::{
    content::store_stream::GetError,
    store::{
        disk::VerifyReport,
        local_store::{Dataset, Removed, StoreError},
    },
};
use barrow_wire::Cid;

impl Node {
    /// Keeps a dataset that is here for so many seconds from now; `false` if there is none. What it
    /// was pinned for before no longer counts.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn pin_for(&self, cid: &Cid, seconds: u64) -> Result<bool, StoreError> {
        self.inner.disk.pin_until(cid, crate::base::clock::unix_seconds().saturating_add(seconds))
    }

    /// No longer keeps a dataset; `false` if there is none.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn unpin(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.withdraw(cid)?;
        self.inner.disk.set_pinned(cid, false)
    }

    /// Removes a dataset and what only it has; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn remove(&self, cid: &Cid) -> Result<Option<Removed>, StoreError> {
        self.withdraw(cid)?;
        self.inner.disk.remove_dataset(cid)
    }

    /// Removes what is not pinned, or no longer.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn gc(&self) -> Result<Removed, StoreError> {
        self.inner.disk.gc()
    }

    /// All datasets, the oldest first.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn datasets(&self) -> Result<Vec<Dataset>, StoreError> {
        self.inner.disk.datasets()
    }

    /// The dataset of this root, if it is whole.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn dataset(&self, cid: &Cid) -> Result<Option<Dataset>, StoreError> {
        self.inner.disk.dataset(cid)
    }

    /// Hashes all that is stored, and looks which datasets lack something, found damaged now or
    /// before.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn verify(
        &self,
        progress: &mut dyn FnMut(&VerifyReport) -> bool,
    ) -> Result<VerifyReport, StoreError> {
        let mut report = self.inner.disk.verify(progress)?;
        if report.is_index_damaged {
            return Ok(report);
        }
        // The writer forgets what is damaged in its own time; only then it is seen to lack.
        self.inner.disk.sync()?;
        for dataset in self.datasets()? {
            if !self.is_whole(&dataset)? {
                report.incomplete.push(dataset.info.root);
            }
        }
        Ok(report)
    }

    /// Whether all blocks of a dataset that are to be here are.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn is_whole(&self, dataset: &Dataset) -> Result<bool, StoreError> {
        match self.lacks_something(dataset) {
            Ok(lacks) => Ok(!lacks),
            Err(GetError::Store(error)) => Err(error),
            // What leads to its blocks cannot be read, so some cannot be had.
            Err(error) => {
                log::error!("{}: {error}", dataset.info.root);
                Ok(false)
            }
        }
    }
}
