//! One look at a stored record, and what may be concluded from it.
//!
//! A failed read is a state and never a verdict. A loose cable, a stale page in memory and a wrong
//! row in the index all look like damage at first, and none of them is. So the three kinds of
//! failure are apart in the types, and none of them leads to a deletion: what cannot be read now may
//! be readable later; where the index and a pack disagree, the index is corrected from the pack; and
//! a block whose bytes twice differ from their checksum is quarantined where it lies.

use super::{
    index::Place,
    medium::PackFile,
    record::{HEADER_BYTES, Header, Kind},
};
use crate::data::block::Block;
use barrow_wire::Multihash;
use std::io;

/// What reading a block came to.
#[derive(Debug)]
pub enum Reading {
    /// Its bytes match their checksum.
    Found(Block),
    /// The store does not have it.
    Absent,
    /// The drive did not return it now; a later read may.
    Unreadable(io::Error),
    /// No record of this block is where the index says. The number is that of the pack, from which
    /// the index has to be corrected.
    Misplaced(u32),
    /// Its record is there, and its bytes differed from their checksum in two reads, the second of
    /// them past the page cache.
    Damaged,
}

/// What one read of a record says.
#[derive(Debug)]
pub(super) enum Seen {
    Sound,
    Damaged,
    Misplaced,
    Unreadable(io::Error),
}

/// Reads the record of `hash` that should be at `place` into `record`, which has its length.
/// Anything but a sound record is read once more past the page cache before it is believed.
pub(super) fn read_put(
    file: &dyn PackFile,
    seed: u64,
    (hash, place): (&Multihash, Place),
    record: &mut [u8],
) -> Seen {
    let seen = |read: io::Result<()>, record: &[u8]| {
        if let Err(error) = read {
            return Seen::Unreadable(error);
        }
        let Some((header, payload)) = record.split_first_chunk() else { return Seen::Misplaced };
        match Header::from_bytes(header, seed).filter(|header| header.is_put_of(hash, place.len)) {
            None => Seen::Misplaced,
            Some(header) if header.matches(payload) => Seen::Sound,
            Some(_) => Seen::Damaged,
        }
    };
    match seen(file.read_at(record, place.offset), record) {
        Seen::Sound => Seen::Sound,
        Seen::Damaged | Seen::Misplaced | Seen::Unreadable(_) => {
            seen(file.read_fresh_at(record, place.offset), record)
        }
    }
}

/// Whether the header at `place` is that of a put of `hash`. Space is given back, and a row is
/// dropped, only where it is.
pub(super) fn is_put_at(file: &dyn PackFile, seed: u64, hash: &Multihash, place: Place) -> bool {
    let mut bytes = [0; HEADER_BYTES];
    file.read_at(&mut bytes, place.offset).is_ok()
        && Header::from_bytes(&bytes, seed).is_some_and(|header| header.is_put_of(hash, place.len))
}

impl Header {
    fn is_put_of(&self, hash: &Multihash, len: u32) -> bool {
        self.kind == Kind::Put && self.hash.as_ref() == Some(hash) && self.len == len
    }
}
