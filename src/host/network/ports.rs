//! A container's ports: veth pairs into its network namespace (`man 4 veth`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::host::launch::new_id;
use crate::host::objects::namespace_path;
use crate::host::record::{Manifest, NetworkRecord, Port};
use crate::host::{Attachment, Host};
use crate::name::{LinkName, NetworkName, ObjectId};
use crate::net::{LinkOwner, NetworkNamespace, Veth, VethSpec};

/// How long the kernel is given to take a link down with its namespace.
const LINK_GONE_TIMEOUT: Duration = Duration::from_secs(10);

impl Host {
    /// Chooses the ports of the container `id` for `interfaces`. Those that it `has` stay what they are where they can, and
    /// so do its addresses in a network. The caller holds the registry's lock.
    pub(crate) fn plan_ports(
        &self,
        id: &ObjectId,
        interfaces: &BTreeMap<LinkName, Attachment>,
        has: &BTreeMap<LinkName, Port>,
    ) -> Result<BTreeMap<LinkName, Port>> {
        let Some(first) = interfaces.values().next() else { return Ok(BTreeMap::new()) };
        let inner = &self.inner;
        let mut networks = BTreeMap::new();
        for (name, attachment) in interfaces {
            let network = inner.networks.open(&attachment.network)?;
            if networks.insert(attachment.network.clone(), network).is_some() {
                let rule = format!("is a second one in network `{}`", attachment.network);
                return Err(Error::invalid("interface", name.as_str(), rule));
            }
        }
        let users = inner.manifests.all()?.whole(|| format!("network `{}`", first.network))?;
        let taken = |network: &NetworkName| -> BTreeSet<IpAddr> {
            let others = users.iter().filter(|manifest| manifest.id != *id);
            let ports = others.flat_map(Manifest::all_ports).filter(|port| port.network == *network);
            ports.flat_map(|port| &port.addresses).map(|address| address.ip()).collect()
        };
        let owner = LinkOwner::new(format!("docklet:{}:container:{id}", inner.tag))?;
        let mut ports = BTreeMap::new();
        for (name, attachment) in interfaces {
            let network = &networks[&attachment.network];
            let had = has.values().find(|port| port.network == attachment.network);
            let had_addresses = had.map(|port| port.addresses.as_slice()).unwrap_or_default();
            let taken = taken(&attachment.network);
            let addresses = network.pick_addresses(&attachment.addresses, had_addresses, &taken)?;
            let same = has.get(name).filter(|port| port.network == attachment.network);
            let link =
                same.map_or_else(|| new_id().map(|id| id.link_name()), |port| Ok(port.link.clone()))?;
            let (owner, network) = (owner.clone(), attachment.network.clone());
            ports.insert(name.clone(), Port { link, owner, network, addresses });
        }
        veth_specs(interfaces, &ports, &networks)?.iter().try_for_each(VethSpec::check)?;
        Ok(ports)
    }

    /// Makes what is missing of a container's ports, and of its network namespace.
    pub(crate) async fn raise_ports(&self, manifest: &Manifest, directory: &Path) -> Result<()> {
        let path = namespace_path(directory);
        let namespace = self.blocking(move || NetworkNamespace::ensure(&path)).await?;
        for spec in self.recorded_veth_specs(manifest)? {
            Veth::ensure(&self.inner.netlink, &namespace, &spec).await?;
        }
        Ok(())
    }

    pub(super) fn recorded_veth_specs(&self, manifest: &Manifest) -> Result<Vec<VethSpec>> {
        let open = |network: NetworkName| Ok((network.clone(), self.inner.networks.open(&network)?));
        let networks = manifest.networks().into_iter().map(open).collect::<Result<_>>()?;
        veth_specs(&manifest.spec.interfaces, &manifest.objects.ports, &networks)
    }

    /// Removes a container's network namespace and its ports.
    pub(crate) async fn lower_ports(&self, manifest: &Manifest) -> Result<()> {
        let path = namespace_path(&self.directory(manifest));
        // The namespace takes the pairs along, which is faster than deleting them.
        self.blocking(move || NetworkNamespace::remove(&path)).await?;
        for port in manifest.all_ports() {
            if self.inner.netlink.wait_gone(&port.link, LINK_GONE_TIMEOUT).await.is_err() {
                Veth::remove(&self.inner.netlink, &port.link, &port.owner).await?;
            }
        }
        Ok(())
    }
}

/// What the ports of a container should be.
fn veth_specs(
    interfaces: &BTreeMap<LinkName, Attachment>,
    ports: &BTreeMap<LinkName, Port>,
    networks: &BTreeMap<NetworkName, NetworkRecord>,
) -> Result<Vec<VethSpec>> {
    let mut specs: Vec<VethSpec> = Vec::new();
    for (name, attachment) in interfaces {
        let (Some(port), Some(network)) = (ports.get(name), networks.get(&attachment.network)) else {
            return Err(Error::NotFound { what: format!("port of interface `{name}`") });
        };
        let largest = network.mtu();
        if let Some(mtu) = attachment.mtu.filter(|mtu| *mtu > largest) {
            let rule = format!("must be at most {largest}, as network `{}` has it", attachment.network);
            return Err(Error::invalid("MTU", mtu.to_string(), rule));
        }
        // The first network of a family has its default route.
        let is_first = |gateway: &IpAddr| {
            specs.iter().flat_map(|spec| &spec.gateways).all(|other| other.is_ipv4() != gateway.is_ipv4())
        };
        let gateways = network.spec.gateways.iter().map(|gateway| gateway.ip()).filter(is_first).collect();
        specs.push(VethSpec {
            name: port.link.clone(),
            owner: port.owner.clone(),
            bridge: network.bridge.clone(),
            inner_name: name.clone(),
            addresses: port.addresses.clone(),
            gateways,
            mtu: Some(attachment.mtu.unwrap_or(largest)),
        });
    }
    Ok(specs)
}
