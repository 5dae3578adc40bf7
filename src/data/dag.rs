//! Links of a block, by its codec.

use crate::data::{
    dag_cbor, dag_json,
    unixfs::{PbNode, UnixFsError},
};
use barrow_wire::{Cid, Codec};
use bytes::Bytes;

/// The CIDs that a block links to, in order. Codecs that are not walked have none.
///
/// # Errors
/// If it is not what its codec says.
pub fn links(cid: &Cid, block: &Bytes) -> Result<Vec<Cid>, UnixFsError> {
    match cid.codec() {
        Codec::Raw | Codec::Other(_) => Ok(Vec::new()),
        Codec::DagPb => Ok(PbNode::parse(block)?.links.iter().map(|link| link.cid).collect()),
        Codec::DagCbor => dag_cbor::Value::decode(block)
            .map(|value| value.links())
            .map_err(|_| UnixFsError::Malformed),
        Codec::DagJson => {
            dag_json::decode(block).map(|value| value.links()).ok_or(UnixFsError::Malformed)
        }
    }
}
