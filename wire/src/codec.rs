//! Messages as bytes, and back. Every count and length is checked before anything is allocated.

use crate::{
    Cid, Message, Multihash, PeerAddress, PeerId, Presence, SlotState, Voucher,
    limits::{AGENT_BYTES_MAX, BLOCK_BYTES_MAX, CID_BYTES_MAX, PEER_ADDRESSES_MAX, WANTS_MAX},
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

/// Bytes of an entry of a presence list: the hash, a tag, the length.
const PRESENCE_BYTES: usize = Multihash::BYTES + 1 + 4;
/// Bytes of the shortest address: a key, a family, four bytes, a port.
const ADDRESS_BYTES_MIN: usize = 32 + 1 + 4 + 2;
/// Bytes of the longest address.
const ADDRESS_BYTES_MAX: usize = 32 + 1 + 16 + 2;

/// Bytes that the body of a frame of this type may have, so that a longer one is refused before
/// any of it is kept; `None` if there is no such type.
pub(crate) const fn body_bytes_max(frame_type: u8) -> Option<usize> {
    Some(match frame_type {
        kind::HELLO => 2 + 1 + AGENT_BYTES_MAX,
        kind::WANT_HAVE => 1 + 2 + WANTS_MAX * Multihash::BYTES,
        kind::BLOCK_PRESENCE => 8 + 2 + WANTS_MAX * PRESENCE_BYTES,
        kind::WANT_BLOCK | kind::CANCEL => 2 + WANTS_MAX * Multihash::BYTES,
        kind::BLOCK => Multihash::BYTES + 4,
        kind::PAYMENT => Voucher::BYTES,
        kind::PEER_ADDRESSES => 2 + PEER_ADDRESSES_MAX * ADDRESS_BYTES_MAX,
        kind::PING | kind::PONG => 8,
        kind::HOLD_SLOT => 1 + CID_BYTES_MAX + 2 + 2,
        kind::SLOT_HELD => 1 + CID_BYTES_MAX + 2 + 1,
        _ => return None,
    })
}

/// Reads the body of a frame that announces a block: the hash, and the bytes of the block.
pub(crate) fn decode_block_frame(body: &[u8]) -> Result<(Multihash, usize), DecodeError> {
    let mut input = Input(body);
    let hash = input.hash()?;
    let len = input.block_len()?;
    if input.0.is_empty() { Ok((hash, len)) } else { Err(DecodeError::TrailingBytes) }
}

impl Message {
    /// Appends type and body to `out`. An agent is cut at [`AGENT_BYTES_MAX`] bytes, and what is
    /// not printable ASCII in it becomes a question mark.
    ///
    /// # Panics
    /// If a list is longer than its limit, or a slot's Cid carries its bytes itself.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello { listen_port, agent } => {
                out.push(kind::HELLO);
                out.extend(listen_port.to_be_bytes());
                let len = agent.len().min(AGENT_BYTES_MAX);
                out.push(u8::try_from(len).expect("an agent has at most 64 bytes"));
                let bytes = agent.bytes().take(len);
                out.extend(bytes.map(|byte| if is_printable(byte) { byte } else { b'?' }));
            }
            Self::WantHave { inline, blocks } => {
                out.extend([kind::WANT_HAVE, u8::from(*inline)]);
                put_hashes(out, blocks);
            }
            Self::BlockPresence { price, blocks } => {
                out.push(kind::BLOCK_PRESENCE);
                out.extend(price.to_be_bytes());
                put_count(out, blocks.len(), WANTS_MAX);
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
                out.extend(voucher.to_bytes());
            }
            Self::PeerAddresses { peers } => {
                out.push(kind::PEER_ADDRESSES);
                put_count(out, peers.len(), PEER_ADDRESSES_MAX);
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
                if !agent.iter().all(|byte| is_printable(*byte)) {
                    return Err(DecodeError::Invalid);
                }
                let agent = String::from_utf8_lossy(agent).into_owned();
                Self::Hello { listen_port, agent }
            }
            kind::WANT_HAVE => Self::WantHave { inline: input.flag()?, blocks: input.hashes()? },
            kind::BLOCK_PRESENCE => {
                let price = u64::from_be_bytes(input.array()?);
                let entry = |input: &mut Input<'_>| Ok((input.hash()?, input.presence()?));
                Self::BlockPresence { price, blocks: input.list(WANTS_MAX, PRESENCE_BYTES, entry)? }
            }
            kind::WANT_BLOCK => Self::WantBlock { blocks: input.hashes()? },
            kind::CANCEL => Self::Cancel { blocks: input.hashes()? },
            kind::PAYMENT => Self::Payment { voucher: Voucher::from_bytes(&input.array()?) },
            kind::PEER_ADDRESSES => {
                let peers = input.list(PEER_ADDRESSES_MAX, ADDRESS_BYTES_MIN, Input::address)?;
                Self::PeerAddresses { peers }
            }
            kind::PING => Self::Ping { nonce: u64::from_be_bytes(input.array()?) },
            kind::PONG => Self::Pong { nonce: u64::from_be_bytes(input.array()?) },
            kind::HOLD_SLOT => {
                let manifest = input.cid()?;
                let index = u16::from_be_bytes(input.array()?);
                let slots = u16::from_be_bytes(input.array()?);
                if index >= slots {
                    return Err(DecodeError::Invalid);
                }
                Self::HoldSlot { manifest, index, slots }
            }
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

fn is_printable(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte)
}

fn put_count(out: &mut Vec<u8>, count: usize, max: usize) {
    assert!(count <= max, "a list of {count} is over its limit of {max}");
    out.extend(u16::try_from(count).expect("lists are at most 1,024 long").to_be_bytes());
}

fn put_hashes(out: &mut Vec<u8>, hashes: &[Multihash]) {
    put_count(out, hashes.len(), WANTS_MAX);
    for hash in hashes {
        out.extend(hash.to_bytes());
    }
}

fn put_cid(out: &mut Vec<u8>, cid: &Cid) {
    let bytes = cid.to_bytes();
    assert!(cid.identity().is_none(), "an identity CID names no block");
    assert!(bytes.len() <= CID_BYTES_MAX, "a CID of a 32-byte digest has at most 44 bytes");
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

    /// At most `max` entries of at least `entry_bytes` each, which must all be there before room
    /// is made for them, once.
    fn list<T>(
        &mut self,
        max: usize,
        entry_bytes: usize,
        entry: impl Fn(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = usize::from(u16::from_be_bytes(self.array()?));
        if count > max {
            return Err(DecodeError::OverLimit);
        }
        if self.0.len() < count.saturating_mul(entry_bytes) {
            return Err(DecodeError::Truncated);
        }
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(entry(self)?);
        }
        Ok(list)
    }

    fn hash(&mut self) -> Result<Multihash, DecodeError> {
        Multihash::from_bytes(&self.array()?).map_err(|_| DecodeError::Invalid)
    }

    fn hashes(&mut self) -> Result<Vec<Multihash>, DecodeError> {
        self.list(WANTS_MAX, Multihash::BYTES, Self::hash)
    }

    fn block_len(&mut self) -> Result<usize, DecodeError> {
        let len = u32::from_be_bytes(self.array()?);
        match usize::try_from(len) {
            Ok(len) if len <= BLOCK_BYTES_MAX => Ok(len),
            Ok(_) | Err(_) => Err(DecodeError::OverLimit),
        }
    }

    fn presence(&mut self) -> Result<Presence, DecodeError> {
        let tag = self.byte()?;
        let len = u32::try_from(self.block_len()?).expect("a block has at most 2 MiB");
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
