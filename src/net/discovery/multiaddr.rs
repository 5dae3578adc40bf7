//! Addresses as delegated routers write them: `/ip4/192.0.2.1/tcp/4780`.

use barrow_wire::PeerId;
use std::net::{IpAddr, SocketAddr};

/// Reads a plain TCP address, and the peer id if it ends with one. `None` for anything else:
/// names, TLS, WebSockets, QUIC, HTTP and relays are not ours to dial.
pub(super) fn parse(text: &str) -> Option<(SocketAddr, Option<PeerId>)> {
    let mut parts = text.strip_prefix('/')?.split('/');
    let ip: IpAddr = match parts.next()? {
        "ip4" => IpAddr::V4(parts.next()?.parse().ok()?),
        "ip6" => IpAddr::V6(parts.next()?.parse().ok()?),
        _ => return None,
    };
    let port: u16 = parts.next().filter(|name| *name == "tcp").and(parts.next())?.parse().ok()?;
    let peer = match parts.next() {
        None => None,
        Some("p2p") => Some(parts.next()?.parse().ok()?),
        Some(_) => return None,
    };
    parts.next().is_none().then_some((SocketAddr::new(ip, port), peer))
}

/// Writes a TCP address.
pub(crate) fn write(address: SocketAddr) -> String {
    let ip = address.ip().to_canonical();
    let family = if ip.is_ipv4() { "ip4" } else { "ip6" };
    format!("/{family}/{ip}/tcp/{}", address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_tcp_addresses_are_read_and_others_left() {
        for address in ["192.0.2.1:4780", "[2001:db8::1]:1"] {
            let address = address.parse().unwrap();
            assert_eq!(parse(&write(address)), Some((address, None)));
        }
        let others = [
            "",
            "/",
            "/ip4",
            "/ip4/1.2.3.4",
            "/ip4/1.2.3.4/tcp",
            "/ip4/1.2.3.4/tcp/70000",
            "/ip4/1.2.3.4/udp/1/quic-v1",
            "/ip4/1.2.3.4/tcp/80/http",
            "/dns4/x/tcp/1",
            "/ip4/1.2.3.4/tcp/1/p2p",
            "/ip4/1.2.3.4/tcp/1/p2p/x",
            "/ip6/1.2.3.4/tcp/1",
            "ip4/1.2.3.4/tcp/1",
            "/ip4/1.2.3.4/tcp/1/",
            "/ip4/1.2.3.4/tcp/1/ws",
        ];
        for other in others {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_peer_id_may_follow() {
        let peer = barrow_wire::Identity::from_seed([1; 32]).peer_id();
        let text = format!("/ip4/192.0.2.1/tcp/4780/p2p/{peer}");
        assert_eq!(parse(&text), Some(("192.0.2.1:4780".parse().unwrap(), Some(peer))));
    }
}
