//! The node's counters as Prometheus text.

use crate::{node::Node, web::gate::Reply};
use std::{collections::BTreeMap, fmt::Write as _};

pub(super) fn answer(node: &Node, statuses: &BTreeMap<u16, u64>) -> Reply {
    let metrics = node.metrics();
    let bans = node.inspect(|engine| engine.bans().len()).unwrap_or(0);
    let mut text = String::new();
    let mut put = |name: &str, kind: &str, value: u64| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# TYPE barrow_{name} {kind}\nbarrow_{name} {value}");
    };
    put("peer_bytes_sent_total", "counter", metrics.peer_bytes_sent_total.get());
    put("peer_bytes_received_total", "counter", metrics.peer_bytes_received_total.get());
    put("blocks_sent_total", "counter", metrics.blocks_sent_total.get());
    put("blocks_received_total", "counter", metrics.blocks_received_total.get());
    put("blocks_duplicate_total", "counter", metrics.blocks_duplicate_total.get());
    put("blocks_rejected_total", "counter", metrics.blocks_rejected_total.get());
    put("http_bytes_sent_total", "counter", metrics.http_bytes_sent_total.get());
    put("http_repeated_total", "counter", metrics.http_repeated_total.get());
    put("store_blocks", "gauge", metrics.store_blocks.get());
    put("store_bytes", "gauge", metrics.store_bytes.get());
    put("store_damaged_total", "counter", metrics.store_damaged_total.get());
    put("store_healed_total", "counter", metrics.store_healed_total.get());
    put("store_lost", "gauge", metrics.store_lost.get());
    put("scrub_blocks_total", "counter", metrics.scrub_blocks_total.get());
    put("scrub_bytes_total", "counter", metrics.scrub_bytes_total.get());
    put("scrub_passes_total", "counter", metrics.scrub_passes_total.get());
    put("quota_bytes", "gauge", metrics.quota_bytes.get());
    put("peers", "gauge", metrics.peers.get());
    put("bans", "gauge", bans as u64);
    put("erasure_decoded_stripes_total", "counter", metrics.erasure_decoded_stripes_total.get());
    let _ = writeln!(text, "# TYPE barrow_http_requests_total counter");
    for (status, count) in statuses {
        let _ = writeln!(text, "barrow_http_requests_total{{status=\"{status}\"}} {count}");
    }
    Reply::new(200, "text/plain; version=0.0.4; charset=utf-8", text)
}
