//! Answers on their way from the handlers to the gate: over the inner socket goes a ticket alone.

use super::Reply;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
};

/// Answers that the gate waits for: at most one an inner connection.
pub(super) struct Replies {
    /// By the inner connection's token; none until a handler has answered.
    awaited: Mutex<HashMap<u64, Option<Reply>>>,
    /// Whoever else may write to the socket can guess no ticket: they begin with this.
    secret: u64,
}

impl Replies {
    pub(super) fn new() -> Self {
        Self { awaited: Mutex::default(), secret: RandomState::new().hash_one(0_u64) }
    }

    /// Waits for the answer to what goes over this connection next; gives the ticket to send with
    /// it.
    pub(super) fn expect(&self, inner: u64) -> String {
        self.awaited.lock().insert(inner, None);
        format!("{:016x}{inner:016x}", self.secret)
    }

    /// Keeps a handler's answer until the gate comes for it. One that nobody waits for any more is
    /// dropped, and with it what it was fetching.
    pub(super) fn put(&self, ticket: &str, reply: Reply) {
        let number = ticket.strip_prefix(&format!("{:016x}", self.secret));
        let Some(inner) = number.and_then(|number| u64::from_str_radix(number, 16).ok()) else {
            return;
        };
        let unwanted = match self.awaited.lock().get_mut(&inner) {
            Some(place) => place.replace(reply),
            None => Some(reply),
        };
        // Outside the lock: a body may have much to let go of.
        drop(unwanted);
    }

    /// The answer, if there is one; it is awaited no longer in either case.
    pub(super) fn take(&self, inner: u64) -> Option<Reply> {
        self.awaited.lock().remove(&inner)?
    }
}

#[cfg(test)]
mod tests {
    use super::{super::ReplyBody, *};
    use crate::gate::Body;
    use bytes::Bytes;
    use std::{
        sync::Arc,
        task::{Poll, Waker},
    };

    struct Watched(#[expect(dead_code, reason = "it is counted")] Arc<()>);

    impl Body for Watched {
        fn poll_chunk(&mut self, _: &Waker) -> Poll<Option<Result<Bytes, String>>> {
            Poll::Ready(None)
        }
    }

    #[test]
    fn an_answer_is_kept_for_who_waits_and_for_nobody_else() {
        let (replies, alive) = (Replies::new(), Arc::new(()));
        let reply = || {
            let body = ReplyBody::Stream(Box::new(Watched(alive.clone())), None);
            Reply { status: 200, headers: Vec::new(), body }
        };
        let ticket = replies.expect(7);
        replies.put(&ticket, reply());
        assert_eq!(Arc::strong_count(&alive), 2);
        assert!(replies.take(7).is_some() && replies.take(7).is_none());

        // Its client left before it was there.
        let ticket = replies.expect(8);
        assert!(replies.take(8).is_none());
        replies.put(&ticket, reply());
        // Not from here.
        replies.expect(9);
        for guess in ["", "0", &format!("{:032x}", 9), &format!("{:016x}", 9)] {
            replies.put(guess, reply());
        }
        assert!(replies.take(9).is_none());
        assert_eq!((Arc::strong_count(&alive), replies.awaited.lock().len()), (1, 0));
    }
}
