//! Paths: from a root, through directories and linked data, to what they name.
//!
//! Sources: ipfs/specs "Path Gateway" and "UnixFS"; ipld.io "Pathing".

use crate::{
    content::store_stream::{BlockSource, GetError},
    data::{
        dag_cbor::Value,
        dag_json,
        unixfs::{Found, HamtCursor, Link, Node, UnixFsError, split_shard},
    },
};
use barrow_wire::{Cid, Codec};
use bytes::Bytes;
use std::collections::HashSet;

/// Shards of one directory that are read to list it.
const SHARDS_MAX: usize = 65_536;
/// Bytes of shards that are read for one listing, of which each costs time to parse.
const SHARD_BYTES_MAX: usize = 256 << 20;

/// Where a path led.
#[derive(Clone, Debug)]
pub struct Followed {
    /// What is there.
    pub cid: Cid,
    /// The root, and what each link of the path led to.
    pub roots: Vec<Cid>,
    /// The blocks on the way, without that at the end.
    pub trail: Vec<Cid>,
    /// What is left of the path within the data at the end, which is no link.
    pub rest: Vec<String>,
}

/// What a path leads to.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Its own CID.
    pub cid: Cid,
    /// What it is.
    pub kind: ResolvedKind,
    /// Its block, where that had to be read to tell.
    pub block: Option<Bytes>,
    /// The way there.
    pub followed: Followed,
}

/// What a CID with a path may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolvedKind {
    /// A file of so many bytes.
    File(u64),
    /// A directory, in one block or many.
    Directory,
    /// A block of another codec, which stands for itself.
    Data,
}

/// Follows a path. The block at its end is not fetched.
///
/// # Errors
/// [`GetError::NoSuchPath`] where an entry is missing, or if a block on the way cannot be had.
pub fn follow(source: &mut BlockSource, root: &Cid, path: &[String]) -> Result<Followed, GetError> {
    let mut followed =
        Followed { cid: *root, roots: vec![*root], trail: Vec::new(), rest: Vec::new() };
    let mut names = path;
    while let Some(name) = names.first() {
        let cid = followed.cid;
        let block = source.block(&cid)?;
        let (next, used) = match cid.codec() {
            Codec::DagPb => (entry(source, &mut followed.trail, cid, &block, name)?, 1),
            Codec::DagCbor | Codec::DagJson => match step(&data(&cid, &block)?, names)? {
                Some((next, used)) => {
                    followed.trail.push(cid);
                    (next, used)
                }
                None => {
                    followed.rest = names.to_vec();
                    return Ok(followed);
                }
            },
            Codec::Raw | Codec::Other(_) => return Err(GetError::NoSuchPath(name.clone())),
        };
        followed.cid = next;
        followed.roots.push(next);
        names = &names[used..];
    }
    Ok(followed)
}

/// Follows a path, and looks at what it leads to.
///
/// # Errors
/// As [`follow`], or [`GetError::NotAFile`].
pub fn resolve(
    source: &mut BlockSource,
    root: &Cid,
    path: &[String],
) -> Result<Resolved, GetError> {
    let followed = follow(source, root, path)?;
    let cid = followed.cid;
    let block = match cid.codec() {
        Codec::Raw | Codec::DagPb => Some(source.block(&cid)?),
        Codec::DagCbor | Codec::DagJson | Codec::Other(_) => None,
    };
    let kind = match &block {
        Some(block) => match Node::parse(&cid, block)? {
            Node::File { size, .. } => ResolvedKind::File(size),
            Node::Symlink(target) => ResolvedKind::File(target.len() as u64),
            Node::Directory(_) | Node::HamtShard { .. } => ResolvedKind::Directory,
        },
        None => ResolvedKind::Data,
    };
    Ok(Resolved { cid, kind, block, followed })
}

/// The entries of a directory, `entries_max` of them at most, by name.
///
/// # Errors
/// If a block of it cannot be had, or it is no directory.
pub fn list(
    source: &mut BlockSource,
    cid: &Cid,
    entries_max: usize,
) -> Result<Vec<Link>, GetError> {
    let mut entries = Vec::new();
    let mut todo = vec![*cid];
    // A shard that several others link to is read once: crafted ones could link to each other so
    // often that their entries outnumber anything.
    let mut seen = HashSet::new();
    let (mut shards, mut bytes) = (0, 0);
    while let Some(cid) = todo.pop() {
        let block = source.block(&cid)?;
        bytes += block.len();
        match Node::parse(&cid, &block)? {
            Node::Directory(links) if shards == 0 => entries = links,
            Node::HamtShard { fanout, links } => {
                shards += 1;
                if shards > SHARDS_MAX || bytes > SHARD_BYTES_MAX {
                    return Err(UnixFsError::TooLarge.into());
                }
                for link in split_shard(fanout, &links) {
                    match link? {
                        Ok(link) => entries.push(link),
                        Err(shard) if seen.insert(shard) => todo.push(shard),
                        Err(_) => {}
                    }
                }
            }
            Node::Directory(_) | Node::File { .. } | Node::Symlink(_) => {
                return Err(UnixFsError::Malformed.into());
            }
        }
        if entries.len() >= entries_max {
            break;
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries.truncate(entries_max);
    Ok(entries)
}

/// The entry of a directory; the blocks on the way to it go to `trail`.
fn entry(
    source: &mut BlockSource,
    trail: &mut Vec<Cid>,
    cid: Cid,
    block: &Bytes,
    name: &str,
) -> Result<Cid, GetError> {
    let missing = || GetError::NoSuchPath(name.into());
    let (mut cid, mut block) = (cid, block.clone());
    let mut cursor = HamtCursor::new(name);
    let mut is_root = true;
    loop {
        trail.push(cid);
        match Node::parse(&cid, &block)? {
            Node::Directory(links) if is_root => {
                let entry = links.iter().find(|link| link.name == name);
                return entry.map(|link| link.cid).ok_or_else(missing);
            }
            Node::HamtShard { fanout, links } => match cursor.find(fanout, &links)? {
                Found::Entry(cid) => return Ok(cid),
                Found::Shard(shard) => cid = shard,
                Found::Nothing => return Err(missing()),
            },
            Node::Directory(_) | Node::File { .. } | Node::Symlink(_) => return Err(missing()),
        }
        is_root = false;
        block = source.block(&cid)?;
    }
}

fn data(cid: &Cid, block: &Bytes) -> Result<Value, GetError> {
    let value = match cid.codec() {
        Codec::DagCbor => Value::decode(block).ok(),
        Codec::DagJson => dag_json::decode(block),
        Codec::Raw | Codec::DagPb | Codec::Other(_) => None,
    };
    value.ok_or(GetError::NotAFile(UnixFsError::Malformed))
}

/// The first link on the path within a document, and how many names lead to it; `None` if they
/// lead to something that is no link.
fn step(document: &Value, names: &[String]) -> Result<Option<(Cid, usize)>, GetError> {
    let mut value = document;
    for (at, name) in names.iter().enumerate() {
        let missing = || GetError::NoSuchPath(name.clone());
        let below = match value {
            Value::Map(map) => map.get(name),
            Value::List(list) => name.parse().ok().and_then(|at: usize| list.get(at)),
            Value::Null
            | Value::Bool(_)
            | Value::Unsigned(_)
            | Value::Negative(_)
            | Value::Float(_)
            | Value::Bytes(_)
            | Value::Text(_)
            | Value::Link(_) => None,
        };
        value = below.ok_or_else(missing)?;
        if let Some(cid) = value.as_link() {
            return Ok(Some((*cid, at + 1)));
        }
    }
    Ok(None)
}
