//! A voucher of any bytes: it reads back, and none but a signed one verifies.
#![no_main]

use barrow_wire::{Identity, Voucher};
use barrow_wire_fuzz::within;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: ([u8; 80], [u8; 64], u64, u64)| {
    let (signed, signature, sequence, total) = input;
    let bytes: [u8; Voucher::BYTES] = [&signed[..], &signature].concat().try_into().unwrap();
    let voucher = Voucher::from_bytes(&bytes);
    assert_eq!(voucher.to_bytes(), bytes);
    let [payer, payee] = [1, 2].map(|n| Identity::from_seed([n; 32]));
    let verified = |voucher: &Voucher| {
        within(4 * 1024, || voucher.verify(&payer.peer_id(), &payee.peer_id())).is_ok()
    };
    let mut ours = Voucher::sign(&payer, payee.peer_id(), sequence, total);
    assert!(verified(&ours));
    assert!(
        !verified(&voucher)
            || Voucher::sign(&payer, payee.peer_id(), voucher.sequence, voucher.total) == voucher
    );
    // Of its own accord nothing verifies, whatever was changed.
    let honest = ours.clone();
    (ours.sequence, ours.total) = (voucher.sequence, voucher.total);
    assert_eq!(verified(&ours), ours == honest);
    ours.signature = signature;
    assert!(!verified(&ours) || ours == honest);
    let _ = within(4 * 1024, || voucher.verify(&voucher.payer, &voucher.payee));
    assert!(!(voucher.supersedes(&honest) && honest.supersedes(&voucher)));
});
