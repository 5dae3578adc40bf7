//! Runs `vectors/`, which `vectors/generate.py` writes from SPEC.md alone.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use barrow_wire::{
    Cid, CidError, Identity, Message, PeerId, Presence, Session, SessionConfig, SlotState,
    StaticKey, Suites, Voucher, VoucherError, limits,
};
use common::{End, RawPeer, Seen, class, frame, frame_of, hello, message_class};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn cases(text: &str) -> Vec<Value> {
    serde_json::from_str(text).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is no hexadecimal"));
    assert_eq!(text.len() % 2, 0);
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn key(value: &Value) -> [u8; 32] {
    bytes(value).try_into().unwrap()
}

fn cid_error(error: CidError) -> &'static str {
    match error {
        CidError::Malformed => "malformed",
        CidError::TooLong => "too_long",
        CidError::Hash => "hash",
    }
}

#[test]
fn cids() {
    let (mut taken, mut refused) = (0, 0);
    for case in cases(include_str!("../vectors/cid.json")) {
        let read = match case["text"].as_str() {
            Some(text) => text.parse(),
            None => Cid::from_bytes(&bytes(&case["bytes"])),
        };
        if let Some(error) = case["error"].as_str() {
            assert_eq!(read.map_err(cid_error), Err(error), "{case}");
            refused += 1;
            continue;
        }
        let cid = read.unwrap_or_else(|error| panic!("{error}: {case}"));
        let digest = match (cid.multihash(), cid.identity()) {
            (Some(hash), None) => json!([hash.code() as u8, hex(hash.digest())]),
            (None, Some(data)) => json!([0, hex(data)]),
            both => panic!("{both:?}: {case}"),
        };
        let expected = &case["cid"];
        assert_eq!(digest, json!([expected["code"], expected["digest"]]), "{case}");
        assert_eq!(json!(cid.codec().code()), expected["codec"], "{case}");
        assert_eq!(json!(u8::from(!cid.is_v0())), expected["version"], "{case}");
        assert_eq!(json!(cid.to_string()), case["display"], "{case}");
        assert_eq!(cid.to_string().parse(), Ok(cid), "{case}");
        if !case["bytes"].is_null() {
            assert_eq!(json!(hex(&cid.to_bytes())), case["bytes"]);
        }
        taken += 1;
    }
    assert_eq!((taken, refused), (15, 46));
}

#[test]
fn peers() {
    let (mut taken, mut refused) = (0, 0);
    for case in cases(include_str!("../vectors/peer.json")) {
        if let Some(valid) = case["valid"].as_bool() {
            let peer = PeerId::from_public_key(key(&case["key"]));
            let signature = bytes(&case["signature"]).try_into().unwrap();
            assert_eq!(peer.verifies(&bytes(&case["message"]), &signature), valid, "{case}");
            *(if valid { &mut taken } else { &mut refused }) += 1;
            continue;
        }
        let read = case["text"].as_str().unwrap().parse::<PeerId>();
        if case["error"].is_null() {
            assert_eq!(read, Ok(PeerId::from_public_key(key(&case["key"]))), "{case}");
            assert_eq!(json!(read.unwrap().to_string()), case["text"]);
            taken += 1;
        } else {
            assert!(read.is_err(), "{case}");
            refused += 1;
        }
    }
    assert_eq!((taken, refused), (7, 34));
}

/// A handshake's configuration, side 0 having dialed.
struct Setup {
    keys: [(StaticKey, [u8; 32]); 2],
    swarm_key: Option<[u8; 32]>,
    offers_aes_gcm: bool,
}

impl Setup {
    fn new(case: &Value) -> Self {
        let side = |n: usize| {
            let keys = &case["keys"][n];
            let identity = Identity::from_seed(key(&keys["seed"]));
            let fixed = StaticKey::from_private_for_testing_only(&identity, key(&keys["static"]));
            (fixed, key(&keys["ephemeral"]))
        };
        Self {
            keys: [side(0), side(1)],
            swarm_key: case["swarm_key"].as_str().map(|_| key(&case["swarm_key"])),
            offers_aes_gcm: case["offer"].as_array().unwrap().contains(&json!(2)),
        }
    }

    fn end(&self, side: usize, expected: Option<PeerId>) -> End {
        let (static_key, ephemeral) = &self.keys[side];
        let suites = Suites { aes_gcm: side == 1 || self.offers_aes_gcm };
        let swarm_key = self.swarm_key.as_ref();
        let config = SessionConfig { static_key, swarm_key, expected, suites };
        End::new(if side == 0 {
            Session::initiator_for_testing_only(&config, ephemeral)
        } else {
            Session::responder_for_testing_only(&config, ephemeral)
        })
    }
}

fn all(values: &Value) -> Vec<u8> {
    values.as_array().unwrap().iter().flat_map(bytes).collect()
}

#[test]
fn handshakes() {
    let (mut taken, mut refused) = (0, 0);
    for case in cases(include_str!("../vectors/handshake.json")) {
        handshake_is_taken(&case);
        taken += 1;
        for bad in case["refused"].as_array().unwrap() {
            handshake_is_refused(&case, bad);
            refused += 1;
        }
    }
    assert_eq!((taken, refused), (4, 342));
}

fn handshake_is_taken(case: &Value) {
    let name = &case["name"];
    let setup = Setup::new(case);
    let flights = case["flights"].as_array().unwrap();
    let [mut dialing, mut dialed] = [setup.end(0, None), setup.end(1, None)];
    assert_eq!(json!(hex(&dialing.take_output())), flights[0], "{name}");
    dialed.feed(&bytes(&flights[0])).unwrap();
    assert_eq!(json!(hex(&dialed.take_output())), flights[1], "{name}");
    dialing.feed(&bytes(&flights[1])).unwrap();
    assert!(dialing.session.is_established());
    assert_eq!(json!(hex(&dialing.take_output())), flights[2], "{name}");

    let block = barrow_wire::Multihash::of(barrow_wire::HashCode::Sha2_256, b"hello world");
    dialing.session.send(&hello());
    dialing.session.send(&Message::Ping { nonce: 7 });
    dialing.session.send_block(block, bytes::Bytes::from_static(b"hello world"));
    let records = all(&case["initiator_records"]);
    assert_eq!(hex(&dialing.take_output()), hex(&records), "{name}");
    dialed.feed(&bytes(&flights[2])).unwrap();
    dialed.feed(&records).unwrap();
    let peers = [1, 2].map(|n| Identity::from_seed([n; 32]).peer_id());
    let told = [
        Seen::Established(peers[0]),
        Seen::Message(hello()),
        Seen::Message(Message::Ping { nonce: 7 }),
        Seen::Coming(block, 11),
        Seen::Block(block, b"hello world".to_vec()),
    ];
    assert_eq!(dialed.seen, told, "{name}");
    dialed.session.send(&hello());
    let answer = all(&case["responder_records"]);
    assert_eq!(hex(&dialed.take_output()), hex(&answer), "{name}");
    dialing.feed(&answer).unwrap();
    assert_eq!(dialing.seen, [Seen::Established(peers[1]), Seen::Message(hello())], "{name}");

    let mut dialed = setup.end(1, None);
    let flights = case["unknown_offers"].as_array().unwrap();
    dialed.feed(&bytes(&flights[0])).unwrap();
    assert_eq!(json!(hex(&dialed.take_output())), flights[1], "{name}");
    dialed.feed(&bytes(&flights[2])).unwrap();
    assert!(dialed.session.is_established(), "{name}");
}

fn handshake_is_refused(case: &Value, bad: &Value) {
    let mut setup = Setup::new(case);
    if let Some(swarm_key) = bad.get("swarm_key") {
        setup.swarm_key = swarm_key.as_str().map(|_| key(swarm_key));
    }
    let expected = bad.get("expected").map(|peer| PeerId::from_public_key(key(peer)));
    let dials = bad["to"] == "initiator";
    let mut end = setup.end(usize::from(!dials), expected);
    if dials {
        assert!(!end.take_output().is_empty());
    }
    let error = end.feed(&bytes(&bad["input"])).expect_err(&format!("{}: {bad}", case["name"]));
    assert_eq!(json!(class(error)), bad["error"], "{}: {bad}", case["name"]);
    let after_handshake = matches!(class(error), "tampered")
        || bad["rules"].as_array().unwrap().contains(&json!("W-25"));
    assert_eq!(end.session.is_established(), after_handshake, "{}: {bad}", case["name"]);
    let mut output = Vec::new();
    assert_eq!(end.session.transmit(&mut output, usize::MAX), Err(error));
    assert!(output.is_empty() && !end.session.wants_transmit());
}

fn hex_list(blocks: &[barrow_wire::Multihash]) -> Vec<String> {
    blocks.iter().map(|hash| hex(&hash.to_bytes())).collect()
}

fn to_json(message: &Message) -> Value {
    match message {
        Message::Hello { listen_port, agent } => {
            json!({"type": "hello", "port": listen_port, "agent": agent})
        }
        Message::WantHave { inline, blocks } => {
            json!({"type": "want_have", "inline": inline, "blocks": hex_list(blocks)})
        }
        Message::BlockPresence { price, blocks } => {
            let blocks = blocks.iter().map(|(hash, presence)| match presence {
                Presence::DontHave => json!([hex(&hash.to_bytes()), "dont_have", 0]),
                Presence::Have { len } => json!([hex(&hash.to_bytes()), "have", len]),
                Presence::Complete { len } => json!([hex(&hash.to_bytes()), "complete", len]),
            });
            let blocks: Vec<_> = blocks.collect();
            json!({"type": "block_presence", "price": price, "blocks": blocks})
        }
        Message::WantBlock { blocks } => json!({"type": "want_block", "blocks": hex_list(blocks)}),
        Message::Cancel { blocks } => json!({"type": "cancel", "blocks": hex_list(blocks)}),
        Message::Payment { voucher } => {
            json!({"type": "payment", "voucher": hex(&voucher.to_bytes())})
        }
        Message::PeerAddresses { peers } => {
            let peers = peers
                .iter()
                .map(|hint| json!([hex(hint.peer.public_key()), hint.address.to_string()]));
            json!({"type": "peer_addresses", "peers": peers.collect::<Vec<_>>()})
        }
        Message::Ping { nonce } => json!({"type": "ping", "nonce": nonce}),
        Message::Pong { nonce } => json!({"type": "pong", "nonce": nonce}),
        Message::HoldSlot { manifest, index, slots } => json!({
            "type": "hold_slot", "manifest": hex(&manifest.to_bytes()), "index": index,
            "slots": slots,
        }),
        Message::SlotHeld { manifest, index, state } => {
            let state = match state {
                SlotState::Refused => "refused",
                SlotState::Fetching => "fetching",
                SlotState::Held => "held",
                SlotState::Failed => "failed",
            };
            let manifest = hex(&manifest.to_bytes());
            json!({"type": "slot_held", "manifest": manifest, "index": index, "state": state})
        }
    }
}

#[test]
fn messages() {
    let (mut taken, mut refused) = (0, 0);
    for case in cases(include_str!("../vectors/message.json")) {
        let whole = bytes(&case["frame"]);
        let (frame_type, body) = whole.split_first().unwrap();
        let decoded = Message::decode(*frame_type, body);
        let is_hello = *frame_type == 1;
        let (mut peer, mut end) = RawPeer::dial(1);
        let before = if is_hello { Vec::new() } else { frame_of(&hello()) };
        let received = end.feed(&peer.record(&[before, frame(&whole)].concat(), common::CONTROL));
        if case["error"].is_null() {
            let message = decoded.unwrap_or_else(|error| panic!("{error}: {case}"));
            assert_eq!(to_json(&message), case["message"]);
            let mut encoded = Vec::new();
            message.encode(&mut encoded);
            assert_eq!(hex(&encoded), hex(&whole), "{case}");
            assert_eq!(received, Ok(()), "{case}");
            assert_eq!(end.seen.last(), Some(&Seen::Message(message)), "{case}");
            taken += 1;
        } else {
            assert_eq!(json!(decoded.map_err(message_class).unwrap_err()), case["error"], "{case}");
            assert_eq!(json!(received.map_err(class).unwrap_err()), case["session"], "{case}");
            assert_eq!(end.seen.len(), usize::from(!is_hello), "{case}");
            refused += 1;
        }
    }
    assert_eq!((taken, refused), (21, 509));
}

fn seen_json(seen: &Seen) -> Value {
    match seen {
        Seen::Established(peer) => json!(["established", hex(peer.public_key())]),
        Seen::Message(message) => {
            let mut encoded = Vec::new();
            message.encode(&mut encoded);
            json!(["message", hex(&encoded)])
        }
        Seen::Coming(hash, len) => json!(["coming", hex(&hash.to_bytes()), len]),
        Seen::Block(hash, data) => json!(["block", hex(&hash.to_bytes()), hex(data)]),
        Seen::Skipped(hash, len) => json!(["skipped", hex(&hash.to_bytes()), len]),
    }
}

#[test]
fn streams() {
    let (mut taken, mut refused) = (0, 0);
    for case in cases(include_str!("../vectors/stream.json")) {
        for (suite, skips_blocks) in [(1, false), (2, false), (1, true)] {
            let (mut peer, mut end) = RawPeer::dial(suite);
            end.skips_blocks = skips_blocks;
            let plaintexts = case["records"].as_array().unwrap().iter().map(bytes);
            let wire: Vec<u8> = plaintexts.flat_map(|plaintext| peer.seal(&plaintext)).collect();
            let result = end.feed(&wire);
            let mut events: Vec<Value> = end.seen.iter().map(seen_json).collect();
            let mut expected = case["events"].as_array().unwrap().clone();
            if skips_blocks {
                // Of a block that is skipped the length alone is told.
                events.retain(|event| event[0] != "skipped");
                expected.retain(|event| event[0] != "block");
            }
            assert_eq!(events, expected, "{case}");
            assert_eq!(json!(result.map_err(class).err()), case["error"], "{case}");
        }
        *(if case["error"].is_null() { &mut taken } else { &mut refused }) += 1;
    }
    assert_eq!((taken, refused), (20, 52));
}

#[test]
fn vouchers() {
    let (mut taken, mut refused) = (0, 0);
    for case in cases(include_str!("../vectors/voucher.json")) {
        if let Some(supersedes) = case["supersedes"].as_bool() {
            let signed = |pair: &Value| {
                let [sequence, total] = [0, 1].map(|n| pair[n].as_u64().unwrap());
                let payee = Identity::from_seed([2; 32]).peer_id();
                Voucher::sign(&Identity::from_seed([1; 32]), payee, sequence, total)
            };
            assert_eq!(
                signed(&case["new"]).supersedes(&signed(&case["last"])),
                supersedes,
                "{case}"
            );
            *(if supersedes { &mut taken } else { &mut refused }) += 1;
            continue;
        }
        let voucher = Voucher::from_bytes(&bytes(&case["voucher"]).try_into().unwrap());
        let [payer, payee] = ["payer", "payee"].map(|who| PeerId::from_public_key(key(&case[who])));
        let error = voucher.verify(&payer, &payee).err().map(|error| match error {
            VoucherError::Foreign => "foreign",
            VoucherError::Forged => "forged",
        });
        assert_eq!(json!(error), case["error"], "{case}");
        if error.is_some() {
            refused += 1;
            continue;
        }
        let [sequence, total] = ["sequence", "total"].map(|name| case[name].as_u64().unwrap());
        let payer = Identity::from_seed(key(&case["seed"]));
        assert_eq!(Voucher::sign(&payer, payee, sequence, total), voucher, "{case}");
        assert_eq!(json!(hex(&voucher.to_bytes())), case["voucher"]);
        taken += 1;
    }
    assert_eq!((taken, refused), (5, 106));
}

/// Whether a vector shows something refused.
fn refuses(case: &Value) -> bool {
    case["error"].is_string() || case["valid"] == false || case["supersedes"] == false
}

#[test]
fn every_rule_has_a_vector_and_every_vector_a_rule() {
    // Taken and refused vectors of each rule.
    let mut shown: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    let files = [
        include_str!("../vectors/cid.json"),
        include_str!("../vectors/peer.json"),
        include_str!("../vectors/handshake.json"),
        include_str!("../vectors/message.json"),
        include_str!("../vectors/stream.json"),
        include_str!("../vectors/voucher.json"),
    ];
    let mut vectors: Vec<Value> = files.iter().flat_map(|text| cases(text)).collect();
    let nested = |case: &Value| case["refused"].as_array().cloned().unwrap_or_default();
    vectors.extend(vectors.iter().flat_map(nested).collect::<Vec<_>>());
    for case in &vectors {
        for rule in case["rules"].as_array().unwrap() {
            let count = shown.entry(rule.as_str().unwrap().into()).or_default();
            count[usize::from(refuses(case))] += 1;
        }
    }
    // What cannot be broken: the order of bytes, the cutting of the stream, lists of wants.
    let unbreakable = ["W-1", "W-29", "W-43", "W-45", "W-48"];
    let mut rules = 0;
    for line in include_str!("../SPEC.md").lines() {
        let Some((rule, text)) = line.strip_prefix("- **[").and_then(|l| l.split_once("]** "))
        else {
            continue;
        };
        // Those of protected manifests have vectors of their own.
        if rule.starts_with("P-") {
            continue;
        }
        rules += 1;
        assert_eq!(rule, format!("W-{rules}"), "the rules are numbered in their order");
        let [taken, refused] = shown.remove(rule).unwrap_or_default();
        if text.starts_with("(S)") || text.starts_with("(P: ") {
            assert_eq!((taken, refused), (0, 0), "{rule} is said to have no vector");
        } else {
            assert!(taken > 0, "{rule} has no vector that is taken");
            assert!(refused > 0 || unbreakable.contains(&rule), "{rule} has none that is refused");
        }
    }
    assert_eq!(rules, 69);
    assert!(shown.is_empty(), "vectors of rules that SPEC.md lacks: {shown:?}");
}

#[test]
fn the_limits_of_the_specification_are_those_of_the_code() {
    let limits = [
        ("HANDSHAKE_BYTES_MAX", limits::HANDSHAKE_BYTES_MAX),
        ("RECORD_BYTES_MAX", limits::RECORD_BYTES_MAX),
        ("TAG_BYTES", limits::TAG_BYTES),
        ("RECORD_PLAINTEXT_BYTES_MAX", limits::RECORD_PLAINTEXT_BYTES_MAX),
        ("CONTROL_BYTES_MAX", limits::CONTROL_BYTES_MAX),
        ("BLOCK_BYTES_MAX", limits::BLOCK_BYTES_MAX),
        ("INLINE_BLOCK_BYTES_MAX", limits::INLINE_BLOCK_BYTES_MAX),
        ("WANTS_MAX", limits::WANTS_MAX),
        ("PEER_ADDRESSES_MAX", limits::PEER_ADDRESSES_MAX),
        ("AGENT_BYTES_MAX", limits::AGENT_BYTES_MAX),
        ("CID_BYTES_MAX", limits::CID_BYTES_MAX),
        ("IDENTITY_BYTES_MAX", limits::IDENTITY_BYTES_MAX),
        ("CID_TEXT_BYTES_MAX", limits::CID_TEXT_BYTES_MAX),
    ];
    for (name, limit) in limits {
        let row =
            include_str!("../SPEC.md").lines().find(|l| l.ends_with(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("SPEC.md lacks {name}"));
        let cell = row.split('|').nth(2).unwrap().trim();
        let number = cell.split(' ').next().unwrap().replace(',', "");
        assert_eq!(number, limit.to_string(), "{name}");
    }
}
