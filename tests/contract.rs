//! The contract's tables against what `barrow help` lists and what a node answers, so that neither
//! drifts from the other.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test reports by a panic"
)]

#[allow(dead_code)]
#[path = "flow/node.rs"]
mod node;
#[path = "contract/rows.rs"]
mod rows;

use barrow::{
    cli::args::{Args, COMMANDS, GLOBAL_FLAGS},
    store::local_store::{LocalStore, StoreOptions},
};
use node::{BARROW, Node, loop_until, make_file, put, run};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

/// Every command of the contract with its flags.
const PROMISED: &[(&str, &str)] = &[
    (
        "serve",
        "listen http peer quota small no-dht no-mdns bootstrap swarm-key-file allow-peer allow-host \
         allow-origin denylist router limit-up limit-down price max-price budget credit",
    ),
    ("put", "data parity profile name"),
    ("get", "output"),
    ("pin", "slot"),
    ("unpin", ""),
    ("ls", ""),
    ("stat", ""),
    ("rm", ""),
    ("gc", ""),
    ("verify", "repair"),
    ("repair", ""),
    ("protect", "data parity"),
    ("spread", "to"),
    ("import", ""),
    ("export", "output"),
    ("id", ""),
    ("peers", ""),
    ("connect", ""),
    ("ledger", ""),
    ("transfers", ""),
    ("demo", "nodes data parity keep"),
    ("completions", ""),
    ("help", ""),
];
const PROMISED_GLOBAL: &str = "config data-dir json";
/// What the table has beyond the contract, and why.
const OWN: &[(&str, &str, &str)] = &[
    ("put", "chunker", "CIDs equal to those of kubo's chunkers"),
    ("put", "wrap", "a file keeps its name, as with kubo's flag"),
    ("", "help", "every program has it"),
    ("", "log", "levels of the log"),
    ("", "log-format", "for those who collect logs"),
    ("help", "man", "packages make their manual page of it"),
    ("pin", "for", "a pin that ends by itself needs nobody to remember it"),
    ("serve", "no-portmap", "a router that is not ours is not everybody's to ask"),
    ("serve", "commit-interval", "how often a flash card is written to is its owner's choice"),
    ("serve", "limit-up-peer", "one peer must not have all that a line carries"),
    ("serve", "limit-down-peer", "the same, the other way"),
    ("serve", "scrub-rate", "how fast the disk is read in the background is its owner's choice"),
];
fn barrow(words: &[&str]) -> Output {
    Command::new(BARROW).args(words).env_remove("BARROW_DATA_DIR").output().unwrap()
}

fn status(output: &Output) -> Option<i32> {
    output.status.code()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The commands that `barrow help` lists, each with the flags that `barrow help COMMAND` lists.
fn listed() -> BTreeMap<String, Vec<String>> {
    let help = text(&barrow(&["help"]).stdout);
    let commands = help.split("\n\n").nth(2).unwrap().lines();
    let names = commands.map(|line| line.split_whitespace().next().unwrap().to_owned());
    names.map(|name| (name.clone(), flags_of(&text(&barrow(&["help", &name]).stdout)))).collect()
}

fn flags_of(help: &str) -> Vec<String> {
    let lines = help.lines().filter_map(|line| line.strip_prefix("  --"));
    lines.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

fn is_own(command: &str, flag: &str) -> bool {
    OWN.iter().any(|(own, name, _)| *own == command && *name == flag)
}

#[test]
fn help_lists_what_the_contract_promises_and_nothing_unexplained() {
    let listed = listed();
    let mut wrong = Vec::new();
    for (command, flags) in PROMISED {
        let Some(own) = listed.get(*command) else {
            wrong.push(format!("{command} is promised and not listed"));
            continue;
        };
        let promised: Vec<&str> = flags.split_whitespace().collect();
        for flag in &promised {
            if !own.iter().any(|listed| listed == flag) {
                wrong.push(format!("{command} --{flag} is promised and not listed"));
            }
        }
        for flag in own {
            if !promised.contains(&&flag[..]) && !is_own(command, flag) {
                wrong.push(format!("{command} --{flag} is listed and not promised"));
            }
        }
    }
    for command in listed.keys() {
        if !PROMISED.iter().any(|(promised, _)| promised == command) && command != "version" {
            wrong.push(format!("{command} is listed and not promised"));
        }
    }
    let help = text(&barrow(&["help"]).stdout);
    let global = help.split("flags of all commands:").nth(1).unwrap();
    let global = flags_of(global);
    for flag in PROMISED_GLOBAL.split_whitespace() {
        assert!(global.iter().any(|listed| listed == flag), "--{flag}");
    }
    for flag in &global {
        let promised = PROMISED_GLOBAL.split_whitespace().any(|promised| promised == flag);
        assert!(promised || is_own("", flag), "--{flag} is listed and not promised");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Something of the kind that a value's name in the help says.
fn sample(value: &str) -> &'static str {
    match value {
        "ADDR:PORT" => "127.0.0.1:0",
        "[ID@]ADDR:PORT" | "HOST:PORT" => "192.0.2.7:4780",
        "CID" | "CID[/PATH]" | "[CID]" => {
            "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
        }
        "SHELL" => "bash",
        "[COMMAND]" => "serve",
        "I/N" => "0/3",
        _ => "1",
    }
}

#[test]
fn every_flag_is_understood_with_its_command_before_or_after_it_and_with_no_other() {
    for command in COMMANDS {
        let operands = vec![sample(command.operands); command.counts.0];
        for flag in GLOBAL_FLAGS.iter().chain(command.flags) {
            if flag.name == "help" {
                continue;
            }
            let mut words = vec![command.name.to_owned(), format!("--{}", flag.name)];
            if !flag.value.is_empty() {
                words.push(sample(flag.value).to_owned());
            }
            words.extend(operands.iter().map(|&operand| operand.to_owned()));
            let args = Args::parse(words.iter().map(OsString::from));
            let args = args.unwrap_or_else(|why| panic!("{words:?}: {why}"));
            assert!(args.command == command.name && args.has(flag.name), "{words:?}");
        }
        // A flag of another command is refused by the program itself, with a status that says so.
        let foreign = COMMANDS
            .iter()
            .flat_map(|other| other.flags)
            .find(|flag| command.flags.iter().all(|own| own.name != flag.name))
            .unwrap();
        let refused = barrow(&[command.name, &format!("--{}", foreign.name), "1"]);
        assert_eq!(status(&refused), Some(2), "{} --{}", command.name, foreign.name);
        assert!(text(&refused.stderr).contains("there is no flag"), "{refused:?}");
        let help = barrow(&["help", command.name]);
        assert_eq!(status(&help), Some(0));
        assert!(text(&help.stdout).contains("\nexample: barrow "), "{}", command.name);
        assert_eq!(barrow(&[command.name, "--help"]).stdout, help.stdout, "{}", command.name);
    }
}

#[test]
fn operands_too_few_or_too_many_are_usage() {
    for command in COMMANDS {
        let (least, most) = command.counts;
        let words = |count| {
            let mut words = vec![command.name];
            words.resize(count + 1, sample(command.operands));
            words
        };
        if least > 0 {
            assert_eq!(status(&barrow(&words(least - 1))), Some(2), "{}", command.name);
        }
        assert_eq!(status(&barrow(&words(most + 1))), Some(2), "{}", command.name);
    }
    assert_eq!(status(&barrow(&["sreve"])), Some(2));
    assert_eq!(status(&barrow(&["--qouta", "1", "serve"])), Some(2));
}

#[test]
fn what_needs_a_store_or_a_node_says_so_where_there_is_none() {
    let dir = tempfile::tempdir().unwrap();
    for command in COMMANDS {
        let mut words = vec![command.name];
        words.resize(command.counts.0 + 1, sample(command.operands));
        if command.name == "protect" {
            words.extend(["--data", "2", "--parity", "1"]);
        }
        let (expected, reason) = match command.name {
            // These run, or take what is given.
            "serve" | "demo" => continue,
            "put" | "import" => (1, "the file is not there"),
            "get" | "pin" => (1, "it fetches into a new store, and nobody has it"),
            "help" | "version" | "completions" => (0, "they need nothing"),
            "peers" | "connect" | "ledger" | "transfers" | "spread" => {
                (1, "there is no node to be asked")
            }
            _ => (10, "there is no store"),
        };
        let output = run(&dir.path().join(command.name), &words);
        let told = (status(&output), text(&output.stderr));
        // A ledger or a protection is looked for in the store by some, at the node by others.
        let also = matches!(command.name, "ledger" | "transfers" | "spread") && told.0 == Some(10);
        assert!(told.0 == Some(expected) || also, "{}, {reason}: {told:?}", command.name);
        assert!(expected == 0 || !told.1.is_empty(), "{} fails without a word", command.name);
    }
}

#[test]
fn every_exit_status_is_given_for_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("a");
    let file = make_file(&dir.path().join("file"), 3 << 20, 3);
    let cid = put(&data, &file);
    assert_eq!(status(&run(&data, &["verify"])), Some(0));
    assert_eq!(status(&run(&data, &["stat", "no-cid"])), Some(2));
    let nowhere = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
    assert_eq!(status(&run(&data, &["get", nowhere])), Some(1));
    assert_eq!(status(&run(&dir.path().join("none"), &["ls"])), Some(10));
    damage(&data);
    let damaged = run(&data, &["verify"]);
    assert_eq!(status(&damaged), Some(3), "{damaged:?}");
    // This process has the store, and answers nobody.
    let store = LocalStore::open(&data, StoreOptions { create: false, ..StoreOptions::default() });
    let store = store.unwrap();
    let locked = run(&data, &["stat", &cid]);
    assert_eq!(status(&locked), Some(11), "{locked:?}");
    drop(store);
    // A child that another test is just starting has the lock too, until it is its own program.
    loop_until("the lock is free", || {
        (status(&run(&data, &["stat", &cid])) == Some(0)).then_some(())
    });
}

/// Changes a byte in the middle of the largest pack.
fn damage(data: &Path) {
    let packs = fs::read_dir(data.join("packs")).unwrap().map(|entry| entry.unwrap().path());
    let pack = packs.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[1 << 20] ^= 1;
    fs::write(&pack, bytes).unwrap();
}

#[test]
fn an_interrupted_put_gives_130_in_a_shell_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("a");
    let mut put = Command::new(BARROW)
        .arg("--data-dir")
        .arg(&data)
        .args(["put", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = put.stdin.take().unwrap();
    stdin.write_all(&vec![7; 9 << 20]).unwrap();
    loop_until("the store is there", || data.join("VERSION").exists().then_some(()));
    let pid = put.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let ended = put.wait().unwrap();
    drop(stdin);
    // A shell tells of an end by SIGINT as of 130.
    assert!(ended.code() == Some(130) || ended.signal() == Some(2), "{ended:?}");
    let ls = run(&data, &["ls"]);
    assert_eq!((status(&ls), text(&ls.stdout)), (Some(0), String::new()));
}

#[test]
fn flag_goes_before_environment_before_file_and_an_unknown_setting_names_the_near_one() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("barrow.toml"), "qouta = \"1GiB\"\n").unwrap();
    let refused = run(dir.path(), &["ls"]);
    assert_eq!(status(&refused), Some(2));
    assert!(text(&refused.stderr).contains("did you mean \"quota\"?"), "{refused:?}");
    fs::write(dir.path().join("barrow.toml"), "quota = \"3MiB\"\nlog-format = \"json\"\n").unwrap();
    let quota = |environment: Option<&str>, flags: &[&str]| {
        let _ = fs::remove_file(dir.path().join("node.json"));
        let mut command = Command::new(BARROW);
        command.arg("--data-dir").arg(dir.path()).args(["serve", "--listen", "127.0.0.1:0"]);
        command.args(["--http", "127.0.0.1:0"]).args(flags);
        command.envs(environment.map(|value| ("BARROW_QUOTA", value)));
        let mut node = command.stderr(Stdio::null()).spawn().unwrap();
        loop_until("it serves", || dir.path().join("node.json").exists().then_some(()));
        let stat = run(dir.path(), &["stat", "--json"]);
        let stat: serde_json::Value = serde_json::from_slice(&stat.stdout).unwrap();
        node.kill().unwrap();
        node.wait().unwrap();
        stat["quota_bytes"].as_u64().unwrap() >> 20
    };
    assert_eq!(quota(None, &[]), 3);
    assert_eq!(quota(Some("5MiB"), &[]), 5);
    assert_eq!(quota(Some("5MiB"), &["--quota", "7MiB"]), 7);
}

/// Paths of the contract, a method, and what a fresh node answers.
const PATHS: &[(&str, &str, u16)] = &[
    ("GET", "/", 200),
    ("GET", "/healthz", 200),
    ("GET", "/metrics", 200),
    ("GET", "/ipfs/bafkqablimvwgy3y", 200),
    ("HEAD", "/ipfs/bafkqablimvwgy3y", 200),
    ("GET", "/ipfs/none", 400),
    ("GET", "/api/v1/node", 200),
    ("GET", "/api/v1/peers", 200),
    ("GET", "/api/v1/datasets", 200),
    ("GET", "/api/v1/events", 200),
    ("POST", "/api/v1/verify", 200),
    ("POST", "/api/v1/gc", 200),
    ("GET", "/api/v1/transfers", 200),
    ("GET", "/api/v1/ledger", 200),
    ("GET", "/api/codex/v1/spr", 200),
    ("GET", "/api/codex/v1/data", 200),
    ("GET", "/api/codex/v1/space", 200),
    ("GET", "/api/storage/v1/data", 200),
    ("GET", "/routing/v1/providers/bafkqablimvwgy3y", 200),
    ("HEAD", "/routing/v1/providers/bafkqablimvwgy3y", 200),
    ("GET", "/api/codex/v1/debug/info", 200),
    ("GET", "/api/codex/v1/peerid", 200),
    ("GET", "/api/storage/v1/spr", 200),
    ("GET", "/api/storage/v1/space", 200),
    ("POST", "/api/v1/verify?repair=true", 200),
    ("PUT", "/api/v1/node", 405),
    ("GET", "/nothing", 404),
];
const METRICS: &str = "peer_bytes_sent_total peer_bytes_received_total blocks_sent_total \
    blocks_received_total blocks_duplicate_total blocks_rejected_total http_bytes_sent_total \
    store_blocks store_bytes quota_bytes peers bans erasure_decoded_stripes_total";

#[test]
fn every_path_of_the_contract_answers() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&dir.path().join("a"), &[]);
    for (method, path, expected) in PATHS {
        let headers: &[_] = if *method == "POST" { &[("Content-Length", "0")] } else { &[] };
        let response = node.open(method, path, headers);
        assert_eq!(response.status, *expected, "{method} {path}");
    }
    for name in METRICS.split_whitespace() {
        node.metric(name);
    }
    let metrics = text(&node.get("/metrics").body);
    assert!(metrics.contains("barrow_http_requests_total{status=\"200\"} "), "{metrics}");
    let foreign =
        node.send(b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    assert_eq!(foreign.status, 403);
    let about = fs::read_to_string(node.dir.join("node.json")).unwrap();
    for key in ["pid", "peer_id", "listen", "http", "version"] {
        assert!(about.contains(&format!("\"{key}\":")), "{about}");
    }
    let (ended, took) = node.terminate();
    assert!(ended == Some(0) && took.as_secs() < 5, "{ended:?} {took:?}");
    assert!(!dir.path().join("a/node.json").exists());
}

#[test]
fn json_is_an_object_a_line_and_progress_stays_off_what_is_no_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("a");
    let file = make_file(&dir.path().join("file"), 3 << 20, 5);
    let stored = run(&data, &["put", file.to_str().unwrap(), "--json"]);
    assert!(stored.stderr.is_empty(), "{stored:?}");
    let value: serde_json::Value = serde_json::from_slice(&stored.stdout).unwrap();
    let cid = value["cid"].as_str().unwrap().to_owned();
    assert!(value["root"].is_string() && value["size"] == 3 << 20 && value["blocks"].is_u64());
    for words in [&["ls"][..], &["stat"], &["stat", &cid], &["id"], &["verify"], &["gc"]] {
        let output = run(&data, &[words, &["--json"]].concat());
        assert_eq!(status(&output), Some(0), "{words:?}: {output:?}");
        let lines = text(&output.stdout);
        assert!(words == ["gc"] || !lines.is_empty(), "{words:?}");
        for line in lines.lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(value.is_object(), "{words:?}: {line}");
        }
    }
    let got = run(&data, &["get", &cid, "-o", dir.path().join("out").to_str().unwrap()]);
    assert!(got.status.success() && got.stderr.is_empty(), "{got:?}");
}

#[test]
fn completions_and_manual_know_every_command_and_flag_and_the_shells_take_them() {
    let manual = text(&barrow(&["help", "--man"]).stdout);
    for shell in barrow::cli::completions::SHELLS {
        let script = text(&barrow(&["completions", shell]).stdout);
        for command in COMMANDS {
            assert!(script.contains(command.name), "{shell}: {}", command.name);
            assert!(manual.contains(&format!(".SS \"{}", command.name)), "{}", command.name);
            for flag in command.flags {
                assert!(script.contains(flag.name), "{shell}: --{}", flag.name);
                let escaped = flag.name.replace('-', "\\-");
                assert!(manual.contains(&format!("\\-\\-{escaped}")), "--{}", flag.name);
            }
        }
        // The shell, where it is installed, reads it without a complaint.
        let Ok(mut child) =
            Command::new(shell).arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()
        else {
            eprintln!("{shell} is not here to be tried");
            continue;
        };
        let mut stdin = child.stdin.take().unwrap();
        let writer = thread::spawn(move || stdin.write_all(script.as_bytes()));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {output:?}");
    }
    assert_eq!(status(&barrow(&["completions", "bsh"])), Some(2));
}
