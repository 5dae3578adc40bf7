//! `import` and `export`: CARs into the store and out of it.

use super::{
    Access, CliError, args::Args, datasets::copy, draft, output, progress::Progress, put::Counted,
    settings::Settings,
};
use crate::{content::store_stream::Scope, data::car::WalkOptions, web::http::escape_url};
use barrow_wire::Cid;
use serde_json::{Value, json};
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

pub(super) fn import(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let source = Path::new(&args.operands[0]);
    let failed = |error| CliError::Failed(format!("{}: {error}", source.display()));
    let (mut reader, total): (Box<dyn Read>, _) = if source == Path::new("-") {
        (Box::new(io::stdin().lock()), None)
    } else {
        let file = File::open(source).map_err(failed)?;
        let total = file.metadata().map_err(failed)?.len();
        (Box::new(io::BufReader::with_capacity(256 << 10, file)), Some(total))
    };
    let mut progress = Progress::new("importing", total);
    let access = Access::open(settings, true)?;
    let imported = match &access {
        Access::Serving(client) => {
            let mut counted = Counted { reader: &mut *reader, progress: &mut progress };
            client.post("/api/v1/import", &mut counted).map_err(CliError::from)
        }
        Access::Own(node) => node
            .import_car(&mut *reader, &mut |bytes| progress.add(bytes))
            .map(|done| json!(done))
            .map_err(|error| CliError::Failed(error.to_string())),
    };
    progress.end();
    access.close();
    tell_roots(args, &imported?)
}

/// Prints the roots; what could not be pinned is told, and makes the exit status 3.
fn tell_roots(args: &Args, imported: &Value) -> Result<(), CliError> {
    let roots = imported["roots"].as_array().map_or(&[][..], |roots| roots);
    let pinned: Vec<&Value> = roots.iter().filter(|root| root["pinned"] == true).collect();
    if args.has("json") {
        output::json(imported)?;
    } else {
        for root in &pinned {
            output::text(&format!("{}\n", root["cid"].as_str().unwrap_or_default()))?;
        }
    }
    if pinned.len() == roots.len() {
        return Ok(());
    }
    let lacking = roots.iter().filter(|root| root["pinned"] != true).map(|root| {
        let cid = root["cid"].as_str().unwrap_or_default();
        format!("{cid} lacks {} blocks", root["blocks_missing"])
    });
    Err(CliError::Partial(format!(
        "{}; what came is kept as cache, barrow pin fetches the rest",
        lacking.collect::<Vec<_>>().join(", ")
    )))
}

pub(super) fn export(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let target = args.operand(0).map_err(CliError::Usage)?.unwrap_or_default();
    let cid: Cid =
        target.parse().map_err(|error| CliError::Usage(format!("{target:?}: {error}")))?;
    let output = args.last("output").map_err(CliError::Usage)?.filter(|name| name != "-");
    let access = Access::open(settings, false)?;
    let done = open_car(&access, &cid).and_then(|reader| match output {
        Some(name) => draft::save(reader, Path::new(&name), None, &format!("{cid} as a CAR")),
        None => copy(reader, &mut io::stdout().lock(), 0, None).map(|_| ()),
    });
    access.close();
    done
}

fn open_car(access: &Access, cid: &Cid) -> Result<Box<dyn Read>, CliError> {
    match access {
        Access::Serving(client) => {
            let url = format!("/ipfs/{}?format=car", escape_url(&cid.to_string()));
            Ok(client.get_content(&url)?.1)
        }
        Access::Own(node) => {
            let node = node.for_one_download();
            let followed = node.follow(cid, &[], Scope::Network)?;
            Ok(Box::new(node.car(&followed, WalkOptions::default(), Scope::Network)))
        }
    }
}
