//! How a protected dataset stands: what of it lacks here, and what it can still bear.

use super::Node;
use crate::{
    content::store_stream::{GetError, Scope},
    store::local_store::{Dataset, Slot, StoreError},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How much of what a node keeps of a protected dataset is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Parity shards of a stripe.
    pub parity: usize,
    /// Whether it is one slot that is kept, and not all.
    pub is_slot: bool,
    /// How many stripes lack how many of the shards that are kept here.
    pub losses: BTreeMap<usize, u64>,
}

impl Standing {
    /// Stripes in all.
    pub fn stripes(&self) -> u64 {
        self.losses.values().sum()
    }

    /// Whether all that is kept here is here.
    pub fn is_whole(&self) -> bool {
        self.losses.keys().all(|lost| *lost == 0)
    }

    /// Stripes that nothing here can rebuild.
    pub fn lost(&self) -> u64 {
        let lost = self.losses.iter().filter(|(lost, _)| !self.is_slot && **lost > self.parity);
        lost.map(|(_, stripes)| stripes).sum()
    }

    /// Losses that each stripe bears yet; none where one is lost, or a slot alone is here.
    pub fn bears(&self) -> Option<usize> {
        let most = self.losses.keys().next_back().copied().unwrap_or(0);
        self.parity.checked_sub(most).filter(|_| !self.is_slot)
    }

    /// What the command line and the API tell.
    pub fn to_json(&self) -> Value {
        json!({
            "stripes": self.stripes(),
            "losses": self.losses,
            "lost": self.lost(),
            "bears": self.bears(),
            "whole": self.is_whole(),
        })
    }
}

impl Node {
    /// How a dataset stands; none if it is not protected.
    ///
    /// # Errors
    /// If its manifest is not here.
    pub fn standing(&self, dataset: &Dataset) -> Result<Option<Standing>, GetError> {
        let Some(protection) = &dataset.info.protection else { return Ok(None) };
        let shards = usize::from(protection.data + protection.parity);
        let slot = protection.slot.unwrap_or(Slot { index: 0, slots: 1 });
        let mut mender = self.mender(&dataset.info.root, Scope::Local, None)?;
        Ok(Some(Standing {
            parity: protection.parity.into(),
            is_slot: protection.slot.is_some(),
            losses: mender.losses(&slot.places(shards))?,
        }))
    }

    /// What is told of one dataset that is asked for: also whether all of it is here, for which it
    /// is walked.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn dataset_detail(&self, dataset: &Dataset) -> Result<Value, StoreError> {
        let mut told = self.dataset_json(dataset);
        if dataset.info.protection.is_none() {
            told["whole"] = self.is_whole(dataset)?.into();
        }
        Ok(told)
    }

    /// What is told of a dataset: what is known of it, how it stands, and who holds its slots.
    pub fn dataset_json(&self, dataset: &Dataset) -> Value {
        let mut told = json!(dataset);
        match self.standing(dataset) {
            Ok(None) => return told,
            Ok(Some(standing)) => told["standing"] = standing.to_json(),
            Err(error) => told["standing"] = json!({ "whole": false, "error": error.to_string() }),
        }
        if let Some(spread) = self.last_spread(&dataset.info.root) {
            told["spread"] = spread.to_json();
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_stripe_says_what_all_bear() {
        let standing = |is_slot, losses: &[(usize, u64)]| Standing {
            parity: 2,
            is_slot,
            losses: losses.iter().copied().collect(),
        };
        let whole = standing(false, &[(0, 9)]);
        assert_eq!((whole.bears(), whole.lost(), whole.is_whole()), (Some(2), 0, true));
        let worn = standing(false, &[(0, 7), (1, 2), (2, 1)]);
        assert_eq!((worn.bears(), worn.lost(), worn.is_whole()), (Some(0), 0, false));
        let lost = standing(false, &[(0, 7), (3, 2)]);
        assert_eq!((lost.bears(), lost.lost(), lost.stripes()), (None, 2, 9));
        // Of a slot nothing is lost that others have not.
        let slot = standing(true, &[(0, 7), (3, 2)]);
        assert_eq!((slot.bears(), slot.lost(), slot.is_whole()), (None, 0, false));
    }
}
