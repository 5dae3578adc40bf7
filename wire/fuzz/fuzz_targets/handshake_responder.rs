//! The side that was dialed: any bytes, or any payload in a last flight that authenticates.
#![no_main]

use barrow_wire::limits::CONTROL_BYTES_MAX;
use barrow_wire_fuzz::{
    common::{End, prefixed},
    session, within,
};
use libfuzzer_sys::fuzz_target;
use snow::Builder;

fuzz_target!(|input: (u8, &[u8])| {
    let (choice, bytes) = input;
    within(2 * CONTROL_BYTES_MAX + 4 * bytes.len(), || {
        let mut end = End::new(session(1, choice));
        let result = if choice & 4 == 0 {
            // Two reads, so that the second flight is met, too.
            let (first, second) = bytes.split_at(bytes.len() / 2);
            end.feed(first).and_then(|()| end.feed(second))
        } else {
            last_flight(&mut end, choice, bytes)
        };
        if result.is_err() {
            assert!(!end.session.wants_transmit());
        } else {
            assert!(end.take_output().len() <= 2 + 1 + 32 + 48 + 144);
        }
    });
});

/// The handshake by the book, but for the last payload.
fn last_flight(end: &mut End, choice: u8, payload: &[u8]) -> Result<(), barrow_wire::SessionError> {
    let psk = choice & 1 != 0;
    let name = match psk {
        false => "Noise_XX_25519_ChaChaPoly_SHA256",
        true => "Noise_XXpsk0_25519_ChaChaPoly_SHA256",
    };
    let mut builder = Builder::new(name.parse().unwrap())
        .local_private_key(&[0x11; 32])
        .unwrap()
        .prologue(b"barrow/1\x01")
        .unwrap()
        .fixed_ephemeral_key_for_testing_only(&[0x21; 32]);
    if psk {
        builder = builder.psk(0, &[0x5a; 32]).unwrap();
    }
    let mut noise = builder.build_initiator().unwrap();
    let mut buffer = vec![0; 1024];
    let len = noise.write_message(&[], &mut buffer).unwrap();
    end.feed(&prefixed(&[&[1, 1, 1, u8::try_from(len).unwrap()], &buffer[..len]].concat()))?;
    let answer = end.take_output();
    noise.read_message(&answer[3..], &mut buffer).unwrap();
    let payload = &payload[..payload.len().min(800)];
    let len = noise.write_message(payload, &mut buffer).unwrap();
    end.feed(&prefixed(&buffer[..len]))
}
