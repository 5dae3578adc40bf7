//! Connections come and go: addresses, dials, duplicates, idleness, offences and bans.

use super::{Bucket, CloseReason, ConnId, Engine, JobId, Output, Timer, peers::Peer};
use barrow_wire::{Message, PeerId};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// Two ends that dial each other at one time see both connections within so long.
const SIMULTANEOUS: Duration = Duration::from_secs(5);
/// Connections up to which hints of other peers are dialed.
const SEEKING_CONNECTIONS_MAX: usize = 24;
/// So many blocks wanted at one time make more peers worth their dials.
const SEEKING_WANTS_MIN: usize = 8;

impl Engine {
    pub(super) fn on_address(
        &mut self,
        address: SocketAddr,
        peer: Option<PeerId>,
        job: Option<JobId>,
        keep: bool,
    ) {
        let useless = peer.is_some_and(|peer| {
            peer == self.config.peer_id || self.peers.banned_until(&peer, self.now).is_some()
        });
        let job = job.filter(|job| self.jobs.get(*job).is_some());
        if !useless && self.dials.learn(address, peer, job, keep) {
            self.pump_dials();
        }
    }

    pub(super) fn on_connected(
        &mut self,
        conn: ConnId,
        id: PeerId,
        remote: SocketAddr,
        dialed: Option<SocketAddr>,
    ) {
        if let Some(address) = dialed {
            self.dials.connected(self.now, address, id, conn);
        }
        if let Some(reason) = self.refuses(&id, dialed.is_some()) {
            self.dials.disconnected(self.now, conn, true, &mut self.rng);
            self.outputs.push_back(Output::Close { conn, reason });
            self.recheck_all();
            return self.pump_dials();
        }
        if let Some(old) = self.peers.conn_of(&id) {
            if !self.newer_wins(old, &id, dialed.is_some()) {
                self.dials.disconnected(self.now, conn, false, &mut self.rng);
                self.outputs.push_back(Output::Close { conn, reason: CloseReason::Replaced });
                return self.pump_dials();
            }
            self.close(old, CloseReason::Replaced);
        }
        let rate = self.peers.known_rate(&id);
        let mut peer = Peer::new(self.now, id, remote, dialed, rate);
        peer.down = self.config.limit_down_peer.map(Bucket::new);
        self.peers.insert(conn, peer);
        let (listen_port, agent) = (self.config.listen_port, self.config.agent.clone());
        self.send(conn, Message::Hello { listen_port, agent });
        // A connection that a kill of this node ended is over without anybody having said so.
        self.write_off(id);
        self.show_vouchers(conn, id);
        self.timers.set(Timer::Idle(conn), self.now.after(self.config.idle_timeout / 2));
        self.ask_newcomer(conn);
        self.pump_dials();
    }

    fn refuses(&self, id: &PeerId, dialed: bool) -> Option<CloseReason> {
        if *id == self.config.peer_id {
            return Some(CloseReason::Protocol("it has our own identity".into()));
        }
        if self.peers.banned_until(id, self.now).is_some() {
            return Some(CloseReason::Banned);
        }
        let full = self.peers.len() >= self.config.connections_max
            && self.peers.conn_of(id).is_none()
            && !(dialed && self.dials.is_kept(id));
        full.then_some(CloseReason::Limit)
    }

    /// Whether a second connection to a peer takes the first one's place. When both ends dialed
    /// at one time, both must keep the same: the one that the smaller peer id dialed.
    fn newer_wins(&self, old: ConnId, id: &PeerId, new_dialed: bool) -> bool {
        let Some(old) = self.peers.get(old) else { return true };
        let crossed =
            old.dialed.is_some() != new_dialed && self.now.since(old.connected_at) < SIMULTANEOUS;
        !crossed || new_dialed == (self.config.peer_id < *id)
    }

    pub(super) fn on_dial_failed(&mut self, address: SocketAddr) {
        self.dials.failed(self.now, address, &mut self.rng);
        self.recheck_all();
        self.pump_dials();
    }

    pub(super) fn on_disconnected(&mut self, conn: ConnId) {
        self.drop_peer(conn, false);
    }

    /// Closes a connection, and forgets all of it at once.
    pub(super) fn close(&mut self, conn: ConnId, reason: CloseReason) {
        let bad = match reason {
            CloseReason::Stalled | CloseReason::Protocol(_) | CloseReason::Banned => true,
            CloseReason::Remote(_)
            | CloseReason::Replaced
            | CloseReason::Idle
            | CloseReason::Limit
            | CloseReason::Shutdown => false,
        };
        self.outputs.push_back(Output::Close { conn, reason });
        self.drop_peer(conn, bad);
    }

    fn drop_peer(&mut self, conn: ConnId, bad: bool) {
        let Some(mut peer) = self.peers.remove(conn) else { return };
        for request in std::mem::take(&mut peer.requests) {
            self.settle_request(&request, false);
        }
        self.timers.clear(Timer::Transfer(conn));
        self.timers.clear(Timer::Idle(conn));
        self.dials.disconnected(self.now, conn, bad, &mut self.rng);
        for (_, job) in self.jobs.iter_mut() {
            job.forget(conn);
        }
        self.serving.remove(conn);
        self.write_off(peer.id);
        self.forget_exchange(conn);
        let touched = self.wants.forget(conn);
        self.recheck(&touched);
        self.pump_dials();
        self.serve();
    }

    /// Dials what is due, and waits for what is not.
    pub(super) fn pump_dials(&mut self) {
        let seeking = self.peers.len() < SEEKING_CONNECTIONS_MAX
            && (self.wants.len() >= SEEKING_WANTS_MIN
                || self.wants.iter().any(|(_, want)| !want.has_provider()));
        let room = self.config.connections_max.saturating_sub(self.peers.len());
        let (peers, now) = (&self.peers, self.now);
        let known =
            |id: &PeerId| peers.conn_of(id).is_some() || peers.banned_until(id, now).is_some();
        for (address, peer) in self.dials.take_due(now, room, seeking, known) {
            self.outputs.push_back(Output::Connect { address, peer });
        }
        match self.dials.next_due(seeking, known).filter(|at| *at > now) {
            Some(at) => self.timers.set(Timer::Dials, at),
            None => self.timers.clear(Timer::Dials),
        }
    }

    pub(super) fn on_hello(&mut self, conn: ConnId, listen_port: u16, agent: String) {
        let Some(peer) = self.peers.get_mut(conn) else { return };
        if peer.agent.is_some() {
            return self.close(conn, CloseReason::Protocol("a second hello".into()));
        }
        peer.agent = Some(agent);
        let remote = peer.remote.ip();
        if listen_port != 0 {
            peer.listens = Some(SocketAddr::new(remote, listen_port));
        }
        self.tell_of_others(conn);
    }

    pub(super) fn on_idle_timer(&mut self, conn: ConnId) {
        let waits = self.wants.len() > 0 || self.serving.is_busy(conn);
        let (now, timeout) = (self.now, self.config.idle_timeout);
        let Some(peer) = self.peers.get_mut(conn) else { return };
        let silent = now.since(peer.heard_at);
        if silent >= timeout {
            return self.close(conn, CloseReason::Idle);
        }
        let mut next = peer.heard_at.after(timeout);
        if silent >= timeout / 2 {
            // Whoever has a use for the connection says so, which also finds out a dead one.
            if waits || self.dials.is_kept(&peer.id) {
                self.ping(conn);
            }
        } else {
            next = peer.heard_at.after(timeout / 2);
        }
        self.timers.set(Timer::Idle(conn), next);
    }

    pub(super) fn ping(&mut self, conn: ConnId) {
        let nonce = self.rng.bits();
        let Some(peer) = self.peers.get_mut(conn) else { return };
        peer.pace.pinged(self.now, nonce);
        self.send(conn, Message::Ping { nonce });
    }

    /// Counts an offence against a peer; the third one bans it.
    pub(super) fn offend(&mut self, conn: ConnId, reason: &str) {
        let Some(id) = self.peers.get(conn).map(|peer| peer.id) else { return };
        let banned = self.peers.offend(id);
        let offences = self.peers.offences(&id);
        self.outputs.push_back(Output::Score { peer: id, offences });
        if !banned {
            return;
        }
        let until = self.now.after(self.config.ban_time);
        self.peers.ban(id, until);
        self.outputs.push_back(Output::Ban { peer: id, until, reason: reason.into() });
        self.close(conn, CloseReason::Banned);
    }
}

/// Whether a peer at `listener` is to hear of `address`: an address of a narrower scope than the
/// listener's own means something else there, or nothing.
pub(super) fn may_hear_of(listener: IpAddr, address: IpAddr) -> bool {
    let scope = |ip: IpAddr| match ip.to_canonical() {
        ip if ip.is_unspecified() || ip.is_multicast() => None,
        ip if ip.is_loopback() => Some(0),
        IpAddr::V4(v4) if v4.is_link_local() || v4.is_private() => Some(1),
        IpAddr::V6(v6) if v6.is_unicast_link_local() || v6.is_unique_local() => Some(1),
        IpAddr::V4(_) | IpAddr::V6(_) => Some(2),
    };
    match (scope(listener), scope(address)) {
        (Some(listener), Some(address)) => address >= listener,
        (None, _) | (_, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::may_hear_of;

    #[test]
    fn nobody_hears_of_addresses_of_a_narrower_scope_than_its_own() {
        let ip = |text: &str| text.parse().unwrap();
        assert!(may_hear_of(ip("127.0.0.1"), ip("127.0.0.1")));
        assert!(may_hear_of(ip("192.168.1.2"), ip("192.168.1.3")));
        assert!(may_hear_of(ip("192.168.1.2"), ip("8.8.8.8")));
        assert!(!may_hear_of(ip("192.168.1.2"), ip("127.0.0.1")));
        assert!(!may_hear_of(ip("8.8.8.8"), ip("10.0.0.1")));
        assert!(!may_hear_of(ip("8.8.8.8"), ip("::1")));
        assert!(!may_hear_of(ip("8.8.8.8"), ip("0.0.0.0")));
    }
}
