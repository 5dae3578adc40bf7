//! Links of a block, by its codec.

use crate::{
    dag_cbor,
    unixfs::{PbNode, UnixFsError},
};
use barrow_wire::{Cid, Codec};
use bytes::Bytes;

/// The CIDs that a block links to, in order.
///
/// # Errors
/// If it is not what its codec says; [`UnixFsError::Unsupported`] where the codec cannot be read.
pub fn links(cid: &Cid, block: &Bytes) -> Result<Vec<Cid>, UnixFsError> {
    match cid.codec() {
        Codec::Raw => Ok(Vec::new()),
        Codec::DagPb => Ok(PbNode::parse(block)?.links.iter().map(|link| link.cid).collect()),
        Codec::DagCbor => dag_cbor::Value::decode(block)
            .map(|value| value.links())
            .map_err(|_| UnixFsError::Malformed),
        Codec::DagJson | Codec::Other(_) => Err(UnixFsError::Unsupported),
    }
}
