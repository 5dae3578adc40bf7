//! Limits of bytes a second, for all peers together and for each.

use super::*;

#[test]
fn the_upload_limit_holds_to_one_block() {
    let mut bench = Bench::with(|config| config.limit_up = Some(1 << 20));
    let (a, _) = bench.connect(1);
    let mut waiting: Vec<Output> =
        bench.hear(a, Message::WantBlock { blocks: (0..100).map(hash).collect() });
    let (mut sent, len) = (0, 256 << 10);
    while bench.now.time() < Duration::from_secs(8) {
        while let Some(output) = waiting.pop() {
            if let Output::SendBlock { conn, hash } = output {
                waiting.extend(bench.tell(Input::BlockQueued { conn, hash, len: Some(len) }));
                waiting.extend(bench.tell(Input::BlockSent { conn, hash, len }));
                sent += u64::from(len);
                let allowed =
                    u64::try_from(bench.now.time().as_millis()).unwrap() * (1 << 20) / 1_000;
                assert!(sent <= allowed + (3 << 20), "{sent} bytes at {:?}", bench.now);
            }
        }
        waiting.extend(bench.pass(10 * MS));
    }
    assert!(sent >= 7 << 20, "{sent}");
}

#[test]
fn the_download_limit_holds() {
    let mut bench = Bench::with(|config| config.limit_down = Some(65_536));
    let (a, _) = bench.connect(1);
    bench.start(Order::Bulk);
    bench.want(&(0..20).collect::<Vec<_>>());
    let all: Vec<_> = (0..20).map(|n| (n, HAVE)).collect();
    let mut given = asked(&bench.presence(a, &all), a);
    let mut blocks = 0;
    while bench.now.time() < Duration::from_secs(10) {
        for n in std::mem::take(&mut given) {
            given.extend(asked(&bench.deliver(a, n, 65_536), a));
            blocks += 1;
        }
        given.extend(asked(&bench.pass(100 * MS), a));
    }
    assert!((9..=11).contains(&blocks), "{blocks} blocks of one a second");
}

/// Bytes that leave within so many seconds for peers that want all they can get.
fn sent_within(bench: &mut Bench, conns: &[ConnId], seconds: u64, len: u32) -> Vec<u64> {
    let mut waiting = Vec::new();
    for conn in conns {
        let blocks = (0..1_000).map(hash).collect();
        waiting.extend(bench.hear(*conn, Message::WantBlock { blocks }));
    }
    let mut sent = vec![0; conns.len()];
    while bench.now.time() < Duration::from_secs(seconds) {
        while let Some(output) = waiting.pop() {
            let Output::SendBlock { conn, hash } = output else { continue };
            waiting.extend(bench.tell(Input::BlockQueued { conn, hash, len: Some(len) }));
            waiting.extend(bench.tell(Input::BlockSent { conn, hash, len }));
            let at = conns.iter().position(|known| *known == conn).expect("one of them");
            sent[at] += u64::from(len);
        }
        waiting.extend(bench.pass(MS));
    }
    sent
}

#[test]
fn each_peer_gets_what_the_limit_of_one_allows_and_at_most_a_block_more() {
    let mut bench = Bench::with(|config| config.limit_up_peer = Some(1 << 20));
    let conns = [1, 2, 3].map(|n| bench.connect(n).0);
    for sent in sent_within(&mut bench, &conns, 8, 64 << 10) {
        assert!((8 << 20..=(8 << 20) + (64 << 10)).contains(&sent), "{sent}");
    }
}

#[test]
fn the_limit_of_all_is_shared_by_peers_that_have_one_each() {
    let limits = |config: &mut EngineConfig| {
        (config.limit_up, config.limit_up_peer) = (Some(2 << 20), Some(1 << 20));
    };
    let mut bench = Bench::with(limits);
    let conns = [1, 2, 3, 4].map(|n| bench.connect(n).0);
    let sent = sent_within(&mut bench, &conns, 8, 64 << 10);
    let all: u64 = sent.iter().sum();
    assert!((16 << 20..=(16 << 20) + (64 << 10)).contains(&all), "{all}");
    assert!(sent.iter().all(|sent| sent.abs_diff(all / 4) <= 128 << 10), "{sent:?}");
    // One alone has no more than its own.
    let mut bench = Bench::with(limits);
    let conns = [bench.connect(1).0];
    let sent = sent_within(&mut bench, &conns, 8, 64 << 10)[0];
    assert!((8 << 20..=(8 << 20) + (64 << 10)).contains(&sent), "{sent}");
}

#[test]
fn each_peer_is_asked_for_what_the_limit_of_one_allows() {
    let mut bench = Bench::with(|config| config.limit_down_peer = Some(65_536));
    let conns = [1, 2].map(|n| bench.connect(n).0);
    bench.start(Order::Bulk);
    bench.want(&(0..100).collect::<Vec<_>>());
    let all: Vec<_> = (0..100).map(|n| (n, HAVE)).collect();
    let mut given: Vec<(ConnId, u32)> = Vec::new();
    let mut came = [0; 2];
    let collect = |said: &[Output]| -> Vec<(ConnId, u32)> {
        conns.iter().flat_map(|conn| asked(said, *conn).into_iter().map(|n| (*conn, n))).collect()
    };
    for conn in conns {
        given.extend(collect(&bench.presence(conn, &all)));
    }
    while bench.now.time() < Duration::from_secs(10) {
        for (conn, n) in std::mem::take(&mut given) {
            came[usize::from(conn == conns[1])] += 1;
            given.extend(collect(&bench.deliver(conn, n, 65_536)));
        }
        given.extend(collect(&bench.pass(100 * MS)));
    }
    assert!(came.iter().all(|blocks| (9..=11).contains(blocks)), "{came:?} of one a second");
}
