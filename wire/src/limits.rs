//! What a peer is held to. Each limit is checked before anything is allocated for it.

/// Bytes of a block at most.
pub const BLOCK_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of a binary CID at most, on the wire and in the store.
pub const CID_BYTES_MAX: usize = 64;
/// Bytes of a CID's text at most: the longest identity CID, a character a bit, and the multibase.
pub const CID_TEXT_BYTES_MAX: usize = 1 + 8 * (1 + 9 + 1 + 2 + IDENTITY_BYTES_MAX);
/// Bytes of the digest of an identity CID at most; such CIDs are answered over HTTP alone.
pub const IDENTITY_BYTES_MAX: usize = 128;
/// Ciphertext bytes of a Noise record at most (Noise, section 3).
pub const RECORD_BYTES_MAX: usize = 65_535;
/// Bytes that the authentication tag adds to each record.
pub const TAG_BYTES: usize = 16;
/// Plaintext bytes of a record at most.
pub const RECORD_PLAINTEXT_BYTES_MAX: usize = RECORD_BYTES_MAX - TAG_BYTES;
/// Bytes of a flight of the handshake at most.
pub const HANDSHAKE_BYTES_MAX: usize = 1_024;
/// Bytes of one control message at most.
pub const CONTROL_BYTES_MAX: usize = 256 * 1024;
/// Blocks that a peer may want of us at one time.
pub const WANTS_MAX: usize = 1_024;
/// A block of at most this length may come together with the presence answer.
pub const INLINE_BLOCK_BYTES_MAX: usize = 4 * 1024;
/// Addresses in one peer-addresses message at most.
pub const PEER_ADDRESSES_MAX: usize = 64;
/// Bytes that a buffer for a block needs beyond the block: a tag, and the record's kind.
pub const BLOCK_BUFFER_SLACK_BYTES: usize = TAG_BYTES + 1;
/// Bytes of an agent text at most.
pub const AGENT_BYTES_MAX: usize = 64;
