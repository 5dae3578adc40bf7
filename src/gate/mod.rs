//! The gate before tiny_http: a mio loop that accepts the public sockets, holds caps and
//! deadlines, and parses strictly. Sound requests go on to tiny_http over a private Unix socket.
//!
//! A handler answers with a head and the name of a [`Body`]; the gate pulls the body's chunks
//! itself. Slow clients hold no thread, and no byte of a body crosses the inner socket.

mod body;
mod chunked;
mod connection;
mod head;
mod inner;
mod request;

pub use body::Body;
pub use head::{BodyLength, HEAD_BYTES_MAX, HEADERS_MAX, Head, HeadError};
pub use request::{Reply, ReplyBody, Request, unescape};

use body::{Bodies, Pumps};
use connection::{Client, Moved, Over, Stage};
use crossbeam::channel::{Receiver, Sender, unbounded};
use inner::{Answer, Inner};
use mio::{
    Events, Interest, Poll, Token, Waker,
    net::{TcpListener, UnixStream},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// A head must be whole in this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A body that does not come, or an answer that is not taken, ends the connection.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection without a request is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often deadlines are looked at, while there are connections.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Requests that wait for a handler at most; more get 503.
const QUEUE_MAX: usize = 1_024;
/// Uploads at one time: fewer than handlers, so that stalled ones do not hold them all.
const UPLOADS_SHARE: usize = 2;
/// Bytes of an upload on their way to a handler.
const INNER_BYTES_MAX: usize = 256 << 10;
/// Accepts before connections get their turn.
const ACCEPTS_MAX: usize = 128;

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
const FIRST: usize = 2;

/// Refuses a request by its head, with a status, a code and a message.
pub type Policy = Arc<dyn Fn(&Head) -> Result<(), (u16, &'static str, String)> + Send + Sync>;
/// Answers a request.
pub type Handler = Arc<dyn Fn(&mut Request<'_>) -> Reply + Send + Sync>;

/// How a gate runs.
pub struct GateConfig {
    /// Where clients come; port 0 takes a free one.
    pub address: SocketAddr,
    /// A directory of ours for the inner socket.
    pub socket_dir: PathBuf,
    /// Connections at most.
    pub connections_max: usize,
    /// Requests that are worked on at one time.
    pub handlers: usize,
    /// What is refused before a handler sees it.
    pub policy: Policy,
    /// What answers.
    pub handler: Handler,
    /// Told of bytes sent.
    pub sent: Arc<dyn Fn(u64) + Send + Sync>,
    /// Told of each answer's status.
    pub answered: Arc<dyn Fn(u16) + Send + Sync>,
}

/// A running gate.
pub struct Gate {
    address: SocketAddr,
    wake: Arc<Waker>,
    notices: Sender<Notice>,
    thread: JoinHandle<()>,
    handlers: request::Handlers,
}

enum Notice {
    /// A body has something for its connection.
    Ready(u64),
    /// Finish what is under way until then, and end.
    Stop(Instant),
}

impl Gate {
    /// Binds, and starts the threads.
    ///
    /// # Errors
    /// If a socket or thread cannot be made.
    pub fn start(config: GateConfig) -> io::Result<Self> {
        let poll = Poll::new()?;
        let wake = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let mut listener = TcpListener::bind(config.address).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", config.address))
        })?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let address = listener.local_addr()?;
        let bodies = Arc::new(Bodies::new());
        let handlers = request::Handlers::start(&config, &bodies)?;
        // Bounded by the connections: each has at most a few chunks on their way.
        let (notices, notices_in) = unbounded();
        let notify = {
            let (wake, notices) = (wake.clone(), notices.clone());
            Arc::new(move |conn| {
                let _ = notices.send(Notice::Ready(conn));
                let _ = wake.wake();
            })
        };
        let connections_max = connections_max(config.connections_max);
        let (pumps, _) = Pumps::start(connections_max, notify)?;
        let socket = handlers.socket().to_owned();
        let reactor = GateLoop {
            poll,
            listener,
            config,
            connections_max,
            socket,
            bodies,
            pumps,
            notices: notices_in,
            clients: BTreeMap::new(),
            inners: BTreeMap::new(),
            idle_inners: Vec::new(),
            queue: VecDeque::new(),
            ready: BTreeSet::new(),
            next_token: FIRST as u64,
            next_sweep: Instant::now(),
            uploads: 0,
            accept_again: None,
            stop_at: None,
        };
        let thread =
            std::thread::Builder::new().name("gate".into()).spawn(move || reactor.run())?;
        Ok(Self { address, wake, notices, thread, handlers })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts no more, finishes what is under way within `limit`, and ends.
    pub fn shutdown(self, limit: Duration) {
        let _ = self.notices.send(Notice::Stop(Instant::now() + limit));
        let _ = self.wake.wake();
        let _ = self.thread.join();
        self.handlers.stop();
    }
}

/// What the descriptors of this process allow, if that is less.
fn connections_max(wanted: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(wanted);
    // Packs, index, peers, inner sockets and the like take the rest.
    wanted.min(limit.saturating_sub(192).max(16))
}

struct GateLoop {
    poll: Poll,
    listener: TcpListener,
    config: GateConfig,
    connections_max: usize,
    socket: PathBuf,
    bodies: Arc<Bodies>,
    pumps: Pumps,
    notices: Receiver<Notice>,
    clients: BTreeMap<u64, Client>,
    inners: BTreeMap<u64, Inner>,
    idle_inners: Vec<u64>,
    /// Clients whose requests wait for a handler.
    queue: VecDeque<u64>,
    /// Clients that had more to do than one turn.
    ready: BTreeSet<u64>,
    next_token: u64,
    next_sweep: Instant,
    uploads: usize,
    /// The listener has more, or failed for want of descriptors.
    accept_again: Option<Instant>,
    stop_at: Option<Instant>,
}

impl GateLoop {
    fn run(mut self) {
        let mut events = Events::with_capacity(1_024);
        loop {
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return log::error!("the gate stops: {error}"),
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    WAKER => {}
                    Token(token) => self.on_ready(token as u64),
                }
            }
            if self.accept_again.is_some_and(|at| at <= Instant::now()) {
                self.accept();
            }
            while let Ok(notice) = self.notices.try_recv() {
                match notice {
                    Notice::Ready(token) => self.write(token),
                    Notice::Stop(at) => self.stop_at = Some(at),
                }
            }
            for token in std::mem::take(&mut self.ready) {
                self.write(token);
            }
            self.sweep();
            if self.stop_at.is_some_and(|at| self.is_quiet() || at <= Instant::now()) {
                for client in self.clients.values().filter(|client| client.is_busy()) {
                    client.abort();
                }
                return;
            }
        }
    }

    fn is_quiet(&self) -> bool {
        !self.clients.values().any(Client::is_busy)
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let sweep = (!self.clients.is_empty()).then_some(self.next_sweep);
        let next = [sweep, self.accept_again, self.stop_at].into_iter().flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    // --- Clients ---

    fn accept(&mut self) {
        self.accept_again = None;
        for _ in 0..ACCEPTS_MAX {
            if self.stop_at.is_some() {
                return;
            }
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    log::warn!("cannot accept a client: {error}");
                    // Edge-triggered: who waits now is not told of again.
                    self.accept_again = Some(Instant::now() + Duration::from_millis(100));
                    return;
                }
            }
        }
        self.accept_again = Some(Instant::now());
    }

    fn admit(&mut self, mut stream: mio::net::TcpStream) {
        if self.clients.len() >= self.connections_max {
            use std::io::Write as _;
            let text = refusal(503, "busy", "too many connections", false);
            let _ = stream.write(&text);
            return;
        }
        let token = self.token();
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(&mut stream, Token(token as usize), interest).is_ok() {
            let _ = stream.set_nodelay(true);
            self.clients.insert(token, Client::new(stream));
        }
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    fn on_ready(&mut self, token: u64) {
        if self.inners.contains_key(&token) {
            self.on_inner(token);
            return;
        }
        let Some(client) = self.clients.get_mut(&token) else { return };
        match client.stage {
            Stage::Idle => self.read(token),
            Stage::Queued(_) | Stage::Working if client.upload.is_none() => {
                if client.has_gone() {
                    self.close(token, false);
                }
            }
            Stage::Queued(_) => {}
            Stage::Working => self.pass_upload_of(token),
            Stage::Answering => self.write(token),
        }
    }

    fn read(&mut self, token: u64) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        if client.read().is_err() {
            return self.close(token, false);
        }
        match client.next_head() {
            Ok(None) => {}
            Ok(Some(head)) => self.on_head(token, head),
            Err(error) => {
                let (status, why) = error.answer();
                self.refuse(token, status, "bad_request", why);
            }
        }
    }

    fn on_head(&mut self, token: u64, head: Head) {
        if let Err((status, code, message)) = (self.config.policy)(&head) {
            return self.refuse(token, status, code, &message);
        }
        if self.queue.len() >= QUEUE_MAX {
            return self.refuse(token, 503, "busy", "too many requests wait");
        }
        let Some(client) = self.clients.get_mut(&token) else { return };
        client.stage = Stage::Queued(head);
        self.queue.push_back(token);
        self.dispatch();
    }

    /// Answers in the gate's own words, and closes if a body would follow.
    fn refuse(&mut self, token: u64, status: u16, code: &str, message: &str) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        client.keep_alive = client.keep_alive && status != 400 && client.upload.is_none();
        client.keep_alive &= !matches!(status, 417 | 431 | 505);
        let mut text = refusal(status, code, message, client.keep_alive);
        if client.is_head {
            let head = text.windows(4).position(|window| window == b"\r\n\r\n");
            text.truncate(head.map_or(text.len(), |at| at + 4));
        }
        (self.config.answered)(status);
        client.answer(text, None);
        self.write(token);
    }

    fn write(&mut self, token: u64) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        if !matches!(client.stage, Stage::Answering) {
            return;
        }
        let mut sent = 0;
        let moved = client.write(&mut sent);
        (self.config.sent)(sent);
        match moved {
            Ok(Moved::Wait) => {
                if client.flow.is_some() && client.has_gone() {
                    self.close(token, true);
                }
            }
            Ok(Moved::Yield) => {
                self.ready.insert(token);
            }
            Ok(Moved::Answered) => {
                if client.finish() && self.stop_at.is_none() {
                    self.read(token);
                } else {
                    self.close(token, false);
                }
            }
            Err(Over) => self.close(token, true),
        }
    }

    fn close(&mut self, token: u64, abort: bool) {
        let Some(mut client) = self.clients.remove(&token) else { return };
        if let Some(flow) = &client.flow {
            flow.close();
        }
        if abort {
            client.abort();
        }
        let _ = self.poll.registry().deregister(&mut client.stream);
        self.ready.remove(&token);
        self.queue.retain(|queued| *queued != token);
        let serving = self.inners.iter().find(|(_, inner)| inner.client == Some(token));
        if let Some(inner) = serving.map(|(inner, _)| *inner) {
            self.drop_inner(inner);
        }
    }

    // --- Handlers ---

    /// Gives waiting requests to handlers, as far as there are.
    fn dispatch(&mut self) {
        let mut postponed = VecDeque::new();
        while let Some(token) = self.queue.pop_front() {
            let Some(client) = self.clients.get(&token) else { continue };
            let uploads = client.upload.is_some();
            if uploads && self.uploads >= (self.config.handlers / UPLOADS_SHARE).max(1) {
                postponed.push_back(token);
                continue;
            }
            let Some(inner) = self.free_inner() else {
                postponed.push_back(token);
                break;
            };
            self.uploads += usize::from(uploads);
            self.begin(token, inner);
        }
        postponed.append(&mut self.queue);
        self.queue = postponed;
    }

    fn free_inner(&mut self) -> Option<u64> {
        if let Some(inner) = self.idle_inners.pop() {
            return Some(inner);
        }
        if self.inners.len() >= self.config.handlers {
            return None;
        }
        let mut stream = UnixStream::connect(&self.socket)
            .inspect_err(|error| log::error!("the handlers cannot be reached: {error}"))
            .ok()?;
        let token = self.token();
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(token as usize), interest).ok()?;
        self.inners.insert(token, Inner::new(stream));
        Some(token)
    }

    fn begin(&mut self, token: u64, inner_token: u64) {
        let (Some(client), Some(inner)) =
            (self.clients.get_mut(&token), self.inners.get_mut(&inner_token))
        else {
            return;
        };
        let Stage::Queued(head) = std::mem::replace(&mut client.stage, Stage::Working) else {
            return;
        };
        inner.client = Some(token);
        inner.spent = client.upload.is_some();
        inner.output = head.to_inner();
        if client.upload.is_some()
            && head.expects_continue()
            && client.interject(b"HTTP/1.1 100 Continue\r\n\r\n").is_err()
        {
            return self.close(token, false);
        }
        if inner.spent {
            self.pass_upload(inner_token);
        } else if inner.write().is_err() {
            self.fail_inner(inner_token);
        }
    }

    fn pass_upload_of(&mut self, token: u64) {
        let serving = self.inners.iter().find(|(_, inner)| inner.client == Some(token));
        if let Some(inner) = serving.map(|(inner, _)| *inner) {
            self.pass_upload(inner);
        }
    }

    /// Moves a request's body on, as far as the handler takes it.
    fn pass_upload(&mut self, inner_token: u64) {
        loop {
            let Some(inner) = self.inners.get_mut(&inner_token) else { return };
            let Some(token) = inner.client else { return };
            let Some(client) = self.clients.get_mut(&token) else { return };
            if client.upload.is_none() && inner.output.is_empty() {
                return;
            }
            let waiting = inner.output.len();
            if waiting < INNER_BYTES_MAX && client.upload.is_some() {
                if client.read().is_err() {
                    return self.close(token, false);
                }
                if client.pass_upload(&mut inner.output, INNER_BYTES_MAX).is_err() {
                    self.drop_inner(inner_token);
                    return self.refuse(token, 400, "bad_request", "a chunk is malformed");
                }
            }
            let before = inner.output.len();
            if inner.write().is_err() {
                return self.fail_inner(inner_token);
            }
            if inner.output.len() == before && before == waiting {
                return;
            }
        }
    }

    fn on_inner(&mut self, inner_token: u64) {
        self.pass_upload(inner_token);
        let Some(inner) = self.inners.get_mut(&inner_token) else { return };
        if inner.write().is_err() {
            return self.fail_inner(inner_token);
        }
        match inner.read() {
            Ok(None) => {}
            Ok(Some(answer)) => {
                let Some(token) = inner.client.take() else {
                    return self.drop_inner(inner_token);
                };
                if inner.spent {
                    self.drop_inner(inner_token);
                } else {
                    self.idle_inners.push(inner_token);
                }
                self.on_answer(token, &answer);
                self.dispatch();
            }
            Err(_) => self.fail_inner(inner_token),
        }
    }

    fn on_answer(&mut self, token: u64, answer: &Answer) {
        let body = answer.get(request::BODY_HEADER).and_then(|name| self.bodies.take(name));
        let Some(client) = self.clients.get_mut(&token) else { return };
        // A handler that answers before it has read the body leaves the rest of it in the way.
        client.keep_alive &= client.upload.is_none();
        client.upload = None;
        let length = answer.get(request::LENGTH_HEADER).and_then(|length| length.parse().ok());
        let bodiless = client.is_head || matches!(answer.status, 204 | 304);
        client.chunked = !bodiless && body.is_some() && length.is_none();
        client.body_left = if bodiless { None } else { length };
        let head = public_head(answer, length, client.chunked, client.keep_alive);
        let flow = body.filter(|_| !bodiless).map(|body| self.pumps.flow(token, body));
        (self.config.answered)(answer.status);
        client.answer(head, flow);
        self.write(token);
    }

    fn drop_inner(&mut self, inner_token: u64) {
        if let Some(mut inner) = self.inners.remove(&inner_token) {
            let _ = self.poll.registry().deregister(&mut inner.stream);
            self.idle_inners.retain(|idle| *idle != inner_token);
            self.uploads -= usize::from(inner.spent);
        }
    }

    fn fail_inner(&mut self, inner_token: u64) {
        let client = self.inners.get(&inner_token).and_then(|inner| inner.client);
        self.drop_inner(inner_token);
        if let Some(token) = client {
            self.refuse(token, 500, "internal", "the handler ended without an answer");
        }
        self.dispatch();
    }

    // --- Deadlines ---

    fn sweep(&mut self) {
        let now = Instant::now();
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP_INTERVAL;
        let mut late = Vec::new();
        for (token, client) in &self.clients {
            let quiet = now.saturating_duration_since(client.moved);
            let limit = match (&client.stage, client.is_busy()) {
                (Stage::Idle, false) => IDLE_TIMEOUT,
                (Stage::Idle, true) => HEAD_TIMEOUT,
                // The handler, and what it waits for, has limits of its own.
                (Stage::Queued(_) | Stage::Working, _) if client.upload.is_none() => continue,
                (Stage::Queued(_) | Stage::Working | Stage::Answering, _) => STALL_TIMEOUT,
            };
            if quiet >= limit {
                late.push(*token);
            }
        }
        for token in late {
            self.close(token, true);
        }
    }
}

fn refusal(status: u16, code: &str, message: &str, keep_alive: bool) -> Vec<u8> {
    let body = serde_json::json!({"error": {"code": code, "message": message}}).to_string();
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let retry = if status == 503 { "retry-after: 1\r\ncache-control: no-store\r\n" } else { "" };
    format!(
        "HTTP/1.1 {status} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         x-content-type-options: nosniff\r\n{retry}connection: {connection}\r\n\r\n{body}",
        request::reason(status),
        body.len(),
    )
    .into_bytes()
}

fn public_head(answer: &Answer, length: Option<u64>, chunked: bool, keep_alive: bool) -> Vec<u8> {
    use std::fmt::Write as _;
    let mut head = format!("HTTP/1.1 {} {}\r\n", answer.status, answer.reason);
    for (name, value) in &answer.headers {
        let inner =
            matches!(&name[..], "connection" | "content-length" | "transfer-encoding" | "server")
                || name.starts_with(request::INNER_PREFIX);
        if !inner {
            let _ = write!(head, "{name}: {value}\r\n");
        }
    }
    match (length, chunked) {
        (_, true) => head.push_str("transfer-encoding: chunked\r\n"),
        (Some(length), false) => {
            let _ = write!(head, "content-length: {length}\r\n");
        }
        (None, false) if matches!(answer.status, 204 | 304) => {}
        (None, false) => head.push_str("content-length: 0\r\n"),
    }
    head.push_str(if keep_alive {
        "connection: keep-alive\r\n\r\n"
    } else {
        "connection: close\r\n\r\n"
    });
    head.into_bytes()
}
