//! A container's ports: veth pairs into its network namespace (`man 4 veth`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::host::directory::ContainerDirectory;
use crate::host::launch::new_id;
use crate::host::record::{Listing, Manifest, NetworkRecord, Port};
use crate::host::{Attachment, Host};
use crate::name::{LinkName, NetworkName, ObjectId};
use crate::net::{NetworkNamespace, Veth, VethSpec};

/// How long the kernel is given to take a link down with its namespace.
const LINK_GONE_TIMEOUT: Duration = Duration::from_secs(10);

impl Host {
    /// Chooses the ports of the container `id` for `interfaces`. Those that it `has` stay what they are where they can, and
    /// so do its addresses in a network. The caller holds the registry's lock, and has read all `manifests` under it.
    pub(crate) fn plan_ports(
        &self,
        manifests: &Listing<Manifest>,
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
        let users = manifests.whole(|| format!("network `{}`", first.network))?;
        let taken = |network: &NetworkName| -> BTreeSet<IpAddr> {
            let others = users.iter().filter(|manifest| manifest.id != *id);
            let ports =
                others.flat_map(|manifest| manifest.all_ports()).filter(|port| port.network == *network);
            ports.flat_map(|port| &port.addresses).map(|address| address.ip()).collect()
        };
        let owner = self.container_mark(id)?;
        let mut ports = BTreeMap::new();
        for (name, attachment) in interfaces {
            let network = &networks[&attachment.network];
            let had = has.values().find(|port| port.network == attachment.network);
            let had_addresses = had.map(|port| port.addresses.as_slice()).unwrap_or_default();
            let taken = taken(&attachment.network);
            refuse_others(attachment, users.iter().map(Arc::as_ref).filter(|manifest| manifest.id != *id))?;
            let addresses = network
                .pick_addresses(&attachment.addresses, had_addresses, &taken)
                .map_err(|error| error.adding(format_args!(", for interface `{name}`")))?;
            let same = has.get(name).filter(|port| port.network == attachment.network);
            let link =
                same.map_or_else(|| new_id().map(|id| id.link_name()), |port| Ok(port.link.clone()))?;
            let (owner, network) = (owner.clone(), attachment.network.clone());
            ports.insert(name.clone(), Port { link, owner, network, addresses });
        }
        check_veth_specs(interfaces, &ports, &networks)?;
        Ok(ports)
    }

    /// Makes what is missing of a container's ports, and of its network namespace.
    pub(crate) async fn raise_ports(
        &self,
        manifest: &Manifest,
        directory: &ContainerDirectory,
    ) -> Result<()> {
        let (path, ids) = (directory.namespace(), manifest.objects.ids.clone());
        let ensure = move |_: &Self| match ids {
            Some(ids) => NetworkNamespace::ensure_mapped(&path, &ids),
            None => NetworkNamespace::ensure(&path),
        };
        let namespace = self.blocking(ensure).await?;
        let specs = self.recorded_veth_specs(manifest)?;
        match specs.as_slice() {
            [] => Ok(()),
            [spec] => Veth::ensure(&self.inner.netlink, &namespace, spec).await.map(drop),
            specs => {
                let pairs: Vec<_> = specs.iter().map(|spec| (&namespace, spec)).collect();
                Veth::ensure_all(&self.inner.netlink, &pairs).await.map(drop)
            }
        }
    }

    /// Makes the ports of a running container what its manifest says, but for the links that are `settled`.
    pub(crate) async fn apply_ports(&self, manifest: &Manifest, settled: &BTreeSet<LinkName>) -> Result<()> {
        let path = self.directory(manifest).namespace();
        let namespace = self.blocking(move |_| NetworkNamespace::open(&path)).await?;
        let net = &self.inner.netlink;
        for spec in self.recorded_veth_specs(manifest)?.iter().filter(|spec| !settled.contains(&spec.name)) {
            match Veth::apply(net, &namespace, spec).await {
                Err(Error::NotFound { .. }) => Veth::ensure(net, &namespace, spec).await?,
                result => result?,
            };
        }
        Ok(())
    }

    /// The records of the networks that a container is in.
    pub(super) fn networks_of(&self, manifest: &Manifest) -> Result<BTreeMap<NetworkName, NetworkRecord>> {
        let open = |network: NetworkName| Ok((network.clone(), self.inner.networks.open(&network)?));
        manifest.networks().into_iter().map(open).collect()
    }

    pub(crate) fn recorded_veth_specs(&self, manifest: &Manifest) -> Result<Vec<VethSpec>> {
        veth_specs(&manifest.spec.interfaces, &manifest.objects.ports, &self.networks_of(manifest)?)
    }

    /// Removes a container's network namespace and its ports.
    pub(crate) async fn lower_ports(&self, manifest: &Manifest) -> Result<()> {
        let path = self.directory(manifest).namespace();
        // The namespace takes the pairs along, which is faster than deleting them.
        self.blocking(move |_| NetworkNamespace::remove(&path)).await?;
        for port in manifest.all_ports() {
            let _ = self.inner.netlink.wait_gone(&port.link, LINK_GONE_TIMEOUT).await;
            // What is still there, and what does not go with a namespace.
            Veth::remove(&self.inner.netlink, &port.link, &port.owner).await?;
        }
        Ok(())
    }
}

/// Refuses addresses that another container has.
fn refuse_others<'a>(attachment: &Attachment, mut others: impl Iterator<Item = &'a Manifest>) -> Result<()> {
    let in_network = |port: &&Port| port.network == attachment.network;
    others.try_for_each(|other| {
        let has = other.all_ports().filter(in_network).flat_map(|port| &port.addresses);
        match has.map(|has| has.ip()).find(|ip| attachment.addresses.contains(ip)) {
            None => Ok(()),
            Some(ip) => Err(Error::Busy {
                what: format!("address {ip} of network `{}`", attachment.network),
                reason: format!("container `{}` has it", other.spec.name),
            }),
        }
    })
}

/// Checks what the ports of a container should be.
pub(super) fn check_veth_specs(
    interfaces: &BTreeMap<LinkName, Attachment>,
    ports: &BTreeMap<LinkName, Port>,
    networks: &BTreeMap<NetworkName, NetworkRecord>,
) -> Result<()> {
    veth_specs(interfaces, ports, networks)?.iter().try_for_each(|spec| {
        spec.check().map_err(|error| error.adding(format_args!(", for interface `{}`", spec.inner_name)))
    })
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
        if let Some(mtu) = attachment.mtu.filter(|mtu| *mtu > network.mtu) {
            let rule = format!("must be at most {}, as network `{}` has it", network.mtu, attachment.network);
            let error = Error::invalid("MTU", mtu.to_string(), rule);
            return Err(error.adding(format_args!(", for interface `{name}`")));
        }
        // The first network of a family has its default route.
        let is_first = |gateway: &IpAddr| {
            specs.iter().flat_map(|spec| &spec.gateways).all(|other| other.is_ipv4() != gateway.is_ipv4())
        };
        let gateways = network.spec.gateways.iter().map(|gateway| gateway.ip()).filter(is_first).collect();
        let (link, owner) = (port.link.clone(), port.owner.clone());
        specs.push(VethSpec {
            addresses: port.addresses.clone(),
            gateways,
            mtu: Some(attachment.mtu.unwrap_or(network.mtu)),
            guard: attachment.guard.clone(),
            rates: attachment.rates,
            isolated: attachment.isolated,
            ..VethSpec::new(link, owner, network.bridge.clone(), name.clone())
        });
    }
    Ok(specs)
}
