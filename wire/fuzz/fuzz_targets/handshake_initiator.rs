//! The side that dialed: any bytes for an answer, or any payload in an answer that authenticates.
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
        let mut end = End::new(session(0, choice));
        let offer = end.take_output();
        let answer = if choice & 4 == 0 { bytes.to_vec() } else { answer(&offer, choice, bytes) };
        let result = end.feed(&answer);
        if result.is_err() {
            assert!(!end.session.wants_transmit());
        } else if end.session.is_established() {
            assert_eq!(end.take_output().len(), 2 + 48 + 112);
        }
    });
});

/// Flight 2 by the book, but for the payload.
fn answer(offer: &[u8], choice: u8, payload: &[u8]) -> Vec<u8> {
    let (psk, suites): (bool, &[u8]) =
        (choice & 1 != 0, if choice & 2 != 0 { &[2, 1] } else { &[1] });
    let name = match (suites[0], psk) {
        (1, false) => "Noise_XX_25519_ChaChaPoly_SHA256",
        (1, true) => "Noise_XXpsk0_25519_ChaChaPoly_SHA256",
        (_, false) => "Noise_XX_25519_AESGCM_SHA256",
        (_, true) => "Noise_XXpsk0_25519_AESGCM_SHA256",
    };
    let prologue = [&b"barrow/1"[..], suites].concat();
    let mut builder = Builder::new(name.parse().unwrap())
        .local_private_key(&[0x12; 32])
        .unwrap()
        .prologue(&prologue)
        .unwrap()
        .fixed_ephemeral_key_for_testing_only(&[0x22; 32]);
    if psk {
        builder = builder.psk(0, &[0x5a; 32]).unwrap();
    }
    let mut noise = builder.build_responder().unwrap();
    let mut buffer = vec![0; 1024];
    let len = usize::from(offer[5]);
    noise.read_message(&offer[6..6 + len], &mut buffer).unwrap();
    let payload = &payload[..payload.len().min(800)];
    let len = noise.write_message(payload, &mut buffer).unwrap();
    prefixed(&[&suites[..1], &buffer[..len]].concat())
}
