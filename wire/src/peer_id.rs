//! Who a peer is: an Ed25519 key, named in libp2p's form.

use crate::multibase::{decode_base58, encode_base58};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use std::{fmt, str::FromStr};
use zeroize::Zeroizing;

/// The bytes before the key in a peer id: an identity multihash of libp2p's protobuf of an
/// Ed25519 public key (libp2p specs, "peer-ids").
const PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
/// Bytes of a text at most; it has 52.
const TEXT_BYTES_MAX: usize = 64;

/// The y coordinates of the points whose order divides 8, without the bit for the sign of x: 0, 1,
/// -1, and the two of the points of order 8. A signature under such a key binds no message.
const SMALL_ORDER_Y: [[u8; 32]; 5] = [
    [0; 32],
    with_ends(1, 0, 0),
    with_ends(0xec, 0xff, 0x7f),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
];
/// The field's prime, 2^255 - 19: y coordinates are below it.
const PRIME: [u8; 32] = with_ends(0xed, 0xff, 0x7f);

/// A number of 32 bytes, the lowest first.
const fn with_ends(lowest: u8, between: u8, highest: u8) -> [u8; 32] {
    let mut number = [between; 32];
    (number[0], number[31]) = (lowest, highest);
    number
}

/// A peer's Ed25519 public key; its text is libp2p's (`12D3KooW…`).
///
/// ```
/// use barrow_wire::PeerId;
/// let text = "12D3KooWRawPbxPtP1eZaJpumGnyWX2DcUyd3RQnydr3eAto4Az7";
/// let peer: PeerId = text.parse().unwrap();
/// assert_eq!(peer.to_string(), text);
/// assert!("12D3KooW".parse::<PeerId>().is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 32]);

impl PeerId {
    /// The peer with this Ed25519 public key.
    pub const fn from_public_key(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The Ed25519 public key.
    pub const fn public_key(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether this peer signed `message`, by rule W-11 of SPEC.md: the same answer from every
    /// implementation, for hostile keys and signatures too.
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        // ring compares the encoding of [S]B - [h]A with R, and refuses an S that is too large.
        // What it does not refuse are the keys below, under which one signature fits any message,
        // or which are a second name of another key.
        self.is_key()
            && UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }

    /// Whether the key is written the one way that a point has, and its order is not small.
    fn is_key(&self) -> bool {
        let mut y = self.0;
        y[31] &= 0x7f;
        // The lowest byte stands first, so the numbers are compared from behind.
        let below_prime = y.iter().rev().lt(PRIME.iter().rev());
        below_prime && !SMALL_ORDER_Y.contains(&y)
    }
}

/// A text that is no peer id of an Ed25519 key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerIdError;

impl fmt::Display for PeerIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a peer id (they look like 12D3KooW…)")
    }
}

impl std::error::Error for PeerIdError {}

impl FromStr for PeerId {
    type Err = PeerIdError;

    fn from_str(text: &str) -> Result<Self, PeerIdError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(PeerIdError);
        }
        let bytes = decode_base58(text).ok_or(PeerIdError)?;
        let key = bytes.strip_prefix(&PREFIX).ok_or(PeerIdError)?;
        Ok(Self(key.try_into().map_err(|_| PeerIdError)?))
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; PREFIX.len() + 32];
        let (prefix, key) = bytes.split_at_mut(PREFIX.len());
        prefix.copy_from_slice(&PREFIX);
        key.copy_from_slice(&self.0);
        f.write_str(&encode_base58(&bytes))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A node's own Ed25519 key. Only its seed is kept on disk.
///
/// ```
/// use barrow_wire::Identity;
/// let identity = Identity::from_seed([7; 32]);
/// let signature = identity.sign(b"example\0what is signed");
/// assert!(identity.peer_id().verifies(b"example\0what is signed", &signature));
/// ```
pub struct Identity {
    key: Ed25519KeyPair,
    seed: Zeroizing<[u8; 32]>,
}

impl Identity {
    /// The identity of a 32-byte seed.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let key = Ed25519KeyPair::from_seed_unchecked(&seed).expect("a seed of 32 bytes is a key");
        Self { key, seed: Zeroizing::new(seed) }
    }

    /// The secret seed, to be kept in a file of mode 0600.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The public half.
    pub fn peer_id(&self) -> PeerId {
        PeerId(self.key.public_key().as_ref().try_into().expect("Ed25519 keys have 32 bytes"))
    }

    /// Signs `message`. Callers put a domain of their own before what they sign.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).as_ref().try_into().expect("Ed25519 signatures have 64 bytes")
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.peer_id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_id_has_libp2ps_text_and_reads_back() {
        let id = Identity::from_seed([7; 32]).peer_id();
        let text = id.to_string();
        assert!(text.starts_with("12D3KooW"), "{text}");
        assert_eq!(text.parse(), Ok(id));
        assert_eq!("12D3KooW".parse::<PeerId>(), Err(PeerIdError));
    }

    #[test]
    fn every_point_of_small_order_is_refused_however_it_is_written() {
        let identity = Identity::from_seed([1; 32]);
        assert!(identity.peer_id().is_key());
        for point in curve25519_dalek::constants::EIGHT_TORSION {
            let key = point.compress().to_bytes();
            let mut other_sign = key;
            other_sign[31] ^= 0x80;
            for key in [key, other_sign] {
                assert!(!PeerId(key).is_key(), "{key:02x?}");
            }
        }
        // 2^255 - 19 is written as well as 0, and so on up to 2^255 - 1.
        for lowest in 0xed..=0xff {
            assert!(!PeerId(with_ends(lowest, 0xff, 0x7f)).is_key());
            assert!(!PeerId(with_ends(lowest, 0xff, 0xff)).is_key());
        }
        assert!(PeerId(with_ends(0xeb, 0xff, 0x7f)).is_key());
    }

    #[test]
    fn a_signature_is_of_one_peer_and_one_message() {
        let identity = Identity::from_seed([1; 32]);
        let signature = identity.sign(b"message");
        assert!(identity.peer_id().verifies(b"message", &signature));
        assert!(!identity.peer_id().verifies(b"massage", &signature));
        assert!(!Identity::from_seed([2; 32]).peer_id().verifies(b"message", &signature));
    }
}
