//! NAT-PMP (RFC 6886): a datagram asks, a datagram answers.

use super::{LEASE, Mapper, Protocol};
use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::{Duration, Instant},
};

/// Where gateways listen.
pub(super) const PORT: u16 = 5351;
/// A question is asked again after each of these; the RFC would go on for two minutes.
const WAITS: [Duration; 3] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)];
/// Bytes of the longest answer.
const ANSWER_BYTES: usize = 16;

/// A gateway that may speak it.
pub(super) struct NatPmp {
    /// Connected, so that nobody else's datagrams are heard.
    socket: UdpSocket,
}

impl NatPmp {
    pub(super) fn new(ours: Ipv4Addr, server: SocketAddrV4) -> io::Result<Self> {
        let socket = UdpSocket::bind((ours, 0))?;
        socket.connect(server)?;
        Ok(Self { socket })
    }

    /// Asks until the answer to it comes, whose length is `len`.
    fn ask(&self, question: &[u8], len: usize) -> io::Result<[u8; ANSWER_BYTES]> {
        let operation = question.get(1).copied().unwrap_or_default();
        for wait in WAITS {
            self.socket.send(question)?;
            let until = Instant::now() + wait;
            loop {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                self.socket.set_read_timeout(Some(left))?;
                let mut answer = [0; ANSWER_BYTES];
                match self.socket.recv(&mut answer) {
                    Ok(got) if got >= len.min(8) && answer[..2] == [0, 128 + operation] => {
                        return accepted(answer, got, len);
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if is_late(&error) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Err(io::Error::new(ErrorKind::TimedOut, "no answer"))
    }

    fn ask_mapping(
        &self,
        protocol: Protocol,
        port: u16,
        external: u16,
        lease: Duration,
    ) -> io::Result<(u16, Duration)> {
        let operation = match protocol {
            Protocol::Udp => 1,
            Protocol::Tcp => 2,
        };
        let mut question = [0; 12];
        question[1] = operation;
        question[4..6].copy_from_slice(&port.to_be_bytes());
        question[6..8].copy_from_slice(&external.to_be_bytes());
        let seconds = u32::try_from(lease.as_secs()).unwrap_or(u32::MAX);
        question[8..].copy_from_slice(&seconds.to_be_bytes());
        let [.., a, b, c, d, e, f, g, h] = self.ask(&question, 16)?;
        if u16::from_be_bytes([a, b]) != port {
            return Err(io::Error::new(ErrorKind::InvalidData, "it mapped another port"));
        }
        let lease = Duration::from_secs(u32::from_be_bytes([e, f, g, h]).into());
        Ok((u16::from_be_bytes([c, d]), lease))
    }
}

/// An answer that says yes, and all of it.
fn accepted(answer: [u8; ANSWER_BYTES], got: usize, len: usize) -> io::Result<[u8; ANSWER_BYTES]> {
    match u16::from_be_bytes([answer[2], answer[3]]) {
        0 if got >= len => Ok(answer),
        0 => Err(io::Error::new(ErrorKind::InvalidData, "its answer is cut short")),
        code => Err(io::Error::other(format!("it refuses, with code {code}"))),
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

impl Mapper for NatPmp {
    fn name(&self) -> &'static str {
        "NAT-PMP"
    }

    fn external_ip(&mut self) -> io::Result<Ipv4Addr> {
        let [_, _, _, _, _, _, _, _, a, b, c, d, ..] = self.ask(&[0, 0], 12)?;
        Ok(Ipv4Addr::new(a, b, c, d))
    }

    fn map(&mut self, protocol: Protocol, port: u16, external: u16) -> io::Result<(u16, Duration)> {
        self.ask_mapping(protocol, port, external, LEASE)
    }

    fn unmap(&mut self, protocol: Protocol, port: u16, _external: u16) -> io::Result<()> {
        self.ask_mapping(protocol, port, 0, Duration::ZERO).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::SocketAddr, thread};

    /// A gateway that gives `answers`, one to each question, and hands back the questions.
    fn gateway(answers: Vec<Vec<u8>>) -> (NatPmp, thread::JoinHandle<Vec<Vec<u8>>>) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(server) = socket.local_addr().unwrap() else { unreachable!() };
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let thread = thread::spawn(move || {
            let mut questions = Vec::new();
            for answer in answers {
                let mut question = [0; 64];
                let (len, from) = socket.recv_from(&mut question).unwrap();
                questions.push(question[..len].to_vec());
                socket.send_to(&answer, from).unwrap();
            }
            questions
        });
        (NatPmp::new(Ipv4Addr::LOCALHOST, server).unwrap(), thread)
    }

    #[test]
    fn questions_and_answers_are_those_of_the_rfc() {
        let ip = vec![0, 128, 0, 0, 0, 0, 0, 9, 51, 15, 7, 1];
        let tcp = vec![0, 130, 0, 0, 0, 0, 0, 9, 0x12, 0xac, 0x12, 0xad, 0, 0, 0x0e, 0x10];
        let gone = vec![0, 129, 0, 0, 0, 0, 0, 9, 0x12, 0xac, 0, 0, 0, 0, 0, 0];
        let (mut client, thread) = gateway(vec![ip, tcp, gone]);
        assert_eq!(client.external_ip().unwrap(), Ipv4Addr::new(51, 15, 7, 1));
        let mapped = client.map(Protocol::Tcp, 4780, 4780).unwrap();
        assert_eq!(mapped, (4781, Duration::from_secs(3600)));
        client.unmap(Protocol::Udp, 4780, 4781).unwrap();
        let questions = thread.join().unwrap();
        assert_eq!(questions[0], [0, 0]);
        assert_eq!(questions[1], [0, 2, 0, 0, 0x12, 0xac, 0x12, 0xac, 0, 0, 0x0e, 0x10]);
        assert_eq!(questions[2], [0, 1, 0, 0, 0x12, 0xac, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn nonsense_is_not_heard_and_refusals_are_errors() {
        // Another version, another operation, too short: asked again, and then answered.
        let right = vec![0, 128, 0, 0, 0, 0, 0, 9, 51, 15, 7, 1];
        let (mut client, _thread) = gateway(vec![vec![2, 128], vec![0, 130, 0, 0], right]);
        assert!(client.external_ip().is_ok());
        let cut = vec![0, 130, 0, 0, 0, 0, 0, 9, 0x12, 0xac];
        let other = vec![0, 130, 0, 0, 0, 0, 0, 9, 0, 1, 0, 1, 0, 0, 0, 1];
        let refused = vec![0, 130, 0, 2, 0, 0, 0, 9];
        for answer in [cut, other, refused] {
            let (mut client, _thread) = gateway(vec![answer]);
            assert!(client.map(Protocol::Tcp, 4780, 4780).is_err());
        }
    }

    #[test]
    fn a_gateway_that_is_silent_is_left_in_time() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(server) = socket.local_addr().unwrap() else { unreachable!() };
        let since = Instant::now();
        let mut client = NatPmp::new(Ipv4Addr::LOCALHOST, server).unwrap();
        assert!(client.external_ip().is_err());
        assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
    }
}
