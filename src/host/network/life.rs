//! A network's life: made or adopted, listed, removed (`man 8 bridge`).

use tracing::{Instrument, info_span};

use super::addresses::refuse_overlap;
use crate::error::{Error, Result};
use crate::host::launch::new_id;
use crate::host::record::NetworkRecord;
use crate::host::{Host, NetworkSpec};
use crate::name::NetworkName;
use crate::net::{Bridge, BridgeSpec, LinkOwner, Mtu};

impl Host {
    /// Makes a network, or adopts the one of that name if it is as asked; what is missing of it is made again.
    ///
    /// With `nat` the host forwards IPv4 packets from then on (`net.ipv4.ip_forward`): a setting of the whole host,
    /// which is not taken back.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the gateway is no host's address, or the subnet overlaps another network's;
    /// [`Error::Differs`] if the name is taken; [`Error::Unsupported`] if `nat` is asked and nftables is missing. After an
    /// error nothing of a new network is left, or it is an [`Error::LeftBehind`].
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
        Ok(self.inner.networks.all()?.records.into_iter().map(|record| record.spec).collect())
    }

    async fn ensure_network_locked(self, spec: NetworkSpec) -> Result<()> {
        if let Some(record) = self.inner.networks.get(&spec.name)? {
            record.compare(&spec)?;
            return self.raise_network(&record).await;
        }
        let existing = self.inner.networks.all()?.whole(|| format!("subnets of network `{}`", spec.name))?;
        refuse_overlap(&spec, &existing)?;
        let id = new_id()?;
        let owner = LinkOwner::new(format!("docklet:{}:network:{id}", self.inner.tag))?;
        let record = NetworkRecord::new(id.link_name(), owner, spec);
        record.bridge_spec().check()?;
        if record.spec.nat {
            self.check_firewall().await?;
        }
        let raised = match self.inner.networks.publish(&record.spec.name, &record) {
            Ok(()) => self.raise_network(&record).await,
            Err(error) => Err(error),
        };
        match raised {
            Ok(()) => Ok(()),
            Err(cause) => Err(self.take_back(&record, cause).await),
        }
    }

    /// Removes what was made of a new network, which failed for `cause`. Returns the error to tell.
    async fn take_back(&self, record: &NetworkRecord, cause: Error) -> Error {
        match self.lower_network(record).await {
            Ok(()) => cause,
            Err(error) => {
                tracing::error!(%error, "roll-back failed");
                let remains = vec![format!("network `{}`", record.spec.name)];
                Error::LeftBehind { cause: Box::new(cause), remains }
            }
        }
    }

    async fn remove_network_locked(self, name: &NetworkName) -> Result<()> {
        let Some(record) = self.inner.networks.get(name)? else { return Ok(()) };
        let users = self.inner.manifests.all()?.whole(|| format!("network `{name}`"))?;
        let user = users.iter().find(|manifest| manifest.all_ports().any(|port| port.network == *name));
        if let Some(manifest) = user {
            return Err(Error::Busy {
                what: format!("network `{name}`"),
                reason: format!("container `{}` is in it", manifest.spec.name),
            });
        }
        self.lower_network(&record).await
    }

    /// Makes what is missing of a recorded network. The caller holds the registry's lock, as for all below.
    async fn raise_network(&self, record: &NetworkRecord) -> Result<()> {
        self.raise_bridge(record).await?;
        if record.spec.nat {
            self.apply_firewall(None).await?;
        }
        Ok(())
    }

    /// Makes what is missing of a network's bridge. Tells whether something was.
    pub(crate) async fn raise_bridge(&self, record: &NetworkRecord) -> Result<bool> {
        Ok(Bridge::ensure(&self.inner.netlink, &record.bridge_spec()).await?.changed())
    }

    async fn lower_network(&self, record: &NetworkRecord) -> Result<()> {
        if record.spec.nat {
            self.apply_firewall(Some(record)).await?;
        }
        Bridge::remove(&self.inner.netlink, &record.bridge, &record.owner).await?;
        self.inner.networks.remove(&record.spec.name)
    }
}

impl NetworkRecord {
    fn compare(&self, asked: &NetworkSpec) -> Result<()> {
        let differences = self.spec.differences(asked);
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::Differs { what: format!("network `{}`", asked.name), difference: differences.join(", ") })
    }

    /// The largest packet of the network.
    pub(super) fn mtu(&self) -> Mtu {
        self.spec.mtu.unwrap_or(Mtu::ETHERNET)
    }

    fn bridge_spec(&self) -> BridgeSpec {
        BridgeSpec {
            name: self.bridge.clone(),
            owner: self.owner.clone(),
            addresses: self.spec.gateways.clone(),
            // Said in any case: what is left to the kernel changes with the ports.
            mtu: Some(self.mtu()),
        }
    }
}
