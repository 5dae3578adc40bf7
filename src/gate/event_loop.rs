//! The loop itself: which connection may do what now.

use super::{
    GateConfig, Notice,
    answer::{public_head, refusal},
    body::{Bodies, Pumps},
    connection::{Client, Moved, Over, READ_BYTES, Stage},
    head::Head,
    inner::{Answer, Inner},
    request,
    turns::Turns,
};
use crossbeam::channel::Receiver;
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, UnixStream},
};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::PathBuf,
    sync::Arc,
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

/// After an answer that ends the connection, what the client still sends is read and dropped for
/// so long, so that it reads the answer before it learns of the end.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

const LISTENER: Token = Token(0);
pub(super) const WAKER: Token = Token(1);
const FIRST: usize = 2;

pub(super) struct GateLoop {
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
    /// Clients whose requests wait for a handler; a client that is closed leaves it.
    queue: VecDeque<u64>,
    /// Those that bring a body, of which fewer are let in.
    upload_queue: VecDeque<u64>,
    turns: Turns,
    /// Where sockets are read to.
    scratch: Box<[u8]>,
    next_token: u64,
    next_sweep: Instant,
    uploads: usize,
    /// The listener has more, or failed for want of descriptors.
    accept_again: Option<Instant>,
    stop_at: Option<Instant>,
}

impl GateLoop {
    #[expect(clippy::too_many_arguments, reason = "the one place that puts a gate together")]
    pub(super) fn new(
        config: GateConfig,
        poll: Poll,
        mut listener: TcpListener,
        connections_max: usize,
        socket: PathBuf,
        bodies: Arc<Bodies>,
        pumps: Pumps,
        notices: Receiver<Notice>,
    ) -> io::Result<Self> {
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            poll,
            listener,
            config,
            connections_max,
            socket,
            bodies,
            pumps,
            notices,
            clients: BTreeMap::new(),
            inners: BTreeMap::new(),
            idle_inners: Vec::new(),
            queue: VecDeque::new(),
            upload_queue: VecDeque::new(),
            turns: Turns::default(),
            scratch: vec![0; READ_BYTES].into(),
            next_token: FIRST as u64,
            next_sweep: Instant::now(),
            uploads: 0,
            accept_again: None,
            stop_at: None,
        })
    }

    pub(super) fn run(mut self) {
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
            self.take_notices();
            for token in self.turns.begin() {
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

    fn take_notices(&mut self) {
        let mut is_scarce = false;
        while let Ok(notice) = self.notices.try_recv() {
            match notice {
                Notice::Ready(token) => self.write(token),
                Notice::Scarce => is_scarce = true,
                Notice::Stop(at) => self.stop_at = Some(at),
            }
        }
        if is_scarce {
            self.give_back();
        }
    }

    fn is_quiet(&self) -> bool {
        !self.clients.values().any(Client::is_busy)
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.turns.is_empty() {
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
            Stage::Lingering => {
                if client.discard().is_err() {
                    self.close(token, false);
                }
            }
        }
    }

    /// Takes from clients that read slowly what waits for them, so that others get something; it
    /// is pulled again once they read.
    fn give_back(&mut self) {
        for client in self.clients.values_mut() {
            client.give_back();
        }
    }

    fn read(&mut self, token: u64) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        if client.read(&mut self.scratch).is_err() {
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
        if self.queue.len() + self.upload_queue.len() >= QUEUE_MAX {
            return self.refuse(token, 503, "busy", "too many requests wait");
        }
        let Some(client) = self.clients.get_mut(&token) else { return };
        client.stage = Stage::Queued(head);
        let queue = if client.upload.is_some() { &mut self.upload_queue } else { &mut self.queue };
        queue.push_back(token);
        self.dispatch();
    }

    /// Answers in the gate's own words, and closes if a body would follow.
    fn refuse(&mut self, token: u64, status: u16, code: &str, message: &str) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        client.keep_alive = client.keep_alive && status != 400 && client.upload.is_none();
        client.keep_alive &= !matches!(status, 417 | 431 | 505);
        client.linger = !client.keep_alive;
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
        if self.turns.is_spent() && client.is_bulk() {
            return self.turns.insert(token);
        }
        let mut sent = 0;
        let moved = client.write(&mut sent);
        (self.config.sent)(sent);
        self.turns.count(token, sent);
        match moved {
            Ok(Moved::Wait) => {
                if client.flow.is_some() && client.has_gone() {
                    self.close(token, true);
                }
            }
            Ok(Moved::Yield) => {
                self.turns.insert(token);
            }
            Ok(Moved::Answered) => {
                if client.finish() && self.stop_at.is_none() {
                    self.read(token);
                } else if !client.begin_linger() {
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
        self.turns.remove(token);
        let is_queued = matches!(client.stage, Stage::Queued(_));
        if is_queued {
            self.queue.retain(|queued| *queued != token);
            self.upload_queue.retain(|queued| *queued != token);
        }
        let serving = self.inners.iter().find(|(_, inner)| inner.client == Some(token));
        if let Some(inner) = serving.map(|(inner, _)| *inner) {
            self.drop_inner(inner);
        }
    }

    // --- Handlers ---

    /// Gives waiting requests to handlers, as far as there are.
    fn dispatch(&mut self) {
        let uploads_max = (self.config.handlers / UPLOADS_SHARE).max(1);
        loop {
            let uploads = self.uploads < uploads_max && !self.upload_queue.is_empty();
            if self.queue.is_empty() && !uploads {
                return;
            }
            let Some(inner) = self.free_inner() else { return };
            // Bodies first: there are handlers that they never get.
            let token = if uploads {
                self.uploads += 1;
                self.upload_queue.pop_front()
            } else {
                self.queue.pop_front()
            };
            if let Some(token) = token {
                self.begin(token, inner);
            }
        }
    }

    fn free_inner(&mut self) -> Option<u64> {
        if let Some(inner) = self.idle_inners.pop() {
            return Some(inner);
        }
        // One new connection at a time, until it has answered: tiny_http leaves some of a burst
        // without a thread (`TaskPool::spawn` counts threads as idle that were just woken).
        let probing = self.inners.values().any(|inner| inner.is_probing);
        if !probing && self.inners.len() < self.config.handlers {
            self.open_inner();
        }
        None
    }

    fn open_inner(&mut self) -> Option<()> {
        let mut stream = UnixStream::connect(&self.socket)
            .inspect_err(|error| log::error!("the handlers cannot be reached: {error}"))
            .ok()?;
        let token = self.token();
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(token as usize), interest).ok()?;
        self.inners.insert(token, Inner::probe(stream));
        self.pass_upload(token);
        Some(())
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
            let Some(token) = inner.client else {
                // Nothing but a probe has no client, and it fits any socket.
                let _ = inner.write();
                return;
            };
            let Some(client) = self.clients.get_mut(&token) else { return };
            if client.upload.is_none() && inner.output.is_empty() {
                return;
            }
            let waiting = inner.output.len();
            if waiting < INNER_BYTES_MAX && client.upload.is_some() {
                if client.read(&mut self.scratch).is_err() {
                    return self.close(token, false);
                }
                if client.pass_upload(&mut inner.output, INNER_BYTES_MAX).is_err() {
                    self.drop_inner(inner_token);
                    return self.refuse(token, 400, "bad_request", "a chunk is malformed");
                }
            }
            let before = inner.output.len();
            if inner.write().is_err() {
                // It reads no more, as it has answered or ended: reading tells which.
                inner.output.clear();
                return self.on_inner(inner_token);
            }
            if inner.output.len() == before && before == waiting {
                return;
            }
        }
    }

    fn on_inner(&mut self, inner_token: u64) {
        let Some(inner) = self.inners.get_mut(&inner_token) else { return };
        // First of all the answer: a handler may give it without having read the body.
        match inner.read() {
            Ok(None) => self.pass_upload(inner_token),
            Ok(Some(_)) if std::mem::take(&mut inner.is_probing) => {
                self.idle_inners.push(inner_token);
                self.dispatch();
            }
            Ok(Some(answer)) => {
                let Some(token) = inner.client.take() else {
                    return self.drop_inner(inner_token);
                };
                if inner.spent || inner.ended {
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
        client.linger = client.upload.take().is_some();
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
        // Had the handlers not been reached, nothing else would try again.
        self.dispatch();
        let mut late = Vec::new();
        for (token, client) in &self.clients {
            let quiet = now.saturating_duration_since(client.moved);
            let limit = match (&client.stage, client.is_busy()) {
                (Stage::Idle, false) => IDLE_TIMEOUT,
                (Stage::Idle, true) => HEAD_TIMEOUT,
                // The handler, and what it waits for, has limits of its own.
                (Stage::Queued(_) | Stage::Working, _) if client.upload.is_none() => continue,
                // So has a body, while its client takes what there is.
                (Stage::Answering, _) if !client.is_blocked() => continue,
                (Stage::Queued(_) | Stage::Working | Stage::Answering, _) => STALL_TIMEOUT,
                (Stage::Lingering, _) => LINGER_TIMEOUT,
            };
            if quiet >= limit {
                late.push(*token);
            }
        }
        for token in late {
            let abort = self.clients.get(&token).is_some_and(Client::is_busy);
            self.close(token, abort);
        }
    }
}
