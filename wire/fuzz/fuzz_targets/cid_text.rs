//! A Cid's text: what is taken is written as a text that reads back to the same.
#![no_main]

use barrow_wire::Cid;
use barrow_wire_fuzz::within;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(cid) = within(64 * 1024, || text.parse::<Cid>()) {
        assert_eq!(cid.to_string().parse(), Ok(cid));
        assert_eq!(Cid::from_bytes(&cid.to_bytes()), Ok(cid));
    }
});
