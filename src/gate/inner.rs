//! One connection to tiny_http, kept as long as it serves.

use mio::net::UnixStream;
use std::io::{self, Read as _, Write as _};

/// Bytes of a handler's answer at most: a head without a body.
const ANSWER_BYTES_MAX: usize = 16 << 10;

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

/// A handler's answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) reason: String,
    pub(super) headers: Vec<(String, String)>,
}

impl Answer {
    /// The value of a header, whose name is in small letters.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| &value[..])
    }
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

    /// Reads the answer, once it is whole.
    pub(super) fn read(&mut self) -> io::Result<Option<Answer>> {
        let mut buffer = [0; 4_096];
        let mut ended = false;
        while !ended {
            match self.stream.read(&mut buffer) {
                Ok(0) => ended = true,
                Ok(read) => self.input.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.input.len() > ANSWER_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let malformed = |_| io::Error::from(io::ErrorKind::InvalidData);
        let httparse::Status::Complete(len) = response.parse(&self.input).map_err(malformed)?
        else {
            let cut = io::Error::from(io::ErrorKind::UnexpectedEof);
            return if ended { Err(cut) } else { Ok(None) };
        };
        self.ended = ended;
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let answer = Answer {
            status: response.code.unwrap_or(500),
            reason: response.reason.unwrap_or_default().into(),
            headers: response
                .headers
                .iter()
                .map(|header| (header.name.to_ascii_lowercase(), text(header.value)))
                .collect(),
        };
        if answer.status == 100 {
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
