//! `ledger`: what peers and the node owe each other.

use super::{Access, CliError, args::Args, human, output, settings::Settings};
use barrow_wire::PeerId;
use serde_json::{Value, json};

pub(super) fn ledger(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let word = |at| args.operand(at).map_err(CliError::Usage);
    match (word(0)?, word(1)?, word(2)?) {
        (None, ..) => show(args, settings),
        (Some("settle"), Some(id), Some(amount)) => {
            let id: PeerId =
                id.parse().map_err(|error| CliError::Usage(format!("{id:?}: {error}")))?;
            let amount = amount
                .parse()
                .map_err(|_| CliError::Usage(format!("{amount:?} is no whole number of units")))?;
            settle(args, settings, id, amount)
        }
        (Some(_), ..) => Err(CliError::Usage("usage: barrow ledger [settle ID AMOUNT]".into())),
    }
}

fn show(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let access = Access::open(settings, false)?;
    let entries = match &access {
        Access::Serving(client) => match client.get_json("/api/v1/ledger")?["peers"].take() {
            Value::Array(entries) => Ok(entries),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Object(_) => Ok(Vec::new()),
        },
        Access::Own(node) => crate::web::http::ledger_json(node.ledger()),
    };
    access.close();
    let entries = entries.map_err(|error| CliError::Failed(error.to_string()))?;
    if args.has("json") {
        return entries.iter().try_for_each(output::json);
    }
    for entry in &entries {
        output::text(&format!("{}\n", text_of(entry)))?;
    }
    if entries.iter().any(|entry| entry["paid_by_us"] != 0 || entry["paid_to_us"] != 0) {
        output::note(
            "paid is by vouchers: signed acknowledgements of debt, to be settled elsewhere",
        );
    }
    Ok(())
}

fn settle(args: &Args, settings: &Settings, peer: PeerId, amount: u64) -> Result<(), CliError> {
    let access = Access::open(settings, false)?;
    let settled = match &access {
        Access::Serving(client) => {
            let body = json!({ "peer_id": peer.to_string(), "settle": amount }).to_string();
            client.post("/api/v1/ledger", &mut body.as_bytes()).map_err(CliError::from)
        }
        Access::Own(node) => {
            let settled = node.ledger().settle(&peer, amount);
            settled
                .map(|entry| crate::web::http::ledger_entry_json(node.ledger(), &entry))
                .map_err(|error| CliError::Failed(error.to_string()))
        }
    };
    access.close();
    let entry = settled?;
    if args.has("json") {
        return output::json(&entry);
    }
    output::text(&format!("{}\n", text_of(&entry)))
}

/// One line of both directions, as far as there is anything to tell.
fn text_of(entry: &Value) -> String {
    let bytes = |key: &str| human::bytes(entry[key].as_u64().unwrap_or(0));
    let units = |key: &str| entry[key].as_u64().unwrap_or(0);
    let owed = |key: &str| entry[key].as_f64().unwrap_or(0.0);
    let mut text = format!(
        "{}  sent {}  received {}",
        entry["peer_id"].as_str().unwrap_or_default(),
        bytes("sent"),
        bytes("received")
    );
    if units("paid_by_us") > 0 || owed("owed_by_us") > 0.0 {
        text += &format!("  we owe {:.2}, paid {}", owed("owed_by_us"), units("paid_by_us"));
    }
    if units("paid_to_us") > 0 || owed("owed_to_us") > 0.0 {
        text += &format!("  it owes {:.2}, paid {}", owed("owed_to_us"), units("paid_to_us"));
    }
    match entry["to_settle"].as_i64().unwrap_or(0) {
        0 => {}
        open if open > 0 => text += &format!("  it is to settle {open}"),
        open => text += &format!("  we are to settle {}", open.unsigned_abs()),
    }
    text
}
