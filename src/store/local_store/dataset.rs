//! Datasets: what one root names, and what people call it.

use barrow_wire::{Cid, Multihash};
use serde::{Deserialize, Serialize};

/// A dataset while it is being stored, and its references ever after. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatasetId(pub(super) u64);

/// What is known of a finished dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetInfo {
    /// What names it.
    #[serde(with = "cid_text")]
    pub root: Cid,
    /// Bytes of its content; of a directory, of all files.
    pub size: u64,
    /// Whether it is kept whatever happens; otherwise `gc` may take it.
    pub pinned: bool,
    /// When a pin ends, in seconds of Unix time; without this, never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// Its file name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mimetype: Option<String>,
    /// When it was finished, in seconds of Unix time.
    pub created: u64,
    /// How it is protected, if `root` is a protected manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protection: Option<Protection>,
}

impl DatasetInfo {
    /// Whether it stays, whatever happens, at that second of Unix time.
    pub fn is_kept(&self, now: u64) -> bool {
        self.pinned && self.expires.is_none_or(|end| now < end)
    }
}

/// How a dataset is protected, and how much of it is kept here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// The plain root that is protected.
    #[serde(with = "cid_text")]
    pub root: Cid,
    /// Data shards of a stripe.
    pub data: u16,
    /// Parity shards of a stripe.
    pub parity: u16,
    /// The slot that is kept, if it is not all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<Slot>,
}

impl Protection {
    /// By stripes of so many data and parity shards.
    ///
    /// # Panics
    /// If no stripe can have so many.
    pub fn new(root: Cid, data: usize, parity: usize, slot: Option<Slot>) -> Self {
        let small = |n: usize| u16::try_from(n).expect("a stripe has at most 256 shards");
        Self { root, data: small(data), parity: small(parity), slot }
    }
}

/// One slot of a protected dataset: the shards j of each stripe with j mod `slots` = `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Which, from 0.
    pub index: u16,
    /// Of how many.
    pub slots: u16,
}

impl std::str::FromStr for Slot {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers = text.split_once('/').and_then(|(index, slots)| {
            Some((index.parse::<u16>().ok()?, slots.parse::<u16>().ok()?))
        });
        match numbers {
            Some((index, slots)) if index < slots && usize::from(slots) <= Self::SLOTS_MAX => {
                Ok(Self { index, slots })
            }
            Some(_) | None => Err("a slot is I/N, with I from 0 to N - 1 and N at most 256"),
        }
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.slots)
    }
}

impl Slot {
    /// Slots of a dataset at most: as many as a stripe may have shards.
    pub const SLOTS_MAX: usize = 256;

    /// The places of a stripe of so many shards that are in the slot.
    pub fn places(self, shards: usize) -> Vec<usize> {
        (usize::from(self.index)..shards).step_by(usize::from(self.slots)).collect()
    }
}

/// A finished dataset: all its blocks are here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dataset {
    /// What is known of it.
    #[serde(flatten)]
    pub info: DatasetInfo,
    /// Its blocks.
    pub blocks: u64,
    /// Bytes of its blocks.
    pub bytes: u64,
}

impl Dataset {
    /// Whether all below its root is here: of a slot, it is not.
    pub fn is_whole(&self) -> bool {
        self.info.protection.as_ref().is_none_or(|protection| protection.slot.is_none())
    }

    /// What its root is stored by; `None` for an identity CID, which needs no store.
    pub(super) fn root_hash(&self) -> Option<Multihash> {
        self.info.root.multihash()
    }
}

mod cid_text {
    use barrow_wire::Cid;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(cid: &Cid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(cid)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Cid, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
