//! HTTP: GET of a large file that is here, and of one that comes through the swarm; POST of it;
//! requests a second for a small one, by wrk. Beside nginx, where that is installed.
//!
//! `cargo bench --bench http`, or some of it by name: `cargo bench --bench http -- large small`.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a bench prints, and ends at what fails"
)]

mod common;
#[allow(dead_code)]
#[path = "../tests/flow/node.rs"]
mod node;

use common::{Spread, cpu_seconds, file_bytes, is_smoke, runs, scratch, seconds, warm};
use node::{Node, Response, make_file};
use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

fn main() {
    let words: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let scenes: [(&str, fn(&Path)); 4] =
        [("large", large), ("small", small), ("upload", upload), ("swarm", swarm)];
    for (name, scene) in scenes {
        if words.is_empty() || words.iter().any(|word| word == name) {
            scene(scratch().path());
        }
    }
}

/// GET of a large local file, in turn with nginx.
fn large(dir: &Path) {
    let file = make_file(&dir.join("file"), file_bytes(), 11);
    let a = Node::start(&dir.join("a"), &[]);
    let path = &format!("/ipfs/{}", a.put(&file));
    let nginx = Nginx::start(dir);
    let (mut ours, mut theirs, mut ratios, mut cpu_ratios) = (vec![], vec![], vec![], vec![]);
    let (mut cpu, mut nginx_cpu) = (vec![], vec![]);
    let gib = file_bytes() as f64 / f64::from(1 << 30);
    // Both read from the page cache, and the store is done with the put.
    thread::sleep(Duration::from_secs(if is_smoke() { 0 } else { 3 }));
    assert_eq!(download(&a.http, path), file_bytes());
    warm(&file);
    for _ in 0..runs() {
        let before = cpu_seconds(a.pid());
        let (bytes, time) = seconds(|| download(&a.http, path));
        assert_eq!(bytes, file_bytes());
        let used = (cpu_seconds(a.pid()) - before) / gib;
        cpu.push(used);
        ours.push(bytes as f64 / time / 1e9);
        if let Some(nginx) = &nginx {
            let before = nginx.cpu_seconds();
            let (bytes, nginx_time) = seconds(|| download(&nginx.address, "/file"));
            let nginx_used = (nginx.cpu_seconds() - before) / gib;
            nginx_cpu.push(nginx_used);
            cpu_ratios.push(used / nginx_used.max(0.01));
            theirs.push(bytes as f64 / nginx_time / 1e9);
            ratios.push(nginx_time / time);
        }
    }
    println!("GET of a local file     {} GB/s, CPU {} s a GiB", Spread::of(ours), Spread::of(cpu));
    if !theirs.is_empty() {
        let (theirs, nginx_cpu) = (Spread::of(theirs), Spread::of(nginx_cpu));
        println!("nginx with sendfile     {theirs} GB/s, CPU {nginx_cpu} s a GiB");
        println!("ratio                   {}  (bound 1.0)", Spread::of(ratios));
        println!("ratio of CPU            {}  (bound 1.3)", Spread::of(cpu_ratios));
    }
}

/// Requests a second for 1 KiB: from the gate alone, beside nginx; and by the whole way, which a
/// conditional request goes, beside a tiny_http that does nothing else.
fn small(dir: &Path) {
    let file = make_file(&dir.join("small"), 1_024, 3);
    let a = Node::start(&dir.join("a"), &[]);
    let cid = a.put(&file);
    let nginx = Nginx::start(dir);
    let measured = nginx.and_then(|nginx| {
        let nginx_url = format!("http://{}/small", nginx.address);
        small_files(&format!("http://{}/ipfs/{cid}", a.http), &nginx_url)
    });
    if measured.is_none() {
        println!("1 KiB: not measured, as wrk or nginx is not here");
    }
}

fn small_files(url: &str, nginx_url: &str) -> Option<()> {
    let bare = bare_tiny_http();
    for connections in [1, 16, 128] {
        let (mut by_gate, mut by_way, mut late) = (vec![], vec![], vec![]);
        let (mut rate, mut whole_rate, mut bare_rate) = (vec![], vec![], vec![]);
        for _ in 0..runs().min(3) {
            let gate = wrk(url, connections, None)?;
            let other = wrk(nginx_url, connections, None)?;
            rate.push(gate.0);
            by_gate.push(gate.0 / other.0);
            late.push(gate.1 / other.1);
            let whole = wrk(url, connections, Some("If-None-Match: \"other\""))?;
            whole_rate.push(whole.0);
            let bare = wrk(&bare, connections, None)?;
            bare_rate.push(bare.0);
            by_way.push(whole.0 / bare.0);
        }
        println!(
            "1 KiB, {connections:3} connections  {:.0} requests a second: {} x nginx  (bound 0.6), \
             p99 {} x  (bound 2)",
            Spread::of(rate).median,
            Spread::of(by_gate),
            Spread::of(late)
        );
        println!(
            "       by the whole way {:.0}, bare tiny_http {:.0}: {} x  (bound 0.5)",
            Spread::of(whole_rate).median,
            Spread::of(bare_rate).median,
            Spread::of(by_way)
        );
    }
    Some(())
}

/// Requests a second, and the 99th percentile of their times in milliseconds.
fn wrk(url: &str, connections: usize, header: Option<&str>) -> Option<(f64, f64)> {
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "--latency", if is_smoke() { "-d1s" } else { "-d3s" }]);
    wrk.arg(format!("-c{connections}")).arg(url);
    if let Some(header) = header {
        wrk.args(["-H", header]);
    }
    let text = String::from_utf8(wrk.output().ok()?.stdout).unwrap();
    assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap();
        line.trim().to_owned()
    };
    let late = value("99%");
    let (digits, scale) = [("us", 1e-3), ("ms", 1.0), ("s", 1e3)]
        .iter()
        .find_map(|(unit, scale)| Some((late.strip_suffix(unit)?, scale)))
        .unwrap();
    Some((value("Requests/sec:").parse().unwrap(), digits.parse::<f64>().unwrap() * scale))
}

/// tiny_http with as many threads as a node has, answering with 1 KiB out of memory.
fn bare_tiny_http() -> String {
    let server = std::sync::Arc::new(tiny_http::Server::http("127.0.0.1:0").unwrap());
    let address = server.server_addr();
    let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n".to_vec();
    answer.extend([7; 1_024]);
    for _ in 0..8 {
        let (server, answer) = (server.clone(), answer.clone());
        thread::spawn(move || {
            while let Ok(request) = server.recv() {
                // In one write: two of them wait for an acknowledgement between them.
                let _ = request.into_writer().write_all(&answer);
            }
        });
    }
    format!("http://{address}/")
}

/// POST of the large file, beside `put` of it, each on a node of its own; then one that is cut off.
fn upload(dir: &Path) {
    let file = &make_file(&dir.join("file"), file_bytes(), 11);
    let (mut ratios, mut rates, mut peaks) = (vec![], vec![], vec![]);
    for _ in 0..runs() {
        let start = || Node::start(&dir.join("upload"), &[]);
        let node = start();
        let ((), put) = seconds(|| drop(node.put(file)));
        node.kill();
        fs::remove_dir_all(dir.join("upload")).unwrap();
        let node = start();
        let ((), post) = seconds(|| assert_eq!(send(&node, file, file_bytes()), Some(200)));
        ratios.push(put / post);
        rates.push(file_bytes() as f64 / post / 1e9);
        peaks.push(node.peak_mib() as f64);
        node.kill();
        fs::remove_dir_all(dir.join("upload")).unwrap();
    }
    println!("POST of a file          {} GB/s, peak {} MiB", Spread::of(rates), Spread::of(peaks));
    println!("ratio to put            {}  (bound 0.7)", Spread::of(ratios));

    let node = Node::start(&dir.join("upload"), &[]);
    let used = || node.metric("store_bytes");
    let before = used();
    assert_eq!(send(&node, file, file_bytes() / 2), None);
    node::loop_until("what was begun is gone", || (used() <= before).then_some(()));
    assert!(node.run(&["ls"]).stdout.is_empty());
    println!("cut off in the middle   nothing is left");
}

/// GET of a file that another node has, in turn with a pin of it: each on a node that is new.
fn swarm(dir: &Path) {
    let file = make_file(&dir.join("file"), file_bytes(), 11);
    let a = Node::start(&dir.join("a"), &[]);
    let cid = a.put(&file);
    let (mut rates, mut ratios) = (vec![], vec![]);
    for _ in 0..runs() {
        let fetched = |fetch: &dyn Fn(&Node)| {
            let b = Node::start(&dir.join("b"), &[&a.peer]);
            node::loop_until("B knows A", || (b.metric("peers") == 1).then_some(()));
            let ((), time) = seconds(|| fetch(&b));
            b.kill();
            fs::remove_dir_all(dir.join("b")).unwrap();
            time
        };
        let pin = fetched(&|b| assert!(b.run(&["pin", &cid]).status.success()));
        let get = fetched(&|b| {
            assert_eq!(download(&b.http, &format!("/ipfs/{cid}")), file_bytes());
        });
        rates.push(file_bytes() as f64 / get / 1e9);
        ratios.push(pin / get);
    }
    println!("GET through the swarm   {} GB/s", Spread::of(rates));
    println!("ratio to a pin          {}  (bound 0.75)", Spread::of(ratios));
}

/// Uploads so many of the file's bytes, all being announced; gives the answer's status.
fn send(node: &Node, file: &Path, bytes: u64) -> Option<u16> {
    let mut stream = TcpStream::connect(&node.http).unwrap();
    let length = file_bytes();
    let head = format!(
        "POST /api/codex/v1/data HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n",
        node.http
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut part = fs::File::open(file).unwrap().take(bytes);
    std::io::copy(&mut part, &mut stream).unwrap();
    (bytes == length).then(|| Response::read(stream).unwrap().status)
}

/// Bytes of the body.
fn download(host: &str, path: &str) -> u64 {
    let mut stream = TcpStream::connect(host).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = Response::read(stream).unwrap();
    assert_eq!(response.status, 200);
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        match response.stream.read(&mut buffer).unwrap() {
            0 => return bytes,
            read => bytes += read as u64,
        }
    }
}

/// nginx with sendfile on the directory of the files.
struct Nginx {
    process: Child,
    address: String,
}

impl Nginx {
    fn start(dir: &Path) -> Option<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let root = dir.display();
        let config = format!(
            "daemon off; worker_processes 2; pid {root}/nginx.pid; error_log /dev/null;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 10000000;\n\
             server {{ listen 127.0.0.1:{port}; root {root}; }} }}\n",
        );
        let path = dir.join("nginx.conf");
        fs::write(&path, config).ok()?;
        let process = Command::new("nginx").arg("-p").arg(dir).arg("-c").arg(path).spawn().ok()?;
        let address = format!("127.0.0.1:{port}");
        let since = Instant::now();
        while TcpStream::connect(&address).is_err() {
            if since.elapsed() > Duration::from_secs(5) {
                return None;
            }
            thread::sleep(Duration::from_millis(20));
        }
        Some(Self { process, address })
    }
}

impl Nginx {
    /// Of its workers.
    fn cpu_seconds(&self) -> f64 {
        let id = self.process.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        children.split_whitespace().map(|pid| cpu_seconds(pid.parse().unwrap())).sum()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}
