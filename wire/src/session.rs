//! A connection's protocol: handshake, records, frames and blocks. Bytes in, events out.

use crate::{
    DecodeError, Message, Multihash, PeerId,
    codec::{body_bytes_max, decode_block_frame, kind},
    handshake::{Handshake, HandshakeError, SessionConfig},
    limits::{
        BLOCK_BUFFER_SLACK_BYTES, BLOCK_BYTES_MAX, CONTROL_BYTES_MAX, HANDSHAKE_BYTES_MAX,
        RECORD_PLAINTEXT_BYTES_MAX, TAG_BYTES,
    },
};
use bytes::{Buf as _, Bytes};
use snow::TransportState;
use std::{collections::VecDeque, fmt};

/// The last byte of a record's plaintext says what the bytes before it are.
const KIND_CONTROL: u8 = 0;
const KIND_BLOCK: u8 = 1;
/// Bytes of a record's body at most.
const BODY_BYTES_MAX: usize = RECORD_PLAINTEXT_BYTES_MAX - 1;
/// Body of a BLOCK frame: the hash and the length.
const BLOCK_FRAME_BYTES: usize = Multihash::BYTES + 4;

/// What came in.
#[derive(Debug)]
pub enum Event<B> {
    /// The handshake is done.
    Established {
        /// Who it is, proved.
        peer: PeerId,
    },
    /// A control message.
    Message(Message),
    /// A block comes. Call [`Session::accept_block`] or [`Session::skip_block`] before the next
    /// [`Session::receive`].
    BlockComing {
        /// What it is said to be.
        hash: Multihash,
        /// Its bytes, at most [`BLOCK_BYTES_MAX`].
        len: usize,
    },
    /// A block is whole. It was not checked against its hash.
    Block {
        /// What it is said to be.
        hash: Multihash,
        /// Its bytes stand at the start of `data`.
        len: usize,
        /// The buffer that was given for it.
        data: B,
    },
    /// A block that was not wanted has passed.
    BlockSkipped {
        /// What it was said to be.
        hash: Multihash,
        /// Its bytes.
        len: usize,
    },
}

/// Why a session is over. Every error is final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// The handshake failed.
    Handshake(HandshakeError),
    /// A flight, record or frame is longer than its limit, or empty.
    Length,
    /// A record does not authenticate.
    Tampered,
    /// A record is of no known kind, or holds block bytes where none were announced.
    UnexpectedRecord,
    /// A block was announced before the last one was whole.
    UnexpectedBlock,
    /// The first frame is no hello, or a later one is.
    Hello,
    /// A message cannot be read.
    Message(DecodeError),
    /// 2^64 - 1 records were sent one way, all that Noise has nonces for.
    Exhausted,
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handshake(error) => write!(f, "handshake: {error}"),
            Self::Length => f.write_str("a length is over its limit"),
            Self::Tampered => f.write_str("a record does not authenticate"),
            Self::UnexpectedRecord => f.write_str("a record that has no place here"),
            Self::UnexpectedBlock => f.write_str("a block within a block"),
            Self::Hello => f.write_str("a hello that lacks or comes again"),
            Self::Message(error) => error.fmt(f),
            Self::Exhausted => f.write_str("the session's nonces are used up"),
        }
    }
}

impl std::error::Error for SessionError {}

/// One end of a connection, without its socket.
///
/// `B` is a buffer for a block of `len` bytes, at least `len +` [`BLOCK_BUFFER_SLACK_BYTES`]
/// long: block bytes are decrypted straight into it.
///
/// ```
/// use barrow_wire::{Event, Identity, Message, Session, SessionConfig, StaticKey, Suites};
/// let keys = [1, 2].map(|n| StaticKey::generate(&Identity::from_seed([n; 32])));
/// let config = |n: usize| SessionConfig {
///     static_key: &keys[n], swarm_key: None, expected: None, suites: Suites::default(),
/// };
/// let mut dialing = Session::<Vec<u8>>::initiator(&config(0));
/// let mut dialed = Session::<Vec<u8>>::responder(&config(1));
/// dialing.send(&Message::Hello { listen_port: 4001, agent: "example/1".into() });
/// dialing.send(&Message::Ping { nonce: 7 });
/// // Three flights, then the messages.
/// let mut got = Vec::new();
/// while got.len() < 2 {
///     for side in 0..2 {
///         let (from, to) = if side == 0 {
///             (&mut dialing, &mut dialed)
///         } else {
///             (&mut dialed, &mut dialing)
///         };
///         let mut bytes = Vec::new();
///         from.transmit(&mut bytes, 1 << 16).unwrap();
///         let mut bytes = &bytes[..];
///         while let Some(event) = to.receive(&mut bytes).unwrap() {
///             if let Event::Message(message) = event {
///                 got.push(message);
///             }
///         }
///     }
/// }
/// assert_eq!(got[1], Message::Ping { nonce: 7 });
/// ```
pub struct Session<B> {
    handshake: Option<Handshake>,
    transport: Option<Box<TransportState>>,
    peer: Option<PeerId>,
    failed: Option<SessionError>,
    /// Flights of the handshake to be sent.
    flights: Vec<u8>,
    control_in: Vec<u8>,
    control_in_start: usize,
    heard_hello: bool,
    coming: Option<Coming<B>>,
    control_out: Vec<u8>,
    control_out_start: usize,
    /// What is left of the block under way, if `block_announced`, and those behind it.
    blocks_out: VecDeque<(Multihash, Bytes)>,
    block_announced: bool,
    scratch: Vec<u8>,
}

/// A block on its way in.
struct Coming<B> {
    hash: Multihash,
    len: usize,
    filled: usize,
    place: Place<B>,
}

enum Place<B> {
    Undecided,
    Buffer(B),
    Nowhere,
}

impl<B: AsMut<[u8]>> Session<B> {
    /// The end that dialed.
    pub fn initiator(config: &SessionConfig<'_>) -> Self {
        Self::begin_initiator(config, None)
    }

    /// The end that was dialed.
    pub fn responder(config: &SessionConfig<'_>) -> Self {
        Self::new(Handshake::responder(config, None))
    }

    /// [`Self::initiator`] with an ephemeral key that is not random, for test vectors. A session
    /// of this kind keeps no secrets.
    #[doc(hidden)]
    pub fn initiator_for_testing_only(config: &SessionConfig<'_>, ephemeral: &[u8; 32]) -> Self {
        Self::begin_initiator(config, Some(ephemeral))
    }

    /// [`Self::responder`] with an ephemeral key that is not random, for test vectors. A session
    /// of this kind keeps no secrets.
    #[doc(hidden)]
    pub fn responder_for_testing_only(config: &SessionConfig<'_>, ephemeral: &[u8; 32]) -> Self {
        Self::new(Handshake::responder(config, Some(ephemeral)))
    }

    fn begin_initiator(config: &SessionConfig<'_>, ephemeral: Option<&[u8; 32]>) -> Self {
        let (handshake, flight) = Handshake::initiator(config, ephemeral);
        let mut session = Self::new(handshake);
        session.put_flight(&flight);
        session
    }

    fn new(handshake: Handshake) -> Self {
        Self {
            handshake: Some(handshake),
            transport: None,
            peer: None,
            failed: None,
            flights: Vec::new(),
            control_in: Vec::new(),
            control_in_start: 0,
            heard_hello: false,
            coming: None,
            control_out: Vec::new(),
            control_out_start: 0,
            blocks_out: VecDeque::new(),
            block_announced: false,
            scratch: Vec::new(),
        }
    }

    // --- Commands ---

    /// Queues a message. It goes before block bytes that are queued.
    pub fn send(&mut self, message: &Message) {
        let start = self.control_out.len();
        self.control_out.extend([0; 4]);
        message.encode(&mut self.control_out);
        let len = self.control_out.len() - start - 4;
        assert!(len <= CONTROL_BYTES_MAX, "messages are bounded by their lists");
        self.put_frame_length(start, len);
    }

    /// Queues a block behind those queued before.
    pub fn send_block(&mut self, hash: Multihash, data: Bytes) {
        assert!(data.len() <= BLOCK_BYTES_MAX, "a block has at most {BLOCK_BYTES_MAX} bytes");
        self.blocks_out.push_back((hash, data));
    }

    /// Takes a queued block back, unless it was announced already.
    pub fn cancel_block(&mut self, hash: Multihash) -> bool {
        let first = usize::from(self.block_announced);
        let at = self.blocks_out.iter().skip(first).position(|(queued, _)| *queued == hash);
        at.is_some_and(|at| self.blocks_out.remove(first + at).is_some())
    }

    /// Gives the coming block its buffer.
    ///
    /// # Panics
    /// If no block waits for one, or the buffer is too short.
    pub fn accept_block(&mut self, mut buffer: B) {
        let coming = self.coming.as_mut().expect("a block was announced");
        assert!(matches!(coming.place, Place::Undecided), "the block has no place yet");
        assert!(buffer.as_mut().len() >= coming.len + BLOCK_BUFFER_SLACK_BYTES);
        coming.place = Place::Buffer(buffer);
    }

    /// Lets the coming block pass.
    ///
    /// # Panics
    /// If no block waits for a decision.
    pub fn skip_block(&mut self) {
        let coming = self.coming.as_mut().expect("a block was announced");
        assert!(matches!(coming.place, Place::Undecided), "the block has no place yet");
        coming.place = Place::Nowhere;
    }

    // --- Bytes in ---

    /// Takes bytes from the front of `input` until there is an event, or nothing whole is left.
    /// What is left belongs to an incomplete record: give it again with more behind it.
    ///
    /// # Errors
    /// [`SessionError`]; the same one ever after.
    ///
    /// # Panics
    /// If a block that was announced was neither accepted nor skipped.
    pub fn receive(&mut self, input: &mut &[u8]) -> Result<Option<Event<B>>, SessionError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let undecided = |coming: &Coming<B>| matches!(coming.place, Place::Undecided);
        assert!(!self.coming.as_ref().is_some_and(undecided), "a block waits for its place");
        let result = self.receive_next(input);
        if let Err(error) = result {
            self.failed = Some(error);
        }
        result
    }

    fn receive_next(&mut self, input: &mut &[u8]) -> Result<Option<Event<B>>, SessionError> {
        loop {
            if let Some(event) = self.next_event()? {
                return Ok(Some(event));
            }
            let Some((len, rest)) = input
                .split_first_chunk()
                .map(|(len, rest)| (usize::from(u16::from_be_bytes(*len)), rest))
            else {
                return Ok(None);
            };
            self.check_length(len)?;
            let Some((body, rest)) = rest.split_at_checked(len) else { return Ok(None) };
            *input = rest;
            if self.transport.is_some() {
                self.on_record(body)?;
            } else if let Some(peer) = self.on_flight(body)? {
                return Ok(Some(Event::Established { peer }));
            }
        }
    }

    fn check_length(&self, len: usize) -> Result<(), SessionError> {
        let sound = match self.transport {
            // A tag, a kind and at least one byte.
            Some(_) => len > TAG_BYTES + 1,
            None => (1..=HANDSHAKE_BYTES_MAX).contains(&len),
        };
        if sound { Ok(()) } else { Err(SessionError::Length) }
    }

    fn on_flight(&mut self, flight: &[u8]) -> Result<Option<PeerId>, SessionError> {
        let handshake = self.handshake.as_mut().expect("no transport yet, so a handshake");
        let progress = handshake.handle(flight).map_err(SessionError::Handshake)?;
        if let Some(reply) = progress.reply {
            self.put_flight(&reply);
        }
        let Some((peer, transport)) = progress.done else { return Ok(None) };
        self.handshake = None;
        self.transport = Some(transport);
        self.peer = Some(peer);
        Ok(Some(peer))
    }

    fn on_record(&mut self, ciphertext: &[u8]) -> Result<(), SessionError> {
        let transport = self.transport.as_mut().expect("checked by the caller");
        // Straight to the block's place where the whole record fits there: what follows the
        // block's bytes, the kind and the tag, is what the slack of the buffer is for.
        if let Some(coming) = &mut self.coming
            && let Place::Buffer(buffer) = &mut coming.place
            && let end = coming.len + BLOCK_BUFFER_SLACK_BYTES
            && let Some(place) = buffer.as_mut().get_mut(coming.filled..end)
            && ciphertext.len() <= place.len()
        {
            let len = decrypt(transport, ciphertext, place)?;
            let (kind, body) = place.get(..len).and_then(<[u8]>::split_last).expect("not empty");
            match *kind {
                KIND_BLOCK => coming.filled += body.len(),
                KIND_CONTROL => self.control_in.extend_from_slice(body),
                _ => return Err(SessionError::UnexpectedRecord),
            }
            return Ok(());
        }
        self.scratch.resize(ciphertext.len(), 0);
        let len = decrypt(transport, ciphertext, &mut self.scratch)?;
        let (kind, body) = self.scratch.get(..len).and_then(<[u8]>::split_last).expect("not empty");
        match (*kind, &mut self.coming) {
            (KIND_CONTROL, _) => self.control_in.extend_from_slice(body),
            (KIND_BLOCK, Some(Coming { len, filled, place: Place::Nowhere, .. }))
                if body.len() <= *len - *filled =>
            {
                *filled += body.len();
            }
            _ => return Err(SessionError::UnexpectedRecord),
        }
        self.scratch = Vec::new();
        Ok(())
    }

    /// What the bytes decrypted so far hold.
    fn next_event(&mut self) -> Result<Option<Event<B>>, SessionError> {
        if let Some(coming) = self.coming.take_if(|coming| coming.filled == coming.len) {
            let (hash, len) = (coming.hash, coming.len);
            return match coming.place {
                Place::Buffer(data) => Ok(Some(Event::Block { hash, len, data })),
                Place::Nowhere => Ok(Some(Event::BlockSkipped { hash, len })),
                Place::Undecided => unreachable!("asserted before anything is received"),
            };
        }
        let pending = self.control_in.get(self.control_in_start..).unwrap_or_default();
        let Some((len, rest)) = pending.split_first_chunk() else {
            self.trim_control();
            return Ok(None);
        };
        let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| SessionError::Length)?;
        let body_bytes = match len.checked_sub(1) {
            Some(body_bytes) if len <= CONTROL_BYTES_MAX => body_bytes,
            Some(_) | None => return Err(SessionError::Length),
        };
        if let Some(frame_type) = rest.first() {
            self.check_frame(*frame_type, body_bytes)?;
        }
        let Some(([frame_type, body @ ..], _)) = rest.split_at_checked(len) else {
            self.trim_control();
            return Ok(None);
        };
        let event = if *frame_type == kind::BLOCK {
            let (hash, len) = decode_block_frame(body).map_err(SessionError::Message)?;
            self.coming = Some(Coming { hash, len, filled: 0, place: Place::Undecided });
            Event::BlockComing { hash, len }
        } else {
            Event::Message(Message::decode(*frame_type, body).map_err(SessionError::Message)?)
        };
        self.heard_hello = true;
        self.control_in_start += 4 + len;
        Ok(Some(event))
    }

    /// Whether a frame may come at all, told by its head, before any of its body is kept.
    fn check_frame(&self, frame_type: u8, body_bytes: usize) -> Result<(), SessionError> {
        let unknown = SessionError::Message(DecodeError::Invalid);
        let body_bytes_max = body_bytes_max(frame_type).ok_or(unknown)?;
        if body_bytes > body_bytes_max {
            return Err(SessionError::Length);
        }
        if (frame_type == kind::HELLO) == self.heard_hello {
            return Err(SessionError::Hello);
        }
        if frame_type == kind::BLOCK && self.coming.is_some() {
            return Err(SessionError::UnexpectedBlock);
        }
        Ok(())
    }

    /// Lets go of the frames that were read.
    fn trim_control(&mut self) {
        if self.control_in_start == self.control_in.len() {
            self.control_in = Vec::new();
        } else {
            self.control_in.drain(..self.control_in_start);
        }
        self.control_in_start = 0;
    }

    // --- Bytes out ---

    /// Encrypts what is queued to the end of `output`, a record at a time, while fewer than
    /// `bytes_max` bytes stand there. Tells whether more is queued.
    ///
    /// # Errors
    /// What ended the session, if it is over; [`SessionError::Exhausted`] after 2^64 - 1 records.
    pub fn transmit(
        &mut self,
        output: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<bool, SessionError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if !self.flights.is_empty() {
            output.append(&mut self.flights);
        }
        while output.len() < bytes_max && self.wants_transmit() {
            self.transmit_record(output).inspect_err(|error| self.failed = Some(*error))?;
        }
        if self.blocks_out.is_empty() {
            self.scratch = Vec::new();
        }
        Ok(self.wants_transmit())
    }

    fn transmit_record(&mut self, output: &mut Vec<u8>) -> Result<(), SessionError> {
        if self.control_out.is_empty() {
            self.announce_block();
        }
        self.scratch.clear();
        if self.control_out.is_empty() {
            let (_, data) = self.blocks_out.front_mut().expect("something wants to be sent");
            let len = data.len().min(BODY_BYTES_MAX);
            self.scratch.extend_from_slice(data.get(..len).unwrap_or_default());
            self.scratch.push(KIND_BLOCK);
            data.advance(len);
        } else {
            let rest = self.control_out.get(self.control_out_start..).unwrap_or_default();
            let body = rest.get(..BODY_BYTES_MAX).unwrap_or(rest);
            self.scratch.extend_from_slice(body);
            self.scratch.push(KIND_CONTROL);
            self.control_out_start += body.len();
            if self.control_out_start == self.control_out.len() {
                (self.control_out, self.control_out_start) = (Vec::new(), 0);
            }
        }
        if self.block_announced
            && self.control_out.is_empty()
            && self.blocks_out.front().is_some_and(|(_, data)| data.is_empty())
        {
            self.blocks_out.pop_front();
            self.block_announced = false;
        }
        self.encrypt_scratch(output)
    }

    fn encrypt_scratch(&mut self, output: &mut Vec<u8>) -> Result<(), SessionError> {
        let transport = self.transport.as_mut().expect("wants_transmit looked");
        let start = output.len();
        let len = self.scratch.len() + TAG_BYTES;
        let prefix = u16::try_from(len).expect("a record has at most 65,535 bytes");
        output.resize(start + 2 + len, 0);
        let (head, record) = output.get_mut(start..).expect("just made").split_at_mut(2);
        head.copy_from_slice(&prefix.to_be_bytes());
        let written =
            transport.write_message(&self.scratch, record).map_err(|_| SessionError::Exhausted)?;
        assert!(written == len, "a record is its plaintext and a tag");
        Ok(())
    }

    /// Announces the block at the front, if it was not.
    fn announce_block(&mut self) {
        if self.block_announced {
            return;
        }
        let Some((hash, data)) = self.blocks_out.front() else { return };
        let len = u32::try_from(data.len()).expect("a block has at most 2 MiB");
        let frame_len = u32::try_from(1 + BLOCK_FRAME_BYTES).expect("a short frame");
        self.control_out.extend(frame_len.to_be_bytes());
        self.control_out.push(kind::BLOCK);
        self.control_out.extend(hash.to_bytes());
        self.control_out.extend(len.to_be_bytes());
        self.block_announced = true;
    }

    fn put_flight(&mut self, flight: &[u8]) {
        let len = u16::try_from(flight.len()).expect("flights are at most 1 KiB");
        self.flights.extend(len.to_be_bytes());
        self.flights.extend(flight);
    }

    fn put_frame_length(&mut self, start: usize, len: usize) {
        let len = u32::try_from(len).expect("at most 256 KiB");
        let place = self.control_out.get_mut(start..start + 4).expect("reserved by the caller");
        place.copy_from_slice(&len.to_be_bytes());
    }

    // --- Getters ---

    /// Whether [`Self::transmit`] has something to give.
    pub fn wants_transmit(&self) -> bool {
        let records = self.transport.is_some()
            && !(self.control_out.is_empty() && self.blocks_out.is_empty());
        self.failed.is_none() && (!self.flights.is_empty() || records)
    }

    /// Blocks queued, the one under way included.
    pub fn queued_blocks(&self) -> usize {
        self.blocks_out.len()
    }

    /// Bytes of blocks and messages queued.
    pub fn queued_bytes(&self) -> usize {
        let blocks: usize = self.blocks_out.iter().map(|(_, data)| data.len()).sum();
        blocks + self.control_out.len() - self.control_out_start
    }

    /// Whether the handshake is done.
    pub fn is_established(&self) -> bool {
        self.transport.is_some()
    }

    /// Whether a block or a frame has begun to come and lacks its end: a peer that closes then has
    /// cut it.
    pub fn is_within(&self) -> bool {
        self.coming.is_some() || self.control_in_start < self.control_in.len()
    }

    /// Who is at the other end, once the handshake is done.
    pub fn peer(&self) -> Option<PeerId> {
        self.peer
    }
}

fn decrypt(
    transport: &mut TransportState,
    ciphertext: &[u8],
    out: &mut [u8],
) -> Result<usize, SessionError> {
    transport.read_message(ciphertext, out).map_err(|_| SessionError::Tampered)
}
