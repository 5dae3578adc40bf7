//! The records of a pack, byte by byte (docs/PACK_FORMAT.md).

use barrow_wire::{Multihash, limits::BLOCK_BYTES_MAX};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Begins each pack; the version of the format follows.
const PACK_MAGIC: [u8; 12] = *b"barrow pack\0";
const PACK_VERSION: u32 = 1;
/// Bytes of a pack before its first record.
pub(super) const PACK_HEADER_BYTES: usize = 64;
const PACK_HEADER_COPY_BYTES: usize = 32;
/// Bytes of a record before its payload.
pub(super) const HEADER_BYTES: usize = 64;
const MAGIC: [u8; 3] = *b"brw";
const CHECKED_BYTES: usize = 60;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The payload is a block; `dataset`, if not 0, refers to it.
    Put = 1,
    /// The block is no longer here.
    Delete = 2,
    /// `dataset` refers to the block too. No payload.
    Reference = 3,
    /// The payload describes `dataset`, which is whole, or its changed description.
    Dataset = 4,
    /// `dataset` is no more.
    Forget = 5,
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) dataset: u64,
    /// The block; all zeros, read as `None`, where there is none.
    pub(super) hash: Option<Multihash>,
    pub(super) len: u32,
    pub(super) checksum: u64,
}

/// What stands before the records of a pack.
///
/// The seed is secret and differs from pack to pack: nobody can make a block whose bytes would be
/// taken for records where a search for the next record comes through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PackHeader {
    pub(super) seed: u64,
}

impl PackHeader {
    /// Twice the same, as nothing in the pack can be read without it.
    pub(super) fn to_bytes(self) -> [u8; PACK_HEADER_BYTES] {
        let mut copy = [0; PACK_HEADER_COPY_BYTES];
        copy[..12].copy_from_slice(&PACK_MAGIC);
        copy[12..16].copy_from_slice(&PACK_VERSION.to_be_bytes());
        copy[16..24].copy_from_slice(&self.seed.to_be_bytes());
        let check = xxh3_64(&copy[..24]).to_be_bytes();
        copy[24..].copy_from_slice(&check);
        let mut bytes = [0; PACK_HEADER_BYTES];
        bytes[..PACK_HEADER_COPY_BYTES].copy_from_slice(&copy);
        bytes[PACK_HEADER_COPY_BYTES..].copy_from_slice(&copy);
        bytes
    }

    /// Reads a pack's header; `None` if neither copy is sound.
    ///
    /// # Errors
    /// The version, where it is one that is not known.
    pub(super) fn from_bytes(bytes: &[u8; PACK_HEADER_BYTES]) -> Result<Option<Self>, u32> {
        let (copies, _) = bytes.as_chunks::<PACK_HEADER_COPY_BYTES>();
        for copy in copies {
            if copy[24..] != xxh3_64(&copy[..24]).to_be_bytes() || copy[..12] != PACK_MAGIC {
                continue;
            }
            match copy[12..16].try_into().map(u32::from_be_bytes) {
                Ok(PACK_VERSION) => {}
                Ok(version) => return Err(version),
                Err(_) => continue,
            }
            let seed = copy[16..24].try_into().map(u64::from_be_bytes);
            return Ok(seed.ok().map(|seed| Self { seed }));
        }
        Ok(None)
    }
}

impl Header {
    pub(super) fn new(kind: Kind, dataset: u64, hash: Option<Multihash>, payload: &[u8]) -> Self {
        let len = u32::try_from(payload.len()).expect("a payload is at most 2 MiB");
        Self { kind, dataset, hash, len, checksum: xxh3_64(payload) }
    }

    pub(super) fn to_bytes(self, seed: u64) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = self.kind as u8;
        bytes[1..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&self.len.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.dataset.to_be_bytes());
        if let Some(hash) = self.hash {
            bytes[16..49].copy_from_slice(&hash.to_bytes());
        }
        bytes[52..60].copy_from_slice(&self.checksum.to_be_bytes());
        let check = header_check(&bytes[..CHECKED_BYTES], seed);
        bytes[60..].copy_from_slice(&check);
        bytes
    }

    /// Reads a record's header; `None` if these bytes are none.
    pub(super) fn from_bytes(bytes: &[u8; HEADER_BYTES], seed: u64) -> Option<Self> {
        if bytes[1..4] != MAGIC || bytes[60..] != header_check(&bytes[..CHECKED_BYTES], seed) {
            return None;
        }
        let kind = match bytes[0] {
            1 => Kind::Put,
            2 => Kind::Delete,
            3 => Kind::Reference,
            4 => Kind::Dataset,
            5 => Kind::Forget,
            _ => return None,
        };
        let len = u32::from_be_bytes(bytes[4..8].try_into().ok()?);
        if len as usize > BLOCK_BYTES_MAX {
            return None;
        }
        let hash: [u8; Multihash::BYTES] = bytes[16..49].try_into().ok()?;
        let hash = match hash[0] {
            0 => None,
            _ => Some(Multihash::from_bytes(&hash).ok()?),
        };
        Some(Self {
            kind,
            dataset: u64::from_be_bytes(bytes[8..16].try_into().ok()?),
            hash,
            len,
            checksum: u64::from_be_bytes(bytes[52..60].try_into().ok()?),
        })
    }

    /// Whether `payload` is what was written behind this header.
    pub(super) fn matches(&self, payload: &[u8]) -> bool {
        payload.len() == self.len as usize && xxh3_64(payload) == self.checksum
    }

    /// Bytes of the whole record.
    pub(super) fn record_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.len)
    }
}

fn header_check(bytes: &[u8], seed: u64) -> [u8; 4] {
    let [.., a, b, c, d] = xxh3_64_with_seed(bytes, seed).to_be_bytes();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrow_wire::HashCode;

    #[test]
    fn a_header_reads_back_and_any_flipped_bit_is_found() {
        let hash = Multihash::of(HashCode::Sha2_256, b"data");
        let header = Header::new(Kind::Put, 7, Some(hash), b"data");
        let bytes = header.to_bytes(9);
        assert_eq!(Header::from_bytes(&bytes, 9), Some(header));
        assert_eq!(Header::from_bytes(&bytes, 8), None);
        assert!(header.matches(b"data") && !header.matches(b"dat4") && !header.matches(b"dat"));
        for bit in 0..HEADER_BYTES * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::from_bytes(&bytes, 9), None, "bit {bit}");
        }
    }
}
