//! A file's blocks in the order of its bytes, from any offset on.

use super::{Child, Node, UnixFsError};
use barrow_wire::Cid;
use bytes::Bytes;
use std::ops::Range;

/// Nodes from the root to a leaf at most; balanced trees of 2^64 bytes need 8.
pub const DEPTH_MAX: usize = 32;

/// What a walk needs or has next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The block of this CID, through [`FileWalk::supply`].
    Need(Cid),
    /// Content, a slice of a block that was supplied.
    Content(Bytes),
    /// The range is at its end.
    Done,
}

/// A cursor over a file. It asks for one block at a time, and tells which come next, so that
/// they can be fetched ahead.
///
/// ```
/// use barrow::{Block, Cid, Codec, data::unixfs::{FileWalk, Step}};
/// let block = Block::of(b"hello world".to_vec().into()).unwrap();
/// let cid = Cid::v1(Codec::Raw, *block.hash());
/// let mut walk = FileWalk::new(cid, block.data()).unwrap();
/// walk.seek(6..11);
/// assert_eq!(walk.step(), Step::Content(block.data().slice(6..11)));
/// assert_eq!(walk.step(), Step::Done);
/// ```
pub struct FileWalk {
    root: Open,
    /// The nodes from below the root down to where the walk is.
    path: Vec<Open>,
    range: Range<u64>,
}

/// A node whose parts are being walked.
#[derive(Clone)]
struct Open {
    cid: Cid,
    /// Offset in the file of the node's first byte.
    start: u64,
    /// Offset behind the bytes that stand in this very node.
    content_end: u64,
    /// Those bytes, until they were given: a walk that waits for its reader holds no block.
    content: Option<Bytes>,
    /// The parts, with the offset of each.
    children: Vec<(u64, Child)>,
    size: u64,
}

impl Open {
    fn parse(cid: &Cid, block: &Bytes, start: u64) -> Result<Self, UnixFsError> {
        match Node::parse(cid, block)? {
            Node::File { content, children, size } => {
                let content_end = start + content.len() as u64;
                let mut offset = content_end;
                let children = children
                    .into_iter()
                    .map(|child| {
                        let at = offset;
                        // Cannot overflow: Node::parse has added the same sizes up.
                        offset += child.size;
                        (at, child)
                    })
                    .collect();
                let (cid, content) = (*cid, Some(content));
                Ok(Self { cid, start, content_end, content, children, size })
            }
            Node::Symlink(target) => {
                let size = target.len() as u64;
                let (cid, content_end, content) = (*cid, start + size, Some(target));
                Ok(Self { cid, start, content_end, content, children: Vec::new(), size })
            }
            Node::Directory(_) | Node::HamtShard { .. } => Err(UnixFsError::IsDirectory),
        }
    }

    /// The index of the first part that holds bytes at or behind `offset`.
    fn first_child(&self, offset: u64) -> usize {
        self.children.partition_point(|(at, child)| at + child.size <= offset)
    }
}

impl FileWalk {
    /// Begins at the file's root block, with all of it as the range.
    ///
    /// # Errors
    /// If it is no file.
    pub fn new(root: Cid, block: &Bytes) -> Result<Self, UnixFsError> {
        let root = Open::parse(&root, block, 0)?;
        let range = 0..root.size;
        Ok(Self { root, path: Vec::new(), range })
    }

    /// Bytes of the file.
    pub const fn size(&self) -> u64 {
        self.root.size
    }

    /// Where the next content is from.
    pub const fn position(&self) -> u64 {
        self.range.start
    }

    /// Where the range ends.
    pub const fn end(&self) -> u64 {
        self.range.end
    }

    /// Walks this range from now on, cut to the file.
    pub fn seek(&mut self, range: Range<u64>) {
        self.range = range.start.min(self.root.size)..range.end.min(self.root.size);
        let position = self.range.start;
        while self
            .path
            .last()
            .is_some_and(|open| position < open.start || position >= open.start + open.size)
        {
            self.path.pop();
        }
    }

    /// What comes next. Content moves the walk on.
    pub fn step(&mut self) -> Step {
        loop {
            let position = self.range.start;
            if position >= self.range.end {
                return Step::Done;
            }
            let open = self.path.last_mut().unwrap_or(&mut self.root);
            if position >= open.start + open.size {
                self.path.pop();
                continue;
            }
            if position < open.content_end {
                let Some(content) = open.content.take() else { return Step::Need(open.cid) };
                let end = open.content_end.min(self.range.end);
                let at = |offset: u64| {
                    usize::try_from(offset - open.start).expect("within a block's content")
                };
                self.range.start = end;
                return Step::Content(content.slice(at(position)..at(end)));
            }
            let (_, child) = open.children[open.first_child(position)];
            return Step::Need(child.cid);
        }
    }

    /// Gives the block of the last [`Step::Need`].
    ///
    /// # Errors
    /// If it is no part of a file, or not of the length that its parent said.
    ///
    /// # Panics
    /// If no block was asked for.
    pub fn supply(&mut self, block: &Bytes) -> Result<(), UnixFsError> {
        let position = self.range.start;
        let open = self.path.last_mut().unwrap_or(&mut self.root);
        if position < open.content_end {
            let again = Open::parse(&open.cid, block, open.start)?;
            if again.content_end != open.content_end {
                return Err(UnixFsError::WrongSize);
            }
            open.content = again.content;
            return Ok(());
        }
        let (start, child) = open.children[open.first_child(position)];
        let part = Open::parse(&child.cid, block, start)?;
        if part.size != child.size {
            return Err(UnixFsError::WrongSize);
        }
        if self.path.len() + 1 == DEPTH_MAX {
            return Err(UnixFsError::TooDeep);
        }
        self.path.push(part);
        Ok(())
    }

    /// The blocks that come next, as far as the nodes at hand tell and until they cover
    /// `bytes_max` bytes of the range; the first is that of the next [`Step::Need`].
    pub fn ahead(&self, bytes_max: u64) -> Vec<Cid> {
        let mut ahead = Vec::new();
        let end = self.range.end.min(self.range.start.saturating_add(bytes_max));
        let mut position = self.range.start;
        let here = self.path.last().unwrap_or(&self.root);
        if position < here.content_end && position < end && here.content.is_none() {
            ahead.push(here.cid);
        }
        for open in self.path.iter().rev().chain(std::iter::once(&self.root)) {
            let first = open.first_child(position);
            for (at, child) in &open.children[first..] {
                if *at >= end {
                    return ahead;
                }
                if child.size > 0 && at + child.size > position {
                    ahead.push(child.cid);
                }
            }
            // What the node's parent has behind it.
            position = position.max(open.start + open.size);
        }
        ahead
    }
}
