//! A real node process on loopback, and plain HTTP to it.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

pub const BARROW: &str = env!("CARGO_BIN_EXE_barrow");
/// Nothing here takes longer; a test that would hang fails.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A node process; it is killed with this value.
pub struct Node {
    process: Child,
    pub dir: PathBuf,
    pub http: String,
    pub peer: String,
}

impl Node {
    /// Starts a node in `dir` that knows `peers`.
    pub fn start(dir: &Path, peers: &[&str]) -> Self {
        Self::start_with(dir, peers, &[])
    }

    pub fn start_with(dir: &Path, peers: &[&str], flags: &[&str]) -> Self {
        fs::create_dir_all(dir).unwrap();
        let _ = fs::remove_file(dir.join("node.json"));
        let log = fs::File::create(dir.join("log")).unwrap();
        let mut command = Command::new(BARROW);
        command.arg("--data-dir").arg(dir).args(["serve", "--listen", "127.0.0.1:0"]);
        command.args(["--http", "127.0.0.1:0"]).args(flags);
        // Nobody but those whom a test names is to be found.
        if !flags.contains(&"--bootstrap") {
            command.args(["--no-dht", "--no-mdns"]);
        }
        for peer in peers {
            command.args(["--peer", peer]);
        }
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let mut node = Self {
            process: process.unwrap(),
            dir: dir.into(),
            http: String::new(),
            peer: String::new(),
        };
        let about = loop_until("the node answers", || {
            let text = fs::read_to_string(dir.join("node.json")).ok()?;
            serde_json::from_str::<serde_json::Value>(&text).ok()
        });
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        node.http = text(&about["http"]);
        node.peer = format!("{}@{}", text(&about["peer_id"]), text(&about["listen"][0]));
        node
    }

    /// Runs a command on this node's directory.
    pub fn run(&self, words: &[&str]) -> Output {
        run(&self.dir, words)
    }

    /// Stores a file, and gives its CID.
    pub fn put(&self, file: &Path) -> String {
        put(&self.dir, file)
    }

    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[])
    }

    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut response = self.open(method, path, headers);
        response.read_body().unwrap();
        response
    }

    /// Sends a request, and reads the answer's head.
    pub fn open(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.http);
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("Connection: close\r\n\r\n");
        self.send(text.as_bytes())
    }

    /// Sends these bytes, and reads the answer's head.
    pub fn send(&self, bytes: &[u8]) -> Response {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.write_all(bytes).unwrap();
        Response::read(stream).unwrap()
    }

    /// A figure of `/metrics`.
    pub fn metric(&self, name: &str) -> u64 {
        let body = String::from_utf8(self.get("/metrics").body).unwrap();
        let prefix = format!("barrow_{name} ");
        let line = body.lines().find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or_else(|| panic!("no {name} in {body}")).parse().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Peak resident memory so far, in MiB.
    pub fn peak_mib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1_024
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap()
    }

    /// As kill -9.
    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// As SIGTERM; gives the exit status and the time it took.
    pub fn terminate(mut self) -> (Option<i32>, Duration) {
        let since = Instant::now();
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let status = loop_until("the node ends", || self.process.try_wait().unwrap());
        (status.code(), since.elapsed())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            eprintln!("--- log of {}\n{log}", self.dir.display());
        }
    }
}

pub fn run(dir: &Path, words: &[&str]) -> Output {
    Command::new(BARROW).arg("--data-dir").arg(dir).args(words).output().unwrap()
}

pub fn put(dir: &Path, file: &Path) -> String {
    let put = run(dir, &["put", file.to_str().unwrap()]);
    assert!(put.status.success(), "{put:?}");
    String::from_utf8(put.stdout).unwrap().trim().into()
}

/// Tries until there is something.
pub fn loop_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(since.elapsed() < TIMEOUT, "{what}: not within {TIMEOUT:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// An answer; its body is read when it is asked for.
pub struct Response {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
    pub stream: TcpStream,
}

impl Response {
    pub fn read(mut stream: TcpStream) -> io::Result<Self> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Ok(Self { status, headers, body: Vec::new(), stream })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| &value[..])
    }

    /// Reads to the end of the connection.
    pub fn read_body(&mut self) -> io::Result<()> {
        self.stream.read_to_end(&mut self.body).map(|_| ())
    }
}

/// Writes `bytes` bytes that repeat nowhere.
pub fn make_file(path: &Path, bytes: u64, seed: u64) -> PathBuf {
    let mut file = io::BufWriter::with_capacity(1 << 20, fs::File::create(path).unwrap());
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut left = bytes;
    while left > 0 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = state.to_le_bytes();
        let len = left.min(8) as usize;
        file.write_all(&word[..len]).unwrap();
        left -= len as u64;
    }
    file.flush().unwrap();
    path.into()
}

/// What a body in chunks holds.
pub fn unchunked(body: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), body);
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").unwrap();
        let len = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if len == 0 {
            return out;
        }
        out.extend_from_slice(&rest[end + 2..end + 2 + len]);
        rest = &rest[end + 4 + len..];
    }
}
