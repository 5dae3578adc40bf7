//! A node that may use 24 MiB does the same work in them.

use super::{Pair, node::Node};
use std::thread;

/// More than the blocks that the small pool has room for: each reader may hold none while it waits.
const READERS: usize = 12;

#[test]
fn many_readers_of_a_small_node_get_all_bytes_within_24_mib() {
    let pair = Pair::with_bytes(24 << 20);
    let small = Node::start_with(&pair.dir.path().join("c"), &[&pair.a.peer], &["--small"]);
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let response = small.get(&pair.path());
                assert_eq!(response.status, 200);
                assert!(response.body == pair.bytes, "other bytes came");
            });
        }
    });
    // Readers that wait for one another would all be cut off after 30 s.
    assert_eq!(small.metric("blocks_duplicate_total"), 0);
    assert!(small.peak_mib() <= 24, "{} MiB", small.peak_mib());
}
