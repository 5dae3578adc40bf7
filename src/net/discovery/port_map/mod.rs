//! A port of the router of a home network that leads to us, by NAT-PMP or UPnP.
//!
//! Only the default gateway is asked, and only where both it and we have private addresses: a
//! router's word is a stranger's, and is bounded in size and time.

mod gateway;
mod nat_pmp;
mod upnp;

use super::{Mapped, Mapping, ranges::Ranges};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use gateway::Gateway;
use nat_pmp::NatPmp;
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};
use upnp::Upnp;

/// A mapping ends by itself after so long; it is renewed when half of that is over.
const LEASE: Duration = Duration::from_secs(3_600);
/// Renewals are no further apart than half of `LEASE`, and no closer than this.
const RENEWAL_MIN: Duration = Duration::from_secs(60);
/// Where no router answers, it is asked again after so long.
const RETRY_TIME: Duration = Duration::from_secs(1_800);
/// At a stop, the router has this time to take the mapping back.
const STOP_TIME: Duration = Duration::from_secs(1);
/// A router that answers has done so in this time.
#[cfg(feature = "dht")]
pub(super) const SETTLE_TIME: Duration = Duration::from_secs(5);

/// Which port is to be reached from outside.
#[derive(Clone, Debug)]
pub struct PortMapSettings {
    port: u16,
    /// Our address, where not all are listened at.
    ip: Option<Ipv4Addr>,
    protocols: &'static [Protocol],
}

impl PortMapSettings {
    /// For a node that listens at `listen`; `None` if no router could lead to it. `udp` says
    /// whether the DHT has the same port.
    pub fn new(listen: &[SocketAddr], udp: bool) -> Option<Self> {
        let address = listen.iter().find_map(|address| match address {
            SocketAddr::V4(v4) if v4.ip().is_unspecified() || v4.ip().is_private() => Some(*v4),
            SocketAddr::V4(_) | SocketAddr::V6(_) => None,
        })?;
        let ip = (!address.ip().is_unspecified()).then_some(*address.ip());
        let protocols: &[Protocol] = &[Protocol::Tcp, Protocol::Udp];
        let protocols = if udp { protocols } else { &protocols[..1] };
        Some(Self { port: address.port(), ip, protocols })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// A gateway that maps ports.
trait Mapper {
    /// What it speaks.
    fn name(&self) -> &'static str;

    /// Its own address towards the internet.
    fn external_ip(&mut self) -> io::Result<Ipv4Addr>;

    /// Maps a port, to `external` if that is free, and says to which and for how long.
    fn map(&mut self, protocol: Protocol, port: u16, external: u16) -> io::Result<(u16, Duration)>;

    /// Ends a mapping.
    fn unmap(&mut self, protocol: Protocol, port: u16, external: u16) -> io::Result<()>;
}

/// The thread that keeps the mapping.
pub(super) struct PortMap {
    stop: Option<Sender<()>>,
    ended: Receiver<()>,
}

impl PortMap {
    pub(super) fn start(settings: PortMapSettings, mapped: Mapped) -> io::Result<Self> {
        let (stop, stopped) = bounded(0);
        let (end, ended) = bounded(0);
        let thread = std::thread::Builder::new().name("port-map".into());
        thread.spawn(move || {
            let _end: Sender<()> = end;
            Worker { settings, mapped, held: None, told: false }.run(&stopped);
        })?;
        Ok(Self { stop: Some(stop), ended })
    }

    /// Ends it, and waits a moment for the router.
    pub(super) fn stop(&mut self) {
        self.stop = None;
        let _ = self.ended.recv_timeout(STOP_TIME);
    }
}

/// A mapping, and who made it.
struct Held {
    gateway: Gateway,
    mapper: Box<dyn Mapper>,
    /// The outside ports, in the order of the settings' protocols.
    external: Vec<(Protocol, u16)>,
}

struct Worker {
    settings: PortMapSettings,
    mapped: Mapped,
    held: Option<Held>,
    /// Whether the log says already that there is none.
    told: bool,
}

impl Worker {
    fn run(mut self, stopped: &Receiver<()>) {
        loop {
            let wait = match self.renew() {
                Ok(lease) => (lease.min(LEASE) / 2).max(RENEWAL_MIN),
                Err(error) => {
                    self.lost(&error);
                    RETRY_TIME
                }
            };
            match stopped.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        *self.mapped.lock() = None;
        let Some(mut held) = self.held else { return };
        for (protocol, external) in held.external {
            if let Err(error) = held.mapper.unmap(protocol, self.settings.port, external) {
                log::debug!("the router keeps port {external} mapped for now: {error}");
            }
        }
    }

    fn lost(&mut self, error: &io::Error) {
        (self.held, *self.mapped.lock()) = (None, None);
        let level = if self.told { log::Level::Debug } else { log::Level::Info };
        log::log!(level, "no router maps a port to this node: {error}");
        self.told = true;
    }

    /// Maps the port, or does so again, and says how long that lasts.
    fn renew(&mut self) -> io::Result<Duration> {
        let gateway = Gateway::of_this_machine();
        let gateway =
            gateway.filter(|gateway| self.settings.ip.is_none_or(|ip| ip == gateway.ours));
        let gateway =
            gateway.ok_or_else(|| io::Error::other("there is none between it and the internet"))?;
        // Another network has other ports.
        let held = self.held.take().filter(|held| held.gateway == gateway);
        let mut failures = Vec::new();
        let ways = held.map(Ok).into_iter().chain(
            [nat_pmp as fn(&Gateway) -> io::Result<Box<dyn Mapper>>, upnp].into_iter().map(
                |open| {
                    let mapper = open(&gateway)?;
                    Ok(Held { gateway, mapper, external: Vec::new() })
                },
            ),
        );
        for way in ways {
            match way.and_then(|held| self.map(held)) {
                Ok(lease) => return Ok(lease),
                Err(error) => failures.push(error.to_string()),
            }
        }
        Err(io::Error::other(failures.join("; ")))
    }

    fn map(&mut self, mut held: Held) -> io::Result<Duration> {
        let name = held.mapper.name();
        let named = |error: io::Error| io::Error::other(format!("{name}: {error}"));
        let ip = held.mapper.external_ip().map_err(named)?;
        if !Ranges::default().may_dial((ip, self.settings.port).into(), false) {
            let why = format!("the router is behind another one, at {ip}");
            return Err(named(io::Error::other(why)));
        }
        let before = std::mem::take(&mut held.external);
        let mut lease = LEASE;
        for protocol in self.settings.protocols {
            // The DHT's port had best be the same as that of the peers.
            let last = before.iter().find(|(known, _)| known == protocol);
            let wish = last.or(held.external.first()).map_or(self.settings.port, |(_, port)| *port);
            match held.mapper.map(*protocol, self.settings.port, wish) {
                Ok((0, _)) => return Err(named(io::Error::other("it mapped port 0"))),
                Ok((external, granted)) => {
                    held.external.push((*protocol, external));
                    lease = lease.min(granted);
                }
                // The DHT works behind a NAT, too.
                Err(error) if *protocol == Protocol::Udp => log::debug!("{name}: {error}"),
                Err(error) => return Err(named(error)),
            }
        }
        let port = held.external.first().map_or(0, |(_, port)| *port);
        let mapping = Mapping { external: SocketAddrV4::new(ip, port), by: name };
        if self.mapped.lock().replace(mapping) != Some(mapping) {
            log::info!("the router maps {} to this node, by {name}", mapping.external);
        }
        (self.held, self.told) = (Some(held), false);
        Ok(lease)
    }
}

fn nat_pmp(gateway: &Gateway) -> io::Result<Box<dyn Mapper>> {
    Ok(Box::new(NatPmp::new(gateway.ours, SocketAddrV4::new(gateway.ip, nat_pmp::PORT))?))
}

fn upnp(gateway: &Gateway) -> io::Result<Box<dyn Mapper>> {
    let found = Upnp::find(gateway, upnp::SEARCH_ADDRESS);
    Ok(Box::new(found.map_err(|error| io::Error::other(format!("UPnP: {error}")))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_a_port_that_a_router_can_lead_to_is_mapped() {
        for listen in [&["127.0.0.1:1"][..], &["[::]:1"], &["51.15.7.1:1"], &[]] {
            let listen: Vec<SocketAddr> = listen.iter().map(|text| at(text)).collect();
            assert!(PortMapSettings::new(&listen, true).is_none(), "{listen:?}");
        }
        let all = PortMapSettings::new(&[at("[::]:2"), at("0.0.0.0:1")], true).unwrap();
        assert_eq!((all.port, all.ip, all.protocols.len()), (1, None, 2));
        let one = PortMapSettings::new(&[at("192.168.1.2:3")], false).unwrap();
        assert_eq!((one.port, one.protocols), (3, &[Protocol::Tcp][..]));
    }

    /// Maps what it is told, and is asked by a worker of its own.
    struct Fake {
        ip: Ipv4Addr,
        lease: Duration,
    }

    impl Mapper for Fake {
        fn name(&self) -> &'static str {
            "a fake"
        }

        fn external_ip(&mut self) -> io::Result<Ipv4Addr> {
            Ok(self.ip)
        }

        fn map(&mut self, protocol: Protocol, _: u16, wish: u16) -> io::Result<(u16, Duration)> {
            match protocol {
                Protocol::Tcp => Ok((wish + 1, self.lease)),
                Protocol::Udp => Err(io::Error::other("no")),
            }
        }

        fn unmap(&mut self, _: Protocol, _: u16, _: u16) -> io::Result<()> {
            Ok(())
        }
    }

    fn map(ip: [u8; 4], lease: Duration) -> (io::Result<Duration>, Option<Mapping>) {
        let settings = PortMapSettings::new(&[at("0.0.0.0:4780")], true).unwrap();
        let mapped = Mapped::default();
        let gateway = Gateway { ip: Ipv4Addr::new(192, 168, 1, 1), ours: [192, 168, 1, 2].into() };
        let mapper = Box::new(Fake { ip: ip.into(), lease });
        let mut worker = Worker { settings, mapped: mapped.clone(), held: None, told: false };
        let done = worker.map(Held { gateway, mapper, external: Vec::new() });
        (done, *mapped.lock())
    }

    #[test]
    fn a_mapping_counts_if_the_router_itself_is_on_the_internet() {
        let minute = Duration::from_secs(60);
        let (lease, mapping) = map([51, 15, 7, 1], minute);
        assert_eq!(lease.unwrap(), minute);
        assert_eq!(mapping.unwrap().external, "51.15.7.1:4781".parse().unwrap());
        assert_eq!(map([51, 15, 7, 1], LEASE * 100).0.unwrap(), LEASE);
        for ip in [[10, 0, 0, 1], [100, 64, 0, 1], [0, 0, 0, 0], [127, 0, 0, 1]] {
            let (refused, mapping) = map(ip, minute);
            assert!(refused.is_err() && mapping.is_none(), "{ip:?}");
        }
    }
}
