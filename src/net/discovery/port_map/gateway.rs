//! The default gateway, and the address that we have towards it.

use std::{
    fs::File,
    io::Read as _,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
};

/// Bytes of the kernel's table of routes that are read.
const ROUTES_BYTES_MAX: u64 = 64 << 10;
/// A route that is up, and leads to a gateway.
const UP_AND_GATEWAY: u32 = 3;

/// The machine between us and the internet, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gateway {
    pub(super) ip: Ipv4Addr,
    /// Our own address on its network.
    pub(super) ours: Ipv4Addr,
}

impl Gateway {
    /// `None` where our address is a public one, or there is no way out. Sends nothing.
    pub(super) fn of_this_machine() -> Option<Self> {
        let mut routes = String::new();
        let file = File::open("/proc/net/route").ok()?;
        file.take(ROUTES_BYTES_MAX).read_to_string(&mut routes).ok()?;
        let ip = default_gateway(&routes)?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect((ip, 1)).ok()?;
        let SocketAddr::V4(ours) = socket.local_addr().ok()? else { return None };
        let ours = *ours.ip();
        (ip.is_private() && ours.is_private()).then_some(Self { ip, ours })
    }
}

/// The gateway of the default route that the kernel likes best.
fn default_gateway(routes: &str) -> Option<Ipv4Addr> {
    let defaults = routes.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let destination = fields.next()?;
        let gateway = u32::from_str_radix(fields.next()?, 16).ok()?;
        let flags = u32::from_str_radix(fields.next()?, 16).ok()?;
        let metric: u32 = fields.nth(2)?.parse().ok()?;
        let mask = fields.next()?;
        let is_default = destination == "00000000" && mask == "00000000";
        // The kernel prints the bytes as this machine would read them for a number.
        let gateway = Ipv4Addr::from(gateway.to_ne_bytes());
        (is_default && flags & UP_AND_GATEWAY == UP_AND_GATEWAY).then_some((metric, gateway))
    });
    defaults.min().map(|(_, gateway)| gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_default_route_of_the_lowest_metric_leads_to_the_gateway() {
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n";
        let wlan = "wlan0\t00000000\tFE01A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n";
        let eth = "eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n";
        let local = "eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let half = "tun0\t00000000\t0100000A\t0003\t0\t0\t0\t00000080\t0\t0\t0\n";
        let down = "eth1\t00000000\t0200000A\t0002\t0\t0\t1\t00000000\t0\t0\t0\n";
        let of = |lines: &[&str]| default_gateway(&format!("{head}{}", lines.concat()));
        assert_eq!(of(&[wlan, local, eth, half, down]), Some(Ipv4Addr::new(192, 168, 1, 1)));
        assert_eq!(of(&[local, half, down, "x y z\n", "\n"]), None);
        assert_eq!(default_gateway(""), None);
    }
}
