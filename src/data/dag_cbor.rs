//! DAG-CBOR: the one binary form of plain data with links, read and written strictly.
//!
//! Pure. Each value has one encoding alone: a decoder that took a second one would give two CIDs
//! to one value. Sources: ipld.io, "DAG-CBOR"; RFC 8949.

use barrow_wire::{Cid, limits::BLOCK_BYTES_MAX};
use bytes::Bytes;
use std::{cmp::Ordering, fmt};

/// Values within values at most; a decoder's recursion is no deeper.
pub const DEPTH_MAX: usize = 64;
/// Values of one block at most: what they take in memory is bounded by it, whatever the block.
pub const ITEMS_MAX: usize = 1 << 16;

/// The tag of a link.
const TAG_LINK: u64 = 42;
/// Stands before the binary CID in a link: the multibase of bytes as they are.
const LINK_PREFIX: u8 = 0;

/// Plain data with links.
///
/// ```
/// use barrow::data::dag_cbor::{Map, Value};
/// let entries = [("size".to_owned(), Value::Unsigned(11)), ("k".to_owned(), Value::Unsigned(4))];
/// let value = Value::Map(Map::new(entries).unwrap());
/// let bytes = value.encode().unwrap();
/// assert_eq!(bytes, b"\xa2\x61k\x04\x64size\x0b");
/// assert_eq!(Value::decode(&bytes.into()).unwrap(), value);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// 0 and above.
    Unsigned(u64),
    /// Below 0: `Negative(n)` is −1 − n.
    Negative(u64),
    /// A finite number, always in 64 bits.
    Float(f64),
    /// Bytes.
    Bytes(Bytes),
    /// UTF-8.
    Text(String),
    /// Values in order.
    List(Vec<Value>),
    /// Values by name.
    Map(Map),
    /// A link. Boxed, so that a list of numbers does not take the room of CIDs.
    Link(Box<Cid>),
}

/// Values by name, in the canonical order: the shorter name first, equal lengths by their bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map(Vec<(String, Value)>);

/// Why bytes are no DAG-CBOR, or a value has no encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DagCborError {
    /// The bytes end within a value.
    Truncated,
    /// Bytes stand behind the value.
    TrailingBytes,
    /// Another encoding than the canonical one: a longer number, names out of order.
    NotCanonical,
    /// A name stands twice in a map.
    DuplicateKey,
    /// A kind of value that DAG-CBOR does not have: tags but 42, undefined, short floats,
    /// indefinite lengths, names that are no text.
    Unsupported,
    /// Not a number, or an infinite one.
    NotFinite,
    /// Text that is not UTF-8.
    BadText,
    /// A link without a sound CID.
    BadLink,
    /// Deeper than [`DEPTH_MAX`].
    TooDeep,
    /// More than [`ITEMS_MAX`] values.
    TooManyItems,
    /// More than [`BLOCK_BYTES_MAX`] bytes.
    TooLong,
}

impl fmt::Display for DagCborError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "the DAG-CBOR ends early",
            Self::TrailingBytes => "bytes stand behind the DAG-CBOR",
            Self::NotCanonical => "the DAG-CBOR is not canonical",
            Self::DuplicateKey => "a name stands twice in a map",
            Self::Unsupported => "a kind of value that DAG-CBOR does not have",
            Self::NotFinite => "a number is not finite",
            Self::BadText => "a text is not UTF-8",
            Self::BadLink => "a link has no sound CID",
            Self::TooDeep => "values are nested too deep",
            Self::TooManyItems => "too many values",
            Self::TooLong => "longer than a block",
        })
    }
}

impl std::error::Error for DagCborError {}

impl Map {
    /// A map of these entries, in whatever order.
    ///
    /// # Errors
    /// [`DagCborError::DuplicateKey`].
    pub fn new(entries: impl IntoIterator<Item = (String, Value)>) -> Result<Self, DagCborError> {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_by(|(a, _), (b, _)| key_order(a, b));
        match entries.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            true => Err(DagCborError::DuplicateKey),
            false => Ok(Self(entries)),
        }
    }

    /// The value of a name.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let at = self.0.binary_search_by(|(name, _)| key_order(name, key));
        at.ok().map(|at| &self.0[at].1)
    }

    /// All entries, in the canonical order.
    pub fn entries(&self) -> &[(String, Value)] {
        &self.0
    }
}

fn key_order(a: &str, b: &str) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.as_bytes().cmp(b.as_bytes()))
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Unsigned(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<Cid> for Value {
    fn from(cid: Cid) -> Self {
        Self::Link(Box::new(cid))
    }
}

impl Value {
    /// The number, if it is one without a fraction.
    pub fn as_integer(&self) -> Option<i128> {
        match self {
            Self::Unsigned(number) => Some(i128::from(*number)),
            Self::Negative(number) => Some(-1 - i128::from(*number)),
            Self::Null
            | Self::Bool(_)
            | Self::Float(_)
            | Self::Bytes(_)
            | Self::Text(_)
            | Self::List(_)
            | Self::Map(_)
            | Self::Link(_) => None,
        }
    }

    /// The number, if it is one from 0 on.
    pub const fn as_u64(&self) -> Option<u64> {
        if let Self::Unsigned(number) = self { Some(*number) } else { None }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The values of a list.
    pub fn as_list(&self) -> Option<&[Self]> {
        if let Self::List(list) = self { Some(list) } else { None }
    }

    /// The map, if it is one.
    pub const fn as_map(&self) -> Option<&Map> {
        if let Self::Map(map) = self { Some(map) } else { None }
    }

    /// Where the link points, if it is one.
    pub fn as_link(&self) -> Option<&Cid> {
        if let Self::Link(cid) = self { Some(cid) } else { None }
    }

    /// All links, in the order in which they stand.
    pub fn links(&self) -> Vec<Cid> {
        let mut links = Vec::new();
        let mut todo = vec![self];
        while let Some(value) = todo.pop() {
            match value {
                Self::Link(cid) => links.push(**cid),
                Self::List(list) => todo.extend(list.iter().rev()),
                Self::Map(map) => todo.extend(map.0.iter().rev().map(|(_, value)| value)),
                Self::Null
                | Self::Bool(_)
                | Self::Unsigned(_)
                | Self::Negative(_)
                | Self::Float(_)
                | Self::Bytes(_)
                | Self::Text(_) => {}
            }
        }
        links
    }

    /// Reads a whole block.
    ///
    /// Nothing is allocated before the bytes for it are known to be there, and never more than
    /// [`ITEMS_MAX`] values.
    ///
    /// # Errors
    /// As [`DagCborError`] says.
    pub fn decode(block: &Bytes) -> Result<Self, DagCborError> {
        if block.len() > BLOCK_BYTES_MAX {
            return Err(DagCborError::TooLong);
        }
        let mut decoder = Decoder { block, at: 0, items_left: ITEMS_MAX };
        let value = decoder.value(0)?;
        match decoder.at == block.len() {
            true => Ok(value),
            false => Err(DagCborError::TrailingBytes),
        }
    }

    /// Writes the canonical form. It may be longer than a block; [`crate::Block::of`] tells.
    ///
    /// # Errors
    /// [`DagCborError::NotFinite`] or [`DagCborError::TooDeep`].
    pub fn encode(&self) -> Result<Vec<u8>, DagCborError> {
        let mut out = Vec::new();
        self.encode_to(&mut out, 0)?;
        Ok(out)
    }

    fn encode_to(&self, out: &mut Vec<u8>, depth: usize) -> Result<(), DagCborError> {
        if depth > DEPTH_MAX {
            return Err(DagCborError::TooDeep);
        }
        match self {
            Self::Null => out.push(simple::NULL),
            Self::Bool(value) => out.push(if *value { simple::TRUE } else { simple::FALSE }),
            Self::Unsigned(number) => put_head(out, major::UNSIGNED, *number),
            Self::Negative(number) => put_head(out, major::NEGATIVE, *number),
            Self::Float(number) if !number.is_finite() => return Err(DagCborError::NotFinite),
            Self::Float(number) => {
                out.push(simple::FLOAT_64);
                out.extend(number.to_bits().to_be_bytes());
            }
            Self::Bytes(bytes) => put_bytes(out, major::BYTES, bytes),
            Self::Text(text) => put_bytes(out, major::TEXT, text.as_bytes()),
            Self::List(list) => {
                put_head(out, major::LIST, list.len() as u64);
                for value in list {
                    value.encode_to(out, depth + 1)?;
                }
            }
            Self::Map(map) => {
                put_head(out, major::MAP, map.0.len() as u64);
                for (key, value) in &map.0 {
                    put_bytes(out, major::TEXT, key.as_bytes());
                    value.encode_to(out, depth + 1)?;
                }
            }
            Self::Link(cid) => {
                put_head(out, major::TAG, TAG_LINK);
                let mut bytes = vec![LINK_PREFIX];
                bytes.extend(cid.to_bytes());
                put_bytes(out, major::BYTES, &bytes);
            }
        }
        Ok(())
    }
}

/// The upper three bits of a value's first byte.
mod major {
    pub(super) const UNSIGNED: u8 = 0;
    pub(super) const NEGATIVE: u8 = 1;
    pub(super) const BYTES: u8 = 2;
    pub(super) const TEXT: u8 = 3;
    pub(super) const LIST: u8 = 4;
    pub(super) const MAP: u8 = 5;
    pub(super) const TAG: u8 = 6;
    pub(super) const SIMPLE: u8 = 7;
}

/// The first bytes of values without a length.
mod simple {
    pub(super) const FALSE: u8 = 0xf4;
    pub(super) const TRUE: u8 = 0xf5;
    pub(super) const NULL: u8 = 0xf6;
    pub(super) const FLOAT_64: u8 = 0xfb;
}

/// Writes a kind and a number in the fewest bytes.
fn put_head(out: &mut Vec<u8>, major: u8, number: u64) {
    let kind = major << 5;
    if number < 24 {
        out.push(kind | number as u8);
    } else if let Ok(number) = u8::try_from(number) {
        out.extend([kind | 24, number]);
    } else if let Ok(number) = u16::try_from(number) {
        out.push(kind | 25);
        out.extend(number.to_be_bytes());
    } else if let Ok(number) = u32::try_from(number) {
        out.push(kind | 26);
        out.extend(number.to_be_bytes());
    } else {
        out.push(kind | 27);
        out.extend(number.to_be_bytes());
    }
}

fn put_bytes(out: &mut Vec<u8>, major: u8, bytes: &[u8]) {
    put_head(out, major, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

struct Decoder<'a> {
    block: &'a Bytes,
    at: usize,
    items_left: usize,
}

impl Decoder<'_> {
    /// Reads a value; the recursion ends at [`DEPTH_MAX`].
    fn value(&mut self, depth: usize) -> Result<Value, DagCborError> {
        if depth > DEPTH_MAX {
            return Err(DagCborError::TooDeep);
        }
        self.items_left = self.items_left.checked_sub(1).ok_or(DagCborError::TooManyItems)?;
        let first = self.byte()?;
        if first >> 5 == major::SIMPLE {
            return self.simple(first);
        }
        let number = self.number(first)?;
        match first >> 5 {
            major::UNSIGNED => Ok(Value::Unsigned(number)),
            major::NEGATIVE => Ok(Value::Negative(number)),
            major::BYTES => Ok(Value::Bytes(self.bytes(number)?)),
            major::TEXT => Ok(Value::Text(self.text(number)?)),
            major::LIST => self.list(number, depth),
            major::MAP => self.map(number, depth),
            _ => self.link(number),
        }
    }

    fn byte(&mut self) -> Result<u8, DagCborError> {
        let byte = *self.block.get(self.at).ok_or(DagCborError::Truncated)?;
        self.at += 1;
        Ok(byte)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DagCborError> {
        let bytes = self.block.get(self.at..).and_then(|rest| rest.first_chunk::<N>());
        self.at += N;
        bytes.copied().ok_or(DagCborError::Truncated)
    }

    fn simple(&mut self, first: u8) -> Result<Value, DagCborError> {
        match first {
            simple::FALSE => Ok(Value::Bool(false)),
            simple::TRUE => Ok(Value::Bool(true)),
            simple::NULL => Ok(Value::Null),
            simple::FLOAT_64 => {
                let number = f64::from_bits(u64::from_be_bytes(self.fixed()?));
                number.is_finite().then_some(Value::Float(number)).ok_or(DagCborError::NotFinite)
            }
            _ => Err(DagCborError::Unsupported),
        }
    }

    /// The number of a first byte, which must be in its shortest form.
    fn number(&mut self, first: u8) -> Result<u64, DagCborError> {
        let (number, least) = match first & 0x1f {
            short @ 0..24 => return Ok(short.into()),
            24 => (self.byte()?.into(), 24),
            25 => (u16::from_be_bytes(self.fixed()?).into(), 1 << 8),
            26 => (u32::from_be_bytes(self.fixed()?).into(), 1 << 16),
            27 => (u64::from_be_bytes(self.fixed()?), 1 << 32),
            // 28 to 30 are reserved, 31 begins an indefinite length.
            _ => return Err(DagCborError::Unsupported),
        };
        if number < least { Err(DagCborError::NotCanonical) } else { Ok(number) }
    }

    fn left(&self) -> usize {
        self.block.len().saturating_sub(self.at)
    }

    fn bytes(&mut self, len: u64) -> Result<Bytes, DagCborError> {
        let len = usize::try_from(len).ok().filter(|&len| len <= self.left());
        let len = len.ok_or(DagCborError::Truncated)?;
        let bytes = self.block.slice(self.at..self.at + len);
        self.at += len;
        Ok(bytes)
    }

    fn text(&mut self, len: u64) -> Result<String, DagCborError> {
        let bytes = self.bytes(len)?;
        std::str::from_utf8(&bytes).map(ToOwned::to_owned).map_err(|_| DagCborError::BadText)
    }

    /// A count of values of at least `item_bytes` bytes each, all of which must be there.
    fn count(&self, count: u64, item_bytes: usize) -> Result<usize, DagCborError> {
        let count = usize::try_from(count).map_err(|_| DagCborError::Truncated)?;
        if count > self.left() / item_bytes {
            return Err(DagCborError::Truncated);
        }
        if count > self.items_left { Err(DagCborError::TooManyItems) } else { Ok(count) }
    }

    fn list(&mut self, count: u64, depth: usize) -> Result<Value, DagCborError> {
        let count = self.count(count, 1)?;
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(self.value(depth + 1)?);
        }
        Ok(Value::List(list))
    }

    fn map(&mut self, count: u64, depth: usize) -> Result<Value, DagCborError> {
        let count = self.count(count, 2)?;
        let mut entries: Vec<(String, Value)> = Vec::with_capacity(count);
        for _ in 0..count {
            let first = self.byte()?;
            if first >> 5 != major::TEXT {
                return Err(DagCborError::Unsupported);
            }
            let len = self.number(first)?;
            let key = self.text(len)?;
            match entries.last().map(|(last, _)| key_order(last, &key)) {
                Some(Ordering::Equal) => return Err(DagCborError::DuplicateKey),
                Some(Ordering::Greater) => return Err(DagCborError::NotCanonical),
                Some(Ordering::Less) | None => {}
            }
            entries.push((key, self.value(depth + 1)?));
        }
        Ok(Value::Map(Map(entries)))
    }

    fn link(&mut self, tag: u64) -> Result<Value, DagCborError> {
        if tag != TAG_LINK {
            return Err(DagCborError::Unsupported);
        }
        let first = self.byte()?;
        if first >> 5 != major::BYTES {
            return Err(DagCborError::BadLink);
        }
        let len = self.number(first)?;
        let bytes = self.bytes(len)?;
        let cid = bytes.strip_prefix(&[LINK_PREFIX]).ok_or(DagCborError::BadLink)?;
        Cid::from_bytes(cid).map(Value::from).map_err(|_| DagCborError::BadLink)
    }
}
