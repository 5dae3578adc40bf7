//! Content identifiers, read strictly.

use crate::limits::{CID_BYTES_MAX, IDENTITY_BYTES_MAX};
use std::{fmt, str::FromStr};

/// The hash functions that a stored block may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum HashCode {
    /// SHA-256, multihash code 0x12.
    Sha2_256 = 0x12,
    /// BLAKE3 with 32 bytes, multihash code 0x1e.
    Blake3 = 0x1e,
}

/// What names a block on the wire and in the store: a hash function and its 32-byte digest.
///
/// CIDv0, CIDv1 and every multibase of one hash share it, so they are one block.
///
/// ```
/// use barrow_wire::{HashCode, Multihash};
/// let hash = Multihash::of(HashCode::Sha2_256, b"hello world");
/// assert!(hash.verifies(b"hello world"));
/// assert!(!hash.verifies(b"hello worlds"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Multihash {
    code: HashCode,
    digest: [u8; 32],
}

impl Multihash {
    /// Bytes of its form on the wire and in packs: one byte of code, then the digest.
    pub const BYTES: usize = 33;

    /// Hashes `data`.
    pub fn of(code: HashCode, data: &[u8]) -> Self {
        let digest = match code {
            HashCode::Sha2_256 => <sha2::Sha256 as sha2::Digest>::digest(data).into(),
            HashCode::Blake3 => blake3::hash(data).into(),
        };
        Self { code, digest }
    }

    /// Names a digest computed elsewhere.
    pub const fn new(code: HashCode, digest: [u8; 32]) -> Self {
        Self { code, digest }
    }

    /// The hash function.
    pub const fn code(&self) -> HashCode {
        self.code
    }

    /// The digest.
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Whether `data` has this hash.
    pub fn verifies(&self, data: &[u8]) -> bool {
        Self::of(self.code, data) == *self
    }

    /// The form of [`Self::BYTES`] bytes.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0] = self.code as u8;
        bytes[1..].copy_from_slice(&self.digest);
        bytes
    }

    /// Reads the form of [`Self::BYTES`] bytes.
    ///
    /// # Errors
    /// [`CidError::Hash`] if the code is none of [`HashCode`].
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Result<Self, CidError> {
        let [code, digest @ ..] = bytes;
        let code = match code {
            0x12 => HashCode::Sha2_256,
            0x1e => HashCode::Blake3,
            _ => return Err(CidError::Hash),
        };
        Ok(Self { code, digest: *digest })
    }
}

impl fmt::Debug for Multihash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.digest;
        write!(f, "{:?}:{a:02x}{b:02x}{c:02x}{d:02x}", self.code)
    }
}

/// The codecs that barrow can walk; any other names bytes without links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// Bytes alone, 0x55.
    Raw,
    /// Protobuf nodes of UnixFS, 0x70.
    DagPb,
    /// DAG-CBOR, 0x71.
    DagCbor,
    /// DAG-JSON, 0x0129.
    DagJson,
    /// Any other code of the multicodec table.
    Other(u64),
}

impl Codec {
    /// The multicodec code.
    pub const fn code(self) -> u64 {
        match self {
            Self::Raw => 0x55,
            Self::DagPb => 0x70,
            Self::DagCbor => 0x71,
            Self::DagJson => 0x0129,
            Self::Other(code) => code,
        }
    }

    /// The codec of a multicodec code.
    pub const fn from_code(code: u64) -> Self {
        match code {
            0x55 => Self::Raw,
            0x70 => Self::DagPb,
            0x71 => Self::DagCbor,
            0x0129 => Self::DagJson,
            other => Self::Other(other),
        }
    }
}

/// Why a text or some bytes are no CID that barrow takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CidError {
    /// Not a CID at all.
    Malformed,
    /// Longer than [`CID_BYTES_MAX`], or an identity CID of over [`IDENTITY_BYTES_MAX`] bytes.
    TooLong,
    /// A hash function that is not accepted, or a digest that is not 32 bytes long.
    Hash,
}

impl fmt::Display for CidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not a CID",
            Self::TooLong => "the CID is too long",
            Self::Hash => "the CID's hash is neither sha2-256 nor blake3 with 32 bytes",
        })
    }
}

impl std::error::Error for CidError {}

/// A content identifier: of a stored block, or an identity CID that carries its bytes itself.
///
/// ```
/// use barrow_wire::Cid;
/// let cid: Cid = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e".parse().unwrap();
/// assert!(cid.multihash().unwrap().verifies(b"hello world"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cid(cid::CidGeneric<IDENTITY_BYTES_MAX>);

impl Cid {
    /// A CIDv1.
    pub fn v1(codec: Codec, hash: Multihash) -> Self {
        Self(cid::CidGeneric::new_v1(codec.code(), wrap(hash.code as u64, &hash.digest)))
    }

    /// A CIDv0: dag-pb and sha2-256.
    ///
    /// # Errors
    /// [`CidError::Hash`] if `hash` is not sha2-256.
    pub fn v0(hash: Multihash) -> Result<Self, CidError> {
        cid::CidGeneric::new_v0(wrap(hash.code as u64, &hash.digest))
            .map(Self)
            .map_err(|_| CidError::Hash)
    }

    /// Reads a binary CID that fills `bytes` exactly.
    ///
    /// # Errors
    /// As [`CidError`] says.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CidError> {
        let (cid, rest) = Self::read(bytes)?;
        if rest.is_empty() { Ok(cid) } else { Err(CidError::Malformed) }
    }

    /// Reads a binary CID from the start of `bytes`, and gives the rest.
    ///
    /// # Errors
    /// As [`CidError`] says.
    pub fn read(bytes: &[u8]) -> Result<(Self, &[u8]), CidError> {
        let mut rest = bytes;
        let cid = cid::CidGeneric::read_bytes(&mut rest).map_err(|_| CidError::Malformed)?;
        Ok((Self::checked(cid)?, rest))
    }

    fn checked(cid: cid::CidGeneric<IDENTITY_BYTES_MAX>) -> Result<Self, CidError> {
        let hash = cid.hash();
        match (hash.code(), hash.digest().len()) {
            (0x12 | 0x1e, 32) if cid.encoded_len() <= CID_BYTES_MAX => Ok(Self(cid)),
            (0x12 | 0x1e, 32) => Err(CidError::TooLong),
            (0x00, 0..=IDENTITY_BYTES_MAX) => Ok(Self(cid)),
            (0x00, _) => Err(CidError::TooLong),
            _ => Err(CidError::Hash),
        }
    }

    /// The codec.
    pub fn codec(&self) -> Codec {
        Codec::from_code(self.0.codec())
    }

    /// What names the block, or `None` for an identity CID.
    pub fn multihash(&self) -> Option<Multihash> {
        let digest: &[u8; 32] = self.0.hash().digest().try_into().ok()?;
        let code = match self.0.hash().code() {
            0x12 => HashCode::Sha2_256,
            0x1e => HashCode::Blake3,
            _ => return None,
        };
        Some(Multihash { code, digest: *digest })
    }

    /// The bytes that an identity CID carries.
    pub fn identity(&self) -> Option<&[u8]> {
        (self.0.hash().code() == 0x00).then(|| self.0.hash().digest())
    }

    /// Whether it is a CIDv0.
    pub fn is_v0(&self) -> bool {
        self.0.version() == cid::Version::V0
    }

    /// The same content as a CIDv1.
    pub fn to_v1(self) -> Self {
        Self(cid::CidGeneric::new_v1(self.0.codec(), *self.0.hash()))
    }

    /// The binary form.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_bytes()
    }
}

fn wrap(code: u64, digest: &[u8; 32]) -> cid::multihash::Multihash<IDENTITY_BYTES_MAX> {
    cid::multihash::Multihash::wrap(code, digest).expect("32 bytes fit a multihash of 128")
}

impl FromStr for Cid {
    type Err = CidError;

    /// Reads a CIDv0 or a CIDv1 in any multibase; nothing may stand around it.
    fn from_str(text: &str) -> Result<Self, CidError> {
        // The cid crate looks for "/ipfs/" inside the text; a CID holds no slash.
        if text.len() > 2 * (IDENTITY_BYTES_MAX + CID_BYTES_MAX) * 8 || text.contains('/') {
            return Err(CidError::Malformed);
        }
        Self::checked(cid::CidGeneric::try_from(text).map_err(|_| CidError::Malformed)?)
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";

    #[test]
    fn one_hash_is_one_block_in_every_version_and_base() {
        let cid: Cid = HELLO.parse().unwrap();
        let hash = cid.multihash().unwrap();
        assert_eq!(Cid::v1(Codec::Raw, hash).to_string(), HELLO);
        let v0 = Cid::v0(hash).unwrap();
        assert_eq!(v0.to_string().parse::<Cid>().unwrap().multihash(), Some(hash));
        assert_eq!(v0.to_v1().codec(), Codec::DagPb);
    }

    #[test]
    fn a_truncated_digest_is_refused() {
        let mut bytes = vec![1, 0x55, 0x12, 20];
        bytes.extend([7; 20]);
        assert_eq!(Cid::from_bytes(&bytes), Err(CidError::Hash));
    }

    #[test]
    fn nothing_may_stand_around_a_cid() {
        assert_eq!(format!("junk/ipfs/{HELLO}").parse::<Cid>(), Err(CidError::Malformed));
        assert_eq!(format!("{HELLO} ").parse::<Cid>(), Err(CidError::Malformed));
        assert_eq!("".parse::<Cid>(), Err(CidError::Malformed));
    }
}
