//! Every row of the contract's tables as people use it: each command and each flag that `barrow
//! help` lists is run here, and has the effect that its row promises.

use super::{
    listed,
    node::{BARROW, Node, Response, loop_until, make_file},
    status, text,
};
use serde_json::Value;
use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
};

/// Somebody whom no node knows.
const STRANGER: &str = "12D3KooWFff9a21gejkpuLCf7g9yL2DTa52GaWUcyVjnqss8yHbD";
const FILM_BYTES: u64 = 3 << 20;

/// Runs commands, and notes which flags of which were given.
struct Rows {
    dir: tempfile::TempDir,
    tried: RefCell<BTreeSet<(String, String)>>,
}

impl Rows {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), tried: RefCell::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn note(&self, command: &str, words: &[&str]) {
        let mut tried = self.tried.borrow_mut();
        tried.insert((command.into(), String::new()));
        for word in words {
            let flag = if *word == "-o" { Some("output") } else { word.strip_prefix("--") };
            tried.extend(flag.map(|flag| (command.to_owned(), flag.to_owned())));
        }
    }

    /// Runs `barrow --data-dir STORE WORDS` with something on standard input.
    fn fed(&self, store: &str, words: &[&str], input: &[u8]) -> Output {
        self.note(words[0], words);
        let mut command = Command::new(BARROW);
        command.arg("--data-dir").arg(self.path(store)).args(words).env("TMPDIR", self.dir.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    /// Runs it, and gives what it prints.
    fn run(&self, store: &str, words: &[&str]) -> Vec<u8> {
        let output = self.fed(store, words, b"");
        assert_eq!(status(&output), Some(0), "{store}: {words:?}: {output:?}");
        assert!(output.stderr.is_empty(), "no terminal is here: {words:?}: {output:?}");
        output.stdout
    }

    fn line(&self, store: &str, words: &[&str]) -> String {
        let told = text(&self.run(store, words));
        told.strip_suffix('\n').unwrap_or(&told).to_owned()
    }

    /// Runs it with `--json`, and gives the objects, one a line.
    fn json(&self, store: &str, words: &[&str]) -> Vec<Value> {
        let told = text(&self.run(store, &[words, &["--json"]].concat()));
        let objects: Vec<Value> =
            told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(objects.iter().all(Value::is_object), "{words:?}: {told}");
        objects
    }

    fn film(&self) -> (String, Vec<u8>) {
        let film = make_file(&self.path("film.mp4"), FILM_BYTES, 7);
        (film.to_str().unwrap().to_owned(), fs::read(film).unwrap())
    }
}

fn word(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// The rows that a store alone can do, and a node that serves it does as well.
fn keep(rows: &Rows, store: &str) {
    let (film, bytes) = rows.film();
    let cid = rows.line(store, &["put", &film, "--profile", "unixfs-v1-2025"]);
    // The chunks that the profile has anyway.
    assert_eq!(rows.line(store, &["put", &film, "--chunker", "size-1048576"]), cid);
    let cut = rows.line(store, &["put", &film, "--chunker", "buzhash"]);
    assert!(cut != cid && rows.run(store, &["get", &cut]) == bytes);
    let wrapped = rows.line(store, &["put", &film, "--wrap"]);
    let name = Path::new(&film).file_name().unwrap().to_str().unwrap();
    assert!(rows.run(store, &["get", &format!("{wrapped}/{name}")]) == bytes);
    for added in [&cut, &wrapped] {
        rows.run(store, &["rm", added]);
    }
    let stored = rows.json(store, &["put", &film, "--name", "a film"]).remove(0);
    assert!(stored["size"] == FILM_BYTES && stored["root"] == cid, "{stored}");
    assert_eq!(stored["cid"], cid);
    let older = rows.line(store, &["put", &film, "--profile", "kubo-default"]);
    assert!(older.starts_with("Qm") || older != cid, "{older}");
    let piped = rows.fed(store, &["put", "-"], b"hello world");
    let hello = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
    assert_eq!(text(&piped.stdout), format!("{hello}\n"), "{piped:?}");

    let out = rows.path("out");
    let out = out.to_str().unwrap();
    rows.run(store, &["get", &cid, "-o", out]);
    assert!(fs::read(out).unwrap() == bytes, "other bytes came");
    assert!(rows.run(store, &["get", &cid]) == bytes, "other bytes came");
    let album = rows.path("album");
    fs::create_dir_all(album.join("summer")).unwrap();
    fs::write(album.join("summer/one.txt"), "one").unwrap();
    let album = rows.line(store, &["put", album.to_str().unwrap()]);
    assert_eq!(rows.line(store, &["get", &format!("{album}/summer/one.txt")]), "one");

    let pinned = |cid: &str| {
        let all = rows.json(store, &["ls"]);
        all.iter().find(|one| one["root"] == cid).map(|one| one["pinned"] == true)
    };
    assert_eq!(pinned(&cid), Some(true));
    rows.run(store, &["unpin", &cid]);
    assert_eq!(pinned(&cid), Some(false));
    let end = |cid: &str| {
        let all = rows.json(store, &["ls"]);
        all.iter().find(|one| one["root"] == cid).and_then(|one| one["expires"].as_u64())
    };
    assert_eq!(rows.line(store, &["pin", &cid, "--for", "36h"]), cid);
    assert!(end(&cid).is_some() && rows.line(store, &["ls"]).contains("  1d      "));
    assert_eq!(rows.line(store, &["pin", &cid]), cid);
    assert_eq!((pinned(&cid), end(&cid)), (Some(true), None));
    assert!(rows.line(store, &["ls"]).contains("a film"));
    assert!(rows.json(store, &["stat"])[0]["blocks"].as_u64().unwrap() > 3);
    assert_eq!(rows.json(store, &["stat", &cid])[0]["size"], FILM_BYTES);
    assert!(rows.line(store, &["stat", &cid]).contains("3.0 MiB"));

    let car = rows.path("film.car");
    let car = car.to_str().unwrap();
    rows.run(store, &["export", &cid, "-o", car]);
    assert!(rows.run(store, &["export", &cid]) == fs::read(car).unwrap());
    rows.run(store, &["rm", &cid]);
    assert_eq!(pinned(&cid), None);
    assert_eq!(rows.line(store, &["import", car]), cid);
    assert_eq!(pinned(&cid), Some(true));
    rows.run(store, &["unpin", &older]);
    assert!(rows.json(store, &["gc"])[0]["blocks"].as_u64().unwrap() > 0);
    assert_eq!(pinned(&older), None);

    let words = ["put", &film[..], "--data", "4", "--parity", "2"];
    let protected = rows.json(store, &words).remove(0);
    assert_eq!(protected["root"], cid);
    let words = ["protect", &cid, "--data", "4", "--parity", "2"];
    assert_eq!(rows.line(store, &words), word(&protected["cid"]));
    assert!(rows.line(store, &["verify"]).ends_with(" 0 damaged"));
    let verified = rows.json(store, &["verify", "--repair"]).remove(0);
    assert!(verified["lost"].as_array().unwrap().is_empty(), "{verified}");
    assert!(rows.line(store, &["repair", &word(&protected["cid"])]).contains("is whole"));
    assert!(rows.line(store, &["id"]).starts_with("12D3KooW"));
}

fn start(rows: &Rows, store: &str, peers: &[&str], flags: &[&str]) -> Node {
    rows.note("serve", flags);
    rows.note("serve", &["--listen", "--http", "--no-dht", "--no-mdns"]);
    Node::start_with(&rows.path(store), peers, flags)
}

/// The rows that take two nodes: what peers are asked and told.
fn share(rows: &Rows) {
    let id = |store: &str| word(&rows.json(store, &["id"])[0]["peer_id"]);
    rows.fed("b", &["put", "-"], b"something, so that there is a store");
    let (id_a, id_b) = (id("a"), id("b"));
    let a = start(rows, "a", &[], &["--allow-peer", &id_b]);
    keep(rows, "a");
    let b = start(rows, "b", &[], &["--allow-peer", &id_a, "--limit-down", "1MiB"]);
    rows.run("b", &["connect", &a.peer]);
    let peers = loop_until("they are connected", || {
        Some(rows.json("b", &["peers"])).filter(|peers| !peers.is_empty())
    });
    assert_eq!(peers[0]["peer_id"], id_a);

    let film = make_file(&rows.path("long"), 12 << 20, 9);
    let cid = rows.line("a", &["put", film.to_str().unwrap()]);
    let pin = Command::new(BARROW)
        .arg("--data-dir")
        .arg(rows.path("b"))
        .args(["pin", &cid])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let job = loop_until("it is under way", || {
        let all = rows.json("b", &["transfers"]);
        let one = all.iter().find(|one| one["cid"] == cid && one["status"] == "active")?;
        Some(one["job"].to_string())
    });
    assert!(rows.line("b", &["transfers"]).contains(&cid));
    rows.run("b", &["transfers", "cancel", &job]);
    let ended = pin.wait_with_output().unwrap();
    assert!(status(&ended) == Some(1) && !ended.stderr.is_empty(), "{ended:?}");

    let (film, bytes) = rows.film();
    let words = ["put", &film[..], "--data", "2", "--parity", "1"];
    let protected = word(&rows.json("a", &words)[0]["cid"]);
    rows.run("b", &["pin", &protected, "--slot", "0/3"]);
    let spread = rows.json("a", &["spread", &protected, "--to", &id_b]);
    assert!(spread.iter().any(|told| told.to_string().contains(&id_b)), "{spread:?}");
    assert!(rows.run("b", &["get", &protected]) == bytes, "other bytes came");
    let ledger = rows.json("b", &["ledger"]);
    let of_a = ledger.iter().find(|entry| entry["peer_id"] == id_a).unwrap();
    assert!(of_a["received"].as_u64().unwrap() > 1 << 20, "{of_a}");
    // Nothing was paid between them; what was, tests/paid.rs settles.
    let refused = rows.fed("b", &["ledger", "settle", &id_a, "5"], b"");
    assert!(status(&refused) == Some(1) && text(&refused.stderr).contains("to be settled"));
    drop((a, b));
}

/// Those that need no store.
fn tell(rows: &Rows) {
    for shell in ["bash", "zsh", "fish"] {
        assert!(rows.line("none", &["completions", shell]).contains("barrow"));
    }
    assert!(rows.line("none", &["help", "put"]).contains("example: barrow put"));
    assert!(rows.line("none", &["help", "--man"]).starts_with(".TH"));
    assert!(rows.line("none", &["version"]).starts_with("barrow "));
    assert!(rows.line("none", &["put", "--help"]).contains("--parity"));
    assert!(!rows.path("none").exists(), "what needs no store makes none");
}

fn demo(rows: &Rows) {
    let (film, _) = rows.film();
    let told = rows.line("none", &["demo", &film, "--nodes", "3"]);
    assert!(told.ends_with("every download has the bytes that were put"), "{told}");
    let left = || {
        let all = fs::read_dir(rows.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        all.filter(|name| name.to_str().unwrap().starts_with("barrow-demo-")).count()
    };
    assert_eq!(left(), 0);
    let words = ["demo", &film[..], "--nodes", "4", "--data", "2", "--parity", "1", "--keep"];
    let output = rows.fed("none", &words, b"");
    assert!(
        text(&output.stdout).contains("is stopped") && status(&output) == Some(0),
        "{output:?}"
    );
    assert_eq!(left(), 1);
}

/// Starts a node with each of the flags that `help` lists by itself, and with all in its file.
fn serve(rows: &Rows, flags: &[String]) {
    let key = rows.path("swarm-key");
    fs::write(&key, "0123456789abcdef".repeat(4)).unwrap();
    let denied = rows.path("denied");
    fs::write(&denied, "").unwrap();
    let mut file = "log = \"error\"\nlog-format = \"json\"\n".to_owned();
    for flag in flags {
        let (value, wrong) = match &flag[..] {
            "listen" => ("[::1]:0", Some("nowhere")),
            "http" => ("127.0.0.1:0", Some("nowhere")),
            "peer" | "bootstrap" => ("127.0.0.1:9", Some("no peer")),
            "router" => ("http://127.0.0.1:9", Some("no router")),
            "allow-peer" => (STRANGER, Some("nobody")),
            "allow-host" => ("files.example", None),
            "allow-origin" => ("http://files.example", None),
            "swarm-key-file" => (key.to_str().unwrap(), Some("no such file")),
            "denylist" => (denied.to_str().unwrap(), None),
            "no-dht" | "no-mdns" | "no-portmap" | "small" => ("", None),
            "commit-interval" => ("5", Some("0")),
            _ => ("1000000", Some("many")),
        };
        let setting = if value.is_empty() { "true".to_owned() } else { format!("{value:?}") };
        if flag != "bootstrap" || cfg!(feature = "dht") {
            file += &format!("{flag} = {setting}\n");
        }
        let flag = format!("--{flag}");
        let store = format!("serve{flag}");
        if flag == "--bootstrap" && !cfg!(feature = "dht") {
            let refused = rows.fed(&store, &["serve", &flag, value], b"");
            assert_eq!(status(&refused), Some(2), "{refused:?}");
            assert!(text(&refused.stderr).contains("no DHT"), "{refused:?}");
            continue;
        }
        let own: Vec<&str> =
            [&flag[..], value].into_iter().filter(|word| !word.is_empty()).collect();
        let node = start(rows, &store, &[], &own);
        assert_eq!(node.get("/healthz").status, 200, "{flag}");
        let (ended, took) = node.terminate();
        assert!(ended == Some(0) && took.as_secs() < 5, "{flag}: {ended:?} {took:?}");
        if let Some(wrong) = wrong {
            let refused = rows.fed(&store, &["serve", &flag, wrong], b"");
            assert_eq!(status(&refused), Some(2), "{flag} {wrong}: {refused:?}");
            assert!(text(&refused.stderr).contains(&flag), "{refused:?}");
        }
    }
    let place = rows.path("file");
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("barrow.toml"), file).unwrap();
    let node = start(rows, "file", &[], &[]);
    assert_eq!(rows.json("file", &["stat"])[0]["quota_bytes"], 1_000_000);
    assert_eq!(node.request("GET", "/healthz", &[]).status, 200);
    let named = b"GET /healthz HTTP/1.1\r\nHost: files.example\r\nConnection: close\r\n\r\n";
    assert_ne!(node.send(named).status, 403);
    assert!(node.log().is_empty(), "{}", node.log());
}

#[test]
fn every_command_and_flag_that_help_lists_does_what_its_row_says() {
    let rows = Rows::new();
    let listed = listed();
    keep(&rows, "a");
    share(&rows);
    tell(&rows);
    demo(&rows);
    serve(&rows, &listed["serve"]);
    let tried = rows.tried.borrow();
    let is_tried = |command: &str, flag: &str| tried.contains(&(command.into(), flag.into()));
    for (command, flags) in &listed {
        assert!(is_tried(command, ""), "{command} is listed and was not run");
        for flag in flags {
            assert!(is_tried(command, flag), "{command} --{flag} is listed and was not given");
        }
    }
}

/// An answer to a request of a page of another origin.
fn of_a_page(node: &Node, method: &str, path: &str) -> Response {
    node.request(method, path, &[("Origin", "http://evil.example"), ("Content-Length", "0")])
}

#[test]
fn pages_of_other_origins_read_content_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), &[]);
    let cid = "bafkqablimvwgy3y";
    for path in [format!("/ipfs/{cid}"), format!("/routing/v1/providers/{cid}")] {
        for method in ["GET", "HEAD", "OPTIONS"] {
            let response = of_a_page(&node, method, &path);
            assert!(response.status < 300 || response.status == 404, "{method} {path}");
            assert_eq!(
                response.header("access-control-allow-origin"),
                Some("*"),
                "{method} {path}"
            );
        }
        assert_eq!(of_a_page(&node, "POST", &path).status, 403, "{path}");
    }
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/healthz"),
        ("GET", "/metrics"),
        ("GET", "/api/v1/node"),
        ("POST", "/api/v1/gc"),
        ("GET", "/api/codex/v1/data"),
        ("GET", "/api/storage/v1/data"),
    ] {
        let refused = of_a_page(&node, method, path);
        assert_eq!(refused.status, 403, "{method} {path}");
        let told: Value = serde_json::from_slice(&refused.body).unwrap();
        assert!(told["error"]["code"].is_string() && told["error"]["message"].is_string());
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(node.send(request.as_bytes()).status, 403, "{method} {path} of a foreign host");
    }
}

#[test]
fn a_bind_beyond_loopback_takes_writes_with_the_token_alone_and_no_log_tells_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("swarm-key");
    let digits = "0123456789abcdef".repeat(4);
    fs::write(&key, &digits).unwrap();
    let key = key.to_str().unwrap();
    let flags =
        ["--http", "0.0.0.0:0", "--swarm-key-file", key, "--log", "trace", "--log-format", "json"];
    let node = Node::start_with(&dir.path().join("a"), &[], &flags);
    let token = fs::read_to_string(node.dir.join("api-token")).unwrap().trim().to_owned();
    let basic = data_encoding::BASE64.encode(format!("anyone:{token}").as_bytes());
    let gc = |authorization: &str| {
        let headers = [("Content-Length", "0"), ("Authorization", authorization)];
        node.request("POST", "/api/v1/gc", &headers).status
    };
    assert_eq!(node.request("POST", "/api/v1/gc", &[("Content-Length", "0")]).status, 401);
    assert_eq!(gc("Bearer wrong"), 401);
    assert_eq!(gc(&format!("Bearer {token}")), 200);
    assert_eq!(gc(&format!("Basic {basic}")), 200);
    assert_eq!(node.get("/api/v1/node").status, 200);
    let identity = fs::read(node.dir.join("identity")).unwrap();
    let (dir, log) = (node.dir.clone(), node.log());
    node.terminate();
    assert!(log.lines().count() > 1, "{log}");
    for line in log.lines() {
        let told: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        assert!(told["level"].is_string() && told["message"].is_string(), "{line}");
    }
    let identity = String::from_utf8_lossy(&identity).trim().to_owned();
    for secret in [&token[..], &digits, &basic, &identity] {
        assert!(secret.is_empty() || !log.contains(secret), "a secret is in the log");
    }
    for secret in ["identity", "api-token"] {
        let mode = fs::metadata(dir.join(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
}

#[test]
fn a_data_directory_holds_what_the_contract_names_and_rebuilds_its_index() {
    let dir = tempfile::tempdir().unwrap();
    let file = make_file(&dir.path().join("file"), 1 << 20, 3);
    let node = Node::start_with(&dir.path().join("a"), &[], &["--quota", "8MiB"]);
    let cid = node.put(&file);
    let big = vec![7; 9 << 20];
    let mut request = format!("POST /api/v1/put HTTP/1.1\r\nHost: {}\r\n", node.http);
    request += &format!("Content-Length: {}\r\nConnection: close\r\n\r\n", big.len());
    let mut over = node.send(&[request.as_bytes(), &noise(big)].concat());
    over.read_body().unwrap();
    assert_eq!(over.status, 507, "{}", text(&over.body));
    let names = |node: &Path| -> BTreeSet<String> {
        let all = fs::read_dir(node).unwrap().map(|entry| entry.unwrap().file_name());
        all.map(|name| name.into_string().unwrap()).collect()
    };
    let serving = names(&node.dir);
    for name in [
        "identity",
        "api-token",
        "node.json",
        "packs",
        "index.sqlite",
        "peers.sqlite",
        "lock",
        "VERSION",
    ] {
        assert!(serving.contains(name), "{name} lacks in {serving:?}");
    }
    let place = node.dir.clone();
    node.terminate();
    assert!(!names(&place).contains("node.json"));
    for part in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
        let _ = fs::remove_file(place.join(part));
    }
    let again = Node::start(&place, &[]);
    assert!(again.get(&format!("/ipfs/{cid}")).body == fs::read(&file).unwrap());
    assert!(text(&again.run(&["ls"]).stdout).contains("pinned"));
}

/// Bytes of which no block is like another.
fn noise(mut bytes: Vec<u8>) -> Vec<u8> {
    for (at, chunk) in bytes.chunks_mut(4).enumerate() {
        let word = u32::try_from(at).unwrap().wrapping_mul(0x9e37_79b9).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    bytes
}

#[test]
fn a_demo_that_is_interrupted_says_so_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut demo = Command::new(BARROW);
    demo.arg("demo").env("TMPDIR", dir.path()).stdout(Stdio::null()).stderr(Stdio::piped());
    let demo = demo.spawn().unwrap();
    let left = || fs::read_dir(dir.path()).unwrap().count();
    loop_until("it has begun", || (left() > 0).then_some(()));
    thread::sleep(std::time::Duration::from_millis(300));
    let pid = demo.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let ended = demo.wait_with_output().unwrap();
    assert_eq!(status(&ended), Some(130), "{ended:?}");
    assert!(text(&ended.stderr).contains("interrupted"));
    assert_eq!(left(), 0);
}
