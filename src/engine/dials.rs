//! The address book: whom to dial, when, and for which job.

use super::{ConnId, JobId, Moment, rng::Rng};
use barrow_wire::PeerId;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

/// Addresses that are remembered; hints beyond them are dropped.
const ADDRESSES_MAX: usize = 1_024;
/// Dials under way at one time.
const DIALS_MAX: usize = 16;
/// The first wait after a failed dial; it doubles with each.
const BACK_OFF_MIN: Duration = Duration::from_millis(250);
/// The longest wait after a failed dial.
const BACK_OFF_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Idle,
    Dialing,
    Connected(ConnId),
}

#[derive(Clone, Debug, Hash)]
struct Entry {
    peer: Option<PeerId>,
    /// Dialed for ever.
    keep: bool,
    /// Dialed once more, whoever asked.
    once: bool,
    /// A peer's hint that was not tried yet.
    hint: bool,
    jobs: BTreeSet<JobId>,
    state: State,
    failures: u32,
    /// Not before; while it is connected, since when.
    due: Moment,
}

/// What may be dialed at which address.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Dials {
    book: BTreeMap<SocketAddr, Entry>,
    dialing: usize,
}

impl Dials {
    /// Learns an address. Returns false if the book is full.
    pub(super) fn learn(
        &mut self,
        address: SocketAddr,
        peer: Option<PeerId>,
        job: Option<JobId>,
        keep: bool,
    ) -> bool {
        if !self.book.contains_key(&address) && self.book.len() >= ADDRESSES_MAX {
            let spare = self.book.iter().find(|(_, entry)| {
                entry.state == State::Idle && !entry.keep && !entry.once && entry.jobs.is_empty()
            });
            let Some((&spare, _)) = spare else { return false };
            self.book.remove(&spare);
        }
        let entry = self.book.entry(address).or_insert_with(|| Entry {
            peer,
            keep,
            once: false,
            hint: false,
            jobs: BTreeSet::new(),
            state: State::Idle,
            failures: 0,
            due: Moment::default(),
        });
        entry.peer = peer.or(entry.peer);
        entry.keep |= keep;
        match job {
            Some(job) => _ = entry.jobs.insert(job),
            None if !keep => entry.once = entry.state == State::Idle,
            None => {}
        }
        true
    }

    /// Notes a hint of a peer: dialed only while jobs look for more providers, and once.
    pub(super) fn hint(&mut self, address: SocketAddr, peer: PeerId) {
        if let Some(entry) = self.book.get_mut(&address) {
            // It may be up again; its back-off goes on.
            entry.hint |= entry.state == State::Idle;
        } else if self.learn(address, Some(peer), None, false) {
            self.book.entry(address).and_modify(|entry| (entry.once, entry.hint) = (false, true));
        }
    }

    /// Forgets for which job addresses were wanted.
    pub(super) fn job_ended(&mut self, job: JobId) {
        for entry in self.book.values_mut() {
            entry.jobs.remove(&job);
        }
    }

    /// Lets addresses that failed be dialed again at once, as somebody waits for them; those
    /// that failed just now are left alone.
    pub(super) fn hurry(&mut self) {
        for entry in self.book.values_mut().filter(|entry| entry.keep) {
            let failed_at = entry.due.before(back_off(entry.failures));
            entry.due = entry.due.min(failed_at.after(BACK_OFF_MIN));
        }
    }

    /// Takes the addresses to dial now. `known` says whether a peer needs no dial; `room` is how
    /// many more connections may stand, which those kept for ever need not heed; `seeking`
    /// whether hints are worth a dial.
    pub(super) fn take_due(
        &mut self,
        now: Moment,
        room: usize,
        seeking: bool,
        known: impl Fn(&PeerId) -> bool,
    ) -> Vec<(SocketAddr, Option<PeerId>)> {
        let mut due = Vec::new();
        // Those kept for ever first: a person named them.
        for keep in [true, false] {
            for (address, entry) in &mut self.book {
                if self.dialing >= DIALS_MAX || (!keep && self.dialing >= room) {
                    break;
                }
                if entry.keep == keep
                    && entry.is_wanted(seeking)
                    && entry.due <= now
                    && !entry.peer.is_some_and(|peer| known(&peer))
                {
                    entry.state = State::Dialing;
                    (entry.once, entry.hint) = (false, false);
                    self.dialing += 1;
                    due.push((*address, entry.peer));
                }
            }
        }
        due
    }

    /// When the next address may be dialed; `None` also while too many dials are under way.
    pub(super) fn next_due(
        &self,
        seeking: bool,
        known: impl Fn(&PeerId) -> bool,
    ) -> Option<Moment> {
        if self.dialing >= DIALS_MAX {
            return None;
        }
        let wanted = self.book.values().filter(|entry| entry.is_wanted(seeking));
        let unknown = wanted.filter(|entry| !entry.peer.is_some_and(|peer| known(&peer)));
        unknown.map(|entry| entry.due).min()
    }

    /// A dial failed.
    pub(super) fn failed(&mut self, now: Moment, address: SocketAddr, rng: &mut Rng) {
        let Some(entry) = self.book.get_mut(&address) else { return };
        if entry.state == State::Dialing {
            self.dialing -= 1;
        }
        entry.state = State::Idle;
        entry.failures = entry.failures.saturating_add(1);
        entry.due = now.after(jittered(back_off(entry.failures), rng));
        if !entry.keep {
            // Whoever had a job told us of it; one attempt each was its due.
            entry.jobs.clear();
        }
    }

    /// A dial led to a connection with `peer`.
    pub(super) fn connected(
        &mut self,
        now: Moment,
        address: SocketAddr,
        peer: PeerId,
        conn: ConnId,
    ) {
        let Some(entry) = self.book.get_mut(&address) else { return };
        if entry.state == State::Dialing {
            self.dialing -= 1;
        }
        (entry.state, entry.peer, entry.due) = (State::Connected(conn), Some(peer), now);
    }

    /// A connection that was dialed ended. It is dialed again after a while if it is kept, or if
    /// a job still needs it. `penalty` is added where the peer behaved badly.
    pub(super) fn disconnected(&mut self, now: Moment, conn: ConnId, bad: bool, rng: &mut Rng) {
        for entry in self.book.values_mut().filter(|entry| entry.state == State::Connected(conn)) {
            entry.state = State::Idle;
            // One that does not last is as good as one that failed.
            let lasted = now.since(entry.due) >= BACK_OFF_MAX;
            entry.failures = match (bad, lasted) {
                (true, _) => 8,
                (false, true) => 1,
                (false, false) => entry.failures.saturating_add(1),
            };
            entry.due = now.after(jittered(back_off(entry.failures), rng));
        }
    }

    /// Whether a dial is under way, or waits for its turn, whose peer may help the job.
    pub(super) fn may_help(&self, job: JobId, known: impl Fn(&PeerId) -> bool) -> bool {
        self.book.values().any(|entry| match entry.state {
            State::Dialing => true,
            State::Idle => {
                entry.jobs.contains(&job) && !entry.peer.is_some_and(|peer| known(&peer))
            }
            State::Connected(_) => false,
        })
    }

    /// Whether this connection goes to an address that is kept for ever.
    pub(super) fn is_kept(&self, peer: &PeerId) -> bool {
        self.book.values().any(|entry| entry.keep && entry.peer == Some(*peer))
    }

    /// Addresses in the book.
    pub(super) fn len(&self) -> usize {
        self.book.len()
    }
}

impl Entry {
    fn is_wanted(&self, seeking: bool) -> bool {
        let asked_for = self.keep || self.once || !self.jobs.is_empty() || (seeking && self.hint);
        self.state == State::Idle && asked_for
    }
}

fn back_off(failures: u32) -> Duration {
    BACK_OFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(7)).min(BACK_OFF_MAX)
}

/// Three quarters of `wait` to five quarters, so that peers that lost each other together do not
/// come back together.
fn jittered(wait: Duration, rng: &mut Rng) -> Duration {
    let percent = u32::try_from(75 + rng.below(51)).expect("below 126");
    wait * percent / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> SocketAddr {
        ([10, 0, 0, n], 4780).into()
    }

    #[test]
    fn a_kept_address_is_dialed_for_ever_with_back_off_up_to_half_a_minute() {
        let (mut dials, mut rng) = (Dials::default(), Rng::new(1));
        dials.learn(address(1), None, None, true);
        let mut now = Moment::default();
        let mut waits = Vec::new();
        for _ in 0..20 {
            assert_eq!(dials.take_due(now, 10, false, |_| false), [(address(1), None)]);
            assert!(dials.take_due(now, 10, false, |_| false).is_empty(), "one dial at a time");
            dials.failed(now, address(1), &mut rng);
            let due = dials.next_due(false, |_| false).unwrap();
            waits.push(due.since(now));
            now = due;
        }
        assert!(waits[0] >= BACK_OFF_MIN * 3 / 4 && waits[0] <= BACK_OFF_MIN * 5 / 4);
        assert!(waits[19] >= BACK_OFF_MAX * 3 / 4 && waits[19] <= BACK_OFF_MAX * 5 / 4);
    }

    #[test]
    fn an_address_of_a_job_is_tried_once_and_then_left() {
        let (mut dials, mut rng) = (Dials::default(), Rng::new(1));
        dials.learn(address(1), None, Some(JobId(1)), false);
        assert_eq!(dials.take_due(Moment::default(), 10, false, |_| false).len(), 1);
        assert!(dials.may_help(JobId(1), |_| false));
        dials.failed(Moment::default(), address(1), &mut rng);
        assert!(!dials.may_help(JobId(1), |_| false));
        assert_eq!(dials.next_due(false, |_| false), None);
    }

    #[test]
    fn the_book_is_bounded_and_dials_are_too() {
        let mut dials = Dials::default();
        for n in 0..ADDRESSES_MAX as u16 + 10 {
            dials.learn(([10, 1, 0, 1], n).into(), None, Some(JobId(1)), false);
        }
        assert_eq!(dials.len(), ADDRESSES_MAX);
        assert_eq!(dials.take_due(Moment::default(), 100, false, |_| false).len(), DIALS_MAX);
    }
}
