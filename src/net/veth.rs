//! Veth pairs (`man 4 veth`): a container's wire to its bridge.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use futures_util::future::join;
use rtnetlink::LinkVeth;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use serde::{Deserialize, Serialize};

use super::link::{self, ATTEMPTS, Link, MessageBuilder};
use super::netlink::{Change, Mode};
use super::{InterfaceAddress, LinkOwner, MacAddress, Mtu, Netlink, NetworkNamespace};
use crate::error::{Error, Result};
use crate::name::LinkName;

/// What a veth pair should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VethSpec {
    /// The name of the host's end.
    pub name: LinkName,
    /// Whose it is. Both hardware addresses are [derived](MacAddress::derive) from it.
    pub owner: LinkOwner,
    /// The bridge that the host's end is a port of. Any bridge, not only an owner's.
    pub bridge: LinkName,
    /// The name of the inner end, such as `eth0`.
    pub inner_name: LinkName,
    /// The addresses of the inner end. None unless given.
    #[serde(default)]
    pub addresses: Vec<InterfaceAddress>,
    /// Where the default routes inside lead: at most one gateway of each family. None unless given.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    /// The largest packet, for both ends. `None` is the bridge's at the time.
    #[serde(default)]
    pub mtu: Option<Mtu>,
}

impl VethSpec {
    /// Checks what the types alone do not: distinct addresses, gateways that they reach and that are not one of
    /// them, and an MTU that carries them. `ensure` does it, too.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the rule that is broken.
    pub fn check(&self) -> Result<()> {
        InterfaceAddress::check_distinct(&self.addresses)?;
        Mtu::check_carries(self.mtu, &self.addresses)?;
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
}

/// A veth pair that exists. A plain value: dropping it does nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Veth {
    name: LinkName,
    index: u32,
}

impl Veth {
    /// Makes the pair: the host's end up in its bridge, the inner end born in `namespace`, up, with its addresses and
    /// routes. Or adopts the one that is there: completes it if a crash left it half made, makes it anew if its inner
    /// end is not in `namespace` (which was made anew, then), and puts right what has drifted (down, out of
    /// the bridge, an address or a route lost). What a container has added inside stays.
    ///
    /// `net` is a connection to the host's namespace. IPv6 addresses are usable at once: the search for duplicates is
    /// left out.
    ///
    /// # Errors
    /// [`Error::Invalid`] as [`VethSpec::check`]; [`Error::NotFound`] if there is no such bridge;
    /// [`Error::Differs`] if the link `name` is no veth, is not the owner's, is a port of another bridge, or has another
    /// MTU or other addresses than asked for, or if `inner_name` is taken inside: all is left as it is;
    /// [`Error::Unsupported`] for an IPv6 address where IPv6 is off; [`Error::Os`] if the system refuses.
    pub async fn ensure(net: &Netlink, namespace: &NetworkNamespace, spec: &VethSpec) -> Result<Self> {
        spec.check()?;
        for attempt in 0..ATTEMPTS {
            link::pause(attempt).await;
            match ensure_once(net, namespace, spec).await {
                Ok(Some(veth)) => return Ok(veth),
                // Something came or went while we were at it.
                Ok(None) => {}
                Err(error) if error.errno() == Some(libc::ENODEV) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Busy {
            what: format!("link `{}`", spec.name),
            reason: "it comes and goes; does somebody else use it?".to_owned(),
        })
    }

    /// Removes the pair whose host's end is the link `name` of `owner`. One that is gone is removed. Takes 15 to
    /// 45 ms; where the namespace of the inner end ends anyway, [`Netlink::wait_gone`] is sooner.
    ///
    /// # Errors
    /// [`Error::Differs`] if the link is no veth or not the owner's: it is left as it is; [`Error::Os`] if the
    /// system refuses.
    pub async fn remove(net: &Netlink, name: &LinkName, owner: &LinkOwner) -> Result<()> {
        link::remove(net, name, owner, "veth").await
    }

    /// The name of the host's end.
    #[must_use]
    pub fn name(&self) -> &LinkName {
        &self.name
    }

    /// The kernel's number for the host's end, valid as long as it exists.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }
}

/// `None`: begin again.
async fn ensure_once(net: &Netlink, namespace: &NetworkNamespace, spec: &VethSpec) -> Result<Option<Veth>> {
    // The way inside is opened by a thread of its own, so both take no longer than one.
    let (inside, made) = join(Netlink::connect_in(namespace), make(net, namespace, spec)).await;
    let (made, inside) = (made?, inside?);
    let Some(host) = made.host else {
        // The name that exists was the inner one, unless somebody has just removed the pair.
        let taken = inside.link(&spec.inner_name).await?.is_some() && net.link(&spec.name).await?.is_none();
        return if taken {
            Err(Error::Differs {
                what: format!("link `{}` in `{}`", spec.inner_name, namespace.path().display()),
                difference: "it belongs to something else".to_owned(),
            })
        } else {
            Ok(None)
        };
    };
    host.check_ours(&spec.name, &spec.owner, "veth")?;
    let Some(inner) = inner_end(&inside, &host).await? else {
        tracing::debug!(link = %spec.name, "its inner end is elsewhere: made anew");
        link::delete(net, &spec.name, host.index).await?;
        return Ok(None);
    };
    let changes = if made.fresh {
        host.completion(&spec.name, &spec.owner, None)
    } else {
        check_adoptable(&inside, spec, &made.bridge, &host, &inner).await?
    };
    let (outer, inner) = join(net.change_all(changes), configure(&inside, spec, &inner)).await;
    outer.and(inner)?;
    Ok(Some(Veth { name: spec.name.clone(), index: host.index }))
}

/// What there is after an attempt to make a pair.
struct Made {
    bridge: Link,
    /// Whether it was made now.
    fresh: bool,
    /// The link of the host's end's name.
    host: Option<Link>,
}

async fn make(net: &Netlink, namespace: &NetworkNamespace, spec: &VethSpec) -> Result<Made> {
    let bridge = net
        .link(&spec.bridge)
        .await?
        .ok_or_else(|| Error::NotFound { what: format!("bridge `{}`", spec.bridge) })?;
    if bridge.kind != "bridge" {
        return Err(Error::Differs {
            what: format!("link `{}`", spec.bridge),
            difference: "it is no bridge".to_owned(),
        });
    }
    let fresh = match create(net, namespace, spec, &bridge).await {
        Ok(()) => true,
        Err(error) if error.errno() == Some(libc::EEXIST) => false,
        Err(error) => return Err(error),
    };
    Ok(Made { bridge, fresh, host: net.link(&spec.name).await? })
}

/// One message makes both ends, in their places. The kernel takes no alias here; the hardware address is the mark until
/// there is one. Nor does it take an inner end that is up (ENOTCONN: it is not tied to the other one yet).
async fn create(net: &Netlink, namespace: &NetworkNamespace, spec: &VethSpec, bridge: &Link) -> Result<()> {
    let mtu = spec.mtu.map_or(bridge.mtu, Mtu::bytes);
    let mut inner = MessageBuilder::default()
        .name(spec.inner_name.to_string())
        .address(MacAddress::derive(&spec.owner, spec.inner_name.as_str()).octets().to_vec())
        .mtu(mtu)
        .build();
    inner.attributes.push(LinkAttribute::NetNsFd(namespace.as_fd().as_raw_fd()));
    let message = LinkVeth::new(spec.name.as_str(), spec.inner_name.as_str())
        .address(MacAddress::derive(&spec.owner, spec.name.as_str()).octets().to_vec())
        .mtu(mtu)
        .controller(bridge.index)
        .up()
        .set_info_data(InfoData::Veth(InfoVeth::Peer(inner)))
        .build();
    net.change(Change {
        call: "RTM_NEWLINK",
        target: format!("veth `{}`", spec.name),
        message: RouteNetlinkMessage::NewLink(message),
        mode: Mode::Create,
        fine: None,
    })
    .await
}

/// The other end of `host`, if it is in the namespace of `inside`, whatever it is called there now.
async fn inner_end(inside: &Netlink, host: &Link) -> Result<Option<Link>> {
    let Some(index) = host.peer else { return Ok(None) };
    // Numbers are per namespace, so another link may have that one here; but it does not name `host` in turn.
    Ok(inside.link_at(index).await?.filter(|inner| inner.kind == "veth" && inner.peer == Some(host.index)))
}

/// Compares a pair that was there before, and says what the host's end lacks.
async fn check_adoptable(
    inside: &Netlink,
    spec: &VethSpec,
    bridge: &Link,
    host: &Link,
    inner: &Link,
) -> Result<Vec<Change>> {
    let mut differences = Vec::new();
    if host.master.is_some_and(|master| master != bridge.index) {
        differences.push(format!("it is a port of another bridge than `{}`", spec.bridge));
    }
    if let Some(mtu) = spec.mtu.filter(|mtu| mtu.bytes() != host.mtu) {
        differences.push(format!("its MTU is {}, not {mtu}", host.mtu));
    }
    let present = inside.addresses(inner.index).await?;
    let asked: Vec<ipnet::IpNet> = spec.addresses.iter().map(|address| (*address).into()).collect();
    // Those beside one that was asked for are the container's own affair.
    if !asked.is_empty() && !present.iter().any(|address| asked.contains(address)) {
        let others =
            present.iter().map(|other| format!("it has the address {other}, which was not asked for"));
        differences.extend(others);
    }
    if !differences.is_empty() {
        return Err(Error::Differs {
            what: format!("veth `{}`", spec.name),
            difference: differences.join("; "),
        });
    }
    let mut changes = host.completion(&spec.name, &spec.owner, None);
    if host.master.is_none() {
        let message = MessageBuilder::default().index(host.index).controller(bridge.index).build();
        changes.push(link::set_link(spec.name.as_str(), message));
    }
    Ok(changes)
}

/// Gives the inner end what it lacks. What is there is left.
async fn configure(inside: &Netlink, spec: &VethSpec, inner: &Link) -> Result<()> {
    let name = spec.inner_name.as_str();
    let mut changes = Vec::new();
    if !inner.up {
        changes.push(link::set_link(name, MessageBuilder::default().index(inner.index).up().build()));
    }
    changes.extend(spec.addresses.iter().map(|address| link::add_address(name, inner.index, *address)));
    changes.extend(spec.gateways.iter().map(|gateway| link::set_default_route(name, inner.index, *gateway)));
    inside.change_all(changes).await.map_err(link::explain_ipv6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_checked() {
        let spec = |addresses: &[&str], gateways: &[&str]| VethSpec {
            name: LinkName::new("dk0").unwrap(),
            owner: LinkOwner::new("docklet/t").unwrap(),
            bridge: LinkName::new("br0").unwrap(),
            inner_name: LinkName::new("eth0").unwrap(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            gateways: gateways.iter().map(|a| a.parse().unwrap()).collect(),
            mtu: None,
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
}
