//! What is answered to each kind of request, row by row: the gateway's (docs/GATEWAY.md) and the
//! REST's (docs/openapi.yaml, docs/openapi-node.yaml). What needs peers or load is tried in `flow` and `http_load`.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test reports by a panic"
)]

#[path = "flow/node.rs"]
#[allow(dead_code)]
mod node;

use node::{Node, Response, loop_until, make_file};
use serde_json::Value;
use std::{
    fs, io::Write as _, net::TcpStream, os::unix::fs::MetadataExt as _, path::Path,
    process::Command,
};

const MISSING: &str = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
const RAW: &str = "application/vnd.ipld.raw";
const IMMUTABLE: (&str, &str) = ("cache-control", "immutable");
const CAR: &str = "application/vnd.ipld.car";

/// A request, the status, and what the headers named hold (`!`: they do not).
struct Row<'a> {
    request: &'a str,
    headers: &'a [(&'a str, &'a str)],
    status: u16,
    want: &'a [(&'a str, &'a str)],
}

const fn row<'a>(
    request: &'a str,
    headers: &'a [(&'a str, &'a str)],
    status: u16,
    want: &'a [(&'a str, &'a str)],
) -> Row<'a> {
    Row { request, headers, status, want }
}

/// Asks for each row, `{}` being the CID, and tells all that differ at once.
fn check(node: &Node, cid: &str, rows: &[Row<'_>]) {
    let mut faults = Vec::new();
    for row in rows {
        let request = row.request.replace("{}", cid);
        let (method, path) = request.split_once(' ').unwrap();
        let headers: Vec<(&str, String)> =
            row.headers.iter().map(|(name, value)| (*name, value.replace("{}", cid))).collect();
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, &value[..])).collect();
        let answer = node.request(method, path, &headers);
        let about = format!("{request} {:?}: {} {:?}", row.headers, answer.status, answer.headers);
        if answer.status != row.status {
            faults.push(format!("not {}: {about}", row.status));
        }
        for (name, value) in row.want {
            let (value, wanted) = match value.strip_prefix('!') {
                Some(value) => (value, false),
                None => (*value, true),
            };
            let has =
                answer.header(name).is_some_and(|own| own.contains(&value.replace("{}", cid)));
            if has != wanted {
                faults.push(format!("{name} and {value:?}: {about}"));
            }
        }
        if method == "HEAD" && !answer.body.is_empty() {
            faults.push(format!("a body: {about}"));
        }
        let head: usize =
            answer.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        if head > 2_048 {
            faults.push(format!("{head} bytes of head: {about}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Of a file of 20 bytes that is one block.
const FILE_ROWS: &[Row<'static>] = &[
    row(
        "GET /ipfs/{}?format=raw",
        &[],
        200,
        &[
            ("content-type", RAW),
            ("content-length", "20"),
            ("accept-ranges", "bytes"),
            ("content-disposition", "attachment; filename=\"{}.bin\""),
            ("etag", "\"{}.raw\""),
            ("x-content-type-options", "nosniff"),
            ("x-ipfs-path", "/ipfs/{}"),
            ("x-ipfs-roots", "{}"),
            ("access-control-allow-origin", "*"),
            IMMUTABLE,
        ],
    ),
    row("GET /ipfs/{}", &[("Accept", RAW)], 200, &[("content-location", "format=raw")]),
    row("HEAD /ipfs/{}?format=raw", &[], 200, &[("content-length", "20"), ("etag", "{}.raw")]),
    row(
        "GET /ipfs/{}?format=raw&filename=foo.bin",
        &[],
        200,
        &[("content-disposition", "foo.bin")],
    ),
    row("GET /ipfs/{}?format=raw", &[("If-None-Match", "\"x\", W/\"{}.raw\"")], 304, &[]),
    row(
        "GET /ipfs/{}?format=raw",
        &[("If-None-Match", "*")],
        304,
        &[("etag", "{}.raw"), IMMUTABLE],
    ),
    row("GET /ipfs/{}", &[("Range", "bytes=6-16")], 206, &[("content-range", "bytes 6-16/20")]),
    row("GET /ipfs/{}", &[("Range", "bytes=-3")], 206, &[("content-range", "bytes 17-19/20")]),
    row("GET /ipfs/{}", &[("Range", "bytes=0-1,4-5")], 206, &[("content-range", "bytes 0-1/20")]),
    row("GET /ipfs/{}", &[("Range", "bytes=20-")], 416, &[("content-range", "bytes */20")]),
    row("GET /ipfs/{}", &[("Cache-Control", "only-if-cached")], 200, &[]),
    row("GET /ipfs/bafkqaaa?format=raw", &[], 200, &[("content-length", "0")]),
    row("HEAD /ipfs/bafkqaaa?format=raw", &[], 200, &[("content-length", "0")]),
    row("GET /ipfs/bafkqaaa?format=car", &[], 200, &[("content-type", CAR)]),
    row("GET /ipfs/nonsense", &[], 400, &[("cache-control", "!immutable")]),
    row(
        "GET /ipfs/{}?filename=x.txt",
        &[],
        200,
        &[("content-type", "text/plain"), ("etag", "\"{}\"")],
    ),
    row(
        "GET /ipfs/{}?format=car",
        &[("Accept", RAW)],
        200,
        &[
            ("content-type", "application/vnd.ipld.car; version=1; order=dfs; dups=n"),
            ("etag", "W/\"{}.car."),
            ("accept-ranges", "none"),
            ("content-disposition", "{}.car"),
        ],
    ),
    row("GET /ipfs/{}?format=car&car-dups=y", &[], 200, &[("content-type", "dups=y")]),
    row("GET /ipfs/{}?format=car&dag-scope=some", &[], 400, &[]),
    row("GET /ipfs/{}?format=car&car-order=odd", &[], 400, &[]),
    row("GET /ipfs/{}?format=car&car-version=9", &[], 400, &[]),
    row("GET /ipfs/{}?format=dag-json", &[], 406, &[]),
    row(
        "OPTIONS /ipfs/{}",
        &[],
        204,
        &[
            ("access-control-allow-origin", "*"),
            ("access-control-allow-methods", "GET, HEAD, OPTIONS"),
            ("access-control-allow-headers", "Range"),
            ("access-control-expose-headers", "X-Ipfs-Roots"),
        ],
    ),
    row("POST /ipfs/{}", &[], 405, &[("allow", "GET, HEAD, OPTIONS")]),
    row("PUT /ipfs/{}", &[], 405, &[("allow", "GET, HEAD, OPTIONS")]),
    row("DELETE /ipfs/{}", &[], 405, &[("allow", "GET, HEAD, OPTIONS")]),
    row("GET /ipfs/{}", &[("Service-Worker", "script")], 400, &[]),
];

/// Of a directory with that file, and one with an index.
const DIRECTORY_ROWS: &[Row<'static>] = &[
    row("GET /ipfs/{}?format=car&dag-scope=block", &[], 200, &[("content-type", CAR)]),
    row("GET /ipfs/{}/hello.txt?format=car&dag-scope=entity&entity-bytes=0:*", &[], 200, &[]),
    row("GET /ipfs/{}/none.txt?format=car", &[], 404, &[("cache-control", "!immutable")]),
    row("GET /ipfs/{}/none.txt", &[], 404, &[("cache-control", "!immutable")]),
    row("GET /ipfs/{}/site", &[], 301, &[("location", "/ipfs/{}/site/")]),
    row("GET /ipfs/{}/site/", &[], 200, &[("content-type", "text/html")]),
    row("GET /ipfs/{}/", &[], 200, &[("content-type", "text/html")]),
    row("GET /ipfs/{}/hello.txt?format=tar", &[], 406, &[]),
];

/// Of what is nowhere.
const MISSING_ROWS: &[Row<'static>] = &[
    row("GET /ipfs/{}", &[("Cache-Control", "only-if-cached")], 412, &[]),
    row("GET /ipfs/{}?format=raw", &[], 404, &[("cache-control", "!immutable")]),
    row("GET /routing/v1/providers/{}", &[], 200, &[("content-type", "application/json")]),
    row("GET /routing/v1/providers/nonsense", &[], 422, &[]),
];

#[test]
fn every_row_of_the_gateway_is_answered_as_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("site")).unwrap();
    fs::write(tree.join("hello.txt"), "hello gateway, hello").unwrap();
    fs::write(tree.join("site/index.html"), "<!doctype html>index").unwrap();
    let a = Node::start(&dir.path().join("a"), &[]);
    let file = a.put(&tree.join("hello.txt"));
    let root = a.put(&tree);
    check(&a, &file, FILE_ROWS);
    check(&a, &root, DIRECTORY_ROWS);
    check(&a, MISSING, MISSING_ROWS);
}

#[test]
fn every_row_of_the_rest_is_answered_as_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.txt");
    fs::write(&path, "hello rest").unwrap();
    let a = Node::start(&dir.path().join("a"), &[]);
    let cid = a.put(&path);
    let json = ("content-type", "application/json");
    for rest in ["/api/codex/v1", "/api/storage/v1"] {
        let rows = [
            ("GET", "/data", 200, json),
            ("GET", "/data/{}", 200, ("x-content-type-options", "nosniff")),
            ("GET", "/data/nonsense", 400, json),
            ("GET", "/data/MISSING", 404, json),
            ("DELETE", "/data/nonsense", 400, json),
            ("POST", "/data/nonsense/network", 400, json),
            ("POST", "/data/MISSING/network", 404, json),
            ("GET", "/data/{}/network/stream", 200, ("content-disposition", "attachment")),
            ("GET", "/data/nonsense/network/stream", 400, json),
            ("GET", "/data/MISSING/network/stream", 404, json),
            ("GET", "/data/{}/network/manifest", 200, json),
            ("GET", "/data/MISSING/network/manifest", 404, json),
            ("GET", "/data/{}/network/progress/none", 404, json),
            ("GET", "/data/{}/exists", 200, json),
            ("GET", "/data/nonsense/exists", 400, json),
            ("GET", "/space", 200, json),
            ("GET", "/connect/nobody", 400, json),
            ("GET", "/debug/info", 200, json),
            ("POST", "/debug/chronicles/loglevel?level=INFO", 200, ("connection", "close")),
            ("POST", "/debug/chronicles/loglevel?level=LOUDER", 400, json),
            ("PUT", "/data", 405, ("allow", "POST")),
        ];
        for (method, path, status, want) in rows {
            let request = format!("{method} {rest}{}", path.replace("MISSING", MISSING));
            check(&a, &cid, &[row(&request, &[], status, &[want])]);
        }
        let body = |path: &str, accept: &str| {
            let answer = a.request("GET", &format!("{rest}{path}"), &[("Accept", accept)]);
            String::from_utf8(answer.body).unwrap()
        };
        let keys = |path: &str, names: &[&str]| {
            let value: serde_json::Value =
                serde_json::from_str(&body(path, "application/json")).unwrap();
            for name in names {
                assert!(value.get(name).is_some(), "{path}: no {name} in {value}");
            }
        };
        keys("/data", &["content"]);
        keys("/space", &["totalBlocks", "quotaMaxBytes", "quotaUsedBytes", "quotaReservedBytes"]);
        keys("/debug/info", &["id", "addrs", "repo", "spr", "announceAddresses", "table", "codex"]);
        keys(&format!("/data/{cid}/exists"), &["has", &cid]);
        keys(&format!("/data/{MISSING}/exists"), &["has", MISSING]);
        keys("/spr", &["spr"]);
        keys("/peerid", &["id"]);
        assert!(!body("/peerid", "text/plain").starts_with('{'));
    }
    let deleted = a.request("DELETE", &format!("/api/codex/v1/data/{cid}"), &[]);
    assert_eq!(deleted.status, 204);
    assert_eq!(a.get(&format!("/api/codex/v1/data/{cid}")).status, 404);
}

#[test]
fn every_path_of_the_own_api_says_what_it_takes_and_refuses_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let a = Node::start(&dir.path().join("a"), &[]);
    let json = ("content-type", "application/json");
    let rows = [
        ("GET /node", 200, json),
        ("HEAD /node", 200, json),
        ("GET /datasets?standing=true", 200, json),
        ("GET /datasets?standing=maybe", 422, json),
        ("POST /verify?repair=maybe", 422, json),
        ("POST /pins/MISSING?for=soon", 422, json),
        ("POST /pins/MISSING?slot=3/2", 422, json),
        ("POST /spread/MISSING?to=nobody", 422, json),
        ("POST /protect/MISSING?data=4", 422, json),
        ("POST /put?profile=none", 422, json),
        ("POST /peers", 400, json),
        ("POST /ledger", 400, json),
        ("GET /datasets/nonsense", 400, json),
        ("GET /datasets/MISSING", 404, json),
        ("DELETE /pins/MISSING", 404, json),
        ("GET /losses/MISSING", 404, json),
        ("DELETE /transfers/1", 404, json),
        ("GET /pins/", 404, json),
        ("GET /nothing", 404, json),
        ("DELETE /datasets", 405, ("allow", "GET, HEAD")),
        ("DELETE /transfers", 405, ("allow", "GET, HEAD")),
        ("POST /datasets/MISSING", 405, ("allow", "GET, HEAD, DELETE")),
        ("PUT /put", 405, ("allow", "POST")),
        ("GET /pins/MISSING", 405, ("allow", "POST, DELETE")),
    ];
    for (request, status, want) in rows {
        let request = request.replace("MISSING", MISSING).replacen(' ', " /api/v1", 1);
        check(&a, MISSING, &[row(&request, &[], status, &[want])]);
    }
}

/// The JSON of an answer that says so.
fn json(answer: &Response) -> Value {
    assert_eq!(answer.header("content-type"), Some("application/json"), "{}", answer.status);
    serde_json::from_slice(&answer.body).unwrap()
}

#[test]
fn an_upload_that_is_not_sound_is_422_and_one_over_the_quota_507_and_neither_leaves_anything() {
    let dir = tempfile::tempdir().unwrap();
    let a = Node::start_with(&dir.path().join("a"), &[], &["--quota", "8MiB"]);
    let upload = |target: &str, headers: &str, body: &[u8]| {
        let head = format!("POST {target} HTTP/1.1\r\nHost: {}\r\n{headers}", a.http);
        let head = format!("{head}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let mut answer = a.send(&[head.as_bytes(), body].concat());
        answer.read_body().unwrap();
        answer
    };
    let large: Vec<u8> = (0..9_u32 << 18).flat_map(u32::to_le_bytes).collect();
    for rest in ["/api/codex/v1", "/api/storage/v1"] {
        let data = format!("{rest}/data");
        for (query, headers) in [
            ("", "Content-Disposition: attachment; filename=\"../x\"\r\n"),
            ("", "Content-Disposition: attachment\r\n"),
            ("", "Content-Type: nonsense\r\n"),
            ("?blockSize=5", ""),
            ("?blockSize=many", ""),
        ] {
            let answer = upload(&format!("{data}{query}"), headers, b"hello");
            assert_eq!(answer.status, 422, "{query} {headers}");
            assert_eq!(json(&answer)["error"]["code"], "unprocessable", "{query} {headers}");
        }
        let over = upload(&data, "", &large);
        assert_eq!(over.status, 507);
        assert_eq!(json(&over)["error"]["code"], "over_quota");
        assert_eq!(json(&a.get(&data))["content"], serde_json::json!([]));
        // And what fits is taken, in blocks of the size that was asked for.
        let headers = "Content-Disposition: attachment; filename=\"a b.txt\"\r\n\
            Content-Type: text/plain\r\n";
        let answer = upload(&format!("{data}?blockSize=262144"), headers, &large[..1 << 20]);
        assert_eq!(answer.status, 200);
        let cid = String::from_utf8(answer.body).unwrap();
        let manifest = &json(&a.get(&format!("{data}/{cid}/network/manifest")))["manifest"];
        assert_eq!(manifest["blockSize"], 262_144);
        assert_eq!(manifest["datasetSize"], 1 << 20);
        assert_eq!(manifest["filename"], "a b.txt");
        assert_eq!(manifest["mimetype"], "text/plain");
        assert_eq!(a.request("DELETE", &format!("{data}/{cid}"), &[]).status, 204);
        // The store did this after it had given up the one over the quota.
        loop_until("nothing is left", || (a.metric("store_blocks") == 0).then_some(()));
    }
}

#[test]
fn a_fetch_is_a_job_with_progress_and_one_too_many_is_409() {
    let dir = tempfile::tempdir().unwrap();
    let a = Node::start(&dir.path().join("a"), &[]);
    let b = Node::start(&dir.path().join("b"), &[&a.peer]);
    let data = "/api/storage/v1/data";
    let cids: Vec<String> = (0..17)
        .map(|n| a.put(&make_file(&dir.path().join(format!("{n}")), 2 << 20, n + 1)))
        .collect();
    for cid in &cids {
        loop_until("the root is here", || {
            (b.get(&format!("{data}/{cid}/network/manifest")).status == 200).then_some(())
        });
    }
    let signal = |name: &str| {
        let pid = a.pid().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    // Nothing comes, and the downloads wait.
    signal("-STOP");
    let fetch = |cid: &String| b.request("POST", &format!("{data}/{cid}/network"), &[]);
    let mut ids = Vec::new();
    for cid in &cids[..16] {
        let answer = fetch(cid);
        assert_eq!(answer.status, 200);
        let item = json(&answer);
        assert_eq!(
            (item["cid"].as_str(), &item["manifest"]["datasetSize"]),
            (Some(&cid[..]), &(2 << 20).into())
        );
        ids.push(item["downloadId"].as_u64().unwrap());
    }
    let refused = fetch(&cids[16]);
    signal("-CONT");
    assert_eq!(refused.status, 409);
    assert_eq!(json(&refused)["error"]["code"], "busy");
    for (cid, id) in cids.iter().zip(&ids) {
        let path = format!("{data}/{cid}/network/progress/{id}");
        let last = loop_until("it is fetched", || {
            let progress = json(&b.get(&path));
            assert!(progress["received"].as_u64() <= progress["total"].as_u64(), "{progress}");
            (progress["active"] == false).then_some(progress)
        });
        // Two leaves came; the root was here before.
        assert_eq!((&last["total"], &last["bytes"]), (&last["received"], &(2 << 20).into()));
        assert_eq!(json(&b.get(&format!("{data}/{cid}/exists")))["has"], true);
        let id_of_none = format!("{data}/{cid}/network/progress/{}", u64::MAX);
        assert_eq!(b.get(&id_of_none).status, 404);
    }
    // A download is that of its dataset alone.
    let of_another = format!("{data}/{}/network/{}", cids[1], ids[0]);
    assert_eq!(b.request("DELETE", &of_another, &[]).status, 404);
    let own = format!("{data}/{}/network/{}", cids[0], ids[0]);
    assert_eq!(b.request("DELETE", &own, &[]).status, 204);
    // There is room again.
    assert_eq!(fetch(&cids[16]).status, 200);
}

/// Bytes that the files of a directory take on the disk.
fn disk_bytes(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().metadata());
    // A file may go while it is looked at.
    files.flatten().map(|file| file.blocks() * 512).sum()
}

#[test]
fn an_upload_that_is_cut_off_leaves_nothing_and_gives_its_space_back() {
    const ANNOUNCED: usize = 48 << 20;
    let dir = tempfile::tempdir().unwrap();
    let a = Node::start(&dir.path().join("a"), &[]);
    let (packs, host) = (a.dir.join("packs"), &a.http);
    let kept = dir.path().join("kept");
    fs::write(&kept, "what was here before").unwrap();
    a.put(&kept);
    let before = (a.metric("store_blocks"), a.metric("store_bytes"));
    let disk_before = disk_bytes(&packs);
    // No block is like another.
    let words = (0_u64..).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    let body: Vec<u8> = words.take(ANNOUNCED).collect();

    for (target, cut) in [
        ("/api/codex/v1/data", 1),
        ("/api/codex/v1/data", (1 << 20) + 1),
        ("/api/storage/v1/data", 10 << 20),
        ("/api/codex/v1/data", ANNOUNCED / 2),
        ("/api/codex/v1/data", ANNOUNCED - 1),
        ("/api/v1/put", ANNOUNCED / 3),
        ("/api/v1/put?data=4&parity=2", ANNOUNCED / 2 + 77),
    ] {
        let mut stream = TcpStream::connect(host).unwrap();
        let head = format!("POST {target} HTTP/1.1\r\nHost: {host}\r\n");
        write!(stream, "{head}Content-Length: {ANNOUNCED}\r\n\r\n").unwrap();
        stream.write_all(&body[..cut]).unwrap();
        if cut >= 10 << 20 {
            let begun = || (a.metric("store_blocks") > before.0).then_some(());
            loop_until("some of it is stored", begun);
        }
        drop(stream);
        loop_until("what was begun is gone", || {
            let now = (a.metric("store_blocks"), a.metric("store_bytes"));
            (now == before && disk_bytes(&packs) < disk_before + (2 << 20)).then_some(())
        });
    }
    let listed = a.run(&["ls"]).stdout;
    assert_eq!(String::from_utf8(listed).unwrap().lines().count(), 1);
    // And after a kill as well: the records say so, not the memory.
    let (home, stored) = (a.dir.clone(), before);
    a.kill();
    let a = Node::start(&home, &[]);
    assert_eq!((a.metric("store_blocks"), a.metric("store_bytes")), stored);
}
