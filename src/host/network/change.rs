//! Networks that change while containers are in them (`man 8 bridge`, `man 8 nft`).

use std::collections::BTreeSet;

use tracing::{Instrument, info_span};

use super::ports::check_veth_specs;
use crate::error::{Error, Result};
use crate::host::record::{Manifest, NetworkRecord};
use crate::host::{Host, NetworkSpec};
use crate::lxc::State;
use crate::name::NetworkName;

impl Host {
    /// Makes a network what `spec` says, with its containers in it, running or not: whom they reach and who reaches them, NAT,
    /// the MTU, also theirs, the resolver, and the hosts that it spans. Its gateways stay: a network with other subnets is
    /// another one. What is as asked is left alone.
    ///
    /// ```no_run
    /// use docklet::host::{Host, NetworkSpec};
    /// use docklet::net::{IpNet, Mtu, Port};
    ///
    /// # async fn example(host: &Host, lan: NetworkSpec) -> docklet::Result<()> {
    /// let lan = NetworkSpec {
    ///     mtu: Some(Mtu::new(1400)?),
    ///     reach: ["backup".parse()?].into(), // another network of this host
    ///     admit: vec![IpNet::new_assert([192, 0, 2, 0].into(), 24)],
    ///     host_ports: vec![Port::udp(53)?, Port::tcp(53)?],
    ///     ..lan
    /// };
    /// host.apply_network(&lan).await?; // all of it: a default field is not what it was, but the default
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Of a tunnel only the hosts can change; take it away first, to have another. The record is written first: cut off
    /// anywhere, [`Host::recover`] goes on from there to the new network.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such network; [`Error::Differs`] if the gateways differ; [`Error::Invalid`] if a
    /// container's interface does not fit into it any more; [`Error::Busy`] and [`Error::Unsupported`] as
    /// [`Host::ensure_network`]: nothing has changed then. After any other error the network is what it was, or it is an [`Error::LeftBehind`].
    pub async fn apply_network(&self, spec: &NetworkSpec) -> Result<()> {
        spec.check()?;
        let spec = spec.clone();
        let span = info_span!("apply_network", network = %spec.name);
        self.owned(|host| async move { host.change_network(spec).await }.instrument(span)).await
    }

    async fn change_network(self, spec: NetworkSpec) -> Result<()> {
        let registry = self.registry().await?;
        let before = registry.inner.networks.open(&spec.name)?;
        let mut after = before.clone();
        after.spec = spec;
        if after.spec.gateways != before.spec.gateways {
            let differences = before.spec.differences(&after.spec);
            let difference = format!("{}; a network's gateways stay, make another one", differences[0]);
            return Err(Error::Differs { what: format!("network `{}`", after.spec.name), difference });
        }
        after.mtu = registry.mtu_of(&after).await?;
        registry.check_network(&after).await?;
        registry.check_members(&after)?;
        if after == before && !before.unsettled {
            return registry.raise_network(&after).await.map(drop);
        }
        after.unsettled = true;
        let Err(cause) = self.make_network(registry, &after).await else { return Ok(()) };
        let mut back = before;
        back.unsettled = true;
        let undone = match self.registry().await {
            Ok(registry) => self.make_network(registry, &back).await,
            Err(error) => Err(error),
        };
        Err(Error::after_undoing(cause, undone, || format!("network `{}`", back.spec.name)))
    }

    /// Writes a network's record, and makes of the host and of the containers in it what it says. `registry` holds the
    /// registry's lock.
    async fn make_network(&self, registry: Self, record: &NetworkRecord) -> Result<()> {
        registry.inner.networks.publish(&record.spec.name, record)?;
        registry.raise_network(record).await?;
        // The lock of a container comes before the registry's.
        drop(registry);
        self.settle_network(record).await
    }

    /// Checks that the interfaces of the containers that are in a network go with what it is to be.
    fn check_members(&self, network: &NetworkRecord) -> Result<()> {
        let name = &network.spec.name;
        let manifests = self.inner.manifests.all()?;
        let members = manifests.whole(|| format!("network `{name}`"))?.iter();
        for manifest in members.filter(|manifest| manifest.networks().contains(name)) {
            let mut networks = self.networks_of(manifest)?;
            networks.insert(name.clone(), network.clone());
            check_veth_specs(&manifest.spec.interfaces, &manifest.objects.ports, &networks)
                .map_err(|error| error.adding(format_args!(" of container `{}`", manifest.spec.name)))?;
        }
        Ok(())
    }

    /// Makes the ports and the files of the containers in a network what its record says.
    async fn settle_network(&self, record: &NetworkRecord) -> Result<()> {
        let name = &record.spec.name;
        for manifest in self.inner.manifests.all()?.records {
            if manifest.networks().contains(name) {
                let host = self.locked(&manifest.spec.name).await?;
                if let Some(manifest) = host.inner.manifests.get(&manifest.spec.name)? {
                    host.settle_member(&manifest).await?;
                }
            }
        }
        let networks = BTreeSet::from([name.clone()]);
        self.blocking(move |host| host.write_resolvers(Some(&networks)).map(drop)).await?;
        self.registry().await?.record_settled(name, record)
    }

    async fn settle_member(&self, manifest: &Manifest) -> Result<()> {
        if self.state(manifest).await? == State::Stopped {
            return Ok(());
        }
        self.apply_ports(manifest, &BTreeSet::new()).await
    }

    /// Writes down that a network is what it should be, if that is still `record`. The caller holds the registry's lock.
    pub(crate) fn record_settled(&self, name: &NetworkName, record: &NetworkRecord) -> Result<()> {
        match self.inner.networks.get(name)? {
            Some(mut now) if now == *record && now.unsettled => {
                now.unsettled = false;
                self.inner.networks.publish(name, &now)
            }
            _ => Ok(()),
        }
    }
}
