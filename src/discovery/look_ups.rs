//! Look-ups under way: answers of all sources merged, with caps on what may be dialed for them.

use super::{
    Hint, Source,
    ranges::{Network, Ranges},
};
use crate::engine::JobId;
use barrow_wire::Multihash;
use crossbeam::channel::Sender;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Look-ups under way; more are answered with nothing at once.
const LOOK_UPS_MAX: usize = 64;
/// Whoever asked hears of the end after this time at the latest. It leaves room for a verdict
/// within the 3 s in which a CID that nobody has fails.
const ANSWER_TIME: Duration = Duration::from_millis(2_400);
/// Answers that come later than that are kept for the next one who asks.
const LINGER_TIME: Duration = Duration::from_secs(20);
/// What was found is passed on for so long to others who ask for the same.
const RECENT_TIME: Duration = Duration::from_secs(120);
/// Look-ups whose answers are kept.
const RECENT_MAX: usize = 256;
/// Addresses passed on, and so dialed, of one look-up.
pub(super) const DIALS_PER_LOOK_UP_MAX: usize = 64;
/// Of those, addresses in one network (see [`Network`]), unless it is ours.
pub(super) const DIALS_PER_NETWORK_MAX: usize = 4;
/// Addresses passed on in a minute, of all look-ups together.
pub(super) const DIALS_PER_MINUTE_MAX: u32 = 256;

/// Names a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LookUpId(u64);

/// Who waits for the answers of a look-up.
#[derive(Clone, Debug)]
pub(super) enum Asker {
    /// A retrieval of the engine.
    Job(JobId),
    /// A request of a delegated router's client; the channel's end is the look-up's.
    Query(Sender<Hint>),
}

/// What a look-up is for. Those for others ask no routers: two nodes that are each other's
/// router would ask in circles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subject {
    pub(super) hash: Multihash,
    pub(super) for_others: bool,
}

#[derive(Debug)]
struct LookUp {
    subject: Subject,
    askers: Vec<Asker>,
    /// Sources that have not said all, by their number.
    waits_for: BTreeSet<usize>,
    found: Vec<Hint>,
    networks: BTreeMap<Network, usize>,
    started_at: Instant,
}

/// All look-ups.
#[derive(Debug)]
pub(super) struct LookUps {
    ranges: Ranges,
    open: BTreeMap<LookUpId, LookUp>,
    recent: BTreeMap<Subject, (Instant, Vec<Hint>)>,
    next: u64,
    dials_left: u32,
    dials_at: Instant,
}

impl LookUps {
    pub(super) fn new(now: Instant, ranges: Ranges) -> Self {
        Self {
            ranges,
            open: BTreeMap::new(),
            recent: BTreeMap::new(),
            next: 0,
            dials_left: DIALS_PER_MINUTE_MAX,
            dials_at: now,
        }
    }

    /// Begins a look-up, or joins one for the same. Gives its id if the sources are to be asked,
    /// and what is known already.
    ///
    /// # Errors
    /// Gives the asker back if there are too many.
    pub(super) fn start(
        &mut self,
        now: Instant,
        subject: Subject,
        asker: Asker,
        sources: usize,
    ) -> Result<(Option<LookUpId>, Vec<Hint>), Asker> {
        // One that is over for whoever asked first only waits for late answers.
        let fresh = |look_up: &LookUp| now < look_up.started_at + ANSWER_TIME / 2;
        let running = self.open.values_mut().find(|open| open.subject == subject && fresh(open));
        if let Some(look_up) = running.filter(|look_up| !look_up.waits_for.is_empty()) {
            look_up.askers.push(asker);
            return Ok((None, look_up.found.clone()));
        }
        if self.open.len() >= LOOK_UPS_MAX {
            return Err(asker);
        }
        let id = LookUpId(self.next);
        self.next += 1;
        let look_up = LookUp {
            subject,
            askers: vec![asker],
            waits_for: (0..sources).collect(),
            found: Vec::new(),
            networks: BTreeMap::new(),
            started_at: now,
        };
        self.open.insert(id, look_up);
        let recent = self.recent.get(&subject).filter(|(at, _)| now < *at + RECENT_TIME);
        let known = recent.map(|(_, hints)| hints.clone()).unwrap_or_default();
        let known = known.into_iter().filter(|hint| self.admit(now, id, *hint, true)).collect();
        Ok((Some(id), known))
    }

    /// A source found an address: gives who is to hear of it, nobody if it may not be dialed.
    pub(super) fn found(
        &mut self,
        now: Instant,
        id: LookUpId,
        source: Source,
        hint: Hint,
    ) -> Vec<Asker> {
        let nearby = source == Source::Mdns;
        if !self.admit(now, id, hint, nearby) {
            return Vec::new();
        }
        let Some(look_up) = self.open.get(&id) else { return Vec::new() };
        if source.provides() {
            let subject = look_up.subject;
            let askers = look_up.askers.clone();
            self.remember(now, subject, hint);
            return askers;
        }
        // Others who ask want to know who provides it, not whom we know.
        look_up.askers.iter().filter(|_| !look_up.subject.for_others).cloned().collect()
    }

    /// Counts an address against all caps; false if it is one too many, or was found before.
    fn admit(&mut self, now: Instant, id: LookUpId, hint: Hint, nearby: bool) -> bool {
        let minute = Duration::from_secs(60);
        let Some(look_up) = self.open.get_mut(&id) else { return false };
        let ip = hint.address.ip();
        let known = look_up.found.iter().any(|found| found.address == hint.address);
        if known || !self.ranges.may_dial(hint.address, nearby) {
            return false;
        }
        let of_network = look_up.networks.entry(Network::of(ip)).or_insert(0);
        let crowded = *of_network >= DIALS_PER_NETWORK_MAX && !nearby && !self.ranges.is_ours(ip);
        if crowded || look_up.found.len() >= DIALS_PER_LOOK_UP_MAX {
            return false;
        }
        if now.saturating_duration_since(self.dials_at) >= minute {
            (self.dials_at, self.dials_left) = (now, DIALS_PER_MINUTE_MAX);
        }
        if self.dials_left == 0 {
            return false;
        }
        self.dials_left -= 1;
        *of_network += 1;
        look_up.found.push(hint);
        true
    }

    fn remember(&mut self, now: Instant, subject: Subject, hint: Hint) {
        if self.recent.len() >= RECENT_MAX && !self.recent.contains_key(&subject) {
            let oldest = self.recent.iter().min_by_key(|(_, (at, _))| *at);
            if let Some(oldest) = oldest.map(|(subject, _)| *subject) {
                self.recent.remove(&oldest);
            }
        }
        let (at, hints) = self.recent.entry(subject).or_insert_with(|| (now, Vec::new()));
        *at = now;
        hints.retain(|known| known.address != hint.address);
        if hints.len() < DIALS_PER_LOOK_UP_MAX {
            hints.push(hint);
        }
    }

    /// An address led nowhere: it is not passed on again.
    pub(super) fn failed(&mut self, hint: std::net::SocketAddr) {
        for (_, hints) in self.recent.values_mut() {
            hints.retain(|known| known.address != hint);
        }
    }

    /// A source has said all: gives who waited for that, if it was the last one.
    pub(super) fn finished(&mut self, id: LookUpId, source: usize) -> Vec<Asker> {
        let Some(look_up) = self.open.get_mut(&id) else { return Vec::new() };
        look_up.waits_for.remove(&source);
        if !look_up.waits_for.is_empty() {
            return Vec::new();
        }
        self.open.remove(&id).map(|look_up| look_up.askers).unwrap_or_default()
    }

    /// Ends what took too long: gives who is to wait no more.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Asker> {
        let mut ended = Vec::new();
        for look_up in self.open.values_mut() {
            if now >= look_up.started_at + ANSWER_TIME {
                ended.append(&mut look_up.askers);
            }
        }
        self.open.retain(|_, look_up| now < look_up.started_at + LINGER_TIME);
        ended
    }

    /// When [`Self::expire`] has something to do.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let ends = self.open.values().map(|look_up| {
            let waits = !look_up.askers.is_empty();
            look_up.started_at + if waits { ANSWER_TIME } else { LINGER_TIME }
        });
        ends.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrow_wire::HashCode;

    fn subject(n: u8) -> Subject {
        Subject { hash: Multihash::of(HashCode::Sha2_256, &[n]), for_others: false }
    }

    fn hint(text: &str) -> Hint {
        Hint { address: text.parse().unwrap(), peer: None }
    }

    fn job(n: u64) -> Asker {
        Asker::Job(JobId(n))
    }

    fn begin(look_ups: &mut LookUps, now: Instant) -> LookUpId {
        look_ups.start(now, subject(1), job(1), 2).unwrap().0.unwrap()
    }

    #[test]
    fn a_slow_source_delays_neither_answers_nor_the_end() {
        let now = Instant::now();
        let mut look_ups = LookUps::new(now, Ranges::default());
        let id = begin(&mut look_ups, now);
        assert_eq!(look_ups.found(now, id, Source::Dht, hint("192.0.2.1:1")).len(), 1);
        assert!(look_ups.finished(id, 0).is_empty(), "the other source may still answer");
        assert!(look_ups.expire(now + ANSWER_TIME - Duration::from_millis(1)).is_empty());
        assert_eq!(look_ups.expire(now + ANSWER_TIME).len(), 1);
        let late = now + ANSWER_TIME * 2;
        assert!(look_ups.found(late, id, Source::Dht, hint("192.0.2.2:1")).is_empty());
        let (_, known) = look_ups.start(late, subject(1), job(2), 2).unwrap();
        assert_eq!(known.len(), 2, "late answers are there for the next one who asks");
    }

    #[test]
    fn whoever_asks_for_the_same_joins() {
        let now = Instant::now();
        let mut look_ups = LookUps::new(now, Ranges::default());
        let id = begin(&mut look_ups, now);
        look_ups.found(now, id, Source::Dht, hint("192.0.2.1:1"));
        let (new, known) = look_ups.start(now, subject(1), job(2), 2).unwrap();
        assert_eq!((new, known.len()), (None, 1));
        assert!(look_ups.finished(id, 0).is_empty());
        assert_eq!(look_ups.finished(id, 1).len(), 2);
    }

    #[test]
    fn dials_are_capped_by_look_up_by_network_and_by_minute() {
        let now = Instant::now();
        let mut look_ups = LookUps::new(now, Ranges::default());
        let id = begin(&mut look_ups, now);
        let of_one_network = (1..100)
            .filter(|n| {
                let hint = hint(&format!("192.0.2.{n}:1"));
                !look_ups.found(now, id, Source::Dht, hint).is_empty()
            })
            .count();
        assert_eq!(of_one_network, DIALS_PER_NETWORK_MAX);
        let mut in_all = 0;
        for look_up in 0..40 {
            let id = look_ups.start(now, subject(look_up), job(3), 1).unwrap().0;
            let Some(id) = id else { continue };
            let dials = (1..100)
                .filter(|n| {
                    let hint = hint(&format!("8.{look_up}.{n}.1:1"));
                    !look_ups.found(now, id, Source::Dht, hint).is_empty()
                })
                .count();
            assert!(dials <= DIALS_PER_LOOK_UP_MAX);
            in_all += dials;
        }
        assert_eq!(in_all + of_one_network, DIALS_PER_MINUTE_MAX as usize);
    }

    #[test]
    fn private_addresses_and_known_ones_go_to_nobody() {
        let now = Instant::now();
        let mut look_ups = LookUps::new(now, Ranges::default());
        let id = begin(&mut look_ups, now);
        for refused in ["10.0.0.1:1", "127.0.0.1:1", "192.168.0.1:1"] {
            assert!(look_ups.found(now, id, Source::Dht, hint(refused)).is_empty());
        }
        assert_eq!(look_ups.found(now, id, Source::Mdns, hint("10.0.0.1:1")).len(), 1);
        assert!(look_ups.found(now, id, Source::Dht, hint("10.0.0.1:1")).is_empty());
    }

    #[test]
    fn neighbours_are_no_providers_for_others() {
        let now = Instant::now();
        let mut look_ups = LookUps::new(now, Ranges::default());
        let subject = Subject { for_others: true, ..subject(1) };
        let id = look_ups.start(now, subject, job(1), 1).unwrap().0.unwrap();
        assert!(look_ups.found(now, id, Source::Mdns, hint("10.0.0.1:1")).is_empty());
        assert_eq!(look_ups.found(now, id, Source::Dht, hint("192.0.2.1:1")).len(), 1);
    }

    #[test]
    fn an_address_that_led_nowhere_is_not_passed_on_again() {
        let now = Instant::now();
        let mut look_ups = LookUps::new(now, Ranges::default());
        let id = begin(&mut look_ups, now);
        look_ups.found(now, id, Source::Router, hint("192.0.2.1:1"));
        look_ups.finished(id, 0);
        look_ups.finished(id, 1);
        look_ups.failed("192.0.2.1:1".parse().unwrap());
        assert!(look_ups.start(now, subject(1), job(2), 2).unwrap().1.is_empty());
    }
}
