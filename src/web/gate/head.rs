//! The head of a request, parsed so strictly that no two readers can differ on it (RFC 9112).

use super::request::TICKET_HEADER;

/// Bytes of a head at most.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// Headers of a request at most.
pub const HEADERS_MAX: usize = 100;

/// How the body of a request is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// So many bytes; most requests have none.
    Known(u64),
    /// Chunks, up to an empty one.
    Chunked,
}

/// A sound head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// As it was sent, in capitals.
    pub method: String,
    /// Path and query, beginning with a slash.
    pub target: String,
    /// Names in small letters, with their values.
    pub headers: Vec<(String, String)>,
    /// What follows the head.
    pub body: BodyLength,
    /// Whether the connection stays open for more.
    pub keep_alive: bool,
    /// Bytes of the head.
    pub len: usize,
}

/// Why a head is refused, as the status of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// 400: ambiguous or malformed.
    Bad(&'static str),
    /// 431: longer than [`HEAD_BYTES_MAX`], or more than [`HEADERS_MAX`] headers.
    TooLarge,
    /// 505: neither HTTP/1.1 nor 1.0.
    Version,
    /// 417: an expectation other than 100-continue.
    Expectation,
}

impl HeadError {
    /// The status and a text for people.
    pub const fn answer(self) -> (u16, &'static str) {
        match self {
            Self::Bad(why) => (400, why),
            Self::TooLarge => (431, "the request's head is too large"),
            Self::Version => (505, "HTTP/1.1 is spoken here"),
            Self::Expectation => (417, "only 100-continue can be expected"),
        }
    }
}

impl Head {
    /// Reads the head at the start of `bytes`; `None` if it is not whole yet.
    ///
    /// # Errors
    /// [`HeadError`]; the connection must be closed after the answer.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, HeadError> {
        let end = match bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            Some(at) if at + 4 <= HEAD_BYTES_MAX => at + 4,
            None if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
            Some(_) | None => return Err(HeadError::TooLarge),
        };
        let bytes = &bytes[..end];
        check_bytes(bytes)?;
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(bytes) {
            Ok(httparse::Status::Complete(len)) if len == end => {}
            Ok(_) => return Err(HeadError::Bad("the head is malformed")),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
            Err(httparse::Error::Version) => return Err(HeadError::Version),
            Err(_) => return Err(HeadError::Bad("the head is malformed")),
        }
        let method = request.method.unwrap_or_default();
        let target = request.path.unwrap_or_default();
        if !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(HeadError::Bad("the method is malformed"));
        }
        // Neither the absolute nor the authority form: we are no proxy.
        let is_whole_server = method == "OPTIONS" && target == "*";
        if !target.starts_with('/') && !is_whole_server {
            return Err(HeadError::Bad("the request's target must begin with a slash"));
        }
        if !target.is_ascii() {
            return Err(HeadError::Bad("the request's target is not ASCII"));
        }
        let headers: Vec<(String, String)> = request
            .headers
            .iter()
            .map(|header| {
                // Nor does tiny_http take anything else.
                let value = std::str::from_utf8(header.value).ok().filter(|text| text.is_ascii());
                let value = value.ok_or(HeadError::Bad("a header is not ASCII"))?;
                Ok((header.name.to_ascii_lowercase(), value.trim().to_owned()))
            })
            .collect::<Result<_, _>>()?;
        let one_dot_one = request.version == Some(1);
        let head = Self {
            method: method.into(),
            target: target.into(),
            body: body_length(&headers, one_dot_one)?,
            keep_alive: keep_alive(&headers, one_dot_one),
            headers,
            len: end,
        };
        head.check_hosts(one_dot_one)?;
        if head.all("expect").any(|value| !value.eq_ignore_ascii_case("100-continue")) {
            return Err(HeadError::Expectation);
        }
        Ok(Some(head))
    }

    fn check_hosts(&self, one_dot_one: bool) -> Result<(), HeadError> {
        match self.all("host").count() {
            1 => Ok(()),
            0 if !one_dot_one => Ok(()),
            0 => Err(HeadError::Bad("the Host header is missing")),
            _ => Err(HeadError::Bad("there is more than one Host header")),
        }
    }

    /// The first value of a header, by its name in small letters.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| &value[..])
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(own, _)| own == name).map(|(_, value)| &value[..])
    }

    /// Whether the client waits for a go-ahead before it sends the body.
    pub fn expects_continue(&self) -> bool {
        self.get("expect").is_some()
    }

    /// Appends the head as it is passed on, with the gate's own ticket: only what was understood,
    /// the body in chunks.
    pub(super) fn write_inner(&self, ticket: &str, output: &mut Vec<u8>) {
        write_start(&self.method, &self.target, ticket, output);
        for (name, value) in &self.headers {
            let ours = matches!(
                &name[..],
                "connection"
                    | "content-length"
                    | "expect"
                    | "transfer-encoding"
                    | "upgrade"
                    | "te"
                    | TICKET_HEADER
            );
            if !ours {
                put_all(output, &[name, ": ", value, "\r\n"]);
            }
        }
        if self.body != BodyLength::Known(0) {
            put_all(output, &["transfer-encoding: chunked\r\n"]);
        }
        put_all(output, &["\r\n"]);
    }
}

/// A request of the gate's own, which anything answers.
pub(super) fn probe(ticket: &str) -> Vec<u8> {
    let mut output = Vec::new();
    write_start("OPTIONS", "/probe", ticket, &mut output);
    put_all(&mut output, &["host: inner\r\n\r\n"]);
    output
}

fn write_start(method: &str, target: &str, ticket: &str, output: &mut Vec<u8>) {
    put_all(output, &[method, " ", target, " HTTP/1.1\r\n", TICKET_HEADER, ": ", ticket, "\r\n"]);
}

fn put_all(output: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        output.extend_from_slice(part.as_bytes());
    }
}

/// Control characters, bare line ends and folded lines are where parsers differ.
fn check_bytes(bytes: &[u8]) -> Result<(), HeadError> {
    let mut before = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let next = bytes.get(at + 1).copied();
        let sound = match byte {
            b'\r' => next == Some(b'\n'),
            b'\n' => before == b'\r' && !matches!(next, Some(b' ' | b'\t')),
            b'\t' => true,
            0..=31 | 127 => false,
            _ => true,
        };
        if !sound {
            return Err(HeadError::Bad("the head holds a control character"));
        }
        before = byte;
    }
    Ok(())
}

fn body_length(headers: &[(String, String)], one_dot_one: bool) -> Result<BodyLength, HeadError> {
    let all = |name: &'static str| headers.iter().filter(move |(own, _)| own == name);
    let mut lengths = all("content-length");
    let mut encodings = all("transfer-encoding");
    match (lengths.next(), encodings.next()) {
        (None, None) => Ok(BodyLength::Known(0)),
        (Some(_), Some(_)) => Err(HeadError::Bad("both Content-Length and Transfer-Encoding")),
        (Some((_, length)), None) => {
            let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
            if lengths.next().is_some() || !digits {
                return Err(HeadError::Bad("the Content-Length is ambiguous"));
            }
            let length = length.parse().map_err(|_| HeadError::Bad("a huge Content-Length"))?;
            Ok(BodyLength::Known(length))
        }
        (None, Some((_, encoding))) => {
            let chunked = encoding.eq_ignore_ascii_case("chunked");
            if encodings.next().is_some() || !chunked || !one_dot_one {
                return Err(HeadError::Bad("a Transfer-Encoding other than chunked"));
            }
            Ok(BodyLength::Chunked)
        }
    }
}

fn keep_alive(headers: &[(String, String)], one_dot_one: bool) -> bool {
    let said = |word: &str| {
        headers
            .iter()
            .filter(|(name, _)| name == "connection")
            .any(|(_, value)| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)))
    };
    if one_dot_one { !said("close") } else { said("keep-alive") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Head>, HeadError> {
        Head::parse(text.as_bytes())
    }

    #[test]
    fn a_sound_head_is_read_and_what_is_passed_on_is_what_was_understood() {
        let text = "POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\
             X-Barrow-Ticket: another\r\n\r\n";
        let head = parse(text).unwrap().unwrap();
        assert_eq!(
            (head.body, head.keep_alive, head.len),
            (BodyLength::Known(5), true, text.len())
        );
        assert!(head.expects_continue());
        let mut inner = Vec::new();
        head.write_inner("ours", &mut inner);
        assert_eq!(
            inner,
            b"POST /a?b HTTP/1.1\r\nx-barrow-ticket: ours\r\nhost: x\r\n\
              transfer-encoding: chunked\r\n\r\n"
        );
        for cut in 0..text.len() {
            assert_eq!(parse(&text[..cut]), Ok(None), "cut at {cut}");
        }
    }

    #[test]
    fn whatever_two_parsers_may_read_in_two_ways_is_refused() {
        for (lines, target) in [
            ("Content-Length: 5\r\nContent-Length: 6\r\n", "/"),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", "/"),
            ("Content-Length: 5, 5\r\n", "/"),
            ("Content-Length: +5\r\n", "/"),
            ("Content-Length: -5\r\n", "/"),
            ("Content-Length: 4x\r\n", "/"),
            ("Content-Length: 0x5\r\n", "/"),
            ("Content-Length: \r\n", "/"),
            ("Content-Length: 99999999999999999999999\r\n", "/"),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "/"),
            ("Transfer-Encoding: gzip, chunked\r\n", "/"),
            ("Transfer-Encoding: xchunked\r\n", "/"),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "/"),
            ("Transfer-Encoding : chunked\r\n", "/"),
            ("Host: y\r\n", "/"),
            ("X: a\r\n folded\r\n", "/"),
            ("X: a\0b\r\n", "/"),
            ("X: a\nY: b\r\n", "/"),
            ("X: a\rY: b\r\n", "/"),
            ("X: a\x07b\r\n", "/"),
            (": no name\r\n", "/"),
            ("no colon\r\n", "/"),
            ("", "http://x/"),
            ("", "x:80"),
            ("", "*"),
            ("", "/a b"),
        ] {
            let text = format!("GET {target} HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
            assert!(parse(&text).is_err(), "{text:?}");
        }
        assert!(parse("GET / HTTP/1.1\r\n\r\n").is_err(), "no Host");
        assert!(parse("get / HTTP/1.1\r\nHost: x\r\n\r\n").is_err());
        assert!(parse("GET / HTTP/2.0\r\nHost: x\r\n\r\n").is_err());
        assert!(parse("GET / HTTP/1.1\r\nHost: x\r\nExpect: more\r\n\r\n").is_err());
    }

    #[test]
    fn a_head_is_bounded_in_bytes_and_headers() {
        let many = "A: b\r\n".repeat(HEADERS_MAX + 1);
        let text = format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n");
        assert_eq!(parse(&text), Err(HeadError::TooLarge));
        let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(HEAD_BYTES_MAX));
        assert_eq!(parse(&long), Err(HeadError::TooLarge));
        assert_eq!(parse(&"A".repeat(HEAD_BYTES_MAX)), Err(HeadError::TooLarge));
    }
}
