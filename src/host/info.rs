//! What is known of containers without changing anything: files under the prefix, and `/proc` (`man 5 proc`).

use std::collections::BTreeMap;

use serde::Serialize;

use super::record::{Manifest, Phase, Port};
use super::spec::ContainerSpec;
use super::{Ended, Host};
use crate::error::{Error, Result};
use crate::idmap::IdMap;
use crate::lxc::{Container, State};
use crate::name::{ContainerName, LinkName, NetworkName, ObjectId};
use crate::net::InterfaceAddress;

/// A container as it is now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ContainerInfo {
    /// Its identity, which its objects on the host are named after.
    pub id: ObjectId,
    /// What it does now.
    pub state: State,
    /// Whether it should run. It differs from `state` when the container ended by itself.
    pub should_run: bool,
    /// Its interfaces, by their names inside.
    pub interfaces: BTreeMap<LinkName, Interface>,
    /// The ids that it has on the host. `None`: it is privileged, and its ids are those of the host.
    pub ids: Option<IdMap>,
    /// How its last run ended, of those that the host's own end did not cut off. `None`: none did yet.
    pub last_end: Option<Ended>,
    /// How often it was started again by its [policy](super::RestartPolicy) since a run of ten seconds or a
    /// [`Host::start`], with the restart that is due.
    pub restarts: u32,
    /// What it was asked to be.
    pub spec: ContainerSpec,
}

impl ContainerInfo {
    /// The first address of its first interface, with the length of its subnet.
    #[must_use]
    pub fn address(&self) -> Option<InterfaceAddress> {
        self.interfaces.values().next()?.addresses.first().copied()
    }
}

/// A container's interface as it is recorded; up while the container runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// The network it is in.
    pub network: NetworkName,
    /// Its addresses with the lengths of their subnets, in the order of the network's gateways.
    pub addresses: Vec<InterfaceAddress>,
    /// The host's end of it.
    pub link: LinkName,
}

impl From<Port> for Interface {
    fn from(port: Port) -> Self {
        Self { network: port.network, addresses: port.addresses, link: port.link }
    }
}

impl Host {
    /// Every container of this host, by name. One whose manifest is damaged, or of a newer version, is left out:
    /// [`Host::get`] says why, and [`Host::recover`] reports it.
    ///
    /// Reads files, without a lock and without the runtime: a fraction of a millisecond for each container.
    ///
    /// # Errors
    /// [`Error::Os`] if the manifests' directory or a container's state cannot be read.
    pub fn list(&self) -> Result<Vec<ContainerInfo>> {
        self.inner
            .manifests
            .all()?
            .records
            .into_iter()
            .filter(|manifest| manifest.phase == Phase::Created)
            .map(|manifest| self.info(manifest))
            .collect()
    }

    /// One container.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn get(&self, name: &ContainerName) -> Result<ContainerInfo> {
        self.info(self.created(name)?)
    }

    /// The runtime's handle of one container: its state, its first process, its streams.
    ///
    /// Starting and stopping belong to [`Host::start`] and [`Host::stop`], which also keep what is written down.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn runtime(&self, name: &ContainerName) -> Result<Container> {
        self.container(&self.created(name)?)
    }

    pub(super) fn info(&self, manifest: Manifest) -> Result<ContainerInfo> {
        let state = self.container(&manifest)?.state()?;
        let (last_end, restarts) = self.last_end(&manifest, state)?;
        Ok(ContainerInfo {
            state,
            last_end,
            restarts,
            id: manifest.id,
            should_run: manifest.run,
            ids: manifest.objects.ids,
            interfaces: manifest.objects.ports.into_iter().map(|(name, port)| (name, port.into())).collect(),
            spec: manifest.spec,
        })
    }

    /// The manifest of a container that exists as far as callers are concerned.
    pub(super) fn created(&self, name: &ContainerName) -> Result<Manifest> {
        let manifest = self.inner.manifests.open(name)?;
        if manifest.phase == Phase::Created {
            return Ok(manifest);
        }
        Err(Error::NotFound { what: format!("container `{name}`") })
    }
}
