//! What downloads may spend. All jobs of a download pay from one purse: what their blocks cost is
//! taken out of it when they are asked for, and put back if they do not come.

use super::{
    Engine, PurseId,
    peers::{Peer, Request},
    wants::Want,
};
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, Hash)]
struct Purse {
    /// In price times bytes.
    taken: u128,
    /// Its download is over: only what was asked for in time, and comes late, is paid from it.
    is_closed: bool,
}

/// All purses.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Purses(BTreeMap<PurseId, Purse>);

impl Purses {
    /// A job pays from this purse.
    pub(super) fn open(&mut self, purse: PurseId) {
        self.0.entry(purse).or_default();
    }

    pub(super) fn taken(&self, purse: PurseId) -> Option<u128> {
        self.0.get(&purse).map(|purse| purse.taken)
    }

    pub(super) fn take(&mut self, purse: PurseId, cost: u128) {
        if let Some(Purse { taken, .. }) = self.0.get_mut(&purse) {
            *taken = taken.saturating_add(cost);
        }
    }

    pub(super) fn put_back(&mut self, purse: PurseId, cost: u128) {
        if let Some(Purse { taken, .. }) = self.0.get_mut(&purse) {
            *taken = taken.saturating_sub(cost);
        }
    }
}

impl Engine {
    /// A download goes on that has cost something before: its budget is what that left of it.
    pub(super) fn on_spent(&mut self, purse: PurseId, cost: u128) {
        self.purses.open(purse);
        self.purses.take(purse, cost);
    }

    /// No job will pay from it any more. It stays as long as a late block may have to be paid.
    pub(super) fn on_purse_closed(&mut self, purse: PurseId) {
        if let Some(purse) = self.purses.0.get_mut(&purse) {
            purse.is_closed = true;
        }
        let peers = &self.peers;
        let is_needed = |id| peers.iter().any(|(_, peer)| peer.may_be_late_for(id));
        self.purses.0.retain(|id, purse| !purse.is_closed || is_needed(*id));
    }

    /// The purse that can pay for a block, with what it costs in price times bytes.
    pub(super) fn payer(&self, want: &Want, price: u64, bytes: u64) -> Option<(PurseId, u128)> {
        if price > self.config.price_max {
            return None;
        }
        let cost = u128::from(price) * u128::from(bytes);
        let purses = want.jobs.iter().filter_map(|id| self.jobs.get(*id)).map(|job| job.purse);
        purses.filter(|purse| self.affords(*purse, cost)).map(|purse| (purse, cost)).next()
    }

    pub(super) fn affords(&self, purse: PurseId, cost: u128) -> bool {
        let budget = u128::from(self.config.budget) << 20;
        cost == 0 || self.purses.taken(purse).is_some_and(|taken| taken + cost <= budget)
    }

    /// What was paid out of a purse so far, in price times bytes: without what is set aside for
    /// blocks that are asked for.
    pub fn spent(&self, purse: PurseId) -> Option<u128> {
        let aside = |peer: &Peer| -> u128 {
            let costs = peer.requests.iter().filter_map(Request::cost);
            costs.filter(|(payer, _)| *payer == purse).map(|(_, cost)| cost).sum()
        };
        let aside: u128 = self.peers.iter().map(|(_, peer)| aside(peer)).sum();
        self.purses.taken(purse).map(|taken| taken.saturating_sub(aside))
    }
}
