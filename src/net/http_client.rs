//! A blocking HTTP/1.1 client over plain TCP: the way to a serving node, and to routers. A
//! connection carries one exchange.

use std::{
    fmt,
    io::{self, BufRead as _, BufReader, ErrorKind, Read, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    time::{Duration, Instant},
};

/// Bytes of an answer's head at most.
const HEAD_BYTES_MAX: u64 = 64 << 10;
const HEADERS_MAX: usize = 64;
/// Bytes of the line before a chunk at most.
const CHUNK_LINE_BYTES_MAX: u64 = 256;
/// Bytes of a body that are sent as one chunk.
const CHUNK_BYTES: usize = 128 << 10;
/// Digits of a chunk's size, and the line's end.
const CHUNK_HEAD_BYTES: usize = 10;
/// Who does not answer a SYN is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An `http://HOST[:PORT]/PATH` that can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    authority: String,
    path: String,
}

impl Url {
    /// Reads one; `None` if it is no plain HTTP, or has a user, a query or a fragment before its
    /// path.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_at_checked(7)?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        let is_sound = scheme.eq_ignore_ascii_case("http://")
            && !authority.is_empty()
            && !authority.contains(['@', '?', '\\'])
            && plain(rest);
        let path = if path.is_empty() { "/" } else { path };
        is_sound.then(|| Self { authority: authority.into(), path: path.into() })
    }

    fn connect(&self, deadline: Option<Instant>) -> io::Result<TcpStream> {
        let behind_brackets = self.authority.rsplit(']').next().unwrap_or_default();
        let port = if behind_brackets.contains(':') { "" } else { ":80" };
        let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
        for address in format!("{}{port}", self.authority).to_socket_addrs()? {
            let left = deadline.map_or(Ok(CONNECT_TIMEOUT), time_left)?;
            match TcpStream::connect_timeout(&address, left.min(CONNECT_TIMEOUT)) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// What is sent behind the head.
pub enum Content<'a> {
    /// Nothing.
    None,
    /// These.
    Bytes(&'a [u8]),
    /// As many bytes as the reader gives, in chunks.
    Stream(&'a mut dyn Read),
}

/// What is asked of a server.
pub struct Request<'a> {
    method: &'a str,
    url: &'a Url,
    head: String,
    deadline: Option<Instant>,
}

impl<'a> Request<'a> {
    /// Asks `method` of `url`.
    pub fn new(method: &'a str, url: &'a Url) -> Self {
        Self { method, url, head: String::new(), deadline: None }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.head.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// The whole answer must have come in this time, once the name is resolved.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Self {
        self.deadline = Some(Instant::now() + time);
        self
    }

    /// Sends it, and reads the head of the answer, whatever its status. Redirects are not
    /// followed.
    ///
    /// # Errors
    /// If there is no answer, or none of HTTP.
    pub fn send(self, content: Content<'_>) -> io::Result<Response> {
        let stream = self.url.connect(self.deadline)?;
        let mut socket = Socket { stream, deadline: self.deadline };
        let framing = match (&content, self.method) {
            (Content::Stream(_), _) => "Transfer-Encoding: chunked\r\n".into(),
            (Content::Bytes(bytes), _) => format!("Content-Length: {}\r\n", bytes.len()),
            (Content::None, "GET" | "HEAD") => String::new(),
            (Content::None, _) => "Content-Length: 0\r\n".into(),
        };
        let head = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{framing}{}\r\n",
            self.method, self.url.path, self.url.authority, self.head
        );
        let sent = socket.write(head.as_bytes()).and_then(|()| match content {
            Content::None => Ok(()),
            Content::Bytes(bytes) => socket.write(bytes),
            Content::Stream(source) => socket.write_chunks(source),
        });
        // Who refuses a body may answer before it has come, and close.
        let answer = Response::read(BufReader::new(socket), self.method == "HEAD");
        match sent {
            Err(error) if answer.is_err() => Err(error),
            Ok(()) | Err(_) => answer,
        }
    }
}

/// The stream, held to a deadline.
struct Socket {
    stream: TcpStream,
    deadline: Option<Instant>,
}

impl Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(deadline) = self.deadline {
            self.stream.set_write_timeout(Some(time_left(deadline)?))?;
        }
        self.stream.write_all(bytes)
    }

    fn write_chunks(&mut self, source: &mut dyn Read) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK_HEAD_BYTES + CHUNK_BYTES + 2];
        loop {
            let room = &mut buffer[CHUNK_HEAD_BYTES..CHUNK_HEAD_BYTES + CHUNK_BYTES];
            let len = match source.read(room) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let end = CHUNK_HEAD_BYTES + len;
            let head = format!("{len:x}\r\n");
            let start = CHUNK_HEAD_BYTES - head.len();
            buffer[start..CHUNK_HEAD_BYTES].copy_from_slice(head.as_bytes());
            buffer[end..end + 2].copy_from_slice(b"\r\n");
            self.write(&buffer[start..end + 2])?;
            if len == 0 {
                return Ok(());
            }
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(deadline) = self.deadline {
            self.stream.set_read_timeout(Some(time_left(deadline)?))?;
        }
        self.stream.read(buffer)
    }
}

fn time_left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::Error::new(ErrorKind::TimedOut, "no answer in time"));
    }
    Ok(left)
}

/// An answer; its body is read from it.
pub struct Response {
    /// The status.
    pub status: u16,
    /// Bytes of the body, if the head says so.
    pub length: Option<u64>,
    body: Body,
    source: BufReader<Socket>,
}

/// What is left of a body.
enum Body {
    /// So many bytes.
    Length(u64),
    /// So many bytes of a chunk, and more chunks.
    Chunk(u64),
    /// Whatever comes until the connection ends.
    Open,
}

impl Response {
    fn read(mut source: BufReader<Socket>, is_head: bool) -> io::Result<Self> {
        loop {
            let text = read_head(&mut source)?;
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut head = httparse::Response::new(&mut headers);
            head.parse(&text).map_err(io::Error::other)?;
            let status = head.code.ok_or(ErrorKind::InvalidData)?;
            if (100..200).contains(&status) {
                continue;
            }
            let value = |name: &str| {
                let header =
                    head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
                header.and_then(|header| std::str::from_utf8(header.value).ok())
            };
            let length = value("content-length").and_then(|text| text.trim().parse().ok());
            let chunked = value("transfer-encoding")
                .is_some_and(|text| text.trim().eq_ignore_ascii_case("chunked"));
            let body = match length {
                _ if is_head || matches!(status, 204 | 304) => Body::Length(0),
                _ if chunked => Body::Chunk(0),
                Some(length) => Body::Length(length),
                None => Body::Open,
            };
            return Ok(Self { status, length: length.filter(|_| !chunked), body, source });
        }
    }

    /// Whether it was done.
    pub const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }

    /// The next chunk's size, behind the end of the last one.
    fn next_chunk(&mut self) -> io::Result<u64> {
        let mut line = Vec::new();
        while line.is_empty() {
            let mut bounded = self.source.by_ref().take(CHUNK_LINE_BYTES_MAX);
            if bounded.read_until(b'\n', &mut line)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if line == b"\r\n" {
                line.clear();
            }
        }
        match httparse::parse_chunk_size(&line) {
            Ok(httparse::Status::Complete((_, size))) => Ok(size),
            Ok(httparse::Status::Partial) | Err(_) => {
                Err(io::Error::new(ErrorKind::InvalidData, "the answer's chunks are malformed"))
            }
        }
    }
}

impl Read for Response {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if matches!(self.body, Body::Chunk(0)) {
            self.body = match self.next_chunk()? {
                0 => Body::Length(0),
                size => Body::Chunk(size),
            };
        }
        let (Body::Length(left) | Body::Chunk(left)) = &mut self.body else {
            return self.source.read(buffer);
        };
        let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.source.read(&mut buffer[..most])?;
        if read == 0 && most > 0 {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "the answer is cut short"));
        }
        *left -= read as u64;
        Ok(read)
    }
}

/// The lines up to the empty one.
fn read_head(source: &mut BufReader<Socket>) -> io::Result<Vec<u8>> {
    let mut bounded = source.take(HEAD_BYTES_MAX);
    let mut head = Vec::new();
    loop {
        let line = bounded.read_until(b'\n', &mut head)?;
        if !head.ends_with(b"\n") {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "the answer has no whole head"));
        }
        if line <= 2 && (head.ends_with(b"\n\r\n") || head.ends_with(b"\n\n")) {
            return Ok(head);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::TcpListener, thread};

    /// Answers one exchange with `answer`, and gives what it was asked.
    fn exchange(answer: &'static [u8], content: Content<'_>) -> (io::Result<Response>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}/x?y=1", listener.local_addr().unwrap())).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // Who gives up an answer resets the connection.
            let _ = stream.write_all(answer);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut asked = Vec::new();
            let _ = stream.read_to_end(&mut asked);
            asked
        });
        let request = Request::new("POST", &url).header("a", "b").within(Duration::from_secs(5));
        let response = request.send(content).and_then(|mut response| {
            let mut text = String::new();
            response.read_to_string(&mut text)?;
            assert_eq!(text, "hello world");
            Ok(response)
        });
        let response = response.inspect(|response| {
            let _ = response.source.get_ref().stream.shutdown(std::net::Shutdown::Both);
        });
        (response, server.join().unwrap())
    }

    #[test]
    fn every_framing_gives_the_body_and_a_cut_one_an_error() {
        for answer in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello worldjunk"[..],
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:11\r\n\r\nhello world",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6;x=y\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\nhello world",
        ] {
            let (response, asked) = exchange(answer, Content::None);
            assert_eq!(response.unwrap().status, 200);
            let asked = String::from_utf8(asked).unwrap();
            assert!(asked.starts_with("POST /x?y=1 HTTP/1.1\r\nHost: 127.0.0.1:"), "{asked}");
            assert!(asked.ends_with("Content-Length: 0\r\na: b\r\n\r\n"), "{asked}");
        }
        for cut in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello world"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n!\r\nhello world\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"nonsense\r\n\r\n",
            b"",
        ] {
            assert!(exchange(cut, Content::None).0.is_err());
        }
    }

    #[test]
    fn an_endless_head_or_chunk_line_is_given_up() {
        let head = [b"HTTP/1.1 200 OK\r\n", &b"a: b\r\n".repeat(20_000)[..]].concat();
        assert!(exchange(head.leak(), Content::None).0.is_err());
        let line =
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &b"0".repeat(1_000_000)[..]];
        assert!(exchange(line.concat().leak(), Content::None).0.is_err());
    }

    #[test]
    fn a_stream_is_sent_in_chunks_as_it_comes() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world";
        let (response, asked) = exchange(answer, Content::Stream(&mut &b"some bytes"[..]));
        assert!(response.unwrap().is_success());
        let asked = String::from_utf8(asked).unwrap();
        assert!(asked.contains("Transfer-Encoding: chunked\r\n"), "{asked}");
        assert!(asked.ends_with("\r\n\r\na\r\nsome bytes\r\n0\r\n\r\n"), "{asked}");
    }

    #[test]
    fn a_server_that_says_nothing_is_left_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let since = Instant::now();
        let request = Request::new("GET", &url).within(Duration::from_millis(200));
        assert!(request.send(Content::None).is_err());
        assert!(since.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn only_plain_urls_are_read() {
        let url = |authority: &str, path: &str| {
            Some(Url { authority: authority.into(), path: path.into() })
        };
        assert_eq!(Url::parse("http://h:1/a?b"), url("h:1", "/a?b"));
        assert_eq!(Url::parse("HTTP://[::1]"), url("[::1]", "/"));
        for wrong in [
            "https://h",
            "http://",
            "http:///a",
            "http://u@h",
            "http://h /",
            "h:1",
            "http://h/\r\nx",
        ] {
            assert_eq!(Url::parse(wrong), None, "{wrong}");
        }
    }
}
