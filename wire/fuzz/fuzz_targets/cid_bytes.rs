//! A binary Cid: it has one form alone, wherever it ends.
#![no_main]

use barrow_wire::Cid;
use barrow_wire_fuzz::within;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((cid, rest)) = within(0, || Cid::read(bytes)) {
        assert_eq!(cid.to_bytes(), bytes[..bytes.len() - rest.len()]);
        assert_eq!(Cid::from_bytes(bytes).is_ok(), rest.is_empty());
        assert_eq!(cid.multihash().is_some(), cid.identity().is_none());
        assert_eq!(cid.to_string().parse(), Ok(cid));
    }
});
