//! What handlers and the gate tell each other beside the inner sockets: the answers, and how long a
//! request's body was.

use super::Reply;
use mio::Waker;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// What handlers have answered and the gate has not yet come for: at most one answer a handler.
pub(super) struct Replies {
    /// By the numbers of the requests.
    answered: Mutex<Vec<(u64, Reply)>>,
    /// Bytes of the bodies that came in whole, by the numbers of the requests.
    lengths: Mutex<BTreeMap<u64, u64>>,
    /// The gate was told of some; until it comes, it need not be told of others.
    is_told: AtomicBool,
    wake: Arc<Waker>,
    /// Whoever else may write to a socket can guess no ticket: they begin with this.
    secret: u64,
}

impl Replies {
    /// None yet; the gate is told of the first by `wake`.
    pub(super) fn new(wake: Arc<Waker>) -> Self {
        let secret = RandomState::new().hash_one(0_u64);
        Self {
            answered: Mutex::default(),
            lengths: Mutex::default(),
            is_told: AtomicBool::new(false),
            wake,
            secret,
        }
    }

    /// What goes with a request to its handler.
    pub(super) fn ticket(&self, number: u64) -> String {
        format!("{:016x}{number:016x}", self.secret)
    }

    /// The number of the request that this ticket was made for.
    pub(super) fn number(&self, ticket: &str) -> Option<u64> {
        let number = ticket.strip_prefix(&format!("{:016x}", self.secret))?;
        u64::from_str_radix(number, 16).ok()
    }

    /// Notes of how many bytes a request's body is, before its end is passed on.
    pub(super) fn note_length(&self, number: u64, bytes: u64) {
        self.lengths.lock().insert(number, bytes);
    }

    /// Of how many bytes the body is, if all of it came.
    pub(super) fn length(&self, number: u64) -> Option<u64> {
        self.lengths.lock().get(&number).copied()
    }

    /// Keeps a handler's answer until the gate comes for it.
    pub(super) fn put(&self, number: u64, reply: Reply) {
        self.answered.lock().push((number, reply));
        if !self.is_told.swap(true, Ordering::SeqCst) {
            let _ = self.wake.wake();
        }
    }

    /// All that have come.
    pub(super) fn take(&self) -> Vec<(u64, Reply)> {
        if !self.is_told.load(Ordering::SeqCst) {
            return Vec::new();
        }
        // First: what comes from now on is told of again.
        self.is_told.store(false, Ordering::SeqCst);
        let answered = std::mem::take(&mut *self.answered.lock());
        let mut lengths = self.lengths.lock();
        for (number, _) in &answered {
            lengths.remove(number);
        }
        answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll, Token};
    use std::time::Duration;

    #[test]
    fn of_answers_that_come_together_the_gate_is_told_once_and_of_later_ones_again() {
        let mut poll = Poll::new().unwrap();
        let replies = Replies::new(Arc::new(Waker::new(poll.registry(), Token(0)).unwrap()));
        let mut events = Events::with_capacity(8);
        let mut is_told = || {
            poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            !events.is_empty()
        };
        for round in 0..3 {
            replies.put(2 * round, Reply::new(200, "text/plain", ""));
            assert!(is_told());
            replies.put(2 * round + 1, Reply::new(200, "text/plain", ""));
            assert!(!is_told());
            let numbers: Vec<u64> = replies.take().iter().map(|(number, _)| *number).collect();
            assert_eq!(numbers, [2 * round, 2 * round + 1]);
            assert!(replies.take().is_empty());
        }
    }

    #[test]
    fn no_ticket_can_be_made_but_here() {
        let poll = Poll::new().unwrap();
        let replies = Replies::new(Arc::new(Waker::new(poll.registry(), Token(0)).unwrap()));
        assert_eq!(replies.number(&replies.ticket(9)), Some(9));
        for guess in ["", "0", &format!("{:032x}", 9), &format!("{:016x}", 9)] {
            assert_eq!(replies.number(guess), None, "{guess}");
        }
    }
}
