//! The ledger in JSON: what peers and the node owe each other, with the vouchers that prove it.

use super::{api::json_body, error, json_reply};
use crate::{
    net::ledger::{Entry, Ledger, LedgerError},
    node::Node,
    web::gate::{Reply, Request},
};
use barrow_wire::{PeerId, Voucher};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};

/// Entries that a page shows.
const BALANCES_MAX: usize = 50;

pub(super) fn answer(node: &Node, request: &mut Request<'_>) -> Reply {
    let done = match &request.method[..] {
        "GET" | "HEAD" => entries_json(node.ledger()).map(|entries| json!({ "peers": entries })),
        _ => {
            let body = json_body(request).unwrap_or_default();
            let peer = body["peer_id"].as_str().and_then(|id| id.parse::<PeerId>().ok());
            let (Some(peer), Some(amount)) = (peer, body["settle"].as_u64()) else {
                let usage = "{\"peer_id\":\"12D3KooW…\",\"settle\":AMOUNT} is expected";
                return error(400, "bad_request", usage);
            };
            node.ledger().settle(&peer, amount).map(|entry| entry_json(node.ledger(), &entry))
        }
    };
    match done {
        Ok(value) => json_reply(&value),
        Err(failed @ LedgerError::TooMuch(_)) => error(422, "too_much", &failed.to_string()),
        Err(failed) => error(500, "ledger", &failed.to_string()),
    }
}

/// All entries.
///
/// # Errors
/// If they cannot be read.
pub(crate) fn entries_json(ledger: &Ledger) -> Result<Vec<Value>, LedgerError> {
    Ok(ledger.entries()?.iter().map(|entry| entry_json(ledger, entry)).collect())
}

/// The entries that tell most, and how many there are: for those who look, not for scripts.
pub(super) fn balances_json(ledger: &Ledger) -> Value {
    let mut entries = ledger.entries().unwrap_or_default();
    entries.retain(|entry| entry.sent + entry.received > 0);
    let total = entries.len();
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.sent + entry.received));
    let accounts: Vec<Value> = entries.iter().take(BALANCES_MAX).map(balance_json).collect();
    json!({ "accounts": accounts, "total": total })
}

/// One entry, with the vouchers that prove it.
pub(crate) fn entry_json(ledger: &Ledger, entry: &Entry) -> Value {
    let account = &entry.account;
    let given = account.given.map(|(sequence, total)| ledger.sign(entry.peer, sequence, total));
    let mut json = balance_json(entry);
    json["voucher_given"] = json!(given.as_ref().map(voucher_json));
    json["voucher_received"] = json!(account.received.as_ref().map(voucher_json));
    json
}

/// One entry. Bytes are of blocks, amounts in units.
fn balance_json(entry: &Entry) -> Value {
    let account = &entry.account;
    json!({
        "peer_id": entry.peer.to_string(),
        "sent": entry.sent,
        "received": entry.received,
        "owed_by_us": entry.owed_by_us(),
        "owed_to_us": entry.owed_to_us(),
        "paid_by_us": account.paid_by_us(),
        "paid_to_us": account.paid_to_us(),
        "settled": entry.settled,
        "to_settle": i64::try_from(entry.to_settle()).unwrap_or(i64::MAX),
    })
}

fn voucher_json(voucher: &Voucher) -> Value {
    json!({
        "payer": voucher.payer.to_string(),
        "payee": voucher.payee.to_string(),
        "sequence": voucher.sequence,
        "total": voucher.total,
        "bytes": HEXLOWER.encode(&voucher.to_bytes()),
    })
}
