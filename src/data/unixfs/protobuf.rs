//! The few protobuf fields of dag-pb and UnixFS, read and written strictly.
//!
//! Sources: ipld.io, "DAG-PB"; ipfs/specs, "UnixFS".

use super::UnixFsError;
use barrow_wire::{Cid, limits::CID_BYTES_MAX};
use bytes::Bytes;
use std::ops::Range;

/// A link of a dag-pb node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What it points to.
    pub cid: Cid,
    /// Its name; empty for the parts of a file.
    pub name: String,
    /// Bytes of the whole tree below, as its writer said.
    pub tsize: u64,
}

/// A dag-pb node: links, and where its Data field stands in the block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PbNode {
    pub(crate) links: Vec<Link>,
    pub(crate) data: Option<Range<usize>>,
}

/// The Data field of a UnixFS node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PbData {
    pub(crate) kind: u64,
    /// Where the content stands, within the Data field.
    pub(crate) content: Option<Range<usize>>,
    pub(crate) size: Option<u64>,
    pub(crate) block_sizes: Vec<u64>,
    pub(crate) hash_type: Option<u64>,
    pub(crate) fanout: Option<u64>,
}

/// One field: its number and what it holds.
enum Field {
    Number(u64, u64),
    Bytes(u64, Range<usize>),
}

/// Reads fields from `bytes`, which stand at `offset` of what ranges count from.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    fn varint(&mut self) -> Result<u64, UnixFsError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(UnixFsError::Malformed)?;
            self.at += 1;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return Err(UnixFsError::Malformed);
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(UnixFsError::Malformed)
    }

    fn next(&mut self) -> Result<Option<Field>, UnixFsError> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = key >> 3;
        match key & 7 {
            0 => Ok(Some(Field::Number(number, self.varint()?))),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| UnixFsError::Malformed)?;
                let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len());
                let range = self.at..end.ok_or(UnixFsError::Malformed)?;
                self.at = range.end;
                Ok(Some(Field::Bytes(number, range)))
            }
            _ => Err(UnixFsError::Malformed),
        }
    }
}

impl PbNode {
    /// Reads a node, with links before or after Data (IPIP-550).
    pub(crate) fn parse(block: &Bytes) -> Result<Self, UnixFsError> {
        let mut node = Self { links: Vec::new(), data: None };
        let mut fields = Fields { bytes: block, at: 0 };
        while let Some(field) = fields.next()? {
            match field {
                Field::Bytes(1, range) if node.data.is_none() => node.data = Some(range),
                Field::Bytes(2, range) => node.links.push(parse_link(&block[range])?),
                Field::Bytes(..) | Field::Number(..) => return Err(UnixFsError::Malformed),
            }
        }
        Ok(node)
    }

    /// Bytes that [`Self::encode`] would give.
    pub(crate) fn encoded_len(links: &[Link], data: &[u8]) -> usize {
        let mut out = Vec::new();
        let mut len = 0;
        for link in links {
            out.clear();
            put_link(&mut out, link);
            len += out.len();
        }
        out.clear();
        put_bytes(&mut out, 1, data);
        len + out.len()
    }

    /// Writes a node in the canonical form: links first.
    pub(crate) fn encode(links: &[Link], data: Option<&[u8]>) -> Vec<u8> {
        let mut out = Vec::new();
        for link in links {
            put_link(&mut out, link);
        }
        if let Some(data) = data {
            put_bytes(&mut out, 1, data);
        }
        out
    }
}

fn put_link(out: &mut Vec<u8>, link: &Link) {
    let mut entry = Vec::with_capacity(64);
    put_bytes(&mut entry, 1, &link.cid.to_bytes());
    put_bytes(&mut entry, 2, link.name.as_bytes());
    put_number(&mut entry, 3, link.tsize);
    put_bytes(out, 2, &entry);
}

fn parse_link(bytes: &[u8]) -> Result<Link, UnixFsError> {
    let (mut cid, mut name, mut tsize) = (None, None, 0);
    let mut fields = Fields { bytes, at: 0 };
    while let Some(field) = fields.next()? {
        match field {
            Field::Bytes(1, range) if cid.is_none() && range.len() <= 2 * CID_BYTES_MAX + 64 => {
                cid = Some(Cid::from_bytes(&bytes[range]).map_err(|_| UnixFsError::BadLink)?);
            }
            Field::Bytes(2, range) if name.is_none() => {
                let text = std::str::from_utf8(&bytes[range]).map_err(|_| UnixFsError::BadName)?;
                name = Some(text.to_owned());
            }
            Field::Number(3, number) => tsize = number,
            Field::Bytes(..) | Field::Number(..) => return Err(UnixFsError::Malformed),
        }
    }
    Ok(Link { cid: cid.ok_or(UnixFsError::BadLink)?, name: name.unwrap_or_default(), tsize })
}

impl PbData {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, UnixFsError> {
        let mut data = Self::default();
        let mut kind = None;
        let mut fields = Fields { bytes, at: 0 };
        while let Some(field) = fields.next()? {
            match field {
                Field::Number(1, number) => kind = Some(number),
                Field::Bytes(2, range) => data.content = Some(range),
                Field::Number(3, number) => data.size = Some(number),
                Field::Number(4, number) => data.block_sizes.push(number),
                Field::Bytes(4, range) => {
                    // Packed, as some writers have it.
                    let mut packed = Fields { bytes: &bytes[..range.end], at: range.start };
                    while packed.at < range.end {
                        data.block_sizes.push(packed.varint()?);
                    }
                }
                Field::Number(5, number) => data.hash_type = Some(number),
                Field::Number(6, number) => data.fanout = Some(number),
                // Mode and times (UnixFS 1.5), which do not change what is read.
                Field::Number(7, _) | Field::Bytes(8, _) => {}
                Field::Number(..) | Field::Bytes(..) => return Err(UnixFsError::Malformed),
            }
        }
        data.kind = kind.ok_or(UnixFsError::Malformed)?;
        Ok(data)
    }

    pub(crate) fn encode(&self, content: Option<&[u8]>) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + content.map_or(0, <[u8]>::len));
        put_number(&mut out, 1, self.kind);
        if let Some(content) = content {
            put_bytes(&mut out, 2, content);
        }
        if let Some(size) = self.size {
            put_number(&mut out, 3, size);
        }
        for size in &self.block_sizes {
            put_number(&mut out, 4, *size);
        }
        if let Some(hash_type) = self.hash_type {
            put_number(&mut out, 5, hash_type);
        }
        if let Some(fanout) = self.fanout {
            put_number(&mut out, 6, fanout);
        }
        out
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_number(out: &mut Vec<u8>, field: u64, value: u64) {
    put_varint(out, field << 3);
    put_varint(out, value);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
