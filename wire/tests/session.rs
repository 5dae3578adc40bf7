//! Sequences: what a session makes of bytes that are cut, changed, repeated, or come from the
//! wrong peer. The single vectors are in `vectors.rs`.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use barrow_wire::{
    HandshakeError, HashCode, Identity, Message, Multihash, PeerAddress, PeerId, Presence, Session,
    SessionConfig, SessionError, SlotState, StaticKey, Suites, Voucher,
    limits::{AGENT_BYTES_MAX, BLOCK_BYTES_MAX, PEER_ADDRESSES_MAX, WANTS_MAX},
};
use bytes::Bytes;
use common::{BLOCK, CONTROL, End, RawPeer, Seen, class, frame_of, hello};
use proptest::prelude::*;
use std::sync::LazyLock;

const BOTH: Suites = Suites { aes_gcm: true };
const CHACHA: Suites = Suites { aes_gcm: false };

fn identity(n: u8) -> Identity {
    Identity::from_seed([n; 32])
}

fn peer(n: u8) -> PeerId {
    identity(n).peer_id()
}

/// Keys of three nodes; the first dials, the second is dialed.
static KEYS: LazyLock<[StaticKey; 3]> = LazyLock::new(|| {
    [1, 2, 3].map(|n| StaticKey::from_private_for_testing_only(&identity(n), [0x10 + n; 32]))
});

fn config(node: usize, suites: Suites) -> SessionConfig<'static> {
    SessionConfig { static_key: &KEYS[node], swarm_key: None, expected: None, suites }
}

/// Ends whose every byte is the same at each run.
fn fixed_ends(suites: Suites) -> [End; 2] {
    let dialing = Session::initiator_for_testing_only(&config(0, suites), &[0x21; 32]);
    let dialed = Session::responder_for_testing_only(&config(1, suites), &[0x22; 32]);
    [End::new(dialing), End::new(dialed)]
}

/// Ends of these two configurations, with random keys.
fn ends(dialing: &SessionConfig<'_>, dialed: &SessionConfig<'_>) -> [End; 2] {
    [End::new(Session::initiator(dialing)), End::new(Session::responder(dialed))]
}

/// Carries bytes to and fro until both are silent, and gives what each end came to.
fn run([dialing, dialed]: &mut [End; 2]) -> [Result<(), SessionError>; 2] {
    let mut results = [Ok(()), Ok(())];
    loop {
        let mut silent = true;
        for at in [1, 0] {
            let (from, to) =
                if at == 1 { (&mut *dialing, &mut *dialed) } else { (&mut *dialed, &mut *dialing) };
            if from.session.wants_transmit() {
                silent = false;
                results[at] = results[at].and(to.feed(&from.take_output()));
            }
        }
        if silent {
            return results;
        }
    }
}

fn hash_of(data: &[u8]) -> Multihash {
    Multihash::of(HashCode::Sha2_256, data)
}

/// A short session as one end hears it, with the events that it leads to.
struct Heard {
    input: Vec<u8>,
    events: Vec<Seen>,
}

fn short_session(suites: Suites) -> [Heard; 2] {
    let mut ends = fixed_ends(suites);
    let mut inputs = [Vec::new(), Vec::new()];
    for end in &mut ends {
        end.session.send(&hello());
        end.session.send(&Message::Ping { nonce: 7 });
        end.session.send_block(hash_of(b"hello world"), Bytes::from_static(b"hello world"));
    }
    for _ in 0..2 {
        for side in 0..2 {
            let output = ends[side].take_output();
            ends[1 - side].feed(&output).unwrap();
            inputs[1 - side].extend(output);
        }
    }
    let [dialing, dialed] = ends;
    let [to_dialing, to_dialed] = inputs;
    assert_eq!((dialing.seen.len(), dialed.seen.len()), (5, 5));
    [
        Heard { input: to_dialing, events: dialing.seen },
        Heard { input: to_dialed, events: dialed.seen },
    ]
}

/// The ends of units in an input; each is a u16 and so many bytes.
fn unit_ends(input: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 0;
    while at < input.len() {
        at += 2 + usize::from(u16::from_be_bytes([input[at], input[at + 1]]));
        ends.push(at);
    }
    assert_eq!(at, input.len());
    ends
}

fn fresh(side: usize, suites: Suites) -> End {
    let [mut dialing, dialed] = fixed_ends(suites);
    dialing.take_output();
    if side == 0 { dialing } else { dialed }
}

#[test]
fn a_session_cut_at_any_byte_comes_to_the_same() {
    let mut cuts = 0;
    for suites in [BOTH, CHACHA] {
        for (side, heard) in short_session(suites).iter().enumerate() {
            for cut in 0..=heard.input.len() {
                let mut end = fresh(side, suites);
                end.feed(&heard.input[..cut]).unwrap();
                assert!(heard.events.starts_with(&end.seen), "[W-53]");
                end.feed(&heard.input[cut..]).unwrap();
                assert_eq!(end.seen, heard.events, "cut at {cut}");
                cuts += 1;
            }
            let mut end = fresh(side, suites);
            for byte in &heard.input {
                end.feed(&[*byte]).unwrap();
            }
            assert_eq!(end.seen, heard.events, "a byte a read");
        }
    }
    assert!(cuts > 1_000, "{cuts}");
}

#[test]
fn a_session_that_ends_early_gives_nothing_that_was_not_whole() {
    let mut empty_handed = 0;
    for (side, heard) in short_session(BOTH).iter().enumerate() {
        let units = unit_ends(&heard.input);
        for len in 0..heard.input.len() {
            let mut end = fresh(side, BOTH);
            end.feed(&heard.input[..len]).unwrap();
            let mut whole = fresh(side, BOTH);
            let last = units.iter().rev().find(|end| **end <= len).copied().unwrap_or(0);
            whole.feed(&heard.input[..last]).unwrap();
            assert_eq!(end.seen, whole.seen, "{len} bytes say no more than whole units do");
            assert!(end.seen.len() < heard.events.len());
            empty_handed += usize::from(end.seen.is_empty());
        }
    }
    assert!(empty_handed > 200);
}

#[test]
fn no_bit_of_a_session_can_be_changed() {
    let (mut refused, mut stalled) = (0, 0);
    for (side, heard) in short_session(BOTH).iter().enumerate() {
        let units = unit_ends(&heard.input);
        for at in 0..heard.input.len() {
            let mut honest = fresh(side, BOTH);
            let before = units.iter().rev().find(|end| **end <= at).copied().unwrap_or(0);
            honest.feed(&heard.input[..before]).unwrap();
            for bit in 0..8 {
                let mut changed = heard.input.clone();
                changed[at] ^= 1 << bit;
                let mut end = fresh(side, BOTH);
                let result = end.feed(&changed);
                assert_eq!(end.seen, honest.seen, "bit {bit} of byte {at}: nothing behind it");
                match result {
                    Err(_) => refused += 1,
                    // A length that grew: the end waits, and what comes next will not fit.
                    Ok(()) => {
                        let more = end.feed(&vec![0; 1 << 16]);
                        assert!(more.is_err(), "bit {bit} of byte {at}");
                        assert_eq!(end.seen, honest.seen);
                        stalled += 1;
                    }
                }
            }
        }
    }
    assert!(refused > 4_000 && stalled > 50, "{refused} {stalled}");
}

#[test]
fn a_handshake_with_a_changed_bit_never_ends_well_at_both_sides() {
    for flight in 0..3 {
        let mut at = 0;
        loop {
            let mut ends = fixed_ends(BOTH);
            let mut established = [false; 2];
            let mut past_end = false;
            for turn in 0..3 {
                let (from, to) = (turn % 2, 1 - turn % 2);
                if !ends[from].session.wants_transmit() {
                    break;
                }
                let mut output = ends[from].take_output();
                if turn == flight {
                    past_end = at >= output.len();
                    if !past_end {
                        output[at] ^= 0x40;
                    }
                }
                let _ = ends[to].feed(&output);
                established = [0, 1].map(|side: usize| ends[side].session.is_established());
            }
            assert_eq!(established == [true, true], past_end, "byte {at} of flight {flight}");
            if past_end {
                break;
            }
            at += 1;
        }
        assert!(at > 70);
    }
}

#[test]
fn the_responder_takes_the_best_suite_of_both() {
    for (offered, taken, chosen) in
        [(BOTH, BOTH, 2), (BOTH, CHACHA, 1), (CHACHA, BOTH, 1), (CHACHA, CHACHA, 1)]
    {
        let [mut dialing, mut dialed] = ends(&config(0, offered), &config(1, taken));
        dialed.feed(&dialing.take_output()).unwrap();
        let answer = dialed.take_output();
        assert_eq!(answer[2], chosen);
        dialing.feed(&answer).unwrap();
        dialed.feed(&dialing.take_output()).unwrap();
        assert_eq!(dialing.seen, [Seen::Established(peer(2))]);
        assert_eq!(dialed.seen, [Seen::Established(peer(1))]);
    }
}

#[test]
fn nobody_in_between_can_take_the_better_suite_away() {
    let noise = SessionError::Handshake(HandshakeError::Noise);
    // The offer of AES-GCM is cut out: version, count, then (suite, length, 32 bytes) twice.
    let [mut dialing, mut dialed] = ends(&config(0, BOTH), &config(1, BOTH));
    let offer = dialing.take_output();
    assert_eq!((offer.len(), offer[3], offer[4]), (2 + 2 + 2 * 34, 2, 2));
    let stripped = common::prefixed(&[&[1, 1], &offer[2 + 2 + 34..]].concat());
    dialed.feed(&stripped).unwrap();
    let answer = dialed.take_output();
    assert_eq!(answer[2], 1, "the responder cannot know yet");
    assert_eq!(dialing.feed(&answer), Err(noise), "[W-14]");
    assert!(!dialing.session.wants_transmit());

    // The offer of AES-GCM is said to be of a suite that nobody knows.
    let [mut dialing, mut dialed] = ends(&config(0, BOTH), &config(1, BOTH));
    let mut offer = dialing.take_output();
    offer[4] = 77;
    dialed.feed(&offer).unwrap();
    assert_eq!(dialing.feed(&dialed.take_output()), Err(noise));

    // The choice is changed.
    let [mut dialing, mut dialed] = ends(&config(0, BOTH), &config(1, BOTH));
    dialed.feed(&dialing.take_output()).unwrap();
    let mut answer = dialed.take_output();
    answer[2] = 1;
    assert_eq!(dialing.feed(&answer), Err(noise));
}

#[test]
fn another_peer_than_dialed_is_refused_and_learns_nothing() {
    let dialing = SessionConfig { expected: Some(peer(3)), ..config(0, BOTH) };
    let mut ends = ends(&dialing, &config(1, BOTH));
    let wrong = SessionError::Handshake(HandshakeError::WrongPeer);
    assert_eq!(run(&mut ends), [Err(wrong), Ok(())]);
    assert!(ends[0].seen.is_empty() && ends[1].seen.is_empty(), "flight 3 was not sent");
    let right = SessionConfig { expected: Some(peer(2)), ..config(0, BOTH) };
    let mut ends = self::ends(&right, &config(1, BOTH));
    assert_eq!(run(&mut ends), [Ok(()), Ok(())]);
}

#[test]
fn a_node_that_dials_itself_notices() {
    // The same identity, with the same and with another static key.
    let other = StaticKey::generate(&identity(1));
    for static_key in [&KEYS[0], &other] {
        let dialed = SessionConfig { static_key, ..config(0, BOTH) };
        let mut ends = ends(&config(0, BOTH), &dialed);
        let ourselves = SessionError::Handshake(HandshakeError::OurselvesDialed);
        assert_eq!(run(&mut ends), [Err(ourselves), Ok(())]);
        assert!(ends[1].seen.is_empty());
    }
}

#[test]
fn another_swarm_gets_no_byte() {
    let keys = [None, Some([1; 32]), Some([2; 32])];
    let noise = Err(SessionError::Handshake(HandshakeError::Noise));
    for dialing_key in &keys {
        for dialed_key in &keys {
            let dialing = SessionConfig { swarm_key: dialing_key.as_ref(), ..config(0, BOTH) };
            let dialed = SessionConfig { swarm_key: dialed_key.as_ref(), ..config(1, BOTH) };
            let mut ends = ends(&dialing, &dialed);
            let same = dialing_key == dialed_key;
            let results = run(&mut ends);
            assert_eq!(results, if same { [Ok(()), Ok(())] } else { [Ok(()), noise] });
            assert_eq!(ends[0].seen.is_empty(), !same);
        }
    }
}

#[test]
fn a_record_is_good_once_in_its_place_and_session() {
    type Change = fn(Vec<Vec<u8>>) -> Vec<Vec<u8>>;
    let honest: Change = |records| records;
    let changes: [(&str, Change, usize); 6] = [
        ("as sent", honest, 3),
        ("the first again", |r| vec![r[0].clone(), r[0].clone()], 1),
        ("the first again, later", |r| vec![r[0].clone(), r[1].clone(), r[0].clone()], 2),
        ("one left out", |r| vec![r[0].clone(), r[2].clone()], 1),
        ("two exchanged", |r| vec![r[0].clone(), r[2].clone(), r[1].clone()], 1),
        ("the last first", |r| vec![r[2].clone()], 0),
    ];
    for suite in [1, 2] {
        for (name, change, taken) in changes {
            let (mut raw, mut end) = RawPeer::dial(suite);
            let ping = |nonce| frame_of(&Message::Ping { nonce });
            let said = [frame_of(&hello()), ping(1), ping(2)];
            let records = change(said.map(|body| raw.record(&body, CONTROL)).to_vec()).concat();
            let result = end.feed(&records);
            assert_eq!(end.seen.len(), taken, "{name}");
            assert_eq!(result.is_ok(), taken == 3, "{name}");
            assert!(matches!(result, Ok(()) | Err(SessionError::Tampered)), "{name}");
        }
    }
    // Of another session between the same peers.
    let mut first = ends(&config(0, BOTH), &config(1, BOTH));
    let mut second = ends(&config(0, BOTH), &config(1, BOTH));
    run(&mut first)[0].unwrap();
    run(&mut second)[0].unwrap();
    first[0].session.send(&hello());
    let record = first[0].take_output();
    assert_eq!(second[1].feed(&record), Err(SessionError::Tampered));
    // Sent back to its sender.
    assert_eq!(first[0].feed(&record), Err(SessionError::Tampered));
    first[1].feed(&record).unwrap();
}

#[test]
fn a_flight_of_the_past_is_refused() {
    // Whoever replays a whole recorded handshake meets a fresh ephemeral key.
    let [Heard { .. }, heard] = short_session(BOTH);
    let mut dialed = End::new(Session::responder(&config(1, BOTH)));
    let noise = SessionError::Handshake(HandshakeError::Noise);
    assert_eq!(dialed.feed(&heard.input), Err(noise));
    assert!(dialed.seen.is_empty());
}

#[test]
fn every_type_of_frame_is_known_or_refused() {
    let mut refused = 0;
    for frame_type in 0..=u8::MAX {
        let (mut raw, mut end) = RawPeer::dial(1);
        end.feed(&raw.record(&frame_of(&hello()), CONTROL)).unwrap();
        let head = [&5_u32.to_be_bytes()[..], &[frame_type]].concat();
        let result = end.feed(&raw.record(&head, CONTROL));
        match frame_type {
            1 => assert_eq!(result, Err(SessionError::Hello)),
            2..=12 => assert_eq!(result, Ok(())),
            _ => {
                assert_eq!(class(result.unwrap_err()), "message.invalid");
                refused += 1;
            }
        }
        assert_eq!(end.seen.len(), 1);
    }
    assert_eq!(refused, 256 - 12);
}

#[test]
fn an_error_is_the_end() {
    let (mut raw, mut end) = RawPeer::dial(1);
    end.session.send(&hello());
    end.feed(&raw.record(&frame_of(&hello()), CONTROL)).unwrap();
    let ping = frame_of(&Message::Ping { nonce: 1 });
    let wrong = [&ping[..], &frame_of(&hello())].concat();
    assert_eq!(end.feed(&raw.record(&wrong, CONTROL)), Err(SessionError::Hello));
    let events = [Seen::Message(hello()), Seen::Message(Message::Ping { nonce: 1 })];
    assert_eq!(end.seen, events, "[W-52]: what was whole before stands");
    assert_eq!(end.feed(&raw.record(&ping, CONTROL)), Err(SessionError::Hello), "[W-52]");
    assert_eq!(end.seen, events);
    end.session.send(&Message::Ping { nonce: 2 });
    assert!(!end.session.wants_transmit());
    let mut output = Vec::new();
    assert_eq!(end.session.transmit(&mut output, 1 << 20), Err(SessionError::Hello));
    assert!(output.is_empty());
}

/// Pseudo-random bytes.
fn noise(len: usize, mut seed: u32) -> Vec<u8> {
    let step = |_| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed.to_be_bytes()[0]
    };
    (0..len).map(step).collect()
}

#[test]
fn blocks_of_every_length_about_a_record_arrive_whole() {
    let record = 65_518;
    for len in [0, 1, record - 1, record, record + 1, 2 * record, BLOCK_BYTES_MAX] {
        for skips_blocks in [false, true] {
            let mut ends = ends(&config(0, BOTH), &config(1, BOTH));
            let data = noise(len, 9);
            ends[0].session.send(&hello());
            ends[0].session.send_block(hash_of(&data), data.clone().into());
            ends[0].session.send_block(hash_of(b"next"), Bytes::from_static(b"next"));
            ends[1].skips_blocks = skips_blocks;
            assert_eq!(run(&mut ends), [Ok(()), Ok(())]);
            let whole = |data: &[u8]| {
                let hash = hash_of(data);
                let last = match skips_blocks {
                    true => Seen::Skipped(hash, data.len()),
                    false => Seen::Block(hash, data.to_vec()),
                };
                [Seen::Coming(hash, data.len()), last]
            };
            let said = [Seen::Established(peer(1)), Seen::Message(hello())];
            assert!(ends[1].seen == [said, whole(&data), whole(b"next")].concat(), "{len}");
            assert_eq!(ends[0].session.queued_blocks(), 0);
        }
    }
}

#[test]
fn a_message_overtakes_a_block_that_is_under_way() {
    let mut pair = ends(&config(0, BOTH), &config(1, BOTH));
    assert_eq!(run(&mut pair), [Ok(()), Ok(())]);
    let data = noise(300_000, 1);
    pair[0].session.send(&hello());
    pair[0].session.send_block(hash_of(&data), data.clone().into());
    let mut output = Vec::new();
    assert!(pair[0].session.transmit(&mut output, 70_000).unwrap(), "more is queued");
    pair[0].session.send(&Message::Ping { nonce: 3 });
    assert!(!pair[0].session.cancel_block(hash_of(&data)), "it was announced");
    pair[0].session.send_block(hash_of(b"late"), Bytes::from_static(b"late"));
    assert!(pair[0].session.cancel_block(hash_of(b"late")));
    output.extend(pair[0].take_output());
    pair[1].feed(&output).unwrap();
    let hash = hash_of(&data);
    let told = &pair[1].seen[2..];
    assert_eq!(told[0], Seen::Coming(hash, data.len()));
    assert_eq!(told[1], Seen::Message(Message::Ping { nonce: 3 }));
    assert!(told[2] == Seen::Block(hash, data) && told.len() == 3);
}

#[test]
#[should_panic(expected = "a block waits for its place")]
fn a_block_that_nobody_decided_on_is_a_bug_of_ours() {
    let (mut raw, mut end) = RawPeer::dial(1);
    let announced = [&[5][..], &hash_of(b"x").to_bytes(), &1_u32.to_be_bytes()].concat();
    let said = [frame_of(&hello()), common::frame(&announced)].concat();
    let wire = [raw.record(&said, CONTROL), raw.record(b"x", BLOCK)].concat();
    let mut wire = &wire[..];
    for _ in 0..3 {
        end.session.receive(&mut wire).unwrap();
    }
}

fn hashes() -> impl Strategy<Value = Vec<Multihash>> {
    let code = prop_oneof![Just(HashCode::Sha2_256), Just(HashCode::Blake3)];
    let hash = (code, any::<[u8; 32]>()).prop_map(|(code, digest)| Multihash::new(code, digest));
    let len = prop_oneof![8 => 0..8_usize, 1 => Just(WANTS_MAX)];
    (len, hash).prop_map(|(len, hash)| vec![hash; len])
}

fn presences() -> impl Strategy<Value = Vec<(Multihash, Presence)>> {
    let len = 0..=u32::try_from(BLOCK_BYTES_MAX).unwrap();
    let presence = prop_oneof![
        Just(Presence::DontHave),
        len.clone().prop_map(|len| Presence::Have { len }),
        len.prop_map(|len| Presence::Complete { len }),
    ];
    (hashes(), presence)
        .prop_map(|(hashes, presence)| hashes.into_iter().map(|hash| (hash, presence)).collect())
}

fn any_message() -> impl Strategy<Value = Message> {
    let cid = any::<[u8; 32]>().prop_map(|digest| {
        let hash = Multihash::new(HashCode::Sha2_256, digest);
        barrow_wire::Cid::v1(barrow_wire::Codec::DagCbor, hash)
    });
    let hint = (any::<[u8; 32]>(), any::<std::net::SocketAddr>()).prop_map(|(key, mut address)| {
        if let std::net::SocketAddr::V6(v6) = &mut address {
            v6.set_flowinfo(0);
            v6.set_scope_id(0);
        }
        PeerAddress { peer: PeerId::from_public_key(key), address }
    });
    let state = prop_oneof![
        Just(SlotState::Refused),
        Just(SlotState::Fetching),
        Just(SlotState::Held),
        Just(SlotState::Failed)
    ];
    prop_oneof![
        (any::<bool>(), hashes()).prop_map(|(inline, blocks)| Message::WantHave { inline, blocks }),
        (any::<u64>(), presences())
            .prop_map(|(price, blocks)| Message::BlockPresence { price, blocks }),
        hashes().prop_map(|blocks| Message::WantBlock { blocks }),
        hashes().prop_map(|blocks| Message::Cancel { blocks }),
        (any::<u64>(), any::<u64>()).prop_map(|(sequence, total)| {
            Message::Payment { voucher: Voucher::sign(&identity(1), peer(2), sequence, total) }
        }),
        proptest::collection::vec(hint, 0..=PEER_ADDRESSES_MAX)
            .prop_map(|peers| Message::PeerAddresses { peers }),
        any::<u64>().prop_map(|nonce| Message::Ping { nonce }),
        any::<u64>().prop_map(|nonce| Message::Pong { nonce }),
        (cid.clone(), 0..u16::MAX).prop_map(|(manifest, index)| Message::HoldSlot {
            manifest,
            index,
            slots: u16::MAX
        }),
        (cid, any::<u16>(), state).prop_map(|(manifest, index, state)| Message::SlotHeld {
            manifest,
            index,
            state
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_messages_arrive_as_sent_however_they_are_cut(
        messages in proptest::collection::vec(any_message(), 1..6),
        cuts in proptest::collection::vec(1..5_000_usize, 1..4),
    ) {
        let mut pair = ends(&config(0, BOTH), &config(1, BOTH));
        prop_assert_eq!(run(&mut pair), [Ok(()), Ok(())]);
        let said = [&[hello()][..], &messages].concat();
        for message in &said {
            pair[0].session.send(message);
        }
        let output = pair[0].take_output();
        let mut rest = &output[..];
        for len in cuts.iter().cycle() {
            let (read, left) = rest.split_at((*len).min(rest.len()));
            pair[1].feed(read).unwrap();
            rest = left;
            if rest.is_empty() {
                break;
            }
        }
        let heard: Vec<_> = said.into_iter().map(Seen::Message).collect();
        prop_assert_eq!(&pair[1].seen[1..], &heard[..]);
    }

    #[test]
    fn an_agent_of_any_text_is_sent_as_one_that_is_taken(agent in ".*") {
        let mut bytes = Vec::new();
        Message::Hello { listen_port: 1, agent }.encode(&mut bytes);
        let Ok(Message::Hello { agent, .. }) = Message::decode(bytes[0], &bytes[1..]) else {
            panic!("our own hello is refused");
        };
        prop_assert!(agent.len() <= AGENT_BYTES_MAX);
    }
}
