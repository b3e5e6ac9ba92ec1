//! Addresses and default routes of a link (`man 7 rtnetlink`): seen, given, taken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::change::{Change, Mode};
use super::link::{self, MessageBuilder};
use super::{InterfaceAddress, MacAddress, Netlink};
use crate::error::{Error, Result};

impl Netlink {
    /// The addresses of the link `index` but those that the kernel gives itself: link-local ones of IPv6, and those that
    /// it makes of what a router (or who says that he is one) advertises.
    pub(super) async fn addresses(&self, index: u32) -> Result<Vec<IpNet>> {
        Ok(self.addresses_with_flags(index).await?.into_iter().map(|(address, _)| address).collect())
    }

    /// Whether one of these is not in use yet: IPv6 waits until the link's other end is up.
    pub(super) async fn has_tentative(&self, index: u32) -> Result<bool> {
        let found = self.addresses_with_flags(index).await?;
        Ok(found.iter().any(|(_, flags)| flags.contains(AddressHeaderFlags::Tentative)))
    }

    async fn addresses_with_flags(&self, index: u32) -> Result<Vec<(IpNet, AddressHeaderFlags)>> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        let permanent = |(address, flags): &(IpNet, AddressHeaderFlags)| {
            address.addr().is_ipv4() || flags.contains(AddressHeaderFlags::Permanent)
        };
        let found =
            self.dump(RouteNetlinkMessage::GetAddress(message)).await?.into_iter().filter_map(address);
        Ok(found
            .filter(|(on, _, _)| *on == index)
            .map(|(_, address, flags)| (address, flags))
            .filter(permanent)
            .collect())
    }

    /// The addresses of all links, by the number of the link, but link-local ones of IPv6.
    pub(super) async fn all_addresses(&self) -> Result<Vec<(u32, IpNet)>> {
        let found = self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default())).await?;
        Ok(found.into_iter().filter_map(address).map(|(index, address, _)| (index, address)).collect())
    }
}

/// The number of the link that `message` is about, and its address there, unless that is a link-local one of IPv6.
fn address(message: RouteNetlinkMessage) -> Option<(u32, IpNet, AddressHeaderFlags)> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    // On a point-to-point link ADDRESS is the other end's; LOCAL, where there is one, is always ours.
    let mut ours = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => ours = Some(*ip),
            AddressAttribute::Address(ip) => ours = ours.or(Some(*ip)),
            _ => {}
        }
    }
    let ip = ours.filter(|ip| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()))?;
    Some((message.header.index, IpNet::new(ip, message.header.prefix_len).ok()?, message.header.flags))
}

/// Gives the link `index` an address; it may have it already.
pub(super) fn add_address(name: &str, index: u32, address: InterfaceAddress) -> Change {
    let mut message = address_message(index, address.into());
    // Addresses are given out once: the second that the kernel would look for a duplicate is not waited for.
    if address.ip().is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes.extend(address.broadcast().map(AddressAttribute::Broadcast));
    let message = RouteNetlinkMessage::NewAddress(message);
    Change {
        mode: Mode::Create,
        fine: &[libc::EEXIST],
        ..Change::new(format!("{address} of link `{name}`"), message)
    }
}

/// Gives the link `index` the link-local address that belongs to its hardware address `mac`; it may have it already.
pub(super) fn add_link_local(name: &str, index: u32, mac: MacAddress) -> Change {
    let mut message = address_message(index, IpNet::V6(Ipv6Net::new_assert(mac.link_local(), 64)));
    message.header.flags = AddressHeaderFlags::Nodad;
    let message = RouteNetlinkMessage::NewAddress(message);
    let target = format!("{} of link `{name}`", mac.link_local());
    Change { mode: Mode::Create, fine: &[libc::EEXIST], ..Change::new(target, message) }
}

/// Keeps the kernel from giving the link `index`, which is down, a link-local address when it comes up.
pub(super) fn without_link_local(name: &str, index: u32) -> Change {
    let mut message = MessageBuilder::default().index(index).build();
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]));
    // Where there is no IPv6 it has none anyway.
    Change { fine: &[libc::EAFNOSUPPORT], ..link::set_link(name, message) }
}

/// Takes an address from the link `index`; it may have lost it already.
pub(super) fn remove_address(name: &str, index: u32, address: IpNet) -> Change {
    let message = RouteNetlinkMessage::DelAddress(address_message(index, address));
    Change { fine: &[libc::EADDRNOTAVAIL], ..Change::new(format!("{address} of link `{name}`"), message) }
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = address.prefix_len();
    message.header.family = match address.addr() {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.attributes =
        vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
    message
}

/// Sets the default route through `gateway` on the link `index`.
pub(super) fn set_default_route(name: &str, index: u32, gateway: IpAddr) -> Change {
    let message = match gateway {
        IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new().output_interface(index).gateway(ip).build(),
        IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new().output_interface(index).gateway(ip).build(),
    };
    let target = format!("default route by {gateway} on link `{name}`");
    Change { mode: Mode::Replace, ..Change::new(target, RouteNetlinkMessage::NewRoute(message)) }
}

/// Takes a family's default route, as [`set_default_route`] sets it, from the link `index`, if it has one.
pub(super) fn remove_default_route(name: &str, index: u32, ipv6: bool) -> Change {
    let message = if ipv6 {
        RouteMessageBuilder::<Ipv6Addr>::new().output_interface(index).build()
    } else {
        RouteMessageBuilder::<Ipv4Addr>::new().output_interface(index).build()
    };
    let target = format!("default route on link `{name}`");
    Change { fine: &[libc::ESRCH], ..Change::new(target, RouteNetlinkMessage::DelRoute(message)) }
}

/// Says what to do about a host that refuses an IPv6 address because IPv6 is off.
pub(super) fn explain_ipv6(error: Error) -> Error {
    match &error {
        // The only addresses that docklet gives and that a switch of the kernel can refuse.
        Error::Os { call: "RTM_NEWADDR", target, .. }
            if matches!(error.errno(), Some(libc::EACCES | libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) =>
        {
            Error::Unsupported {
                what: format!("the address {target}"),
                needs: "IPv6 is off: set net.ipv6.conf.all.disable_ipv6=0 and net.ipv6.conf.default.disable_ipv6=0 \
                        with sysctl, and boot without ipv6.disable=1"
                    .to_owned(),
            }
        }
        _ => error,
    }
}
