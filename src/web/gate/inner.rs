//! One connection to tiny_http.

use mio::net::UnixStream;
use std::io::{self, Read as _, Write as _};

/// A connection to the handlers.
pub(super) struct Inner {
    pub(super) stream: UnixStream,
    /// What is still to be written.
    pub(super) output: Vec<u8>,
    /// It carries a body; such a connection is not used again.
    pub(super) spent: bool,
    /// It has not been answered yet whether a thread of the handlers has it.
    pub(super) is_probing: bool,
    /// The poll tells when there is room to write.
    pub(super) is_watched: bool,
}

impl Inner {
    /// A new connection, with a request that anything answers.
    pub(super) fn probe(stream: UnixStream, output: Vec<u8>) -> Self {
        Self { stream, output, spent: false, is_probing: true, is_watched: false }
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

    /// Whether the far end has said something, or ended. Answers do not come this way: it is
    /// tiny_http's own word, that it goes no further.
    pub(super) fn is_over(&mut self) -> bool {
        let mut word = [0; 256];
        match self.stream.read(&mut word) {
            Ok(len) => {
                let word = String::from_utf8_lossy(&word[..len]);
                log::debug!("tiny_http says {:?}", word.lines().next());
                true
            }
            Err(error) => {
                !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
            }
        }
    }
}
