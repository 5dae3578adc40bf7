//! One socket with its Session: bytes in, events out, and back.

use crate::base::pool::{Buffer, Pool};
use crate::engine::{CloseReason, ConnId, Moment};
use barrow_wire::{
    Event, Multihash, PeerId, Session,
    limits::{BLOCK_BYTES_MAX, RECORD_BYTES_MAX},
};
use bytes::Bytes;
use mio::net::TcpStream;
use std::{
    collections::VecDeque,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
};

/// Bytes of one read at most. Larger ones measured slower: L2 is 1 MiB a core.
const READ_BYTES: usize = 256 << 10;
/// The same where the pool may have no buffer for what it brings: until it has one, the connection
/// keeps the bytes, beside the pool.
const READ_SCARCE_BYTES: usize = RECORD_BYTES_MAX;
/// Free bytes of the pool that take up a large read, with a block that begins in it.
const PLENTY_BYTES: usize = READ_BYTES + BLOCK_BYTES_MAX;
/// Encrypted bytes of one write: one record. Several a write measured slower.
const WRITE_BYTES: usize = 64 << 10;

/// The buffer that all connections read into, one after the other.
pub(super) struct ReadBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl ReadBuffer {
    pub(super) fn new() -> Self {
        // An incomplete record may stand before what the next read brings.
        Self { bytes: vec![0; READ_BYTES + RECORD_BYTES_MAX + 2], start: 0, end: 0 }
    }

    /// Takes up what a connection kept from its last turn.
    pub(super) fn load(&mut self, connection: &mut Connection) {
        let kept = connection.kept.len();
        self.bytes[..kept].copy_from_slice(&connection.kept);
        (self.start, self.end) = (0, kept);
        connection.kept.clear();
    }

    /// Gives the rest back to the connection until its next turn.
    pub(super) fn store(&mut self, connection: &mut Connection) {
        if self.start == self.end {
            connection.kept = Vec::new();
        } else {
            connection.kept.extend_from_slice(&self.bytes[self.start..self.end]);
        }
    }
}

/// What stands next in the read buffer.
pub(super) enum Next {
    /// An event to act on.
    Event(Event<Buffer>),
    /// Nothing whole: read on.
    Empty,
    /// A block comes, and no buffer is free for it.
    NeedsBuffer,
}

/// A connection to a peer, from the dial or the accept on.
pub(super) struct Connection {
    pub(super) id: ConnId,
    pub(super) stream: TcpStream,
    pub(super) remote: SocketAddr,
    /// The address that was dialed, if we did.
    pub(super) dialed: Option<SocketAddr>,
    pub(super) peer: Option<PeerId>,
    /// When the dial or the accept was.
    pub(super) since: Moment,
    /// Since when bytes wait and the socket takes none.
    pub(super) blocked_since: Option<Moment>,
    /// The TCP connection stands.
    pub(super) open: bool,
    /// It waits in the list of those that may have more to read.
    pub(super) ready: bool,
    pub(super) session: Session<Buffer>,
    /// Bytes not yet given to the session.
    kept: Vec<u8>,
    /// Length of the block that no buffer was free for.
    awaits_buffer: Option<usize>,
    out: Vec<u8>,
    out_start: usize,
    /// Blocks queued at the session and not yet reported as sent.
    sending: VecDeque<(Multihash, u32)>,
}

impl Connection {
    pub(super) fn new(
        id: ConnId,
        (stream, remote): (TcpStream, SocketAddr),
        dialed: Option<SocketAddr>,
        session: Session<Buffer>,
        now: Moment,
    ) -> Self {
        Self {
            id,
            stream,
            remote,
            dialed,
            peer: None,
            since: now,
            blocked_since: None,
            open: dialed.is_none(),
            ready: false,
            session,
            kept: Vec::new(),
            awaits_buffer: None,
            out: Vec::new(),
            out_start: 0,
            sending: VecDeque::new(),
        }
    }

    pub(super) fn send_block(&mut self, hash: Multihash, data: Bytes) {
        let len = u32::try_from(data.len()).expect("a block is at most 2 MiB");
        self.sending.push_back((hash, len));
        self.session.send_block(hash, data);
    }

    pub(super) fn cancel_block(&mut self, hash: Multihash) -> bool {
        let cancelled = self.session.cancel_block(hash);
        if cancelled && let Some(at) = self.sending.iter().rposition(|(queued, _)| *queued == hash)
        {
            self.sending.remove(at);
        }
        cancelled
    }

    /// A block that the session has put out whole; each is told of once.
    pub(super) fn next_sent(&mut self) -> Option<(Multihash, u32)> {
        if self.sending.len() > self.session.queued_blocks() {
            return self.sending.pop_front();
        }
        None
    }

    /// Gives the coming block a buffer, or remembers that it needs one.
    pub(super) fn accept_block(&mut self, len: usize, pool: &Pool) -> bool {
        let buffer = pool.try_take(len);
        self.awaits_buffer = buffer.is_none().then_some(len);
        buffer.map(|buffer| self.session.accept_block(buffer)).is_some()
    }

    /// The next event of what was read.
    pub(super) fn next_event(
        &mut self,
        input: &mut ReadBuffer,
        pool: &Pool,
    ) -> Result<Next, CloseReason> {
        if let Some(len) = self.awaits_buffer
            && !self.accept_block(len, pool)
        {
            return Ok(Next::NeedsBuffer);
        }
        let mut rest = &input.bytes[input.start..input.end];
        let event = self.session.receive(&mut rest);
        input.start = input.end - rest.len();
        match event {
            Ok(Some(event)) => Ok(Next::Event(event)),
            Ok(None) => Ok(Next::Empty),
            Err(error) => Err(CloseReason::Protocol(error.to_string())),
        }
    }

    /// Reads once behind what stands in the buffer; `None` when the socket has no more.
    pub(super) fn fill(
        &mut self,
        input: &mut ReadBuffer,
        pool: &Pool,
    ) -> Result<Option<usize>, CloseReason> {
        let plenty = pool.bytes_free() >= PLENTY_BYTES;
        let most = if plenty { READ_BYTES } else { READ_SCARCE_BYTES };
        input.bytes.copy_within(input.start..input.end, 0);
        (input.start, input.end) = (0, input.end - input.start);
        loop {
            let end = input.end;
            match self.stream.read(&mut input.bytes[end..end + most]) {
                Ok(0) => return Err(CloseReason::Remote("the peer closed it".into())),
                Ok(read) => {
                    input.end += read;
                    return Ok(Some(read));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CloseReason::Remote(error.to_string())),
            }
        }
    }

    /// Writes one record's worth, and tells how many bytes went; `None` when nothing is left or
    /// the socket is full.
    pub(super) fn write(
        &mut self,
        scratch: &mut Vec<u8>,
        now: Moment,
    ) -> Result<Option<usize>, CloseReason> {
        if self.out_start < self.out.len() {
            let Some(written) = write_some(&mut self.stream, &self.out[self.out_start..])? else {
                self.blocked_since.get_or_insert(now);
                return Ok(None);
            };
            self.blocked_since = None;
            self.out_start += written;
            if self.out_start == self.out.len() {
                (self.out, self.out_start) = (Vec::new(), 0);
            }
            return Ok(Some(written));
        }
        scratch.clear();
        self.session
            .transmit(scratch, WRITE_BYTES)
            .map_err(|error| CloseReason::Protocol(error.to_string()))?;
        if scratch.is_empty() {
            return Ok(None);
        }
        let written = write_some(&mut self.stream, scratch)?.unwrap_or(0);
        if written < scratch.len() {
            self.out.extend_from_slice(&scratch[written..]);
            self.blocked_since = Some(now);
        }
        Ok(Some(written))
    }
}

/// Bytes that the socket took; `None` if it is full.
fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> Result<Option<usize>, CloseReason> {
    loop {
        match stream.write(bytes) {
            Ok(written) => return Ok(Some(written)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CloseReason::Remote(error.to_string())),
        }
    }
}
