//! What a handler sees and says, and the threads that run handlers behind tiny_http.

use super::{Body, GateConfig, Handler, replies::Replies};
use bytes::Bytes;
use std::{
    fs, io,
    io::Read,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tiny_http::{Server, StatusCode};

/// Tells a handler, with a request, where its answer is awaited; it never leaves the gate.
pub(super) const TICKET_HEADER: &str = "x-barrow-ticket";

/// A request, parsed.
pub struct Request<'a> {
    /// GET, HEAD, POST and so on.
    pub method: String,
    /// The path, as it was sent: still escaped.
    pub path: String,
    /// What follows the question mark, still escaped.
    pub query: String,
    headers: Vec<(String, String)>,
    body: &'a mut dyn Read,
}

impl Request<'_> {
    /// A header's value, by its name in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| &value[..])
    }

    /// The body; it ends with an error if the client leaves in the middle.
    pub fn body(&mut self) -> &mut dyn Read {
        self.body
    }

    /// A parameter of the query, unescaped; the first of its name.
    pub fn param(&self, name: &str) -> Option<String> {
        self.params(name).next()
    }

    /// All parameters of a name, unescaped.
    pub fn params<'a>(&'a self, name: &'a str) -> impl Iterator<Item = String> + 'a {
        self.query.split('&').filter_map(move |pair| {
            let (own, value) = pair.split_once('=').unwrap_or((pair, ""));
            (own == name).then(|| unescape(&value.replace('+', " ")))?
        })
    }
}

/// Undoes percent escapes; `None` if they are malformed or yield no UTF-8.
pub fn unescape(text: &str) -> Option<String> {
    String::from_utf8(unescape_bytes(text)?).ok()
}

/// Undoes percent escapes; `None` if they are malformed.
pub fn unescape_bytes(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let (digits, tail) = rest.split_first_chunk::<2>()?;
            let digits = std::str::from_utf8(digits).ok()?;
            if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(byte);
        }
    }
    Some(bytes)
}

/// A handler's answer.
pub struct Reply {
    /// The status.
    pub status: u16,
    /// Names in small letters, and values; control characters in values are replaced.
    pub headers: Vec<(&'static str, String)>,
    /// What follows.
    pub body: ReplyBody,
}

/// The body of an answer.
pub enum ReplyBody {
    /// These bytes.
    Bytes(Bytes),
    /// Bytes to come, with their number if it is known.
    Stream(Box<dyn Body>, Option<u64>),
    /// Nothing, of an announced length: the answer to HEAD.
    Absent(Option<u64>),
}

impl Reply {
    /// An answer with these bytes.
    pub fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let headers = vec![("content-type", content_type.to_owned())];
        Self { status, headers, body: ReplyBody::Bytes(body.into()) }
    }

    /// The value of a header, by its name in small letters.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| *own == name).map(|(_, value)| &value[..])
    }

    /// With one header more.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// The usual words for a status.
pub(super) fn reason(status: u16) -> &'static str {
    StatusCode(status).default_reason_phrase()
}

/// A handler that has answered looks so long for the next request before it sleeps: small answers
/// take less time than it takes to wake a thread.
const LOOK_TIME: Duration = Duration::from_micros(50);

/// tiny_http and its threads.
pub(super) struct Handlers {
    server: Arc<Server>,
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    socket: PathBuf,
}

impl Handlers {
    pub(super) fn start(config: &GateConfig, replies: &Arc<Replies>) -> io::Result<Self> {
        let socket = config.socket_dir.join("http.sock");
        match fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let server = Server::http_unix(&socket).map_err(io::Error::other)?;
        let server = Arc::new(server);
        let stopping = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for n in 0..config.handlers {
            let (server, handler) = (server.clone(), config.handler.clone());
            let (replies, stopping) = (replies.clone(), stopping.clone());
            let thread = thread::Builder::new().name(format!("http-{n}"));
            threads.push(thread.spawn(move || serve(&server, &handler, &replies, &stopping))?);
        }
        Ok(Self { server, stopping, threads, socket })
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) fn stop(self) {
        // First: one that looks for a request instead of waiting may take another's call.
        self.stopping.store(true, Ordering::SeqCst);
        for _ in &self.threads {
            self.server.unblock();
        }
        for thread in self.threads {
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.socket);
    }
}

fn serve(server: &Server, handler: &Handler, replies: &Replies, stopping: &AtomicBool) {
    while let Some(mut inner) = next_request(server, stopping) {
        let ticket = inner.headers().iter().find(|header| header.field.equiv(TICKET_HEADER));
        let number = ticket.and_then(|ticket| replies.number(ticket.value.as_str()));
        if let Some(number) = number {
            let reply = answer(&mut inner, handler, &|| replies.length(number));
            replies.put(number, reply);
        } else {
            // The gate has not let this through: it is what a handler left of a body.
            log::warn!("a request without a ticket is left unanswered");
        }
        // Nothing is said here, so that no answer waits for another.
        drop(inner.into_writer());
    }
}

/// The next request, or none at the end.
fn next_request(server: &Server, stopping: &AtomicBool) -> Option<tiny_http::Request> {
    let since = Instant::now();
    while since.elapsed() < LOOK_TIME {
        if let Ok(Some(request)) = server.try_recv() {
            return Some(request);
        }
        if stopping.load(Ordering::SeqCst) {
            return None;
        }
        thread::yield_now();
    }
    server.recv().ok()
}

/// A body that ends with an error where its end did not come: to tiny_http, a connection that is
/// ended within a chunk has said all.
struct WholeBody<'a> {
    reader: &'a mut dyn Read,
    /// Of how many bytes it is, once that is known.
    length: &'a dyn Fn() -> Option<u64>,
    read: u64,
}

impl Read for WholeBody<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.read += read as u64;
        let at_end = read == 0 && !buffer.is_empty();
        if at_end && (self.length)() != Some(self.read) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(read)
    }
}

/// What the handler says; `length` tells of how many bytes the body is, once all of it came.
fn answer(
    inner: &mut tiny_http::Request,
    handler: &Handler,
    length: &dyn Fn() -> Option<u64>,
) -> Reply {
    let url = inner.url().to_owned();
    let (path, query) = url.split_once('?').unwrap_or((&url, ""));
    let headers: Vec<(String, String)> = inner
        .headers()
        .iter()
        .map(|header| {
            (header.field.as_str().as_str().to_ascii_lowercase(), header.value.to_string())
        })
        .collect();
    // The gate says so of all that have a body, and of no others.
    let has_body = headers.iter().any(|(name, _)| name == "transfer-encoding");
    let mut request = Request {
        method: inner.method().to_string(),
        path: path.into(),
        query: query.into(),
        headers,
        body: &mut WholeBody {
            reader: inner.as_reader(),
            length: if has_body { length } else { &|| Some(0) },
            read: 0,
        },
    };
    // A bug in one handler is not to leave the others without an answer.
    let caught = panic::catch_unwind(AssertUnwindSafe(|| handler(&mut request)));
    let failed = r#"{"error":{"code":"internal","message":"the handler failed"}}"#;
    caught.unwrap_or_else(|_| Reply::new(500, "application/json", failed))
}
