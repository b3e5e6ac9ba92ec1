//! Published ports, and whether somebody listens there already (`man 5 proc`, `/proc/net/tcp`).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Protocol;
use super::port::number;
use crate::error::{Error, Result};
use crate::net::LinkOwner;
use crate::sys::file;

/// A port of the host that leads to a port in one of its networks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortForward {
    /// Whose it is: at most 128 bytes. It stands beside the entry in the table.
    pub owner: LinkOwner,
    /// The protocol.
    pub protocol: Protocol,
    /// The address of the host under which it is reached, of the same family as `to`. It need not be there yet. Default:
    /// all of them but loopback.
    #[serde(default)]
    pub host_address: Option<IpAddr>,
    /// The port there, 1 to 65535.
    pub host_port: NonZeroU16,
    /// Where it leads: an address of a network, and a port.
    pub to: SocketAddr,
}

/// What is published under one protocol, family and port: under which addresses, and by whom.
pub(super) type Published<'a> = BTreeMap<(Protocol, bool, NonZeroU16), Vec<&'a PortForward>>;

impl PortForward {
    /// The port `host_port` of the host, under any of its addresses, leads to `to`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `host_port` is 0.
    pub fn new(owner: LinkOwner, protocol: Protocol, host_port: u16, to: SocketAddr) -> Result<Self> {
        Ok(Self { owner, protocol, host_address: None, host_port: number(host_port)?, to })
    }

    pub(super) fn check(&self) -> Result<()> {
        let rule = match self.host_address {
            _ if self.to.port() == 0 => "leads to port 0",
            Some(address) if address.is_ipv4() != self.to.is_ipv4() => {
                "leads from one family of addresses to another"
            }
            Some(address) if address.is_loopback() || address.is_unspecified() || address.is_multicast() => {
                "must not be at an unspecified, multicast or loopback address"
            }
            _ => return Ok(()),
        };
        Err(Error::invalid("port forward", self.to_string(), rule))
    }

    /// Whether only one of the two can be published.
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let key = |forward: &Self| (forward.protocol, forward.to.is_ipv4(), forward.host_port);
        key(self) == key(other)
            && match (self.host_address, other.host_address) {
                (Some(address), Some(taken)) => address == taken,
                _ => true,
            }
    }

    /// Enters it into what is published.
    pub(super) fn claim<'a>(&'a self, published: &mut Published<'a>) -> Result<()> {
        let others = published.entry((self.protocol, self.to.is_ipv4(), self.host_port)).or_default();
        if let Some(other) = others.iter().find(|other| self.conflicts(other)) {
            let rule = format!("is published already: {other} of {}", other.owner);
            return Err(Error::invalid("port forward", format!("{self} of {}", self.owner), rule));
        }
        others.push(self);
        Ok(())
    }

    /// Whether no process of the host listens on the ports of `forwards`, in the network namespace of the calling thread: they
    /// would take away what is sent there. To be asked before a forward is new, not when it is made again. A process
    /// that listens on the unspecified IPv6 address counts for both families.
    ///
    /// # Errors
    /// [`Error::Busy`] with the address on which somebody listens; [`Error::Os`] if the kernel's lists cannot be read.
    pub fn check_unused<'a>(forwards: impl IntoIterator<Item = &'a Self>) -> Result<()> {
        let mut listeners = BTreeMap::new();
        for forward in forwards {
            // Once for all: the kernel goes through a table of all that may be open, which takes milliseconds.
            let found = match listeners.entry(forward.protocol) {
                Entry::Occupied(found) => found.into_mut(),
                Entry::Vacant(place) => place.insert(all_listeners(forward.protocol)?),
            };
            let at_port = found.get(&forward.host_port.get()).map(Vec::as_slice).unwrap_or_default();
            if let Some(listener) = at_port.iter().find(|found| forward.shadows(**found)) {
                return Err(Error::Busy {
                    what: format!("{} port {} of the host", forward.protocol, forward.host_port),
                    reason: format!("a process of the host has it, at {listener}"),
                });
            }
        }
        Ok(())
    }

    fn shadows(&self, listener: SocketAddr) -> bool {
        let (ip, port) = (listener.ip().to_canonical(), listener.port());
        let family = ip.is_ipv4() == self.to.is_ipv4() || ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let address = ip.is_unspecified() || self.host_address.is_none_or(|address| address == ip);
        port == self.host_port.get() && !ip.is_loopback() && family && address
    }
}

impl fmt::Display for PortForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, host_port, to, .. } = self;
        match self.host_address {
            Some(address) => write!(f, "{protocol} {} to {to}", SocketAddr::new(address, host_port.get())),
            None => write!(f, "{protocol} port {host_port} to {to}"),
        }
    }
}

/// Where processes listen, by port.
fn all_listeners(protocol: Protocol) -> Result<BTreeMap<u16, Vec<SocketAddr>>> {
    let sockets = Path::new("/proc/thread-self/net");
    let mut listeners = BTreeMap::<u16, Vec<SocketAddr>>::new();
    for list in [protocol.to_string(), format!("{protocol}6")] {
        // Without IPv6 there is no such list.
        let text = file::read_if_exists(&sockets.join(list))?.unwrap_or_default();
        for found in text.lines().filter_map(listener) {
            listeners.entry(found.port()).or_default().push(found);
        }
    }
    Ok(listeners)
}

/// The address of a line of `/proc/net/{tcp,udp}`, if the socket takes what comes from anybody.
fn listener(line: &str) -> Option<SocketAddr> {
    /// `TCP_LISTEN`, and `TCP_CLOSE`, which is what UDP has for a socket that is not connected.
    const LISTENING: [&str; 2] = ["0A", "07"];
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    if !LISTENING.contains(&fields.nth(1)?) {
        return None;
    }
    // Each word of four bytes is printed as a number in the machine's own order.
    let words: Vec<u32> = (0..address.len() / 8)
        .map(|word| u32::from_str_radix(address.get(word * 8..word * 8 + 8)?, 16).ok())
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    let ip = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn listeners_are_found() {
        let check = |line: &str, expected: Option<&str>| {
            assert_eq!(listener(line), expected.map(|text| text.parse().unwrap()), "{line}");
        };
        check("  sl  local_address rem_address   st tx_queue rx_queue", None);
        check("   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000", Some("127.0.0.1:8080"));
        check("   0: 0100007F:1F90 0100007F:AAAA 01 00000000:00000000", None);
        check("  12: 00000000:0035 00000000:0000 07 00000000:00000000", Some("0.0.0.0:53"));
        let any = "   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0:0";
        check(any, Some("[::]:22"));
        let one = "   0: B80D0120000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 0:0";
        check(one, Some("[2001:db8::1]:22"));
    }

    #[test]
    fn a_forward_shadows_what_it_takes_away() {
        let forward = |address: Option<&str>, to: &str| -> PortForward {
            let (owner, to) = (LinkOwner::new("o").unwrap(), to.parse().unwrap());
            let host_address = address.map(|ip| ip.parse().unwrap());
            PortForward {
                owner,
                protocol: Protocol::Tcp,
                host_address,
                host_port: 80.try_into().unwrap(),
                to,
            }
        };
        let check = |forward: &PortForward, listener: &str, expected: bool| {
            assert_eq!(forward.shadows(listener.parse().unwrap()), expected, "{forward} {listener}");
        };
        let any = forward(None, "10.0.0.2:80");
        for (listener, shadowed) in [
            ("0.0.0.0:80", true),
            ("192.0.2.1:80", true),
            ("[::]:80", true),
            ("[::ffff:192.0.2.1]:80", true),
            ("0.0.0.0:81", false),
            ("127.0.0.1:80", false),
            ("[2001:db8::1]:80", false),
        ] {
            check(&any, listener, shadowed);
        }
        let one = forward(Some("192.0.2.1"), "10.0.0.2:80");
        check(&one, "192.0.2.2:80", false);
        check(&one, "192.0.2.1:80", true);
        check(&one, "0.0.0.0:80", true);
        let six = forward(None, "[fd00::2]:80");
        check(&six, "0.0.0.0:80", false);
        check(&six, "[::]:80", true);
        check(&six, "[::1]:80", false);
    }
}
