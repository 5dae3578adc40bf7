//! What the tests of the wire share: a peer made of snow alone, by SPEC.md, and a recording of
//! what a session tells.

#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]

use barrow_wire::{
    DecodeError, Event, HandshakeError, Identity, Message, Multihash, PeerId, Session,
    SessionConfig, SessionError, StaticKey, Suites, limits::BLOCK_BUFFER_SLACK_BYTES,
};
use snow::{Builder, TransportState};

/// The kinds of records.
pub const CONTROL: u8 = 0;
pub const BLOCK: u8 = 1;

/// What a session told, without the buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Established(PeerId),
    Message(Message),
    Coming(Multihash, usize),
    Block(Multihash, Vec<u8>),
    Skipped(Multihash, usize),
}

/// A session with the bytes that it left over.
pub struct End {
    pub session: Session<Vec<u8>>,
    pub seen: Vec<Seen>,
    pub skips_blocks: bool,
    input: Vec<u8>,
}

impl End {
    pub fn new(session: Session<Vec<u8>>) -> Self {
        Self { session, seen: Vec::new(), skips_blocks: false, input: Vec::new() }
    }

    /// Takes one more read, and tells how it went.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        self.input.extend_from_slice(bytes);
        let mut rest = &self.input[..];
        let result = loop {
            match self.session.receive(&mut rest) {
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
                Ok(Some(event)) => {
                    let seen = see(event);
                    if let Seen::Coming(_, len) = seen {
                        if self.skips_blocks {
                            self.session.skip_block();
                        } else {
                            self.session.accept_block(vec![0xee; len + BLOCK_BUFFER_SLACK_BYTES]);
                        }
                    }
                    self.seen.push(seen);
                }
            }
        };
        let left = rest.len();
        self.input.drain(..self.input.len() - left);
        result
    }

    /// All that it wants to send.
    pub fn take_output(&mut self) -> Vec<u8> {
        let mut output = Vec::new();
        while self.session.transmit(&mut output, usize::MAX).unwrap() {}
        output
    }
}

fn see(event: Event<Vec<u8>>) -> Seen {
    match event {
        Event::Established { peer } => Seen::Established(peer),
        Event::Message(message) => Seen::Message(message),
        Event::BlockComing { hash, len } => Seen::Coming(hash, len),
        Event::Block { hash, len, data } => Seen::Block(hash, data[..len].to_vec()),
        Event::BlockSkipped { hash, len } => Seen::Skipped(hash, len),
    }
}

/// SPEC.md's name of an error.
pub fn class(error: SessionError) -> &'static str {
    match error {
        SessionError::Handshake(HandshakeError::Malformed) => "handshake.malformed",
        SessionError::Handshake(HandshakeError::NoSuite) => "handshake.no_suite",
        SessionError::Handshake(HandshakeError::Noise) => "handshake.noise",
        SessionError::Handshake(HandshakeError::Signature) => "handshake.signature",
        SessionError::Handshake(HandshakeError::WrongPeer) => "handshake.wrong_peer",
        SessionError::Handshake(HandshakeError::OurselvesDialed) => "handshake.ourselves",
        SessionError::Length => "length",
        SessionError::Tampered => "tampered",
        SessionError::UnexpectedRecord => "unexpected_record",
        SessionError::UnexpectedBlock => "unexpected_block",
        SessionError::Hello => "hello",
        SessionError::Message(error) => message_class(error),
        SessionError::Exhausted => "exhausted",
    }
}

/// SPEC.md's name of an error of a message.
pub fn message_class(error: DecodeError) -> &'static str {
    match error {
        DecodeError::Truncated => "message.truncated",
        DecodeError::TrailingBytes => "message.trailing_bytes",
        DecodeError::OverLimit => "message.over_limit",
        DecodeError::Invalid => "message.invalid",
    }
}

/// The peer at the other end of a [`RawPeer`].
pub fn session_identity() -> Identity {
    Identity::from_seed([2; 32])
}

/// The first message of all.
pub fn hello() -> Message {
    Message::Hello { listen_port: 4001, agent: "barrow/1".into() }
}

/// A frame around a type and a body.
pub fn frame(type_and_body: &[u8]) -> Vec<u8> {
    [&u32::try_from(type_and_body.len()).unwrap().to_be_bytes()[..], type_and_body].concat()
}

/// The frame of a message.
pub fn frame_of(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    frame(&bytes)
}

/// A peer that says what it likes, in records that authenticate.
pub struct RawPeer(TransportState);

impl RawPeer {
    /// Dials a new session by the letter of SPEC.md. Keys are fixed, so that the same bytes
    /// always lead to the same state.
    pub fn dial(suite: u8) -> (Self, End) {
        let identity = session_identity();
        let key = StaticKey::from_private_for_testing_only(&identity, [0x12; 32]);
        let config = SessionConfig {
            static_key: &key,
            swarm_key: None,
            expected: None,
            suites: Suites { aes_gcm: true },
        };
        let mut end = End::new(Session::responder_for_testing_only(&config, &[0x22; 32]));
        let ours = Identity::from_seed([1; 32]);
        let name = match suite {
            1 => "Noise_XX_25519_ChaChaPoly_SHA256",
            _ => "Noise_XX_25519_AESGCM_SHA256",
        };
        let prologue = [&b"barrow/1"[..], &[suite]].concat();
        let mut noise = Builder::new(name.parse().unwrap())
            .local_private_key(&[0x11; 32])
            .unwrap()
            .prologue(&prologue)
            .unwrap()
            .fixed_ephemeral_key_for_testing_only(&[0x21; 32])
            .build_initiator()
            .unwrap();
        let mut buffer = [0; 1024];
        let len = noise.write_message(&[], &mut buffer).unwrap();
        let offer = [&[1, 1, suite, u8::try_from(len).unwrap()], &buffer[..len]].concat();
        end.feed(&prefixed(&offer)).unwrap();
        let answer = end.take_output();
        assert_eq!(answer[2], suite);
        let mut payload = [0; 1024];
        let len = noise.read_message(&answer[3..], &mut payload).unwrap();
        assert_eq!((len, &payload[..32]), (128, &identity.peer_id().public_key()[..]));
        let signed = [&b"barrow noise static key\0"[..], &public_of([0x11; 32])].concat();
        let payload = [&ours.peer_id().public_key()[..], &ours.sign(&signed)].concat();
        let len = noise.write_message(&payload, &mut buffer).unwrap();
        end.feed(&prefixed(&buffer[..len])).unwrap();
        assert_eq!(end.seen, [Seen::Established(ours.peer_id())]);
        end.seen.clear();
        (Self(noise.into_transport_mode().unwrap()), end)
    }

    /// A record of these bytes and this kind.
    pub fn record(&mut self, body: &[u8], kind: u8) -> Vec<u8> {
        self.seal(&[body, &[kind]].concat())
    }

    /// A record of any plaintext.
    pub fn seal(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let mut record = vec![0; plaintext.len() + 16];
        let len = self.0.write_message(plaintext, &mut record).unwrap();
        prefixed(&record[..len])
    }

    /// The plaintexts of whole records.
    pub fn open(&mut self, mut records: &[u8]) -> Vec<Vec<u8>> {
        let mut plaintexts = Vec::new();
        while let Some((len, rest)) = records.split_first_chunk() {
            let (record, rest) = rest.split_at(usize::from(u16::from_be_bytes(*len)));
            let mut plaintext = vec![0; record.len()];
            let len = self.0.read_message(record, &mut plaintext).unwrap();
            plaintext.truncate(len);
            plaintexts.push(plaintext);
            records = rest;
        }
        plaintexts
    }
}

/// u16 length, then the bytes.
pub fn prefixed(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// The public half of an X25519 key.
fn public_of(private: [u8; 32]) -> Vec<u8> {
    use snow::resolvers::{CryptoResolver as _, DefaultResolver};
    let curve = snow::params::DHChoice::Curve25519;
    let mut key = DefaultResolver.resolve_dh(&curve).unwrap();
    key.set(&private);
    key.pubkey().to_vec()
}
