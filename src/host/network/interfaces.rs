//! Interfaces that come, go and change while a container runs (`man 8 ip-link`).

use std::collections::{BTreeMap, BTreeSet};

use tracing::{Instrument, info_span};

use crate::error::{Error, Result};
use crate::host::record::{Manifest, Port};
use crate::host::{Attachment, ContainerInfo, Host};
use crate::lxc::State;
use crate::name::{ContainerName, LinkName};
use crate::net::Veth;

impl Host {
    /// Gives a container exactly these interfaces, whether it runs or not: those that it has besides go, those that it lacks
    /// come, and those that are otherwise are changed. Others are left as they are, and what is sent through them goes on. What
    /// stays in a network keeps its addresses there, unless others are asked for.
    ///
    /// ```no_run
    /// use docklet::host::{Attachment, Host};
    /// use docklet::name::ContainerName;
    /// use docklet::net::{Mtu, Rate};
    ///
    /// # async fn example(host: &Host) -> docklet::Result<()> {
    /// let web: ContainerName = "web".parse()?;
    /// let mut interfaces = host.get(&web)?.spec.interfaces;
    /// // A further one, in another network, with an address that the host picks.
    /// interfaces.insert("eth1".parse()?, Attachment::new("backup".parse()?));
    /// // And the first one changes, with its address and the connections through it.
    /// if let Some(eth0) = interfaces.get_mut(&"eth0".parse()?) {
    ///     eth0.mtu = Some(Mtu::new(1400)?);
    ///     eth0.rates.from_container = Some(Rate::megabits(10)?);
    /// }
    /// let info = host.set_interfaces(&web, interfaces).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The manifest is written first: cut off anywhere, [`Host::recover`] goes on from there to the new interfaces.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::NotFound`] and [`Error::Busy`] as [`Host::launch`], with nothing changed; after any other
    /// error the container has its earlier interfaces again, or it is an [`Error::LeftBehind`].
    pub async fn set_interfaces(
        &self,
        name: &ContainerName,
        interfaces: BTreeMap<LinkName, Attachment>,
    ) -> Result<ContainerInfo> {
        let name = name.clone();
        let span = info_span!("set_interfaces", container = %name);
        self.owned(|host| {
            async move { host.locked(&name).await?.set_interfaces_locked(&name, interfaces).await }
                .instrument(span)
        })
        .await
    }

    async fn set_interfaces_locked(
        self,
        name: &ContainerName,
        interfaces: BTreeMap<LinkName, Attachment>,
    ) -> Result<ContainerInfo> {
        let before = self.settle_interfaces(self.created(name)?, &BTreeSet::new()).await?;
        let (host, planned) = (self.clone(), before.clone());
        let after = self.blocking(move || host.record_interfaces(planned, interfaces)).await?;
        let unchanged = self.unchanged(&before, &after)?;
        match self.settle_interfaces(after.clone(), &unchanged).await {
            Ok(manifest) => self.look(manifest).await,
            Err(cause) => {
                let mut back = before;
                back.objects.leaving = Some(only_in(&after, &back));
                let undone = match self.publish(&back).await {
                    Ok(()) => self.settle_interfaces(back, &unchanged).await.map(drop),
                    Err(error) => Err(error),
                };
                Err(Error::after_undoing(cause, undone, || format!("interfaces of container `{name}`")))
            }
        }
    }

    /// Writes down what a container's interfaces are to be.
    fn record_interfaces(
        &self,
        before: Manifest,
        interfaces: BTreeMap<LinkName, Attachment>,
    ) -> Result<Manifest> {
        let _registry = self.lock_registry()?;
        let mut after = before.clone();
        after.objects.ports =
            self.plan_ports(&self.inner.manifests.all()?, &before.id, &interfaces, &before.objects.ports)?;
        after.spec.interfaces = interfaces;
        if after == before {
            return Ok(after);
        }
        self.check_rules(Some(&after), None)?;
        after.objects.leaving = Some(only_in(&before, &after));
        self.inner.manifests.publish(&after.spec.name, &after)?;
        Ok(after)
    }

    /// The links that are to be what they are.
    fn unchanged(&self, before: &Manifest, after: &Manifest) -> Result<BTreeSet<LinkName>> {
        let earlier = self.recorded_veth_specs(before)?;
        let now = self.recorded_veth_specs(after)?;
        Ok(now.into_iter().filter(|spec| earlier.contains(spec)).map(|spec| spec.name).collect())
    }

    /// Goes on with a change of a container's interfaces, if there is one: removes the ports that are to leave, and makes the
    /// others what the manifest says, but for those that are `settled`. Returns the manifest as it is written down then.
    pub(crate) async fn settle_interfaces(
        &self,
        manifest: Manifest,
        settled: &BTreeSet<LinkName>,
    ) -> Result<Manifest> {
        let Some(leaving) = &manifest.objects.leaving else { return Ok(manifest) };
        let stays = |port: &Port| manifest.objects.ports.values().any(|other| other.link == port.link);
        for port in leaving.iter().filter(|port| !stays(port)) {
            Veth::remove(&self.inner.netlink, &port.link, &port.owner).await?;
        }
        if self.state(&manifest).await? != State::Stopped {
            self.apply_ports(&manifest, settled).await?;
        }
        let networks = manifest.all_ports().map(|port| port.network.clone()).collect();
        self.registry().await?.apply_firewall(None).await?;
        self.settle_connections(&manifest).await?;
        let (host, told) = (self.clone(), manifest.clone());
        self.blocking(move || host.write_resolver_again(&told).map(drop)).await?;
        self.write_hosts(Some(networks), None).await?;
        let mut settled = manifest;
        settled.objects.leaving = None;
        self.publish(&settled).await?;
        Ok(settled)
    }
}

/// The ports of `one` that `other` does not have, or with other addresses.
fn only_in(one: &Manifest, other: &Manifest) -> Vec<Port> {
    let kept: Vec<&Port> = other.objects.ports.values().collect();
    one.all_ports().filter(|port| !kept.contains(port)).cloned().collect()
}
