//! Numbers and addresses of virtual clusters' networks.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::View;
use crate::cluster::records::{Member, NodeId, PrivateNetwork, VirtualCluster};
use crate::error::{Error, Result};
use crate::net::pool::{AddressPool, RangePool};
use crate::net::{Subnet, Vni};

/// A network that no other virtual cluster has.
pub(super) fn new_network(view: &View) -> Result<PrivateNetwork> {
    let mut ranges = RangePool::new(view.networks);
    let mut numbers = BTreeSet::new();
    for other in view.virtual_clusters.values() {
        ranges.take_exactly(other.network.subnet)?;
        numbers.insert(other.network.vni.number());
    }
    let subnet = ranges.take(view.network_prefix_len)?;
    let number = (1..=u32::MAX).find(|number| !numbers.contains(number)).unwrap_or_default();
    Ok(PrivateNetwork { subnet, vni: Vni::new(number)?, gateways: [].into() })
}

/// Takes `count` free addresses of the network, for members of it.
pub(super) fn member_addresses(cluster: &VirtualCluster, count: usize) -> Result<Vec<IpAddr>> {
    let mut pool = pool(cluster)?;
    (0..count).map(|_| pool.take()).collect()
}

/// Gives each node of the virtual cluster an address in its network, and takes those back that others had.
///
/// # Errors
/// [`Error::Busy`] if there is no address left.
pub(super) fn set_gateways(cluster: &mut VirtualCluster) -> Result<()> {
    let nodes: BTreeSet<NodeId> = cluster.nodes().into_iter().cloned().collect();
    cluster.network.gateways.retain(|node, _| nodes.contains(node));
    for node in nodes {
        if !cluster.network.gateways.contains_key(&node) {
            let address = pool(cluster)?.take()?;
            cluster.network.gateways.insert(node, address);
        }
    }
    Ok(())
}

/// The addresses of the network of `cluster`, with those taken that somebody has.
fn pool(cluster: &VirtualCluster) -> Result<AddressPool> {
    let network = &cluster.network;
    let mut taken =
        network.gateways.values().chain(cluster.members.values().map(|Member { address, .. }| address));
    // The pool's own gateway is the first address: any will do, since each node has another.
    let first = network.subnet.first_host();
    let mut pool = AddressPool::new(network.subnet, first)?;
    taken.try_for_each(|address| if *address == first { Ok(()) } else { pool.take_exactly(*address) })?;
    Ok(pool)
}

/// How many addresses the network has for members and nodes.
pub(super) fn room(subnet: Subnet) -> Result<u64> {
    let net = subnet.net();
    let bits = u32::from(net.max_prefix_len() - net.prefix_len());
    // The network's own, the broadcast address, and the first, which nobody gets.
    let hosts = 1_u64.checked_shl(bits).unwrap_or(u64::MAX).saturating_sub(3);
    if hosts == 0 { Err(Error::invalid("network", net.to_string(), "has no room")) } else { Ok(hosts) }
}
