//! CIDs and chunks as kubo and its chunkers make them, by recorded values (`tests/cids`).

#![allow(clippy::unwrap_used, reason = "a test reports by a panic")]

use barrow::{
    Block, Cid, Pool,
    base::workers,
    content::{
        import::{Importer, LeafHook},
        protect::ProtectError,
    },
    data::unixfs::{Chunker, DirectoryBuilder, Leaf, Profile, symlink},
};
use chacha20::{
    ChaCha20,
    cipher::{KeyIvInit as _, StreamCipher as _},
};
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, io::Read};

/// The Mersenne Twister, of which the table's files are (Matsumoto and Nishimura, 1998): as
/// Python's `random.Random(seed).randbytes` gives its bytes.
struct Twister {
    state: [u32; 624],
    at: usize,
}

impl Twister {
    fn new(seed: u32) -> Self {
        let mut state = [0; 624];
        state[0] = 19_650_218;
        for n in 1..624 {
            let last: u32 = state[n - 1];
            state[n] = 1_812_433_253_u32
                .wrapping_mul(last ^ (last >> 30))
                .wrapping_add(u32::try_from(n).unwrap());
        }
        // The key has one word, so its index is always 0.
        let mut n = 1;
        let mut step = |multiplier: u32, times: usize, add: &dyn Fn(u32, usize) -> u32| {
            for _ in 0..times {
                let last = state[n - 1];
                let mixed = state[n] ^ (last ^ (last >> 30)).wrapping_mul(multiplier);
                state[n] = add(mixed, n);
                n += 1;
                if n == 624 {
                    state[0] = state[623];
                    n = 1;
                }
            }
        };
        step(1_664_525, 624, &|mixed, _| mixed.wrapping_add(seed));
        step(1_566_083_941, 623, &|mixed, n| mixed.wrapping_sub(u32::try_from(n).unwrap()));
        state[0] = 1 << 31;
        Self { state, at: 624 }
    }

    fn word(&mut self) -> u32 {
        if self.at == 624 {
            for n in 0..624 {
                let joined =
                    (self.state[n] & 1 << 31) | (self.state[(n + 1) % 624] & ((1 << 31) - 1));
                let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[n] = self.state[(n + 397) % 624] ^ (joined >> 1) ^ odd;
            }
            self.at = 0;
        }
        let mut word = self.state[self.at];
        self.at += 1;
        word ^= word >> 11;
        word ^= word << 7 & 0x9d2c_5680;
        word ^= word << 15 & 0xefc6_0000;
        word ^ word >> 18
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 4);
        while bytes.len() + 4 <= len {
            bytes.extend(self.word().to_le_bytes());
        }
        let rest = len - bytes.len();
        if rest > 0 {
            // Of the last word the highest bits are taken.
            let word = self.word() >> (32 - 8 * rest);
            bytes.extend(&word.to_le_bytes()[..rest]);
        }
        bytes
    }
}

enum Entry {
    File(Vec<u8>),
    Link(&'static str),
    Directory(BTreeMap<String, Entry>),
}

fn text(text: &str) -> Entry {
    Entry::File(text.as_bytes().to_vec())
}

fn directory<const N: usize>(entries: [(&str, Entry); N]) -> Entry {
    Entry::Directory(entries.into_iter().map(|(name, entry)| (name.into(), entry)).collect())
}

/// So many files, named and filled by their number; `first` is the width of the first's name.
fn many(count: usize, first: usize, width: usize) -> Entry {
    let named = |n: usize| {
        let width = if n == 0 { first } else { width };
        (format!("{n:0width$}"), text(&n.to_string()))
    };
    Entry::Directory((0..count).map(named).collect())
}

const MIB: usize = 1 << 20;

/// As `random.Random(seed)` fills a file, a MiB at a time.
fn noise(bytes: usize, seed: u32) -> Entry {
    let mut twister = Twister::new(seed);
    let mut content = Vec::with_capacity(bytes);
    while content.len() < bytes {
        content.extend(twister.bytes(MIB.min(bytes - content.len())));
    }
    Entry::File(content)
}

fn odd_names() -> Entry {
    let names = [
        "\u{e9}",
        "e\u{301}",
        "\u{df}",
        "\u{65e5}\u{672c}\u{8a9e}",
        "\u{1f389}.txt",
        "a b c",
        "\u{fc}n\u{ef}_x",
        "\u{43a}\u{438}\u{440}\u{438}\u{43b}\u{43b}\u{438}\u{446}\u{430}",
        "%41",
        "a%2Fb",
        "q?x",
        "h#x",
        "\"q\"",
        "'s'",
        "\\back",
        "<tag>",
        "nl\nname",
        "tab\tname",
        " lead",
        "trail ",
        "~",
        "\u{5e2}\u{5d1}\u{5e8}\u{5d9}\u{5ea}",
    ];
    Entry::Directory(names.into_iter().map(|name| (name.into(), text(name))).collect())
}

fn input(name: &str) -> Entry {
    if let Some(size) = name.strip_prefix('f').and_then(|size| size.parse().ok()) {
        return noise(size, u32::try_from(size).unwrap());
    }
    match name {
        "f175K" => noise(175 << 18, 7),
        "text_small" => text("hello world\n"),
        "text_3m" => text(&"the quick brown fox jumps over the lazy dog\n".repeat(70_000)),
        "zeros_5m" => Entry::File(vec![0; 5 * MIB]),
        "d_empty" => directory([]),
        "d_one" => directory([("a", text("a"))]),
        "d_nested" => directory([(
            "x",
            directory([
                ("y", directory([("z", directory([("f", text("deep"))]))])),
                ("g", text("g")),
                ("empty", directory([])),
            ]),
        )]),
        "d_unicode" => odd_names(),
        "d_symlink" => directory([
            ("t", text("target")),
            ("l", Entry::Link("t")),
            ("dangling", Entry::Link("/abs/none")),
            ("up", Entry::Link("..")),
            ("sub", directory([("rel", Entry::Link("../t"))])),
            ("ldir", Entry::Link("sub")),
        ]),
        "d_dot" => directory([
            (".hidden", text("h")),
            ("vis", text("v")),
            (".dir", directory([("x", text("x"))])),
            (".gitignore", text("vis\n")),
        ]),
        "d_exec" => directory([("run.sh", text("#!/bin/sh\n")), ("ro", text("ro"))]),
        "d_100" => many(100, 8, 8),
        "d_257" => many(257, 8, 8),
        "d_1000" => many(1_000, 12, 12),
        "d_10000" => many(10_000, 12, 12),
        "d_thr_4095_28" => many(4_095, 28, 28),
        "d_thr_4096_28" => many(4_096, 28, 28),
        "d_thr_4096_plus1" => many(4_096, 29, 28),
        "d_thr_4095_30" => many(4_095, 30, 30),
        "d_deep" => (0..60).rev().fold(directory([("end", text("end"))]), |below, n: u32| {
            Entry::Directory([(n.to_string(), below)].into())
        }),
        "d_dup" => {
            let same = || Entry::File(b"same".repeat(100_000));
            directory([("0", same()), ("1", same()), ("2", same()), ("3", same()), ("4", same())])
        }
        _ => panic!("no input {name}"),
    }
}

/// The lengths of a file's chunks.
struct Lens(Vec<usize>);

impl LeafHook for Lens {
    fn leaf(&mut self, _: Cid, block: &Block) -> Result<(), ProtectError> {
        self.0.push(block.len());
        Ok(())
    }

    fn is_backed_up(&self) -> bool {
        false
    }

    fn settle(&mut self) -> Result<(), ProtectError> {
        Ok(())
    }
}

struct Maker {
    pool: Pool,
    workers: std::sync::Arc<rayon::ThreadPool>,
}

impl Maker {
    fn new() -> Self {
        Self { pool: Pool::new(32 << 20), workers: workers::start().unwrap() }
    }

    fn file(&self, profile: Profile, chunker: Chunker, mut content: &[u8]) -> (Leaf, Vec<usize>) {
        let (pool, workers, mut lens) = (&self.pool, &self.workers, Lens(Vec::new()));
        let (sink, progress) = (&mut |_| {}, &mut |_| {});
        let leaf = Some(&mut lens as &mut dyn LeafHook);
        let mut importer = Importer { profile, chunker, pool, workers, sink, leaf, progress };
        let file = importer.stream(&mut content).unwrap();
        (file, lens.0)
    }

    fn make(&self, profile: Profile, entry: &Entry) -> Leaf {
        match entry {
            Entry::File(content) => self.file(profile, profile.chunker(), content).0,
            Entry::Link(target) => symlink(profile, target, &mut |_| {}).unwrap(),
            Entry::Directory(entries) => {
                let mut builder = DirectoryBuilder::new(profile);
                for (name, entry) in entries {
                    builder.push(name.clone(), self.make(profile, entry));
                }
                builder.finish(&mut |_| {}).unwrap()
            }
        }
    }
}

#[test]
fn cids_are_those_of_kubo_in_all_profiles() {
    let (maker, mut inputs, mut compared, mut wrong) =
        (Maker::new(), BTreeMap::new(), 0, Vec::new());
    for line in include_str!("cids/kubo.tsv").lines().filter(|line| !line.starts_with('#')) {
        let [profile, name, cid] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        let entry = inputs.entry(name).or_insert_with(|| input(name));
        let made = maker.make(profile.parse().unwrap(), entry).cid.to_string();
        compared += 1;
        if made != cid {
            wrong.push(format!("{profile} {name}: {made}, kubo has {cid}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(compared, 123);
}

#[test]
fn chunks_are_those_of_kubos_chunkers() {
    let mut data = vec![0; 5_000_000];
    ChaCha20::new(&Sha256::digest("chunker"), &[0; 12].into()).apply_keystream(&mut data);
    let zeros = vec![0; 1_500_000];
    let (maker, mut compared) = (Maker::new(), 0);
    for line in include_str!("cids/chunks.tsv").lines().filter(|line| !line.starts_with('#')) {
        let [name, chunker, lens] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        let content = match name {
            "data" => &data[..],
            "zeros" => &zeros,
            "short" => &data[..131_072],
            "tiny" => &data[..1_000],
            _ => panic!("no input {name}"),
        };
        let lens: Vec<usize> = lens.split(' ').map(|len| len.parse().unwrap()).collect();
        let made = maker.file(Profile::KuboDefault, chunker.parse().unwrap(), content);
        assert_eq!(made.1, lens, "{name} {chunker}");
        assert_eq!(made.0.size, content.len() as u64);
        compared += 1;
    }
    assert_eq!(compared, 20);
}

#[test]
fn a_reader_that_gives_little_at_a_time_changes_no_cut() {
    struct Slow<'a>(&'a [u8]);
    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let len = buffer.len().min(self.0.len()).min(7_001);
            buffer[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }
    let mut data = vec![0; 1_000_000];
    ChaCha20::new(&Sha256::digest("slow"), &[0; 12].into()).apply_keystream(&mut data);
    let (maker, profile) = (Maker::new(), Profile::default());
    for chunker in [Chunker::Buzhash, "rabin-30000".parse().unwrap(), Chunker::Size(99_999)] {
        let (pool, workers) = (&maker.pool, &maker.workers);
        let (sink, progress) = (&mut |_| {}, &mut |_| {});
        let mut importer = Importer { profile, chunker, pool, workers, sink, leaf: None, progress };
        let slow = importer.stream(&mut Slow(&data)).unwrap();
        assert_eq!(slow, maker.file(profile, chunker, &data).0, "{chunker}");
    }
}

#[test]
fn a_chunker_that_no_block_would_hold_is_refused() {
    for text in [
        "",
        "size",
        "size-0",
        "size-2097152",
        "size-1-2",
        "size--1",
        "rabin-1",
        "rabin-20-10-30",
        "rabin-15-20-30",
        "rabin-20-30-3000000",
        "rabin-3000000",
        "buzhash-1",
        "fast",
    ] {
        assert!(text.parse::<Chunker>().is_err(), "{text:?}");
    }
    for text in ["size-2096896", "buzhash", "rabin-87381-262144-393216"] {
        assert_eq!(text.parse::<Chunker>().unwrap().to_string(), text);
    }
}
