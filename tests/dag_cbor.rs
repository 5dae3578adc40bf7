//! DAG-CBOR has one form for each value, and what is not that form is refused before it costs.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test reports by a panic"
)]

use barrow::{
    Cid, Codec, Multihash,
    data::dag_cbor::{DagCborError as Error, ITEMS_MAX, Map, Value},
};
use barrow_wire::HashCode;
use proptest::{collection::vec, prelude::*};

fn decode(bytes: &[u8]) -> Result<Value, Error> {
    Value::decode(&bytes.to_vec().into())
}

fn cid(seed: u8, codec: Codec) -> Cid {
    Cid::v1(codec, Multihash::of(HashCode::Sha2_256, &[seed]))
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<u64>().prop_map(Value::Unsigned),
        (0_u64..70_000).prop_map(Value::Unsigned),
        any::<u64>().prop_map(Value::Negative),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Value::Float),
        vec(any::<u8>(), 0..300).prop_map(|bytes| Value::Bytes(bytes.into())),
        ".{0,40}".prop_map(Value::Text),
        any::<u8>().prop_map(|seed| cid(seed, Codec::Raw).into()),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Value::List),
            vec((".{0,5}", inner), 0..8).prop_map(|entries| {
                let unique: std::collections::BTreeMap<_, _> = entries.into_iter().collect();
                Value::Map(Map::new(unique).unwrap())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn every_value_comes_back(value in values()) {
        let bytes = value.encode().unwrap();
        prop_assert_eq!(decode(&bytes).unwrap(), value);
        for len in 0..bytes.len() {
            prop_assert!(decode(&bytes[..len]).is_err());
        }
        let mut longer = bytes;
        longer.push(0);
        prop_assert_eq!(decode(&longer).unwrap_err(), Error::TrailingBytes);
    }

    #[test]
    fn what_is_read_has_no_second_form(bytes in vec(any::<u8>(), 0..64)) {
        if let Ok(value) = decode(&bytes) {
            prop_assert_eq!(value.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn a_changed_bit_is_another_value_or_none(value in values(), at in any::<usize>(), bit in 0_u8..8) {
        let bytes = value.encode().unwrap();
        let mut changed = bytes.clone();
        changed[at % bytes.len()] ^= 1_u8 << bit;
        if let Ok(value) = decode(&changed) {
            prop_assert_eq!(value.encode().unwrap(), changed);
        }
    }
}

#[test]
fn known_values_have_their_known_bytes() {
    let map = |entries: &[(&str, Value)]| {
        let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
        Value::Map(Map::new(entries).unwrap())
    };
    let known: [(Value, &[u8]); 9] = [
        (Value::Unsigned(23), &[0x17]),
        (Value::Unsigned(24), &[0x18, 24]),
        (Value::Unsigned(1 << 32), &[0x1b, 0, 0, 0, 1, 0, 0, 0, 0]),
        (Value::Negative(0), &[0x20]),
        (Value::Float(1.5), &[0xfb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0]),
        (Value::List(vec![Value::Null, Value::Bool(true)]), &[0x82, 0xf6, 0xf5]),
        (map(&[("aa", 1.into()), ("b", 2.into())]), b"\xa2\x61b\x02\x62aa\x01"),
        (Value::Bytes(vec![1, 2].into()), &[0x42, 1, 2]),
        ("é".into(), &[0x62, 0xc3, 0xa9]),
    ];
    for (value, bytes) in known {
        assert_eq!(value.encode().unwrap(), bytes, "{value:?}");
        assert_eq!(decode(bytes).unwrap(), value);
    }
    let link = Value::from(cid(1, Codec::DagPb));
    let bytes = link.encode().unwrap();
    assert_eq!(bytes[..5], [0xd8, 42, 0x58, 37, 0]);
    assert_eq!(decode(&bytes).unwrap(), link);
}

#[test]
fn each_other_form_is_refused_by_name() {
    let refused: [(&[u8], Error); 24] = [
        (&[], Error::Truncated),
        (&[0x18, 23], Error::NotCanonical),
        (&[0x19, 0, 255], Error::NotCanonical),
        (&[0x1a, 0, 0, 255, 255], Error::NotCanonical),
        (&[0x1b, 0, 0, 0, 0, 255, 255, 255, 255], Error::NotCanonical),
        (&[0x58, 1, 0], Error::NotCanonical),
        (&[0x9f, 0xff], Error::Unsupported),
        (&[0x5f, 0xff], Error::Unsupported),
        (&[0xf7], Error::Unsupported),
        (&[0xf9, 0x3c, 0], Error::Unsupported),
        (&[0xfa, 0x3f, 0x80, 0, 0], Error::Unsupported),
        (&[0xf8, 0x20], Error::Unsupported),
        (&[0xfb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0], Error::NotFinite),
        (&[0xfb, 0xff, 0xf0, 0, 0, 0, 0, 0, 0], Error::NotFinite),
        (&[0x61, 0xff], Error::BadText),
        (b"\xa2\x61b\x01\x61a\x02", Error::NotCanonical),
        (b"\xa2\x62aa\x01\x61b\x02", Error::NotCanonical),
        (b"\xa2\x61a\x01\x61a\x02", Error::DuplicateKey),
        (&[0xa1, 0x01, 0x01], Error::Unsupported),
        (&[0xc0, 0x00], Error::Unsupported),
        (&[0xd8, 42, 0x41, 1], Error::BadLink),
        (&[0xd8, 42, 0x41, 0], Error::BadLink),
        (&[0xd8, 42, 0x61, 0x61], Error::BadLink),
        (&[0x00, 0x00], Error::TrailingBytes),
    ];
    for (bytes, error) in refused {
        assert_eq!(decode(bytes).unwrap_err(), error, "{bytes:x?}");
    }
}

#[test]
fn figures_that_lie_are_refused_before_they_cost() {
    for major in [0x40, 0x60, 0x80, 0xa0] {
        for figure in [&[27, 255, 255, 255, 255, 255, 255, 255, 255][..], &[26, 0, 255, 255, 255]] {
            let mut bytes = vec![major | figure[0]];
            bytes.extend(&figure[1..]);
            bytes.extend([0; 100]);
            assert_eq!(decode(&bytes).unwrap_err(), Error::Truncated);
        }
    }
    let nested = |depth: usize| [vec![0x81; depth], vec![0]].concat();
    assert!(decode(&nested(64)).is_ok());
    assert_eq!(decode(&nested(65)).unwrap_err(), Error::TooDeep);
    assert_eq!(decode(&nested(1 << 20)).unwrap_err(), Error::TooDeep);
    let list =
        |count: usize| [vec![0x9a], (count as u32).to_be_bytes().to_vec(), vec![0; count]].concat();
    assert!(decode(&list(ITEMS_MAX - 1)).is_err_and(|error| error == Error::NotCanonical));
    assert_eq!(decode(&list(ITEMS_MAX)).unwrap_err(), Error::TooManyItems);
    assert_eq!(decode(&vec![0; (2 << 20) + 1]).unwrap_err(), Error::TooLong);
}

#[test]
fn links_come_in_the_order_in_which_they_stand() {
    let [a, b, c] = [1, 2, 3].map(|seed| cid(seed, Codec::Raw));
    let inner = Map::new([("x".to_owned(), Value::from(b)), ("aa".to_owned(), c.into())]).unwrap();
    let value = Value::List(vec![a.into(), Value::Null, Value::Map(inner)]);
    assert_eq!(value.links(), [a, b, c]);
}
