//! Any k of k + m shards give all, and a manifest that lies is refused by name.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test reports by a panic"
)]

#[path = "erasure/random.rs"]
mod random;

use barrow::{
    Cid, Codec, Multihash,
    data::dag_cbor::{Map, Value},
    erasure::{Code, List, Manifest, ManifestError, Nodes, Shape, Stripe, kernels},
};
use barrow_wire::HashCode;
use random::Random;
use reed_solomon_erasure::galois_8;

fn shape(data: u64, parity: u64) -> Shape {
    Shape::new(data, parity).unwrap()
}

fn encode(code: &Code, data: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let longest = data.iter().map(Vec::len).max().unwrap();
    let mut parity = vec![vec![0; longest]; code.shape().parity()];
    let shards: Vec<(usize, &[u8])> = data.iter().map(|d| &d[..]).enumerate().collect();
    code.add(code.parity_rows(), &shards, &mut parity);
    parity
}

/// Loses `lost` of a stripe, and rebuilds them from what is left.
fn check_loss(code: &Code, all: &[Vec<u8>], lost: &[usize]) {
    let longest = all.last().unwrap().len();
    let present: Vec<usize> =
        (0..all.len()).filter(|at| !lost.contains(at)).take(code.shape().data()).collect();
    let rows = code.rows(&present, lost);
    let shards: Vec<(usize, &[u8])> = present.iter().map(|&at| &all[at][..]).enumerate().collect();
    let mut sums = vec![vec![0; longest]; lost.len()];
    code.add(&rows, &shards, &mut sums);
    for (at, sum) in lost.iter().zip(sums) {
        let mut padded = all[*at].clone();
        padded.resize(longest, 0);
        assert_eq!(sum, padded, "shard {at} of losses {lost:?}");
    }
}

/// Every set of at most `most` of `n` numbers.
fn subsets(n: usize, most: usize) -> Vec<Vec<usize>> {
    let mut sets = vec![Vec::new()];
    for at in 0..n {
        let with: Vec<Vec<usize>> = sets
            .iter()
            .filter(|set| set.len() < most)
            .map(|set| [&set[..], &[at]].concat())
            .collect();
        sets.extend(with);
    }
    sets
}

#[test]
fn small_codes_survive_every_loss_at_every_length() {
    let mut random = Random(7);
    for data in 1..=6 {
        for parity in 1..=4 {
            let code = Code::new(shape(data, parity));
            for len in [0, 1, 63, 64, 65, 1_000] {
                // The last is shorter, as that of a file is.
                let mut all: Vec<Vec<u8>> = (0..data)
                    .map(|at| random.bytes(if at + 1 == data { len / 2 } else { len }))
                    .collect();
                all.extend(encode(&code, &all));
                for lost in subsets(all.len(), parity as usize) {
                    check_loss(&code, &all, &lost);
                }
            }
        }
    }
}

#[test]
fn large_codes_survive_random_losses() {
    let mut random = Random(11);
    // The last takes long for its matrices: `BARROW_LOSSES=1000` for as many as of the others.
    let most: usize = std::env::var("BARROW_LOSSES").map_or(50, |text| text.parse().unwrap());
    for (data, parity, len, rounds) in [
        (10, 4, 20_000, 1_000),
        (20, 10, 1_024, 1_000),
        (64, 32, 1_024, 1_000),
        (200, 56, 1_024, most),
    ] {
        let code = Code::new(shape(data, parity));
        let mut all: Vec<Vec<u8>> = (0..data).map(|_| random.bytes(len)).collect();
        all.extend(encode(&code, &all));
        for _ in 0..rounds {
            let mut places: Vec<usize> = (0..all.len()).collect();
            for at in 0..parity as usize {
                let other = at + random.next() as usize % (places.len() - at);
                places.swap(at, other);
            }
            let mut lost = places[..parity as usize].to_vec();
            lost.sort_unstable();
            check_loss(&code, &all, &lost);
        }
    }
}

#[test]
fn parity_is_that_of_the_crate_with_every_kernel() {
    let mut random = Random(3);
    for (data, parity, len) in [(4, 2, 9_001), (10, 4, 8_192), (1, 3, 77), (17, 15, 500)] {
        let plain: Vec<Vec<u8>> = (0..data).map(|_| random.bytes(len)).collect();
        let mut oracle = vec![vec![0; len]; parity];
        let crate_code = galois_8::ReedSolomon::new(data, parity).unwrap();
        crate_code.encode_sep(&plain, &mut oracle).unwrap();
        for kernel in kernels() {
            let code = Code::with_kernel(shape(data as u64, parity as u64), kernel);
            assert_eq!(encode(&code, &plain), oracle, "{} {data}+{parity}", kernel.name());
        }
    }
}

fn cid(seed: u64, codec: Codec) -> Cid {
    Cid::v1(codec, Multihash::of(HashCode::Sha2_256, &seed.to_be_bytes()))
}

fn manifest() -> Manifest {
    Manifest {
        root: cid(0, Codec::DagPb),
        size: 11 << 20,
        shape: shape(4, 2),
        leaves: 11,
        longest: 1 << 20,
        interior: 1,
        lists: vec![cid(1, Codec::DagCbor)],
        nodes: vec![cid(2, Codec::DagCbor)],
    }
}

fn list() -> List {
    let stripe = |stripe: u64, leaves: u64| Stripe {
        data: (0..leaves).map(|at| (cid(100 + stripe * 10 + at, Codec::Raw), 1 << 20)).collect(),
        parity: (0..2).map(|at| cid(200 + stripe * 10 + at, Codec::Raw)).collect(),
    };
    List(vec![stripe(0, 4), stripe(1, 4), stripe(2, 3)])
}

#[test]
fn manifests_come_back() {
    let manifest = manifest();
    let bytes = manifest.encode().unwrap();
    assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
    assert_eq!(manifest.stripes(), 3);
    let bytes = list().encode().unwrap();
    assert_eq!(List::decode(&bytes, &manifest, 0).unwrap(), list());
    let nodes = Nodes(vec![manifest.root]);
    assert_eq!(Nodes::decode(&nodes.encode().unwrap(), &manifest, 0).unwrap(), nodes);
}

/// The manifest with one field changed, or without it.
fn changed(key: &str, value: Option<Value>) -> Result<Manifest, ManifestError> {
    let decoded = Value::decode(&manifest().encode().unwrap()).unwrap();
    let mut entries: Vec<(String, Value)> = decoded.as_map().unwrap().entries().to_vec();
    entries.retain(|(name, _)| name != key);
    entries.extend(value.map(|value| (key.to_owned(), value)));
    Manifest::decode(&Value::Map(Map::new(entries).unwrap()).encode().unwrap().into())
}

#[test]
fn a_manifest_that_lies_is_refused_by_name() {
    use ManifestError as E;
    let number = |number: u64| Some(Value::Unsigned(number));
    let links = |count: u64| {
        Some(Value::List((0..count).map(|at| cid(at, Codec::DagCbor).into()).collect()))
    };
    let refused = [
        ("kind", Some("barrow".into()), E::Kind),
        ("kind", None, E::Kind),
        ("version", number(2), E::Version),
        ("extra", number(2), E::Field),
        ("size", None, E::Field),
        ("size", Some(Value::Negative(0)), E::Field),
        ("root", number(1), E::Field),
        ("data", number(0), E::Shape),
        ("parity", number(0), E::Shape),
        ("data", number(255), E::Shape),
        ("parity", number(u64::MAX), E::Shape),
        ("longest", number(u64::MAX), E::Length),
        ("longest", number((2 << 20) + 1), E::Length),
        ("parity", number(100), E::StripeBytes),
        ("leaves", number(u64::MAX), E::Count),
        ("leaves", number(0), E::Count),
        ("interior", number(u64::MAX), E::Count),
        ("interior", number(0), E::Count),
        ("lists", links(0), E::Count),
        ("lists", links(2), E::Count),
        ("nodes", links(0), E::Count),
        ("lists", Some(Value::List(vec![cid(1, Codec::Raw).into()])), E::Link),
        ("lists", Some(Value::List(vec![1.into()])), E::Field),
    ];
    for (key, value, error) in refused {
        let text = format!("{key} {value:?}");
        assert_eq!(changed(key, value).unwrap_err(), error, "{text}");
    }
}

#[test]
fn a_list_that_lies_is_refused_by_name() {
    use ManifestError as E;
    type Change = fn(&mut Vec<Stripe>);
    let refused: [(Change, E); 8] = [
        (|list| drop(list.pop()), E::Count),
        (|list| list.push(list[0].clone()), E::Count),
        (|list| list[0].data.truncate(3), E::Count),
        (|list| list[2].parity.truncate(1), E::Count),
        (|list| list.swap(0, 2), E::Count),
        (|list| list[1].data[1].1 = (1 << 20) + 1, E::Length),
        (|list| list[1].data[1] = list[1].data[0], E::Twice),
        (|list| list[1].parity[1] = cid(9, Codec::DagPb), E::Link),
    ];
    for (number, (change, error)) in refused.into_iter().enumerate() {
        let mut list = list();
        change(&mut list.0);
        let bytes = list.encode().unwrap();
        assert_eq!(List::decode(&bytes, &manifest(), 0).unwrap_err(), error, "{number}");
    }
}

#[test]
fn the_vectors_hold() {
    use serde_json::Value as Json;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/wire/vectors/protected.json");
    let vectors: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let bytes =
        |json: &Json| data_encoding::HEXLOWER.decode(json.as_str().unwrap().as_bytes()).unwrap();
    let manifest = Manifest::decode(&bytes(&vectors["manifest"]).into()).unwrap();
    assert_eq!(manifest.root.to_string(), vectors["root"]);
    assert_eq!(manifest.encode().unwrap(), bytes(&vectors["manifest"]));
    let hash = Multihash::of(HashCode::Sha2_256, &bytes(&vectors["manifest"]));
    assert_eq!(Cid::v1(Codec::DagCbor, hash).to_string(), vectors["cid"]);
    let list = List::decode(&bytes(&vectors["list"]).into(), &manifest, 0).unwrap();
    assert_eq!(list.encode().unwrap(), bytes(&vectors["list"]));
    let code = Code::new(manifest.shape);
    for (stripe, known) in list.0.iter().zip(vectors["stripes"].as_array().unwrap()) {
        let shards = |key: &str| -> Vec<Vec<u8>> {
            known[key].as_array().unwrap().iter().map(bytes).collect()
        };
        let (data, parity) = (shards("data"), shards("parity"));
        assert_eq!(encode(&code, &data), parity);
        let named = stripe.data.iter().map(|(cid, _)| cid).chain(&stripe.parity);
        for (cid, shard) in named.zip(data.iter().chain(&parity)) {
            assert!(cid.multihash().unwrap().verifies(shard));
        }
    }
    for case in vectors["refused"].as_array().unwrap() {
        let block = bytes(&case["bytes"]).into();
        let error = match case["of"].as_str().unwrap() {
            "manifest" => Manifest::decode(&block).map(|_| ()),
            "list" => List::decode(&block, &manifest, 0).map(|_| ()),
            _ => Nodes::decode(&block, &manifest, 0).map(|_| ()),
        };
        let name = format!("{:?}", error.expect_err(&case.to_string()));
        assert!(name.starts_with(case["error"].as_str().unwrap()), "{name}: {case}");
    }
}
