//! Inputs that cross each other: each rule here was broken once.

use super::*;

fn sent(outputs: &[Output], conn: ConnId) -> Vec<Message> {
    let messages = outputs.iter().filter_map(|output| {
        if let Output::Send { conn: to, message } = output
            && *to == conn
        {
            Some(message.clone())
        } else {
            None
        }
    });
    messages.collect()
}

fn start(bench: &mut Bench, job: u64, order: Order) -> Vec<Output> {
    let root = Cid::v1(Codec::Raw, hash(0));
    bench.tell(Input::JobStarted { job: JobId(job), root, order, purse: PURSE })
}

fn want(bench: &mut Bench, job: u64, blocks: std::ops::Range<u32>) -> Vec<Output> {
    bench.tell(Input::Want { job: JobId(job), blocks: blocks.map(hash).collect() })
}

#[test]
fn a_block_that_comes_while_the_store_looks_for_it_is_announced() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    let (b, _) = bench.connect(2);
    bench.start(Order::Bulk);
    bench.want(&[1]);
    bench.presence(a, &[(1, HAVE)]);
    bench.hear(b, Message::WantHave { inline: false, blocks: vec![hash(1)] });
    bench.deliver(a, 1, 65_536);
    // The store looked before the block was there.
    let said = bench.tell(Input::LookedUp { conn: b, found: vec![(hash(1), Presence::DontHave)] });
    let blocks = vec![(hash(1), HAVE)];
    assert_eq!(sent(&said, b), [Message::BlockPresence { price: 0, blocks }]);
}

#[test]
fn wants_that_fail_leave_their_room_to_other_jobs() {
    let mut bench = Bench::new();
    start(&mut bench, 1, Order::Sequential);
    start(&mut bench, 2, Order::Sequential);
    want(&mut bench, 1, 0..1_024);
    want(&mut bench, 2, 2_000..2_010);
    bench.tell(Input::DiscoveryDone { job: JobId(2) });
    let errors = failed(&bench.tell(Input::DiscoveryDone { job: JobId(1) }));
    assert_eq!(errors, [WantError::NoProvider; 1_034]);
}

#[test]
fn a_wish_made_anew_is_not_taken_back_by_an_old_cancel() {
    let mut bench = Bench::new();
    let [_, (a, _)] = [bench.connect(1), bench.connect(2)];
    bench.start(Order::Sequential);
    // Something else stays wanted, so that cancels of questions wait for company. Only the first
    // peer may answer with the blocks.
    assert!(want_haves(&bench.want(&[1, 2, 3, 4, 5])).contains(&(a, false, 5)));
    bench.tell(Input::Unwant { job: JobId(1), blocks: vec![hash(1)] });
    bench.want(&[1]);
    let said = bench.presence(a, &[(1, HAVE)]);
    assert_eq!(asked(&said, a), [1]);
    let others: Vec<_> = (2..=5).map(hash).collect();
    let said = bench.tell(Input::Unwant { job: JobId(1), blocks: others.clone() });
    assert_eq!(cancelled(&said, a), 0, "{said:?}");
    let said = bench.deliver(a, 1, 65_536);
    assert_eq!(sent(&said, a), [Message::Cancel { blocks: others }]);
}

#[test]
fn a_block_that_crossed_a_cancel_is_no_offence_though_it_is_wanted_anew_when_it_ends() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    bench.start(Order::Sequential);
    for _ in 0..4 {
        bench.want(&[1]);
        bench.presence(a, &[(1, HAVE)]);
        let said = bench.tell(Input::Unwant { job: JobId(1), blocks: vec![hash(1)] });
        assert_eq!(cancelled(&said, a), 1);
        // It begins to come, is skipped, and is asked for again before it has ended.
        assert!(!bench.engine.expects(a, &hash(1), 65_536));
        let mut said = bench.want(&[1]);
        said.extend(bench.presence(a, &[(1, HAVE)]));
        assert_eq!(asked(&said, a), [1]);
        let skipped = Input::BlockRejected { conn: a, hash: hash(1), len: 65_536, wanted: false };
        let blocks = vec![hash(1)];
        let anew = [Message::Cancel { blocks: blocks.clone() }, Message::WantBlock { blocks }];
        let said = bench.tell(skipped);
        assert_eq!(sent(&said, a), anew);
        assert_eq!(said.len(), 2, "{said:?}");
        bench.deliver(a, 1, 65_536);
    }
}

#[test]
fn a_block_too_late_to_cancel_answers_the_wish_made_anew() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    bench.hear(a, Message::WantBlock { blocks: vec![hash(1)] });
    bench.tell(Input::BlockQueued { conn: a, hash: hash(1), len: Some(65_536) });
    bench.hear(a, Message::Cancel { blocks: vec![hash(1)] });
    bench.hear(a, Message::WantBlock { blocks: vec![hash(1)] });
    // Half of it was on its way: the session cannot take it back.
    let said = bench.tell(Input::BlockSent { conn: a, hash: hash(1), len: 65_536 });
    assert_eq!(said, []);
    // Taken back in time, it is sent once more.
    bench.hear(a, Message::WantBlock { blocks: vec![hash(2)] });
    bench.tell(Input::BlockQueued { conn: a, hash: hash(2), len: Some(65_536) });
    bench.hear(a, Message::Cancel { blocks: vec![hash(2)] });
    bench.hear(a, Message::WantBlock { blocks: vec![hash(2)] });
    let said = bench.tell(Input::BlockSent { conn: a, hash: hash(2), len: 0 });
    assert_eq!(said, [Output::SendBlock { conn: a, hash: hash(2) }]);
}

#[test]
fn silent_peers_do_not_keep_others_from_being_asked() {
    let mut bench = Bench::new();
    for n in 1..=32 {
        bench.connect(n);
    }
    bench.start(Order::Sequential);
    bench.want(&[1]);
    let (honest, _) = bench.connect(33);
    bench.hear(
        honest,
        Message::BlockPresence { price: 0, blocks: vec![(hash(1), Presence::DontHave)] },
    );
    let said = bench.want(&[2]);
    assert!(want_haves(&said).iter().any(|(conn, ..)| *conn == honest), "{said:?}");
}

#[test]
fn a_block_that_is_on_its_way_in_time_is_not_doubled_at_the_end() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    let (b, _) = bench.connect(2);
    bench.start(Order::Sequential);
    bench.want(&(1..=8).collect::<Vec<_>>());
    // Half a MiB at the 2 MiB a second that a new peer is taken for: 250 ms.
    assert_eq!(
        asked(&bench.presence(a, &(1..=8).map(|n| (n, HAVE)).collect::<Vec<_>>()), a).len(),
        8
    );
    assert!(asked(&bench.pass(120 * MS), b).is_empty());
    for n in 1..=4 {
        bench.deliver(a, n, 65_536);
    }
    let said = bench.presence(b, &[(8, HAVE)]);
    assert!(asked(&said, b).is_empty(), "it comes sooner from where it was asked");
    assert_eq!(asked(&bench.pass(5_000 * MS), b), [8], "now it is late");
}

#[test]
fn small_blocks_come_once_from_a_peer_that_delivers() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    let (b, _) = bench.connect(2);
    bench.start(Order::Sequential);
    assert_eq!(want_haves(&bench.want(&[1])), [(a, true, 1), (b, true, 1)]);
    bench.deliver(b, 1, 100);
    assert_eq!(want_haves(&bench.want(&[2])), [(b, true, 1), (a, false, 1)]);
}

#[test]
fn a_block_taken_from_a_slow_peer_is_welcome_if_it_comes_from_there_first() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    bench.start(Order::Sequential);
    bench.want(&[1, 2]);
    bench.presence(a, &[(1, HAVE), (2, HAVE)]);
    let (b, _) = bench.connect(2);
    bench.presence(b, &[(1, HAVE), (2, HAVE)]);
    let said = bench.pass(2_500 * MS);
    assert_eq!((cancelled(&said, a), asked(&said, b).len()), (1, 2));
    let said = bench.deliver(a, 2, 65_536);
    assert_eq!(cancelled(&said, b), 1);
    assert_eq!(bench.engine.peers()[0].offences, 0);
    assert!(!bench.engine.expects(a, &hash(2), 65_536));
}
