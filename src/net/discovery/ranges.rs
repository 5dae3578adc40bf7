//! Which addresses may be dialed on the word of strangers.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Where an address means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Range {
    Loopback,
    LinkLocal,
    /// 10/8, 172.16/12, 192.168/16, 100.64/10, fc00::/7, each a range of its own.
    Private(u8),
    Public,
}

/// A part of the address space whose addresses likely have one owner: /24 of IPv4, /48 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Network(bool, [u8; 6]);

impl Network {
    pub(super) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                Self(false, [a, b, c, 0, 0, 0])
            }
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, ..] = v6.octets();
                Self(true, [a, b, c, d, e, f])
            }
        }
    }
}

/// The ranges that a node takes part in, since a person put it there.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges {
    ours: BTreeSet<Range>,
}

impl Ranges {
    /// The ranges in which configured addresses lie.
    pub(super) fn of(configured: impl IntoIterator<Item = IpAddr>) -> Self {
        Self { ours: configured.into_iter().filter_map(range_of).collect() }
    }

    /// Whether a hint may be dialed: it is public, or in a range of ours. A neighbour answered
    /// on the local network itself (`nearby`), so that its private address is known to be ours.
    pub(super) fn may_dial(&self, address: SocketAddr, nearby: bool) -> bool {
        let Some(range) = range_of(address.ip()).filter(|_| address.port() != 0) else {
            return false;
        };
        match range {
            Range::Public => true,
            Range::Loopback => self.ours.contains(&range),
            Range::LinkLocal | Range::Private(_) => nearby || self.ours.contains(&range),
        }
    }

    /// Whether all of a network's addresses may belong to one owner without being suspect: it
    /// is one that a person pointed the node at.
    pub(super) fn is_ours(&self, ip: IpAddr) -> bool {
        range_of(ip).is_some_and(|range| range != Range::Public && self.ours.contains(&range))
    }
}

/// `None` for what is nobody's address.
fn range_of(ip: IpAddr) -> Option<Range> {
    match ip.to_canonical() {
        IpAddr::V4(v4) => range_of_v4(v4),
        IpAddr::V6(v6) => range_of_v6(v6),
    }
}

fn range_of_v4(ip: Ipv4Addr) -> Option<Range> {
    match ip.octets() {
        // "This network", benchmarks, multicast, reserved and broadcast.
        [0 | 224..=255, ..] | [198, 18..=19, ..] => None,
        [127, ..] => Some(Range::Loopback),
        [169, 254, ..] => Some(Range::LinkLocal),
        [10, ..] => Some(Range::Private(0)),
        [172, 16..=31, ..] => Some(Range::Private(1)),
        [192, 168, ..] => Some(Range::Private(2)),
        [100, 64..=127, ..] => Some(Range::Private(3)),
        _ => Some(Range::Public),
    }
}

fn range_of_v6(ip: Ipv6Addr) -> Option<Range> {
    match ip.segments() {
        _ if ip.is_loopback() => Some(Range::Loopback),
        _ if ip.is_unspecified() || ip.is_multicast() => None,
        [0xfe80..=0xfebf, ..] => Some(Range::LinkLocal),
        [0xfc00..=0xfdff, ..] => Some(Range::Private(4)),
        // 6to4, NAT64 and IPv4-compatible: they lead to an IPv4 address that is not looked at.
        [0x2002 | 0x64 | 0, ..] => None,
        _ => Some(Range::Public),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn private_addresses_are_dialed_only_in_ranges_that_a_person_configured() {
        let ranges = Ranges::of(["192.168.1.2".parse().unwrap(), "0.0.0.0".parse().unwrap()]);
        for allowed in ["8.8.8.8:1", "192.168.7.7:4780", "[2001:db8::1]:1"] {
            assert!(ranges.may_dial(at(allowed), false), "{allowed}");
        }
        let refused = [
            "10.0.0.1:1",
            "172.16.0.1:1",
            "127.0.0.1:1",
            "169.254.1.1:1",
            "100.64.0.1:1",
            "0.0.0.0:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "8.8.8.8:0",
            "[::1]:1",
            "[::]:1",
            "[fe80::1]:1",
            "[fd00::1]:1",
            "[::ffff:10.0.0.1]:1",
            "[2002:a00:1::]:1",
            "[64:ff9b::a00:1]:1",
            "[::7f00:1]:1",
            "198.18.0.1:1",
        ];
        for refused in refused {
            assert!(!ranges.may_dial(at(refused), false), "{refused}");
        }
    }

    #[test]
    fn a_neighbour_may_be_private_but_never_loopback() {
        let ranges = Ranges::default();
        assert!(ranges.may_dial(at("10.1.2.3:4780"), true));
        assert!(ranges.may_dial(at("[fe80::1]:4780"), true));
        assert!(!ranges.may_dial(at("127.0.0.1:4780"), true));
    }

    #[test]
    fn a_network_is_a_24th_of_ipv4_and_a_48th_of_ipv6() {
        let of = |text: &str| Network::of(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.200"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("2001:db8:1::1"), of("2001:db8:2::1"));
    }
}
