//! Requests handed to the handlers, and their answers handed back: the gate's side of the inner
//! connections.

use super::{
    Reply, ReplyBody,
    answer::{connection_line, public_head},
    connection::Stage,
    event_loop::GateLoop,
    inner::Inner,
};
use bytes::Bytes;
use mio::{Interest, Token, net::UnixStream};
use std::{net::Shutdown, time::Instant};

/// Uploads at one time: fewer than handlers, so that stalled ones do not hold them all.
const UPLOADS_SHARE: usize = 2;
/// Bytes of an upload on their way to a handler.
const INNER_BYTES_MAX: usize = 256 << 10;

impl GateLoop {
    /// Gives waiting requests to handlers, as far as there are.
    pub(super) fn dispatch(&mut self) {
        let uploads_max = (self.config.handlers / UPLOADS_SHARE).max(1);
        loop {
            let uploads = self.uploads < uploads_max && !self.upload_queue.is_empty();
            if self.queue.is_empty() && !uploads {
                return;
            }
            let Some(inner) = self.free_inner() else { return };
            // Bodies first: there are handlers that they never get.
            let token = if uploads {
                self.uploads += 1;
                self.upload_queue.pop_front()
            } else {
                self.queue.pop_front()
            };
            if let Some(token) = token {
                self.begin(token, inner);
            }
        }
    }

    fn free_inner(&mut self) -> Option<u64> {
        if let Some(inner) = self.idle_inners.pop() {
            return Some(inner);
        }
        // One new connection at a time, until it has answered: tiny_http leaves some of a burst
        // without a thread (`TaskPool::spawn` counts threads as idle that were just woken).
        let probing = self.inners.values().any(|inner| inner.is_probing);
        if !probing && self.inners.len() < self.config.handlers {
            self.open_inner();
        }
        None
    }

    fn open_inner(&mut self) -> Option<()> {
        let mut stream = UnixStream::connect(&self.socket)
            .inspect_err(|error| log::error!("the handlers cannot be reached: {error}"))
            .ok()?;
        let token = self.token();
        // Any socket takes a head at once, and would tell of each that was read.
        let interest = Interest::READABLE;
        self.poll.registry().register(&mut stream, Token(token as usize), interest).ok()?;
        self.inners.insert(token, Inner::probe(stream));
        self.pass_upload(token);
        Some(())
    }

    fn begin(&mut self, token: u64, inner_token: u64) {
        let (Some(client), Some(inner)) =
            (self.clients.get_mut(&token), self.inners.get_mut(&inner_token))
        else {
            return;
        };
        let Stage::Queued(head) = std::mem::replace(&mut client.stage, Stage::Working) else {
            return;
        };
        inner.client = Some(token);
        inner.spent = client.upload.is_some();
        inner.output = head.to_inner(&self.replies.expect(inner_token));
        client.wish = self.kept.wish(&head, (self.config.changes)());
        if client.upload.is_some()
            && head.expects_continue()
            && client.interject(b"HTTP/1.1 100 Continue\r\n\r\n").is_err()
        {
            return self.close(token, false);
        }
        if inner.spent {
            let interest = Interest::READABLE | Interest::WRITABLE;
            let token = Token(inner_token as usize);
            let watched = self.poll.registry().reregister(&mut inner.stream, token, interest);
            match watched {
                Ok(()) => self.pass_upload(inner_token),
                Err(_) => self.fail_inner(inner_token),
            }
        } else if inner.write().is_err() || !inner.output.is_empty() {
            self.fail_inner(inner_token);
        }
    }

    pub(super) fn pass_upload_of(&mut self, token: u64) {
        let serving = self.inners.iter().find(|(_, inner)| inner.client == Some(token));
        if let Some(inner) = serving.map(|(inner, _)| *inner) {
            self.pass_upload(inner);
        }
    }

    /// Moves a request's body on, as far as the handler takes it.
    fn pass_upload(&mut self, inner_token: u64) {
        loop {
            let Some(inner) = self.inners.get_mut(&inner_token) else { return };
            let Some(token) = inner.client else {
                // A probe has no client, nor what was abandoned; both fit any socket.
                let _ = inner.write();
                return;
            };
            let Some(client) = self.clients.get_mut(&token) else { return };
            if client.upload.is_none() && inner.output.is_empty() {
                return;
            }
            let waiting = inner.output.len();
            if waiting < INNER_BYTES_MAX && client.upload.is_some() {
                if client.read(&mut self.scratch).is_err() {
                    return self.close(token, false);
                }
                if client.pass_upload(&mut inner.output, INNER_BYTES_MAX).is_err() {
                    self.abandon_inner(inner_token);
                    return self.refuse(token, 400, "bad_request", "a chunk is malformed");
                }
                let has_room = inner.output.len() < INNER_BYTES_MAX;
                if has_room && client.upload.is_some() && client.is_at_end() {
                    return self.close(token, false);
                }
            }
            let before = inner.output.len();
            if inner.write().is_err() {
                // It reads no more, as it has answered or ended: reading tells which.
                inner.output.clear();
                return self.on_inner(inner_token, true);
            }
            if inner.output.len() == before && before == waiting {
                return;
            }
        }
    }

    /// Takes what came from the handlers; `ends` if nothing will follow.
    pub(super) fn on_inner(&mut self, inner_token: u64, ends: bool) {
        let Some(inner) = self.inners.get_mut(&inner_token) else { return };
        // First of all the answer: a handler may give it without having read the body.
        match inner.read(ends) {
            Ok(None) => self.pass_upload(inner_token),
            Ok(Some(_)) if std::mem::take(&mut inner.is_probing) => {
                self.idle_inners.push(inner_token);
                self.dispatch();
            }
            Ok(Some(answer)) => {
                let client = inner.client.take();
                let reply = self.replies.take(inner_token);
                if inner.spent || inner.ended || self.idle_inners.contains(&inner_token) {
                    self.drop_inner(inner_token);
                } else {
                    self.idle_inners.push(inner_token);
                }
                match (client, reply) {
                    (Some(token), Some(reply)) => self.on_reply(token, reply, &answer.date),
                    // tiny_http's own word.
                    (Some(token), None) => {
                        self.refuse(token, answer.status, "bad_request", "it is malformed");
                    }
                    // What nobody waits for was taken all the same: it is freed by that.
                    (None, _) => {}
                }
                self.dispatch();
            }
            Err(_) => self.fail_inner(inner_token),
        }
    }

    fn on_reply(&mut self, token: u64, mut reply: Reply, date: &str) {
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
        let mut head = public_head(&reply, date, length, client.chunked);
        if let Some(wish) = client.wish.take() {
            let whole = body.is_none().then_some((&head[..], &bytes[..]));
            self.kept.note(wish, &reply, whole, (self.config.changes)(), Instant::now());
        }
        head.push_str(connection_line(client.keep_alive));
        client.body_left = length.filter(|_| body.is_some());
        let flow = body.map(|body| self.pumps.flow(token, body));
        (self.config.answered)(reply.status);
        client.answer(head, bytes, flow);
        self.write(token);
    }

    /// Its client is gone. The answer is still awaited, so that what it holds is freed; a handler
    /// that waits for the body of the request sees its end.
    pub(super) fn abandon_inner(&mut self, inner_token: u64) {
        let Some(inner) = self.inners.get_mut(&inner_token) else { return };
        inner.client = None;
        if inner.spent {
            inner.output.clear();
            let _ = inner.stream.shutdown(Shutdown::Write);
        }
    }

    fn drop_inner(&mut self, inner_token: u64) {
        if let Some(mut inner) = self.inners.remove(&inner_token) {
            drop(self.replies.take(inner_token));
            let _ = self.poll.registry().deregister(&mut inner.stream);
            self.idle_inners.retain(|idle| *idle != inner_token);
            self.uploads -= usize::from(inner.spent);
        }
    }

    fn fail_inner(&mut self, inner_token: u64) {
        let client = self.inners.get(&inner_token).and_then(|inner| inner.client);
        self.drop_inner(inner_token);
        if let Some(token) = client {
            self.refuse(token, 500, "internal", "the handler ended without an answer");
        }
        self.dispatch();
    }
}
