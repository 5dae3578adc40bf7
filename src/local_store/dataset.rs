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
    /// Its file name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mimetype: Option<String>,
    /// When it was finished, in seconds of Unix time.
    pub created: u64,
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
