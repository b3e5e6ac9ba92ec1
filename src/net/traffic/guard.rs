//! What may come out of a container (RFC 826, RFC 2827, RFC 4861, RFC 6105): a port's rules as plain data.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The least value of an Ethernet type; less is a length (IEEE 802.3).
const LEAST_TYPE: u16 = 0x0600;
/// Types that have rules of their own: IPv4, ARP, IPv6, and the tags of VLANs.
const RULED: [u16; 5] = [0x0800, 0x0806, 0x86dd, 0x8100, 0x88a8];

/// The most types that may be let through beside IPv4, ARP and IPv6.
const MOST_TYPES: usize = 16;

/// Keeps a container from posing as somebody else. The kernel looks at each frame that comes out of the port before
/// the bridge does, at the host's end, where whoever is root inside cannot change it. Everything else is dropped:
///
/// - the sender's hardware address is the port's own;
/// - IPv4: the source is one of the port's addresses; no DHCP server's answer (UDP from port 67), no query of a
///   multicast router (IGMP);
/// - ARP: for Ethernet and IPv4, the sender has the port's hardware address and one of its addresses, or asks for one of
///   those from 0.0.0.0 (RFC 5227);
/// - IPv6: the source is one of the port's addresses or the link-local one made from its hardware address (EUI-64), or
///   `::` to look for a duplicate of one of those or to say which groups it listens to;
///   no router's advertisement, no redirect, no query of a multicast router, no DHCP server's answer (UDP from port 547), and neighbour
///   advertisements for own addresses only;
/// - IPv6 extension headers would hide all that, so they are refused but two: the hop-by-hop header that reports
///   listeners have (RFC 3810), and the fragment header (of ICMPv6, only echoes are fragmented);
/// - no other Ethernet type, no VLAN tag.
///
/// What goes in is not looked at. An answer that names the container's own address with another hardware address harms
/// only itself, and passes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceGuard {
    /// Lets frames with one VLAN tag through, if what they carry may pass. No, unless asked for.
    pub vlan_tags: bool,
    /// Ethernet types that pass beside IPv4, ARP and IPv6, with the port's own hardware address. None unless given.
    pub ethernet_types: Vec<u16>,
}

impl SourceGuard {
    /// Checks the Ethernet types.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a type below 0x0600, for one that has rules of its own, and for more than 16.
    pub fn check(&self) -> Result<()> {
        for ethernet_type in &self.ethernet_types {
            let rule = if *ethernet_type < LEAST_TYPE {
                "must be at least 0x0600: less is a length"
            } else if RULED.contains(ethernet_type) {
                "has rules of its own"
            } else {
                continue;
            };
            return Err(Error::invalid("Ethernet type", format!("{ethernet_type:#06x}"), rule));
        }
        if self.ethernet_types.len() > MOST_TYPES {
            let value = format!("{} of them", self.ethernet_types.len());
            return Err(Error::invalid("Ethernet types", value, "at most 16"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked() {
        let guard = |types: &[u16]| SourceGuard { vlan_tags: false, ethernet_types: types.to_vec() };
        guard(&[]).check().unwrap();
        guard(&[0x88cc, 0x8863]).check().unwrap();
        for (bad, rule) in [
            (&[0x05ff][..], "at least 0x0600"),
            (&[0x88cc, 0x0800], "rules of its own"),
            (&[0x8100], "rules of its own"),
            (&[0x88cc; 17], "at most 16"),
        ] {
            let message = guard(bad).check().unwrap_err().to_string();
            assert!(message.contains(rule), "{message}");
        }
        assert_eq!(serde_json::from_str::<SourceGuard>("{}").unwrap(), SourceGuard::default());
    }
}
