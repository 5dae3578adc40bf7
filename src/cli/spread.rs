//! `spread`: who holds which slot.

use super::{
    Access, CliError,
    args::Args,
    datasets::{cid_operand, with_access},
    output,
    progress::Progress,
    settings::Settings,
};
use crate::node::Spread;
use barrow_wire::PeerId;
use serde_json::Value;

pub(super) fn spread(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let cid = cid_operand(args)?;
    let to = args.all("to").map_err(CliError::Usage)?;
    let peer = |text: &String| -> Result<PeerId, CliError> {
        text.parse().map_err(|error| CliError::Usage(format!("--to {text:?}: {error}")))
    };
    let to: Vec<PeerId> = to.iter().map(peer).collect::<Result<_, _>>()?;
    let mut progress = Progress::count("slots held");
    let spread = with_access(settings, |access| match access {
        Access::Serving(client) => {
            let query: Vec<String> = to.iter().map(|peer| format!("to={peer}")).collect();
            let path = format!("/api/v1/spread/{cid}?{}", query.join("&"));
            Ok(client.job(&path, &mut |line| progress.set(held(line)))?)
        }
        Access::Own(node) => {
            let spread = node.spread(&cid, &to, &mut |so_far| {
                progress.set(held(&so_far.to_json()));
                true
            })?;
            Ok(Spread::to_json(&spread))
        }
    });
    progress.end();
    let spread = spread?;
    if args.has("json") {
        output::json(&spread)?;
    } else {
        output::text(&lines_of(&spread))?;
    }
    if spread["whole"] == true {
        return Ok(());
    }
    Err(CliError::Partial("not every slot is held; run it again when the peers are there".into()))
}

fn holders(spread: &Value) -> impl Iterator<Item = &Value> {
    spread["holders"].as_array().into_iter().flatten()
}

fn held(spread: &Value) -> u64 {
    holders(spread).filter(|holder| holder["state"] == "held").count() as u64
}

/// A line a slot, and what that is worth.
pub(super) fn lines_of(spread: &Value) -> String {
    let mut text = String::new();
    for holder in holders(spread) {
        let field = |key: &str| holder[key].as_str().unwrap_or_default();
        let (slot, slots) = (&holder["slot"], &spread["slots"]);
        text += &format!("slot {slot} of {slots}  {}  {}\n", field("peer"), field("state"));
    }
    text += &match spread["bears"].as_u64() {
        Some(1) => "any 1 of those who hold a slot may be lost\n".to_owned(),
        Some(bears) => format!("any {bears} of those who hold a slot may be lost\n"),
        None => "what they hold does not give all of it\n".to_owned(),
    };
    text
}
