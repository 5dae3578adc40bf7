//! Which slots are late, and for how long that is held against them.

use std::collections::HashSet;

/// Stripes at most that a slot is left out for before it is tried again.
const ABSENT_STRIPES_MAX: u64 = 64;

/// Whether the shards of one place come in time. One that is late is left out for a stripe, then
/// for two, four and so on, and tried in between, beside others that are asked in its place: so
/// nobody waits for it again before it was in time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Punctuality {
    /// It is asked last for stripes before this one.
    absent_until: u64,
    /// Stripes that it is left out for; none while it is in time.
    stripes: u64,
    /// The stripe for which it is tried.
    tried_for: Option<u64>,
}

impl Punctuality {
    /// Whether others are asked in its place. Whoever is patient gives it a second chance: others
    /// would cost k times as much.
    pub(super) const fn is_late(self, is_patient: bool) -> bool {
        self.stripes > is_patient as u64
    }

    /// Whether it is to be tried for this stripe, one at a time.
    pub(super) fn try_for(&mut self, stripe: u64) -> bool {
        stripe >= self.absent_until && *self.tried_for.get_or_insert(stripe) == stripe
    }

    /// Its shard of this stripe did not come in time.
    pub(super) fn note_late(&mut self, stripe: u64) {
        if stripe >= self.absent_until {
            self.stripes = (self.stripes * 2).clamp(1, ABSENT_STRIPES_MAX);
            self.absent_until = stripe + 1 + self.stripes;
            self.tried_for = None;
        }
    }

    /// Its shard came, maybe after it was given up. Whoever is patient takes that for in time all the
    /// same.
    pub(super) fn note_here(&mut self, given_up: bool, is_patient: bool) {
        if !given_up || is_patient {
            *self = Self::default();
        }
    }

    /// A stripe is brought: if the slot was tried for it, it was not in time.
    pub(super) fn end(&mut self, stripe: u64) {
        if self.stripes > 0 && self.tried_for.is_some_and(|tried| tried <= stripe) {
            self.note_late(stripe);
        }
    }
}

/// Those of `places` to ask in the place of others, `count` at most: first who is in time, then who
/// was late least often, and last who was given up for this stripe.
pub(super) fn most_punctual(
    mut places: Vec<usize>,
    slots: &[Punctuality],
    given_up: &HashSet<usize>,
    count: usize,
) -> Vec<usize> {
    places.sort_by_key(|place| (given_up.contains(place), slots[*place].stripes));
    places.truncate(count);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_brings_its_shard_late_is_asked_again_by_whoever_only_keeps_it() {
        for is_patient in [false, true] {
            let mut slot = Punctuality::default();
            for stripe in 0..20 {
                slot.note_late(stripe);
                assert_eq!(slot.is_late(is_patient), !is_patient, "stripe {stripe}");
                slot.note_here(true, is_patient);
            }
            slot.note_here(false, is_patient);
            assert!(!slot.is_late(is_patient));
            // One that brings nothing is left out by both.
            slot.note_late(20);
            slot.note_late(30);
            assert!(slot.is_late(is_patient));
        }
    }

    #[test]
    fn no_more_are_asked_than_it_takes_and_first_who_was_late_least_often() {
        let mut slots = [Punctuality::default(); 6];
        for (place, times) in [(0, 3), (1, 1), (3, 2), (5, 1)] {
            for time in 0..times {
                slots[place].note_late(time * 100);
            }
        }
        let chosen = |count| most_punctual(vec![0, 1, 3, 4, 5], &slots, &HashSet::from([1]), count);
        assert_eq!(chosen(1), [4]);
        assert_eq!(chosen(3), [4, 5, 3]);
        assert_eq!(chosen(9), [4, 5, 3, 0, 1]);
    }

    #[test]
    fn a_late_slot_is_tried_less_and_less_until_it_is_in_time() {
        let mut slot = Punctuality::default();
        slot.note_late(0);
        let mut tried = Vec::new();
        for stripe in 1..300 {
            assert!(slot.is_late(false));
            // Also while stripes ahead are asked for.
            tried.extend((stripe..stripe + 3).filter(|ahead| slot.try_for(*ahead)));
            slot.end(stripe);
        }
        tried.dedup();
        assert_eq!(tried, [2, 5, 10, 19, 36, 69, 134, 199, 264]);
        slot = Punctuality::default();
        assert!(!slot.is_late(false));
    }
}
