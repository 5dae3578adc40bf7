//! HTTP: GET of a large file that is here, and of one that comes through the swarm; requests a
//! second for a small one. Beside nginx, where that is installed.
//!
//! `cargo bench --bench http`

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

use common::{Spread, cpu_seconds, file_bytes, is_smoke, runs, scratch, seconds};
use node::{Node, Response, make_file};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

fn main() {
    let dir = scratch();
    let file = make_file(&dir.path().join("file"), file_bytes(), 11);
    let small = make_file(&dir.path().join("small"), 1_024, 3);
    let a = Node::start(&dir.path().join("a"), &[]);
    let (cid, small_cid) = (a.put(&file), a.put(&small));
    let nginx = Nginx::start(dir.path());
    let barrow = (a.http.clone(), format!("/ipfs/{cid}"));

    let (mut ours, mut theirs, mut ratios, mut cpu) = (vec![], vec![], vec![], vec![]);
    for _ in 0..runs() {
        let before = cpu_seconds(a.pid());
        let (bytes, time) = seconds(|| download(&barrow.0, &barrow.1));
        assert_eq!(bytes, file_bytes());
        cpu.push((cpu_seconds(a.pid()) - before) / (bytes as f64 / (1 << 30) as f64));
        ours.push(bytes as f64 / time / 1e9);
        if let Some(nginx) = &nginx {
            let (bytes, nginx_time) = seconds(|| download(&nginx.address, "/file"));
            theirs.push(bytes as f64 / nginx_time / 1e9);
            ratios.push(nginx_time / time);
        }
    }
    println!("GET of a local file     {} GB/s, CPU {} s a GiB", Spread::of(ours), Spread::of(cpu));
    if !theirs.is_empty() {
        println!("nginx with sendfile     {} GB/s", Spread::of(theirs));
        println!("ratio                   {}  (bound 1.0)", Spread::of(ratios));
    }

    for connections in [1, 16, 128] {
        let path = format!("/ipfs/{small_cid}");
        let ours = requests_a_second(&a.http, &path, connections);
        print!("1 KiB, {connections:3} connections    {ours:.0} requests a second");
        match &nginx {
            Some(nginx) => {
                let theirs = requests_a_second(&nginx.address, "/small", connections);
                println!(", nginx {theirs:.0}, ratio {:.2}  (bound 0.6)", ours / theirs);
            }
            None => println!(),
        }
    }

    let mut swarm = vec![];
    for _ in 0..runs() {
        let b = Node::start(&dir.path().join("b"), &[&a.peer]);
        node::loop_until("B knows A", || (b.metric("peers") == 1).then_some(()));
        let (bytes, time) = seconds(|| download(&b.http, &barrow.1));
        assert_eq!(bytes, file_bytes());
        swarm.push(bytes as f64 / time / 1e9);
        b.kill();
        fs::remove_dir_all(dir.path().join("b")).unwrap();
    }
    println!("GET through the swarm   {} GB/s", Spread::of(swarm));
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

/// GETs on so many connections, one after the other on each.
fn requests_a_second(host: &str, path: &str, connections: usize) -> f64 {
    let time = Duration::from_secs(if is_smoke() { 1 } else { 3 });
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let since = Instant::now();
    let count: u64 = thread::scope(|scope| {
        let clients: Vec<_> = (0..connections)
            .map(|_| scope.spawn(|| keep_asking(host, request.as_bytes(), since + time)))
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    count as f64 / since.elapsed().as_secs_f64()
}

fn keep_asking(host: &str, request: &[u8], until: Instant) -> u64 {
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut buffer = [0; 8_192];
    let mut count = 0;
    while Instant::now() < until {
        stream.write_all(request).unwrap();
        let mut read = 0;
        // Head and 1 KiB of body.
        loop {
            read += stream.read(&mut buffer[read..]).unwrap();
            let head = buffer[..read].windows(4).position(|four| four == b"\r\n\r\n");
            if head.is_some_and(|head| read == head + 4 + 1_024) {
                break;
            }
        }
        count += 1;
    }
    count
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

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}
