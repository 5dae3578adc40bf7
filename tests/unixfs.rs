//! CIDs equal IPFS's, and what was imported reads back from any offset.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test reports by a panic"
)]

use barrow::{
    Block, Cid, Multihash, Pool,
    base::workers,
    content::import::Importer,
    data::unixfs::{
        DirectoryBuilder, FileWalk, Found, HamtCursor, Leaf, Node, Profile, Step, split_shard,
    },
};
use chacha20::{
    ChaCha20,
    cipher::{KeyIvInit as _, StreamCipher as _},
};
use sha2::{Digest as _, Sha256};
use std::{collections::HashMap, fs, io::Read};

/// The keystream of which the published CIDs are (IPIP-499).
struct Keystream(ChaCha20);

impl Keystream {
    fn new(seed: &str) -> Self {
        Self(ChaCha20::new(&Sha256::digest(seed), &[0; 12].into()))
    }
}

impl Read for Keystream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        buffer.fill(0);
        self.0.apply_keystream(buffer);
        Ok(buffer.len())
    }
}

fn import(profile: Profile, reader: &mut dyn Read, sink: &mut dyn FnMut(Block)) -> Leaf {
    let (pool, workers) = (Pool::new(16 << 20), workers::start().unwrap());
    let progress = &mut |_| {};
    Importer {
        profile,
        chunker: profile.chunker(),
        pool: &pool,
        workers: &workers,
        sink,
        leaf: None,
        progress,
    }
    .stream(reader)
    .unwrap()
}

fn cid_of(profile: Profile, seed: &str, bytes: u64) -> String {
    import(profile, &mut Keystream::new(seed).take(bytes), &mut |_| {}).cid.to_string()
}

#[test]
fn files_around_a_chunk_have_the_published_cids() {
    let modern = Profile::UnixfsV1_2025;
    assert_eq!(
        import(modern, &mut &b"hello world"[..], &mut |_| {}).cid.to_string(),
        "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
    );
    for (profile, seed, bytes, cid) in [
        (
            modern,
            "chunk-v1-seed",
            1_048_576,
            "bafkreiacndfy443ter6qr2tmbbdhadvxxheowwf75s6zehscklu6ezxmta",
        ),
        (
            modern,
            "chunk-v1-seed",
            1_048_577,
            "bafybeigmix7t42i6jacydtquhet7srwvgpizfg7gjbq7627d35mjomtu64",
        ),
        (
            Profile::UnixfsV0_2015,
            "chunk-v0-seed",
            262_144,
            "QmWmRj3dFDZdb6ABvbmKhEL6TmPbAfBZ1t5BxsEyJrcZhE",
        ),
        (
            Profile::UnixfsV0_2015,
            "chunk-v0-seed",
            262_145,
            "QmYyLxtzZyW22zpoVAtKANLRHpDjZtNeDjQdJrcQNWoRkJ",
        ),
        (
            Profile::UnixfsV0_2015,
            "v0-seed",
            174 << 18,
            "QmUbBALi174SnogsUzLpYbD4xPiBSFANF4iztWCsHbMKh2",
        ),
        (
            Profile::UnixfsV0_2015,
            "v0-seed",
            (174 << 18) + 1,
            "QmV81WL765sC8DXsRhE5fJv2rwhS4icHRaf3J9Zk5FdRnW",
        ),
    ] {
        assert_eq!(cid_of(profile, seed, bytes), cid, "{seed}, {bytes} bytes");
    }
}

#[test]
#[ignore = "hashes 2 GiB: cargo test --release --test unixfs -- --ignored"]
fn files_around_a_full_node_have_the_published_cids() {
    for (bytes, cid) in [
        (1 << 30, "bafybeihmf37wcuvtx4hpu7he5zl5qaf2ineo2lqlfrapokkm5zzw7zyhvm"),
        ((1 << 30) + 1, "bafybeibdsi225ugbkmpbdohnxioyab6jsqrmkts3twhpvfnzp77xtzpyhe"),
    ] {
        assert_eq!(cid_of(Profile::UnixfsV1_2025, "v1-2025-seed", bytes), cid);
    }
}

#[test]
fn a_file_reads_back_whole_and_in_any_range() {
    for profile in [Profile::UnixfsV1_2025, Profile::KuboDefault, Profile::UnixfsV0_2015] {
        let len = 180 * profile.chunk_bytes().min(1 << 18) + 12_345;
        let mut content = vec![0; len];
        Keystream::new("ranges").read_exact(&mut content).unwrap();
        let mut blocks: HashMap<Multihash, Block> = HashMap::new();
        let file = import(profile, &mut &content[..], &mut |block| {
            // A copy: the importer's buffers go back to its pool.
            let copy = block.data().to_vec().into();
            blocks.insert(*block.hash(), Block::verify(*block.hash(), copy).unwrap());
        });
        assert_eq!(file.size, len as u64);
        let block = |cid: &Cid| blocks[&cid.multihash().unwrap()].data().clone();
        let mut walk = FileWalk::new(file.cid, &block(&file.cid)).unwrap();
        let chunk = profile.chunk_bytes();
        let ends = [0, 1, chunk - 1, chunk, chunk + 1, 3 * chunk, len / 2, len - 1, len];
        for from in ends {
            for to in ends.into_iter().filter(|&to| to >= from) {
                walk.seek(from as u64..to as u64);
                let mut read = Vec::new();
                loop {
                    match walk.step() {
                        Step::Content(bytes) => read.extend_from_slice(&bytes),
                        Step::Need(cid) => {
                            assert_eq!(walk.ahead(1 << 20).first(), Some(&cid));
                            walk.supply(&block(&cid)).unwrap();
                        }
                        Step::Done => break,
                    }
                }
                assert!(read == content[from..to], "{profile:?} {from}..{to}");
            }
        }
    }
}

#[test]
fn a_directory_lists_its_entries_and_an_empty_one_has_ipfs_cid() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for (name, text) in [("b.txt", "two"), ("a.txt", "one"), ("c.txt", "three")] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let (pool, workers) = (Pool::new(16 << 20), workers::start().unwrap());
    let mut blocks = HashMap::new();
    let sink = &mut |block: Block| {
        blocks.insert(*block.hash(), block);
    };
    let profile = Profile::UnixfsV1_2025;
    let progress = &mut |_| {};
    let mut importer = Importer {
        profile,
        chunker: profile.chunker(),
        pool: &pool,
        workers: &workers,
        sink,
        leaf: None,
        progress,
    };
    assert_eq!(
        importer.path(&empty).unwrap().cid.to_string(),
        "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
    );
    let root = importer.path(dir.path()).unwrap();
    assert_eq!(root.size, 11);
    let block = blocks[&root.cid.multihash().unwrap()].data();
    let Node::Directory(links) = Node::parse(&root.cid, block).unwrap() else { panic!() };
    let names: Vec<_> = links.iter().map(|link| &link.name[..]).collect();
    assert_eq!(names, ["a.txt", "b.txt", "c.txt", "empty"]);
    assert!(blocks[&links[2].cid.multihash().unwrap()].data() == "three");
}

/// The names of IPIP-499's directories: 4,765 of 11 characters, and a last one of `last`.
fn published_names(last: usize) -> Vec<String> {
    const ALPHABET: &[u8; 39] = b"abcdefghijklmnopqrstuvwxyz01234567890-_";
    let mut keystream = Keystream::new("hamt-unixfs-v1-2025");
    let mut name = |len: usize| {
        let mut bytes = vec![0; len];
        keystream.read_exact(&mut bytes).unwrap();
        bytes.iter().map(|&byte| char::from(ALPHABET[usize::from(byte) % 39])).collect()
    };
    (0..4_766).map(|n| name(if n == 4_765 { last } else { 11 })).collect()
}

#[test]
fn a_directory_turns_into_a_hamt_at_the_published_size_with_the_published_cid() {
    let profile = Profile::UnixfsV1_2025;
    let file = import(profile, &mut &b"x"[..], &mut |_| {});
    for (last, cid) in [
        (21, "bafybeic3h7rwruealwxkacabdy45jivq2crwz6bufb5ljwupn36gicplx4"),
        (22, "bafybeiegvuterwurhdtkikfhbxcldohmxp566vpjdofhzmnhv6o4freidu"),
    ] {
        let names = published_names(last);
        let mut blocks: HashMap<Multihash, Block> = HashMap::new();
        let mut builder = DirectoryBuilder::new(profile);
        names.iter().for_each(|name| builder.push(name.clone(), file));
        let root = builder.finish(&mut |block| drop(blocks.insert(*block.hash(), block))).unwrap();
        assert_eq!((root.cid.to_string(), root.size), (cid.into(), 4_766), "{last}");
        let node = |cid: &Cid| Node::parse(cid, blocks[&cid.multihash().unwrap()].data()).unwrap();
        if last == 21 {
            assert!(matches!(node(&root.cid), Node::Directory(links) if links.len() == 4_766));
            continue;
        }
        let find = |name: &str| {
            let (mut cursor, mut cid) = (HamtCursor::new(name), root.cid);
            loop {
                let Node::HamtShard { fanout, links } = node(&cid) else { panic!("{cid}") };
                match cursor.find(fanout, &links).unwrap() {
                    Found::Shard(shard) => cid = shard,
                    found @ (Found::Entry(_) | Found::Nothing) => return found,
                }
            }
        };
        assert!(names.iter().all(|name| find(name) == Found::Entry(file.cid)));
        assert_eq!(find("no such name"), Found::Nothing);
        let (mut listed, mut todo) = (Vec::new(), vec![root.cid]);
        while let Some(cid) = todo.pop() {
            let Node::HamtShard { fanout, links } = node(&cid) else { panic!("{cid}") };
            for link in split_shard(fanout, &links) {
                match link.unwrap() {
                    Ok(entry) => listed.push(entry.name),
                    Err(shard) => todo.push(shard),
                }
            }
        }
        listed.sort();
        let mut sorted = names.clone();
        sorted.sort();
        assert!(listed == sorted, "{} entries", listed.len());
    }
}
