//! Which blocks a CAR of a path has, and in which order: depth first, as they are read.
//!
//! Sources: ipfs/specs "Trustless Gateway" (dag-scope, entity-bytes), IPIP-412 (order, dups).

use crate::data::{
    dag,
    unixfs::{Node, UnixFsError, split_shard},
};
use barrow_wire::{Cid, Codec, Multihash};
use bytes::Bytes;
use std::{collections::HashSet, ops::Range};

/// Blocks fetched ahead of the one that is needed.
const AHEAD_MAX: usize = 16;
/// CIDs that may wait to be walked: two full nodes, and what a hostile DAG may cost in memory.
const PENDING_MAX: usize = 100_000;
/// Blocks that are remembered so as not to be sent twice: 256 GiB of content in blocks of 1 MiB.
const SEEN_MAX: usize = 1 << 18;
/// Nodes from a file's root to a leaf at most.
const DEPTH_MAX: u32 = 32;

/// How much below the end of the path belongs to the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DagScope {
    /// The block there alone.
    Block,
    /// The file, or what lists the directory.
    Entity,
    /// Everything.
    #[default]
    All,
}

/// Bytes of a file, both ends in it; negative numbers count from the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntityBytes {
    /// The first.
    pub from: i64,
    /// The last, if not that of the file.
    pub to: Option<i64>,
}

impl EntityBytes {
    /// Reads `from:to`, where `to` may be `*`.
    pub fn parse(text: &str) -> Option<Self> {
        let (from, to) = text.split_once(':')?;
        let from = from.parse().ok()?;
        let to = if to == "*" { None } else { Some(to.parse().ok()?) };
        // A range that ends before it begins, as far as that can be told without the size.
        let backwards = to.is_some_and(|to: i64| (from < 0) == (to < 0) && to < from);
        (!backwards).then_some(Self { from, to })
    }

    fn of_size(self, size: u64) -> Range<u64> {
        let at = |offset: i64| match u64::try_from(offset) {
            Ok(offset) => offset,
            Err(_) => size.saturating_sub(offset.unsigned_abs()),
        };
        let end = match self.to {
            None => size,
            Some(to) if to < 0 && to.unsigned_abs() > size => 0,
            Some(to) => at(to).saturating_add(1).min(size),
        };
        at(self.from)..end
    }
}

/// What a CAR is to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WalkOptions {
    /// How much.
    pub scope: DagScope,
    /// Which bytes of a file, with [`DagScope::Entity`].
    pub bytes: Option<EntityBytes>,
    /// Whether a block that occurs again is sent again.
    pub dups: bool,
}

/// Why a block is in the CAR, which tells what follows it.
#[derive(Clone, Debug)]
enum Why {
    /// It is on the path, or all there is to it.
    Alone,
    /// Everything below it belongs to the CAR.
    All,
    /// It is the end of the path, of which the entity is wanted.
    Entity,
    /// It is a part of a file that begins at `start`, of which `range` is wanted.
    Part { start: u64, size: u64, range: Range<u64>, depth: u32 },
    /// It is a shard of a directory; entries below it are not wanted.
    Shard(u32),
}

/// The blocks of a CAR, in order: it asks for one after the other, and tells which it has.
pub struct CarWalk {
    options: WalkOptions,
    /// What is still to be walked; the next is the last.
    pending: Vec<(Cid, Why)>,
    seen: HashSet<Multihash>,
    /// Nodes below which nothing is left to be sent.
    walked: HashSet<Multihash>,
}

impl CarWalk {
    /// Walks the blocks of a path, then what is at its end.
    pub fn new(trail: &[Cid], end: Cid, options: WalkOptions) -> Self {
        let why = match options.scope {
            DagScope::Block => Why::Alone,
            DagScope::Entity => Why::Entity,
            DagScope::All => Why::All,
        };
        let mut pending = vec![(end, why)];
        pending.extend(trail.iter().rev().map(|cid| (*cid, Why::Alone)));
        Self { options, pending, seen: HashSet::new(), walked: HashSet::new() }
    }

    /// The block that is needed next; `None` at the end.
    pub fn need(&mut self) -> Option<Cid> {
        loop {
            let (cid, why) = self.pending.last()?;
            if self.is_new(cid) || self.must_follow(cid, why) {
                return Some(*cid);
            }
            self.pending.pop();
        }
    }

    /// What will be needed after that, as far as it is known.
    pub fn ahead(&self) -> Vec<Cid> {
        let next = self.pending.iter().rev().skip(1).take(AHEAD_MAX);
        next.map(|(cid, _)| *cid).filter(|cid| self.is_new(cid)).collect()
    }

    /// Gives the block of the last [`Self::need`]; tells whether the CAR has it in this place.
    ///
    /// # Errors
    /// If it is not what its codec says, or the walk would take too much memory.
    pub fn supply(&mut self, block: &Bytes) -> Result<bool, UnixFsError> {
        let Some((cid, _)) = self.pending.last() else { return Ok(false) };
        // Identity CIDs carry their bytes themselves, and are never sent.
        let is_sent = self.is_new(cid) && cid.multihash().is_some();
        self.follow(block)?;
        Ok(is_sent)
    }

    fn is_new(&self, cid: &Cid) -> bool {
        cid.multihash().is_none_or(|hash| self.options.dups || !self.seen.contains(&hash))
    }

    /// Whether something below a block that was sent before may not have been.
    fn must_follow(&self, cid: &Cid, why: &Why) -> bool {
        let known = cid.multihash().is_some_and(|hash| self.walked.contains(&hash));
        match why {
            Why::Alone | Why::Shard(_) => false,
            Why::All | Why::Entity => !known,
            Why::Part { start, size, range, .. } => {
                let whole = range.start <= *start && start + size <= range.end;
                cid.codec() != Codec::Raw && !(whole && known)
            }
        }
    }

    /// Takes the block that was asked for, and puts what follows it in its place.
    fn follow(&mut self, block: &Bytes) -> Result<(), UnixFsError> {
        let Some((cid, why)) = self.pending.pop() else { return Ok(()) };
        if let Some(hash) = cid.multihash().filter(|_| !self.options.dups) {
            self.seen.insert(hash);
            let whole = match &why {
                Why::Alone => false,
                Why::All | Why::Shard(_) => true,
                Why::Entity => self.options.bytes.is_none(),
                Why::Part { start, size, range, .. } => {
                    range.start <= *start && start + size <= range.end
                }
            };
            if whole && cid.codec() != Codec::Raw {
                self.walked.insert(hash);
            }
        }
        let next = match why {
            Why::Alone => return Ok(()),
            Why::All => {
                let links = dag::links(&cid, block)?;
                links.into_iter().map(|cid| (cid, Why::All)).collect()
            }
            Why::Entity => self.entity(&cid, block)?,
            Why::Shard(depth) => match Node::parse(&cid, block)? {
                Node::HamtShard { fanout, links } => shards(fanout, &links, depth)?,
                Node::File { .. } | Node::Directory(_) | Node::Symlink(_) => {
                    return Err(UnixFsError::Malformed);
                }
            },
            Why::Part { start, size, range, depth } => {
                parts(&cid, block, start, Some(size), &range, depth)?
            }
        };
        self.pending.extend(next.into_iter().rev());
        if self.pending.len() > PENDING_MAX || self.seen.len() > SEEN_MAX {
            return Err(UnixFsError::TooLarge);
        }
        Ok(())
    }

    fn entity(&self, cid: &Cid, block: &Bytes) -> Result<Vec<(Cid, Why)>, UnixFsError> {
        let node = match cid.codec() {
            Codec::Raw | Codec::DagPb => Node::parse(cid, block),
            // Of other data the block is the entity.
            Codec::DagCbor | Codec::DagJson | Codec::Other(_) => return Ok(Vec::new()),
        };
        match node {
            Ok(Node::File { size, .. }) => {
                let range = self.options.bytes.map_or(0..size, |bytes| bytes.of_size(size));
                parts(cid, block, 0, None, &range, 0)
            }
            Ok(Node::HamtShard { fanout, links }) => shards(fanout, &links, 0),
            Ok(Node::Directory(_) | Node::Symlink(_)) | Err(UnixFsError::Unsupported) => {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }
}

/// The parts of a file's node that hold bytes of the range.
fn parts(
    cid: &Cid,
    block: &Bytes,
    start: u64,
    expected: Option<u64>,
    range: &Range<u64>,
    depth: u32,
) -> Result<Vec<(Cid, Why)>, UnixFsError> {
    let Node::File { content, children, size } = Node::parse(cid, block)? else {
        return Err(UnixFsError::Malformed);
    };
    if expected.is_some_and(|expected| expected != size) {
        return Err(UnixFsError::WrongSize);
    }
    if depth == DEPTH_MAX {
        return Err(UnixFsError::TooDeep);
    }
    let mut at = start + content.len() as u64;
    let mut next = Vec::new();
    for child in children {
        // Cannot overflow: Node::parse has added the same sizes up.
        let end = at + child.size;
        if at < range.end && end > range.start {
            let why =
                Why::Part { start: at, size: child.size, range: range.clone(), depth: depth + 1 };
            next.push((child.cid, why));
        }
        at = end;
    }
    Ok(next)
}

fn shards(
    fanout: u64,
    links: &[crate::data::unixfs::Link],
    depth: u32,
) -> Result<Vec<(Cid, Why)>, UnixFsError> {
    if depth == DEPTH_MAX {
        return Err(UnixFsError::TooDeep);
    }
    let mut next = Vec::new();
    for link in split_shard(fanout, links) {
        if let Err(shard) = link? {
            next.push((shard, Why::Shard(depth + 1)));
        }
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::EntityBytes;

    #[test]
    fn entity_bytes_count_from_both_ends_and_include_both() {
        let range = |text: &str| EntityBytes::parse(text).map(|bytes| bytes.of_size(1_026));
        assert_eq!(range("0:*"), Some(0..1_026));
        assert_eq!(range("0:0"), Some(0..1));
        assert_eq!(range("512:-256"), Some(512..771));
        assert_eq!(range("-5:*"), Some(1_021..1_026));
        assert_eq!(range("-9999:-3"), Some(0..1_024));
        assert_eq!(range("0:9999"), Some(0..1_026));
        assert!(range("2000:*").unwrap().is_empty());
        for bad in ["", "1", "a:b", "1:", ":1", "3:2", "-2:-3", "99999999999999999999:*"] {
            assert_eq!(EntityBytes::parse(bad), None, "{bad}");
        }
    }
}
