//! Answers that never change, kept to be given again without a handler.
//!
//! An answer is kept if it says itself that it is immutable, and given to requests that say the
//! same in all that it depends on: method, target and `Accept`. Whoever asks was judged by the
//! policy before. What was deleted, and what became of a dataset, makes all of them be forgotten.

use super::{Reply, head::Head};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

/// Bytes of one kept answer at most, head and body.
const ANSWER_BYTES_MAX: usize = 8 << 10;
/// What an answer takes in the tables, beside its key and its bytes.
const ENTRY_BYTES: usize = 256;
/// An answer goes the whole way once in this time, so that the store learns what is in use.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(10);

/// The answers, in all of so many bytes at most.
pub(super) struct Kept {
    bytes_max: usize,
    bytes: usize,
    /// What the gate's [`changes`](super::GateConfig::changes) were when they were given.
    changes: u64,
    answers: HashMap<Arc<[u8]>, KeptAnswer>,
    /// The next to go is in front, unless it was used since it was there last.
    order: VecDeque<Arc<[u8]>>,
    /// The key of the request that is looked for.
    key: Vec<u8>,
}

/// A head up to its last line, and a body.
struct KeptAnswer {
    head: Box<str>,
    body: Box<[u8]>,
    renewed: Instant,
    is_used: bool,
}

/// A request whose answer may be kept.
pub(super) struct Wish {
    key: Arc<[u8]>,
    changes: u64,
}

impl Kept {
    pub(super) fn new(bytes_max: usize) -> Self {
        let (answers, order) = (HashMap::new(), VecDeque::new());
        Self { bytes_max, bytes: 0, changes: 0, answers, order, key: Vec::new() }
    }

    /// The status and bytes of the answer to this request, `end` being the head's last line. Now
    /// and then there is none, for one to go the whole way.
    pub(super) fn find(
        &mut self,
        request: &Head,
        end: &str,
        changes: u64,
        now: Instant,
    ) -> Option<Vec<u8>> {
        if self.changes != changes {
            self.forget_all(changes);
        }
        if self.answers.is_empty() || !write_key(request, &mut self.key) {
            return None;
        }
        let kept = self.answers.get_mut(&self.key[..])?;
        if now.saturating_duration_since(kept.renewed) >= RENEWAL_INTERVAL {
            kept.renewed = now;
            return None;
        }
        kept.is_used = true;
        Some([kept.head.as_bytes(), end.as_bytes(), &kept.body].concat())
    }

    /// What [`Self::note`] will need to keep the answer to a request that now goes to a handler.
    pub(super) fn wish(&mut self, request: &Head, changes: u64) -> Option<Wish> {
        write_key(request, &mut self.key).then(|| Wish { key: self.key[..].into(), changes })
    }

    /// Keeps an answer, if that may be. `whole` is its head up to the last line, and its body.
    pub(super) fn note(
        &mut self,
        wish: Wish,
        answer: &Reply,
        whole: Option<(&str, &[u8])>,
        changes: u64,
        now: Instant,
    ) {
        self.forget(&wish.key);
        let Some((head, body)) = whole.filter(|_| is_immutable(answer)) else { return };
        if wish.changes != changes || head.len() + body.len() > ANSWER_BYTES_MAX {
            return;
        }
        if self.changes != changes {
            self.forget_all(changes);
        }
        let kept =
            KeptAnswer { head: head.into(), body: body.into(), renewed: now, is_used: false };
        self.bytes += entry_bytes(&wish.key, &kept);
        self.order.push_back(wish.key.clone());
        self.answers.insert(wish.key, kept);
        while self.bytes > self.bytes_max
            && let Some(key) = self.order.pop_front()
        {
            // It is asked for: it stays for another round.
            let kept = self.answers.get_mut(&key);
            if kept.is_some_and(|kept| std::mem::take(&mut kept.is_used)) {
                self.order.push_back(key);
            } else {
                self.drop_answer(&key);
            }
        }
    }

    fn forget(&mut self, key: &Arc<[u8]>) {
        if self.answers.contains_key(key) {
            self.drop_answer(key);
            self.order.retain(|other| other != key);
        }
    }

    fn drop_answer(&mut self, key: &Arc<[u8]>) {
        if let Some(kept) = self.answers.remove(key) {
            self.bytes -= entry_bytes(key, &kept);
        }
    }

    fn forget_all(&mut self, changes: u64) {
        self.changes = changes;
        self.answers.clear();
        self.order.clear();
        self.bytes = 0;
    }
}

fn entry_bytes(key: &Arc<[u8]>, kept: &KeptAnswer) -> usize {
    ENTRY_BYTES + key.len() + kept.head.len() + kept.body.len()
}

/// Writes what an answer depends on; `false` if that is more than what is written.
fn write_key(request: &Head, key: &mut Vec<u8>) -> bool {
    let is_plain = matches!(&request.method[..], "GET" | "HEAD")
        && request.body == super::BodyLength::Known(0)
        && request.headers.iter().all(|(name, _)| !is_condition(name));
    key.clear();
    if is_plain {
        let accept = request.get("accept").unwrap_or_default();
        // None of the three has a line end.
        for part in [&request.method, "\n", &request.target, "\n", accept] {
            key.extend_from_slice(part.as_bytes());
        }
    }
    is_plain
}

/// Headers by which a client wants something else than all of it, from whoever has it.
fn is_condition(name: &str) -> bool {
    name.starts_with("if-") || matches!(name, "cache-control" | "range" | "service-worker")
}

/// Whether the answer stays what it is, as long as what it tells of is here.
fn is_immutable(answer: &Reply) -> bool {
    let is_lasting = |value: &str| value.split(',').any(|one| one.trim() == "immutable");
    answer.status == 200
        && answer.header("cache-control").is_some_and(is_lasting)
        && answer.header("vary").is_none_or(|names| names.eq_ignore_ascii_case("accept"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Head {
        Head::parse(format!("{text}\r\n\r\n").as_bytes()).unwrap().unwrap()
    }

    fn answer(status: u16, cache_control: &str) -> Reply {
        Reply::new(status, "text/plain", "").with("cache-control", cache_control)
    }

    const IMMUTABLE: &str = "public, max-age=29030400, immutable";

    struct Gate {
        kept: Kept,
        now: Instant,
    }

    impl Gate {
        fn new(bytes_max: usize) -> Self {
            Self { kept: Kept::new(bytes_max), now: Instant::now() }
        }

        fn answered(&mut self, text: &str, answer: &Reply, body: &[u8]) {
            if let Some(wish) = self.kept.wish(&request(text), 0) {
                self.kept.note(wish, answer, Some(("head", body)), 0, self.now);
            }
        }

        fn find(&mut self, text: &str) -> Option<Vec<u8>> {
            self.kept.find(&request(text), "!", 0, self.now)
        }
    }

    #[test]
    fn an_immutable_answer_is_given_again_to_who_asks_for_the_same_and_for_nothing_special() {
        let mut gate = Gate::new(1 << 20);
        let plain = "GET /ipfs/x?a=b HTTP/1.1\r\nHost: x\r\nAccept: */*";
        gate.answered(plain, &answer(200, IMMUTABLE), b"body");
        assert_eq!(gate.find(plain).as_deref(), Some(&b"head!body"[..]));
        // Who asks, and with what program, makes no difference.
        let other = "GET /ipfs/x?a=b HTTP/1.1\r\nHost: y\r\nUser-Agent: z\r\nAccept: */*";
        assert!(gate.find(other).is_some());
        for different in [
            "HEAD /ipfs/x?a=b HTTP/1.1\r\nHost: x\r\nAccept: */*",
            "GET /ipfs/x HTTP/1.1\r\nHost: x\r\nAccept: */*",
            "GET /ipfs/x?a=b HTTP/1.1\r\nHost: x",
            "GET /ipfs/x?a=b HTTP/1.1\r\nHost: x\r\nAccept: application/vnd.ipld.raw",
        ] {
            assert_eq!(gate.find(different), None, "{different}");
        }
        for special in [
            "Range: bytes=0-1",
            "If-None-Match: \"x\"",
            "If-Range: \"x\"",
            "If-Modified-Since: x",
            "Cache-Control: only-if-cached",
            "Cache-Control: no-cache",
            "Service-Worker: script",
            "Content-Length: 1",
        ] {
            assert_eq!(gate.find(&format!("{plain}\r\n{special}")), None, "{special}");
        }
    }

    #[test]
    fn what_may_change_or_is_no_success_is_not_kept_and_takes_the_place_of_what_was() {
        let plain = "GET /ipfs/x HTTP/1.1\r\nHost: x";
        let varied = |names: &str| answer(200, IMMUTABLE).with("vary", names);
        for other in [
            answer(200, "no-store"),
            answer(200, "public, max-age=604800"),
            answer(206, IMMUTABLE),
            answer(404, IMMUTABLE),
            varied("Accept, Origin"),
        ] {
            let mut gate = Gate::new(1 << 20);
            gate.answered(plain, &varied("Accept"), b"");
            assert!(gate.find(plain).is_some());
            gate.answered(plain, &other, b"");
            assert_eq!(gate.find(plain), None, "{:?}", other.headers);
            assert_eq!((gate.kept.bytes, gate.kept.order.len()), (0, 0));
        }
    }

    #[test]
    fn a_change_makes_all_be_forgotten_and_what_was_asked_before_it_is_not_kept() {
        let plain = "GET /ipfs/x HTTP/1.1\r\nHost: x";
        let mut gate = Gate::new(1 << 20);
        let now = gate.now;
        gate.answered(plain, &answer(200, IMMUTABLE), b"");
        assert!(gate.kept.find(&request(plain), "", 1, now).is_none());
        // Asked before the second change, answered after it.
        let wish = gate.kept.wish(&request(plain), 1).unwrap();
        gate.kept.note(wish, &answer(200, IMMUTABLE), Some(("", b"")), 2, now);
        assert!(gate.kept.find(&request(plain), "", 2, now).is_none());
        assert!(gate.kept.answers.is_empty());
    }

    #[test]
    fn one_request_in_an_interval_goes_the_whole_way() {
        let plain = "GET /ipfs/x HTTP/1.1\r\nHost: x";
        let mut gate = Gate::new(1 << 20);
        gate.answered(plain, &answer(200, IMMUTABLE), b"");
        gate.now += RENEWAL_INTERVAL;
        assert!(gate.find(plain).is_none());
        assert!(gate.find(plain).is_some());
        gate.now += RENEWAL_INTERVAL / 2;
        assert!(gate.find(plain).is_some());
        gate.now += RENEWAL_INTERVAL / 2;
        assert!(gate.find(plain).is_none());
    }

    #[test]
    fn the_bytes_stay_within_their_bound_and_what_is_asked_for_stays_the_longest() {
        let bytes_max = 64 << 10;
        let mut gate = Gate::new(bytes_max);
        let name = |n: usize| format!("GET /ipfs/{n} HTTP/1.1\r\nHost: x");
        gate.answered(&name(0), &answer(200, IMMUTABLE), &[0; 1_024]);
        for n in 1..1_000 {
            assert!(gate.find(&name(0)).is_some(), "{n}");
            gate.answered(&name(n), &answer(200, IMMUTABLE), &[0; 1_024]);
            let kept = &gate.kept;
            let sum: usize = kept.answers.iter().map(|(key, one)| entry_bytes(key, one)).sum();
            assert_eq!((kept.bytes, kept.order.len()), (sum, kept.answers.len()));
            assert!(sum <= bytes_max, "{sum}");
        }
        assert!(gate.kept.answers.len() > 40 && gate.find(&name(1)).is_none());
        gate.answered(&name(7), &answer(200, IMMUTABLE), &[0; ANSWER_BYTES_MAX]);
        assert!(gate.find(&name(7)).is_none(), "too large to be kept");
    }
}
