//! Any plaintext in records that authenticate, cut anywhere. The first byte says how records are
//! cut and whether a hello goes before.
#![no_main]

use barrow_wire::limits::{BLOCK_BUFFER_SLACK_BYTES, CONTROL_BYTES_MAX};
use barrow_wire::{Event, Session};
use barrow_wire_fuzz::{
    common::{BLOCK, CONTROL, RawPeer, frame_of, hello},
    within,
};
use libfuzzer_sys::fuzz_target;

/// Longer blocks are skipped, so that their buffers do not hide what the session holds.
const ACCEPTED_BYTES_MAX: usize = 4096;

fuzz_target!(|input: (u8, Vec<(u8, &[u8])>)| {
    let (choice, records) = input;
    let (mut peer, mut end) = RawPeer::dial(1 + (choice & 1));
    let mut wire = Vec::new();
    if choice & 2 != 0 {
        wire.extend(peer.record(&frame_of(&hello()), CONTROL));
    }
    for (kind, body) in records {
        let kind = match kind {
            0..=127 => CONTROL,
            128..=250 => BLOCK,
            other => other,
        };
        for part in body.chunks(1 + usize::from(choice) * 64) {
            wire.extend(peer.record(part, kind));
        }
    }
    within(2 * CONTROL_BYTES_MAX, || receive(&mut end.session, &wire));
});

fn receive(session: &mut Session<Vec<u8>>, mut wire: &[u8]) {
    let mut coming = None;
    while let Ok(Some(event)) = session.receive(&mut wire) {
        match event {
            Event::BlockComing { hash, len } => {
                coming = Some((hash, len));
                if len <= ACCEPTED_BYTES_MAX {
                    session.accept_block(vec![0; len + BLOCK_BUFFER_SLACK_BYTES]);
                } else {
                    session.skip_block();
                }
            }
            Event::Block { hash, len, .. } | Event::BlockSkipped { hash, len } => {
                assert_eq!(coming.take(), Some((hash, len)));
            }
            Event::Message(_) => {}
            Event::Established { .. } => unreachable!("established before"),
        }
    }
}
