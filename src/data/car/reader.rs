//! Reading a CARv1: nothing is allocated before a limit has judged its length, and no block is
//! given that was not verified.

use crate::{
    base::pool::Pool,
    data::{
        block::{Block, BlockError},
        dag_cbor::{DagCborError, Value},
    },
};
use barrow_wire::{
    Cid, CidError,
    limits::{BLOCK_BYTES_MAX, IDENTITY_BYTES_MAX},
};
use bytes::Bytes;
use std::{
    fmt,
    io::{self, Read},
};

/// Roots of a CAR at most.
pub const ROOTS_MAX: usize = 1_000;
/// Bytes of a header at most: what [`ROOTS_MAX`] roots with room to spare take.
const HEADER_BYTES_MAX: u64 = 128 << 10;
/// Bytes of a section's CID at most: an identity CID with all it may carry.
const CID_BYTES_MAX: usize = IDENTITY_BYTES_MAX + 32;

/// Why bytes are no CAR, or one that is not taken.
#[derive(Debug)]
pub enum CarError {
    /// It cannot be read, or ends early.
    Read(io::Error),
    /// The header is no CARv1's.
    Header(&'static str),
    /// The header is no DAG-CBOR.
    HeaderCbor(DagCborError),
    /// The section at this offset is malformed.
    Section(u64, &'static str),
    /// The section at this offset has no CID that is taken.
    Cid(u64, CidError),
    /// The bytes of the section at this offset are not what its CID says.
    Block(u64, BlockError),
}

impl fmt::Display for CarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("the CAR ends early")
            }
            Self::Read(error) => write!(f, "reading the CAR: {error}"),
            Self::Header(why) => write!(f, "the header of the CAR: {why}"),
            Self::HeaderCbor(error) => write!(f, "the header of the CAR: {error}"),
            Self::Section(offset, why) => write!(f, "the CAR at byte {offset}: {why}"),
            Self::Cid(offset, error) => write!(f, "the CAR at byte {offset}: {error}"),
            Self::Block(offset, error) => write!(f, "the CAR at byte {offset}: {error}"),
        }
    }
}

impl std::error::Error for CarError {}

impl From<io::Error> for CarError {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// The blocks of a CAR, one after the other.
pub struct CarReader<'a> {
    input: &'a mut dyn Read,
    roots: Vec<Cid>,
    /// Bytes read so far.
    offset: u64,
}

impl<'a> CarReader<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`CarError`] if it is no CARv1's, or has more than [`ROOTS_MAX`] roots.
    pub fn open(input: &'a mut dyn Read) -> Result<Self, CarError> {
        let mut reader = Self { input, roots: Vec::new(), offset: 0 };
        let len = reader.varint()?.ok_or(CarError::Header("there is none"))?;
        if !(1..=HEADER_BYTES_MAX).contains(&len) {
            return Err(CarError::Header("its length is no header's"));
        }
        let mut header = vec![0; usize::try_from(len).expect("bounded above")];
        reader.read_exact(&mut header)?;
        let header = Value::decode(&header.into()).map_err(CarError::HeaderCbor)?;
        reader.roots = roots(&header)?;
        Ok(reader)
    }

    /// What it is about; not all of it need be in it.
    pub fn roots(&self) -> &[Cid] {
        &self.roots
    }

    /// Bytes read so far.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next block; `None` at the end. Identity CIDs are passed over: they carry their bytes
    /// themselves.
    ///
    /// # Errors
    /// [`CarError`]; what was given before is sound all the same.
    pub fn next_block(&mut self, pool: &Pool) -> Result<Option<(Cid, Block)>, CarError> {
        loop {
            let start = self.offset;
            let Some(len) = self.varint()? else { return Ok(None) };
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            if len == 0 || len > CID_BYTES_MAX + BLOCK_BYTES_MAX {
                return Err(CarError::Section(start, "no block has such a length"));
            }
            // The CID does not say how long it is: what follows it is the block's beginning.
            let mut front = [0; CID_BYTES_MAX];
            let front = &mut front[..len.min(CID_BYTES_MAX)];
            self.read_exact(front)?;
            let (cid, begun) = Cid::read(front).map_err(|error| CarError::Cid(start, error))?;
            let data_len = len - (front.len() - begun.len());
            if data_len > BLOCK_BYTES_MAX {
                return Err(CarError::Block(start, BlockError::TooLong));
            }
            let mut buffer = pool.take(data_len);
            let data = &mut buffer.as_mut()[..data_len];
            data[..begun.len()].copy_from_slice(begun);
            let begun = begun.len();
            self.read_exact(&mut data[begun..])?;
            let data: Bytes = buffer.freeze(0..data_len);
            let Some(hash) = cid.multihash() else {
                if cid.identity() != Some(&data[..]) {
                    return Err(CarError::Block(start, BlockError::Mismatch));
                }
                continue;
            };
            let block = Block::verify(hash, data).map_err(|error| CarError::Block(start, error))?;
            return Ok(Some((cid, block)));
        }
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), CarError> {
        self.input.read_exact(buffer)?;
        self.offset += buffer.len() as u64;
        Ok(())
    }

    /// A length; `None` if the input ends before it.
    fn varint(&mut self) -> Result<Option<u64>, CarError> {
        let start = self.offset;
        let mut value = 0_u64;
        for shift in (0..63).step_by(7) {
            let mut byte = [0];
            match self.read_exact(&mut byte) {
                Err(CarError::Read(error))
                    if shift == 0 && error.kind() == io::ErrorKind::UnexpectedEof =>
                {
                    return Ok(None);
                }
                read => read?,
            }
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] == 0 && shift > 0 {
                break;
            }
            if byte[0] < 0x80 {
                return Ok(Some(value));
            }
        }
        Err(CarError::Section(start, "a malformed length"))
    }
}

fn roots(header: &Value) -> Result<Vec<Cid>, CarError> {
    let map = header.as_map().ok_or(CarError::Header("it is no map"))?;
    match map.get("version").and_then(Value::as_u64) {
        Some(1) => {}
        Some(2) => return Err(CarError::Header("version 2; only version 1 is read")),
        Some(_) | None => return Err(CarError::Header("its version is not 1")),
    }
    let roots = map.get("roots").and_then(Value::as_list);
    let roots = roots.ok_or(CarError::Header("it has no roots"))?;
    if roots.len() > ROOTS_MAX || map.entries().len() > 2 {
        return Err(CarError::Header("more than a header holds"));
    }
    let root = |value: &Value| value.as_link().copied();
    let roots: Option<Vec<Cid>> = roots.iter().map(root).collect();
    roots.ok_or(CarError::Header("a root is no CID"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::car::{encode_block_head, encode_header};
    use barrow_wire::Codec;

    fn block(text: &str) -> (Cid, Block) {
        let block = Block::of(text.to_owned().into()).unwrap();
        (Cid::v1(Codec::Raw, *block.hash()), block)
    }

    fn car(blocks: &[(Cid, Block)]) -> Vec<u8> {
        let roots: Vec<Cid> = blocks.iter().map(|(cid, _)| *cid).take(1).collect();
        let mut car = encode_header(&roots).unwrap();
        for (cid, block) in blocks {
            car.extend(encode_block_head(cid, block.len()));
            car.extend(block.data());
        }
        car
    }

    fn read(bytes: &[u8]) -> Result<Vec<(Cid, Block)>, CarError> {
        let (mut input, pool) = (bytes, Pool::new(4 << 20));
        let mut reader = CarReader::open(&mut input)?;
        let mut blocks = Vec::new();
        while let Some(block) = reader.next_block(&pool)? {
            blocks.push(block);
        }
        Ok(blocks)
    }

    #[test]
    fn what_was_written_is_read_and_every_cut_is_told() {
        let blocks = [block("hello world"), block(""), block(&"x".repeat(300))];
        let car = car(&blocks);
        let got = read(&car).unwrap();
        let cids = |blocks: &[(Cid, Block)]| blocks.iter().map(|(cid, _)| *cid).collect::<Vec<_>>();
        assert_eq!(cids(&got), cids(&blocks));
        let mut whole = 0;
        for cut in 0..car.len() {
            whole += usize::from(read(&car[..cut]).is_ok());
        }
        // Behind the header and behind a section a CAR may end.
        assert_eq!(whole, blocks.len());
    }

    #[test]
    fn one_wrong_bit_anywhere_in_a_block_is_refused() {
        let car = car(&[block("hello world")]);
        let data = car.len() - 11;
        for at in data..car.len() {
            for bit in 0..8 {
                let mut wrong = car.clone();
                wrong[at] ^= 1 << bit;
                assert!(matches!(read(&wrong), Err(CarError::Block(..))), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn hostile_lengths_are_refused_before_anything_is_allocated() {
        let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(matches!(read(&huge), Err(CarError::Header(_))));
        assert!(matches!(read(&[0xff; 32]), Err(CarError::Section(0, _))));
        assert!(matches!(read(&[0x80, 0x00]), Err(CarError::Section(0, _))));
        assert!(matches!(read(&[]), Err(CarError::Header(_))));
        assert!(matches!(read(&[0]), Err(CarError::Header(_))));
        let header = encode_header(&[]).unwrap();
        let with = |tail: &[u8]| read(&[&header[..], tail].concat());
        assert!(matches!(with(&huge), Err(CarError::Section(..))));
        assert!(matches!(with(&[0]), Err(CarError::Section(..))));
        assert!(matches!(with(&[1, 1]), Err(CarError::Cid(..))));
        // A CARv2 begins with a pragma that is a header of version 2.
        let pragma = b"\x0a\xa1\x67version\x02";
        assert!(matches!(read(pragma), Err(CarError::Header(_))));
        let many = vec![block("x").0; ROOTS_MAX + 1];
        assert!(matches!(read(&encode_header(&many).unwrap()), Err(CarError::Header(_))));
    }
}
