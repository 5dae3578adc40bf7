//! Every shape of stripe and every size of file, through a node: what its parity bears comes back
//! whole, and one loss more ends the file before the stripe that it names.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test reports by a panic"
)]

#[path = "erasure/random.rs"]
mod random;

use barrow::{
    Cid, Config, Node,
    content::store_stream::Scope,
    data::unixfs::Profile,
    erasure::{List, Manifest, Shape},
    node::{PutOptions, Stored},
};
use random::Random;
use std::{
    collections::HashMap,
    fs,
    io::Read as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

const CHUNK: usize = 256 << 10;
/// Bytes of a record before its payload, and where its hash is (docs/PACK_FORMAT.md).
const HEAD_BYTES: usize = 64;

/// Blocks to lose that are as many shards of a stripe, or fewer where some are one block: with
/// one data shard, parity is a copy of it.
fn choose(random: &mut Random, shards: &[Cid], most: usize) -> Vec<Cid> {
    let mut all = shards.to_vec();
    for at in 1..all.len() {
        all.swap(at, random.next() as usize % (at + 1));
    }
    let mut count = 0;
    let mut chosen: Vec<Cid> = Vec::new();
    for cid in all {
        let places = shards.iter().filter(|other| **other == cid).count();
        if !chosen.contains(&cid) && count + places <= most {
            count += places;
            chosen.push(cid);
        }
    }
    chosen
}

fn node(dir: &Path) -> Node {
    let mut config = Config::new(dir);
    config.listen = vec!["127.0.0.1:0".parse().unwrap()];
    (config.dht, config.mdns) = (false, false);
    // Nobody else has it.
    config.provider_timeout = Duration::from_millis(100);
    Node::start(config).unwrap()
}

fn put(node: &Node, shape: Shape, content: &[u8]) -> Stored {
    let options =
        PutOptions { profile: Profile::KuboDefault, protect: Some(shape), ..PutOptions::default() };
    node.put_with(&mut &content[..], options, &mut |_| {}).unwrap()
}

/// The shards of each stripe, data first.
fn stripes(node: &Node, cid: &Cid) -> Vec<Vec<Cid>> {
    let block = |cid: &Cid| node.block(cid, Scope::Local).unwrap();
    let manifest = Manifest::decode(&block(cid)).unwrap();
    let lists = manifest.lists.iter().enumerate();
    let lists = lists.map(|(at, cid)| List::decode(&block(cid), &manifest, at).unwrap().0);
    let all = |stripe: barrow::erasure::Stripe| {
        stripe.data.into_iter().map(|(cid, _)| cid).chain(stripe.parity).collect()
    };
    lists.flatten().map(all).collect()
}

/// Where the payload of each block is.
struct Packs(HashMap<Vec<u8>, (PathBuf, u64)>);

impl Packs {
    fn read(dir: &Path) -> Self {
        let mut found = HashMap::new();
        for pack in fs::read_dir(dir.join("packs")).unwrap() {
            let path = pack.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let mut at = HEAD_BYTES;
            while bytes.get(at + 1..at + 4) == Some(b"brw") {
                let len = u32::from_be_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
                if bytes[at] == 1 {
                    let digest = bytes[at + 17..at + 49].to_vec();
                    found.insert(digest, (path.clone(), (at + HEAD_BYTES) as u64));
                }
                at += HEAD_BYTES + len;
            }
        }
        Self(found)
    }

    /// Flips a bit of a block.
    fn damage(&self, cid: &Cid) {
        let (path, at) = &self.0[&cid.multihash().unwrap().digest()[..]];
        let pack = fs::File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        pack.read_exact_at(&mut byte, *at).unwrap();
        pack.write_all_at(&[byte[0] ^ 1], *at).unwrap();
    }
}

fn shapes() -> impl Iterator<Item = Shape> {
    let small = (1..=6).flat_map(|data| (1..=4).map(move |parity| (data, parity)));
    small.map(|(data, parity)| Shape::new(data, parity).unwrap())
}

#[test]
fn any_shape_and_size_comes_back_without_as_many_shards_as_there_is_parity() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for shape in shapes() {
        let dir = tempfile::tempdir().unwrap();
        let stripe = shape.data() * CHUNK;
        let blocks = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1];
        let sizes = blocks.into_iter().chain([stripe - 1, stripe, stripe + 1, 10 * stripe + 1]);
        let origin = node(dir.path());
        let mut files = Vec::new();
        for size in sizes {
            let content = random.bytes(size);
            let stored = put(&origin, shape, &content);
            files.push((content, stored, stripes(&origin, &stored.cid)));
        }
        origin.shutdown();
        drop(origin);
        let packs = Packs::read(dir.path());
        let mut lost = 0;
        for (content, _, stripes) in &files {
            for shards in stripes.iter().filter(|_| !content.is_empty()) {
                for cid in choose(&mut random, shards, shape.parity()) {
                    packs.damage(&cid);
                    lost += 1;
                }
            }
        }
        assert!(lost > 0 || shape.data() == 1);
        let reader = node(dir.path());
        for (content, stored, _) in &files {
            let mut got = Vec::new();
            reader.get(&stored.root).unwrap().read_to_end(&mut got).unwrap();
            assert!(&got == content, "{shape:?}, {} bytes", content.len());
        }
        reader.shutdown();
    }
}

#[test]
fn one_loss_more_than_any_shape_bears_ends_the_file_before_the_stripe_that_it_names() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for shape in shapes() {
        let dir = tempfile::tempdir().unwrap();
        let content = random.bytes(3 * shape.data() * CHUNK + 1);
        let origin = node(dir.path());
        let stored = put(&origin, shape, &content);
        let stripes = stripes(&origin, &stored.cid);
        origin.shutdown();
        drop(origin);
        let packs = Packs::read(dir.path());
        // All of the first that it bears, and one more of the second: of m + 1, one is data.
        for (number, count) in [(0, shape.parity()), (1, shape.parity() + 1)] {
            for cid in choose(&mut random, &stripes[number], count) {
                packs.damage(&cid);
            }
        }
        let reader = node(dir.path());
        let mut got = Vec::new();
        let error = reader.get(&stored.root).unwrap().read_to_end(&mut got).unwrap_err();
        assert!(error.to_string().contains("stripe 1 is lost"), "{shape:?}: {error}");
        let before = shape.data() * CHUNK;
        assert!(got.len() >= before && got.len() < 2 * before, "{shape:?}: {}", got.len());
        assert!(got == content[..got.len()], "{shape:?}: nothing wrong is delivered");
        reader.shutdown();
    }
}
