//! Frames that a container sends, and some that it must not (RFC 826, RFC 791, RFC 8200, RFC 4861): for tests.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Who sends, and what is its own.
pub(super) struct Sender {
    pub(super) mac: [u8; 6],
    pub(super) ipv4: Ipv4Addr,
    pub(super) ipv6: Ipv6Addr,
}

/// What it is, and its bytes.
pub(super) type Named = (&'static str, Vec<u8>);

/// A report of a multicast listener behind a hop-by-hop header with the router alert.
const REPORT: [u8; 12] = [58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0];

impl Sender {
    /// The address that the kernel makes of the hardware address (EUI-64).
    pub(super) fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac;
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }

    /// To everybody.
    pub(super) fn frame(&self, ethernet_type: u16, parts: &[&[u8]]) -> Vec<u8> {
        [&[0xff; 6][..], &self.mac, &ethernet_type.to_be_bytes(), &parts.concat()].concat()
    }

    pub(super) fn ip4(&self, source: &str, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let source = source.parse::<Ipv4Addr>().expect("address").octets();
        let [f, g] = fragment.to_be_bytes();
        let header = [0x45, 0, 0, 0, 0, 0, f, g, 64, protocol, 0, 0];
        self.frame(0x0800, &[&header, &source, &[255; 4], payload])
    }

    pub(super) fn ip6(&self, source: &str, next: u8, payload: &[u8]) -> Vec<u8> {
        let source = source.parse::<Ipv6Addr>().expect("address").octets();
        self.frame(0x86dd, &[&[0x60, 0, 0, 0, 0, 0, next, 255], &source, &[0xff; 16], payload])
    }

    fn arp(&self, operation: u8, mac: [u8; 6], sender: &str, target: &str) -> Vec<u8> {
        let [sender, target] = [sender, target].map(|ip| ip.parse::<Ipv4Addr>().expect("address").octets());
        self.frame(0x0806, &[&[0, 1, 8, 0, 6, 4, 0, operation], &mac, &sender, &[0; 6], &target])
    }

    /// A neighbour solicitation (135), advertisement (136) or a redirect (137).
    fn neighbour(&self, source: &str, kind: u8, target: &str) -> Vec<u8> {
        let target = target.parse::<Ipv6Addr>().expect("address").octets();
        self.ip6(source, 58, &[&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target].concat())
    }

    /// What a well-behaved container sends.
    pub(super) fn good(&self) -> Vec<Named> {
        let (ip4, ip6, local) = (self.ipv4.to_string(), self.ipv6.to_string(), self.link_local().to_string());
        let (ip4, ip6, local) = (&*ip4, &*ip6, &*local);
        vec![
            ("TCP", self.ip4(ip4, 6, 0, &[0; 20])),
            ("a DHCP client's question", self.ip4(ip4, 17, 0x4000, &[0, 68, 0, 67, 0, 0, 0, 0])),
            ("a later fragment of UDP", self.ip4(ip4, 17, 0x00b9, &[])),
            ("a report of IGMP", self.ip4(ip4, 2, 0, &[0x16, 0, 0, 0])),
            ("an ARP request", self.arp(1, self.mac, ip4, "10.0.0.1")),
            ("an ARP reply", self.arp(2, self.mac, ip4, "10.0.0.1")),
            ("an ARP probe", self.arp(1, self.mac, "0.0.0.0", ip4)),
            ("TCP over IPv6", self.ip6(ip6, 6, &[0; 20])),
            ("a DHCPv6 client's question", self.ip6(local, 17, &[2, 34, 2, 35, 0, 0, 0, 0])),
            ("an echo", self.ip6(ip6, 58, &[128, 0, 0, 0])),
            ("a router solicitation", self.ip6(local, 58, &[133, 0, 0, 0, 0, 0, 0, 0])),
            ("a neighbour solicitation", self.neighbour(ip6, 135, "fd00::1")),
            ("a neighbour advertisement", self.neighbour(ip6, 136, ip6)),
            ("one of the link-local address", self.neighbour(local, 136, local)),
            ("a search for a duplicate", self.neighbour("::", 135, ip6)),
            ("a first report of listeners", self.ip6("::", 0, &REPORT)),
            ("a report of listeners", self.ip6(local, 0, &REPORT)),
            ("a first fragment of UDP", self.ip6(ip6, 44, &[17, 0, 0, 1, 0, 0, 0, 0, 0, 80, 0, 80])),
            ("a first fragment of an echo", self.ip6(ip6, 44, &[58, 0, 0, 1, 0, 0, 0, 0, 128, 0, 0, 0])),
            ("a later fragment", self.ip6(ip6, 44, &[58, 0, 0, 8, 0, 0, 0, 0, 134])),
        ]
    }

    /// What it must not send.
    pub(super) fn bad(&self) -> Vec<Named> {
        [self.bad_ethernet(), self.bad_ipv4(), self.bad_ipv6(), self.hidden()].concat()
    }

    fn bad_ethernet(&self) -> Vec<Named> {
        let ip4 = &*self.ipv4.to_string();
        let [a, b, c, d, e, f] = self.mac;
        let other = [a, b, c, d, e, f ^ 1];
        let foreign = Self { mac: other, ..*self };
        let mut reverse = self.arp(1, self.mac, ip4, "10.0.0.1");
        reverse[12..14].copy_from_slice(&[0x80, 0x35]);
        vec![
            ("another hardware address", foreign.ip4(ip4, 6, 0, &[0; 20])),
            ("an ARP reply for the gateway", self.arp(2, self.mac, "10.0.0.1", "10.0.0.3")),
            ("a gratuitous ARP request for the gateway", self.arp(1, self.mac, "10.0.0.1", "10.0.0.1")),
            ("an ARP reply with another hardware address", self.arp(2, other, ip4, "10.0.0.1")),
            ("an ARP probe for another", self.arp(1, self.mac, "0.0.0.0", "10.0.0.3")),
            ("an ARP reply without an address", self.arp(2, self.mac, "0.0.0.0", ip4)),
            ("RARP", reverse),
            ("LLDP", self.frame(0x88cc, &[&[0; 46]])),
            ("the spanning tree protocol", self.frame(0x0026, &[&[0x42, 0x42, 3, 0, 0, 0]])),
            ("a VLAN tag", self.frame(0x8100, &[&[0, 1, 8, 0, 0x45]])),
            ("a provider's VLAN tag", self.frame(0x88a8, &[&[0, 1, 0x81, 0, 0, 1, 8, 0]])),
        ]
    }

    fn bad_ipv4(&self) -> Vec<Named> {
        let ip4 = &*self.ipv4.to_string();
        let mut long_header = self.ip4(ip4, 17, 0, &[0; 20]);
        long_header[14] = 0x4f;
        let mut options = self.ip4(ip4, 17, 0, &[1, 1, 1, 1, 0, 67, 0, 68]);
        options[14] = 0x46;
        vec![
            ("another IPv4 source", self.ip4("10.0.0.3", 6, 0, &[0; 20])),
            ("no IPv4 source", self.ip4("0.0.0.0", 17, 0, &[0, 68, 0, 67])),
            ("a DHCP server's answer", self.ip4(ip4, 17, 0, &[0, 67, 0, 68])),
            ("its first fragment", self.ip4(ip4, 17, 0x2000, &[0, 67, 0, 68])),
            ("a DHCP server's answer behind options", options),
            ("a header that is too long", long_header),
            ("a query of IGMP", self.ip4(ip4, 2, 0, &[0x11, 0, 0, 0])),
        ]
    }

    fn bad_ipv6(&self) -> Vec<Named> {
        let (ip6, local) = (self.ipv6.to_string(), self.link_local().to_string());
        let (ip6, local) = (&*ip6, &*local);
        vec![
            ("another IPv6 source", self.ip6("fd00::3", 6, &[0; 20])),
            ("another link-local source", self.ip6("fe80::1", 58, &[128, 0, 0, 0])),
            ("no IPv6 source", self.ip6("::", 17, &[0, 80, 0, 80])),
            ("a DHCPv6 server's answer", self.ip6(ip6, 17, &[2, 35, 2, 34])),
            ("a neighbour advertisement for the gateway", self.neighbour(ip6, 136, "fd00::1")),
            ("a neighbour advertisement from nobody", self.neighbour("::", 136, ip6)),
            ("a search for another's duplicate", self.neighbour("::", 135, "fd00::3")),
            ("a router advertisement", self.ip6(local, 58, &[134, 0, 0, 0])),
            ("a redirect", self.neighbour(local, 137, "fd00::1")),
            ("a query for listeners", self.ip6(local, 58, &[130, 0, 0, 0])),
        ]
    }

    /// Router advertisements and others, behind extension headers.
    fn hidden(&self) -> Vec<Named> {
        let (ip6, local) = (self.ipv6.to_string(), self.link_local().to_string());
        let (ip6, local) = (&*ip6, &*local);
        let advertisement = [58, 0, 1, 4, 0, 0, 0, 0, 134, 0, 0, 0];
        let twice = [&[60, 0, 1, 4, 0, 0, 0, 0][..], &advertisement].concat();
        vec![
            ("behind a hop-by-hop header", self.ip6(local, 0, &advertisement)),
            ("behind two headers", self.ip6(local, 0, &twice)),
            ("behind destination options", self.ip6(local, 60, &advertisement)),
            ("behind a routing header", self.ip6(local, 43, &advertisement)),
            ("behind an authentication header", self.ip6(local, 51, &advertisement)),
            ("in a fragment", self.ip6(local, 44, &[58, 0, 0, 0, 0, 0, 0, 1, 134, 0, 0, 0])),
            ("in a fragment behind options", self.ip6(local, 44, &[60, 0, 0, 1, 0, 0, 0, 0, 58, 0, 1, 4])),
            ("DHCPv6 in a fragment", self.ip6(ip6, 44, &[17, 0, 0, 1, 0, 0, 0, 0, 2, 35, 2, 34])),
        ]
    }
}
