//! Connections begin: accepted within limits, or dialed.

use super::{FIRST_CONNECTION, Reactor, connection::Connection};
use crate::engine::{CloseReason, ConnId, Input, Moment};
use barrow_wire::{PeerId, Session, SessionConfig};
use mio::{Interest, Token, net::TcpStream};
use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// Handshakes that others opened and have not finished.
const HANDSHAKES_MAX: usize = 32;
/// The same from one address, loopback exempt, here and below.
const HANDSHAKES_PER_IP_MAX: usize = 4;
/// The same that may begin within a second: each costs a key agreement.
const HANDSHAKES_PER_SECOND_MAX: usize = 20;
/// Connections from one address.
const CONNECTIONS_PER_IP_MAX: usize = 8;
/// Accepts of one listener before connections get their turn.
const ACCEPTS_MAX: usize = 64;

/// The system had no descriptor left for a connection: others may have closed theirs after so long.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// When others began handshakes, as far back as matters.
#[derive(Default)]
pub(super) struct Begun(VecDeque<Moment>);

impl Begun {
    /// Counts one more; `false` if it would be one too many within a second.
    fn one_more(&mut self, now: Moment) -> bool {
        while self.0.front().is_some_and(|at| now.since(*at) >= Duration::from_secs(1)) {
            self.0.pop_front();
        }
        let may = self.0.len() < HANDSHAKES_PER_SECOND_MAX;
        if may {
            self.0.push_back(now);
        }
        may
    }
}

impl Reactor {
    pub(super) fn accept(&mut self, listener: usize) {
        for _ in 0..ACCEPTS_MAX {
            let Some(socket) = self.listeners.get(listener) else { return };
            match socket.accept() {
                Ok((stream, remote)) => self.admit(stream, remote),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // Out of descriptors, most likely. Edge-triggered: who waits now is not told
                    // of again.
                    log::warn!("cannot accept a peer: {error}");
                    self.accept_again = Some(self.now().after(ACCEPT_AGAIN));
                    return;
                }
            }
        }
        // Edge-triggered: the rest of the backlog will not be told of again.
        self.bell.ring();
    }

    /// Accepts who was left waiting.
    pub(super) fn accept_late(&mut self) {
        if self.accept_again.is_some_and(|at| at <= self.now()) {
            self.accept_again = None;
            (0..self.listeners.len()).for_each(|listener| self.accept(listener));
        }
    }

    fn admit(&mut self, stream: TcpStream, remote: SocketAddr) {
        let ip = remote.ip().to_canonical();
        let handshakes = |ip: Option<IpAddr>| {
            self.connections
                .values()
                .filter(|c| c.dialed.is_none() && c.peer.is_none())
                .filter(|c| ip.is_none_or(|ip| c.remote.ip().to_canonical() == ip))
                .count()
        };
        let of_ip =
            self.connections.values().filter(|c| c.remote.ip().to_canonical() == ip).count();
        let crowded = self.connections.len() >= self.parts.connections_max
            || handshakes(None) >= HANDSHAKES_MAX
            || (!ip.is_loopback()
                && (handshakes(Some(ip)) >= HANDSHAKES_PER_IP_MAX
                    || of_ip >= CONNECTIONS_PER_IP_MAX));
        let now = self.now();
        if crowded || !(ip.is_loopback() || self.begun.one_more(now)) {
            log::debug!("{remote}: refused, too many connections");
            return;
        }
        self.add(stream, remote, None, None);
    }

    pub(super) fn dial(&mut self, address: SocketAddr, peer: Option<PeerId>) {
        log::debug!("dialing {address}");
        match TcpStream::connect(address) {
            Ok(stream) => self.add(stream, address, Some(address), peer),
            Err(error) => self.fail_dial(address, error.to_string()),
        }
    }

    fn add(
        &mut self,
        mut stream: TcpStream,
        remote: SocketAddr,
        dialed: Option<SocketAddr>,
        expected: Option<PeerId>,
    ) {
        let mut conn = ConnId(self.next_conn);
        // After four billion, some may still be open.
        while self.connections.contains_key(&conn) {
            conn = ConnId(conn.0.wrapping_add(1));
        }
        self.next_conn = conn.0.wrapping_add(1);
        let token = Token(FIRST_CONNECTION + usize::try_from(conn.0).expect("ids fit a word"));
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut stream, token, interest) {
            if let Some(address) = dialed {
                self.fail_dial(address, error.to_string());
            }
            return;
        }
        let _ = stream.set_nodelay(true);
        let keys = &self.parts.keys;
        let config = SessionConfig {
            static_key: &keys.static_key,
            swarm_key: keys.swarm_key.as_ref(),
            expected,
            suites: barrow_wire::Suites::default(),
        };
        let session = match dialed {
            Some(_) => Session::initiator(&config),
            None => Session::responder(&config),
        };
        let connection = Connection::new(conn, (stream, remote), dialed, session, self.now());
        self.connections.insert(conn, connection);
    }

    pub(super) fn on_connect(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let error = match connection.stream.take_error() {
            Ok(Some(error)) | Err(error) => Some(error),
            Ok(None) => match connection.stream.peer_addr() {
                Ok(_) => None,
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return,
                Err(error) => Some(error),
            },
        };
        match error {
            Some(error) => self.close(conn, CloseReason::Remote(error.to_string())),
            None => {
                connection.open = true;
                self.to_write.insert(conn);
                self.read(conn);
            }
        }
    }

    pub(super) fn fail_dial(&mut self, address: SocketAddr, reason: String) {
        self.parts.finder.dialed(address, None);
        self.inputs.push_back(Input::DialFailed { address, reason });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_no_second_do_more_than_twenty_handshakes_begin() {
        let mut begun = Begun::default();
        let offers = (0..3_000).map(|ms| Moment::at(Duration::from_millis(ms)));
        let taken: Vec<Moment> = offers.filter(|now| begun.one_more(*now)).collect();
        for from in &taken {
            let within = taken.iter().filter(|at| *at >= from && at.since(*from).as_secs() == 0);
            assert!(within.count() <= 20, "after {from:?}: {taken:?}");
        }
        assert_eq!(taken.len(), 60, "and so many do");
    }
}
