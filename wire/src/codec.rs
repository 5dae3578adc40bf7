//! Messages as bytes, and back. Every count and length is checked before anything is allocated.

use crate::{
    Cid, Message, Multihash, PeerAddress, PeerId, Presence, SlotState, Voucher,
    limits::{BLOCK_BYTES_MAX, CID_BYTES_MAX, PEER_ADDRESSES_MAX, WANTS_MAX},
};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Why the body of a frame is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// It ends before its message does.
    Truncated,
    /// Something stands behind the message.
    TrailingBytes,
    /// A count or a length is over its limit.
    OverLimit,
    /// A type, tag, hash, text or address that SPEC.md does not know.
    Invalid,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "a message is cut short",
            Self::TrailingBytes => "bytes stand behind a message",
            Self::OverLimit => "a count or length in a message is over its limit",
            Self::Invalid => "a message holds something unknown",
        })
    }
}

impl std::error::Error for DecodeError {}

/// Bytes of an agent text at most.
pub const AGENT_BYTES_MAX: usize = 64;

/// Types of frames.
pub(crate) mod kind {
    pub(crate) const HELLO: u8 = 0x01;
    pub(crate) const WANT_HAVE: u8 = 0x02;
    pub(crate) const BLOCK_PRESENCE: u8 = 0x03;
    pub(crate) const WANT_BLOCK: u8 = 0x04;
    pub(crate) const BLOCK: u8 = 0x05;
    pub(crate) const CANCEL: u8 = 0x06;
    pub(crate) const PAYMENT: u8 = 0x07;
    pub(crate) const PEER_ADDRESSES: u8 = 0x08;
    pub(crate) const PING: u8 = 0x09;
    pub(crate) const PONG: u8 = 0x0a;
    pub(crate) const HOLD_SLOT: u8 = 0x0b;
    pub(crate) const SLOT_HELD: u8 = 0x0c;
}

impl Message {
    /// Appends type and body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello { listen_port, agent } => {
                out.push(kind::HELLO);
                out.extend(listen_port.to_be_bytes());
                let agent = agent.as_bytes();
                let agent = agent.get(..AGENT_BYTES_MAX).unwrap_or(agent);
                out.push(u8::try_from(agent.len()).expect("an agent has at most 64 bytes"));
                out.extend(agent);
            }
            Self::WantHave { inline, blocks } => {
                out.extend([kind::WANT_HAVE, u8::from(*inline)]);
                put_hashes(out, blocks);
            }
            Self::BlockPresence { price, blocks } => {
                out.push(kind::BLOCK_PRESENCE);
                out.extend(price.to_be_bytes());
                put_count(out, blocks.len());
                for (hash, presence) in blocks {
                    out.extend(hash.to_bytes());
                    let (tag, len) = match *presence {
                        Presence::DontHave => (0_u8, 0),
                        Presence::Have { len } => (1, len),
                        Presence::Complete { len } => (2, len),
                    };
                    out.push(tag);
                    out.extend(len.to_be_bytes());
                }
            }
            Self::WantBlock { blocks } => {
                out.push(kind::WANT_BLOCK);
                put_hashes(out, blocks);
            }
            Self::Cancel { blocks } => {
                out.push(kind::CANCEL);
                put_hashes(out, blocks);
            }
            Self::Payment { voucher } => {
                out.push(kind::PAYMENT);
                out.extend(voucher.payer.public_key());
                out.extend(voucher.payee.public_key());
                out.extend(voucher.sequence.to_be_bytes());
                out.extend(voucher.total.to_be_bytes());
                out.extend(voucher.signature);
            }
            Self::PeerAddresses { peers } => {
                out.push(kind::PEER_ADDRESSES);
                put_count(out, peers.len());
                for peer in peers {
                    put_address(out, peer);
                }
            }
            Self::Ping { nonce } => {
                out.push(kind::PING);
                out.extend(nonce.to_be_bytes());
            }
            Self::Pong { nonce } => {
                out.push(kind::PONG);
                out.extend(nonce.to_be_bytes());
            }
            Self::HoldSlot { manifest, index, slots } => {
                out.push(kind::HOLD_SLOT);
                put_cid(out, manifest);
                out.extend(index.to_be_bytes());
                out.extend(slots.to_be_bytes());
            }
            Self::SlotHeld { manifest, index, state } => {
                out.push(kind::SLOT_HELD);
                put_cid(out, manifest);
                out.extend(index.to_be_bytes());
                out.push(match state {
                    SlotState::Refused => 0,
                    SlotState::Fetching => 1,
                    SlotState::Held => 2,
                    SlotState::Failed => 3,
                });
            }
        }
    }

    /// Reads a message of type `frame_type` that fills `body` exactly.
    ///
    /// # Errors
    /// As [`DecodeError`] says. Nothing is allocated beyond twice the bytes of `body`.
    pub fn decode(frame_type: u8, body: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Input(body);
        let message = match frame_type {
            kind::HELLO => {
                let listen_port = u16::from_be_bytes(input.array()?);
                let len = input.byte()?.into();
                if len > AGENT_BYTES_MAX {
                    return Err(DecodeError::OverLimit);
                }
                let agent = input.take(len)?;
                if !agent.iter().all(|byte| (b' '..=b'~').contains(byte)) {
                    return Err(DecodeError::Invalid);
                }
                let agent = String::from_utf8_lossy(agent).into_owned();
                Self::Hello { listen_port, agent }
            }
            kind::WANT_HAVE => Self::WantHave { inline: input.flag()?, blocks: input.hashes()? },
            kind::BLOCK_PRESENCE => {
                let price = u64::from_be_bytes(input.array()?);
                let count = input.count(WANTS_MAX, Multihash::BYTES + 5)?;
                let entries = (0..count).map(|_| Ok((input.hash()?, input.presence()?)));
                Self::BlockPresence { price, blocks: entries.collect::<Result<_, _>>()? }
            }
            kind::WANT_BLOCK => Self::WantBlock { blocks: input.hashes()? },
            kind::CANCEL => Self::Cancel { blocks: input.hashes()? },
            kind::PAYMENT => Self::Payment {
                voucher: Voucher {
                    payer: PeerId::from_public_key(input.array()?),
                    payee: PeerId::from_public_key(input.array()?),
                    sequence: u64::from_be_bytes(input.array()?),
                    total: u64::from_be_bytes(input.array()?),
                    signature: input.array()?,
                },
            },
            kind::PEER_ADDRESSES => {
                // The shortest entry: a key, a family, four bytes, a port.
                let count = input.count(PEER_ADDRESSES_MAX, 32 + 1 + 4 + 2)?;
                let peers = (0..count).map(|_| input.address()).collect::<Result<_, _>>()?;
                Self::PeerAddresses { peers }
            }
            kind::PING => Self::Ping { nonce: u64::from_be_bytes(input.array()?) },
            kind::PONG => Self::Pong { nonce: u64::from_be_bytes(input.array()?) },
            kind::HOLD_SLOT => Self::HoldSlot {
                manifest: input.cid()?,
                index: u16::from_be_bytes(input.array()?),
                slots: u16::from_be_bytes(input.array()?),
            },
            kind::SLOT_HELD => Self::SlotHeld {
                manifest: input.cid()?,
                index: u16::from_be_bytes(input.array()?),
                state: match input.byte()? {
                    0 => SlotState::Refused,
                    1 => SlotState::Fetching,
                    2 => SlotState::Held,
                    3 => SlotState::Failed,
                    _ => return Err(DecodeError::Invalid),
                },
            },
            _ => return Err(DecodeError::Invalid),
        };
        if input.0.is_empty() { Ok(message) } else { Err(DecodeError::TrailingBytes) }
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend(u16::try_from(count).expect("lists are at most 1,024 long").to_be_bytes());
}

fn put_hashes(out: &mut Vec<u8>, hashes: &[Multihash]) {
    assert!(hashes.len() <= WANTS_MAX, "a list of wants is at most {WANTS_MAX} long");
    put_count(out, hashes.len());
    for hash in hashes {
        out.extend(hash.to_bytes());
    }
}

fn put_cid(out: &mut Vec<u8>, cid: &Cid) {
    let bytes = cid.to_bytes();
    assert!(bytes.len() <= CID_BYTES_MAX, "an identity CID names no block");
    out.push(u8::try_from(bytes.len()).expect("a CID has at most 64 bytes"));
    out.extend(bytes);
}

fn put_address(out: &mut Vec<u8>, peer: &PeerAddress) {
    out.extend(peer.peer.public_key());
    match peer.address.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend(ip.octets());
        }
    }
    out.extend(peer.address.port().to_be_bytes());
}

/// What is left of a body.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid),
        }
    }

    /// A count of entries of at least `entry_bytes` each, which must all be there.
    fn count(&mut self, max: usize, entry_bytes: usize) -> Result<usize, DecodeError> {
        let count = usize::from(u16::from_be_bytes(self.array()?));
        if count > max {
            return Err(DecodeError::OverLimit);
        }
        if self.0.len() < count.saturating_mul(entry_bytes) {
            return Err(DecodeError::Truncated);
        }
        Ok(count)
    }

    fn hash(&mut self) -> Result<Multihash, DecodeError> {
        Multihash::from_bytes(&self.array()?).map_err(|_| DecodeError::Invalid)
    }

    fn hashes(&mut self) -> Result<Vec<Multihash>, DecodeError> {
        let count = self.count(WANTS_MAX, Multihash::BYTES)?;
        (0..count).map(|_| self.hash()).collect()
    }

    fn presence(&mut self) -> Result<Presence, DecodeError> {
        let tag = self.byte()?;
        let len = u32::from_be_bytes(self.array()?);
        if usize::try_from(len).map_or(true, |len| len > BLOCK_BYTES_MAX) {
            return Err(DecodeError::OverLimit);
        }
        match (tag, len) {
            (0, 0) => Ok(Presence::DontHave),
            (1, len) => Ok(Presence::Have { len }),
            (2, len) => Ok(Presence::Complete { len }),
            _ => Err(DecodeError::Invalid),
        }
    }

    fn address(&mut self) -> Result<PeerAddress, DecodeError> {
        let peer = PeerId::from_public_key(self.array()?);
        let ip: IpAddr = match self.byte()? {
            4 => Ipv4Addr::from(self.array::<4>()?).into(),
            6 => Ipv6Addr::from(self.array::<16>()?).into(),
            _ => return Err(DecodeError::Invalid),
        };
        let port = u16::from_be_bytes(self.array()?);
        Ok(PeerAddress { peer, address: SocketAddr::new(ip, port) })
    }

    fn cid(&mut self) -> Result<Cid, DecodeError> {
        let len = self.byte()?.into();
        if len > CID_BYTES_MAX {
            return Err(DecodeError::OverLimit);
        }
        let cid = Cid::from_bytes(self.take(len)?).map_err(|_| DecodeError::Invalid)?;
        if cid.multihash().is_some() { Ok(cid) } else { Err(DecodeError::Invalid) }
    }
}
