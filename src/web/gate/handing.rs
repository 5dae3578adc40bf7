//! Requests handed to the handlers, and their answers handed back: the gate's side of the inner
//! connections.
//!
//! All requests without a body go over one connection, as many at a time as there are; one with a
//! body has a connection of its own. The answers come by [`Replies`](super::replies::Replies).

use super::{
    Reply, ReplyBody,
    answer::{connection_line, public_head},
    chunked::ChunkError,
    connection::Stage,
    event_loop::GateLoop,
    inner::Inner,
};
use bytes::Bytes;
use mio::{Interest, Token, event::Event, net::UnixStream};
use std::{net::Shutdown, time::Instant};

/// Uploads at one time: fewer than handlers, so that stalled ones do not hold them all.
const UPLOADS_SHARE: usize = 2;
/// Bytes of an upload on their way to a handler.
const INNER_BYTES_MAX: usize = 256 << 10;

/// A request that a handler has.
pub(super) struct Handed {
    /// Who waits for the answer; nobody, if that client has left.
    client: Option<u64>,
    /// The connection that it went over.
    inner: u64,
}

impl GateLoop {
    /// Gives waiting requests to handlers, as far as there are.
    pub(super) fn dispatch(&mut self) {
        let uploads_max = (self.config.handlers / UPLOADS_SHARE).max(1);
        while self.handed.len() < self.config.handlers {
            let uploads = self.uploads < uploads_max && !self.upload_queue.is_empty();
            // Bodies first: there are handlers that they never get.
            if uploads && let Some(inner) = self.idle_inners.pop() {
                if let Some(token) = self.upload_queue.pop_front() {
                    self.begin(token, inner);
                }
                continue;
            }
            self.lane = self.lane.or_else(|| self.idle_inners.pop());
            if uploads || (self.lane.is_none() && !self.queue.is_empty()) {
                self.open_inner();
            }
            let Some(inner) = self.lane else { return };
            let Some(token) = self.queue.pop_front() else { return };
            self.begin(token, inner);
        }
    }

    /// One new connection at a time, until it has answered: tiny_http leaves some of a burst
    /// without a thread (`TaskPool::spawn` counts threads as idle that were just woken).
    fn open_inner(&mut self) -> Option<()> {
        if self.inners.values().any(|inner| inner.is_probing) {
            return None;
        }
        let mut stream = UnixStream::connect(&self.socket)
            .inspect_err(|error| log::error!("the handlers cannot be reached: {error}"))
            .ok()?;
        let (token, number) = (self.token(), self.token());
        // Any socket takes a head at once, and would tell of each that was read.
        let interest = Interest::READABLE;
        self.poll.registry().register(&mut stream, Token(token as usize), interest).ok()?;
        let ticket = self.replies.ticket(number);
        let mut inner = Inner::probe(stream, super::head::probe(&ticket));
        inner.write().ok()?;
        self.inners.insert(token, inner);
        self.handed.insert(number, Handed { client: None, inner: token });
        Some(())
    }

    fn begin(&mut self, token: u64, inner_token: u64) {
        let number = self.token();
        let (Some(client), Some(inner)) =
            (self.clients.get_mut(&token), self.inners.get_mut(&inner_token))
        else {
            return;
        };
        let Stage::Queued(head) = std::mem::replace(&mut client.stage, Stage::Working) else {
            return;
        };
        self.handed.insert(number, Handed { client: Some(token), inner: inner_token });
        head.write_inner(&self.replies.ticket(number), &mut inner.output);
        client.wish = self.kept.wish(&head, (self.config.changes)());
        if client.upload.is_none() {
            // It is written with those that come together with it.
            return;
        }
        inner.spent = true;
        self.uploads += 1;
        if head.expects_continue() && client.interject(b"HTTP/1.1 100 Continue\r\n\r\n").is_err() {
            return self.close(token, false);
        }
        if self.watch(inner_token) {
            self.pass_upload(inner_token);
        } else {
            self.fail_inner(inner_token);
        }
    }

    /// Has the poll tell of room in a connection.
    fn watch(&mut self, inner_token: u64) -> bool {
        let Some(inner) = self.inners.get_mut(&inner_token) else { return false };
        let (interest, token) = (Interest::READABLE | Interest::WRITABLE, inner_token as usize);
        let registry = self.poll.registry();
        inner.is_watched = inner.is_watched
            || registry.reregister(&mut inner.stream, Token(token), interest).is_ok();
        inner.is_watched
    }

    /// Writes all heads that go over the common connection.
    pub(super) fn flush(&mut self) {
        let Some(lane) = self.lane else { return };
        let Some(inner) = self.inners.get_mut(&lane) else { return };
        if inner.output.is_empty() {
            return;
        }
        self.handed_at = Instant::now();
        if inner.write().is_err() || (!inner.output.is_empty() && !self.watch(lane)) {
            self.fail_inner(lane);
        }
    }

    pub(super) fn pass_upload_of(&mut self, token: u64) {
        let serving = self.handed.values().find(|handed| handed.client == Some(token));
        if let Some(inner) = serving.map(|handed| handed.inner) {
            self.pass_upload(inner);
        }
    }

    /// Moves a request's body on, as far as the handler takes it.
    fn pass_upload(&mut self, inner_token: u64) {
        let handed = self.handed.iter().find(|(_, handed)| handed.inner == inner_token);
        // Nothing is passed on of what was abandoned.
        let Some((number, token)) = handed.and_then(|(n, handed)| Some((*n, handed.client?)))
        else {
            return;
        };
        loop {
            let (Some(client), Some(inner)) =
                (self.clients.get_mut(&token), self.inners.get_mut(&inner_token))
            else {
                return;
            };
            if client.upload.is_none() && inner.output.is_empty() {
                return;
            }
            let waiting = inner.output.len();
            if waiting < INNER_BYTES_MAX && client.upload.is_some() {
                if client.read(&mut self.scratch, Instant::now()).is_err() {
                    return self.close(token, false);
                }
                match client.pass_upload(&mut inner.output, INNER_BYTES_MAX) {
                    Ok(None) => {}
                    Ok(Some(bytes)) => self.replies.note_length(number, bytes),
                    Err(ChunkError) => {
                        self.abandon(token);
                        return self.refuse(token, 400, "bad_request", "a chunk is malformed");
                    }
                }
                let has_room = inner.output.len() < INNER_BYTES_MAX;
                if has_room && client.upload.is_some() && client.is_at_end() {
                    return self.close(token, false);
                }
            }
            let before = inner.output.len();
            if inner.write().is_err() {
                // It reads no more, as it has answered or ended.
                inner.output.clear();
                return self.end_inner(inner_token);
            }
            if inner.output.len() == before && before == waiting {
                return;
            }
        }
    }

    /// Takes what the poll tells of a connection to the handlers.
    pub(super) fn on_inner(&mut self, inner_token: u64, event: &Event) {
        let Some(inner) = self.inners.get_mut(&inner_token) else { return };
        if (event.is_readable() || event.is_read_closed()) && inner.is_over() {
            self.end_inner(inner_token);
        } else if event.is_writable() && inner.spent {
            self.pass_upload(inner_token);
        } else if event.is_writable() {
            self.flush();
        }
    }

    /// Takes the handlers' answers.
    pub(super) fn take_replies(&mut self) {
        let replies = self.replies.take();
        if replies.is_empty() {
            return;
        }
        for (number, reply) in replies {
            // Also what nobody waits for was taken: it is freed by that.
            let Some(handed) = self.handed.remove(&number) else { continue };
            if let Some(inner) = self.inners.get_mut(&handed.inner) {
                if std::mem::take(&mut inner.is_probing) {
                    self.idle_inners.push(handed.inner);
                } else if inner.spent {
                    // What a handler left of the body stands in the way.
                    self.drop_inner(handed.inner);
                }
            }
            if let Some(token) = handed.client {
                self.on_reply(token, reply);
            }
        }
        self.dispatch();
    }

    fn on_reply(&mut self, token: u64, mut reply: Reply) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        // A handler that answers before it has read the body leaves the rest of it in the way.
        client.keep_alive &= client.upload.is_none();
        client.linger = client.upload.take().is_some();
        let (length, bytes, body) =
            match std::mem::replace(&mut reply.body, ReplyBody::Absent(None)) {
                ReplyBody::Bytes(bytes) => (Some(bytes.len() as u64), bytes, None),
                ReplyBody::Stream(mut body, length) => match body.at_hand() {
                    Some(bytes) => (Some(bytes.len() as u64), bytes, None),
                    None => (length, Bytes::new(), Some(body)),
                },
                ReplyBody::Absent(length) => (length, Bytes::new(), None),
            };
        let is_bodiless = client.is_head || matches!(reply.status, 204 | 304);
        let bytes = if is_bodiless { Bytes::new() } else { bytes };
        let body = body.filter(|_| !is_bodiless);
        client.chunked = body.is_some() && length.is_none();
        let now = Instant::now();
        let mut head = public_head(&reply, self.date.at(now), length, client.chunked);
        if let Some(wish) = client.wish.take() {
            let whole = body.is_none().then_some((&head[..], &bytes[..]));
            self.kept.note(wish, &reply, whole, (self.config.changes)(), now);
        }
        head.push_str(connection_line(client.keep_alive));
        client.body_left = length.filter(|_| body.is_some());
        let flow = body.map(|body| self.pumps.flow(token, body));
        (self.config.answered)(reply.status);
        client.answer(head, bytes, flow);
        self.write(token);
    }

    /// A client is gone. The answer is still awaited, so that what it holds is freed; a handler
    /// that waits for the body of the request sees its end.
    pub(super) fn abandon(&mut self, token: u64) {
        let serving = self.handed.values_mut().find(|handed| handed.client == Some(token));
        let Some(handed) = serving else { return };
        handed.client = None;
        if let Some(inner) = self.inners.get_mut(&handed.inner)
            && inner.spent
        {
            inner.output.clear();
            let _ = inner.stream.shutdown(Shutdown::Write);
        }
    }

    /// The far end of a connection ended it: after an answer, or for want of one.
    fn end_inner(&mut self, inner_token: u64) {
        self.take_replies();
        if self.inners.contains_key(&inner_token) {
            log::error!("tiny_http has ended a connection of the gate's");
            self.fail_inner(inner_token);
        }
    }

    fn drop_inner(&mut self, inner_token: u64) {
        if let Some(mut inner) = self.inners.remove(&inner_token) {
            let _ = self.poll.registry().deregister(&mut inner.stream);
            self.idle_inners.retain(|idle| *idle != inner_token);
            self.lane = self.lane.filter(|lane| *lane != inner_token);
            self.uploads -= usize::from(inner.spent);
        }
    }

    fn fail_inner(&mut self, inner_token: u64) {
        self.drop_inner(inner_token);
        let mut clients = Vec::new();
        self.handed.retain(|_, handed| {
            let failed = handed.inner == inner_token;
            clients.extend(handed.client.filter(|_| failed));
            !failed
        });
        for token in clients {
            self.refuse(token, 500, "internal", "the handler ended without an answer");
        }
    }
}
