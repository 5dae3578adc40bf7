//! CARv1: blocks with their CIDs, one after the other, behind a header with the roots.
//!
//! Source: ipld.io, "CARv1". Each section is a varint of its length and that many bytes: first the
//! header in DAG-CBOR, then for each block its binary CID and its bytes.

mod reader;
mod walk;

pub use reader::{CarError, CarReader, ROOTS_MAX};
pub use walk::{CarWalk, DagScope, EntityBytes, WalkOptions};

use crate::data::dag_cbor::{DagCborError, Map, Value};
use barrow_wire::Cid;

/// Writes the section of the header.
///
/// # Errors
/// None that a list of CIDs can have.
pub fn encode_header(roots: &[Cid]) -> Result<Vec<u8>, DagCborError> {
    let roots = roots.iter().map(|cid| Value::from(*cid)).collect();
    let entries = [("roots".into(), Value::List(roots)), ("version".into(), Value::from(1))];
    let header = Value::Map(Map::new(entries)?).encode()?;
    let mut section = varint(header.len() as u64);
    section.extend(header);
    Ok(section)
}

/// What stands before the bytes of a block: the section's length, and the CID.
pub fn encode_block_head(cid: &Cid, len: usize) -> Vec<u8> {
    let cid = cid.to_bytes();
    let mut head = varint((cid.len() + len) as u64);
    head.extend(cid);
    head
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(10);
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}
