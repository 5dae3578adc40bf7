//! Rules of the engine, each by a few inputs and the outputs that must follow.

use super::*;
use barrow_wire::{Cid, Codec, HashCode, PeerAddress, PeerId, Presence};
use std::{net::SocketAddr, time::Duration};

mod announcing;
mod asking;
mod limits;
mod prices;
mod races;
mod stalls;

const MS: Duration = Duration::from_millis(1);
const PURSE: PurseId = PurseId(1);

fn peer(n: u8) -> PeerId {
    PeerId::from_public_key([n; 32])
}

fn hash(n: u32) -> Multihash {
    Multihash::of(HashCode::Sha2_256, &n.to_be_bytes())
}

fn address(n: u8) -> SocketAddr {
    ([10, 0, 0, n], 4780).into()
}

/// An engine, its clock, and what it said since it was last asked.
struct Bench {
    engine: Engine,
    now: Moment,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut EngineConfig)) -> Self {
        let mut config = EngineConfig::new(peer(100), 1);
        change(&mut config);
        Self { engine: Engine::new(config), now: Moment::default() }
    }

    fn tell(&mut self, input: Input) -> Vec<Output> {
        self.engine.handle(self.now, input);
        self.outputs()
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.engine.poll_output()).collect()
    }

    /// Lets time pass, with every timer at its moment.
    fn pass(&mut self, wait: Duration) -> Vec<Output> {
        let end = self.now.after(wait);
        let mut said = Vec::new();
        while let Some(at) = self.engine.next_timeout().filter(|at| *at <= end) {
            assert!(at >= self.now, "a timer in the past");
            self.now = at;
            self.engine.handle_timeout(at);
            said.extend(self.outputs());
        }
        self.now = end;
        said
    }

    fn connect(&mut self, n: u8) -> (ConnId, Vec<Output>) {
        let conn = ConnId(u32::from(n));
        let remote = address(n);
        (conn, self.tell(Input::Connected { conn, peer: peer(n), remote, dialed: None }))
    }

    fn start(&mut self, order: Order) -> Vec<Output> {
        let root = Cid::v1(Codec::Raw, hash(0));
        self.tell(Input::JobStarted { job: JobId(1), root, order, purse: PURSE })
    }

    fn want(&mut self, blocks: &[u32]) -> Vec<Output> {
        let blocks = blocks.iter().map(|n| hash(*n)).collect();
        self.tell(Input::Want { job: JobId(1), blocks })
    }

    /// A peer that was asked around in `said` tells of others.
    fn answer_around(&mut self, conn: ConnId, said: &[Output], others: &[u8]) -> Vec<Output> {
        let nonce = said.iter().find_map(|output| {
            let Output::Send { message: Message::Ping { nonce }, .. } = output else { return None };
            Some(*nonce)
        });
        let hint = |n: &u8| PeerAddress { peer: peer(*n), address: address(*n) };
        let peers: Vec<_> = others.iter().map(hint).collect();
        let mut answer = Vec::new();
        if !peers.is_empty() {
            answer = self.hear(conn, Message::PeerAddresses { peers });
        }
        answer.extend(self.hear(conn, Message::Pong { nonce: nonce.expect("it was asked") }));
        answer
    }

    fn hear(&mut self, conn: ConnId, message: Message) -> Vec<Output> {
        self.tell(Input::Received { conn, message })
    }

    fn presence(&mut self, conn: ConnId, blocks: &[(u32, Presence)]) -> Vec<Output> {
        let blocks = blocks.iter().map(|(n, presence)| (hash(*n), *presence)).collect();
        self.hear(conn, Message::BlockPresence { price: 0, blocks })
    }

    fn deliver(&mut self, conn: ConnId, n: u32, len: u32) -> Vec<Output> {
        assert!(self.engine.expects(conn, &hash(n), len as usize), "block {n} is not expected");
        self.tell(Input::BlockVerified { conn, hash: hash(n), len })
    }
}

/// Blocks that are asked of a connection, by number.
fn asked(outputs: &[Output], conn: ConnId) -> Vec<u32> {
    let wants = outputs.iter().filter_map(|output| {
        if let Output::Send { conn: to, message: Message::WantBlock { blocks } } = output
            && *to == conn
        {
            Some(blocks.clone())
        } else {
            None
        }
    });
    wants.flatten().map(|wanted| (0..10_000).find(|n| hash(*n) == wanted).unwrap()).collect()
}

fn cancelled(outputs: &[Output], conn: ConnId) -> usize {
    let cancels = outputs.iter().filter_map(|output| {
        if let Output::Send { conn: to, message: Message::Cancel { blocks } } = output
            && *to == conn
        {
            Some(blocks.len())
        } else {
            None
        }
    });
    cancels.sum()
}

fn want_haves(outputs: &[Output]) -> Vec<(ConnId, bool, usize)> {
    let wants = outputs.iter().filter_map(|output| {
        if let Output::Send { conn, message: Message::WantHave { inline, blocks } } = output {
            Some((*conn, *inline, blocks.len()))
        } else {
            None
        }
    });
    wants.collect()
}

fn dialed(said: &[Output]) -> Vec<SocketAddr> {
    let dial = |output: &Output| {
        let Output::Connect { address, .. } = output else { return None };
        Some(*address)
    };
    said.iter().filter_map(dial).collect()
}

fn searches(said: &[Output]) -> bool {
    said.iter().any(|output| matches!(output, Output::Discover { .. }))
}

fn failed(outputs: &[Output]) -> Vec<WantError> {
    let errors = outputs.iter().filter_map(|output| {
        if let Output::Failed { error, .. } = output { Some(*error) } else { None }
    });
    errors.collect()
}

fn closed(outputs: &[Output]) -> Vec<(ConnId, CloseReason)> {
    let closes = outputs.iter().filter_map(|output| {
        if let Output::Close { conn, reason } = output {
            Some((*conn, reason.clone()))
        } else {
            None
        }
    });
    closes.collect()
}

const HAVE: Presence = Presence::Have { len: 65_536 };

#[test]
fn a_short_root_makes_nobody_be_asked_for_all_that_is_below_it() {
    let mut bench = Bench::new();
    let [(a, _), (b, _)] = [bench.connect(1), bench.connect(2)];
    bench.start(Order::Bulk);
    bench.want(&[0]);
    bench.presence(a, &[(0, Presence::Complete { len: 20_000 })]);
    bench.presence(b, &[(0, Presence::Complete { len: 20_000 })]);
    bench.pass(100 * MS);
    bench.deliver(a, 0, 20_000);
    let said = bench.want(&(1..=80).collect::<Vec<_>>());
    for conn in [a, b] {
        assert!((1..=24).contains(&asked(&said, conn).len()), "{said:?}");
    }
}

#[test]
fn a_whole_window_is_asked_in_one_message_and_a_block_has_one_owner() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    let (b, _) = bench.connect(2);
    bench.start(Order::Sequential);
    let said = bench.want(&(0..40).collect::<Vec<_>>());
    assert_eq!(want_haves(&said), [(a, true, 40), (b, false, 40)]);
    let all: Vec<_> = (0..40).map(|n| (n, HAVE)).collect();
    let mut given = asked(&bench.presence(a, &all), a);
    given.extend(asked(&bench.presence(b, &all), b));
    given.sort_unstable();
    given.dedup();
    assert_eq!(given, (0..40).collect::<Vec<_>>());
}

#[test]
fn a_peer_with_the_whole_dataset_is_asked_without_a_round_trip() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    bench.start(Order::Sequential);
    bench.want(&[0]);
    bench.presence(a, &[(0, Presence::Complete { len: 20_000 })]);
    bench.deliver(a, 0, 20_000);
    let said = bench.want(&[1, 2, 3]);
    assert_eq!(asked(&said, a), [1, 2, 3]);
    assert_eq!(want_haves(&said), []);
}

#[test]
fn a_small_block_of_a_complete_root_comes_with_the_answer() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    bench.start(Order::Sequential);
    bench.want(&[0]);
    let said = bench.presence(a, &[(0, Presence::Complete { len: 100 })]);
    assert!(asked(&said, a).is_empty());
    bench.deliver(a, 0, 100);
    assert_eq!(asked(&bench.want(&[1]), a), [1]);
}

#[test]
fn who_denies_a_block_loses_it_to_another_at_once() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    let (b, _) = bench.connect(2);
    bench.start(Order::Sequential);
    bench.want(&[1]);
    assert_eq!(asked(&bench.presence(a, &[(1, HAVE)]), a), [1]);
    assert!(asked(&bench.presence(b, &[(1, HAVE)]), b).is_empty());
    assert_eq!(asked(&bench.presence(a, &[(1, Presence::DontHave)]), b), [1]);
}

#[test]
fn who_disconnects_loses_its_blocks_to_another_at_once() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    let (b, _) = bench.connect(2);
    bench.start(Order::Sequential);
    bench.want(&[1]);
    bench.presence(a, &[(1, HAVE)]);
    bench.presence(b, &[(1, HAVE)]);
    let gone = Input::Disconnected { conn: a, reason: CloseReason::Remote(String::new()) };
    assert_eq!(asked(&bench.tell(gone), b), [1]);
    assert_eq!(bench.engine.inflight_bytes(), 65_536);
}

#[test]
fn a_late_block_gets_a_second_owner_and_the_loser_a_cancel() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    let (b, _) = bench.connect(2);
    bench.start(Order::Sequential);
    bench.want(&[1]);
    bench.presence(a, &[(1, HAVE)]);
    bench.presence(b, &[(1, HAVE)]);
    assert_eq!(asked(&bench.pass(2_500 * MS), b), [1]);
    let said = bench.deliver(b, 1, 65_536);
    assert_eq!(cancelled(&said, a), 1);
    assert_eq!(bench.engine.inflight_bytes(), 0);
    // It crossed the cancel: no offence.
    bench.tell(Input::BlockRejected { conn: a, hash: hash(1), len: 65_536, wanted: false });
    assert_eq!(bench.engine.peers()[0].offences, 0);
}

#[test]
fn a_silent_peer_is_closed_as_stalled() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    bench.start(Order::Sequential);
    bench.want(&[1]);
    bench.presence(a, &[(1, HAVE)]);
    assert_eq!(closed(&bench.pass(13_000 * MS)), [(a, CloseReason::Stalled)]);
}

#[test]
fn a_block_that_everyone_denies_fails_at_once_when_nobody_else_may_come() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    bench.start(Order::Sequential);
    bench.want(&[1]);
    let said = bench.presence(a, &[(1, Presence::DontHave)]);
    assert!(matches!(said[..], [Output::Discover { job: JobId(1), .. }, ..]), "{said:?}");
    assert_eq!(failed(&bench.tell(Input::DiscoveryDone { job: JobId(1) })), []);
    let said = bench.answer_around(a, &said, &[]);
    assert_eq!(failed(&said), [WantError::NoProvider]);
    assert_eq!(bench.engine.jobs()[0].blocks_open, 0);
}

#[test]
fn who_a_connected_peer_knows_is_dialed_for_a_block_that_it_lacks() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    bench.start(Order::Sequential);
    bench.want(&[1]);
    let said = bench.presence(a, &[(1, Presence::DontHave)]);
    bench.tell(Input::DiscoveryDone { job: JobId(1) });
    let said = bench.answer_around(a, &said, &[2]);
    assert!(dialed(&said).contains(&address(2)) && failed(&said).is_empty(), "{said:?}");
    let refused = Input::DialFailed { address: address(2), reason: "refused".into() };
    assert_eq!(failed(&bench.tell(refused)), [WantError::NoProvider]);
}

#[test]
fn a_peer_that_says_nothing_holds_a_search_back_for_a_moment_only() {
    let mut bench = Bench::new();
    bench.connect(1);
    bench.start(Order::Sequential);
    assert!(!searches(&bench.want(&[1])));
    assert!(searches(&bench.pass(300 * MS)), "the peer had its time");
    bench.tell(Input::DiscoveryDone { job: JobId(1) });
    assert_eq!(failed(&bench.pass(2_699 * MS)), []);
    assert_eq!(failed(&bench.pass(2 * MS)), [WantError::NoProvider]);
}

#[test]
fn unasked_hints_are_heard_once_and_questions_answered_once_a_second() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    bench.start(Order::Sequential);
    bench.want(&[1]);
    let hint = |n| PeerAddress { peer: peer(n), address: address(n) };
    let told =
        |hints: &[u8]| Message::PeerAddresses { peers: hints.iter().map(|n| hint(*n)).collect() };
    assert_eq!(dialed(&bench.hear(a, told(&[2]))), [address(2)]);
    assert_eq!(dialed(&bench.hear(a, told(&[3]))), []);

    let (b, _) = bench.connect(4);
    bench.hear(b, Message::Hello { listen_port: 4780, agent: "b".into() });
    let told_of = |said: &[Output]| {
        let told = |o: &Output| matches!(o, Output::Send { conn, message: Message::PeerAddresses { peers } } if *conn == a && *peers == [hint(4)]);
        said.iter().filter(|output| told(output)).count()
    };
    assert_eq!(told_of(&bench.hear(a, told(&[]))), 1);
    assert_eq!(told_of(&bench.hear(a, told(&[]))), 0);
    bench.pass(1_000 * MS);
    assert_eq!(told_of(&bench.hear(a, told(&[]))), 1);
}

#[test]
fn a_pending_dial_is_waited_for() {
    let mut bench = Bench::new();
    let told = |n| Input::Address { address: address(n), peer: None, job: None, keep: true };
    bench.tell(told(1));
    bench.start(Order::Sequential);
    bench.want(&[1]);
    assert_eq!(failed(&bench.tell(Input::DiscoveryDone { job: JobId(1) })), []);
    let refused = Input::DialFailed { address: address(1), reason: "refused".into() };
    assert_eq!(failed(&bench.tell(refused)), [WantError::NoProvider]);
}

#[test]
fn a_provider_that_answers_and_never_delivers_fails_the_want_in_time() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    bench.start(Order::Sequential);
    bench.want(&[1]);
    bench.presence(a, &[(1, HAVE)]);
    let mut errors = Vec::new();
    for second in 1..=31 {
        errors.extend(failed(&bench.pass(Duration::from_secs(1))).iter().map(|e| (second, *e)));
        bench.hear(a, Message::Pong { nonce: 0 });
    }
    assert_eq!(errors, [(30, WantError::ProviderFailed)]);
}

#[test]
fn two_jobs_share_a_request() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    bench.start(Order::Bulk);
    bench.want(&[1]);
    let root = Cid::v1(Codec::Raw, hash(7));
    let order = Order::Sequential;
    bench.tell(Input::JobStarted { job: JobId(2), root, order, purse: PURSE });
    let said = bench.tell(Input::Want { job: JobId(2), blocks: vec![hash(1)] });
    assert_eq!(want_haves(&said), []);
    assert_eq!(asked(&bench.presence(a, &[(1, HAVE)]), a), [1]);
    bench.tell(Input::JobEnded { job: JobId(1) });
    bench.deliver(a, 1, 65_536);
    assert_eq!(bench.engine.jobs()[0].blocks_received, 1);
}

#[test]
fn wrong_bytes_three_times_are_a_ban_that_a_new_connection_cannot_undo() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    bench.start(Order::Bulk);
    bench.want(&[1, 2, 3]);
    bench.presence(a, &[(1, HAVE), (2, HAVE), (3, HAVE)]);
    let reject = |n| Input::BlockRejected { conn: a, hash: hash(n), len: 9, wanted: true };
    assert_eq!(closed(&bench.tell(reject(1))), []);
    assert_eq!(closed(&bench.tell(reject(2))), []);
    let said = bench.tell(reject(3));
    assert_eq!(closed(&said), [(a, CloseReason::Banned)]);
    assert!(said.iter().any(|output| matches!(output, Output::Ban { .. })));
    let (a, said) = bench.connect(1);
    assert_eq!(closed(&said), [(a, CloseReason::Banned)]);
    bench.pass(Duration::from_secs(3_601));
    let (_, said) = bench.connect(1);
    assert_eq!(closed(&said), []);
}

#[test]
fn both_ends_of_crossing_dials_keep_the_same_connection() {
    for (me, other) in [(1, 2), (2, 1)] {
        for first_is_mine in [true, false] {
            let mut bench = Bench::with(|config| config.peer_id = peer(me));
            let connected = |conn: u32, mine: bool| Input::Connected {
                conn: ConnId(conn),
                peer: peer(other),
                remote: address(other),
                dialed: mine.then(|| address(other)),
            };
            bench.tell(connected(1, first_is_mine));
            let said = bench.tell(connected(2, !first_is_mine));
            let mine_wins = me < other;
            let loser = if first_is_mine == mine_wins { ConnId(2) } else { ConnId(1) };
            assert_eq!(closed(&said), [(loser, CloseReason::Replaced)]);
        }
    }
}

#[test]
fn of_two_connections_to_a_peer_the_newest_wins() {
    let mut bench = Bench::new();
    bench.connect(1);
    bench.pass(Duration::from_secs(10));
    let again =
        Input::Connected { conn: ConnId(50), peer: peer(1), remote: address(1), dialed: None };
    assert_eq!(closed(&bench.tell(again)), [(ConnId(1), CloseReason::Replaced)]);
}

#[test]
fn serving_reads_two_blocks_ahead_and_starved_peers_go_first() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    let (b, _) = bench.connect(2);
    let sends = |outputs: &[Output]| {
        let sends = outputs.iter().filter_map(|output| {
            if let Output::SendBlock { conn, .. } = output { Some(*conn) } else { None }
        });
        sends.collect::<Vec<_>>()
    };
    let wants =
        |range: std::ops::Range<u32>| Message::WantBlock { blocks: range.map(hash).collect() };
    assert_eq!(sends(&bench.hear(a, wants(0..10))), [a, a]);
    assert_eq!(sends(&bench.hear(b, wants(10..12))), [b, b]);
    let queued = |n| Input::BlockQueued { conn: a, hash: hash(n), len: Some(2 << 20) };
    bench.tell(queued(0));
    bench.tell(queued(1));
    let sent = Input::BlockSent { conn: a, hash: hash(0), len: 2 << 20 };
    assert_eq!(sends(&bench.tell(sent)), [a]);
    assert!(bench.engine.sending_bytes() <= 8 << 20);
    let gone = |conn| Input::Disconnected { conn, reason: CloseReason::Remote(String::new()) };
    bench.tell(gone(a));
    bench.tell(gone(b));
    assert_eq!(bench.engine.sending_bytes(), 0);
}

#[test]
fn a_peer_that_wants_too_much_is_closed() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    let blocks: Vec<_> = (0..1_030).map(hash).collect();
    let said = bench.hear(a, Message::WantBlock { blocks });
    assert!(matches!(closed(&said)[..], [(_, CloseReason::Protocol(_))]));
    assert_eq!(bench.engine.sending_bytes(), 0);
}

#[test]
fn a_small_block_asked_inline_is_sent_at_once_unless_it_has_a_price() {
    for price in [0, 3] {
        let mut bench = Bench::with(|config| config.price = price);
        let (a, _) = bench.connect(1);
        let said = bench.hear(a, Message::WantHave { inline: true, blocks: vec![hash(1)] });
        assert_eq!(said, [Output::LookUp { conn: a, blocks: vec![hash(1)] }]);
        let found = vec![(hash(1), Presence::Have { len: 100 })];
        let said = bench.tell(Input::LookedUp { conn: a, found: found.clone() });
        let presence = Message::BlockPresence { price, blocks: found };
        let expected = match price {
            0 => Output::SendBlock { conn: a, hash: hash(1) },
            _ => Output::Send { conn: a, message: presence },
        };
        assert_eq!(said, [expected]);
    }
}

#[test]
fn a_block_that_costs_nothing_opens_no_account() {
    for price in [0, 3] {
        let mut bench = Bench::with(|config| config.price = price);
        let (a, _) = bench.connect(1);
        bench.hear(a, Message::WantBlock { blocks: vec![hash(1)] });
        bench.tell(Input::BlockQueued { conn: a, hash: hash(1), len: Some(100) });
        bench.tell(Input::BlockSent { conn: a, hash: hash(1), len: 100 });
        assert_eq!(bench.engine.accounts().count(), usize::from(price > 0));
    }
}

#[test]
fn nothing_waits_on_a_timer_once_all_is_fetched_but_idleness() {
    let mut bench = Bench::new();
    let (a, _) = bench.connect(1);
    bench.start(Order::Sequential);
    bench.want(&[1]);
    bench.presence(a, &[(1, HAVE)]);
    bench.deliver(a, 1, 65_536);
    bench.tell(Input::JobEnded { job: JobId(1) });
    bench.pass(3_000 * MS);
    assert!(bench.engine.next_timeout() >= Some(Moment::at(Duration::from_secs(60))));
    let said = bench.pass(Duration::from_secs(120));
    assert_eq!(closed(&said), [(a, CloseReason::Idle)]);
    assert_eq!(bench.engine.next_timeout(), None);
}
