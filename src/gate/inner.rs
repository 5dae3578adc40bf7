//! One connection to tiny_http, kept as long as it serves.

use mio::net::UnixStream;
use std::io::{self, Read as _, Write as _};

/// Bytes of an answer at most: a head without a body.
const ANSWER_BYTES_MAX: usize = 4 << 10;
/// Headers of an answer at most.
const HEADERS_MAX: usize = 16;

/// A connection to the handlers.
pub(super) struct Inner {
    pub(super) stream: UnixStream,
    /// The client whose request it carries.
    pub(super) client: Option<u64>,
    /// What is still to be written.
    pub(super) output: Vec<u8>,
    input: Vec<u8>,
    /// It carries a body; such a connection is not used again.
    pub(super) spent: bool,
    /// The handlers have closed it.
    pub(super) ended: bool,
    /// It has not answered yet whether a thread of the handlers has it.
    pub(super) is_probing: bool,
}

/// What tiny_http says of an answer; the answer itself goes beside it.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) date: String,
}

impl Inner {
    /// A new connection, with a request that anything answers.
    pub(super) fn probe(stream: UnixStream) -> Self {
        let output = b"OPTIONS /probe HTTP/1.1\r\nhost: inner\r\n\r\n".to_vec();
        let (client, input) = (None, Vec::new());
        Self { stream, client, output, input, spent: false, ended: false, is_probing: true }
    }

    /// Writes what waits.
    pub(super) fn write(&mut self) -> io::Result<()> {
        let mut written = 0;
        while written < self.output.len() {
            match self.stream.write(&self.output[written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(some) => written += some,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.drain(..written);
        Ok(())
    }

    /// Reads the answer, once it is whole. `ends` tells that there will be no event of more.
    pub(super) fn read(&mut self, ends: bool) -> io::Result<Option<Answer>> {
        let mut buffer = [0; 1_024];
        let mut is_drained = false;
        while !(self.ended || is_drained) {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(read) => {
                    self.input.extend_from_slice(&buffer[..read]);
                    is_drained = read < buffer.len() && !ends;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => is_drained = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.input.len() > ANSWER_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let malformed = |_| io::Error::from(io::ErrorKind::InvalidData);
        let httparse::Status::Complete(len) = response.parse(&self.input).map_err(malformed)?
        else {
            let cut = io::Error::from(io::ErrorKind::UnexpectedEof);
            return if self.ended { Err(cut) } else { Ok(None) };
        };
        let date = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("date"));
        let date = date.map(|date| String::from_utf8_lossy(date.value).into_owned());
        let status = response.code.unwrap_or(500);
        let answer = Answer { status, date: date.unwrap_or_default() };
        if status == 100 {
            self.input.drain(..len);
            return Ok(None);
        }
        // tiny_http takes what a handler left of a body for one more request, and answers that
        // too; no such connection is used again.
        if self.input.len() != len && !self.spent {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.input.clear();
        Ok(Some(answer))
    }
}
