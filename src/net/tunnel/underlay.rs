//! The network beneath a tunnel (`man 7 rtnetlink`: `RTM_GETROUTE`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::{Error, Result};
use crate::net::Netlink;
use crate::net::change::Change;

/// What the host's routes say of the way to some others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Underlay {
    /// The largest packet that fits everywhere, in bytes.
    pub(super) mtu: u32,
    /// The numbers of the links that it goes through.
    pub(super) links: BTreeSet<u32>,
}

impl Underlay {
    /// Looks at the link that has the address `local`, and at the routes from there to `peers`. A peer without a route
    /// is left out: it may get one later.
    pub(super) async fn look(net: &Netlink, local: IpAddr, peers: &BTreeSet<IpAddr>) -> Result<Self> {
        let absent = || Error::NotFound {
            what: format!("a link of this host with the tunnel's local address {local}"),
        };
        // Matched as it stands in the table: what the kernel would use for itself is `lo`.
        let own = route(net, local, None, RouteFlags::FibMatch).await?.ok_or_else(absent)?;
        let Some(link) = own.link.filter(|_| own.is_local) else { return Err(absent()) };
        let mut underlay = Self { mtu: u32::MAX, links: BTreeSet::new() };
        underlay.narrow(net, link, None).await?;
        for peer in peers {
            let Some(way) = route(net, *peer, Some(local), RouteFlags::empty()).await? else { continue };
            if way.is_local {
                return Err(Error::invalid("host", peer.to_string(), "is an address of this host, too"));
            }
            if let Some(link) = way.link {
                underlay.narrow(net, link, way.mtu).await?;
            }
        }
        Ok(underlay)
    }

    async fn narrow(&mut self, net: &Netlink, link: u32, route_mtu: Option<u32>) -> Result<()> {
        let link_mtu =
            if self.links.insert(link) { net.link_at(link).await?.map(|link| link.mtu) } else { None };
        self.mtu = self.mtu.min(link_mtu.unwrap_or(u32::MAX)).min(route_mtu.unwrap_or(u32::MAX));
        Ok(())
    }
}

/// A route.
struct Route {
    is_local: bool,
    link: Option<u32>,
    mtu: Option<u32>,
}

/// `None`: there is no route.
async fn route(net: &Netlink, to: IpAddr, from: Option<IpAddr>, flags: RouteFlags) -> Result<Option<Route>> {
    let (address_family, bits) =
        if to.is_ipv4() { (AddressFamily::Inet, 32) } else { (AddressFamily::Inet6, 128) };
    let mut question = RouteMessage::default();
    question.header =
        RouteHeader { address_family, destination_prefix_length: bits, flags, ..RouteHeader::default() };
    question.attributes.push(RouteAttribute::Destination(to.into()));
    if let Some(from) = from {
        question.header.source_prefix_length = bits;
        question.attributes.push(RouteAttribute::Source(from.into()));
    }
    let question = Change::new(to.to_string(), RouteNetlinkMessage::GetRoute(question));
    let answer = match net.exchange(vec![question]).await?.pop().transpose().map(Option::flatten) {
        Ok(Some(RouteNetlinkMessage::NewRoute(answer))) => answer,
        Ok(_) => return Ok(None),
        // None, or one that says no: unreachable, prohibit, blackhole.
        Err(error)
            if matches!(
                error.errno(),
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL)
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut route = Route { is_local: answer.header.kind == RouteType::Local, link: None, mtu: None };
    for attribute in answer.attributes {
        match attribute {
            RouteAttribute::Oif(link) => route.link = Some(link),
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Ok(Some(route))
}
