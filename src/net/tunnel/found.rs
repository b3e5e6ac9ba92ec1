//! The tunnels' links that a host has (`man 7 rtnetlink`: `RTM_GETLINK`).

use super::wire::Wire;
use crate::error::Result;
use crate::net::link::Link;
use crate::net::{LinkOwner, MacAddress, Netlink};

/// A VXLAN link or a GRE tap, whoever's it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TunnelLink {
    pub(super) link: Link,
    pub(super) wire: Wire,
}

impl TunnelLink {
    /// All that there are.
    pub(super) async fn all(net: &Netlink) -> Result<Vec<Self>> {
        let found = net.links().await?.into_iter();
        let tunnels = found.filter_map(|link| Some(Self { wire: Wire::parse(link.data.as_ref()?)?, link }));
        Ok(tunnels.collect())
    }

    /// Whether it bears `owner`'s mark: one of the two, as [`Link::check_ours`] has it.
    pub(super) fn is_of(&self, owner: &LinkOwner) -> bool {
        match &self.link.alias {
            Some(alias) => alias == owner.as_str(),
            None => self.link.mac == Some(MacAddress::derive(owner, &self.link.name)),
        }
    }

    /// The link and its owner, for people.
    pub(super) fn describe(&self) -> String {
        match &self.link.alias {
            Some(alias) => format!("link `{}` of {alias:?}", self.link.name),
            None => format!("link `{}`, which bears no mark", self.link.name),
        }
    }
}
