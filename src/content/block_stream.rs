//! Blocks of one tree on their way from a program of ours to a serving node, which need not be
//! able to read the files they were made of.
//!
//! Bytes: for each block its length as a u32 and its bytes, all sha2-256; then the u32 of 32 ones,
//! the size of the content as a u64, and the root's binary CID up to the end. Numbers are
//! big-endian.

use crate::{
    base::pool::Pool,
    data::{block::Block, unixfs::Leaf},
};
use barrow_wire::{
    Cid,
    limits::{BLOCK_BYTES_MAX, CID_BYTES_MAX},
};
use std::io::{self, Read, Write};

/// Stands where a length would: no block follows.
const END: u32 = u32::MAX;

/// Appends a block.
///
/// # Errors
/// If it cannot be written.
pub fn write_block(out: &mut dyn Write, block: &Block) -> io::Result<()> {
    let len = u32::try_from(block.len()).expect("a block is at most 2 MiB");
    out.write_all(&len.to_be_bytes())?;
    out.write_all(block.data())
}

/// Ends the stream with the tree's root.
///
/// # Errors
/// If it cannot be written.
pub fn write_root(out: &mut dyn Write, root: &Leaf) -> io::Result<()> {
    out.write_all(&END.to_be_bytes())?;
    out.write_all(&root.size.to_be_bytes())?;
    out.write_all(&root.cid.to_bytes())
}

/// Reads a stream; each block goes to `sink`. Gives root and size.
///
/// # Errors
/// If it cannot be read, or is none.
pub fn read(
    input: &mut dyn Read,
    pool: &Pool,
    sink: &mut dyn FnMut(Block),
) -> io::Result<(Cid, u64)> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    loop {
        let mut len = [0; 4];
        input.read_exact(&mut len)?;
        let len = u32::from_be_bytes(len);
        if len == END {
            break;
        }
        let len = len as usize;
        if len > BLOCK_BYTES_MAX {
            return Err(invalid("a block is too long"));
        }
        let mut buffer = pool.take(len);
        input.read_exact(&mut buffer.as_mut()[..len])?;
        sink(Block::of(buffer.freeze(0..len)).map_err(io::Error::other)?);
    }
    let mut size = [0; 8];
    input.read_exact(&mut size)?;
    let mut root = Vec::new();
    input.take(CID_BYTES_MAX as u64 + 1).read_to_end(&mut root)?;
    let root = Cid::from_bytes(&root).map_err(|_| invalid("the root is no CID"))?;
    Ok((root, u64::from_be_bytes(size)))
}
