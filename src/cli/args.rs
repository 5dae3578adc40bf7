//! The command line as one table: parsing, `help` and the tests read the same.

use std::{collections::BTreeMap, ffi::OsString, fmt::Write as _};

/// A flag, with what it takes.
pub struct Flag {
    /// Without the dashes.
    pub name: &'static str,
    /// What stands behind it; empty for a switch.
    pub value: &'static str,
    /// What it does.
    pub help: &'static str,
}

/// A command, with what it takes.
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// What follows the name.
    pub operands: &'static str,
    /// How many operands it needs and takes.
    pub counts: (usize, usize),
    /// What it does, in a line.
    pub help: &'static str,
    /// One way to use it.
    pub example: &'static str,
    /// What it takes beside the global flags.
    pub flags: &'static [Flag],
}

const fn flag(name: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag { name, value, help }
}

/// Flags of every command; they stand before or after its name.
pub const GLOBAL_FLAGS: &[Flag] = &[
    flag(
        "data-dir",
        "DIR",
        "where identity, blocks and index are [default: the XDG data directory]",
    ),
    flag("config", "FILE", "settings to read [default: barrow.toml in the data directory]"),
    flag("json", "", "print JSON, an object a line"),
    flag("log", "LEVEL", "error, warn, info, debug or trace [default: info for serve, else warn]"),
    flag("log-format", "FORMAT", "human or json, an object a line [default: human]"),
    flag("help", "", "what the command does"),
];

/// All commands.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "serve",
        operands: "",
        counts: (0, 0),
        help: "run the node until SIGINT or SIGTERM",
        example: "barrow serve --peer 192.0.2.7:4780",
        flags: &[
            flag(
                "listen",
                "ADDR:PORT",
                "where peers reach it, may be repeated [default: 0.0.0.0:4780 and [::]:4780]",
            ),
            flag("http", "ADDR:PORT", "where HTTP is answered [default: 127.0.0.1:4781]"),
            flag("peer", "[ID@]ADDR:PORT", "a peer to stay connected with, may be repeated"),
            flag("no-dht", "", "neither ask the BitTorrent DHT nor announce anything there"),
            flag("no-mdns", "", "neither look for nodes on the local network nor answer them"),
            flag(
                "no-portmap",
                "",
                "do not ask the router for a port; with --no-dht it is never asked",
            ),
            flag(
                "bootstrap",
                "HOST:PORT",
                "a node of the DHT to enter it by, may be repeated [default: well-known ones]",
            ),
            flag("router", "URL", "a delegated router to ask who has a CID, may be repeated"),
            flag("quota", "BYTES", "what the store may take on disk, for instance 20GiB"),
            flag(
                "scrub-rate",
                "BPS",
                "bytes a second that are hashed again in the background, 0 for none [default: 4MiB]",
            ),
            flag(
                "commit-interval",
                "SECONDS",
                "time after which what was fetched is committed although nobody waits: more wears \
                 a flash card less [default: 1]",
            ),
            flag("small", "", "use at most 24 MiB of memory"),
            flag(
                "swarm-key-file",
                "F",
                "32 bytes in hexadecimal that all nodes of the swarm share",
            ),
            flag(
                "allow-peer",
                "ID",
                "a peer that slots are spread to and kept for, may be repeated",
            ),
            flag("allow-host", "NAME", "a name that the node answers to, may be repeated"),
            flag("allow-origin", "URL", "an origin whose pages may use the API, may be repeated"),
            flag("denylist", "F", "a file of CIDs that are not served over HTTP"),
            flag("limit-up", "BPS", "bytes a second to peers"),
            flag("limit-down", "BPS", "bytes a second from peers"),
            flag("limit-up-peer", "BPS", "bytes a second to any one peer"),
            flag("limit-down-peer", "BPS", "bytes a second from any one peer"),
            flag("price", "N", "units that a MiB costs here [default: 0]"),
            flag("max-price", "N", "units that a MiB may cost elsewhere [default: 0]"),
            flag("budget", "N", "units that one download may cost in all [default: 0]"),
            flag("credit", "N", "units that a peer may owe before it must pay [default: 64]"),
        ],
    },
    Command {
        name: "put",
        operands: "FILE|DIR|-",
        counts: (1, 1),
        help: "store a file, a directory or what comes in, pinned; print its CID",
        example: "barrow put holiday.mp4",
        flags: &[
            flag("profile", "NAME", "unixfs-v1-2025 (default), kubo-default or unixfs-v0-2015"),
            flag(
                "chunker",
                "C",
                "size-BYTES, buzhash, rabin, rabin-MEAN or rabin-MIN-MEAN-MAX, as kubo cuts",
            ),
            flag("wrap", "", "make a directory around it, in which it has its name"),
            flag("name", "N", "a name to keep with it"),
            flag("data", "K", "data shards of a stripe: protect it, with --parity"),
            flag("parity", "M", "parity shards of a stripe: any M of K + M may be lost"),
        ],
    },
    Command {
        name: "get",
        operands: "CID[/PATH]",
        counts: (1, 1),
        help: "download, from the store and the swarm; run again, it resumes",
        example: "barrow get bafkrei… -o holiday.mp4",
        flags: &[flag("output", "FILE", "where it goes, also -o [default: standard output]")],
    },
    Command {
        name: "pin",
        operands: "CID",
        counts: (1, 1),
        help: "keep a dataset: fetch what lacks, return when all is verified and synced",
        example: "barrow pin bafybei…",
        flags: &[
            flag("slot", "I/N", "of a protected one, keep this slot alone, I from 0"),
            flag("for", "TIME", "let it go after 90min, 12h, 30d or 4w [default: never]"),
        ],
    },
    Command {
        name: "unpin",
        operands: "CID",
        counts: (1, 1),
        help: "no longer keep a dataset; gc may take it",
        example: "barrow unpin bafybei…",
        flags: &[],
    },
    Command {
        name: "ls",
        operands: "",
        counts: (0, 0),
        help: "list the datasets",
        example: "barrow ls --json",
        flags: &[],
    },
    Command {
        name: "stat",
        operands: "[CID]",
        counts: (0, 1),
        help: "tell of the store, or of one dataset",
        example: "barrow stat bafybei…",
        flags: &[],
    },
    Command {
        name: "rm",
        operands: "CID",
        counts: (1, 1),
        help: "remove a dataset and all blocks that only it has",
        example: "barrow rm bafybei…",
        flags: &[],
    },
    Command {
        name: "gc",
        operands: "",
        counts: (0, 0),
        help: "remove what is not pinned, or no longer, and give its space back",
        example: "barrow gc",
        flags: &[],
    },
    Command {
        name: "verify",
        operands: "",
        counts: (0, 0),
        help: "hash everything stored again; exit status 3 if something is damaged",
        example: "barrow verify",
        flags: &[flag("repair", "", "mend what is damaged or lacks, from parity and peers")],
    },
    Command {
        name: "repair",
        operands: "CID",
        counts: (1, 1),
        help: "make a dataset whole again, from parity and peers",
        example: "barrow repair bafyrei…",
        flags: &[],
    },
    Command {
        name: "import",
        operands: "FILE.car|-",
        counts: (1, 1),
        help: "store the blocks of a CAR, pin its roots; exit status 3 if one is not whole",
        example: "barrow import site.car",
        flags: &[],
    },
    Command {
        name: "export",
        operands: "CID",
        counts: (1, 1),
        help: "write all blocks of a dataset as a CAR",
        example: "barrow export bafybei… -o site.car",
        flags: &[flag("output", "FILE", "where it goes, also -o [default: standard output]")],
    },
    Command {
        name: "protect",
        operands: "CID",
        counts: (1, 1),
        help: "add parity to what is stored; print the CID of the protected dataset",
        example: "barrow protect bafybei… --data 10 --parity 4",
        flags: &[
            flag("data", "K", "data shards of a stripe"),
            flag("parity", "M", "parity shards of a stripe: any M of K + M may be lost"),
        ],
    },
    Command {
        name: "spread",
        operands: "CID",
        counts: (1, 1),
        help: "ask peers on the allow-list to hold a slot each; exit status 3 if one is not held",
        example: "barrow spread bafyrei…",
        flags: &[flag("to", "ID", "a peer to ask, may be repeated [default: all on the list]")],
    },
    Command {
        name: "id",
        operands: "",
        counts: (0, 0),
        help: "tell who the node is and where it listens",
        example: "barrow id",
        flags: &[],
    },
    Command {
        name: "peers",
        operands: "",
        counts: (0, 0),
        help: "list the connected peers",
        example: "barrow peers",
        flags: &[],
    },
    Command {
        name: "connect",
        operands: "[ID@]ADDR:PORT",
        counts: (1, 1),
        help: "connect the running node with a peer",
        example: "barrow connect 192.0.2.7:4780",
        flags: &[],
    },
    Command {
        name: "ledger",
        operands: "[settle ID AMOUNT]",
        counts: (0, 3),
        help: "tell what peers and the node owe each other; note a debt that was settled elsewhere",
        example: "barrow ledger settle 12D3KooW… 500",
        flags: &[],
    },
    Command {
        name: "transfers",
        operands: "[cancel JOB]",
        counts: (0, 2),
        help: "list what the running node fetches, how fast and from whom, or end one",
        example: "barrow transfers cancel 3",
        flags: &[],
    },
    Command {
        name: "demo",
        operands: "[FILE]",
        counts: (0, 1),
        help: "run a swarm of real nodes on this machine: store, stop, download, compare",
        example: "barrow demo --nodes 3",
        flags: &[
            flag("nodes", "N", "how many, at least 3 [default: 3]"),
            flag("data", "K", "data shards of a stripe: keep a slot on each node, then lose some"),
            flag("parity", "M", "parity shards of a stripe"),
            flag("keep", "", "leave the nodes' directories"),
        ],
    },
    Command {
        name: "completions",
        operands: "SHELL",
        counts: (1, 1),
        help: "print what bash, zsh or fish needs to complete commands and flags",
        example: "barrow completions bash > ~/.local/share/bash-completion/completions/barrow",
        flags: &[],
    },
    Command {
        name: "help",
        operands: "[COMMAND]",
        counts: (0, 1),
        help: "tell of all commands, or of one",
        example: "barrow help serve",
        flags: &[flag("man", "", "print the manual page, as man reads it")],
    },
    Command {
        name: "version",
        operands: "",
        counts: (0, 0),
        help: "print the version",
        example: "barrow --version",
        flags: &[],
    },
];

/// A command line, understood as far as the table goes.
#[derive(Debug)]
pub struct Args {
    /// The command's name.
    pub command: &'static str,
    /// What stands behind it.
    pub operands: Vec<OsString>,
    flags: BTreeMap<&'static str, Vec<OsString>>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Args {
    /// Reads a command line, without the program's name.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        use lexopt::Arg;
        let mut parser = lexopt::Parser::from_args(words);
        let mut command: Option<&'static Command> = None;
        let mut operands = Vec::new();
        let mut flags: BTreeMap<&'static str, Vec<OsString>> = BTreeMap::new();
        while let Some(arg) = parser.next().map_err(|error| error.to_string())? {
            let name = match arg {
                Arg::Value(word) => {
                    match command {
                        None => command = Some(find(&word)?),
                        Some(_) => operands.push(word),
                    }
                    continue;
                }
                Arg::Short('h') => "help".to_owned(),
                Arg::Short('V') => "version".to_owned(),
                Arg::Short('o') => "output".to_owned(),
                Arg::Short(letter) => return Err(format!("there is no flag -{letter}")),
                Arg::Long(name) => name.to_owned(),
            };
            if name == "version" && command.is_none() {
                command = Some(find(&"version".into())?);
                continue;
            }
            let flag = find_flag(command, &name)?;
            let values = flags.entry(flag.name).or_default();
            if !flag.value.is_empty() {
                values.push(parser.value().map_err(|error| error.to_string())?);
            }
        }
        let Some(command) = command else {
            return Ok(Self { command: "help", operands, flags: BTreeMap::new() });
        };
        if flags.contains_key("help") {
            let operands = vec![command.name.into()];
            return Ok(Self { command: "help", operands, flags: BTreeMap::new() });
        }
        let (least, most) = command.counts;
        if operands.len() < least || operands.len() > most {
            return Err(format!("usage: barrow {} {}", command.name, command.operands));
        }
        Ok(Self { command: command.name, operands, flags })
    }

    /// Whether a switch was given.
    pub fn has(&self, name: &str) -> bool {
        self.flags.contains_key(name)
    }

    /// All values of a flag, as text.
    ///
    /// # Errors
    /// If one is not UTF-8.
    pub fn all(&self, name: &str) -> Result<Vec<String>, String> {
        let values = self.flags.get(name).map_or(&[][..], |values| values);
        let text = |value: &OsString| {
            value.to_str().map(ToOwned::to_owned).ok_or_else(|| format!("--{name}: not UTF-8"))
        };
        values.iter().map(text).collect()
    }

    /// The last value of a flag, as text.
    ///
    /// # Errors
    /// If it is not UTF-8.
    pub fn last(&self, name: &str) -> Result<Option<String>, String> {
        Ok(self.all(name)?.pop())
    }

    /// An operand as text.
    ///
    /// # Errors
    /// If it is not UTF-8.
    pub fn operand(&self, at: usize) -> Result<Option<&str>, String> {
        let text = |word: &OsString| format!("{word:?} is not UTF-8");
        self.operands.get(at).map(|word| word.to_str().ok_or_else(|| text(word))).transpose()
    }
}

fn find(word: &OsString) -> Result<&'static Command, String> {
    let text = word.to_string_lossy();
    COMMANDS.iter().find(|command| command.name == text).ok_or_else(|| {
        let near = nearest(&text, COMMANDS.iter().map(|command| command.name));
        format!("there is no command {text:?}{near}; see barrow help")
    })
}

fn find_flag(command: Option<&'static Command>, name: &str) -> Result<&'static Flag, String> {
    let own = command.map_or(&[][..], |command| command.flags);
    let all = || GLOBAL_FLAGS.iter().chain(own);
    all().find(|flag| flag.name == name).ok_or_else(|| {
        let near = nearest(name, all().map(|flag| flag.name));
        let of = command.map_or_else(String::new, |command| format!(" of {}", command.name));
        format!("there is no flag --{name}{of}{near}")
    })
}

/// The name that was most likely meant.
pub(crate) fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> String {
    let close = names.map(|name| (distance(word, name), name)).min();
    match close {
        Some((steps, name)) if steps <= 2 => format!(", did you mean {name:?}?"),
        Some(_) | None => String::new(),
    }
}

/// How many letters have to be changed, added or left out.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let changed = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// What a voucher is, for whoever may take it for money.
const LEDGER_HELP: &str = "
A voucher is a signed acknowledgement of debt, and no money: a node that buys blocks sends one for
those that it has verified, and whoever holds it can show to anybody what is owed. barrow moves no
money. Debts are settled elsewhere, between the people who run the nodes, in whatever the units
stand for between them; `ledger settle ID AMOUNT` only notes that it was done. `ledger --json`
exports the vouchers, which anyone can verify (docs/LEDGER.md).
";

/// The text of `help`.
///
/// # Errors
/// If there is no such command.
pub fn help(name: Option<&str>) -> Result<String, String> {
    let mut text = String::new();
    let Some(name) = name else {
        text.push_str("barrow, a content-addressed storage node\n\nusage: barrow COMMAND …\n\n");
        for command in COMMANDS {
            let _ = writeln!(text, "  {:11} {}", command.name, command.help);
        }
        text.push_str("\nflags of all commands:\n");
        put_flags(&mut text, GLOBAL_FLAGS);
        text.push_str(
            "\nA CID that no peer has fails with 404 within 3 s, one whose provider does not\n\
             deliver with 504 within 30 s. `barrow help COMMAND` tells more.\n",
        );
        return Ok(text);
    };
    let command = find(&name.into())?;
    let _ =
        writeln!(text, "{}\n\nusage: barrow {} {}", command.help, command.name, command.operands);
    if !command.flags.is_empty() {
        text.push_str("\nflags:\n");
        put_flags(&mut text, command.flags);
    }
    if command.name == "ledger" {
        text.push_str(LEDGER_HELP);
    }
    let _ = writeln!(text, "\nexample: {}", command.example);
    Ok(text)
}

fn put_flags(text: &mut String, flags: &[Flag]) {
    for flag in flags {
        let usage = format!("--{} {}", flag.name, flag.value);
        let _ = writeln!(text, "  {usage:24} {}", flag.help);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        for line in ["--json --data-dir d ls", "ls --json --data-dir d", "--json ls --data-dir=d"] {
            let args = parse(line).unwrap();
            assert_eq!((args.command, args.has("json")), ("ls", true), "{line}");
            assert_eq!(args.last("data-dir").unwrap().as_deref(), Some("d"));
        }
    }

    #[test]
    fn a_mistyped_word_is_refused_with_the_near_one() {
        assert!(parse("sreve").unwrap_err().contains("\"serve\""));
        assert!(parse("serve --qouta 1").unwrap_err().contains("\"quota\""));
        assert!(parse("pin").unwrap_err().starts_with("usage: barrow pin"));
        assert!(parse("ls --quota 1").is_err());
    }
}
