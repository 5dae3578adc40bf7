//! Content identifiers, read strictly.

use crate::{
    limits::{CID_TEXT_BYTES_MAX, IDENTITY_BYTES_MAX},
    multibase,
};
use ring::digest;
use std::{fmt, str::FromStr};

/// The hash functions that a stored block may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum HashCode {
    /// SHA-256, multihash code 0x12.
    Sha2_256 = 0x12,
    /// BLAKE3 with 32 bytes, multihash code 0x1e. Computed with the feature `blake3` alone.
    Blake3 = 0x1e,
}

impl HashCode {
    /// Whether this build can compute it, and so check a block that has it.
    pub const fn is_computed(self) -> bool {
        matches!(self, Self::Sha2_256) || cfg!(feature = "blake3")
    }

    fn digest(self, data: &[u8]) -> Option<[u8; 32]> {
        match self {
            Self::Sha2_256 => digest::digest(&digest::SHA256, data).as_ref().try_into().ok(),
            #[cfg(feature = "blake3")]
            Self::Blake3 => Some(blake3::hash(data).into()),
            #[cfg(not(feature = "blake3"))]
            Self::Blake3 => None,
        }
    }
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
    ///
    /// # Panics
    /// If the hash function [is not computed](HashCode::is_computed) by this build.
    pub fn of(code: HashCode, data: &[u8]) -> Self {
        let digest = code.digest(data).expect("one hashes by what the build computes");
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

    /// Whether `data` has this hash; never, if this build cannot compute it.
    pub fn verifies(&self, data: &[u8]) -> bool {
        self.code.digest(data) == Some(self.digest)
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
    /// An identity CID of over [`IDENTITY_BYTES_MAX`] bytes, or a text of over
    /// [`CID_TEXT_BYTES_MAX`].
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
        // Not the cid crate's reader: it takes numbers that are not in their shortest form, so
        // one CID would have many.
        if let [0x12, 0x20, rest @ ..] = bytes {
            let (digest, rest) = rest.split_first_chunk().ok_or(CidError::Malformed)?;
            return Ok((Self::v0(Multihash::new(HashCode::Sha2_256, *digest))?, rest));
        }
        let (version, rest) = read_varint(bytes)?;
        if version != 1 {
            return Err(CidError::Malformed);
        }
        let (codec, rest) = read_varint(rest)?;
        let (code, rest) = read_varint(rest)?;
        let (len, rest) = read_varint(rest)?;
        let len = match (code, usize::try_from(len).unwrap_or(usize::MAX)) {
            (0x12 | 0x1e, len @ 32) | (0x00, len @ 0..=IDENTITY_BYTES_MAX) => len,
            (0x00, _) => return Err(CidError::TooLong),
            _ => return Err(CidError::Hash),
        };
        let (digest, rest) = rest.split_at_checked(len).ok_or(CidError::Malformed)?;
        let hash = cid::multihash::Multihash::wrap(code, digest).map_err(|_| CidError::TooLong)?;
        Ok((Self(cid::CidGeneric::new_v1(codec, hash)), rest))
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
        let mut bytes = vec![0; self.0.encoded_len()];
        self.0.write_bytes(&mut bytes[..]).expect("the buffer has the length of the CID");
        bytes
    }
}

fn wrap(code: u64, digest: &[u8; 32]) -> cid::multihash::Multihash<IDENTITY_BYTES_MAX> {
    cid::multihash::Multihash::wrap(code, digest).expect("32 bytes fit a multihash of 128")
}

/// Reads an unsigned varint of multiformats: at most 9 bytes, the shortest form alone.
fn read_varint(bytes: &[u8]) -> Result<(u64, &[u8]), CidError> {
    let (mut value, mut rest) = (0_u64, bytes);
    for shift in (0..63).step_by(7) {
        let (&byte, tail) = rest.split_first().ok_or(CidError::Malformed)?;
        value |= u64::from(byte & 0x7f) << shift;
        rest = tail;
        if byte == 0 && shift > 0 {
            return Err(CidError::Malformed);
        }
        if byte < 0x80 {
            return Ok((value, rest));
        }
    }
    Err(CidError::Malformed)
}

impl FromStr for Cid {
    type Err = CidError;

    /// Reads a CIDv0 or a CIDv1 in any multibase of printable text; nothing may stand around it.
    fn from_str(text: &str) -> Result<Self, CidError> {
        // Not the cid crate's reader: it looks for "/ipfs/" inside the text, and takes bytes
        // behind the CID.
        if text.len() > CID_TEXT_BYTES_MAX {
            return Err(CidError::TooLong);
        }
        let is_v0 = text.len() == 46 && text.starts_with("Qm");
        let decoded = if is_v0 { multibase::decode_base58(text) } else { multibase::decode(text) };
        let cid = Self::from_bytes(&decoded.ok_or(CidError::Malformed)?)?;
        // A CIDv0 has no multibase (CID specification, "Decoding Algorithm").
        if cid.is_v0() == is_v0 { Ok(cid) } else { Err(CidError::Malformed) }
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.to_bytes();
        f.pad(&match self.0.version() {
            cid::Version::V0 => multibase::encode_base58(&bytes),
            cid::Version::V1 => multibase::encode_base32(&bytes),
        })
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
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
        let longer = [&HELLO.parse::<Cid>().unwrap().to_bytes()[..], &[0; 5]].concat();
        let text = multibase::encode_base32(&longer);
        assert_eq!(text.parse::<Cid>(), Err(CidError::Malformed));
    }

    #[test]
    fn a_base64_text_may_hold_slashes_but_a_multibase_holds_no_cidv0() {
        let hash = Multihash::new(HashCode::Sha2_256, [0xff; 32]);
        let bytes = Cid::v1(Codec::Raw, hash).to_bytes();
        let text = format!("m{}", data_encoding::BASE64_NOPAD.encode(&bytes));
        assert!(text.contains('/'), "{text}");
        assert_eq!(text.parse(), Ok(Cid::v1(Codec::Raw, hash)));
        let v0 = format!("z{}", Cid::v0(hash).unwrap());
        assert_eq!(v0.parse::<Cid>(), Err(CidError::Malformed));
    }

    #[test]
    fn a_number_has_one_form_alone() {
        let digest = [&[0x12, 32][..], &[7; 32]].concat();
        let cid = |codec: &[u8]| Cid::from_bytes(&[&[1], codec, &digest].concat());
        assert_eq!(cid(&[0x55]).unwrap().codec(), Codec::Raw);
        assert_eq!(cid(&[0xd5, 0x00]), Err(CidError::Malformed));
        assert_eq!(cid(&[0xff; 10]), Err(CidError::Malformed));
        let longest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        let other = cid(&longest).unwrap();
        assert_eq!(other.codec(), Codec::Other(u64::MAX >> 1));
        assert_eq!(Cid::from_bytes(&other.to_bytes()), Ok(other));
        let over = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x03];
        assert_eq!(cid(&over), Err(CidError::Malformed));
    }
}
