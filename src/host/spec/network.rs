//! What a network of this host should be. Plain data; what becomes of it is a bridge (`man 8 bridge`).

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Resolver, Span};
use crate::error::{Error, Result};
use crate::name::NetworkName;
use crate::net::{InterfaceAddress, Mtu, Port, Subnet};

/// What a network of this host should be: a bridge with an address of each family.
///
/// ```
/// use docklet::host::NetworkSpec;
///
/// let lan = NetworkSpec { nat: true, ..NetworkSpec::new("lan".parse()?, "10.88.0.1/24".parse()?) };
/// let both = NetworkSpec { gateways: vec!["10.89.0.1/24".parse()?, "fd00:89::1/64".parse()?], ..lan.clone() };
///
/// let text = r#"{"name": "lan", "gateways": ["10.88.0.1/24"], "nat": true}"#;
/// assert_eq!(serde_json::from_str::<NetworkSpec>(text).unwrap(), lan);
/// # Ok::<(), docklet::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Unique on the host.
    pub name: NetworkName,
    /// The bridge's own addresses and the length of the subnets: `10.88.0.1/24`. One, or one of each family. Containers
    /// have an address in each subnet, and use these as their gateways.
    pub gateways: Vec<InterfaceAddress>,
    /// Whether what leaves the host's networks bears the host's address. Default: it does not.
    #[serde(default)]
    pub nat: bool,
    /// The largest packet. `None`: what its tunnel carries, and without one the kernel's default of 1500 bytes.
    #[serde(default)]
    pub mtu: Option<Mtu>,
    /// Whether its bridge speaks the spanning tree protocol: for a network with links of others on it. Default: it does not.
    #[serde(default)]
    pub stp: bool,
    /// How long its bridge remembers behind which port an address is, in seconds. `None`: the kernel's default of 300.
    #[serde(default)]
    pub ageing_seconds: Option<u32>,
    /// Other networks of this host to which its containers may open connections, by address: names are told within a network. One
    /// that does not exist is none. Default: none.
    #[serde(default)]
    pub reach: BTreeSet<NetworkName>,
    /// Who outside of this host's networks may open connections to its containers' own addresses: `0.0.0.0/0` is everybody.
    /// Default: nobody; [forwarded](super::Forward) ports are open to all.
    #[serde(default)]
    pub admit: Vec<IpNet>,
    /// What its containers may use of the host, unless it is [denied](super::IsolationSpec::denied). Default: nothing but `ping`.
    #[serde(default)]
    pub host_ports: Vec<Port>,
    /// Whom its containers ask for names. `None`: whom the host asks, but for servers that only the host can reach.
    #[serde(default)]
    pub resolver: Option<Resolver>,
    /// How it goes on on other hosts. Default: it does not.
    #[serde(default)]
    pub span: Option<Span>,
}

impl NetworkSpec {
    /// A network with the defaults of every other field.
    #[must_use]
    pub fn new(name: NetworkName, gateway: InterfaceAddress) -> Self {
        Self {
            name,
            gateways: vec![gateway],
            nat: false,
            mtu: None,
            stp: false,
            ageing_seconds: None,
            reach: BTreeSet::new(),
            admit: Vec::new(),
            host_ports: Vec::new(),
            resolver: None,
            span: None,
        }
    }

    /// The rules that the types alone do not have.
    pub(crate) fn check(&self) -> Result<()> {
        let Some((first, rest)) = self.gateways.split_first() else {
            return Err(Error::invalid(
                "network gateway",
                "none",
                "a network has one, or one of each family",
            ));
        };
        let families = rest.iter().enumerate().find(|(n, other)| {
            let is_v4 = other.ip().is_ipv4();
            first.ip().is_ipv4() == is_v4 || rest[..*n].iter().any(|earlier| earlier.ip().is_ipv4() == is_v4)
        });
        if let Some((_, second)) = families {
            return Err(Error::invalid(
                "network gateway",
                second.to_string(),
                "is a second one of its family",
            ));
        }
        self.resolver.as_ref().map_or(Ok(()), Resolver::check)?;
        self.subnets().map(drop)
    }

    /// The subnets that containers' addresses are taken from, in the gateways' order.
    pub(crate) fn subnets(&self) -> Result<Vec<Subnet>> {
        self.gateways.iter().map(|gateway| Subnet::new(IpNet::from(*gateway).trunc())).collect()
    }

    /// Tells each field that is not as `asked`: what it is, and what it should be.
    pub(crate) fn differences(&self, asked: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let mut compare = |field, found: String, asked: String| {
            if found != asked {
                differences.push(format!("{field} is {found}, not {asked}"));
            }
        };
        compare("gateways", joined(&self.gateways), joined(&asked.gateways));
        compare("nat", self.nat.to_string(), asked.nat.to_string());
        compare("mtu", shown(self.mtu), shown(asked.mtu));
        compare("stp", self.stp.to_string(), asked.stp.to_string());
        compare("ageing_seconds", shown(self.ageing_seconds), shown(asked.ageing_seconds));
        compare("reach", joined(&self.reach), joined(&asked.reach));
        compare("admit", joined(&self.admit), joined(&asked.admit));
        compare("host_ports", joined(&self.host_ports), joined(&asked.host_ports));
        compare("resolver", format!("{:?}", self.resolver), format!("{:?}", asked.resolver));
        compare("span", format!("{:?}", self.span), format!("{:?}", asked.span));
        differences
    }
}

fn joined(items: impl IntoIterator<Item = impl ToString>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(" and ") }
}

fn shown(option: Option<impl ToString>) -> String {
    option.map_or_else(|| "the default".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_one_of_each_family() {
        let spec = |gateways: &[&str]| NetworkSpec {
            gateways: gateways.iter().map(|gateway| gateway.parse().unwrap()).collect(),
            ..NetworkSpec::new("lan".parse().unwrap(), "10.0.0.1/24".parse().unwrap())
        };
        for good in [&["10.0.0.1/24"][..], &["fd00::1/64"], &["fd00::1/64", "10.0.0.1/24"]] {
            spec(good).check().unwrap();
        }
        for (bad, words) in [
            (&[][..], "one of each family"),
            (&["10.0.0.1/24", "10.0.1.1/24"], "second one of its family"),
            (&["10.0.0.1/24", "fd00::1/64", "fd01::1/64"], "second one"),
            (&["10.0.0.1/31"], "prefix"),
        ] {
            let message = spec(bad).check().unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn each_field_that_differs_is_told() {
        let lan = NetworkSpec::new("lan".parse().unwrap(), "10.0.0.1/24".parse().unwrap());
        assert_eq!(lan.differences(&lan), Vec::<String>::new());
        let other = NetworkSpec {
            gateways: vec!["10.0.0.2/24".parse().unwrap()],
            nat: true,
            mtu: Some(Mtu::new(1400).unwrap()),
            ..lan.clone()
        };
        assert_eq!(
            lan.differences(&other),
            [
                "gateways is 10.0.0.1/24, not 10.0.0.2/24",
                "nat is false, not true",
                "mtu is the default, not 1400"
            ]
        );
    }
}
