//! Node to node: stored at A → `barrow pin CID` on a fresh B returns, everything verified and
//! synced. In turn with a program that does only what cannot be left out: Noise over one socket,
//! SHA-256 on a second thread, writes past the page cache, one sync at the end.
//!
//! `cargo bench --bench download`

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a bench prints, and ends at what fails"
)]

mod ceiling;
mod common;
#[allow(dead_code)]
#[path = "../tests/flow/node.rs"]
mod node;

use common::{Spread, cpu_seconds, file_bytes, runs, scratch, seconds, warm};
use node::{Node, make_file};
use std::{
    env, fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

fn main() {
    let words: Vec<String> = env::args().collect();
    match words.get(1).map(String::as_str) {
        Some("ceiling-receive") => return ceiling::receive(&words[2], Path::new(&words[3])),
        Some("ceiling-send") => return ceiling::send(&words[2], Path::new(&words[3])),
        _ => {}
    }
    let dir = scratch();
    let file = make_file(&dir.path().join("file"), file_bytes(), 11);
    let a = Node::start(&dir.path().join("a"), &[]);
    let cid = a.put(&file);
    let (mut ceilings, mut pins, mut ratios, mut cpus) = (vec![], vec![], vec![], vec![]);
    for run in 0..runs() {
        warm(&file);
        let ceiling = run_ceiling(&file, &dir.path().join("ceiling"));
        let b = Node::start(&dir.path().join("b"), &[&a.peer]);
        node::loop_until("B knows A", || (b.metric("peers") == 1).then_some(()));
        warm(&file);
        let cpu = || cpu_seconds(a.pid()) + cpu_seconds(b.pid());
        let before = cpu();
        let (pinned, pin) = seconds(|| b.run(&["pin", &cid]));
        cpus.push(cpu() - before);
        assert!(pinned.status.success(), "{pinned:?}");
        println!("run {run}: ceiling {ceiling:.3} s, pin {pin:.3} s, ratio {:.2}", pin / ceiling);
        println!("  peak MiB: A {}, B {}", a.peak_mib(), b.peak_mib());
        ceilings.push(ceiling);
        pins.push(pin);
        ratios.push(pin / ceiling);
        b.kill();
        fs::remove_dir_all(dir.path().join("b")).unwrap();
    }
    let (ceiling, pin, ratio) = (Spread::of(ceilings), Spread::of(pins), Spread::of(ratios));
    let rate = file_bytes() as f64 / pin.median / 1e9;
    println!("ceiling      {ceiling} s");
    println!("barrow pin   {pin} s = {rate:.2} GB/s, CPU {} s at both ends", Spread::of(cpus));
    println!("ratio        {ratio}  (bound 1.7, aim 1.15)");
}

/// Seconds from the first byte to the receiver's sync.
fn run_ceiling(file: &Path, sink: &Path) -> f64 {
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port().to_string()
    };
    let start = |role: &str, path: &Path| -> Child {
        let mut command = Command::new(env::current_exe().unwrap());
        command.arg(role).arg(&port).arg(path).stdout(Stdio::piped()).spawn().unwrap()
    };
    let receiver = start("ceiling-receive", sink);
    let mut sender = start("ceiling-send", file);
    let receiver = receiver.wait_with_output().unwrap();
    assert!(receiver.status.success() && sender.wait().unwrap().success());
    fs::remove_file(sink).unwrap();
    String::from_utf8(receiver.stdout).unwrap().trim().parse().unwrap()
}
