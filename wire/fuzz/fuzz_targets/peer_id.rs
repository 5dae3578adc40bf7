//! A peer id's text, and a signature of any key.
#![no_main]

use barrow_wire::PeerId;
use barrow_wire_fuzz::within;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(peer) = within(0, || text.parse::<PeerId>())
    {
        assert_eq!(peer.to_string(), text);
    }
    if let Some((key, rest)) = bytes.split_first_chunk() {
        let peer = PeerId::from_public_key(*key);
        assert_eq!(peer.to_string().parse(), Ok(peer));
        if let Some((signature, message)) = rest.split_first_chunk() {
            within(4 * 1024, || peer.verifies(message, signature));
        }
    }
});
