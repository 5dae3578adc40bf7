//! One block, understood.

use super::{
    Link, UnixFsError, hamt,
    protobuf::{PbData, PbNode},
};
use barrow_wire::{Cid, Codec};
use bytes::Bytes;

/// Kinds of UnixFS nodes, as their Data field numbers them.
pub(super) mod kind {
    pub(crate) const RAW: u64 = 0;
    pub(crate) const DIRECTORY: u64 = 1;
    pub(crate) const FILE: u64 = 2;
    pub(crate) const SYMLINK: u64 = 4;
    pub(crate) const HAMT_SHARD: u64 = 5;
}

/// Children of a HAMT shard at most: more is an attack (CVE-2023-23625).
const FANOUT_MAX: u64 = 1_024;

/// A part of a file below a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child {
    /// The part's root.
    pub cid: Cid,
    /// Bytes of content below it.
    pub size: u64,
}

/// What a block is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Bytes of a file, then its parts.
    File {
        /// The bytes that stand in this very block.
        content: Bytes,
        /// What follows them.
        children: Vec<Child>,
        /// Bytes of all.
        size: u64,
    },
    /// A directory in one block.
    Directory(Vec<Link>),
    /// A directory spread over a tree of hashes.
    HamtShard {
        /// Children that a shard may have, a power of two.
        fanout: u64,
        /// Entries and further shards; names begin with a place in hexadecimal.
        links: Vec<Link>,
    },
    /// A symbolic link, with its target.
    Symlink(Bytes),
}

impl Node {
    /// Reads the block of `cid`.
    ///
    /// # Errors
    /// [`UnixFsError::Unsupported`] for codecs other than raw and dag-pb, else as it is malformed.
    pub fn parse(cid: &Cid, block: &Bytes) -> Result<Self, UnixFsError> {
        match cid.codec() {
            Codec::Raw => Ok(Self::File {
                content: block.clone(),
                children: Vec::new(),
                size: block.len() as u64,
            }),
            Codec::DagPb => parse_dag_pb(block),
            Codec::DagCbor | Codec::DagJson | Codec::Other(_) => Err(UnixFsError::Unsupported),
        }
    }
}

/// Bytes of a file, or of all that the entries of a directory say; of other data those of the
/// block.
pub fn content_size(cid: &Cid, block: &Bytes) -> u64 {
    match Node::parse(cid, block) {
        Ok(Node::File { size, .. }) => size,
        Ok(Node::Directory(links) | Node::HamtShard { links, .. }) => {
            links.iter().fold(0, |sum, link| sum.saturating_add(link.tsize))
        }
        Ok(Node::Symlink(target)) => target.len() as u64,
        Err(_) => block.len() as u64,
    }
}

fn parse_dag_pb(block: &Bytes) -> Result<Node, UnixFsError> {
    let node = PbNode::parse(block)?;
    let field = block.slice(node.data.ok_or(UnixFsError::Unsupported)?);
    let data = PbData::parse(&field)?;
    let content = data.content.map_or_else(Bytes::new, |range| field.slice(range));
    match data.kind {
        kind::RAW | kind::FILE => {
            if node.links.len() != data.block_sizes.len() {
                return Err(UnixFsError::WrongSize);
            }
            let links = node.links.iter().zip(&data.block_sizes);
            let children: Vec<Child> =
                links.map(|(link, &size)| Child { cid: link.cid, size }).collect();
            let size = data
                .block_sizes
                .iter()
                .try_fold(content.len() as u64, |sum, &size| sum.checked_add(size))
                .filter(|&sum| data.size.is_none_or(|size| size == sum))
                .ok_or(UnixFsError::WrongSize)?;
            Ok(Node::File { content, children, size })
        }
        kind::DIRECTORY => Ok(Node::Directory(node.links)),
        kind::HAMT_SHARD => {
            let fanout = data.fanout.ok_or(UnixFsError::Malformed)?;
            if !fanout.is_power_of_two() || !(8..=FANOUT_MAX).contains(&fanout) {
                return Err(UnixFsError::Malformed);
            }
            if data.hash_type != Some(hamt::HASH_TYPE) {
                return Err(UnixFsError::Unsupported);
            }
            Ok(Node::HamtShard { fanout, links: node.links })
        }
        kind::SYMLINK => Ok(Node::Symlink(content)),
        _ => Err(UnixFsError::Unsupported),
    }
}
