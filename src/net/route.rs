//! Which way packets take (`man 7 rtnetlink`: `RTM_GETROUTE`), and who else has a subnet.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::change::Change;
use super::{InterfaceAddress, Netlink};
use crate::error::Result;
use crate::name::LinkName;

/// A route.
pub(super) struct Route {
    pub(super) is_local: bool,
    /// The length of the prefix of where it leads, if it was asked for as it stands in the table.
    prefix_len: u8,
    pub(super) link: Option<u32>,
    pub(super) mtu: Option<u32>,
}

impl Route {
    /// The route to `to`. `None`: there is none.
    pub(super) async fn look(
        net: &Netlink,
        to: IpAddr,
        from: Option<IpAddr>,
        flags: RouteFlags,
    ) -> Result<Option<Self>> {
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
        match net.exchange(vec![question]).await?.pop().transpose().map(Option::flatten) {
            Ok(Some(RouteNetlinkMessage::NewRoute(answer))) => Ok(Some(Self::from(answer))),
            Ok(_) => Ok(None),
            // None, or one that says no: unreachable, prohibit, blackhole.
            Err(error)
                if matches!(
                    error.errno(),
                    Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL)
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl From<RouteMessage> for Route {
    fn from(answer: RouteMessage) -> Self {
        let mut route = Self {
            is_local: answer.header.kind == RouteType::Local,
            prefix_len: answer.header.destination_prefix_length,
            link: None,
            mtu: None,
        };
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
        route
    }
}

/// Another link that has what is to be a bridge's subnet, or a part of it: answers to those behind the bridge may go there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rival {
    link: String,
    /// Its owner's mark, if it has one.
    owner: Option<String>,
    has: Claim,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    Address(IpNet),
    Route(IpNet),
}

impl Rival {
    /// Looks for one of the `bridge` with the address `gateway`: a link with an address in its subnet, or to which a route
    /// leads that is not wider than the subnet. Routes into the subnet that miss its first host are not found.
    pub(crate) async fn look(
        net: &Netlink,
        bridge: &LinkName,
        gateway: InterfaceAddress,
    ) -> Result<Option<Self>> {
        let subnet = IpNet::from(gateway).trunc();
        let own = net.link(bridge).await?.map(|link| link.index);
        let addresses = net.all_addresses().await?.into_iter();
        let mut others =
            addresses.filter(|(index, address)| Some(*index) != own && subnet.contains(&address.addr()));
        let found = match others.next() {
            Some((index, address)) => Some((index, Claim::Address(address))),
            None => route_into(net, subnet, gateway.ip(), own).await?,
        };
        let Some((index, has)) = found else { return Ok(None) };
        // One that is gone by now is in nobody's way.
        let link = net.link_at(index).await?;
        Ok(link.map(|link| Self { link: link.name, owner: link.alias, has }))
    }

    /// What makes an end of it.
    pub(crate) fn remedy(&self) -> String {
        let Self { link, has, .. } = self;
        match has {
            Claim::Address(address) => format!(
                "give the network another subnet, or take the address away (ip address delete {address} dev {link})"
            ),
            Claim::Route(to) => {
                format!(
                    "give the network another subnet, or take the route away (ip route delete {to} dev {link})"
                )
            }
        }
    }
}

/// The link to which a route leads that goes into the subnet, and no farther.
async fn route_into(
    net: &Netlink,
    subnet: IpNet,
    gateway: IpAddr,
    own: Option<u32>,
) -> Result<Option<(u32, Claim)>> {
    // The gateway, and in IPv6 the subnet's own address, lead to the host itself.
    let host = subnet.hosts().find(|ip| *ip != gateway && *ip != subnet.network());
    let Some(host) = host else { return Ok(None) };
    let route = Route::look(net, host, None, RouteFlags::FibMatch).await?;
    Ok(route.filter(|route| !route.is_local && route.prefix_len >= subnet.prefix_len()).and_then(|route| {
        let link = route.link.filter(|link| Some(*link) != own)?;
        Some((link, Claim::Route(IpNet::new(host, route.prefix_len).ok()?.trunc())))
    }))
}

impl fmt::Display for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link `{}`", self.link)?;
        if let Some(owner) = &self.owner {
            write!(f, " of {owner}")?;
        }
        match self.has {
            Claim::Address(address) => write!(f, " has the address {address}"),
            Claim::Route(to) => write!(f, " has the route to {to}"),
        }
    }
}
