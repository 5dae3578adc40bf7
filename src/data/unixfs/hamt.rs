//! Directories spread over a tree by the hash of each name.
//!
//! Sources: ipfs/specs, "UnixFS", section on HAMT-sharded directories; IPIP-499.

use super::{Link, Profile, UnixFsError, builder::dag_pb_block, node::kind, protobuf::PbData};
use crate::data::block::Block;
use barrow_wire::Cid;

/// Children of a shard that we write.
const FANOUT: u64 = 256;
/// The multihash code of the first half of murmur3-x64-128, the one hash that names have.
pub(super) const HASH_TYPE: u64 = 0x22;
const HASH_BITS: u32 = 64;

/// Where a name is looked for, shard by shard.
///
/// ```
/// use barrow::{Cid, data::unixfs::{Found, HamtCursor, Link}};
/// let cid: Cid = "bafkqaaa".parse().unwrap();
/// let mut cursor = HamtCursor::new("1.txt");
/// assert_eq!(cursor.find(256, &[]).unwrap(), Found::Nothing);
/// ```
pub struct HamtCursor {
    name: String,
    hash: u64,
    bits_used: u32,
}

/// What a shard has of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The entry itself.
    Entry(Cid),
    /// A shard below, where it may be.
    Shard(Cid),
    /// There is no such entry.
    Nothing,
}

impl HamtCursor {
    /// Begins at the root shard.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), hash: murmur3_64(name.as_bytes()), bits_used: 0 }
    }

    /// Looks into the next shard down.
    ///
    /// # Errors
    /// [`UnixFsError::TooDeep`] once the hash is used up.
    pub fn find(&mut self, fanout: u64, links: &[Link]) -> Result<Found, UnixFsError> {
        let bits = fanout.trailing_zeros();
        if self.bits_used + bits > HASH_BITS || bits == 0 {
            return Err(UnixFsError::TooDeep);
        }
        let place = (self.hash << self.bits_used) >> (HASH_BITS - bits);
        self.bits_used += bits;
        let prefix = place_name(place, fanout);
        let of_place = |link: &&Link| link.name.starts_with(&prefix);
        for link in links.iter().filter(of_place) {
            match &link.name[prefix.len()..] {
                "" => return Ok(Found::Shard(link.cid)),
                name if name == self.name => return Ok(Found::Entry(link.cid)),
                _ => {}
            }
        }
        Ok(Found::Nothing)
    }
}

/// The links of a shard: `Ok` with the entry's own name, `Err` for a shard below.
///
/// # Errors
/// [`UnixFsError::BadName`] where a name has no place before it or a link more than the shard has
/// places for.
pub fn split_shard(
    fanout: u64,
    links: &[Link],
) -> impl Iterator<Item = Result<Result<Link, Cid>, UnixFsError>> + '_ {
    let width = place_name(fanout - 1, fanout).len();
    let places = usize::try_from(fanout).unwrap_or(usize::MAX);
    links.iter().enumerate().map(move |(at, link)| match link.name.get(width..) {
        _ if at >= places => Err(UnixFsError::BadName),
        Some("") => Ok(Err(link.cid)),
        Some(name) => Ok(Ok(Link { name: name.into(), ..link.clone() })),
        None => Err(UnixFsError::BadName),
    })
}

/// A place in a shard as names begin with it: hexadecimal, of one width.
fn place_name(place: u64, fanout: u64) -> String {
    let width = format!("{:X}", fanout - 1).len();
    format!("{place:0width$X}")
}

/// Writes the shards of a directory with these entries; gives root and bytes of all below.
///
/// # Errors
/// [`UnixFsError::TooDeep`] if the names' hashes do not tell them apart.
pub(super) fn build(
    profile: Profile,
    links: Vec<Link>,
    emit: &mut dyn FnMut(Block),
) -> Result<(Cid, u64), UnixFsError> {
    let hash = |link: Link| (murmur3_64(link.name.as_bytes()), link);
    let mut entries: Vec<(u64, Link)> = links.into_iter().map(hash).collect();
    entries.sort_by_key(|(hash, _)| *hash);
    build_shard(profile, &entries, 0, emit)
}

fn build_shard(
    profile: Profile,
    entries: &[(u64, Link)],
    bits_used: u32,
    emit: &mut dyn FnMut(Block),
) -> Result<(Cid, u64), UnixFsError> {
    let bits = FANOUT.trailing_zeros();
    if bits_used + bits > HASH_BITS {
        return Err(UnixFsError::TooDeep);
    }
    let place = |hash: u64| (hash << bits_used) >> (HASH_BITS - bits);
    let mut bitfield = [0_u8; FANOUT as usize / 8];
    let mut links = Vec::new();
    for group in entries.chunk_by(|(a, _), (b, _)| place(*a) == place(*b)) {
        let at = place(group[0].0);
        let byte = bitfield.len() - 1 - at as usize / 8;
        bitfield[byte] |= 1 << (at % 8);
        let prefix = place_name(at, FANOUT);
        links.push(match group {
            [(_, link)] => Link { name: prefix + &link.name, ..link.clone() },
            _ => {
                let (cid, tsize) = build_shard(profile, group, bits_used + bits, emit)?;
                Link { cid, name: prefix, tsize }
            }
        });
    }
    let first = bitfield.iter().position(|&byte| byte != 0).unwrap_or(bitfield.len());
    let data = PbData {
        kind: kind::HAMT_SHARD,
        hash_type: Some(HASH_TYPE),
        fanout: Some(FANOUT),
        ..PbData::default()
    };
    let data = data.encode(Some(&bitfield[first..]));
    let (cid, block) = dag_pb_block(profile, &links, &data)?;
    let tsize = block.len() as u64 + links.iter().map(|link| link.tsize).sum::<u64>();
    emit(block);
    Ok((cid, tsize))
}

/// The first half of murmur3-x64-128 with seed 0 (Austin Appleby's reference, public domain).
fn murmur3_64(bytes: &[u8]) -> u64 {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    let mix1 = |k: u64| k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let mix2 = |k: u64| k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
    let word = |bytes: &[u8]| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    };
    let (mut h1, mut h2) = (0_u64, 0_u64);
    let mut blocks = bytes.chunks_exact(16);
    for block in &mut blocks {
        let (low, high) = block.split_at(8);
        h1 ^= mix1(word(low));
        h1 = h1.rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 ^= mix2(word(high));
        h2 = h2.rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let (low, high) = blocks.remainder().split_at(blocks.remainder().len().min(8));
    h2 ^= mix2(word(high));
    h1 ^= mix1(word(low));
    h1 ^= bytes.len() as u64;
    h2 ^= bytes.len() as u64;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    h1 = finish(h1);
    h2 = finish(h2);
    h1.wrapping_add(h2)
}

fn finish(mut k: u64) -> u64 {
    k ^= k >> 33;
    k = k.wrapping_mul(0xff51_afd7_ed55_8ccd);
    k ^= k >> 33;
    k = k.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ (k >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur3_gives_the_published_values() {
        assert_eq!(murmur3_64(b""), 0);
        assert_eq!(murmur3_64(b"hello"), 0xcbd8_a7b3_41bd_9b02);
        assert_eq!(murmur3_64(b"hello, world"), 0x342f_ac62_3a5e_bc8e);
        let sentence = b"The quick brown fox jumps over the lazy dog.";
        assert_eq!(murmur3_64(sentence), 0xcd99_481f_9ee9_02c9);
    }
}
