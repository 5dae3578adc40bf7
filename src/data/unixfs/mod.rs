//! UnixFS: files and directories as DAGs of blocks, with CIDs equal to IPFS's.
//!
//! Pure: blocks in, blocks out. Sources: ipfs/specs "UnixFS", IPIP-499 (profiles).

mod builder;
mod chunker;
mod hamt;
mod node;
mod protobuf;
mod walk;

pub use builder::{Built, DirectoryBuilder, FileBuilder, Leaf, symlink};
pub use chunker::Chunker;
pub use hamt::{Found, HamtCursor, split_shard};
pub use node::{Child, Node, content_size};
pub use protobuf::Link;
pub(crate) use protobuf::PbNode;
pub use walk::{FileWalk, Step};

use std::{fmt, str::FromStr};

/// How a file becomes blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// CIDv1, raw leaves of 1 MiB, 1,024 links a node (IPIP-499).
    #[default]
    UnixfsV1_2025,
    /// CIDv1, raw leaves of 256 KiB, 174 links: `ipfs add --cid-version=1`.
    KuboDefault,
    /// CIDv0, dag-pb leaves of 256 KiB, 174 links.
    UnixfsV0_2015,
}

impl Profile {
    /// Bytes of content in a leaf.
    pub const fn chunk_bytes(self) -> usize {
        match self {
            Self::UnixfsV1_2025 => 1 << 20,
            Self::KuboDefault | Self::UnixfsV0_2015 => 256 << 10,
        }
    }

    /// Links of a node at most.
    pub const fn links_max(self) -> usize {
        match self {
            Self::UnixfsV1_2025 => 1_024,
            Self::KuboDefault | Self::UnixfsV0_2015 => 174,
        }
    }

    /// Whether leaves are raw blocks under CIDv1, or dag-pb under CIDv0.
    pub const fn raw_leaves(self) -> bool {
        match self {
            Self::UnixfsV1_2025 | Self::KuboDefault => true,
            Self::UnixfsV0_2015 => false,
        }
    }

    /// Whether a directory's size is estimated by the bytes of its names and CIDs alone, or is that
    /// of its block (IPIP-499, "HAMT directory threshold").
    pub(crate) const fn estimates_links(self) -> bool {
        match self {
            Self::UnixfsV1_2025 => false,
            Self::KuboDefault | Self::UnixfsV0_2015 => true,
        }
    }

    /// Cuts files into chunks of the profile's size.
    pub const fn chunker(self) -> Chunker {
        Chunker::Size(self.chunk_bytes())
    }

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnixfsV1_2025 => "unixfs-v1-2025",
            Self::KuboDefault => "kubo-default",
            Self::UnixfsV0_2015 => "unixfs-v0-2015",
        }
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::UnixfsV1_2025, Self::KuboDefault, Self::UnixfsV0_2015]
            .into_iter()
            .find(|profile| profile.name() == text)
            .ok_or_else(|| {
                format!("no profile {text:?}: unixfs-v1-2025, kubo-default or unixfs-v0-2015")
            })
    }
}

/// Why blocks are no file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnixFsError {
    /// Not the protobuf that dag-pb or UnixFS wants.
    Malformed,
    /// A link without a sound CID.
    BadLink,
    /// A name that is not UTF-8.
    BadName,
    /// A codec or kind of node that has no bytes to be read.
    Unsupported,
    /// Lengths that do not add up.
    WrongSize,
    /// Deeper than 32 nodes.
    TooDeep,
    /// A directory where a file was expected.
    IsDirectory,
    /// More entries than fit a block.
    TooLarge,
}

impl fmt::Display for UnixFsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "a node is not the protobuf of UnixFS",
            Self::BadLink => "a link has no sound CID",
            Self::BadName => "a name is not UTF-8",
            Self::Unsupported => "a kind of node that is no file",
            Self::WrongSize => "the lengths in a node do not add up",
            Self::TooDeep => "the tree is deeper than any file needs",
            Self::IsDirectory => "it is a directory",
            Self::TooLarge => "a node would not fit a block",
        })
    }
}

impl std::error::Error for UnixFsError {}
