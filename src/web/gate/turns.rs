//! Whose turn it is to send: many large answers take turns, and small ones never wait for all of
//! them.

use std::collections::BTreeSet;

/// Bytes of large answers between two looks at what else there is to do: a few milliseconds.
const ROUND_BYTES_MAX: u64 = 4 << 20;

/// Clients that had more to send than one turn.
#[derive(Default)]
pub(super) struct Turns {
    waiting: BTreeSet<u64>,
    /// Who had the last turn; those behind it are next.
    last: u64,
    sent_bytes: u64,
}

impl Turns {
    /// Begins a round; gives who waits, each to be given a turn or put back.
    pub(super) fn begin(&mut self) -> Vec<u64> {
        self.sent_bytes = 0;
        let behind = self.waiting.split_off(&(self.last + 1));
        behind.into_iter().chain(std::mem::take(&mut self.waiting)).collect()
    }

    pub(super) fn insert(&mut self, token: u64) {
        self.waiting.insert(token);
    }

    pub(super) fn remove(&mut self, token: u64) {
        self.waiting.remove(&token);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the round has no more room for large answers.
    pub(super) const fn is_spent(&self) -> bool {
        self.sent_bytes >= ROUND_BYTES_MAX
    }

    /// Notes that `token` has sent so much.
    pub(super) const fn count(&mut self, token: u64, bytes: u64) {
        self.sent_bytes += bytes;
        self.last = token;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_had_no_turn_in_a_round_is_first_in_the_next() {
        let mut turns = Turns::default();
        (1..=4).for_each(|token| turns.insert(token));
        assert_eq!(turns.begin(), [1, 2, 3, 4]);
        turns.count(1, 1);
        turns.count(2, ROUND_BYTES_MAX);
        assert!(turns.is_spent());
        (1..=4).for_each(|token| turns.insert(token));
        assert_eq!(turns.begin(), [3, 4, 1, 2]);
        assert!(!turns.is_spent() && turns.is_empty());
    }
}
