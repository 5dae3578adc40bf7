//! `demo`: a swarm of real node processes on loopback, and a table of times.

use super::{CliError, args::Args, human, output, put};
use crate::{
    erasure::Shape,
    net::http_client::{Content, Request, Url},
};
use ring::digest;
use serde_json::Value;
use std::{
    env,
    fs::{self, File},
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Bytes that are made up without a file.
const DEMO_BYTES: u64 = 256 << 20;
const NODES_MIN: usize = 3;
const NODES_MAX: usize = 64;
/// A node must answer in this time.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A node process of ours; it ends with this value.
struct DemoNode {
    process: Child,
    dir: PathBuf,
    http: String,
    peer: String,
}

impl DemoNode {
    fn start(dir: PathBuf, peers: &[String]) -> Result<Self, CliError> {
        fs::create_dir_all(&dir)?;
        let log = File::create(dir.join("log"))?;
        let mut command = Command::new(env::current_exe()?);
        command.arg("--data-dir").arg(&dir).args(["serve", "--listen", "127.0.0.1:0"]);
        command.args(["--http", "127.0.0.1:0", "--no-dht", "--no-mdns"]);
        for peer in peers {
            command.args(["--peer", peer]);
        }
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        let mut node = Self { process, dir, http: String::new(), peer: String::new() };
        let about = node.wait_until_it_answers()?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        node.http = text(&about["http"]);
        node.peer = format!("{}@{}", text(&about["peer_id"]), text(&about["listen"][0]));
        Ok(node)
    }

    fn wait_until_it_answers(&mut self) -> Result<Value, CliError> {
        let since = Instant::now();
        while since.elapsed() < START_TIMEOUT {
            if let Ok(text) = fs::read_to_string(self.dir.join("node.json")) {
                return Ok(serde_json::from_str(&text).map_err(io::Error::from)?);
            }
            if let Some(status) = self.process.try_wait()? {
                let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                return Err(CliError::Failed(format!("a node ended with {status}: {log}")));
            }
            thread::park_timeout(Duration::from_millis(10));
        }
        Err(CliError::Failed("a node did not start in time".into()))
    }

    /// Runs a command on its directory; gives what it prints.
    fn run(&self, words: &[String]) -> Result<String, CliError> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("--data-dir").arg(&self.dir).args(words).stderr(Stdio::inherit());
        let done = command.output()?;
        if !done.status.success() {
            return Err(CliError::Failed(format!("{} failed", words[0])));
        }
        Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
    }

    fn stop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.process.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.process.wait();
    }
}

impl Drop for DemoNode {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            self.stop();
        }
    }
}

/// A directory of ours that is removed at the end, unless it is to be kept.
struct DemoDir(PathBuf, bool);

impl Drop for DemoDir {
    fn drop(&mut self) {
        if !self.1 {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

pub(super) fn demo(args: &Args) -> Result<(), CliError> {
    let usage = CliError::Usage;
    let nodes = args.last("nodes").map_err(usage)?.map_or(Ok(NODES_MIN), |text| text.parse());
    let nodes = nodes.map_err(|_| usage("--nodes takes a number".into()))?;
    if !(NODES_MIN..=NODES_MAX).contains(&nodes) {
        return Err(usage(format!("--nodes takes {NODES_MIN} to {NODES_MAX}")));
    }
    let root = env::temp_dir().join(format!("barrow-demo-{}", std::process::id()));
    fs::create_dir_all(&root)?;
    let dir = DemoDir(root, args.has("keep"));
    let interrupted = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, interrupted.clone())?;
    let outcome = match run(args, &dir.0, nodes, &interrupted) {
        // The nodes are of the same terminal, and end as well: what fails then is no news.
        Err(_) if interrupted.load(Ordering::Relaxed) => Err(CliError::Interrupted),
        outcome => outcome,
    };
    if dir.1 {
        output::note(&format!("the nodes' directories are in {}", dir.0.display()));
    }
    outcome
}

fn run(args: &Args, dir: &Path, count: usize, interrupted: &AtomicBool) -> Result<(), CliError> {
    let check = || match interrupted.load(Ordering::Relaxed) {
        true => Err(CliError::Interrupted),
        false => Ok(()),
    };
    let mut table = Table::new();
    let source = match args.operands.first() {
        Some(file) => PathBuf::from(file),
        None => make_file(&dir.join("demo.bin"))?,
    };
    let size = fs::metadata(&source)?.len();
    let digest = digest(&mut File::open(&source)?)?;

    // Each node knows the one before it alone.
    let mut nodes: Vec<DemoNode> = Vec::new();
    for n in 0..count {
        let known: Vec<String> = nodes.iter().map(|node| node.peer.clone()).collect();
        nodes.push(DemoNode::start(dir.join(format!("node-{n}")), &known)?);
        check()?;
    }
    table.row("nodes started", &format!("{count} processes"), None);

    let shape = put::protection(args)?;
    let since = Instant::now();
    let mut words = vec!["put".to_owned(), source.display().to_string()];
    if let Some(shape) = shape {
        words.extend([format!("--data={}", shape.data()), format!("--parity={}", shape.parity())]);
    }
    let cid = nodes[0].run(&words)?;
    table.row("put on node 0", &cid, Some((size, since.elapsed())));
    if let Some(shape) = shape {
        let losses = spread(&mut table, &nodes, &cid, size, shape, &check)?;
        for (n, node) in nodes[..=losses].iter_mut().enumerate() {
            node.stop();
            table.row(&format!("node {n} is stopped"), "", None);
        }
        let known: Vec<String> = nodes[losses + 1..].iter().map(|n| n.peer.clone()).collect();
        nodes.push(DemoNode::start(dir.join(format!("node-{count}")), &known)?);
        let what = format!("GET from node {count}, which had nothing");
        download(&mut table, &what, &nodes[count].http, &cid, size, &digest)?;
        return output::text("the download has the bytes that were put\n");
    }

    for n in 1..count {
        check()?;
        let what = format!("GET from node {n}, by CID over HTTP");
        download(&mut table, &what, &nodes[n].http, &cid, size, &digest)?;
        if n == 1 {
            let since = Instant::now();
            nodes[0].stop();
            table.row("node 0, where it was put, is stopped", "", Some((0, since.elapsed())));
        }
    }
    download(&mut table, "GET from node 1, again", &nodes[1].http, &cid, size, &digest)?;
    output::text("every download has the bytes that were put\n")
}

/// Keeps a slot on each node but the first; gives how many of these may be lost.
fn spread(
    table: &mut Table,
    nodes: &[DemoNode],
    cid: &str,
    size: u64,
    shape: Shape,
    check: &dyn Fn() -> Result<(), CliError>,
) -> Result<usize, CliError> {
    let slots = nodes.len() - 1;
    for (slot, node) in nodes[1..].iter().enumerate() {
        check()?;
        let since = Instant::now();
        let words = ["pin", cid, "--slot", &format!("{slot}/{slots}")].map(ToOwned::to_owned);
        node.run(&words)?;
        let shards = (shape.shards() - slot).div_ceil(slots) as u64;
        let what = format!("slot {slot} of {slots} kept on node {}", slot + 1);
        table.row(&what, "", Some((size * shards / shape.data() as u64, since.elapsed())));
    }
    // The first nodes have the most shards of each stripe.
    Ok(shape.parity() / shape.shards().div_ceil(slots))
}

fn download(
    table: &mut Table,
    what: &str,
    http: &str,
    cid: &str,
    size: u64,
    expected: &digest::Digest,
) -> Result<(), CliError> {
    let failed = |why: String| CliError::Failed(format!("{what}: {why}"));
    let since = Instant::now();
    let url = Url::parse(&format!("http://{http}/ipfs/{cid}"));
    let url = url.ok_or_else(|| failed(format!("no address: {http}")))?;
    let mut reader = Request::new("GET", &url)
        .send(Content::None)
        .map_err(|error| failed(format!("the node does not answer: {error}")))?;
    if !reader.is_success() {
        return Err(failed(format!("the node answers {}", reader.status)));
    }
    let mut first = [0; 1];
    let begun = reader.read(&mut first)?;
    let first_byte = since.elapsed();
    let got = digest(&mut (&first[..begun]).chain(reader))?;
    let note = format!("first byte after {:.1} ms", first_byte.as_secs_f64() * 1e3);
    table.row(what, &note, Some((size, since.elapsed())));
    if got.as_ref() != expected.as_ref() {
        return Err(CliError::Failed(format!("{what}: other bytes came than were put")));
    }
    Ok(())
}

fn digest(reader: &mut dyn Read) -> Result<digest::Digest, CliError> {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hash.finish()),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// A file that compresses badly and repeats nowhere.
fn make_file(path: &Path) -> Result<PathBuf, CliError> {
    let mut file = io::BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..DEMO_BYTES / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes())?;
    }
    file.flush()?;
    Ok(path.into())
}

/// What happened, a line each as it happens.
struct Table;

impl Table {
    fn new() -> Self {
        let _ =
            output::text(&format!("{:40} {:>9} {:>12}  {}\n", "step", "seconds", "rate", "note"));
        Self
    }

    fn row(&mut self, what: &str, note: &str, time: Option<(u64, Duration)>) {
        let (seconds, rate) = match time {
            Some((bytes, time)) if bytes > 0 => {
                let seconds = time.as_secs_f64();
                let rate = (bytes as f64 / seconds) as u64;
                (format!("{seconds:.3}"), format!("{}/s", human::bytes(rate)))
            }
            Some((_, time)) => (format!("{:.3}", time.as_secs_f64()), String::new()),
            None => (String::new(), String::new()),
        };
        let line = format!("{what:40} {seconds:>9} {rate:>12}  {note}");
        let _ = output::text(&format!("{}\n", line.trim_end()));
    }
}
