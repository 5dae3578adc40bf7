//! The loop itself: which connection may do what now.

use super::{
    GateConfig, Notice,
    answer::{connection_line, refusal},
    body::Pumps,
    connection::{Client, Moved, Over, READ_BYTES, Stage},
    date::Date,
    handing::Handed,
    head::Head,
    inner::Inner,
    kept::Kept,
    replies::Replies,
    turns::Turns,
};
use bytes::Bytes;
use crossbeam::channel::Receiver;
use mio::{Events, Interest, Poll, Token, event::Event, net::TcpListener};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// How often deadlines are looked at, while there are connections.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Requests that wait for a handler at most; more get 503.
const QUEUE_MAX: usize = 1_024;
/// While one request alone is with a handler, its answer is looked for so long before the loop
/// sleeps: a small one comes in less time than it takes to wake a thread.
const LOOK_TIME: Duration = Duration::from_micros(100);
/// Accepts before connections get their turn.
const ACCEPTS_MAX: usize = 128;

const LISTENER: Token = Token(0);
pub(super) const WAKER: Token = Token(1);
const FIRST: usize = 2;

pub(super) struct GateLoop {
    pub(super) poll: Poll,
    listener: TcpListener,
    pub(super) config: GateConfig,
    connections_max: usize,
    pub(super) socket: PathBuf,
    pub(super) replies: Arc<Replies>,
    pub(super) pumps: Pumps,
    notices: Receiver<Notice>,
    pub(super) kept: Kept,
    pub(super) clients: BTreeMap<u64, Client>,
    pub(super) inners: BTreeMap<u64, Inner>,
    /// The one of them that all requests without a body go over.
    pub(super) lane: Option<u64>,
    pub(super) idle_inners: Vec<u64>,
    /// What the handlers have, by the numbers of the requests: no more than there are handlers.
    pub(super) handed: BTreeMap<u64, Handed>,
    pub(super) date: Date,
    /// Clients whose requests wait for a handler; a client that is closed leaves it.
    pub(super) queue: VecDeque<u64>,
    /// Those that bring a body, of which fewer are let in.
    pub(super) upload_queue: VecDeque<u64>,
    turns: Turns,
    /// Where sockets are read to.
    pub(super) scratch: Box<[u8]>,
    next_token: u64,
    next_sweep: Instant,
    pub(super) uploads: usize,
    /// The last time that a request was handed over.
    pub(super) handed_at: Instant,
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
        replies: Arc<Replies>,
        pumps: Pumps,
        notices: Receiver<Notice>,
    ) -> io::Result<Self> {
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            poll,
            listener,
            kept: Kept::new(config.kept_bytes_max),
            config,
            connections_max,
            socket,
            replies,
            pumps,
            notices,
            clients: BTreeMap::new(),
            inners: BTreeMap::new(),
            lane: None,
            idle_inners: Vec::new(),
            handed: BTreeMap::new(),
            date: Date::new(),
            queue: VecDeque::new(),
            upload_queue: VecDeque::new(),
            turns: Turns::default(),
            scratch: vec![0; READ_BYTES].into(),
            next_token: FIRST as u64,
            next_sweep: Instant::now(),
            uploads: 0,
            handed_at: Instant::now(),
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
                    Token(token) => self.on_ready(token as u64, event),
                }
            }
            if self.accept_again.is_some_and(|at| at <= Instant::now()) {
                self.accept();
            }
            self.take_replies();
            self.take_notices();
            for token in self.turns.begin() {
                self.take_turn(token);
            }
            self.sweep();
            self.flush();
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
        if self.handed.len() == 1 && self.handed_at.elapsed() < LOOK_TIME {
            // Whoever is to answer may wait for this processor.
            std::thread::yield_now();
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
            let _ = stream.write(text.as_bytes());
            return;
        }
        let token = self.token();
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(&mut stream, Token(token as usize), interest).is_ok() {
            let _ = stream.set_nodelay(true);
            self.clients.insert(token, Client::new(stream));
        }
    }

    pub(super) fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    fn on_ready(&mut self, token: u64, event: &Event) {
        if self.inners.contains_key(&token) {
            self.on_inner(token, event);
            return;
        }
        let Some(client) = self.clients.get_mut(&token) else { return };
        client.note(event);
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

    /// Goes on with a client that had more to do than one turn, or may have.
    fn take_turn(&mut self, token: u64) {
        match self.clients.get(&token).map(|client| &client.stage) {
            Some(Stage::Idle) => self.read(token),
            Some(Stage::Answering) => self.write(token),
            Some(Stage::Queued(_) | Stage::Working | Stage::Lingering) | None => {}
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
        if client.read(&mut self.scratch, Instant::now()).is_err() {
            return self.close(token, false);
        }
        match client.next_head() {
            Ok(None) if client.is_at_end() => self.close(token, false),
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
        let Some(client) = self.clients.get_mut(&token) else { return };
        let changes = (self.config.changes)();
        let end = connection_line(client.keep_alive);
        if let Some(answer) = self.kept.find(&head, end, changes, Instant::now()) {
            (self.config.answered)(200);
            (self.config.repeated)();
            client.answer(answer, Bytes::new(), None);
            return self.write(token);
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
    pub(super) fn refuse(&mut self, token: u64, status: u16, code: &str, message: &str) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        client.keep_alive = client.keep_alive && status != 400 && client.upload.is_none();
        client.keep_alive &= !matches!(status, 417 | 431 | 505);
        client.linger = !client.keep_alive;
        let mut text = refusal(status, code, message, client.keep_alive);
        if client.is_head {
            text.truncate(text.find("\r\n\r\n").map_or(text.len(), |at| at + 4));
        }
        (self.config.answered)(status);
        client.answer(text, Bytes::new(), None);
        self.write(token);
    }

    pub(super) fn write(&mut self, token: u64) {
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
                    // Not at once: a flood of pipelined requests has others between them.
                    if client.may_have_more() {
                        self.turns.insert(token);
                    }
                } else if !client.begin_linger() {
                    self.close(token, false);
                }
            }
            Err(Over) => self.close(token, true),
        }
    }

    pub(super) fn close(&mut self, token: u64, abort: bool) {
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
        self.abandon(token);
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
        let late = self.clients.iter().filter(|(_, client)| client.is_late(now));
        let late: Vec<u64> = late.map(|(token, _)| *token).collect();
        for token in late {
            let abort = self.clients.get(&token).is_some_and(Client::is_busy);
            self.close(token, abort);
        }
    }
}
