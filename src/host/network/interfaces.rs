//! Interfaces that come, go and change while a container runs (`man 8 ip-link`).

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Result;
use crate::host::record::{FormerInterfaces, Manifest, Part, Port};
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
    /// let info = host.apply_interfaces(&web, interfaces).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The manifest is written first: cut off anywhere, [`Host::recover`] goes on from there to the new interfaces.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid), [`Error::NotFound`](crate::Error::NotFound) and [`Error::Busy`](crate::Error::Busy) as [`Host::launch`], with nothing changed; after any other
    /// error the container has its earlier interfaces again, or it is an [`Error::LeftBehind`](crate::Error::LeftBehind).
    pub async fn apply_interfaces(
        &self,
        name: &ContainerName,
        interfaces: BTreeMap<LinkName, Attachment>,
    ) -> Result<ContainerInfo> {
        self.change(name, Part::Interfaces, move |host, manifest| {
            let manifests = host.inner.manifests.all()?;
            let ports = host.plan_ports(&manifests, &manifest.id, &interfaces, &manifest.objects.ports)?;
            manifest.objects.ports = ports;
            manifest.spec.interfaces = interfaces;
            host.check_rules(Some(manifest), None)
        })
        .await
    }

    /// Makes a container's interfaces what its manifest says, in the place of the `former` ones: removes the ports that are to
    /// leave, and changes the others, but for those that stay what they are.
    pub(crate) async fn settle_interfaces(
        &self,
        manifest: &Manifest,
        former: &FormerInterfaces,
    ) -> Result<()> {
        let stays = |port: &Port| manifest.objects.ports.values().any(|other| other.link == port.link);
        for port in former.ports.values().filter(|port| !stays(port)) {
            Veth::remove(&self.inner.netlink, &port.link, &port.owner).await?;
        }
        if self.state(manifest).await? != State::Stopped {
            self.apply_ports(manifest, &self.unchanged(manifest, former)?).await?;
        }
        let networks = manifest.all_ports().map(|port| port.network.clone()).collect();
        self.registry().await?.apply_firewall(None).await?;
        self.settle_connections(manifest, former).await?;
        let told = manifest.clone();
        self.blocking(move |host| host.write_resolver_again(&told).map(drop)).await?;
        self.write_hosts(Some(networks), None).await.map(drop)
    }

    /// The links that are to be what they are.
    fn unchanged(&self, manifest: &Manifest, former: &FormerInterfaces) -> Result<BTreeSet<LinkName>> {
        let mut earlier = manifest.clone();
        earlier.spec.interfaces.clone_from(&former.spec);
        earlier.objects.ports.clone_from(&former.ports);
        // What does not tell any more what it was is changed.
        let earlier = self.recorded_veth_specs(&earlier).unwrap_or_default();
        let now = self.recorded_veth_specs(manifest)?;
        Ok(now.into_iter().filter(|spec| earlier.contains(spec)).map(|spec| spec.name).collect())
    }
}
