//! Flag before environment before file.

use super::{
    CliError,
    args::{Args, COMMANDS, nearest},
    human::parse_bytes,
};
use crate::{
    base::config::{Config, Limits, PeerTarget},
    erasure::{Kernel, kernels, use_kernel},
    net::discovery,
};
use data_encoding::HEXLOWER_PERMISSIVE;
use log::LevelFilter;
use serde_json::{Map, Value};
use std::{
    env, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// A fetched block of which the index knows nothing is held in memory, so it is no day.
const COMMIT_INTERVAL_SECONDS_MAX: u64 = 3_600;

/// What a command works with.
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) log_level: LevelFilter,
    pub(super) log_json: bool,
}

/// The settings of a file, by the names of the flags.
struct File(Map<String, Value>);

impl Settings {
    pub(super) fn read(args: &Args) -> Result<Self, CliError> {
        let usage = CliError::Usage;
        let data_dir = match args.last("data-dir").map_err(usage)? {
            Some(dir) => dir.into(),
            None => {
                env::var_os("BARROW_DATA_DIR").map_or_else(default_data_dir, |d| Ok(d.into()))?
            }
        };
        let file = File::read(args, &data_dir)?;
        let sources = Sources { args, file };
        let mut config = Config::new(data_dir);
        sources.fill(&mut config).map_err(usage)?;
        let log_level = match sources.last("log").map_err(usage)? {
            Some(level) => level.parse().map_err(|_| usage(format!("no log level {level:?}")))?,
            None if args.command == "serve" => LevelFilter::Info,
            None => LevelFilter::Warn,
        };
        let log_json = match sources.last("log-format").map_err(usage)?.as_deref() {
            None | Some("human") => args.command == "serve" && args.has("json"),
            Some("json") => true,
            Some(other) => return Err(usage(format!("--log-format {other:?}: human or json"))),
        };
        Ok(Self { config, log_level, log_json })
    }
}

impl File {
    fn read(args: &Args, data_dir: &Path) -> Result<Self, CliError> {
        let given = args.last("config").map_err(CliError::Usage)?;
        let path = given.as_ref().map_or_else(|| data_dir.join("barrow.toml"), PathBuf::from);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && given.is_none() => {
                return Ok(Self(Map::new()));
            }
            read => {
                read.map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))?
            }
        };
        let wrong = |why: String| CliError::Usage(format!("{}: {why}", path.display()));
        let table: Map<String, Value> =
            basic_toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let known: Vec<&str> = file_keys().collect();
        for key in table.keys() {
            if !known.contains(&&key[..]) {
                let near = nearest(key, known.iter().copied());
                return Err(wrong(format!("there is no setting {key:?}{near}")));
            }
        }
        Ok(Self(table))
    }

    fn all(&self, name: &str) -> Result<Vec<String>, String> {
        let one = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) if !number.is_f64() => Ok(number.to_string()),
            Value::Bool(switch) => Ok(switch.to_string()),
            Value::Number(_) | Value::Null | Value::Array(_) | Value::Object(_) => {
                Err(format!("the setting {name:?} is text, a number or a list of text"))
            }
        };
        match self.0.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(one).collect(),
            Some(value) => Ok(vec![one(value)?]),
        }
    }
}

/// What a file may set: the flags of `serve`, and the log's level and format.
fn file_keys() -> impl Iterator<Item = &'static str> {
    let serve = COMMANDS.iter().filter(|command| command.name == "serve");
    serve.flat_map(|command| command.flags).map(|flag| flag.name).chain(["log", "log-format"])
}

struct Sources<'a> {
    args: &'a Args,
    file: File,
}

impl Sources<'_> {
    fn all(&self, name: &str) -> Result<Vec<String>, String> {
        let flags = self.args.all(name)?;
        if !flags.is_empty() {
            return Ok(flags);
        }
        let variable = format!("BARROW_{}", name.replace('-', "_").to_uppercase());
        match env::var(&variable) {
            Ok(text) => Ok(text.split(',').map(|part| part.trim().to_owned()).collect()),
            Err(env::VarError::NotPresent) => self.file.all(name),
            Err(env::VarError::NotUnicode(_)) => Err(format!("${variable} is not UTF-8")),
        }
    }

    fn last(&self, name: &str) -> Result<Option<String>, String> {
        Ok(self.all(name)?.pop())
    }

    fn switch(&self, name: &str) -> Result<bool, String> {
        if self.args.has(name) {
            return Ok(true);
        }
        match self.last(name)?.as_deref() {
            None | Some("false" | "0" | "") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => Err(format!("--{name} is true or false, not {other:?}")),
        }
    }

    fn fill(&self, config: &mut Config) -> Result<(), String> {
        let listen = self.all("listen")?;
        if !listen.is_empty() {
            config.listen =
                listen.iter().map(|text| address("listen", text)).collect::<Result<_, _>>()?;
        }
        if let Some(text) = self.last("http")? {
            config.http = Some(address("http", &text)?);
        }
        for text in self.all("peer")? {
            config.peers.push(PeerTarget::parse(&text).map_err(|why| format!("--peer {why}"))?);
        }
        config.routers = self.all("router")?;
        for url in &config.routers {
            discovery::check_router(url).map_err(|why| format!("--router {url:?}: {why}"))?;
        }
        config.bootstrap = self.all("bootstrap")?;
        for node in &config.bootstrap {
            discovery::check_bootstrap(node)
                .map_err(|why| format!("--bootstrap {node:?}: {why}"))?;
        }
        config.dht = !self.switch("no-dht")?;
        config.mdns = !self.switch("no-mdns")?;
        config.port_map = !self.switch("no-portmap")?;
        let size = |name: &str| -> Result<Option<u64>, String> {
            let size = self.last(name)?.map(|text| parse_bytes(&text));
            size.transpose().map_err(|why| format!("--{name}: {why}"))
        };
        config.quota_bytes = size("quota")?;
        config.scrub_rate = size("scrub-rate")?.unwrap_or(config.scrub_rate);
        config.limit_up = size("limit-up")?;
        config.limit_down = size("limit-down")?;
        config.limit_up_peer = size("limit-up-peer")?;
        config.limit_down_peer = size("limit-down-peer")?;
        let units = |name: &str| -> Result<Option<u64>, String> {
            let units = self.last(name)?.map(|text| text.parse());
            units.transpose().map_err(|_| format!("--{name}: a whole number is expected"))
        };
        config.price = units("price")?.unwrap_or(config.price);
        config.price_max = units("max-price")?.unwrap_or(config.price_max);
        config.budget = units("budget")?.unwrap_or(config.budget);
        config.credit = units("credit")?.unwrap_or(config.credit);
        if let Some(seconds) = units("commit-interval")? {
            if !(1..=COMMIT_INTERVAL_SECONDS_MAX).contains(&seconds) {
                return Err(format!(
                    "--commit-interval: 1 to {COMMIT_INTERVAL_SECONDS_MAX} seconds"
                ));
            }
            config.commit_interval = Duration::from_secs(seconds);
        }
        if self.switch("small")? {
            config.limits = Limits::SMALL;
        }
        for text in self.all("allow-peer")? {
            let id = text.parse().map_err(|why| format!("--allow-peer {text:?}: {why}"))?;
            config.allow_peers.push(id);
        }
        config.allow_hosts = self.all("allow-host")?;
        config.allow_origins = self.all("allow-origin")?;
        config.denylist = self.last("denylist")?.map(PathBuf::from);
        if let Some(path) = self.last("swarm-key-file")? {
            config.swarm_key = Some(swarm_key(&path)?);
        }
        Ok(())
    }
}

fn address(name: &str, text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("--{name} {text:?}: ADDRESS:PORT is expected"))
}

fn swarm_key(path: &str) -> Result<[u8; 32], String> {
    let text =
        fs::read_to_string(path).map_err(|error| format!("--swarm-key-file {path}: {error}"))?;
    let bytes = HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).ok();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| format!("--swarm-key-file {path}: 64 hexadecimal digits are expected"))
}

/// `$XDG_DATA_HOME/barrow`, else `~/.local/share/barrow`.
fn default_data_dir() -> Result<PathBuf, CliError> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|dir| dir.join("barrow"))
        .ok_or_else(|| CliError::Usage("no home directory: give --data-dir".into()))
}

/// Takes the arithmetic of parity that the environment names, if it names one.
pub(super) fn choose_kernel() -> Result<(), String> {
    let Some(name) = env::var_os("BARROW_ERASURE_KERNEL") else { return Ok(()) };
    if name.to_str().is_some_and(use_kernel) {
        return Ok(());
    }
    let known: Vec<&str> = kernels().into_iter().map(Kernel::name).collect();
    Err(format!("BARROW_ERASURE_KERNEL takes one of {}", known.join(", ")))
}
