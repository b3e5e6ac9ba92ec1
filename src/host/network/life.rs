//! A network's life: made or adopted, listed, removed (`man 8 bridge`).

use std::sync::Arc;

use tracing::{Instrument, info_span};

use super::addresses::refuse_overlap;
use crate::error::{Error, Result};
use crate::host::launch::new_id;
use crate::host::record::{Manifest, NetworkRecord};
use crate::host::{Host, NetworkSpec};
use crate::name::NetworkName;
use crate::net::{Bridge, Mtu, Tunnel};

impl Host {
    /// Makes a network, or adopts the one of that name if it is as asked; what is missing of it is made again. Its containers
    /// reach each other and what is outside of the host, if the host forwards packets, and nothing else that it does not say.
    ///
    /// With `nat`, `reach` or `admit`, and for [forwarded](crate::host::Forward) ports, the host forwards IPv4 packets from
    /// then on (`net.ipv4.ip_forward`): a setting of the whole host, which is not taken back. Forwarding of IPv6 is not
    /// switched on: without it such a network is [`Error::Unsupported`].
    ///
    /// Nothing else of the host may be in its subnets, since it would take the answers to containers: another prefix's network, a
    /// network card with an address there, a route that leads elsewhere. A wider route does no harm.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a field breaks its rule, or a subnet overlaps another network's; [`Error::Busy`] if another link of
    /// the host is in a subnet, which it names: a new network is not made then; [`Error::Differs`] if the network
    /// is otherwise than asked ([`Host::apply_network`] changes it); [`Error::Unsupported`] if nftables is missing, without
    /// which networks are not kept apart, or if IPv6 is to be forwarded and the host does not. After an error nothing of a
    /// new network is left, or it is an [`Error::LeftBehind`].
    pub async fn ensure_network(&self, spec: &NetworkSpec) -> Result<()> {
        spec.check()?;
        let spec = spec.clone();
        let span = info_span!("ensure_network", network = %spec.name);
        self.owned(|host| {
            async move { host.registry().await?.ensure_network_locked(spec).await }.instrument(span)
        })
        .await
    }

    /// Removes a network. One that is gone is removed.
    ///
    /// # Errors
    /// [`Error::Busy`] while a container is in it.
    pub async fn remove_network(&self, name: &NetworkName) -> Result<()> {
        let name = name.clone();
        let span = info_span!("remove_network", network = %name);
        self.owned(|host| {
            async move { host.registry().await?.remove_network_locked(&name).await }.instrument(span)
        })
        .await
    }

    /// The networks of this host, by name. One whose record is damaged, or of a newer version, is left out;
    /// [`Host::recover`] reports it.
    ///
    /// # Errors
    /// [`Error::Os`] if the records' directory cannot be read.
    pub fn networks(&self) -> Result<Vec<NetworkSpec>> {
        Ok(self.inner.networks.all()?.records.iter().map(|record| record.spec.clone()).collect())
    }

    async fn ensure_network_locked(self, spec: NetworkSpec) -> Result<()> {
        if let Some(record) = self.inner.networks.get(&spec.name)? {
            let differences = record.spec.differences(&spec);
            if differences.is_empty() {
                return self.raise_network(&record).await.map(drop);
            }
            let difference = format!("{}; apply_network changes it", differences.join("; "));
            return Err(Error::Differs { what: format!("network `{}`", spec.name), difference });
        }
        let existing = self.inner.networks.all()?;
        refuse_overlap(&spec, existing.whole(|| format!("subnets of network `{}`", spec.name))?)?;
        let id = new_id()?;
        let mut record = NetworkRecord::new(id.link_name(), self.network_mark(&id)?, Mtu::ETHERNET, spec);
        record.mtu = self.mtu_of(&record).await?;
        self.check_network(&record).await?;
        let raised = match self.inner.networks.publish(&record.spec.name, &record) {
            Ok(()) => self.raise_network(&record).await,
            Err(error) => Err(error),
        };
        let Err(cause) = raised else { return Ok(()) };
        let undone = self.lower_network(&record).await;
        Err(Error::after_undoing(cause, undone, || format!("network `{}`", record.spec.name)))
    }

    /// The largest packet of a network: what is asked for, if it fits, or the most that fits.
    pub(super) async fn mtu_of(&self, record: &NetworkRecord) -> Result<Mtu> {
        match record.tunnel_spec() {
            None => Ok(record.spec.mtu.unwrap_or(Mtu::ETHERNET)),
            Some(mut tunnel) => {
                tunnel.mtu = record.spec.mtu;
                // No more than a bridge without a tunnel has: what is beyond the host may not take more.
                let fits = Tunnel::mtu(&self.inner.netlink, &tunnel).await?;
                Ok(if record.spec.mtu.is_none() { fits.min(Mtu::ETHERNET) } else { fits })
            }
        }
    }

    /// Checks what can be checked of a network before anything is written down.
    pub(super) async fn check_network(&self, record: &NetworkRecord) -> Result<()> {
        record.bridge_spec().check()?;
        record.tunnel_spec().map_or(Ok(()), |tunnel| tunnel.check())?;
        self.check_alone(record).await?;
        let record = record.clone();
        self.blocking(move |host| host.check_rules(None, Some(&record))).await
    }

    /// Refuses a network in whose subnets another link of the host is.
    pub(crate) async fn check_alone(&self, record: &NetworkRecord) -> Result<()> {
        let Some((subnet, rival)) = record.rival(&self.inner.netlink).await? else { return Ok(()) };
        Err(Error::Busy {
            what: format!("subnet {subnet} of network `{}`", record.spec.name),
            reason: format!("{rival}, which takes the answers to containers: {}", rival.remedy()),
        })
    }

    async fn remove_network_locked(self, name: &NetworkName) -> Result<()> {
        let Some(record) = self.inner.networks.get(name)? else { return Ok(()) };
        let users = self.inner.manifests.all()?;
        let is_in = |manifest: &&Arc<Manifest>| manifest.all_ports().any(|port| port.network == *name);
        if let Some(manifest) = users.whole(|| format!("network `{name}`"))?.iter().find(is_in) {
            return Err(Error::Busy {
                what: format!("network `{name}`"),
                reason: format!("container `{}` is in it", manifest.spec.name),
            });
        }
        self.lower_network(&record).await
    }

    /// Makes what is missing of a recorded network, and tells whether something was. The caller holds the registry's lock,
    /// as for all below.
    pub(super) async fn raise_network(&self, record: &NetworkRecord) -> Result<bool> {
        // First of all: a link without its rules is open to all.
        let ruled = self.apply_firewall(None).await?;
        let made = self.raise_links(record).await?;
        self.check_alone(record).await?;
        let record = record.clone();
        self.blocking(move |host| host.check_forwarding(Some(&record))).await?;
        Ok(ruled || made)
    }

    /// Makes what is missing of a network's bridge and tunnel. Tells whether something was.
    pub(crate) async fn raise_links(&self, record: &NetworkRecord) -> Result<bool> {
        let net = &self.inner.netlink;
        let made = Bridge::ensure(net, &record.bridge_spec()).await?.changed();
        match record.tunnel_spec() {
            Some(tunnel) => Ok(Tunnel::ensure(net, &tunnel).await?.changed() || made),
            // It may have had one.
            None if record.unsettled => Tunnel::remove(net, &record.owner).await.map(|()| made),
            None => Ok(made),
        }
    }

    async fn lower_network(&self, record: &NetworkRecord) -> Result<()> {
        self.apply_firewall(Some(record)).await?;
        let net = &self.inner.netlink;
        if record.spec.span.is_some() || record.unsettled {
            Tunnel::remove(net, &record.owner).await?;
        }
        Bridge::remove(net, &record.bridge, &record.owner).await?;
        self.inner.networks.remove(&record.spec.name)
    }
}
