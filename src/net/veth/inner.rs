//! The inner end of a pair, from within its namespace: up, with its addresses and routes.

use super::VethSpec;
use crate::error::Result;
use crate::net::link::{self, ATTEMPTS, Link, MessageBuilder};
use crate::net::{MacAddress, Netlink, inet};

/// The other end of `host`, which was just made: nothing has been done with it, so it need not be asked for.
pub(super) fn born(host: &Link) -> Option<Link> {
    Some(Link {
        index: host.peer?,
        kind: host.kind.clone(),
        peer: Some(host.index),
        mtu: host.mtu,
        ..Link::default()
    })
}

/// The other end of `host`, if it is in the namespace of `inside`, whatever it is called there now.
pub(super) async fn find(inside: &Netlink, host: &Link) -> Result<Option<Link>> {
    let Some(index) = host.peer else { return Ok(None) };
    // Numbers are per namespace, so another link may have that one here; but it does not name `host` in turn.
    Ok(inside.link_at(index).await?.filter(|inner| inner.kind == "veth" && inner.peer == Some(host.index)))
}

/// Gives the inner end what it lacks. What is there is left.
pub(super) async fn complete(inside: &Netlink, spec: &VethSpec, inner: &Link) -> Result<()> {
    let name = spec.inner_name.as_str();
    let mut changes = Vec::new();
    // With another hardware address the guard would let nothing out.
    let mac = MacAddress::derive(&spec.owner, name);
    if spec.guard.is_some() && inner.mac.is_some_and(|found| found != mac) {
        let message = MessageBuilder::default().index(inner.index).address(mac.octets().to_vec());
        changes.push(link::set_link(name, message.build()));
    }
    let speaks_ipv6 = spec.addresses.iter().any(|address| address.ip().is_ipv6());
    if !inner.up {
        // A link-local address is announced to all ports of the bridge, each of which has to look at it.
        if !speaks_ipv6 && !spec.addresses.is_empty() {
            changes.push(inet::without_link_local(name, inner.index));
        }
        changes.push(link::set_link(name, MessageBuilder::default().index(inner.index).up().build()));
    }
    if speaks_ipv6 {
        // The kernel gives none to a link that had IPv4 alone until now; and the one that it gives is not in use at once.
        changes.push(inet::add_link_local(name, inner.index, mac));
    }
    changes.extend(spec.addresses.iter().map(|address| inet::add_address(name, inner.index, *address)));
    changes.extend(spec.gateways.iter().map(|gateway| inet::set_default_route(name, inner.index, *gateway)));
    inside.change_all(changes).await.map_err(inet::explain_ipv6)?;
    if speaks_ipv6 {
        wait_until_usable(inside, inner.index).await?;
    }
    Ok(())
}

/// Waits until the IPv6 addresses are in use: the kernel tells IPv6 that both ends are up a moment after they are. The wait
/// has an end, since the addresses are there all the same.
async fn wait_until_usable(inside: &Netlink, index: u32) -> Result<()> {
    for attempt in 0..ATTEMPTS {
        link::pause(attempt).await;
        if !inside.has_tentative(index).await? {
            break;
        }
    }
    Ok(())
}

/// Gives the inner end what it lacks, and takes what was not asked for: addresses, and default routes by hand.
pub(super) async fn replace(inside: &Netlink, spec: &VethSpec, inner: &Link, mtu: u32) -> Result<()> {
    let name = spec.inner_name.as_str();
    let mut changes = Vec::new();
    if inner.mtu != mtu {
        changes.push(link::set_link(name, MessageBuilder::default().index(inner.index).mtu(mtu).build()));
    }
    for address in inside.addresses(inner.index).await? {
        if !spec.addresses.iter().any(|asked| ipnet::IpNet::from(*asked) == address) {
            changes.push(inet::remove_address(name, inner.index, address));
        }
    }
    for ipv6 in [false, true] {
        if !spec.gateways.iter().any(|gateway| gateway.is_ipv6() == ipv6) {
            changes.push(inet::remove_default_route(name, inner.index, ipv6));
        }
    }
    // Routes need the addresses that they go by.
    inside.change_all(changes).await?;
    complete(inside, spec, inner).await
}
