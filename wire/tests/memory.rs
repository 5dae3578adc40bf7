//! [W-54]: what a peer can make a session hold. A test of its own, for it counts every
//! allocation of the process.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;
#[path = "common/counting.rs"]
mod counting;

use barrow_wire::{
    Event, HashCode, Identity, Message, Multihash, Session, SessionConfig, SessionError, StaticKey,
    Suites,
    limits::{BLOCK_BYTES_MAX, RECORD_BYTES_MAX, RECORD_PLAINTEXT_BYTES_MAX, WANTS_MAX},
};
use common::{BLOCK, CONTROL, RawPeer, frame, frame_of, hello};
use counting::{LIVE_BYTES, PEAK_BYTES};
use std::sync::atomic::Ordering::Relaxed;

/// What `work` gave, and the bytes that it held at most beyond those held before.
fn held<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE_BYTES.load(Relaxed);
    PEAK_BYTES.store(before, Relaxed);
    let result = work();
    (result, PEAK_BYTES.load(Relaxed) - before)
}

/// Feeds all of it, skips blocks, and drops what is told.
fn drink(session: &mut Session<Vec<u8>>, mut wire: &[u8]) -> Result<(), SessionError> {
    while let Some(event) = session.receive(&mut wire)? {
        if matches!(event, Event::BlockComing { .. }) {
            session.skip_block();
        }
    }
    Ok(())
}

/// What a session behind its hello makes of these plaintext records, and the bytes it held.
fn after_hello(records: &[(&[u8], u8)]) -> (Result<(), SessionError>, usize) {
    let (mut raw, mut end) = RawPeer::dial(2);
    end.feed(&raw.record(&frame_of(&hello()), CONTROL)).unwrap();
    let seal = |(body, kind): &(&[u8], u8)| raw.record(body, *kind);
    let wire: Vec<u8> = records.iter().flat_map(seal).collect();
    held(|| drink(&mut end.session, &wire))
}

#[test]
fn a_peer_cannot_make_a_session_hold_much() {
    lengths_are_refused_before_memory_is_taken();
    a_frame_that_never_ends_is_held_once();
    a_block_that_is_not_wanted_takes_no_room();
    many_frames_in_one_record_are_not_multiplied();
}

fn lengths_are_refused_before_memory_is_taken() {
    let key = StaticKey::generate(&Identity::from_seed([1; 32]));
    let suites = Suites { aes_gcm: true };
    let config = SessionConfig { static_key: &key, swarm_key: None, expected: None, suites };
    for len in [0, 1_025, 65_535_u16] {
        let mut session = Session::responder(&config);
        let (result, bytes) = held(|| drink(&mut session, &len.to_be_bytes()));
        assert_eq!((result, bytes), (Err(SessionError::Length), 0));
    }
    let refused = [(0_u32, 4_u8), (u32::MAX, 4), (262_145, 4), (33_796, 4), (68, 5), (10, 9)];
    for (len, frame_type) in refused {
        let head = [&len.to_be_bytes()[..], &[frame_type]].concat();
        let (result, bytes) = after_hello(&[(&head, CONTROL)]);
        assert_eq!(result, Err(SessionError::Length), "{len} {frame_type}");
        assert!(bytes < 128, "{bytes}");
    }
    // Lists that are not there.
    for (frame_type, count) in [(4_u8, WANTS_MAX), (8, 64)] {
        let count = u16::try_from(count).unwrap().to_be_bytes();
        let (result, bytes) =
            after_hello(&[(&frame(&[&[frame_type], &count[..]].concat()), CONTROL)]);
        assert!(matches!(result, Err(SessionError::Message(_))));
        assert!(bytes < 128, "{bytes}");
    }
}

fn a_frame_that_never_ends_is_held_once() {
    let hash = Multihash::of(HashCode::Sha2_256, b"a");
    let want = frame_of(&Message::WantBlock { blocks: vec![hash; WANTS_MAX] });
    let parts: Vec<_> = want[..want.len() - 1].iter().map(std::slice::from_ref).collect();
    let records: Vec<_> = parts.into_iter().map(|part| (part, CONTROL)).collect();
    let (result, bytes) = after_hello(&records);
    assert_eq!(result, Ok(()));
    assert!((want.len()..4 * want.len()).contains(&bytes), "{bytes}");
}

fn a_block_that_is_not_wanted_takes_no_room() {
    let len = u32::try_from(BLOCK_BYTES_MAX).unwrap();
    let hash = Multihash::of(HashCode::Sha2_256, b"a");
    let announced = frame(&[&[5][..], &hash.to_bytes(), &len.to_be_bytes()].concat());
    let data = vec![7; BLOCK_BYTES_MAX];
    let mut records = vec![(&announced[..], CONTROL)];
    records.extend(data.chunks(RECORD_PLAINTEXT_BYTES_MAX - 1).map(|part| (part, BLOCK)));
    let (result, bytes) = after_hello(&records);
    assert_eq!(result, Ok(()));
    assert!(bytes <= RECORD_BYTES_MAX + 128, "{bytes}");
}

fn many_frames_in_one_record_are_not_multiplied() {
    let pings = frame_of(&Message::Ping { nonce: 1 }).repeat(5_000);
    let (result, bytes) = after_hello(&[(&pings, CONTROL), (&pings, CONTROL)]);
    assert_eq!(result, Ok(()));
    assert!(bytes <= 3 * RECORD_BYTES_MAX, "{bytes}");
}
