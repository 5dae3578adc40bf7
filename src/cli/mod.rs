//! The command line.

pub mod args;
mod car;
mod client;
pub mod completions;
mod datasets;
mod demo;
mod draft;
pub mod human;
mod ledger;
mod logger;
pub mod manual;
mod output;
mod progress;
mod protected;
mod put;
mod serve;
mod settings;
mod spread;

use crate::{
    content::{mend::ErasureError, store_stream::GetError},
    node::{Node, PutError, SpreadError, StartError},
    store::local_store::StoreError,
};
use args::Args;
use client::{ApiError, Client};
use settings::Settings;
use std::{ffi::OsString, io};

/// How a command failed.
#[derive(Debug)]
pub enum CliError {
    /// 1: it could not be done.
    Failed(String),
    /// 2: it was not asked for rightly.
    Usage(String),
    /// 3: it was done in part; something is lost or unverified.
    Partial(String),
    /// 10: there is no store.
    NoStore(String),
    /// 11: another process has the store and does not answer.
    Locked(String),
    /// 130: by a signal, where there was something to put away first.
    Interrupted,
}

impl CliError {
    const fn status(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Partial(_) => 3,
            Self::NoStore(_) => 10,
            Self::Locked(_) => 11,
            Self::Interrupted => 130,
        }
    }

    fn message(&self) -> &str {
        match self {
            Self::Failed(text)
            | Self::Usage(text)
            | Self::Partial(text)
            | Self::NoStore(text)
            | Self::Locked(text) => text,
            Self::Interrupted => "interrupted",
        }
    }
}

impl From<ApiError> for CliError {
    fn from(error: ApiError) -> Self {
        match &error.code[..] {
            "stripe_lost" => Self::Partial(error.message),
            _ => Self::Failed(error.message),
        }
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<GetError> for CliError {
    fn from(error: GetError) -> Self {
        if let GetError::Erasure(ErasureError::StripeLost { .. }) = error {
            return Self::Partial(error.to_string());
        }
        Self::Failed(error.to_string())
    }
}

impl From<SpreadError> for CliError {
    fn from(error: SpreadError) -> Self {
        match error {
            SpreadError::Get(error) => error.into(),
            SpreadError::NoPeers | SpreadError::NotAllowed(_) | SpreadError::NotProtected => {
                Self::Failed(error.to_string())
            }
        }
    }
}

impl From<PutError> for CliError {
    fn from(error: PutError) -> Self {
        match error {
            PutError::Store(error) => error.into(),
            PutError::Import(error) => Self::Failed(error.to_string()),
        }
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Missing(_) => {
                Self::NoStore(format!("{error}; `barrow put` or `barrow serve` makes one"))
            }
            StoreError::Locked => {
                Self::Locked(format!("{error}, and it does not answer; stop it first"))
            }
            StoreError::Io(_)
            | StoreError::Unreadable(_)
            | StoreError::Misplaced(_)
            | StoreError::Index(_)
            | StoreError::BadIndex
            | StoreError::Newer(_)
            | StoreError::ReadOnly(_)
            | StoreError::OverQuota
            | StoreError::NotStorable
            | StoreError::Closed => Self::Failed(error.to_string()),
        }
    }
}

impl From<StartError> for CliError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Store(error) => error.into(),
            StartError::Io(..) => Self::Failed(error.to_string()),
        }
    }
}

/// Runs a command line; gives the exit status.
pub fn run(words: impl IntoIterator<Item = OsString>) -> u8 {
    let outcome = Args::parse(words).map_err(CliError::Usage).and_then(|args| dispatch(&args));
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            output::error(error.message());
            error.status()
        }
    }
}

fn dispatch(args: &Args) -> Result<(), CliError> {
    match args.command {
        "help" if args.has("man") => return output::text(&manual::page()),
        "completions" => {
            let shell = args.operand(0).map_err(CliError::Usage)?.unwrap_or_default();
            return output::text(&completions::script(shell).map_err(CliError::Usage)?);
        }
        "help" => {
            let text = args::help(args.operand(0).map_err(CliError::Usage)?);
            return output::text(&text.map_err(CliError::Usage)?);
        }
        "version" => return output::text(&format!("barrow {}\n", env!("CARGO_PKG_VERSION"))),
        _ => {}
    }
    let settings = Settings::read(args)?;
    logger::start(settings.log_level, settings.log_json);
    settings::choose_kernel().map_err(CliError::Usage)?;
    match args.command {
        "serve" => serve::serve(&settings),
        "put" => put::put(args, &settings),
        "get" => datasets::get(args, &settings),
        "pin" => datasets::pin(args, &settings),
        "unpin" => datasets::unpin(args, &settings),
        "ls" => datasets::ls(args, &settings),
        "stat" => datasets::stat(args, &settings),
        "rm" => datasets::rm(args, &settings),
        "gc" => datasets::gc(args, &settings),
        "import" => car::import(args, &settings),
        "export" => car::export(args, &settings),
        "verify" if args.has("repair") => protected::verify_and_repair(args, &settings),
        "verify" => datasets::verify(args, &settings),
        "repair" => protected::repair(args, &settings),
        "protect" => protected::protect(args, &settings),
        "spread" => spread::spread(args, &settings),
        "id" => serve::id(args, &settings),
        "peers" => serve::peers(args, &settings),
        "transfers" => serve::transfers(args, &settings),
        "connect" => serve::connect(args, &settings),
        "ledger" => ledger::ledger(args, &settings),
        "demo" => demo::demo(args),
        other => Err(CliError::Usage(format!("{other} is in the table and not done"))),
    }
}

/// What a command works through: the node that serves, or the store itself.
enum Access {
    Serving(Client),
    Own(Box<Node>),
}

impl Access {
    /// Reaches the data directory; `create` makes a store where there is none.
    fn open(settings: &Settings, create: bool) -> Result<Self, CliError> {
        let dir = &settings.config.data_dir;
        if let Some(client) = Client::of(dir) {
            return Ok(Self::Serving(client));
        }
        if !create && !dir.join("VERSION").exists() {
            return Err(StoreError::Missing(dir.clone()).into());
        }
        let mut config = settings.config.clone();
        config.listen = Vec::new();
        config.http = None;
        Ok(Self::Own(Box::new(Node::start(config)?)))
    }

    /// Ends what [`Self::open`] began.
    fn close(self) {
        if let Self::Own(node) = self {
            node.shutdown();
        }
    }
}
