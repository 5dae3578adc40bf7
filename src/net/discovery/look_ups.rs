//! Look-ups under way: answers of all sources merged, with caps on what may be dialed for them.

use super::{
    Hint, Source,
    ranges::{Network, Ranges},
};
use crate::engine::JobId;
use barrow_wire::Multihash;
use crossbeam::channel::Sender;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Look-ups under way; more are answered with nothing at once.
const LOOK_UPS_MAX: usize = 64;
/// Of those, look-ups for clients of the delegated router that the node is.
const LOOK_UPS_FOR_OTHERS_MAX: usize = 8;
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

/// Addresses of the DHT passed on at once, and again after each [`REFILL_TIME`]. Whoever sits near
/// a name in the DHT can say anything and says it first: with a pause, an address that several
/// nodes name goes before one that a single node does.
const BURST: usize = 8;
/// See [`BURST`].
const REFILL_TIME: Duration = Duration::from_millis(150);
/// Addresses of the DHT that wait to be passed on.
const CANDIDATES_MAX: usize = 512;

/// Names a look-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LookUpId(u64);

/// Who waits for the answers of a look-up.
#[derive(Clone, Debug)]
pub(super) enum Asker {
    /// A retrieval of the engine.
    Job(JobId),
    /// A request of a delegated router's client; the channel's end is the look-up's.
    Query(Sender<Hint>),
}

/// What an asker is to hear.
#[derive(Debug)]
pub(super) enum Said {
    /// An address.
    Hint(Asker, Hint),
    /// That there is no more.
    Done(Asker),
}

/// What a look-up is for. Those for others ask no routers: two nodes that are each other's
/// router would ask in circles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subject {
    pub(super) hash: Multihash,
    pub(super) for_others: bool,
}

/// An address that waits to be passed on: how many named it, and when the first did.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    votes: u32,
    order: usize,
}

#[derive(Debug)]
struct LookUp {
    subject: Subject,
    askers: Vec<Asker>,
    /// Sources that have not said all, by their number.
    waits_for: BTreeSet<usize>,
    found: Vec<Hint>,
    networks: BTreeMap<Network, usize>,
    candidates: BTreeMap<SocketAddr, Candidate>,
    allowance: usize,
    refill_at: Instant,
    started_at: Instant,
}

impl LookUp {
    fn is_over(&self) -> bool {
        self.waits_for.is_empty() && self.candidates.is_empty()
    }

    fn add_candidate(&mut self, address: SocketAddr) {
        let order = self.candidates.len();
        if order < CANDIDATES_MAX && !self.found.iter().any(|hint| hint.address == address) {
            let new = Candidate { votes: 0, order };
            self.candidates.entry(address).or_insert(new).votes += 1;
        }
    }

    fn take_best(&mut self) -> Option<SocketAddr> {
        let rank = |candidate: &Candidate| (std::cmp::Reverse(candidate.votes), candidate.order);
        let best = self.candidates.iter().min_by_key(|(_, candidate)| rank(candidate));
        let address = *best?.0;
        self.candidates.remove(&address);
        Some(address)
    }
}

/// All look-ups. After each call that changes something, take all of [`LookUps::poll`].
#[derive(Debug)]
pub(super) struct LookUps {
    ranges: Ranges,
    open: BTreeMap<LookUpId, LookUp>,
    recent: BTreeMap<Subject, (Instant, Vec<SocketAddr>)>,
    next: u64,
    dials: Dials,
    said: VecDeque<Said>,
}

/// How many addresses may still be passed on in this minute.
#[derive(Debug)]
struct Dials {
    left: u32,
    since: Instant,
}

impl LookUps {
    pub(super) fn new(now: Instant, ranges: Ranges) -> Self {
        Self {
            ranges,
            open: BTreeMap::new(),
            recent: BTreeMap::new(),
            next: 0,
            dials: Dials { left: DIALS_PER_MINUTE_MAX, since: now },
            said: VecDeque::new(),
        }
    }

    /// Begins a look-up with so many sources, or joins one for the same. Gives its id if the
    /// sources are to be asked.
    pub(super) fn start(
        &mut self,
        now: Instant,
        subject: Subject,
        asker: Asker,
        sources: usize,
    ) -> Option<LookUpId> {
        // A look-up near its end would leave no time for an asker who comes late.
        let young = |look_up: &LookUp| now < look_up.started_at + ANSWER_TIME / 2;
        let running = self.open.values_mut().find(|open| open.subject == subject && young(open));
        if let Some(look_up) = running {
            let hints = look_up.found.iter().map(|hint| Said::Hint(asker.clone(), *hint));
            self.said.extend(hints);
            look_up.askers.push(asker);
            return None;
        }
        if !self.has_room(subject) {
            self.said.push_back(Said::Done(asker));
            return None;
        }
        let id = LookUpId(self.next);
        self.next += 1;
        let mut look_up = LookUp {
            subject,
            askers: vec![asker],
            waits_for: (0..sources).collect(),
            found: Vec::new(),
            networks: BTreeMap::new(),
            candidates: BTreeMap::new(),
            allowance: BURST,
            refill_at: now + REFILL_TIME,
            started_at: now,
        };
        if let Some((at, known)) = self.recent.get(&subject)
            && now < *at + RECENT_TIME
        {
            known.iter().for_each(|address| look_up.add_candidate(*address));
        }
        self.open.insert(id, look_up);
        self.release(now, id);
        Some(id)
    }

    /// Whether one more may begin; one that only waits for late answers gives way.
    fn has_room(&mut self, subject: Subject) -> bool {
        let others = self.open.values().filter(|look_up| look_up.subject.for_others).count();
        if subject.for_others && others >= LOOK_UPS_FOR_OTHERS_MAX {
            return false;
        }
        let idle = self.open.iter().find(|(_, look_up)| look_up.askers.is_empty());
        if self.open.len() >= LOOK_UPS_MAX
            && let Some(idle) = idle.map(|(id, _)| *id)
        {
            self.open.remove(&idle);
        }
        self.open.len() < LOOK_UPS_MAX
    }

    /// A source found an address.
    pub(super) fn found(&mut self, now: Instant, id: LookUpId, source: Source, hint: Hint) {
        let nearby = source == Source::Mdns;
        let Some(look_up) = self.open.get_mut(&id) else { return };
        if !self.ranges.may_dial(hint.address, nearby) {
            return;
        }
        if source.provides() {
            remember(&mut self.recent, now, look_up.subject, hint.address);
        } else if look_up.subject.for_others {
            // Others who ask want to know who provides it, not whom we know.
            return;
        }
        match source {
            Source::Dht => {
                look_up.add_candidate(hint.address);
                self.release(now, id);
            }
            Source::Given | Source::Exchange | Source::Router | Source::Mdns => {
                self.pass_on(now, id, hint, nearby);
            }
        }
    }

    /// Passes on what the pauses allow.
    fn release(&mut self, now: Instant, id: LookUpId) {
        loop {
            let Some(look_up) = self.open.get_mut(&id) else { return };
            if now >= look_up.refill_at {
                (look_up.allowance, look_up.refill_at) = (BURST, now + REFILL_TIME);
            }
            if look_up.allowance == 0 || look_up.askers.is_empty() {
                return;
            }
            let Some(address) = look_up.take_best() else { break };
            if self.pass_on(now, id, Hint { address, peer: None }, false)
                && let Some(look_up) = self.open.get_mut(&id)
            {
                look_up.allowance -= 1;
            }
        }
        self.end_if_over(id);
    }

    /// Counts an address against all caps, and tells who asked; false if it is one too many, or
    /// was found before.
    fn pass_on(&mut self, now: Instant, id: LookUpId, hint: Hint, nearby: bool) -> bool {
        let Some(look_up) = self.open.get_mut(&id) else { return false };
        let ip = hint.address.ip();
        let of_network = look_up.networks.entry(Network::of(ip)).or_insert(0);
        let crowded = *of_network >= DIALS_PER_NETWORK_MAX && !nearby && !self.ranges.is_ours(ip);
        let known = look_up.found.iter().any(|found| found.address == hint.address);
        if crowded || known || look_up.found.len() >= DIALS_PER_LOOK_UP_MAX {
            return false;
        }
        if now.saturating_duration_since(self.dials.since) >= Duration::from_secs(60) {
            self.dials = Dials { left: DIALS_PER_MINUTE_MAX, since: now };
        }
        // What others ask for is not dialed.
        if !look_up.subject.for_others {
            let Some(left) = self.dials.left.checked_sub(1) else { return false };
            self.dials.left = left;
        }
        *of_network += 1;
        look_up.found.push(hint);
        look_up.candidates.remove(&hint.address);
        let askers = look_up.askers.iter().cloned();
        self.said.extend(askers.map(|asker| Said::Hint(asker, hint)));
        true
    }

    /// An address led nowhere: it is not passed on again.
    pub(super) fn failed(&mut self, address: SocketAddr) {
        for (_, known) in self.recent.values_mut() {
            known.retain(|known| *known != address);
        }
    }

    /// A source has said all.
    pub(super) fn finished(&mut self, id: LookUpId, source: usize) {
        if let Some(look_up) = self.open.get_mut(&id) {
            look_up.waits_for.remove(&source);
            self.end_if_over(id);
        }
    }

    fn end_if_over(&mut self, id: LookUpId) {
        if self.open.get(&id).is_some_and(LookUp::is_over)
            && let Some(look_up) = self.open.remove(&id)
        {
            self.said.extend(look_up.askers.into_iter().map(Said::Done));
        }
    }

    /// Does what is due: passes on what had to wait, ends what took too long.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let due = |look_up: &LookUp| now >= look_up.refill_at && !look_up.candidates.is_empty();
        let due = self.open.iter().filter(|(_, look_up)| due(look_up)).map(|(id, _)| *id);
        for id in due.collect::<Vec<_>>() {
            self.release(now, id);
        }
        for look_up in self.open.values_mut() {
            if now >= look_up.started_at + ANSWER_TIME {
                look_up.candidates.clear();
                self.said.extend(look_up.askers.drain(..).map(Said::Done));
            }
        }
        self.open.retain(|_, look_up| !look_up.is_over() && now < look_up.started_at + LINGER_TIME);
    }

    /// The next thing that somebody is to hear.
    pub(super) fn poll(&mut self) -> Option<Said> {
        self.said.pop_front()
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let moments = self.open.values().map(|look_up| {
            if look_up.askers.is_empty() {
                return look_up.started_at + LINGER_TIME;
            }
            let end = look_up.started_at + ANSWER_TIME;
            if look_up.candidates.is_empty() { end } else { end.min(look_up.refill_at) }
        });
        moments.min()
    }
}

/// Keeps what was found for the next one who asks.
fn remember(
    recent: &mut BTreeMap<Subject, (Instant, Vec<SocketAddr>)>,
    now: Instant,
    subject: Subject,
    address: SocketAddr,
) {
    if recent.len() >= RECENT_MAX && !recent.contains_key(&subject) {
        let oldest = recent.iter().min_by_key(|(_, (at, _))| *at);
        if let Some(oldest) = oldest.map(|(subject, _)| *subject) {
            recent.remove(&oldest);
        }
    }
    let (at, known) = recent.entry(subject).or_insert_with(|| (now, Vec::new()));
    *at = now;
    if !known.contains(&address) && known.len() < DIALS_PER_LOOK_UP_MAX {
        known.push(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrow_wire::HashCode;

    struct Bench {
        look_ups: LookUps,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let now = Instant::now();
            Self { look_ups: LookUps::new(now, Ranges::default()), now }
        }

        fn begin(&mut self, n: u8, sources: usize) -> Option<LookUpId> {
            let asker = Asker::Job(JobId(n.into()));
            self.look_ups.start(self.now, subject(n), asker, sources)
        }

        /// Addresses that are passed on, and how many hear of the end.
        fn said(&mut self) -> (Vec<SocketAddr>, usize) {
            let (mut hints, mut ends) = (Vec::new(), 0);
            while let Some(said) = self.look_ups.poll() {
                match said {
                    Said::Hint(_, hint) => hints.push(hint.address),
                    Said::Done(_) => ends += 1,
                }
            }
            (hints, ends)
        }

        fn found(&mut self, id: LookUpId, source: Source, address: &str) -> usize {
            self.look_ups.found(self.now, id, source, Hint { address: at(address), peer: None });
            self.said().0.len()
        }

        fn pass(&mut self, time: Duration) -> (Vec<SocketAddr>, usize) {
            let end = self.now + time;
            let (mut hints, mut ends) = (Vec::new(), 0);
            while let Some(at) = self.look_ups.next_timeout().filter(|at| *at <= end) {
                assert!(at >= self.now, "a timer in the past");
                self.now = at;
                self.look_ups.handle_timeout(at);
                let said = self.said();
                hints.extend(said.0);
                ends += said.1;
            }
            self.now = end;
            (hints, ends)
        }
    }

    fn subject(n: u8) -> Subject {
        Subject { hash: Multihash::of(HashCode::Sha2_256, &[n]), for_others: false }
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_slow_source_delays_neither_answers_nor_the_end() {
        let mut bench = Bench::new();
        let id = bench.begin(1, 2).unwrap();
        assert_eq!(bench.found(id, Source::Dht, "192.0.2.1:1"), 1);
        bench.look_ups.finished(id, 0);
        assert_eq!(bench.pass(ANSWER_TIME - Duration::from_millis(1)).1, 0);
        assert_eq!(bench.pass(Duration::from_millis(1)).1, 1);
        assert_eq!(bench.found(id, Source::Dht, "192.0.2.2:1"), 0);
        bench.begin(1, 2).unwrap();
        assert_eq!(bench.said().0.len(), 2, "late answers are there for the next one who asks");
    }

    #[test]
    fn whoever_asks_for_the_same_joins() {
        let mut bench = Bench::new();
        let id = bench.begin(1, 2).unwrap();
        bench.found(id, Source::Dht, "192.0.2.1:1");
        assert!(bench.begin(1, 2).is_none());
        assert_eq!(bench.said().0.len(), 1);
        bench.look_ups.finished(id, 0);
        assert_eq!(bench.said().1, 0);
        bench.look_ups.finished(id, 1);
        assert_eq!(bench.said().1, 2);
    }

    #[test]
    fn dials_are_capped_by_look_up_by_network_and_by_minute() {
        let mut bench = Bench::new();
        let id = bench.begin(1, 1).unwrap();
        let mut one_network = 0;
        for n in 1..100 {
            one_network += bench.found(id, Source::Router, &format!("192.0.2.{n}:1"));
        }
        assert_eq!(one_network, DIALS_PER_NETWORK_MAX);
        let mut in_all = 0;
        for n in 2..40 {
            let id = bench.begin(n, 1).unwrap();
            let mut dials = 0;
            for m in 1..100 {
                dials += bench.found(id, Source::Router, &format!("8.{n}.{m}.1:1"));
            }
            assert!(dials <= DIALS_PER_LOOK_UP_MAX);
            in_all += dials;
        }
        assert_eq!(in_all + one_network, DIALS_PER_MINUTE_MAX as usize);
    }

    #[test]
    fn an_address_that_many_name_goes_before_those_that_one_names_first() {
        let mut bench = Bench::new();
        let id = bench.begin(1, 1).unwrap();
        for liar in 0..10 {
            for n in 0..16 {
                bench.found(id, Source::Dht, &format!("8.{liar}.{n}.1:1"));
            }
        }
        for _ in 0..3 {
            assert_eq!(bench.found(id, Source::Dht, "192.0.2.1:1"), 0, "the first burst is out");
        }
        bench.look_ups.finished(id, 0);
        let (next, ended) = bench.pass(REFILL_TIME);
        assert_eq!((next.len(), next[0], ended), (BURST, at("192.0.2.1:1"), 0));
        let (rest, ended) = bench.pass(ANSWER_TIME);
        assert_eq!((rest.len(), ended), (DIALS_PER_LOOK_UP_MAX - 2 * BURST, 1));
    }

    #[test]
    fn private_addresses_and_known_ones_go_to_nobody() {
        let mut bench = Bench::new();
        let id = bench.begin(1, 1).unwrap();
        for refused in ["10.0.0.1:1", "127.0.0.1:1", "192.168.0.1:1"] {
            assert_eq!(bench.found(id, Source::Dht, refused), 0);
            assert_eq!(bench.found(id, Source::Router, refused), 0);
        }
        assert_eq!(bench.found(id, Source::Mdns, "10.0.0.1:1"), 1);
        assert_eq!(bench.found(id, Source::Mdns, "10.0.0.1:1"), 0);
    }

    #[test]
    fn neighbours_are_no_providers_for_others() {
        let mut bench = Bench::new();
        let subject = Subject { for_others: true, ..subject(1) };
        let id = bench.look_ups.start(bench.now, subject, Asker::Job(JobId(1)), 1).unwrap();
        assert_eq!(bench.found(id, Source::Mdns, "10.0.0.1:1"), 0);
        assert_eq!(bench.found(id, Source::Dht, "192.0.2.1:1"), 1);
    }

    #[test]
    fn an_address_that_led_nowhere_is_not_passed_on_again() {
        let mut bench = Bench::new();
        let id = bench.begin(1, 1).unwrap();
        bench.found(id, Source::Router, "192.0.2.1:1");
        bench.look_ups.finished(id, 0);
        bench.look_ups.failed(at("192.0.2.1:1"));
        bench.begin(1, 1).unwrap();
        assert_eq!(bench.said(), (Vec::new(), 1));
    }

    #[test]
    fn look_ups_for_others_leave_room_for_our_own() {
        let mut bench = Bench::new();
        let mut begun = 0;
        for n in 0..100 {
            let subject = Subject { for_others: true, ..subject(n) };
            let asker = Asker::Job(JobId(0));
            begun += usize::from(bench.look_ups.start(bench.now, subject, asker, 1).is_some());
        }
        assert_eq!((begun, bench.said().1), (LOOK_UPS_FOR_OTHERS_MAX, 100 - begun));
        assert!(bench.begin(1, 1).is_some());
    }

    #[test]
    fn a_look_up_that_only_waits_for_late_answers_gives_way() {
        let mut bench = Bench::new();
        for n in 0..LOOK_UPS_MAX as u8 {
            bench.begin(n, 1).unwrap();
        }
        bench.pass(ANSWER_TIME);
        assert!(bench.begin(200, 1).is_some());
    }

    #[test]
    fn look_ups_are_bounded() {
        let mut bench = Bench::new();
        for n in 0..LOOK_UPS_MAX as u8 {
            bench.begin(n, 1).unwrap();
        }
        assert!(bench.begin(200, 1).is_none());
        assert_eq!(bench.said().1, 1);
    }
}
