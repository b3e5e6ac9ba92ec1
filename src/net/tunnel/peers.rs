//! Where a VXLAN link sends what it does not know the place of (`man 8 bridge`, FDB).
//!
//! The address of nobody, all zeros, stands for everything unknown, and for broadcasts: each host beneath it gets a copy.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::Result;
use crate::net::Netlink;
use crate::net::change::{Change, Mode};
use crate::net::link::Link;

const NOBODY: [u8; 6] = [0; 6];

/// What makes `link` flood to `peers` and send to nobody else. Entries that lead to them are not touched.
///
/// What the kernel has learned of a host that is no peer goes, too: it would send there for five minutes more.
pub(super) async fn changes(net: &Netlink, link: &Link, peers: &BTreeSet<IpAddr>) -> Result<Vec<Change>> {
    let question = about(link);
    let mut changes = Vec::new();
    let mut missing = peers.clone();
    for answer in net.dump(RouteNetlinkMessage::GetNeighbour(question)).await? {
        let RouteNetlinkMessage::NewNeighbour(entry) = answer else { continue };
        // The bridge's own entries of this port are in the same list.
        if entry.header.ifindex != link.index || !entry.header.flags.contains(NeighbourFlags::Own) {
            continue;
        }
        let Some(host) = destination(&entry) else { continue };
        if !peers.contains(&host) || has_a_way_of_its_own(&entry) {
            changes.push(forget(link, host, entry));
        } else if entry.attributes.contains(&NeighbourAttribute::LinkLayerAddress(NOBODY.to_vec())) {
            missing.remove(&host);
        }
    }
    changes.extend(missing.into_iter().map(|host| flood(link, host)));
    Ok(changes)
}

fn destination(entry: &NeighbourMessage) -> Option<IpAddr> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => <[u8; 4]>::try_from(&**bytes)
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(&**bytes).map(IpAddr::from))
            .ok(),
        _ => None,
    })
}

/// Whether it leads to another port or network than the link's: we make none such.
fn has_a_way_of_its_own(entry: &NeighbourMessage) -> bool {
    entry.attributes.iter().any(|attribute| {
        matches!(
            attribute,
            NeighbourAttribute::Port(_) | NeighbourAttribute::Vni(_) | NeighbourAttribute::IfIndex(_)
        )
    })
}

fn about(link: &Link) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = link.index;
    message
}

fn flood(link: &Link, host: IpAddr) -> Change {
    let mut message = about(link);
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![
        NeighbourAttribute::LinkLayerAddress(NOBODY.to_vec()),
        NeighbourAttribute::Destination(host.into()),
    ];
    let target = format!("peer {host} of link `{}`", link.name);
    Change { mode: Mode::Append, ..Change::new(target, RouteNetlinkMessage::NewNeighbour(message)) }
}

fn forget(link: &Link, host: IpAddr, entry: NeighbourMessage) -> Change {
    let mut message = about(link);
    message.header.flags = NeighbourFlags::Own;
    // What tells it from other entries.
    message.attributes = entry.attributes;
    message.attributes.retain(|attribute| {
        matches!(
            attribute,
            NeighbourAttribute::LinkLayerAddress(_)
                | NeighbourAttribute::Destination(_)
                | NeighbourAttribute::Port(_)
                | NeighbourAttribute::Vni(_)
                | NeighbourAttribute::IfIndex(_)
        )
    });
    let target = format!("peer {host} of link `{}`", link.name);
    // What was learned ages.
    Change { fine: Some(libc::ENOENT), ..Change::new(target, RouteNetlinkMessage::DelNeighbour(message)) }
}
