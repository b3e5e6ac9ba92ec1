//! What a veth pair (`man 4 veth`) should be, as plain data.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::name::LinkName;
use crate::net::traffic::{self, Instruction};
use crate::net::{InterfaceAddress, LinkOwner, MacAddress, Mtu, RateLimits, SourceGuard};

/// The most addresses of a port: the kernel's program that checks its frames ends at 4,096 instructions.
const MOST_ADDRESSES: usize = 64;

/// What a veth pair should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VethSpec {
    /// The name of the host's end.
    pub name: LinkName,
    /// Whose it is. Both hardware addresses are [derived](crate::net::MacAddress::derive) from it.
    pub owner: LinkOwner,
    /// The bridge that the host's end is a port of. Any bridge, not only an owner's.
    pub bridge: LinkName,
    /// The name of the inner end, such as `eth0`.
    pub inner_name: LinkName,
    /// The addresses of the inner end, 64 at most. None unless given. With one of IPv6 it has the link-local one, too; with those of
    /// IPv4 alone it has none, unless somebody inside asks for it; without any the kernel gives it one as it does to all links.
    #[serde(default)]
    pub addresses: Vec<InterfaceAddress>,
    /// Where the default routes inside lead: at most one gateway of each family. None unless given.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    /// The largest packet, for both ends. `None` is the bridge's at the time.
    #[serde(default)]
    pub mtu: Option<Mtu>,
    /// What may come out. Unless given, only what is the container's own; `None` lets everything out.
    #[serde(default = "guarded")]
    pub guard: Option<SourceGuard>,
    /// How much may go through. As much as the host can, unless given.
    #[serde(default)]
    pub rates: RateLimits,
    /// Whether the bridge passes its frames only to itself and to ports that are not isolated. No, unless asked for.
    ///
    /// A host that forwards packets is a way around the bridge: what an isolated port sends to the host's hardware address
    /// for a neighbour's IP address is routed to that one. Who does not want that gives each container a bridge.
    #[serde(default)]
    pub isolated: bool,
}

#[expect(clippy::unnecessary_wraps, reason = "the field's default")]
fn guarded() -> Option<SourceGuard> {
    Some(SourceGuard::default())
}

impl VethSpec {
    /// A pair without addresses and limits, with the bridge's MTU, guarded.
    #[must_use]
    pub fn new(name: LinkName, owner: LinkOwner, bridge: LinkName, inner_name: LinkName) -> Self {
        Self {
            name,
            owner,
            bridge,
            inner_name,
            addresses: Vec::new(),
            gateways: Vec::new(),
            mtu: None,
            guard: guarded(),
            rates: RateLimits::default(),
            isolated: false,
        }
    }

    /// Checks what the types alone do not: two names, distinct addresses, gateways that they reach and that are not one of
    /// them, an MTU that carries them, and what the guard lets through. `ensure` does it, too.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the rule that is broken.
    pub fn check(&self) -> Result<()> {
        if self.name == self.inner_name {
            let rule = "must not be both ends' name: they would have one hardware address";
            return Err(Error::invalid("interface name", self.name.as_str(), rule));
        }
        InterfaceAddress::check_distinct(&self.addresses)?;
        Mtu::check_carries(self.mtu, &self.addresses)?;
        self.guard.as_ref().map_or(Ok(()), SourceGuard::check)?;
        if self.addresses.len() > MOST_ADDRESSES {
            let value = format!("{} of them", self.addresses.len());
            return Err(Error::invalid("interface addresses", value, "at most 64"));
        }
        for (n, gateway) in self.gateways.iter().enumerate() {
            let invalid = |rule: &str| Err(Error::invalid("gateway", gateway.to_string(), rule));
            if self.gateways[..n].iter().any(|earlier| earlier.is_ipv4() == gateway.is_ipv4()) {
                return invalid("is a second one of its family");
            }
            if self.addresses.iter().any(|address| address.ip() == *gateway) {
                return invalid("must not be the interface's own address");
            }
            let Some(address) = self.addresses.iter().find(|address| address.reaches(*gateway)) else {
                return invalid("must be in the network of one of the interface's addresses");
            };
            if ipnet::IpNet::new(*gateway, address.prefix_len())
                .map(InterfaceAddress::new)
                .is_ok_and(|a| a.is_err())
            {
                return invalid("must be a host's address");
            }
        }
        Ok(())
    }

    /// The name of the device that holds back what comes out, if there is one.
    pub(super) fn shaper_name(name: &LinkName, owner: &LinkOwner) -> LinkName {
        LinkName::of_hash("di", MacAddress::derive(owner, &format!("{name}/from")).octets())
    }

    /// The program that checks what comes out, as the kernel has it.
    pub(super) fn program(&self) -> Option<Vec<Instruction>> {
        let mac = MacAddress::derive(&self.owner, self.inner_name.as_str());
        let addresses: Vec<IpAddr> = self.addresses.iter().map(|address| address.ip()).collect();
        self.guard.as_ref().map(|guard| traffic::program(guard, mac, &addresses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> VethSpec {
        let name = |text: &str| LinkName::new(text).unwrap();
        VethSpec::new(name("dk0"), LinkOwner::new("docklet/t").unwrap(), name("br0"), name("eth0"))
    }

    #[test]
    fn gateways_are_checked() {
        let spec = |addresses: &[&str], gateways: &[&str]| VethSpec {
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            gateways: gateways.iter().map(|a| a.parse().unwrap()).collect(),
            ..spec()
        };
        spec(&["10.0.0.2/24", "fd00::2/64"], &["10.0.0.1", "fd00::1"]).check().unwrap();
        spec(&[], &[]).check().unwrap();
        for (addresses, gateways, rule) in [
            (&["10.0.0.2/24"][..], &["10.0.1.1"][..], "in the network"),
            (&["10.0.0.2/24"], &["10.0.0.2"], "own address"),
            (&["10.0.0.2/24"], &["10.0.0.255"], "host's address"),
            (&["10.0.0.2/24"], &["10.0.0.1", "10.0.0.3"], "second one"),
            (&[], &["10.0.0.1"], "in the network"),
            (&["10.0.0.2/24", "10.0.0.2/16"], &[], "twice"),
        ] {
            let message = spec(addresses, gateways).check().unwrap_err().to_string();
            assert!(message.contains(rule), "{message}");
        }
    }

    #[test]
    fn the_ends_have_two_names() {
        let same = VethSpec { inner_name: LinkName::new("dk0").unwrap(), ..spec() };
        let message = same.check().unwrap_err().to_string();
        assert!(message.starts_with("invalid interface name") && message.contains("both ends"), "{message}");
    }

    #[test]
    fn what_is_not_written_is_guarded_and_unlimited() {
        let text = r#"{"name":"dk0","owner":"docklet/t","bridge":"br0","inner_name":"eth0"}"#;
        assert_eq!(serde_json::from_str::<VethSpec>(text).unwrap(), spec());
        let open = VethSpec { guard: None, ..spec() };
        let text = serde_json::to_string(&open).unwrap();
        assert_eq!(serde_json::from_str::<VethSpec>(&text).unwrap(), open);
    }
}
