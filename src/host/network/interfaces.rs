//! Interfaces that come, go and change while a container runs (`man 8 ip-link`).

use std::collections::{BTreeMap, BTreeSet};

use tracing::{Instrument, info_span};

use crate::error::{Error, Result};
use crate::host::objects::namespace_path;
use crate::host::record::Manifest;
use crate::host::{Attachment, ContainerInfo, Host};
use crate::lxc::State;
use crate::name::{ContainerName, LinkName, NetworkName};
use crate::net::{NetworkNamespace, Veth};

impl Host {
    /// Gives a container exactly these interfaces, whether it runs or not: those that it has besides go, those that it lacks
    /// come, and those that are otherwise are changed. Others are left as they are, and what is sent through them goes on. What
    /// stays in a network keeps its addresses there, unless others are asked for.
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
        let before = self.settle_interfaces(self.created(name)?).await?;
        let (host, planned) = (self.clone(), before.clone());
        let after = self.blocking(move || host.record_interfaces(planned, interfaces)).await?;
        match self.settle_interfaces(after.clone()).await {
            Ok(manifest) => self.look(manifest).await,
            Err(cause) => {
                let mut back = before;
                back.objects.leaving = only_in(&after, &back);
                let undone = match self.publish(&back).await {
                    Ok(()) => self.settle_interfaces(back).await.map(drop),
                    Err(error) => Err(error),
                };
                let Err(error) = undone else { return Err(cause) };
                tracing::error!(%error, "roll-back failed");
                let remains = vec![format!("interfaces of container `{name}`")];
                Err(Error::LeftBehind { cause: Box::new(cause), remains })
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
        after.objects.ports = self.plan_ports(&before.id, &interfaces, &before.objects.ports)?;
        after.spec.interfaces = interfaces;
        after.objects.leaving = only_in(&before, &after);
        if after != before {
            self.inner.manifests.publish(&after.spec.name, &after)?;
        }
        Ok(after)
    }

    /// Makes a container's ports what its manifest says, and removes those that are to leave. Returns the manifest as it is
    /// written down then.
    pub(crate) async fn settle_interfaces(&self, manifest: Manifest) -> Result<Manifest> {
        let leaving: BTreeSet<NetworkName> =
            manifest.objects.leaving.iter().map(|port| port.network.clone()).collect();
        for port in &manifest.objects.leaving {
            Veth::remove(&self.inner.netlink, &port.link, &port.owner).await?;
        }
        if self.state(&manifest).await? != State::Stopped {
            let path = namespace_path(&self.directory(&manifest));
            let namespace = self.blocking(move || NetworkNamespace::open(&path)).await?;
            for spec in self.recorded_veth_specs(&manifest)? {
                Veth::ensure(&self.inner.netlink, &namespace, &spec).await?;
            }
        }
        let networks = manifest.networks().into_iter().chain(leaving).collect();
        self.write_hosts(Some(networks), None).await?;
        if manifest.objects.leaving.is_empty() {
            return Ok(manifest);
        }
        let mut settled = manifest;
        settled.objects.leaving.clear();
        self.publish(&settled).await?;
        Ok(settled)
    }
}

/// The ports of `one` that `other` does not have.
fn only_in(one: &Manifest, other: &Manifest) -> Vec<crate::host::record::Port> {
    let kept: BTreeSet<&LinkName> = other.objects.ports.values().map(|port| &port.link).collect();
    one.all_ports().filter(|port| !kept.contains(&port.link)).cloned().collect()
}
