//! Multicast DNS: nodes on the local network.
//!
//! A node that listens there answers others; it asks only while a look-up runs, so that an idle
//! one is silent. What answers is a neighbour, not yet a provider: the engine asks it.

use super::{Answers, Hint, LookUpId, Provider, SOURCE_QUEUE_MAX};
use barrow_wire::{Multihash, PeerId};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use data_encoding::HEXLOWER;
use mdns_sd::{IfKind, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};
use ring::digest::{self, SHA256};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Neighbours have this time to answer; then a look-up ends here.
const ANSWER_TIME: Duration = Duration::from_millis(1_200);
/// While questions run, answers are looked at so often.
const TICK: Duration = Duration::from_millis(20);
/// A neighbour that answered is known for so long.
const KNOWN_TIME: Duration = Duration::from_secs(120);
/// Neighbours that are known; others are not heard while there are so many.
const NEIGHBOURS_MAX: usize = 64;
/// At a stop, the goodbye to neighbours takes no longer than this.
const GOODBYE_TIME: Duration = Duration::from_millis(500);
/// The daemon looks for new interfaces so often, in seconds.
const INTERFACES_INTERVAL_S: u32 = 30;
/// The record in which a neighbour says who it is.
const ID: &str = "id";

/// How the local network is used.
#[derive(Clone, Debug)]
pub struct MdnsSettings {
    /// Who we are.
    peer_id: PeerId,
    /// Where we listen, if we do: the port, and the address where that is not all of them.
    listen: Option<(u16, Vec<IpAddr>)>,
    /// What is asked for and answered: another one for each swarm with a key.
    service: String,
}

impl MdnsSettings {
    /// For a node that listens at `listen`; `None` if it listens to this machine alone.
    pub fn new(
        peer_id: PeerId,
        listen: &[SocketAddr],
        swarm_key: Option<[u8; 32]>,
    ) -> Option<Self> {
        let nearby: Vec<&SocketAddr> = listen.iter().filter(|at| !at.ip().is_loopback()).collect();
        if nearby.is_empty() && !listen.is_empty() {
            return None;
        }
        let everywhere = nearby.iter().any(|address| address.ip().is_unspecified());
        let ips = if everywhere { Vec::new() } else { nearby.iter().map(|at| at.ip()).collect() };
        let listen = nearby.first().map(|address| (address.port(), ips));
        Some(Self { peer_id, listen, service: service(swarm_key) })
    }
}

/// The service's name holds 15 bytes at most. A swarm's has a tag that its key alone yields, so
/// that others neither find its nodes nor are found by them.
fn service(swarm_key: Option<[u8; 32]>) -> String {
    let Some(key) = swarm_key else { return "_barrow._tcp.local.".into() };
    let digest = digest::digest(&SHA256, &[&b"barrow mdns swarm\0"[..], &key].concat());
    format!("_barrow-{}._tcp.local.", HEXLOWER.encode(&digest.as_ref()[..4]))
}

/// The thread that asks the daemon.
pub(super) struct Mdns {
    look_ups: Option<Sender<LookUpId>>,
    thread: Option<JoinHandle<()>>,
}

impl Mdns {
    pub(super) fn start(settings: MdnsSettings, answers: Answers) -> io::Result<Self> {
        let (look_ups, inbox) = bounded(SOURCE_QUEUE_MAX);
        let thread = std::thread::Builder::new().name("mdns".into());
        let worker = Worker {
            settings,
            answers,
            inbox,
            daemon: None,
            events: None,
            asking: Vec::new(),
            neighbours: BTreeMap::new(),
        };
        let thread = thread.spawn(move || worker.run())?;
        Ok(Self { look_ups: Some(look_ups), thread: Some(thread) })
    }
}

impl Provider for Mdns {
    fn look_up(&mut self, look_up: LookUpId, _hash: Multihash) -> bool {
        self.look_ups.as_ref().is_some_and(|look_ups| look_ups.try_send(look_up).is_ok())
    }

    fn answers_others(&self) -> bool {
        false
    }

    fn stop(&mut self) {
        self.look_ups = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    settings: MdnsSettings,
    answers: Answers,
    inbox: Receiver<LookUpId>,
    daemon: Option<ServiceDaemon>,
    /// What the daemon hears, while we ask.
    events: Option<Box<dyn Fn() -> Option<ServiceEvent> + Send>>,
    asking: Vec<(LookUpId, Instant)>,
    /// By the name that a neighbour has.
    neighbours: BTreeMap<String, (Instant, Vec<Hint>)>,
}

impl Worker {
    fn run(mut self) {
        if self.settings.listen.is_some() {
            self.start_daemon();
        }
        loop {
            let look_up = match self.asking.is_empty() {
                true => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => self.inbox.recv_timeout(TICK),
            };
            match look_up {
                Ok(look_up) => self.on_look_up(look_up),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            while let Some(event) = self.events.as_ref().and_then(|events| events()) {
                self.on_event(event);
            }
            self.end_look_ups();
        }
        if let Some(daemon) = self.daemon
            && let Ok(ended) = daemon.shutdown()
        {
            // It says goodbye for us.
            let _ = ended.recv_timeout(GOODBYE_TIME);
        }
    }

    fn start_daemon(&mut self) {
        if self.daemon.is_some() {
            return;
        }
        match daemon(&self.settings) {
            Ok(daemon) => self.daemon = Some(daemon),
            Err(error) => log::warn!("the local network cannot be asked: {error}"),
        }
    }

    fn on_look_up(&mut self, look_up: LookUpId) {
        self.start_daemon();
        let now = Instant::now();
        self.neighbours.retain(|_, (at, _)| now.saturating_duration_since(*at) < KNOWN_TIME);
        for (_, hints) in self.neighbours.values() {
            self.answers.found(look_up, hints.iter().copied());
        }
        let Some(daemon) = &self.daemon else { return self.answers.finished(look_up) };
        self.asking.push((look_up, now + ANSWER_TIME));
        if self.events.is_none() {
            match daemon.browse(&self.settings.service) {
                Ok(events) => self.events = Some(Box::new(move || events.try_recv().ok())),
                Err(error) => log::debug!("the local network was not asked: {error}"),
            }
        }
    }

    fn on_event(&mut self, event: ServiceEvent) {
        if let ServiceEvent::ServiceResolved(service) = event {
            self.on_neighbour(&service);
        } else if let ServiceEvent::ServiceRemoved(_, name) = event {
            self.neighbours.remove(&name);
        }
    }

    fn on_neighbour(&mut self, service: &ResolvedService) {
        let peer = service.get_property_val_str(ID).and_then(|id| id.parse().ok());
        let Some(peer) = peer.filter(|peer| *peer != self.settings.peer_id) else { return };
        let name = service.get_fullname();
        if self.neighbours.len() >= NEIGHBOURS_MAX && !self.neighbours.contains_key(name) {
            return;
        }
        let port = service.get_port();
        let addresses = service.get_addresses().iter();
        let hints: Vec<Hint> = addresses
            .filter_map(|ip| Some(Hint { address: address(ip, port)?, peer: Some(peer) }))
            .collect();
        for (look_up, _) in &self.asking {
            self.answers.found(*look_up, hints.iter().copied());
        }
        self.neighbours.insert(name.to_owned(), (Instant::now(), hints));
    }

    fn end_look_ups(&mut self) {
        if self.asking.is_empty() {
            return;
        }
        let (now, answers) = (Instant::now(), &self.answers);
        self.asking.retain(|(look_up, until)| {
            if now >= *until {
                answers.finished(*look_up);
            }
            now < *until
        });
        if self.asking.is_empty()
            && self.events.take().is_some()
            && let Some(daemon) = &self.daemon
        {
            let _ = daemon.stop_browse(&self.settings.service);
        }
    }
}

/// A link-local address means something on one interface only.
fn address(ip: &ScopedIp, port: u16) -> Option<SocketAddr> {
    match ip {
        ScopedIp::V4(v4) => Some((*v4.addr(), port).into()),
        ScopedIp::V6(v6) => {
            let scope = if v6.addr().is_unicast_link_local() { v6.scope_id().index } else { 0 };
            Some(SocketAddrV6::new(*v6.addr(), port, 0, scope).into())
        }
        _ => None,
    }
}

fn daemon(settings: &MdnsSettings) -> Result<ServiceDaemon, mdns_sd::Error> {
    let daemon = ServiceDaemon::new()?;
    daemon.disable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6])?;
    daemon.set_ip_check_interval(INTERFACES_INTERVAL_S)?;
    if let Some((port, ips)) = &settings.listen {
        let name = settings.peer_id.to_string();
        let host = format!("barrow-{}.local.", &name[name.len() - 16..].to_ascii_lowercase());
        let properties = HashMap::from([(ID.to_owned(), name.clone())]);
        let info = ServiceInfo::new(&settings.service, &name, &host, &ips[..], *port, properties)?;
        let info = if ips.is_empty() { info.enable_addr_auto() } else { info };
        daemon.register(info)?;
    }
    Ok(daemon)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swarm_has_a_service_of_its_own() {
        assert_eq!(service(None), "_barrow._tcp.local.");
        let (one, other) = (service(Some([1; 32])), service(Some([2; 32])));
        assert_ne!(one, other);
        assert_eq!(one.split('.').next().map(|name| name.len() - 1), Some(15));
    }

    #[test]
    fn a_node_that_listens_to_its_machine_alone_has_no_neighbours() {
        let peer = PeerId::from_public_key([1; 32]);
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(MdnsSettings::new(peer, &[at("127.0.0.1:1")], None).is_none());
        let all = MdnsSettings::new(peer, &[at("0.0.0.0:1"), at("[::]:1")], None).unwrap();
        assert_eq!(all.listen, Some((1, Vec::new())));
        let one = MdnsSettings::new(peer, &[at("127.0.0.1:1"), at("10.0.0.1:2")], None).unwrap();
        assert_eq!(one.listen, Some((2, vec![at("10.0.0.1:2").ip()])));
        let client = MdnsSettings::new(peer, &[], None).unwrap();
        assert_eq!(client.listen, None);
    }
}
