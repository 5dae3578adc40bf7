//! What one download may spend, however many retrievals it takes.

use crate::{
    engine::{Input, PurseId},
    net::reactor::ReactorHandle,
};
use std::sync::atomic::{AtomicBool, Ordering};

/// The budget of one download: all its retrievals pay from here. It closes when it is dropped.
pub struct Purse {
    id: PurseId,
    reactor: ReactorHandle,
    /// Somebody pays from it, so that the engine knows of it.
    is_open: AtomicBool,
}

impl Purse {
    pub(super) const fn new(id: PurseId, reactor: ReactorHandle) -> Self {
        Self { id, reactor, is_open: AtomicBool::new(false) }
    }

    /// What a retrieval that begins is to pay from.
    pub(super) fn open(&self) -> PurseId {
        self.is_open.store(true, Ordering::Relaxed);
        self.id
    }

    /// An earlier run has cost this much, in price times bytes: what may be spent is the rest.
    pub fn go_on_from(&self, spent: u128) {
        if spent > 0 {
            self.reactor.send(Input::Spent { purse: self.open(), cost: spent });
        }
    }

    /// What the download has cost so far, that included. Waits for the reactor, so that it is asked
    /// for only where something may be paid.
    pub fn spent(&self) -> Option<u128> {
        let id = self.id;
        self.reactor.inspect(move |engine| engine.spent(id)).flatten()
    }
}

impl Drop for Purse {
    fn drop(&mut self) {
        if *self.is_open.get_mut() {
            self.reactor.send(Input::PurseClosed { purse: self.id });
        }
    }
}
