//! Who is asked, and what is taken back.

use super::*;

#[test]
fn one_who_was_never_tried_is_asked_beside_many_who_were() {
    let mut bench = Bench::new();
    bench.start(Order::Sequential);
    for n in 1..=40 {
        let (conn, _) = bench.connect(n);
        let block = u32::from(n);
        bench.want(&[block]);
        bench.presence(conn, &[(block, HAVE)]);
        bench.pass(10 * MS);
        bench.deliver(conn, block, 65_536);
    }
    let (untried, _) = bench.connect(50);
    let asked = |said: &[Output]| want_haves(said).iter().any(|(conn, ..)| *conn == untried);
    let said = bench.want(&[100]);
    assert!(asked(&said) && want_haves(&said).len() == 32, "{said:?}");
}

#[test]
fn a_small_block_that_may_come_of_two_is_taken_back_from_the_other_at_once() {
    let mut bench = Bench::new();
    let [(a, _), (b, _)] = [bench.connect(1), bench.connect(2)];
    bench.start(Order::Sequential);
    assert_eq!(want_haves(&bench.want(&[1, 2])), [(a, true, 2), (b, true, 2)]);
    // The transfer goes on, and what was asked of both in the place of an answer is cancelled.
    assert_eq!(cancelled(&bench.deliver(b, 1, 100), a), 1);
}
