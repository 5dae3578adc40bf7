//! The session alone: blocks encrypted on one side and decrypted on the other, without a socket.
//!
//! `cargo bench --bench session`

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a bench prints, and ends at what fails"
)]

mod common;

use barrow::wire::{
    Event, HashCode, Identity, Message, Multihash, Session, SessionConfig, StaticKey, Suites,
};
use bytes::Bytes;
use common::{Spread, file_bytes, runs, seconds};

/// Encrypted at one time: as the reactor does.
const WRITE_BYTES: usize = 64 << 10;
/// A buffer is a block and the room that a session wants behind it.
const SLACK_BYTES: usize = 64;

struct Ends {
    sender: Session<Vec<u8>>,
    receiver: Session<Vec<u8>>,
    wire: Vec<u8>,
}

impl Ends {
    fn new(suites: Suites) -> Self {
        let keys = [1, 2].map(|n| StaticKey::generate(&Identity::from_seed([n; 32])));
        let config =
            |key| SessionConfig { static_key: key, swarm_key: None, expected: None, suites };
        let mut ends = Self {
            sender: Session::initiator(&config(&keys[0])),
            receiver: Session::responder(&config(&keys[1])),
            wire: Vec::new(),
        };
        while !(ends.sender.is_established() && ends.receiver.is_established()) {
            carry(&mut ends.sender, &mut ends.receiver, &mut ends.wire);
            carry(&mut ends.receiver, &mut ends.sender, &mut ends.wire);
        }
        ends.sender.send(&Message::Hello { listen_port: 0, agent: "bench".into() });
        carry(&mut ends.sender, &mut ends.receiver, &mut ends.wire);
        ends
    }

    /// Carries what is queued over; gives the seconds of encrypting and of decrypting.
    fn carry_blocks(&mut self, block_bytes: usize) -> (f64, f64) {
        let (mut encrypting, mut decrypting) = (0.0, 0.0);
        let mut buffer = Some(vec![0; block_bytes + SLACK_BYTES]);
        while self.sender.wants_transmit() {
            self.wire.clear();
            encrypting += seconds(|| self.sender.transmit(&mut self.wire, WRITE_BYTES)).1;
            let mut input = &self.wire[..];
            decrypting += seconds(|| {
                while let Some(event) = self.receiver.receive(&mut input).unwrap() {
                    match event {
                        Event::BlockComing { .. } => {
                            self.receiver.accept_block(buffer.take().unwrap());
                        }
                        Event::Block { data, .. } => buffer = Some(data),
                        _ => {}
                    }
                }
            })
            .1;
        }
        (encrypting, decrypting)
    }
}

fn carry(from: &mut Session<Vec<u8>>, to: &mut Session<Vec<u8>>, wire: &mut Vec<u8>) {
    wire.clear();
    from.transmit(wire, usize::MAX).unwrap();
    let mut input = &wire[..];
    while to.receive(&mut input).unwrap().is_some() {}
}

fn main() {
    let block_bytes = 1 << 20;
    let data = Bytes::from(vec![7; block_bytes]);
    let hash = Multihash::of(HashCode::Sha2_256, &data);
    let suites = [
        ("AES-256-GCM", Suites { aes_gcm: true }),
        ("ChaCha20-Poly1305", Suites { aes_gcm: false }),
    ];
    for (name, suites) in suites {
        let (mut encrypt, mut decrypt) = (vec![], vec![]);
        for _ in 0..runs() {
            let mut ends = Ends::new(suites);
            let (mut encrypting, mut decrypting) = (0.0, 0.0);
            for _ in 0..file_bytes() / block_bytes as u64 {
                ends.sender.send_block(hash, data.clone());
                let (out, in_) = ends.carry_blocks(block_bytes);
                encrypting += out;
                decrypting += in_;
            }
            encrypt.push(file_bytes() as f64 / encrypting / 1e9);
            decrypt.push(file_bytes() as f64 / decrypting / 1e9);
        }
        println!("{name}: encrypt {} GB/s", Spread::of(encrypt));
        println!("{name}: decrypt {} GB/s", Spread::of(decrypt));
    }
    let handshakes = if common::is_smoke() { 10 } else { 500 };
    let ((), time) = seconds(|| {
        for _ in 0..handshakes {
            Ends::new(Suites::default());
        }
    });
    println!("handshake: {:.3} ms for both ends", time / f64::from(handshakes) * 1e3);
}
