//! Leaves in, tree out: memory is one open node a level, whatever the size of the file.

use super::{
    Link, Profile, UnixFsError, hamt,
    node::kind,
    protobuf::{PbData, PbNode},
};
use crate::data::block::Block;
use barrow_wire::{Cid, Codec, limits::BLOCK_BYTES_MAX};
use bytes::Bytes;

/// A directory of more bytes becomes a HAMT (IPIP-499).
const DIRECTORY_BYTES_MAX: usize = 256 << 10;

/// A part of a file, or a whole one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its root.
    pub cid: Cid,
    /// Bytes of content.
    pub size: u64,
    /// Bytes of the blocks of its tree.
    pub tsize: u64,
}

/// What a builder made.
pub type Built = Leaf;

impl Leaf {
    /// Makes the block of a chunk of content: raw without a copy, or wrapped in dag-pb.
    ///
    /// # Errors
    /// [`UnixFsError::TooLarge`] if the chunk is no chunk.
    pub fn of_chunk(profile: Profile, chunk: Bytes) -> Result<(Self, Block), UnixFsError> {
        let size = chunk.len() as u64;
        if profile.raw_leaves() {
            let block = Block::of(chunk).map_err(|_| UnixFsError::TooLarge)?;
            let cid = Cid::v1(Codec::Raw, *block.hash());
            return Ok((Self { cid, size, tsize: size }, block));
        }
        let data = PbData { kind: kind::FILE, size: Some(size), ..PbData::default() };
        let content = (!chunk.is_empty()).then_some(&chunk[..]);
        dag_pb_block(profile, &[], &data.encode(content))
            .map(|(cid, block)| (Self { cid, size, tsize: block.len() as u64 }, block))
    }
}

/// Makes a dag-pb node as a block with a CID of the profile's version.
pub(super) fn dag_pb_block(
    profile: Profile,
    links: &[Link],
    data: &[u8],
) -> Result<(Cid, Block), UnixFsError> {
    let bytes = PbNode::encode(links, Some(data));
    if bytes.len() > BLOCK_BYTES_MAX {
        return Err(UnixFsError::TooLarge);
    }
    let block = Block::of(bytes.into()).map_err(|_| UnixFsError::TooLarge)?;
    let cid = match Cid::v0(*block.hash()) {
        Ok(cid) if !profile.raw_leaves() => cid,
        _ => Cid::v1(Codec::DagPb, *block.hash()),
    };
    Ok((cid, block))
}

/// Builds the balanced tree of a file from its leaves.
///
/// ```
/// use barrow::data::unixfs::{FileBuilder, Leaf, Profile};
/// let profile = Profile::UnixfsV1_2025;
/// let (leaf, _block) = Leaf::of_chunk(profile, b"hello world".to_vec().into()).unwrap();
/// let mut builder = FileBuilder::new(profile);
/// builder.push(leaf, &mut |_| {}).unwrap();
/// let file = builder.finish(&mut |_| {}).unwrap();
/// assert_eq!(
///     file.cid.to_string(),
///     "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
/// );
/// ```
pub struct FileBuilder {
    profile: Profile,
    /// The parts that have no parent yet, a list a level, the leaves' first.
    levels: Vec<Vec<Leaf>>,
}

impl FileBuilder {
    /// An empty file.
    pub const fn new(profile: Profile) -> Self {
        Self { profile, levels: Vec::new() }
    }

    /// Appends a leaf; nodes that are full go to `emit`.
    ///
    /// # Errors
    /// [`UnixFsError::TooLarge`] if a node does not fit a block, which no profile reaches.
    pub fn push(&mut self, leaf: Leaf, emit: &mut dyn FnMut(Block)) -> Result<(), UnixFsError> {
        self.push_at(0, leaf, emit)
    }

    fn push_at(
        &mut self,
        level: usize,
        part: Leaf,
        emit: &mut dyn FnMut(Block),
    ) -> Result<(), UnixFsError> {
        if level == self.levels.len() {
            self.levels.push(Vec::new());
        }
        if self.levels[level].len() == self.profile.links_max() {
            // Only now, as a last full node needs no parent beside it.
            let node = self.close(level, emit)?;
            self.push_at(level + 1, node, emit)?;
        }
        self.levels[level].push(part);
        Ok(())
    }

    fn close(&mut self, level: usize, emit: &mut dyn FnMut(Block)) -> Result<Leaf, UnixFsError> {
        let parts = std::mem::take(&mut self.levels[level]);
        let link = |part: &Leaf| Link { cid: part.cid, name: String::new(), tsize: part.tsize };
        let links: Vec<Link> = parts.iter().map(link).collect();
        let size = parts.iter().map(|part| part.size).sum();
        let data = PbData {
            kind: kind::FILE,
            size: Some(size),
            block_sizes: parts.iter().map(|part| part.size).collect(),
            ..PbData::default()
        };
        let (cid, block) = dag_pb_block(self.profile, &links, &data.encode(None))?;
        let tsize = block.len() as u64 + parts.iter().map(|part| part.tsize).sum::<u64>();
        emit(block);
        Ok(Leaf { cid, size, tsize })
    }

    /// Closes the tree.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(mut self, emit: &mut dyn FnMut(Block)) -> Result<Built, UnixFsError> {
        if self.levels.is_empty() {
            let (leaf, block) = Leaf::of_chunk(self.profile, Bytes::new())?;
            emit(block);
            return Ok(leaf);
        }
        let mut level = 0;
        loop {
            let top = level + 1 == self.levels.len();
            if let ([only], true) = (&self.levels[level][..], top) {
                return Ok(*only);
            }
            if !self.levels[level].is_empty() {
                let node = self.close(level, emit)?;
                self.push_at(level + 1, node, emit)?;
            }
            level += 1;
        }
    }
}

/// Makes a symbolic link.
///
/// # Errors
/// [`UnixFsError::TooLarge`] if the target does not fit a block.
pub fn symlink(
    profile: Profile,
    target: &str,
    emit: &mut dyn FnMut(Block),
) -> Result<Built, UnixFsError> {
    let data = PbData { kind: kind::SYMLINK, ..PbData::default() };
    let (cid, block) = dag_pb_block(profile, &[], &data.encode(Some(target.as_bytes())))?;
    let leaf = Leaf { cid, size: 0, tsize: block.len() as u64 };
    emit(block);
    Ok(leaf)
}

/// Builds a directory from its entries.
pub struct DirectoryBuilder {
    profile: Profile,
    links: Vec<Link>,
    size: u64,
}

impl DirectoryBuilder {
    /// An empty directory.
    pub const fn new(profile: Profile) -> Self {
        Self { profile, links: Vec::new(), size: 0 }
    }

    /// Adds an entry; names are unique, which a file system sees to.
    pub fn push(&mut self, name: String, entry: Leaf) {
        self.size += entry.size;
        self.links.push(Link { cid: entry.cid, name, tsize: entry.tsize });
    }

    /// What the profile takes for the size of the directory's block.
    fn estimated_bytes(&self, data: &[u8]) -> usize {
        if self.profile.estimates_links() {
            return self.links.iter().map(|link| link.name.len() + link.cid.to_bytes().len()).sum();
        }
        PbNode::encoded_len(&self.links, data)
    }

    /// Makes the block, or the blocks of a HAMT where one would be too large.
    ///
    /// # Errors
    /// [`UnixFsError::TooDeep`] if a HAMT cannot tell the names apart.
    pub fn finish(mut self, emit: &mut dyn FnMut(Block)) -> Result<Built, UnixFsError> {
        self.links.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        let data = PbData { kind: kind::DIRECTORY, ..PbData::default() }.encode(None);
        if self.estimated_bytes(&data) > DIRECTORY_BYTES_MAX {
            let (cid, tsize) = hamt::build(self.profile, self.links, emit)?;
            return Ok(Leaf { cid, size: self.size, tsize });
        }
        let (cid, block) = dag_pb_block(self.profile, &self.links, &data)?;
        let below: u64 = self.links.iter().map(|link| link.tsize).sum();
        let tsize = block.len() as u64 + below;
        emit(block);
        Ok(Leaf { cid, size: self.size, tsize })
    }
}
