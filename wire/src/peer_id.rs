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

    /// Whether this peer signed `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
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
    fn a_signature_is_of_one_peer_and_one_message() {
        let identity = Identity::from_seed([1; 32]);
        let signature = identity.sign(b"message");
        assert!(identity.peer_id().verifies(b"message", &signature));
        assert!(!identity.peer_id().verifies(b"massage", &signature));
        assert!(!Identity::from_seed([2; 32]).peer_id().verifies(b"message", &signature));
    }
}
