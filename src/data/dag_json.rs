//! DAG-JSON, as far as paths and links through it need: read only, into the same values as
//! DAG-CBOR. What is served are the block's own bytes.
//!
//! Source: ipld.io, "DAG-JSON".

use crate::data::dag_cbor::{Map, Value};
use serde_json::Value as Json;

/// Bytes of a block that is parsed at most: a JSON value of two bytes takes some thirty in memory.
pub const BYTES_MAX: usize = 256 << 10;

/// Reads a block; `None` if it is no DAG-JSON, or more than [`BYTES_MAX`].
///
/// ```
/// let value = barrow::data::dag_json::decode(br#"{"a":{"/":"bafkqaaa"}}"#).unwrap();
/// assert_eq!(value.links(), ["bafkqaaa".parse().unwrap()]);
/// ```
pub fn decode(block: &[u8]) -> Option<Value> {
    if block.len() > BYTES_MAX {
        return None;
    }
    // serde_json bounds the depth itself.
    value(serde_json::from_slice(block).ok()?)
}

fn value(json: Json) -> Option<Value> {
    Some(match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(value),
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => Value::Unsigned(number),
            (None, Some(number)) => Value::Negative(!number.cast_unsigned()),
            (None, None) => Value::Float(number.as_f64()?),
        },
        Json::String(text) => Value::Text(text),
        Json::Array(list) => Value::List(list.into_iter().map(value).collect::<Option<_>>()?),
        Json::Object(map) => match map.get("/") {
            Some(Json::String(cid)) if map.len() == 1 => Value::Link(Box::new(cid.parse().ok()?)),
            // {"/":{"bytes":"…"}}: nothing can be below it.
            Some(Json::Object(_)) if map.len() == 1 => Value::Bytes(bytes::Bytes::new()),
            _ => {
                let entry = |(name, json)| Some((name, value(json)?));
                let entries: Option<Vec<_>> = map.into_iter().map(entry).collect();
                Value::Map(Map::new(entries?).ok()?)
            }
        },
    })
}
