//! A message of any type and body: it has one form alone, and takes twice its bytes at most.
#![no_main]

use barrow_wire::Message;
use barrow_wire_fuzz::within;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((frame_type, body)) = bytes.split_first() else { return };
    if let Ok(message) = within(2 * body.len(), || Message::decode(*frame_type, body)) {
        let mut encoded = Vec::new();
        message.encode(&mut encoded);
        assert_eq!(encoded, bytes);
    }
});
