//! Where a container's network comes from (`man 7 network_namespaces`): `lxc.net.*`, `lxc.namespace.share.net`.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::error::{Error, Result};
use crate::lxc::config::reader::Reader;
use crate::lxc::config::render::Lines;
use crate::lxc::text::{Entry, network_key};
use crate::name::LinkName;

/// Where a container's network comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Network {
    /// A new namespace with a loopback interface and nothing else.
    #[default]
    Isolated,
    /// A namespace that exists, pinned at a path.
    Joined(PathBuf),
    /// A new namespace with interfaces that LXC makes.
    Interfaces(Vec<LxcInterface>),
}

/// A veth pair that LXC makes, one end of it in the container, and up. docklet's own are faster, guarded and limited: see
/// [`Veth`](crate::net::Veth) and [`LxcConfig::join_network`](crate::lxc::LxcConfig::join_network).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LxcInterface {
    /// The bridge that the host's end is put into. Default: none.
    pub bridge: Option<LinkName>,
    /// What it is called in the container. Default: `eth` with a number.
    pub name: Option<LinkName>,
    /// The hardware address. Default: a random one.
    pub mac: Option<[u8; 6]>,
    /// The largest packet, in bytes. Default: the bridge's.
    pub mtu: Option<u32>,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// Its default routes: at most one for IPv4 and one for IPv6.
    pub gateways: Vec<IpAddr>,
}

impl Network {
    pub(crate) fn render(&self, lines: &mut Lines) {
        match self {
            Self::Isolated => lines.add("lxc.net.0.type", "empty"),
            Self::Joined(path) => {
                // "none" leaves the namespace as it is; that it is the joined one is verified after the start.
                lines.add("lxc.net.0.type", "none");
                lines.add("lxc.namespace.share.net", &path.to_string_lossy());
            }
            Self::Interfaces(interfaces) => {
                for (number, interface) in interfaces.iter().enumerate() {
                    interface.render(number, lines);
                }
            }
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let types = reader.take(|key| network_key(key).is_some_and(|(_, setting)| setting == b"type"));
        let pinned = reader.path("lxc.namespace.share.net").map(|path| path.as_path().to_owned());
        let kinds: Vec<&[u8]> = types.iter().map(Entry::value).collect();
        match (kinds.as_slice(), pinned) {
            ([] | [b"empty"], None) => Self::Isolated,
            ([b"none"], Some(path)) => Self::Joined(path),
            (_, Some(path)) => {
                let rule = "must be `none`, and the only one, where a network namespace is joined: LXC would make interfaces in it";
                reader.missing("lxc.net.0.type", rule);
                Self::Joined(path)
            }
            (_, None) => {
                let mut interfaces = Vec::new();
                for entry in &types {
                    match entry.value() {
                        b"veth" => interfaces.extend(LxcInterface::read(entry, reader)),
                        b"none" => reader.refuse(
                            entry,
                            "would be the host's network: pin a namespace and write lxc.namespace.share.net = PATH, or write empty",
                        ),
                        _ => reader.refuse(
                            entry,
                            "has no place in a typed configuration: write veth, or put the interface into a pinned namespace and \
                             write none, and lxc.namespace.share.net = PATH",
                        ),
                    }
                }
                Self::Interfaces(interfaces)
            }
        }
    }
}

impl LxcInterface {
    /// What LXC would do something else with.
    pub(crate) fn check(&self) -> Result<()> {
        let of_family = |v4: bool| self.gateways.iter().filter(|gateway| gateway.is_ipv4() == v4).count();
        if of_family(true) > 1 || of_family(false) > 1 {
            let gateways = self.gateways.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
            return Err(Error::invalid("gateways", gateways, "at most one for IPv4 and one for IPv6"));
        }
        Ok(())
    }

    fn render(&self, number: usize, lines: &mut Lines) {
        let mut add = |setting: &str, value: &str| lines.add(&format!("lxc.net.{number}.{setting}"), value);
        // First: giving the type forgets what was given before it.
        add("type", "veth");
        add("flags", "up");
        if let Some(bridge) = &self.bridge {
            add("link", bridge.as_str());
        }
        if let Some(name) = &self.name {
            add("name", name.as_str());
        }
        if let Some(mac) = self.mac {
            add("hwaddr", &mac.map(|byte| format!("{byte:02x}")).join(":"));
        }
        if let Some(mtu) = self.mtu {
            add("mtu", &mtu.to_string());
        }
        for address in &self.addresses {
            let family = if address.addr().is_ipv4() { "ipv4.address" } else { "ipv6.address" };
            add(family, &address.to_string());
        }
        for gateway in &self.gateways {
            add(if gateway.is_ipv4() { "ipv4.gateway" } else { "ipv6.gateway" }, &gateway.to_string());
        }
    }

    /// The network whose type is given by `kind`.
    fn read(kind: &Entry<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let (number, _) = network_key(kind.key())?;
        let mut interface = Self::default();
        let mut is_up = false;
        for entry in reader.take(|key| network_key(key).is_some_and(|(other, _)| other == number)) {
            let (Some((_, setting)), Some(text)) = (network_key(entry.key()), reader.text(&entry)) else {
                continue;
            };
            match setting {
                b"type" => {}
                b"flags" => is_up = true,
                b"link" => interface.bridge = reader.parsed(&entry, LinkName::new(text)),
                b"name" => interface.name = reader.parsed(&entry, LinkName::new(text)),
                b"hwaddr" => interface.mac = reader.parsed(&entry, parse_mac(text)),
                b"mtu" => {
                    let mtu =
                        text.parse().map_err(|_| Error::invalid("MTU", text, "must be a number of bytes"));
                    interface.mtu = reader.parsed(&entry, mtu);
                }
                b"ipv4.address" | b"ipv6.address" => {
                    interface.addresses.extend(reader.parsed(&entry, parse_address(text)));
                }
                b"ipv4.gateway" | b"ipv6.gateway" => {
                    let rule = "must be an address in a typed configuration";
                    let gateway = text.parse::<IpAddr>().map_err(|_| Error::invalid("gateway", text, rule));
                    interface.gateways.extend(reader.parsed(&entry, gateway));
                }
                _ => reader.refuse_key(&entry, "has no place in a typed configuration: leave it out"),
            }
        }
        if !is_up {
            reader.refuse(kind, format!("an interface is up: write lxc.net.{number}.flags = up"));
        }
        Some(interface)
    }
}

fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let digits = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|part| digits(part).then(|| u8::from_str_radix(part, 16).ok()).flatten())
        .collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        Error::invalid(
            "hardware address",
            text,
            "must be six bytes, as 00:16:3e:12:34:56, without an x in a typed configuration",
        )
    })
}

/// An address with its prefix, in decimal: LXC reads `/024` as C does.
fn parse_address(text: &str) -> Result<IpNet> {
    let net = text.parse::<IpNet>().ok();
    let is_plain = |net: &IpNet| text.ends_with(&format!("/{}", net.prefix_len()));
    net.filter(is_plain).ok_or_else(|| {
        let rule = "must be an address with its prefix, as 10.0.0.2/24, and nothing after it";
        Error::invalid("address", text, rule)
    })
}
