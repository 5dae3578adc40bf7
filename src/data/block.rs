//! Verified bytes: a [`Block`] cannot exist unless its bytes have its hash.

use barrow_wire::{HashCode, Multihash, limits::BLOCK_BYTES_MAX};
use bytes::Bytes;
use std::fmt;

/// Bytes with the hash that they were checked against. Cheap to clone.
///
/// ```
/// use barrow::Block;
/// let block = Block::of(b"hello world".to_vec().into()).unwrap();
/// assert!(Block::verify(*block.hash(), block.data().clone()).is_ok());
/// assert!(Block::verify(*block.hash(), b"hello w0rld".to_vec().into()).is_err());
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    hash: Multihash,
    data: Bytes,
}

/// Why bytes did not become a [`Block`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// The bytes have another hash.
    Mismatch,
    /// More than [`BLOCK_BYTES_MAX`] bytes.
    TooLong,
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mismatch => f.write_str("the bytes do not have the block's hash"),
            Self::TooLong => write!(f, "a block has at most {BLOCK_BYTES_MAX} bytes"),
        }
    }
}

impl std::error::Error for BlockError {}

impl Block {
    /// Checks `data`, which came from outside, against `hash`. The one way in for foreign bytes.
    ///
    /// # Errors
    /// [`BlockError`] if the length or the hash is wrong.
    pub fn verify(hash: Multihash, data: Bytes) -> Result<Self, BlockError> {
        if data.len() > BLOCK_BYTES_MAX {
            return Err(BlockError::TooLong);
        }
        if hash.verifies(&data) { Ok(Self { hash, data }) } else { Err(BlockError::Mismatch) }
    }

    /// Hashes bytes of our own with sha2-256.
    ///
    /// # Errors
    /// [`BlockError::TooLong`] over [`BLOCK_BYTES_MAX`] bytes.
    pub fn of(data: Bytes) -> Result<Self, BlockError> {
        if data.len() > BLOCK_BYTES_MAX {
            return Err(BlockError::TooLong);
        }
        Ok(Self { hash: Multihash::of(HashCode::Sha2_256, &data), data })
    }

    /// Bytes that were verified before they were stored, and whose checksum still holds.
    pub(crate) const fn from_store(hash: Multihash, data: Bytes) -> Self {
        Self { hash, data }
    }

    /// What names it.
    pub const fn hash(&self) -> &Multihash {
        &self.hash
    }

    /// Its bytes.
    pub const fn data(&self) -> &Bytes {
        &self.data
    }

    /// Number of its bytes.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether it is the empty block.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Its bytes alone.
    pub fn into_data(self) -> Bytes {
        self.data
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({:?}, {} bytes)", self.hash, self.data.len())
    }
}
