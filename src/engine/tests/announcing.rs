//! Who hears that a block is here.

use super::*;

#[test]
fn who_was_denied_a_block_hears_of_it_once_it_is_here() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    let (b, _) = bench.connect(2);
    bench.hear(b, Message::WantHave { inline: false, blocks: vec![hash(1)] });
    bench.tell(Input::LookedUp { conn: b, found: vec![(hash(1), Presence::DontHave)] });
    bench.start(Order::Bulk);
    bench.want(&[1]);
    bench.presence(a, &[(1, HAVE)]);
    let blocks = vec![(hash(1), HAVE)];
    let message = Message::BlockPresence { price: 0, blocks };
    let said = bench.deliver(a, 1, 65_536);
    assert!(said.contains(&Output::Send { conn: b, message }), "{said:?}");
}

#[test]
fn a_block_that_was_needed_in_passing_is_announced_to_nobody() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    let (b, _) = bench.connect(2);
    let denied = Input::LookedUp { conn: b, found: vec![(hash(1), Presence::DontHave)] };
    bench.hear(b, Message::WantHave { inline: false, blocks: vec![hash(1)] });
    bench.tell(denied);
    bench.start(Order::Bulk);
    bench.want(&[1]);
    bench.presence(a, &[(1, HAVE)]);
    let said = bench.tell(Input::BlockPassed { conn: a, hash: hash(1), len: 65_536 });
    let tells = |output: &Output| {
        matches!(output, Output::Send { message: Message::BlockPresence { .. }, .. })
    };
    assert!(!said.iter().any(tells), "{said:?}");
    let job = &bench.engine.jobs()[0];
    assert_eq!((job.blocks_received, job.blocks_open), (1, 0), "it came all the same");
    // Once it is stored as well, it is announced to who still waits to hear of it.
    bench.want(&[1]);
    bench.presence(a, &[(1, HAVE)]);
    let message = Message::BlockPresence { price: 0, blocks: vec![(hash(1), HAVE)] };
    let said = bench.deliver(a, 1, 65_536);
    assert!(said.contains(&Output::Send { conn: b, message }), "{said:?}");
}
