//! One public connection: one request after the other, each answered before the next is read.

use super::{
    body::{Flow, Taken},
    chunked::{ChunkError, Chunked, put_chunk, put_last_chunk},
    head::{BodyLength, HEAD_BYTES_MAX, Head, HeadError},
    kept::Wish,
};
use bytes::{Buf as _, Bytes};
use mio::{event::Event, net::TcpStream};
use std::{
    io::{self, Read as _, Write as _},
    sync::Arc,
    time::{Duration, Instant},
};

/// A head must be whole in this time, however it comes.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A body that does not come, or an answer that is not taken, ends the connection.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection without a request is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// After an answer that ends the connection, what the client still sends is read and dropped for
/// so long, so that it reads the answer before it learns of the end.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of one read.
pub(super) const READ_BYTES: usize = 64 << 10;
/// Bytes that one connection sends before the others get their turn.
const TURN_BYTES: u64 = 1 << 20;
/// An answer with more to come may wait for others.
const BULK_BYTES: u64 = 64 << 10;

/// What a connection is at.
pub(super) enum Stage {
    /// The head of the next request is awaited.
    Idle,
    /// A request waits for a free handler, with its head.
    Queued(Head),
    /// A handler works on it; its body may still be on its way there.
    Working,
    /// The answer is being sent.
    Answering,
    /// The answer is out, and what the client still sends is dropped until it has seen that.
    Lingering,
}

/// What is left of a request's body.
pub(super) enum Upload {
    Known(u64),
    Chunked(Chunked),
}

/// A connection of a client.
pub(super) struct Client {
    pub(super) stream: TcpStream,
    pub(super) stage: Stage,
    pub(super) upload: Option<Upload>,
    /// Bytes of the request's body that were moved on.
    passed: u64,
    /// The answer may be kept.
    pub(super) wish: Option<Wish>,
    /// The last time that something moved.
    pub(super) moved: Instant,
    /// When the head that is being read was begun; the time for it is not renewed by each byte.
    head_begun: Instant,
    pub(super) keep_alive: bool,
    pub(super) is_head: bool,
    /// The answer ends the connection while the client may still be sending.
    pub(super) linger: bool,
    input: Vec<u8>,
    /// Head of the answer, or all of one that the gate makes itself.
    output: Bytes,
    pub(super) flow: Option<Arc<Flow>>,
    /// The body goes out in chunks, as its length is not known.
    pub(super) chunked: bool,
    chunk: Bytes,
    chunk_tail: bool,
    /// Bytes of the answer's body that were announced and not yet taken.
    pub(super) body_left: Option<u64>,
    read_closed: bool,
    /// All that came was read; there will be an event when more does.
    is_drained: bool,
    /// The client sends no more: what it sent before ends without another event.
    has_ended: bool,
    /// The socket took no more at the last write.
    is_blocked: bool,
}

/// What came of moving bytes.
pub(super) enum Moved {
    /// Nothing more to do until something is ready.
    Wait,
    /// Others get their turn.
    Yield,
    /// The answer is out.
    Answered,
}

/// The connection is over.
pub(super) struct Over;

impl Client {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            stage: Stage::Idle,
            upload: None,
            passed: 0,
            wish: None,
            moved: Instant::now(),
            head_begun: Instant::now(),
            keep_alive: true,
            is_head: false,
            linger: false,
            input: Vec::new(),
            output: Bytes::new(),
            flow: None,
            chunked: false,
            chunk: Bytes::new(),
            chunk_tail: false,
            body_left: None,
            read_closed: false,
            is_drained: false,
            has_ended: false,
            is_blocked: false,
        }
    }

    /// Notes what the poll tells of the socket.
    pub(super) fn note(&mut self, event: &Event) {
        self.is_drained &= !event.is_readable();
        self.has_ended |= event.is_read_closed();
    }

    /// Whether the next request may be here already, of which no event will tell.
    pub(super) fn may_have_more(&self) -> bool {
        !self.input.is_empty() || !self.is_drained
    }

    /// Whether a request is begun or under way.
    pub(super) fn is_busy(&self) -> bool {
        match self.stage {
            Stage::Idle => !self.input.is_empty(),
            Stage::Queued(_) | Stage::Working | Stage::Answering => true,
            Stage::Lingering => false,
        }
    }

    /// Whether the client had its time.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        let (since, limit) = match (&self.stage, self.is_busy()) {
            (Stage::Idle, false) => (self.moved, IDLE_TIMEOUT),
            (Stage::Idle, true) => (self.head_begun, HEAD_TIMEOUT),
            // The handler, and what it waits for, has limits of its own.
            (Stage::Queued(_) | Stage::Working, _) if self.upload.is_none() => return false,
            // So has a body, while its client takes what there is.
            (Stage::Answering, _) if !self.is_blocked => return false,
            (Stage::Queued(_) | Stage::Working | Stage::Answering, _) => {
                (self.moved, STALL_TIMEOUT)
            }
            (Stage::Lingering, _) => (self.moved, LINGER_TIMEOUT),
        };
        now.saturating_duration_since(since) >= limit
    }

    /// Whether much of an answer is to come.
    pub(super) fn is_bulk(&self) -> bool {
        self.flow.is_some() && self.body_left.is_none_or(|left| left > BULK_BYTES)
    }

    /// Reads what there is, as far as it may wait here.
    pub(super) fn read(&mut self, scratch: &mut [u8], now: Instant) -> Result<(), Over> {
        let wanted = matches!(self.stage, Stage::Idle) || self.upload.is_some();
        while wanted && !(self.read_closed || self.is_drained) && self.input.len() < HEAD_BYTES_MAX
        {
            // Not into the input itself, whose room thousands of idle clients would hold.
            match self.stream.read(scratch) {
                // What came before may be whole requests, whose answers are awaited.
                Ok(0) => self.read_closed = true,
                Ok(read) => {
                    if self.input.is_empty() {
                        self.head_begun = now;
                    }
                    self.input.extend_from_slice(&scratch[..read]);
                    self.moved = now;
                    self.is_drained = read < scratch.len() && !self.has_ended;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_drained = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Over),
            }
        }
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        Ok(())
    }

    /// Whether nothing follows what was read.
    pub(super) const fn is_at_end(&self) -> bool {
        self.read_closed
    }

    /// Whether the client has closed, while it is being answered.
    pub(super) fn has_gone(&mut self) -> bool {
        let mut byte = [0];
        match self.stream.peek(&mut byte) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// The next request's head, once it is whole.
    pub(super) fn next_head(&mut self) -> Result<Option<Head>, HeadError> {
        // An empty line before a request is to be forgiven (RFC 9112, section 2.2).
        if self.input.starts_with(b"\r\n") {
            self.input.drain(..2);
        }
        let head = Head::parse(&self.input)?;
        if let Some(head) = &head {
            self.input.drain(..head.len);
            self.keep_alive = head.keep_alive;
            self.is_head = head.method == "HEAD";
            self.passed = 0;
            self.upload = match head.body {
                BodyLength::Known(0) => None,
                BodyLength::Known(length) => Some(Upload::Known(length)),
                BodyLength::Chunked => Some(Upload::Chunked(Chunked::Size)),
            };
        }
        Ok(head)
    }

    /// Moves what came of the body to the handler's connection, up to `bytes_max` bytes; tells of
    /// how many bytes it was, with the last.
    pub(super) fn pass_upload(
        &mut self,
        inner: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<Option<u64>, ChunkError> {
        let done = match &mut self.upload {
            None => return Ok(None),
            Some(Upload::Known(left)) => {
                let room = bytes_max.saturating_sub(inner.len());
                let len = usize::try_from(*left).unwrap_or(usize::MAX);
                let len = len.min(self.input.len()).min(room);
                if len > 0 {
                    put_chunk(inner, &self.input[..len]);
                    self.input.drain(..len);
                    *left -= len as u64;
                    self.passed += len as u64;
                }
                if *left == 0 {
                    put_last_chunk(inner);
                }
                *left == 0
            }
            Some(Upload::Chunked(state)) => {
                let passed = state.pass(&self.input, inner, bytes_max)?;
                self.input.drain(..passed.used);
                self.passed += passed.content;
                *state == Chunked::Done
            }
        };
        if done {
            self.upload = None;
        }
        Ok(done.then_some(self.passed))
    }

    /// Begins the answer: its head, the first bytes of its body, and where the rest comes from.
    pub(super) fn answer(&mut self, head: impl Into<Bytes>, first: Bytes, flow: Option<Arc<Flow>>) {
        self.output = head.into();
        self.chunk = first;
        self.flow = flow;
        self.stage = Stage::Answering;
        self.moved = Instant::now();
    }

    /// Puts something before the answer, as 100 Continue.
    pub(super) fn interject(&mut self, bytes: &'static [u8]) -> Result<(), Over> {
        match self.stream.write(bytes) {
            Ok(written) if written == bytes.len() => Ok(()),
            // Nothing else was written for this request: a socket that does not take these few
            // bytes at once is not worth waiting for.
            Ok(_) | Err(_) => Err(Over),
        }
    }

    /// Sends what there is of the answer.
    pub(super) fn write(&mut self, sent_total: &mut u64) -> Result<Moved, Over> {
        self.is_blocked = false;
        while *sent_total < TURN_BYTES {
            if self.output.is_empty() && self.chunk.is_empty() && !self.next_chunk()? {
                if self.flow.is_some() {
                    return Ok(Moved::Wait);
                }
                return if self.output.is_empty() { Ok(Moved::Answered) } else { continue };
            }
            let pieces = [io::IoSlice::new(&self.output), io::IoSlice::new(&self.chunk)];
            match self.stream.write_vectored(&pieces) {
                Ok(0) => return Err(Over),
                Ok(written) => {
                    *sent_total += written as u64;
                    self.moved = Instant::now();
                    let head = written.min(self.output.len());
                    self.output.advance(head);
                    self.chunk.advance(written - head);
                    if self.chunk.is_empty() && self.chunk_tail {
                        self.chunk_tail = false;
                        self.output = Bytes::from_static(b"\r\n");
                    }
                    if self.chunk.is_empty() {
                        // Lets go of the block.
                        self.chunk = Bytes::new();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_blocked = true;
                    return Ok(Moved::Wait);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Over),
            }
        }
        Ok(Moved::Yield)
    }

    /// Takes the body's next bytes; `false` if there are none now, or no more.
    fn next_chunk(&mut self) -> Result<bool, Over> {
        let Some(flow) = &self.flow else { return Ok(false) };
        match flow.take() {
            Taken::Nothing => Ok(false),
            Taken::Chunk(chunk) => {
                if let Some(left) = &mut self.body_left {
                    // A body longer than announced would be read as the next answer.
                    *left = left.checked_sub(chunk.len() as u64).ok_or(Over)?;
                }
                if self.chunked && !chunk.is_empty() {
                    self.output = format!("{:x}\r\n", chunk.len()).into_bytes().into();
                    self.chunk_tail = true;
                }
                self.chunk = chunk;
                Ok(!self.chunk.is_empty())
            }
            Taken::End(Ok(())) if self.body_left.is_none_or(|left| left == 0) => {
                self.flow = None;
                if self.chunked {
                    self.chunked = false;
                    self.output = Bytes::from_static(b"0\r\n\r\n");
                }
                Ok(!self.output.is_empty())
            }
            Taken::End(Ok(())) => Err(Over),
            Taken::End(Err(error)) => {
                log::warn!("an answer ends in the middle: {error}");
                Err(Over)
            }
        }
    }

    /// Whether the next request can follow on this connection.
    pub(super) fn finish(&mut self) -> bool {
        self.stage = Stage::Idle;
        self.chunked = false;
        self.body_left = None;
        self.moved = Instant::now();
        self.head_begun = self.moved;
        self.keep_alive && self.upload.is_none()
    }

    /// Gives back what of the body waits for a client that does not read.
    pub(super) fn give_back(&mut self) {
        let Some(flow) = self.flow.as_ref().filter(|_| self.is_blocked && !self.chunked) else {
            return;
        };
        if let Some(left) = &mut self.body_left
            && flow.give_back(self.chunk.len() as u64)
        {
            *left += self.chunk.len() as u64;
            self.chunk = Bytes::new();
        }
    }

    /// Whether there is something to wait for before the connection is closed.
    pub(super) fn begin_linger(&mut self) -> bool {
        if !self.linger || self.read_closed {
            return false;
        }
        self.stage = Stage::Lingering;
        self.upload = None;
        self.input = Vec::new();
        self.stream.shutdown(std::net::Shutdown::Write).is_ok() && self.discard().is_ok()
    }

    /// Drops what comes. The time for that is not renewed.
    pub(super) fn discard(&mut self) -> Result<(), Over> {
        let mut buffer = [0; 4_096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Over),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Over),
            }
        }
    }

    /// Ends the connection so that the client sees that something lacks.
    pub(super) fn abort(&self) {
        let at_once = Some(Duration::ZERO);
        let _ = rustix::net::sockopt::set_socket_linger(&self.stream, at_once);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_ten_seconds_however_it_comes_and_each_after_the_last_answer() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut client = Client::new(TcpStream::from_std(stream));
        let begun = Instant::now();
        let mut drip = |client: &mut Client, bytes: &[u8], second| {
            let before = client.input.len();
            peer.write_all(bytes).unwrap();
            while client.input.len() < before + bytes.len() {
                client.is_drained = false;
                assert!(client.read(&mut [0; 64], begun + Duration::from_secs(second)).is_ok());
                std::thread::yield_now();
            }
        };
        let late = |client: &Client, second| client.is_late(begun + Duration::from_secs(second));

        // A connection that asks for nothing has longer.
        assert!(!late(&client, 59));
        drip(&mut client, b"GET / HTTP/1.1\r\n", 20);
        drip(&mut client, b"host: ", 25);
        drip(&mut client, b"here", 29);
        assert!(!late(&client, 29));
        assert!(late(&client, 30));
        drip(&mut client, b"\r\n\r\nGET", 30);
        assert!(client.next_head().ok().flatten().is_some());
        // What came before its turn waits for the answer before it.
        client.answer("HTTP/1.1 204 No Content\r\n\r\n", Bytes::new(), None);
        assert!(!late(&client, 1_000));
        assert!(client.finish());
        assert!(!late(&client, 9));
        drip(&mut client, b" / HTTP/1.1\r\n", 9);
        assert!(client.is_late(Instant::now() + HEAD_TIMEOUT));
    }
}
