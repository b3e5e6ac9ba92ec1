//! The program that checks what comes out of a container: a [`SourceGuard`] as classic BPF.
//!
//! Layouts: RFC 826 (ARP), RFC 791, RFC 768, RFC 8200, RFC 4861 (neighbour discovery), RFC 3810 (listeners).

use std::net::{IpAddr, Ipv6Addr};

use super::guard::SourceGuard;
use super::program::{
    Instruction, LOAD_BYTE, LOAD_BYTE_INDEXED, LOAD_HALF, LOAD_HALF_INDEXED, LOAD_WORD, Program,
    VLAN_TAG_PRESENT,
};
use crate::net::MacAddress;

/// The length of an Ethernet header.
const ETHERNET: u32 = 14;
/// Where what is in an IPv6 packet begins.
const IPV6_END: u32 = ETHERNET + 40;

const IGMP: u32 = 2;
const ICMPV6: u32 = 58;
const UDP: u32 = 17;
/// A neighbour solicitation or advertisement names its target after so many bytes.
const TARGET: u32 = 8;
/// Reports of multicast listeners, and that one has gone.
const LISTENER_REPORTS: [u32; 3] = [131, 132, 143];
const NEIGHBOUR_SOLICITATION: u32 = 135;
const NEIGHBOUR_ADVERTISEMENT: u32 = 136;
/// A query for listeners, a router's advertisement, a redirect, a multicast router's advertisement (RFC 4286).
const ROUTERS_ONLY: [u32; 4] = [130, 134, 137, 151];
/// Multicast routers greet one another with it (RFC 7761). A bridge hears it, and sends the port all multicast.
const PIM: u32 = 103;
/// A query for listeners, and a multicast router's advertisement, as IGMP has them.
const IGMP_ROUTERS_ONLY: [u32; 2] = [0x11, 0x30];
const ECHOES: [u32; 2] = [128, 129];
/// Routing, authentication, destination options, mobility, HIP, shim, experiments. Hop-by-hop and fragments have rules.
const EXTENSIONS: [u32; 8] = [43, 51, 60, 135, 139, 140, 253, 254];

/// The program for a port with the hardware address `mac`.
pub(in crate::net) fn program(
    guard: &SourceGuard,
    mac: MacAddress,
    addresses: &[IpAddr],
) -> Vec<Instruction> {
    let own = Own::new(mac, addresses);
    let mut program = Program::default();
    program.require_length(ETHERNET);
    own.require_mac(&mut program, 6);
    if !guard.vlan_tags {
        program.push(LOAD_BYTE, VLAN_TAG_PRESENT).require(0);
    }
    program.push(LOAD_HALF, 12);
    program.when(&[0x0800], |program| ipv4(program, &own));
    program.when(&[0x86dd], |program| ipv6(program, &own));
    program.when(&[0x0806], |program| arp(program, &own));
    for ethernet_type in &guard.ethernet_types {
        program.accept(u32::from(*ethernet_type));
    }
    program.drop();
    program.0
}

/// What is the port's own.
struct Own {
    /// The first four bytes of its hardware address, and the last two.
    mac: (u32, u32),
    ipv4: Vec<u32>,
    /// With the link-local one.
    ipv6: Vec<Ipv6Addr>,
}

impl Own {
    fn new(mac: MacAddress, addresses: &[IpAddr]) -> Self {
        let [a, b, c, d, e, f] = mac.octets();
        let mut own = Self {
            mac: (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([0, 0, e, f])),
            ipv4: Vec::new(),
            ipv6: vec![mac.link_local()],
        };
        for address in addresses {
            match address {
                IpAddr::V4(ip) => own.ipv4.push(ip.to_bits()),
                IpAddr::V6(ip) => own.ipv6.push(*ip),
            }
        }
        own
    }

    fn require_mac(&self, program: &mut Program, offset: u32) {
        program.push(LOAD_WORD, offset).require(self.mac.0);
        program.push(LOAD_HALF, offset + 4).require(self.mac.1);
    }
}

fn ipv4(program: &mut Program, own: &Own) {
    program.require_length(ETHERNET + 20).push(LOAD_WORD, ETHERNET + 12);
    program.when(&own.ipv4, |program| {
        program.push(LOAD_BYTE, ETHERNET + 9);
        program.when(&[UDP], |program| {
            // Ports are in the first fragment only.
            program.push(LOAD_HALF, ETHERNET + 6).accept_bits(0x1fff);
            program.require_after_header(ETHERNET, 2);
            program.push(LOAD_HALF_INDEXED, ETHERNET).refuse(67).pass();
        });
        program.when(&[IGMP], |program| {
            program.push(LOAD_HALF, ETHERNET + 6).accept_bits(0x1fff);
            program.require_after_header(ETHERNET, 1);
            program.push(LOAD_BYTE_INDEXED, ETHERNET);
            for kind in IGMP_ROUTERS_ONLY {
                program.refuse(kind);
            }
            program.pass();
        });
        program.refuse(PIM).pass();
    });
    program.drop();
}

fn arp(program: &mut Program, own: &Own) {
    program.require_length(ETHERNET + 28);
    program.push(LOAD_WORD, ETHERNET).require(0x0001_0800);
    program.push(LOAD_HALF, ETHERNET + 4).require(0x0604);
    own.require_mac(program, ETHERNET + 8);
    program.push(LOAD_WORD, ETHERNET + 14);
    program.when(&own.ipv4, Program::pass);
    // A probe: does anybody have my address?
    program.require(0).push(LOAD_HALF, ETHERNET + 6).require(1);
    program.push(LOAD_WORD, ETHERNET + 24).when(&own.ipv4, Program::pass);
    program.drop();
}

fn ipv6(program: &mut Program, own: &Own) {
    program.require_length(IPV6_END);
    program.when_address(ETHERNET + 8, &own.ipv6, |program| from_own_address(program, own));
    program.when_address(ETHERNET + 8, &[Ipv6Addr::UNSPECIFIED], |program| from_no_address(program, own));
    program.drop();
}

fn from_own_address(program: &mut Program, own: &Own) {
    program.push(LOAD_BYTE, ETHERNET + 6);
    program.when(&[UDP], |program| udp(program, IPV6_END));
    program.when(&[ICMPV6], |program| {
        program.require_length(IPV6_END + 1).push(LOAD_BYTE, IPV6_END);
        for kind in ROUTERS_ONLY {
            program.refuse(kind);
        }
        program.when(&[NEIGHBOUR_ADVERTISEMENT], |program| target_is_own(program, own));
        program.pass();
    });
    program.when(&[0], listener_report);
    program.when(&[44], fragment);
    for extension in EXTENSIONS.into_iter().chain([PIM]) {
        program.refuse(extension);
    }
    program.pass();
}

fn from_no_address(program: &mut Program, own: &Own) {
    program.push(LOAD_BYTE, ETHERNET + 6);
    program.when(&[0], listener_report);
    program.require(ICMPV6).require_length(IPV6_END + 1);
    program.push(LOAD_BYTE, IPV6_END).require(NEIGHBOUR_SOLICITATION);
    target_is_own(program, own);
}

fn target_is_own(program: &mut Program, own: &Own) {
    program.require_length(IPV6_END + TARGET + 16);
    program.when_address(IPV6_END + TARGET, &own.ipv6, Program::pass).drop();
}

/// Not a DHCP server's.
fn udp(program: &mut Program, at: u32) {
    program.require_length(at + 2).push(LOAD_HALF, at).refuse(547).pass();
}

/// A hop-by-hop header of eight bytes, and in it a report.
fn listener_report(program: &mut Program) {
    program.require_length(IPV6_END + 9);
    program.push(LOAD_HALF, IPV6_END).require(ICMPV6 << 8);
    program.push(LOAD_BYTE, IPV6_END + 8).when(&LISTENER_REPORTS, Program::pass).drop();
}

fn fragment(program: &mut Program) {
    program.require_length(IPV6_END + 8).push(LOAD_BYTE, IPV6_END);
    for extension in EXTENSIONS.into_iter().chain([0, 44, PIM]) {
        program.refuse(extension);
    }
    // The receiver goes by the first fragment, and refuses those that overlap (RFC 5722).
    program.push(LOAD_HALF, IPV6_END + 2).accept_bits(0xfff8);
    program.push(LOAD_BYTE, IPV6_END);
    program.when(&[UDP], |program| udp(program, IPV6_END + 8));
    program.when(&[ICMPV6], |program| {
        program.require_length(IPV6_END + 9);
        program.push(LOAD_BYTE, IPV6_END + 8).when(&ECHOES, Program::pass).drop();
    });
    program.pass();
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::super::program::{JUMP, RETURN};
    use super::*;
    use crate::net::traffic::frames::Sender;
    use crate::net::traffic::interpreter::passes;

    const SENDER: Sender = Sender {
        mac: [0xaa, 0xbc, 0x5a, 0x93, 0x57, 0x62],
        ipv4: Ipv4Addr::new(10, 0, 0, 2),
        ipv6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2),
    };

    fn mac() -> MacAddress {
        MacAddress::from_slice(&SENDER.mac).unwrap()
    }

    fn own() -> Vec<Instruction> {
        program(
            &SourceGuard::default(),
            mac(),
            &["10.0.0.7".parse().unwrap(), SENDER.ipv4.into(), SENDER.ipv6.into()],
        )
    }

    #[test]
    fn what_is_the_containers_own_passes() {
        for (what, frame) in SENDER.good() {
            assert!(passes(&own(), &frame, false), "{what}: {frame:02x?}");
            assert!(!passes(&own(), &frame, true), "{what} with a VLAN tag: {frame:02x?}");
        }
    }

    #[test]
    fn what_is_somebody_elses_is_dropped() {
        for (what, frame) in SENDER.bad() {
            assert!(!passes(&own(), &frame, false), "{what}: {frame:02x?}");
        }
    }

    #[test]
    fn more_passes_if_it_is_asked_for() {
        let guard = SourceGuard { vlan_tags: true, ethernet_types: vec![0x88cc] };
        let program = program(&guard, mac(), &[SENDER.ipv4.into()]);
        let discovery = SENDER.frame(0x88cc, &[&[0; 46]]);
        assert!(passes(&program, &discovery, false));
        assert!(passes(&program, &SENDER.good()[0].1, true));
        assert!(!passes(&program, &SENDER.ip4("10.0.0.3", 6, 0, &[]), true));
        let other = Sender { mac: [0xaa; 6], ..SENDER };
        assert!(!passes(&program, &other.frame(0x88cc, &[&[0; 46]]), false));
    }

    /// The kernel's own checks: it ends, jumps forward and not too far, and 4,096 instructions.
    #[test]
    fn the_longest_program_is_one_that_the_kernel_takes() {
        let addresses: Vec<IpAddr> = (1..=64_u128).map(|n| Ipv6Addr::from_bits(n).into()).collect();
        let guard = SourceGuard { vlan_tags: false, ethernet_types: vec![0x88cc; 16] };
        let program = program(&guard, mac(), &addresses);
        assert!(program.len() <= 4096, "{}", program.len());
        for (at, instruction) in program.iter().enumerate() {
            let far = match instruction.code {
                JUMP => usize::try_from(instruction.operand).unwrap(),
                _ => usize::from(instruction.jump_true.max(instruction.jump_false)),
            };
            assert!(at + far < program.len(), "{at}: {instruction:?}");
        }
        assert_eq!(program.last().unwrap().code, RETURN);
        assert!(passes(&program, &SENDER.ip6("::40", 6, &[0; 20]), false));
        assert!(!passes(&program, &SENDER.ip6("::41", 6, &[0; 20]), false));
    }

    /// The rules once more, in another way: what must hold of a frame that passes.
    fn may_pass(frame: &[u8]) -> bool {
        let own_ip = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
            Ok(bytes) => [SENDER.ipv4, Ipv4Addr::new(10, 0, 0, 7)].contains(&bytes.into()),
            Err(_) => {
                let ip = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap());
                [SENDER.ipv6, SENDER.link_local()].contains(&ip)
            }
        };
        frame[6..12] == SENDER.mac
            && match frame[12..14] {
                [8, 0] => own_ip(&frame[26..30]),
                [8, 6] => {
                    let asks = frame[21] == 1 && frame[28..32] == [0; 4] && own_ip(&frame[38..42]);
                    frame[22..28] == SENDER.mac && (own_ip(&frame[28..32]) || asks)
                }
                [0x86, 0xdd] => {
                    let kind = (frame[20] == 58).then(|| frame[54]);
                    let about_own = matches!(kind, Some(135 | 136)) && frame.get(62..78).is_some_and(own_ip);
                    !matches!(kind, Some(130 | 134 | 137 | 151))
                        && !matches!(frame[20], 43 | 51 | 60 | 103)
                        && (kind != Some(136) || about_own)
                        && (own_ip(&frame[22..38])
                            || frame[22..38] == [0; 16] && (about_own || frame[20] == 0))
                }
                _ => false,
            }
    }

    proptest! {
        /// No frame whatever makes the program look beyond its end, and none with another's source passes.
        #[test]
        fn foreign_frames_never_pass(
            kind in any::<Index>(),
            changes in vec((any::<Index>(), any::<u8>()), 0..4),
            length in any::<Index>(),
            cut in any::<bool>(),
        ) {
            let mut frame = kind.get(&SENDER.good()).1.clone();
            for (at, byte) in changes {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
            if cut {
                frame.truncate(length.index(frame.len() + 1));
            }
            prop_assert!(!passes(&own(), &frame, false) || may_pass(&frame), "{frame:02x?}");
        }

        #[test]
        fn noise_never_passes(noise in vec(any::<u8>(), 0..100)) {
            prop_assert!(!passes(&own(), &noise, false));
        }
    }
}
