//! Peers that speak the protocol and lie, over the crate's own sessions.

use barrow::wire::{
    Event, HashCode, Identity, Message, Multihash, PeerId, Presence, Session, SessionConfig,
    StaticKey, Suites, limits::WANTS_MAX,
};
use bytes::Bytes;
use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
};

/// What a hostile peer does once it is asked for a block that it said it has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Malice {
    /// Sends other bytes of the right length.
    WrongBytes,
    /// Sends half of it, and closes.
    CutBlock,
    /// Sends nothing any more.
    Stalls,
    /// Wants more blocks at one time than may be.
    Floods,
    /// Says of every block that it is shorter than it is.
    WrongLength,
}

pub const ALL: [Malice; 5] =
    [Malice::WrongBytes, Malice::CutBlock, Malice::Stalls, Malice::Floods, Malice::WrongLength];

/// Starts a hostile peer that claims to have these blocks, of these lengths; gives its id and
/// address.
pub fn start(malice: Malice, blocks: HashMap<Multihash, u32>) -> (PeerId, String) {
    let identity = Identity::from_seed([malice as u8 + 100; 32]);
    let peer = identity.peer_id();
    let key = StaticKey::generate(&identity);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        // It comes back as often as it is let in, within reason.
        for stream in listener.incoming().flatten().take(100) {
            let config = SessionConfig {
                static_key: &key,
                swarm_key: None,
                expected: None,
                suites: Suites::default(),
            };
            let session = Session::responder(&config);
            let _ = Hostile { malice, blocks: &blocks, stream, session }.run();
        }
    });
    (peer, address)
}

struct Hostile<'a> {
    malice: Malice,
    blocks: &'a HashMap<Multihash, u32>,
    stream: TcpStream,
    session: Session<Vec<u8>>,
}

impl Hostile<'_> {
    fn run(mut self) -> std::io::Result<()> {
        let mut input = vec![0; 64 << 10];
        loop {
            let read = self.stream.read(&mut input)?;
            if read == 0 {
                return Ok(());
            }
            let mut rest = &input[..read];
            while let Ok(Some(event)) = self.session.receive(&mut rest) {
                if !self.answer(event)? {
                    return Ok(());
                }
            }
            self.flush(usize::MAX)?;
        }
    }

    /// `false` to close.
    fn answer(&mut self, event: Event<Vec<u8>>) -> std::io::Result<bool> {
        match event {
            Event::Established { .. } => {
                self.session.send(&Message::Hello { listen_port: 0, agent: "hostile".into() });
            }
            Event::Message(Message::WantHave { blocks, .. }) => {
                let short = u32::from(self.malice == Malice::WrongLength);
                let presence = |hash| match self.blocks.get(&hash) {
                    Some(&len) => (hash, Presence::Complete { len: len - short }),
                    None => (hash, Presence::DontHave),
                };
                let blocks = blocks.into_iter().map(presence).collect();
                self.session.send(&Message::BlockPresence { price: 0, blocks });
            }
            Event::Message(Message::WantBlock { blocks }) => return self.deliver(&blocks),
            Event::Message(Message::Ping { nonce }) => self.session.send(&Message::Pong { nonce }),
            _ => {}
        }
        Ok(true)
    }

    fn deliver(&mut self, wanted: &[Multihash]) -> std::io::Result<bool> {
        for hash in wanted {
            let len = self.blocks[hash] as usize;
            match self.malice {
                Malice::WrongBytes => self.session.send_block(*hash, vec![0; len].into()),
                Malice::WrongLength => {
                    self.session.send_block(*hash, Bytes::from(vec![0; len + 1]));
                }
                Malice::Stalls => {}
                Malice::CutBlock => {
                    self.session.send_block(*hash, vec![0; len].into());
                    self.flush(len / 2)?;
                    return Ok(false);
                }
                Malice::Floods => {
                    for n in 0..8_u8 {
                        let name = |at: usize| {
                            Multihash::of(HashCode::Sha2_256, &[hash.to_bytes()[1], n, at as u8])
                        };
                        let blocks = (0..WANTS_MAX).map(name).collect();
                        self.session.send(&Message::WantBlock { blocks });
                    }
                }
            }
        }
        Ok(true)
    }

    /// Sends up to about `bytes_max` of what is queued.
    fn flush(&mut self, bytes_max: usize) -> std::io::Result<()> {
        let mut output = Vec::new();
        let mut sent = 0;
        while sent < bytes_max && self.session.wants_transmit() {
            output.clear();
            let _ = self.session.transmit(&mut output, 64 << 10);
            self.stream.write_all(&output)?;
            sent += output.len();
        }
        Ok(())
    }
}
