//! Ambiguous and hostile requests to a real server: none gets a second response, none changes
//! state, none stops the server.

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

use node::Node;
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// What a request must lead to.
#[derive(Clone, Copy, Debug)]
enum Want {
    /// One answer of this status, and the end of the connection.
    Status(u16),
    /// One answer of any 4xx or 505, or none, and the end of the connection.
    Refused,
    /// One answer that is no error of the server's, as the request is odd and sound.
    Once,
}
use Want::{Once, Refused, Status};

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    want: Want,
}

fn case(name: &'static str, bytes: impl Into<Vec<u8>>, want: Want) -> Case {
    Case { name, bytes: bytes.into(), want }
}

/// Stands behind what is ambiguous: if it is answered, or done, something was smuggled.
const SMUGGLED: &str = "POST /api/v1/put?name=smuggled HTTP/1.1\r\nHost: localhost\r\n\
    Content-Length: 1\r\n\r\nx";

/// A write with these header lines and this body, and a second request behind it.
fn post(lines: &str, body: &str) -> String {
    let head = "POST /api/v1/nothing HTTP/1.1\r\nHost: localhost\r\n";
    format!("{head}{lines}\r\n{body}{SMUGGLED}")
}

fn get(target: &str, lines: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n")
}

fn lengths() -> Vec<Case> {
    let length = |value: &str| post(&format!("Content-Length: {value}\r\n"), "");
    let huge = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9223372036854775807\r\n\r\nx"
        )
    };
    vec![
        case("the largest length, to a handler that reads", huge("/api/v1/put"), Refused),
        case("the largest length, to nobody", huge("/x"), Refused),
        case("a length over 64 bits", length("18446744073709551616"), Status(400)),
        case("a length of 40 digits", length(&"9".repeat(40)), Status(400)),
        case("a negative length", length("-1"), Status(400)),
        case("a signed length", length("+5"), Status(400)),
        case("a hexadecimal length", length("0x5"), Status(400)),
        case("a length with a letter", length("4x"), Status(400)),
        case("a length with a space", length("4 2"), Status(400)),
        case("a list of lengths", length("5, 5"), Status(400)),
        case("an empty length", length(""), Status(400)),
        case("a fraction", length("1.0"), Status(400)),
        case("digits of another script", length("\u{0665}"), Status(400)),
        case(
            "two lengths",
            post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"),
            Status(400),
        ),
        case(
            "twice the same length",
            post("Content-Length: 0\r\nContent-Length: 0\r\n", ""),
            Status(400),
        ),
        case(
            "a GET with a body that is a request",
            {
                let body = SMUGGLED.len();
                format!(
                    "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: {body}\r\n\r\n{SMUGGLED}"
                )
            },
            Once,
        ),
    ]
}

fn encodings() -> Vec<Case> {
    let encoding = |lines: &str| post(lines, "0\r\n\r\n");
    let chunked = "Transfer-Encoding: chunked\r\n";
    vec![
        case(
            "length before encoding",
            encoding(&format!("Content-Length: 5\r\n{chunked}")),
            Status(400),
        ),
        case(
            "encoding before length",
            encoding(&format!("{chunked}Content-Length: 5\r\n")),
            Status(400),
        ),
        case("two encodings", encoding(&chunked.repeat(2)), Status(400)),
        case("gzip, chunked", encoding("Transfer-Encoding: gzip, chunked\r\n"), Status(400)),
        case(
            "chunked, identity",
            encoding("Transfer-Encoding: chunked, identity\r\n"),
            Status(400),
        ),
        case("identity", encoding("Transfer-Encoding: identity\r\n"), Status(400)),
        case("xchunked", encoding("Transfer-Encoding: xchunked\r\n"), Status(400)),
        case(
            "chunked with a parameter",
            encoding("Transfer-Encoding: chunked;q=1\r\n"),
            Status(400),
        ),
        case("quoted", encoding("Transfer-Encoding: \"chunked\"\r\n"), Status(400)),
        case("a space before the colon", encoding("Transfer-Encoding : chunked\r\n"), Status(400)),
        case("a folded line", encoding("Transfer-Encoding:\r\n chunked\r\n"), Status(400)),
        case("a vertical tab", encoding("Transfer-Encoding: \x0bchunked\r\n"), Status(400)),
        case("an empty encoding", encoding("Transfer-Encoding: \r\n"), Status(400)),
        case("a name hidden by a space", encoding(" Transfer-Encoding: chunked\r\n"), Status(400)),
        case(
            "chunks in HTTP/1.0",
            format!("POST /x HTTP/1.0\r\n{chunked}\r\n0\r\n\r\n{SMUGGLED}"),
            Status(400),
        ),
    ]
}

fn chunks() -> Vec<Case> {
    // To a handler that reads all of it: what comes of it must not be stored.
    let put = |body: &str| {
        let head =
            "POST /api/v1/put HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
        format!("{head}{body}{SMUGGLED}")
    };
    vec![
        case("a hexadecimal mark", put("0x5\r\nhello\r\n0\r\n\r\n"), Refused),
        case("a negative chunk", put("-5\r\nhello\r\n0\r\n\r\n"), Refused),
        case("a signed chunk", put("+5\r\nhello\r\n0\r\n\r\n"), Refused),
        case("a chunk of 2^64", put("10000000000000000\r\nhello\r\n0\r\n\r\n"), Refused),
        case("a chunk of 2^64 - 1", put("ffffffffffffffff\r\nhello"), Refused),
        case("a size of many zeros", put("000000000000000000005\r\nhello\r\n0\r\n\r\n"), Refused),
        case("an empty size", put("\r\nhello\r\n0\r\n\r\n"), Refused),
        case("a size with a space", put("5 \r\nhello\r\n0\r\n\r\n"), Refused),
        case("an extension", put("5;a=b\r\nhello\r\n0\r\n\r\n"), Refused),
        case("a bare line feed behind the size", put("5\nhello\r\n0\r\n\r\n"), Refused),
        case("a bare line feed behind the data", put("5\r\nhello\n0\r\n\r\n"), Refused),
        case("too much data", put("5\r\nhello!\r\n0\r\n\r\n"), Refused),
        case("trailers", put("5\r\nhello\r\n0\r\nX: y\r\n\r\n"), Refused),
        case("a trailer that is a header", put("5\r\nhello\r\n0\r\nHost: evil\r\n\r\n"), Refused),
    ]
}

fn heads() -> Vec<Case> {
    let line = |line: &str| get("/healthz", line) + SMUGGLED;
    let first = |first: &str| format!("{first}\r\nHost: localhost\r\n\r\n{SMUGGLED}");
    vec![
        case(
            "a header line of 64 MiB",
            get("/", &format!("X: {}\r\n", "a".repeat(64 << 20))),
            Refused,
        ),
        case("a target of 8 MiB", get(&format!("/{}", "a".repeat(8 << 20)), ""), Refused),
        case("100,000 headers", get("/", &"A: b\r\n".repeat(100_000)), Refused),
        case("101 headers", get("/", &"A: b\r\n".repeat(101)), Status(431)),
        case("a NUL in a value", line("X: a\0b\r\n"), Status(400)),
        case("a NUL in a name", line("X\0: a\r\n"), Status(400)),
        case("a NUL in the target", first("GET /heal\0thz HTTP/1.1"), Status(400)),
        case("a control character", line("X: a\x07\r\n"), Status(400)),
        case("DEL", line("X: a\x7f\r\n"), Status(400)),
        case("a bare carriage return", line("X: a\rY: b\r\n"), Status(400)),
        case("a bare line feed", line("X: a\nY: b\r\n"), Status(400)),
        case("a name with a bracket", line("X(: a\r\n"), Status(400)),
        case("no name", line(": a\r\n"), Status(400)),
        case("no colon", line("hello\r\n"), Status(400)),
        case(
            "not UTF-8",
            [line("X: ").trim_end().as_bytes(), b"\xff\xfe\r\n\r\n"].concat(),
            Refused,
        ),
        case("the absolute form", first("GET http://localhost/healthz HTTP/1.1"), Status(400)),
        case(
            "the absolute form of another",
            first("GET http://evil.example/ HTTP/1.1"),
            Status(400),
        ),
        case("the authority form", first("CONNECT localhost:80 HTTP/1.1"), Status(400)),
        case("an asterisk", first("GET * HTTP/1.1"), Status(400)),
        case("a relative target", first("GET healthz HTTP/1.1"), Status(400)),
        case("a space in the target", first("GET /a b HTTP/1.1"), Refused),
        case("two spaces", first("GET  / HTTP/1.1"), Status(400)),
        case("a tab for a space", first("GET\t/\tHTTP/1.1"), Status(400)),
        case("a small method", first("get /healthz HTTP/1.1"), Status(400)),
        case("a method with a mark", first("GE\"T /healthz HTTP/1.1"), Status(400)),
        case("HTTP/0.9", "GET /healthz\r\n", Refused),
        case("HTTP/1.2", first("GET / HTTP/1.2"), Refused),
        case("HTTP/1.10", first("GET / HTTP/1.10"), Refused),
        case("http/1.1", first("GET / http/1.1"), Refused),
        case("HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refused),
        case("a TLS hello", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".repeat(8), Refused),
        case("nothing but line ends", "\r\n".repeat(50_000), Refused),
        case("zeros", vec![0; 100_000], Refused),
        case("an unknown expectation", line("Expect: 200-ok\r\n"), Status(417)),
        case(
            "an upgrade",
            get("/healthz", "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"),
            Once,
        ),
    ]
}

fn hosts() -> Vec<Case> {
    let host = |lines: &str| {
        format!("POST /api/v1/gc HTTP/1.1\r\n{lines}Connection: close\r\nContent-Length: 0\r\n\r\n")
    };
    let origin = |origin: &str| host(&format!("Host: localhost\r\nOrigin: {origin}\r\n"));
    vec![
        case("no Host", host(""), Status(400)),
        case("two Hosts", host("Host: localhost\r\nHost: evil.example\r\n"), Status(400)),
        case("an empty Host", host("Host: \r\n"), Status(403)),
        case("a foreign Host", host("Host: evil.example\r\n"), Status(403)),
        case("a rebound name with our port", host("Host: rebound.example:4781\r\n"), Status(403)),
        case("a Host that begins as ours", host("Host: localhost.evil.example\r\n"), Status(403)),
        case("a Host that ends as ours", host("Host: evil-localhost\r\n"), Status(403)),
        case("a Host with a user", host("Host: localhost@evil.example\r\n"), Status(403)),
        case("a Host with a path", host("Host: evil.example/localhost\r\n"), Status(403)),
        case("the address as a number", host("Host: 2130706433\r\n"), Status(403)),
        case("the address in hexadecimal", host("Host: 0x7f.1\r\n"), Status(403)),
        // A forwarded port is another one; what a page may do is up to its Origin.
        case("another port", host("Host: localhost:1\r\n"), Status(200)),
        case("a port with a letter", host("Host: localhost:80x\r\n"), Status(403)),
        case("two ports", host("Host: localhost:80:80\r\n"), Status(403)),
        case("a foreign Origin", origin("http://evil.example"), Status(403)),
        case("the Origin null", origin("null"), Status(403)),
        case("an Origin that begins as ours", origin("http://localhost.evil.example"), Status(403)),
        case("an Origin of another port", origin("http://localhost:1"), Status(403)),
        case("an Origin of a file", origin("file://"), Status(403)),
        case(
            "a preflight",
            "OPTIONS /api/v1/gc HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n\r\n",
            Status(403),
        ),
    ]
}

fn targets() -> Vec<Case> {
    let cid = "bafkqabtimvwgy3yk";
    vec![
        case("dots", get("/ipfs/../../../../etc/passwd", ""), Status(400)),
        case("escaped dots", get(&format!("/ipfs/{cid}/%2e%2e%2f%2e%2e%2fetc"), ""), Status(404)),
        case("an escaped NUL", get(&format!("/ipfs/{cid}/%00"), ""), Status(404)),
        case("half an escape", get(&format!("/ipfs/{cid}/%2"), ""), Status(400)),
        case("an escape of no UTF-8", get(&format!("/ipfs/{cid}/%ff"), ""), Status(400)),
        case("8,000 slashes", get(&format!("/ipfs/{cid}{}", "/a".repeat(8_000)), ""), Refused),
        case(
            "a CID of 10,000 letters",
            get(&format!("/ipfs/b{}", "a".repeat(10_000)), ""),
            Status(400),
        ),
        case("an unknown path", get("/..%2fapi/v1/gc", ""), Status(404)),
        case(
            "line ends in a file name",
            get(
                &format!("/ipfs/{cid}?filename=a%0d%0aSet-Cookie:%20b%0d%0a%0d%0aHTTP/1.1%20200"),
                "",
            ),
            Once,
        ),
        case(
            "the gate's own header",
            get(&format!("/ipfs/{cid}"), &format!("X-Barrow-Ticket: {:032x}\r\n", 3)),
            Once,
        ),
        case("a target that is not ASCII", get("/ipfs/\u{e9}", ""), Status(400)),
        case("a header that is not ASCII", get("/healthz", "X: \u{e9}\r\n"), Status(400)),
        case(
            "a range over 64 bits",
            get(&format!("/ipfs/{cid}"), "Range: bytes=0-99999999999999999999\r\n"),
            Once,
        ),
        case(
            "many ranges",
            get(&format!("/ipfs/{cid}"), &format!("Range: bytes={}\r\n", "0-,".repeat(4_000))),
            Once,
        ),
        case(
            "an unknown method",
            "BREW /ipfs/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            Status(405),
        ),
    ]
}

/// Sends all of it, whatever comes meanwhile, and gives all that comes. Where the server waits for
/// more, it learns after a second that there is none.
fn exchange(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let mut got = Vec::new();
    let (ended, end) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            // The server may close before it has read all.
            let _ = writer.write_all(bytes);
            let _ = end.recv_timeout(Duration::from_secs(1));
            let _ = writer.shutdown(Shutdown::Write);
        });
        let _ = stream.read_to_end(&mut got);
        drop(ended);
    });
    got
}

/// Where answers begin.
fn answers(text: &str) -> Vec<&str> {
    let status = |at: usize| text.get(at + 9..at + 12).unwrap_or_default();
    let starts = text.match_indices("HTTP/1.1 ").map(|(at, _)| status(at));
    starts.filter(|status| status.bytes().all(|byte| byte.is_ascii_digit())).collect()
}

/// What is wrong with an answer.
fn judge(case: &Case, got: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(got);
    let statuses = answers(&text);
    let answers = statuses.len();
    let status: u16 = statuses.first().map_or(0, |digits| digits.parse().unwrap());
    let fits = match case.want {
        Status(wanted) => answers == 1 && status == wanted,
        Refused => {
            answers == 0 || (answers == 1 && ((400..500).contains(&status) || status == 505))
        }
        Once => answers == 1 && (200..500).contains(&status),
    };
    let head = text.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
    let leaks = head.contains("x-barrow") || head.contains("\r\nset-cookie");
    let end: String = text.chars().take(300).collect();
    (!fits || leaks)
        .then(|| format!("{}: {:?} wanted, {answers} answers: {end}", case.name, case.want))
}

/// What a request that is refused must not change.
fn state(node: &Node) -> (String, u64) {
    let datasets = String::from_utf8(node.get("/api/v1/datasets").body).unwrap();
    (datasets, node.metric("store_blocks"))
}

#[test]
fn no_hostile_request_is_answered_twice_or_changes_or_stops_anything() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&dir.path().join("node"), &[]);
    let file = dir.path().join("file");
    fs::write(&file, "hello world").unwrap();
    let cid = node.put(&file);
    let before = state(&node);
    let cases: Vec<Case> = [lengths(), encodings(), chunks(), heads(), hosts(), targets()]
        .into_iter()
        .flatten()
        .collect();
    eprintln!("{} requests", cases.len());
    assert!(cases.len() >= 60);
    let mut wrong = Vec::new();
    for case in &cases {
        let since = Instant::now();
        let got = exchange(&node.http, &case.bytes);
        wrong.extend(judge(case, &got));
        if since.elapsed() > Duration::from_secs(5) {
            wrong.push(format!("{}: the end came after {:?}", case.name, since.elapsed()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(state(&node), before);
    assert_eq!(node.get(&format!("/ipfs/{cid}")).body, b"hello world");
    assert!(node.peak_mib() <= 64, "{} MiB", node.peak_mib());
}

#[test]
fn a_flood_of_pipelined_requests_is_answered_in_order_in_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&dir.path().join("node"), &[]);
    let get = |host: &str| format!("GET /ipfs/bafkqabtimvwgy3yk HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let last = "GET /ipfs/nonsense HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let before = node.peak_mib();
    // Those that are answered at once, and those that the gate refuses in its own words.
    for (host, count, status) in [("localhost", 5_000, "200"), ("evil.example", 100_000, "403")] {
        let got = exchange(&node.http, (get(host).repeat(count) + last).as_bytes());
        let text = String::from_utf8(got).unwrap();
        let statuses = answers(&text);
        assert_eq!((statuses.len(), statuses.last()), (count + 1, Some(&"400")), "{host}");
        assert!(statuses[..count].iter().all(|own| *own == status), "{host}");
    }
    assert!(node.peak_mib() < before + 16, "{} MiB", node.peak_mib());
    assert_eq!(node.get("/healthz").status, 200);
}

#[test]
fn whoever_sends_no_more_still_gets_what_the_gate_says_to_all_that_was_sent() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&dir.path().join("node"), &[]);
    let mut stream = TcpStream::connect(&node.http).unwrap();
    let requests = "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n".repeat(200);
    stream.write_all(requests.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut got = String::new();
    stream.read_to_string(&mut got).unwrap();
    assert_eq!(answers(&got), ["403"; 200]);
}

#[test]
fn names_with_line_ends_and_marks_come_back_as_one_safe_header() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&dir.path().join("node"), &[]);
    let name = "a%0d%0aSet-Cookie:%20x=1%0d%0a%22%5c%2f..%2f%e2%80%ae%00";
    let put = |media_type: &str| {
        let request = format!(
            "POST /api/v1/put?name={name} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: {media_type}\r\nContent-Length: 5\r\n\r\nhello"
        );
        String::from_utf8(exchange(&node.http, request.as_bytes())).unwrap()
    };
    // A type that is not one well-formed type is refused, and never sent back.
    assert!(put("text/html\x09; x").starts_with("HTTP/1.1 422"));
    let got = put("text/html");
    let json: serde_json::Value =
        serde_json::from_str(got.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let shown = node.get(&format!("/ipfs/{}", json["cid"].as_str().unwrap()));
    assert_eq!((shown.status, &shown.body[..]), (200, &b"hello"[..]));
    assert!(shown.header("set-cookie").is_none(), "{:?}", shown.headers);
    let disposition = shown.header("content-disposition").unwrap();
    assert!(disposition.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{disposition}");
    assert!(!node.log().contains("Set-Cookie"), "no line of the log is forged");
}
