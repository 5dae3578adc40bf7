//! The gate before tiny_http: a mio loop that accepts the public sockets, holds caps and
//! deadlines, and parses strictly. Sound requests go on to tiny_http over a private Unix socket.
//!
//! A handler's answer is handed to the gate in memory, under the ticket that came with the request:
//! a request that brings none of the gate's is not answered. The gate pulls the chunks of the
//! answer's [`Body`] itself. Slow clients hold no thread, and nothing comes back over the socket.

mod answer;
mod body;
mod chunked;
mod connection;
mod date;
mod event_loop;
mod handing;
mod head;
mod inner;
mod kept;
mod replies;
mod request;
mod turns;

pub use body::Body;
pub use head::{BodyLength, HEAD_BYTES_MAX, HEADERS_MAX, Head, HeadError};
pub use request::{Reply, ReplyBody, Request, unescape, unescape_bytes};

use body::Pumps;
use crossbeam::channel::{Sender, unbounded};
use event_loop::{GateLoop, WAKER};
use mio::{Poll, Waker, net::TcpListener};
use replies::Replies;
use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

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
    /// Bytes of bodies that may wait for their clients, all together.
    pub body_bytes_max: usize,
    /// Bytes of small answers that never change, kept to be given again without a handler.
    pub kept_bytes_max: usize,
    /// What is refused before a handler sees it.
    pub policy: Policy,
    /// What answers.
    pub handler: Handler,
    /// Grows when answers that were given before may be untrue by now.
    pub changes: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Told of bytes sent.
    pub sent: Arc<dyn Fn(u64) + Send + Sync>,
    /// Told of each answer's status.
    pub answered: Arc<dyn Fn(u16) + Send + Sync>,
    /// Told of each answer that was given again.
    pub repeated: Arc<dyn Fn() + Send + Sync>,
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
    /// Bodies wait because others hold what slow clients do not take.
    Scarce,
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
        let listener = TcpListener::bind(config.address).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", config.address))
        })?;
        let address = listener.local_addr()?;
        let replies = Arc::new(Replies::new(wake.clone()));
        let handlers = request::Handlers::start(&config, &replies)?;
        // Bounded by the connections: each has at most a few chunks on their way.
        let (notices, notices_in) = unbounded();
        let notify = {
            let (wake, notices) = (wake.clone(), notices.clone());
            Arc::new(move |notice| {
                let _ = notices.send(notice);
                let _ = wake.wake();
            })
        };
        let connections_max = connections_max(config.connections_max);
        let pumps = Pumps::start(connections_max, config.body_bytes_max, notify)?;
        let socket = handlers.socket().to_owned();
        let gate = GateLoop::new(
            config,
            poll,
            listener,
            connections_max,
            socket,
            replies,
            pumps,
            notices_in,
        )?;
        let thread = std::thread::Builder::new().name("gate".into()).spawn(move || gate.run())?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use crossbeam::channel::{Receiver, bounded};
    use std::{
        io::{Read as _, Write as _},
        net::{Shutdown, TcpStream},
        task::Poll as Progress,
    };

    /// A body without end; its `Sender` ends with it.
    struct Held(#[expect(dead_code, reason = "what counts is when it is dropped")] Sender<()>);

    impl Body for Held {
        fn poll_chunk(&mut self, _: &std::task::Waker) -> Progress<Option<Result<Bytes, String>>> {
            Progress::Pending
        }
    }

    /// A gate whose one handler says that it has begun, reads the body, waits to go on, and
    /// answers with a body that is held by nobody else.
    fn gate(dir: &std::path::Path) -> (Gate, Receiver<()>, Sender<Sender<()>>) {
        let (begun, has_begun) = bounded(8);
        let (go, goes) = bounded::<Sender<()>>(8);
        let handler: Handler = Arc::new(move |request| {
            if request.method == "OPTIONS" {
                return Reply { status: 204, headers: vec![], body: ReplyBody::Absent(None) };
            }
            begun.send(()).unwrap();
            let _ = io::copy(request.body(), &mut io::sink());
            let held = Held(goes.recv().unwrap());
            Reply { status: 200, headers: vec![], body: ReplyBody::Stream(Box::new(held), None) }
        });
        (answering(dir, handler), has_begun, go)
    }

    fn config(dir: &std::path::Path, handler: Handler) -> GateConfig {
        GateConfig {
            address: ([127, 0, 0, 1], 0).into(),
            socket_dir: dir.into(),
            connections_max: 16,
            handlers: 1,
            body_bytes_max: 1 << 20,
            kept_bytes_max: 0,
            policy: Arc::new(|_| Ok(())),
            handler,
            changes: Arc::new(|| 0),
            sent: Arc::new(|_| ()),
            answered: Arc::new(|_| ()),
            repeated: Arc::new(|| ()),
        }
    }

    #[test]
    fn what_a_client_that_left_would_have_got_is_freed() {
        let dir = tempfile::tempdir().unwrap();
        let (gate, has_begun, go) = gate(dir.path());
        let requests = [
            "GET / HTTP/1.1\r\nhost: here\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 9\r\n\r\nhalf",
            "GET / HTTP/1.1\r\nhost: here\r\n\r\n",
        ];
        for request in requests {
            let mut client = TcpStream::connect(gate.address()).unwrap();
            client.write_all(request.as_bytes()).unwrap();
            has_begun.recv_timeout(Duration::from_secs(10)).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            // The gate closes it, having seen the end; then the handler answers.
            let _ = client.read_to_end(&mut Vec::new());
            let (held, is_dropped) = bounded(1);
            go.send(held).unwrap();
            let dropped = is_dropped.recv_timeout(Duration::from_secs(10));
            assert_eq!(
                dropped,
                Err(crossbeam::channel::RecvTimeoutError::Disconnected),
                "{request}"
            );
        }
        gate.shutdown(Duration::from_secs(1));
    }

    /// A gate of one handler.
    fn answering(dir: &std::path::Path, handler: Handler) -> Gate {
        Gate::start(config(dir, handler)).unwrap()
    }

    fn exchange(gate: &Gate, request: &str) -> String {
        let mut client = TcpStream::connect(gate.address()).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn what_a_handler_leaves_of_a_body_is_no_request() {
        let dir = tempfile::tempdir().unwrap();
        let (saw, seen) = crossbeam::channel::unbounded();
        let handler: Handler = Arc::new(move |request| {
            saw.send(request.path.clone()).unwrap();
            let _ = request.body().read_exact(&mut [0; 3]);
            Reply::new(200, "text/plain", "done")
        });
        let gate = answering(dir.path(), handler);
        let body = "abcPOST /smuggled HTTP/1.1\r\nhost: here\r\n\r\n";
        let length = body.len();
        let head = format!("POST / HTTP/1.1\r\nhost: here\r\ncontent-length: {length}\r\n");
        for _ in 0..50 {
            let answer = exchange(&gate, &format!("{head}connection: close\r\n\r\n{body}"));
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        gate.shutdown(Duration::from_secs(1));
        assert!(seen.try_iter().all(|path| path == "/" || path == "/probe"));
    }

    #[test]
    fn a_body_that_was_cut_off_anywhere_ends_with_an_error_and_a_whole_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let (begun, has_begun) = bounded(1);
        let (go, goes) = bounded::<()>(1);
        let (say, said) = bounded(1);
        let handler: Handler = Arc::new(move |request| {
            if request.method == "POST" {
                begun.send(()).unwrap();
                goes.recv().unwrap();
                say.send(io::copy(request.body(), &mut io::sink()).ok()).unwrap();
            }
            Reply::new(200, "text/plain", "done")
        });
        let gate = answering(dir.path(), handler);
        let post = |head: &str, sent| {
            let mut client = TcpStream::connect(gate.address()).unwrap();
            write!(client, "POST / HTTP/1.1\r\nhost: here\r\n{head}{}", "x".repeat(sent)).unwrap();
            has_begun.recv().unwrap();
            client
        };
        let known = "content-length: 1048575\r\n\r\n";
        let chunked = "transfer-encoding: chunked\r\n\r\nfffff\r\n";
        // Most fill all that the gate holds for a handler, whose chunks then end anywhere.
        for sent in [0, 1, 30_000, 300_000, 700_000, 1_000_003] {
            for (head, reset) in [(known, false), (known, true), (chunked, false), (chunked, true)]
            {
                let client = post(head, sent);
                if reset {
                    let at_once = Some(Duration::ZERO);
                    rustix::net::sockopt::set_socket_linger(&client, at_once).unwrap();
                }
                drop(client);
                go.send(()).unwrap();
                assert_eq!(said.recv(), Ok(None), "{sent} bytes of {head:?}, reset: {reset}");
            }
        }
        for head in [known, chunked] {
            let mut client = post(head, 0xf_ffff);
            client.write_all(if head == known { b"" } else { b"\r\n0\r\n\r\n" }).unwrap();
            go.send(()).unwrap();
            assert_eq!(said.recv(), Ok(Some(0xf_ffff)), "{head:?}");
        }
        gate.shutdown(Duration::from_secs(1));
    }

    #[test]
    fn a_handler_that_panics_leaves_the_others_their_answers() {
        let dir = tempfile::tempdir().unwrap();
        let handler: Handler = Arc::new(|request| {
            assert!(request.path != "/bug", "a bug");
            Reply::new(200, "text/plain", "done")
        });
        let gate = answering(dir.path(), handler);
        for (path, status) in [("/bug", 500), ("/", 200), ("/bug", 500), ("/", 200)] {
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            let answer = exchange(&gate, &request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        }
        gate.shutdown(Duration::from_secs(1));
    }
}
