//! Peer exchange: the peers that are connected tell who else is there.
//!
//! An empty list of addresses asks for the other side's; a ping behind it marks, by its answer,
//! that all was said. Nobody is asked or answered often, and nobody's unasked word counts twice.

use super::{ConnId, Engine, JobId, Moment, Timer, connections::may_hear_of, jobs::Search};
use barrow_wire::{Message, PeerAddress};
use std::{collections::BTreeMap, time::Duration};

/// Others that a peer is told of at one time, and that it may tell of.
const ADDRESSES_TOLD_MAX: usize = 16;
/// Peers that are asked at one time.
const ASKED_MAX: usize = 16;
/// A peer is asked again after this time at the earliest.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// A peer that asks again earlier than this hears nothing.
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// A search waits no longer for peers that were asked.
const ANSWER_TIME: Duration = Duration::from_millis(800);
/// Peers that do not answer hold a search back no longer than this.
const SEARCH_PATIENCE: Duration = Duration::from_millis(300);

/// How it stands with one peer.
#[derive(Clone, Copy, Debug, Default)]
struct Terms {
    asked_at: Option<Moment>,
    /// The ping that ends its answer.
    awaits: Option<u64>,
    told_at: Option<Moment>,
    /// It has told of others without being asked, as all do once.
    volunteered: bool,
}

/// How it stands with all peers.
#[derive(Clone, Debug, Default)]
pub(super) struct Exchange(BTreeMap<ConnId, Terms>);

impl Exchange {
    fn is_awaited(&self) -> bool {
        self.0.values().any(|terms| terms.awaits.is_some())
    }

    /// Whether what a peer tells of is to be heard.
    fn may_tell(&mut self, conn: ConnId) -> bool {
        let terms = self.0.entry(conn).or_default();
        terms.awaits.is_some() || !std::mem::replace(&mut terms.volunteered, true)
    }

    /// Whether a peer that asks is to be answered.
    fn may_ask(&mut self, now: Moment, conn: ConnId) -> bool {
        let terms = self.0.entry(conn).or_default();
        let may = terms.told_at.is_none_or(|at| now.since(at) >= TELL_AGAIN);
        if may {
            terms.told_at = Some(now);
        }
        may
    }
}

impl Engine {
    /// Asks discovery and the connected peers who else there is.
    pub(super) fn search(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        (job.search, job.discovered) = (Search::Running, false);
        let root = job.root;
        self.timers.clear(Timer::Search(id));
        self.outputs.push_back(super::Output::Discover { job: id, root });
        self.ask_around();
    }

    fn ask_around(&mut self) {
        let now = self.now;
        let due = |terms: Option<&Terms>| {
            let asked_at = terms.and_then(|terms| terms.asked_at);
            asked_at.is_none_or(|at| now.since(at) >= ASK_AGAIN)
        };
        let conns = self.peers.conns().into_iter();
        let due: Vec<_> =
            conns.filter(|conn| due(self.exchange.0.get(conn))).take(ASKED_MAX).collect();
        for conn in due {
            let nonce = self.rng.bits();
            let terms = self.exchange.0.entry(conn).or_default();
            (terms.asked_at, terms.awaits) = (Some(now), Some(nonce));
            self.send(conn, Message::PeerAddresses { peers: Vec::new() });
            self.send(conn, Message::Ping { nonce });
            self.timers.set(Timer::Exchange, now.after(ANSWER_TIME));
        }
    }

    /// Makes sure that a search begins soon, though those who were asked say nothing.
    pub(super) fn search_soon(&mut self, id: JobId) {
        if self.jobs.get(id).is_some_and(|job| job.search == Search::NotYet) {
            self.timers.set_earlier(Timer::Search(id), self.now.after(SEARCH_PATIENCE));
        }
    }

    pub(super) fn on_search_timer(&mut self, id: JobId) {
        let waits = self.jobs.get(id).is_some_and(|job| job.search == Search::NotYet);
        let lacks =
            self.wants.iter().any(|(_, want)| want.jobs.contains(&id) && !want.has_provider());
        if waits && lacks {
            self.search(id);
        }
    }

    pub(super) fn on_discovery_done(&mut self, id: JobId) {
        if let Some(job) = self.jobs.get_mut(id) {
            job.discovered = true;
            self.settle_searches();
        }
    }

    pub(super) fn on_exchange_pong(&mut self, conn: ConnId, nonce: u64) {
        let Some(terms) = self.exchange.0.get_mut(&conn) else { return };
        if terms.awaits == Some(nonce) {
            terms.awaits = None;
            self.settle_searches();
        }
    }

    pub(super) fn on_exchange_timer(&mut self) {
        for terms in self.exchange.0.values_mut() {
            terms.awaits = None;
        }
        self.settle_searches();
    }

    pub(super) fn forget_exchange(&mut self, conn: ConnId) {
        self.exchange.0.remove(&conn);
        self.settle_searches();
    }

    /// A search is over once discovery and all peers have said what they know.
    fn settle_searches(&mut self) {
        if self.exchange.is_awaited() {
            return;
        }
        let mut any = false;
        for (_, job) in self.jobs.iter_mut() {
            if job.search == Search::Running && job.discovered {
                job.search = Search::Done(self.now);
                any = true;
            }
        }
        if any {
            self.recheck_all();
        }
    }

    /// Tells a peer who else is there, as far as that may mean anything where it is.
    pub(super) fn tell_of_others(&mut self, conn: ConnId) {
        let Some(remote) = self.peers.get(conn).map(|peer| peer.remote.ip()) else { return };
        let others = self.peers.iter().filter(|(other, _)| *other != conn);
        let tellable = others.filter_map(|(_, other)| {
            let address = other.listens.filter(|at| may_hear_of(remote, at.ip()))?;
            Some(PeerAddress { peer: other.id, address })
        });
        let mut told: Vec<_> = tellable.collect();
        while told.len() > ADDRESSES_TOLD_MAX {
            let at = self.rng.below(told.len() as u64);
            told.swap_remove(usize::try_from(at).expect("an index"));
        }
        if !told.is_empty() {
            self.send(conn, Message::PeerAddresses { peers: told });
        }
    }

    pub(super) fn on_peer_addresses(&mut self, conn: ConnId, hints: &[PeerAddress]) {
        let Some(from) = self.peers.get(conn).map(|peer| peer.remote.ip()) else { return };
        if hints.is_empty() {
            if self.exchange.may_ask(self.now, conn) {
                self.tell_of_others(conn);
            }
            return;
        }
        if !self.exchange.may_tell(conn) {
            return;
        }
        // Only what the peer could have met from where it is: nobody far away may make us dial
        // into the network that we stand in.
        let hints = hints.iter().filter(|hint| may_hear_of(from, hint.address.ip()));
        for hint in hints.take(ADDRESSES_TOLD_MAX) {
            if hint.peer != self.config.peer_id && hint.address.port() != 0 {
                self.dials.hint(hint.address, hint.peer);
            }
        }
        self.pump_dials();
    }
}
