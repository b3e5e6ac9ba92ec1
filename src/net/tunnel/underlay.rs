//! The network beneath a tunnel (`man 7 rtnetlink`: `RTM_GETROUTE`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use rtnetlink::packet_route::route::RouteFlags;

use crate::error::{Error, Result};
use crate::net::Netlink;
use crate::net::route::Route;

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
        let own = Route::look(net, local, None, RouteFlags::FibMatch).await?.ok_or_else(absent)?;
        let Some(link) = own.link.filter(|_| own.is_local) else { return Err(absent()) };
        let mut underlay = Self { mtu: u32::MAX, links: BTreeSet::new() };
        underlay.narrow(net, link, None).await?;
        for peer in peers {
            let Some(way) = Route::look(net, *peer, Some(local), RouteFlags::empty()).await? else {
                continue;
            };
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
