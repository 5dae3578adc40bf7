//! The protected manifest: which blocks are the shards of a dataset. Specified in `wire/SPEC.md`.

use super::{STRIPE_BYTES_MAX, Shape};
use crate::data::dag_cbor::{DagCborError, Map, Value};
use barrow_wire::{Cid, Codec, Multihash, limits::BLOCK_BYTES_MAX};
use bytes::Bytes;
use std::{collections::HashSet, fmt, ops::Range};

const KIND: &str = "barrow-protected";
const VERSION: u64 = 1;
const KEYS: [&str; 11] = [
    "data", "kind", "root", "size", "lists", "nodes", "leaves", "parity", "longest", "version",
    "interior",
];
/// Shards of a list at most: a list is a block of some 45 KiB, read for one stripe of it.
const LIST_SHARDS: usize = 1_024;
/// Links to inner nodes in a block of them; all but the last have so many.
const NODE_LINKS: usize = 1_024;
/// Blocks of lists and of inner nodes at most, so that the manifest fits a block.
const LISTS_MAX: usize = 32_768;

/// The first block of a protected dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// What is protected: the root of a plain dataset.
    pub root: Cid,
    /// Bytes of its content.
    pub size: u64,
    /// Shards of a stripe.
    pub shape: Shape,
    /// Data shards in all: blocks without links, one that stands twice in a stripe counted once.
    pub leaves: u64,
    /// Bytes of the longest.
    pub longest: usize,
    /// Blocks with links, each once.
    pub interior: u64,
    /// The blocks that list the stripes.
    pub lists: Vec<Cid>,
    /// The blocks that list the interior ones.
    pub nodes: Vec<Cid>,
}

/// One stripe: its data shards with their lengths, and its parity.
#[derive(Clone, Debug, PartialEq)]
pub struct Stripe {
    /// Data shards; those that lack up to k are empty, and no blocks.
    pub data: Vec<(Cid, usize)>,
    /// Parity shards, all as long as the longest data shard.
    pub parity: Vec<Cid>,
}

/// A block that lists stripes.
#[derive(Clone, Debug, PartialEq)]
pub struct List(pub Vec<Stripe>);

/// A block that lists interior blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct Nodes(pub Vec<Cid>);

/// Why a block is no protected manifest, or no part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestError {
    /// No DAG-CBOR.
    Cbor(DagCborError),
    /// Another kind of DAG-CBOR.
    Kind,
    /// A version that is not known here.
    Version,
    /// A field lacks, is too many, or holds another kind of value.
    Field,
    /// No shape of a stripe.
    Shape,
    /// A length over that of a block, or of the longest that the manifest tells.
    Length,
    /// A stripe over the limit of bytes.
    StripeBytes,
    /// Numbers of leaves, stripes, lists or links that do not fit each other.
    Count,
    /// A link that is no shard's: an identity CID, or parity that is not raw.
    Link,
    /// One block twice in a stripe's data.
    Twice,
    /// A shard that was rebuilt is not what the manifest says.
    Contradiction,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no sound protected manifest: ")?;
        f.write_str(match self {
            Self::Cbor(error) => return error.fmt(f),
            Self::Kind => "another kind of block",
            Self::Version => "a version that is not known here",
            Self::Field => "a field lacks or is of another kind",
            Self::Shape => "impossible numbers of shards",
            Self::Length => "a shard is longer than it may be",
            Self::StripeBytes => "a stripe is over the limit",
            Self::Count => "its numbers do not fit each other",
            Self::Link => "a link is no shard's",
            Self::Twice => "a block stands twice in a stripe",
            Self::Contradiction => "a rebuilt shard is not what it says",
        })
    }
}

impl std::error::Error for ManifestError {}

impl From<DagCborError> for ManifestError {
    fn from(error: DagCborError) -> Self {
        Self::Cbor(error)
    }
}

impl Manifest {
    /// Whether a block of this CID may be a manifest: then it is worth a look.
    pub fn may_be(cid: &Cid) -> bool {
        cid.codec() == Codec::DagCbor
    }

    /// Stripes in all.
    pub fn stripes(&self) -> u64 {
        self.leaves.div_ceil(self.shape.data() as u64)
    }

    /// Stripes of a list, all but the last.
    pub fn stripes_per_list(shape: Shape) -> usize {
        (LIST_SHARDS / shape.shards()).max(1)
    }

    /// The stripes that a list has.
    pub fn stripes_of(&self, list: usize) -> Range<u64> {
        let each = Self::stripes_per_list(self.shape) as u64;
        let start = (list as u64 * each).min(self.stripes());
        start..(start + each).min(self.stripes())
    }

    /// The list that a stripe is in.
    pub fn list_of(&self, stripe: u64) -> usize {
        let list = stripe / Self::stripes_per_list(self.shape) as u64;
        usize::try_from(list).expect("there are at most LISTS_MAX lists")
    }

    /// Writes the block.
    ///
    /// # Errors
    /// [`ManifestError::Count`] if the dataset is larger than a manifest can say.
    pub fn encode(&self) -> Result<Bytes, ManifestError> {
        let links = |cids: &[Cid]| Value::List(cids.iter().map(|cid| (*cid).into()).collect());
        let fields = [
            ("kind", KIND.into()),
            ("version", VERSION.into()),
            ("root", self.root.into()),
            ("size", self.size.into()),
            ("data", (self.shape.data() as u64).into()),
            ("parity", (self.shape.parity() as u64).into()),
            ("leaves", self.leaves.into()),
            ("longest", (self.longest as u64).into()),
            ("interior", self.interior.into()),
            ("lists", links(&self.lists)),
            ("nodes", links(&self.nodes)),
        ];
        self.check_counts()?;
        let map = Map::new(fields.map(|(key, value)| (key.to_owned(), value)))?;
        Ok(Value::Map(map).encode()?.into())
    }

    /// Reads the block, and checks all that it says before anything follows from it.
    ///
    /// # Errors
    /// As [`ManifestError`] says.
    pub fn decode(block: &Bytes) -> Result<Self, ManifestError> {
        let value = Value::decode(block)?;
        let map = value.as_map().ok_or(ManifestError::Kind)?;
        if map.get("kind").and_then(Value::as_text) != Some(KIND) {
            return Err(ManifestError::Kind);
        }
        if map.get("version").and_then(Value::as_u64) != Some(VERSION) {
            return Err(ManifestError::Version);
        }
        if !map.entries().iter().map(|(key, _)| &key[..]).eq(KEYS) {
            return Err(ManifestError::Field);
        }
        let number = |key| map.get(key).and_then(Value::as_u64).ok_or(ManifestError::Field);
        let list = |key| map.get(key).and_then(Value::as_list).ok_or(ManifestError::Field);
        let shape =
            Shape::new(number("data")?, number("parity")?).map_err(|_| ManifestError::Shape)?;
        let longest = usize::try_from(number("longest")?).map_err(|_| ManifestError::Length)?;
        if longest > BLOCK_BYTES_MAX {
            return Err(ManifestError::Length);
        }
        if shape.shards() as u64 * longest as u64 > STRIPE_BYTES_MAX {
            return Err(ManifestError::StripeBytes);
        }
        let root = map.get("root").and_then(Value::as_link).ok_or(ManifestError::Field)?;
        if root.identity().is_some() {
            return Err(ManifestError::Link);
        }
        let manifest = Self {
            root: *root,
            size: number("size")?,
            shape,
            leaves: number("leaves")?,
            longest,
            interior: number("interior")?,
            lists: cids(list("lists")?, Some(Codec::DagCbor))?,
            nodes: cids(list("nodes")?, Some(Codec::DagCbor))?,
        };
        manifest.check_counts()?;
        Ok(manifest)
    }

    fn check_counts(&self) -> Result<(), ManifestError> {
        let each = Self::stripes_per_list(self.shape) as u64;
        let fits = self.lists.len() + self.nodes.len() <= LISTS_MAX
            && self.lists.len() as u64 == self.stripes().div_ceil(each)
            && self.nodes.len() as u64 == self.interior.div_ceil(NODE_LINKS as u64)
            && self.leaves.checked_add(self.interior).is_some_and(|blocks| blocks > 0);
        if fits { Ok(()) } else { Err(ManifestError::Count) }
    }
}

impl List {
    /// Writes the block.
    ///
    /// # Errors
    /// None for a list of a manifest's size.
    pub fn encode(&self) -> Result<Bytes, ManifestError> {
        let stripe = |stripe: &Stripe| {
            let lens = stripe.data.iter().map(|(_, len)| (*len as u64).into()).collect();
            let data = stripe.data.iter().map(|(cid, _)| (*cid).into()).collect();
            let parity = stripe.parity.iter().map(|cid| (*cid).into()).collect();
            Value::List([lens, data, parity].map(Value::List).into())
        };
        Ok(Value::List(self.0.iter().map(stripe).collect()).encode()?.into())
    }

    /// Reads list number `index` of a manifest.
    ///
    /// # Errors
    /// As [`ManifestError`] says.
    pub fn decode(block: &Bytes, manifest: &Manifest, index: usize) -> Result<Self, ManifestError> {
        let value = Value::decode(block)?;
        let stripes = value.as_list().ok_or(ManifestError::Field)?;
        let expected = manifest.stripes_of(index);
        if stripes.len() as u64 != expected.end - expected.start {
            return Err(ManifestError::Count);
        }
        let stripes = stripes.iter().zip(expected);
        let stripe = |(value, number)| Stripe::decode(value, manifest, number);
        Ok(Self(stripes.map(stripe).collect::<Result<_, _>>()?))
    }
}

impl Stripe {
    fn decode(value: &Value, manifest: &Manifest, number: u64) -> Result<Self, ManifestError> {
        let Some([lens, data, parity]) = value.as_list() else { return Err(ManifestError::Field) };
        let lens = lens.as_list().ok_or(ManifestError::Field)?;
        let data = cids(data.as_list().ok_or(ManifestError::Field)?, None)?;
        let parity = cids(parity.as_list().ok_or(ManifestError::Field)?, Some(Codec::Raw))?;
        let each = manifest.shape.data() as u64;
        let expected = each.min(manifest.leaves - number * each);
        if data.len() as u64 != expected
            || lens.len() != data.len()
            || parity.len() != manifest.shape.parity()
        {
            return Err(ManifestError::Count);
        }
        let len = |value: &Value| {
            let len = value.as_u64().ok_or(ManifestError::Field)?;
            let len = usize::try_from(len).ok().filter(|len| *len <= manifest.longest);
            len.ok_or(ManifestError::Length)
        };
        let lens: Vec<usize> = lens.iter().map(len).collect::<Result<_, _>>()?;
        let hashes: HashSet<_> = data.iter().filter_map(Cid::multihash).collect();
        if hashes.len() != data.len() {
            return Err(ManifestError::Twice);
        }
        Ok(Self { data: data.into_iter().zip(lens).collect(), parity })
    }

    /// Bytes of the longest shard, which all parity has.
    pub fn longest(&self) -> usize {
        self.data.iter().map(|(_, len)| *len).max().unwrap_or(0)
    }

    /// Each shard that is a block: its place, data first, and its hash.
    pub fn shards(&self, shape: Shape) -> impl Iterator<Item = (usize, Multihash)> + '_ {
        let data = self.data.iter().map(|(cid, _)| cid).enumerate();
        let parity = self.parity.iter().enumerate().map(move |(at, cid)| (shape.data() + at, cid));
        data.chain(parity).filter_map(|(at, cid)| Some((at, cid.multihash()?)))
    }
}

impl Nodes {
    /// Splits interior blocks into the blocks that list them.
    pub fn split(interior: &[Cid]) -> impl Iterator<Item = Self> + '_ {
        interior.chunks(NODE_LINKS).map(|cids| Self(cids.to_vec()))
    }

    /// Writes the block.
    ///
    /// # Errors
    /// None for a list of a manifest's size.
    pub fn encode(&self) -> Result<Bytes, ManifestError> {
        Ok(Value::List(self.0.iter().map(|cid| (*cid).into()).collect()).encode()?.into())
    }

    /// Reads block number `index` of a manifest.
    ///
    /// # Errors
    /// As [`ManifestError`] says.
    pub fn decode(block: &Bytes, manifest: &Manifest, index: usize) -> Result<Self, ManifestError> {
        let value = Value::decode(block)?;
        let links = value.as_list().ok_or(ManifestError::Field)?;
        let each = NODE_LINKS as u64;
        if links.len() as u64 != each.min(manifest.interior.saturating_sub(index as u64 * each)) {
            return Err(ManifestError::Count);
        }
        Ok(Self(cids(links, None)?))
    }
}

/// Links to blocks, of this codec if it matters.
fn cids(values: &[Value], codec: Option<Codec>) -> Result<Vec<Cid>, ManifestError> {
    let cid = |value: &Value| {
        let cid = value.as_link().ok_or(ManifestError::Field)?;
        let sound = cid.identity().is_none() && codec.is_none_or(|codec| cid.codec() == codec);
        sound.then_some(*cid).ok_or(ManifestError::Link)
    };
    values.iter().map(cid).collect()
}
