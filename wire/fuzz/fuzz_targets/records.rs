//! Any bytes behind an established session, and records that were changed on the way: none of it
//! is taken.
#![no_main]

use barrow_wire::{SessionError, limits::RECORD_BYTES_MAX};
use barrow_wire_fuzz::{
    common::{CONTROL, RawPeer, Seen, frame_of, hello},
    within,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, u16, u8, &[u8])| {
    let (choice, at, flip, bytes) = input;
    within(8 * RECORD_BYTES_MAX + 4 * bytes.len(), || {
        let (mut peer, mut end) = RawPeer::dial(1 + (choice & 1));
        let honest = peer.record(&frame_of(&hello()), CONTROL);
        let result = if choice & 2 == 0 {
            end.feed(bytes)
        } else {
            let mut changed = [&honest[..], bytes].concat();
            let at = usize::from(at) % changed.len();
            changed[at] ^= flip;
            end.feed(&changed)
        };
        let taken = if choice & 2 == 0 { Vec::new() } else { vec![Seen::Message(hello())] };
        assert!(end.seen.is_empty() || end.seen == taken, "{:?}", end.seen);
        match result {
            // It waits for the rest of a record.
            Ok(()) => {}
            Err(error) => assert!(matches!(error, SessionError::Length | SessionError::Tampered)),
        }
    });
});
