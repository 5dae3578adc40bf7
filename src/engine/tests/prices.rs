//! What blocks may cost, and what is paid for them.

use super::*;

fn offer(price: u64, n: u32) -> Message {
    Message::BlockPresence { price, blocks: vec![(hash(n), HAVE)] }
}

/// All that discovery and the peers could have said of others has been said.
fn end_search(bench: &mut Bench, conn: ConnId, said: &[Output]) -> Vec<Output> {
    let mut after = bench.tell(Input::DiscoveryDone { job: JobId(1) });
    after.extend(bench.answer_around(conn, said, &[]));
    after
}

#[test]
fn a_block_dearer_than_allowed_is_not_bought() {
    let mut bench = Bench::with(|config| (config.price_max, config.budget) = (5, 1));
    let (a, _) = bench.connect(1);
    bench.start(Order::Sequential);
    bench.want(&[1]);
    let said = bench.hear(a, offer(6, 1));
    assert_eq!(failed(&end_search(&mut bench, a, &said)), [WantError::OverBudget]);
    let (b, _) = bench.connect(2);
    bench.want(&[2]);
    assert_eq!(asked(&bench.hear(b, offer(5, 2)), b), [2]);
    assert_eq!(bench.engine.jobs()[0].spent, 1);
}

#[test]
fn a_download_that_goes_on_has_what_is_left_of_its_budget() {
    let mut bench = Bench::with(|config| (config.price_max, config.budget) = (16, 2));
    let (a, _) = bench.connect(1);
    bench.start(Order::Sequential);
    // One block costs a unit, and as much was spent before.
    bench.tell(Input::Spent { purse: PURSE, cost: 1 << 20 });
    bench.want(&[1, 2]);
    assert_eq!(asked(&bench.hear(a, offer(16, 1)), a), [1]);
    assert_eq!(bench.engine.spent(PURSE), Some(1 << 20), "what is set aside is not spent");
    bench.deliver(a, 1, 65_536);
    assert_eq!(bench.engine.spent(PURSE), Some(2 << 20));
    let said = bench.hear(a, offer(16, 2));
    assert_eq!((asked(&said, a), searches(&said)), (vec![], true));
    assert_eq!(failed(&end_search(&mut bench, a, &said)), [WantError::OverBudget]);
}

#[test]
fn all_that_one_download_retrieves_is_paid_out_of_one_budget() {
    let mut bench = Bench::with(|config| (config.price_max, config.budget) = (16, 1));
    let (a, _) = bench.connect(1);
    bench.start(Order::Sequential);
    let begin = |job: u64, purse: PurseId| Input::JobStarted {
        job: JobId(job),
        root: Cid::v1(Codec::Raw, hash(0)),
        order: Order::Sequential,
        purse,
    };
    bench.tell(begin(2, PURSE));
    bench.tell(begin(3, PurseId(2)));
    bench.want(&[1]);
    assert_eq!(asked(&bench.hear(a, offer(16, 1)), a), [1]);
    bench.deliver(a, 1, 65_536);
    let want = |job: u64| Input::Want { job: JobId(job), blocks: vec![hash(2)] };
    bench.tell(want(2));
    assert!(asked(&bench.hear(a, offer(16, 2)), a).is_empty());
    // Another download, which wants the same, has a budget of its own.
    bench.tell(want(3));
    assert_eq!(asked(&bench.hear(a, offer(16, 2)), a), [2]);
    bench.deliver(a, 2, 65_536);
    let spent = [PURSE, PurseId(2)].map(|purse| bench.engine.spent(purse));
    assert_eq!(spent, [Some(1 << 20); 2]);
    bench.tell(Input::PurseClosed { purse: PURSE });
    assert_eq!(bench.engine.spent(PURSE), None);
}

#[test]
fn all_that_the_budget_is_too_small_for_is_passed_over_at_once() {
    let mut bench = Bench::with(|config| (config.price_max, config.budget) = (16, 1));
    let (a, _) = bench.connect(1);
    bench.start(Order::Sequential);
    let all: Vec<u32> = (1..=200).collect();
    bench.want(&all);
    let blocks = all.iter().map(|n| (hash(*n), HAVE)).collect();
    let said = bench.hear(a, Message::BlockPresence { price: 16, blocks });
    assert_eq!(asked(&said, a).len(), 1);
    assert_eq!(failed(&end_search(&mut bench, a, &said)), [WantError::OverBudget; 199]);
}

#[test]
fn when_the_budget_is_used_up_one_who_gives_is_looked_for() {
    let mut bench = Bench::with(|config| (config.price_max, config.budget) = (16, 1));
    let (a, _) = bench.connect(1);
    bench.start(Order::Sequential);
    bench.want(&[1, 2]);
    assert_eq!(asked(&bench.hear(a, offer(16, 1)), a), [1]);
    let said = bench.hear(a, offer(16, 2));
    assert!(searches(&said) && failed(&said).is_empty(), "{said:?}");
    let said = bench.answer_around(a, &said, &[2]);
    assert!(dialed(&said).contains(&address(2)), "{said:?}");
    assert_eq!(failed(&bench.tell(Input::DiscoveryDone { job: JobId(1) })), []);
    let (b, _) = bench.connect(2);
    assert_eq!(asked(&bench.presence(b, &[(2, HAVE)]), b), [2]);
}

#[test]
fn whoever_asks_too_much_keeps_nobody_from_what_others_give() {
    for order in [Order::Sequential, Order::Bulk] {
        let mut bench = Bench::new();
        let (a, _) = bench.connect(1);
        bench.start(order);
        bench.want(&[1]);
        let said = bench.hear(a, offer(u64::MAX, 1));
        assert!(searches(&said) && failed(&said).is_empty(), "{said:?}");
        // One is found who gives it for nothing, and is waited for.
        let said = bench.answer_around(a, &said, &[2]);
        assert!(dialed(&said).contains(&address(2)), "{said:?}");
        assert_eq!(failed(&bench.tell(Input::DiscoveryDone { job: JobId(1) })), []);
        let (b, _) = bench.connect(2);
        assert_eq!(asked(&bench.presence(b, &[(1, HAVE)]), b), [1]);
        bench.deliver(b, 1, 65_536);
        assert_eq!(bench.engine.jobs()[0].spent, 0);
    }
}

#[test]
fn a_bulk_job_that_only_the_too_dear_could_serve_is_told_so_in_time() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    bench.start(Order::Bulk);
    bench.want(&[1]);
    let said = bench.hear(a, offer(1, 1));
    end_search(&mut bench, a, &said);
    let errors = failed(&bench.pass(bench.engine.config.provider_timeout));
    assert_eq!(errors, [WantError::OverBudget]);
}

#[test]
fn what_was_on_its_way_when_the_seller_was_killed_is_not_owed_when_it_is_back() {
    let sold = Account { sold: 65 << 20, ..Account::default() };
    let mut bench = Bench::with(|config| {
        (config.price, config.credit) = (16, 64);
        config.accounts = vec![(peer(1), sold)];
    });
    let (_, said) = bench.connect(1);
    let kept = said.iter().find_map(|output| {
        let Output::Keep { account, .. } = output else { return None };
        Some((account.owed_to_us(), account.lost))
    });
    // As much of it as the credit is believed of a peer that has paid nothing yet.
    assert_eq!(kept, Some((1 << 20, 64 << 20)));
    // It comes back again, which it is believed for once.
    bench.tell(Input::Disconnected { conn: ConnId(1), reason: CloseReason::Idle });
    let (_, said) = bench.connect(1);
    assert!(!said.iter().any(|output| matches!(output, Output::Keep { .. })), "{said:?}");
}

#[test]
fn a_block_is_paid_once_though_its_want_was_gone_before_the_first_of_two_copies() {
    let mut bench = Bench::with(|config| (config.price_max, config.budget) = (16, 10));
    let (a, _) = bench.connect(1);
    bench.start(Order::Sequential);
    bench.want(&[1]);
    let offer = Message::BlockPresence { price: 16, blocks: vec![(hash(1), HAVE)] };
    assert_eq!(asked(&bench.hear(a, offer.clone()), a), [1]);
    // It stalls, so that another is asked instead, and its copy comes all the same.
    let (b, _) = bench.connect(2);
    bench.hear(b, offer);
    assert_eq!(asked(&bench.pass(3_000 * MS), b), [1]);
    bench.tell(Input::JobEnded { job: JobId(1) });
    let paid = |said: &[Output]| said.iter().any(|output| matches!(output, Output::Pay { .. }));
    let verified = |conn| Input::BlockVerified { conn, hash: hash(1), len: 65_536 };
    assert!(paid(&bench.tell(verified(b))), "it was set aside, and came");
    assert!(!paid(&bench.tell(verified(a))));
}

#[test]
fn a_block_taken_back_from_one_peer_that_comes_late_after_another_delivered_is_paid_once() {
    let mut bench = Bench::with(|config| (config.price_max, config.budget) = (16, 10));
    let (a, _) = bench.connect(1);
    bench.start(Order::Sequential);
    bench.want(&[1, 2]);
    let offer =
        Message::BlockPresence { price: 16, blocks: vec![(hash(1), HAVE), (hash(2), HAVE)] };
    assert_eq!(asked(&bench.hear(a, offer.clone()), a), [1, 2]);
    let (b, _) = bench.connect(2);
    bench.hear(b, offer);
    let said = bench.pass(3_000 * MS);
    assert_eq!((cancelled(&said, a), asked(&said, b)), (2, vec![1, 2]), "it has stalled");
    // Each is worth a voucher of one unit. The other's copy is paid for, the late one is not.
    let paid = |said: &[Output]| {
        let pays = said.iter().filter_map(|output| {
            let Output::Pay { conn, total, .. } = output else { return None };
            Some((*conn, *total))
        });
        pays.collect::<Vec<_>>()
    };
    assert_eq!(paid(&bench.deliver(b, 1, 65_536)), [(b, 1)]);
    let late = |n| Input::BlockVerified { conn: a, hash: hash(n), len: 65_536 };
    assert_eq!(paid(&bench.tell(late(1))), []);
    // Where the late one comes first it is paid for, and the other's is not.
    assert_eq!(paid(&bench.tell(late(2))), [(a, 1)]);
    assert_eq!(paid(&bench.tell(Input::BlockVerified { conn: b, hash: hash(2), len: 65_536 })), []);
    let bought: u128 = bench.engine.accounts().map(|(_, account)| account.bought).sum();
    assert_eq!(bought, 2 << 20, "two blocks came, of a sixteenth of 16 units each");
}
