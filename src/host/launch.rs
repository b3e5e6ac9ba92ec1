//! From a specification to a running container.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::info_span;

use super::record::{Former, Manifest, Objects, Phase};
use super::spec::{ContainerSpec, Privilege};
use super::{ContainerInfo, Host};
use crate::error::{Error, Result};
use crate::lxc::State;
use crate::name::{ContainerName, ObjectId};
use crate::sys::random;

impl Host {
    /// Makes a container and starts it; returns once it runs and its limits have been read back.
    ///
    /// A container of that name that was asked for in the same words is adopted, and started if it is down.
    ///
    /// # Errors
    /// Before the host is touched: [`Error::Invalid`] and [`Error::NotFound`] for what is wrong or missing of the specification,
    /// [`Error::Unsupported`] with the remedy for a limit that this host cannot enforce, [`Error::Differs`] if the name is taken.
    /// The same for targets of mounts, which are looked for in the root, once there is one; [`Error::Command`] if it does not start;
    /// [`Error::Busy`] if another operation on the name takes too long, the network has no free address,
    /// another container has the one that was asked for, or a process of the host listens on a published port. After any
    /// other error nothing of the container is left, or it is an [`Error::LeftBehind`].
    pub async fn launch(&self, spec: ContainerSpec) -> Result<ContainerInfo> {
        let (name, span) = (spec.name.clone(), info_span!("launch", container = %spec.name));
        self.on(&name, span, |host, _| host.launch_locked(spec)).await
    }

    /// Starts a container that is down. One that runs is left as it is.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Command`] with the reason if it does not start: it stays as it was then, or is an
    /// [`Error::LeftBehind`].
    pub async fn start(&self, name: &ContainerName) -> Result<ContainerInfo> {
        let span = info_span!("start", container = %name);
        self.on(name, span, async |host, name| host.start_locked(host.created(&name)?).await).await
    }

    async fn launch_locked(self, spec: ContainerSpec) -> Result<ContainerInfo> {
        if let Some(existing) = self.inner.manifests.get(&spec.name)? {
            match existing.phase {
                Phase::Created if existing.spec == spec => return self.start_locked(existing).await,
                Phase::Created => {
                    return Err(Error::Differs {
                        what: format!("container `{}`", spec.name),
                        difference: format!(
                            "not as asked: {}; apply_limits, apply_interfaces and apply_mounts change theirs",
                            existing.spec.differences(&spec).join(", ")
                        ),
                    });
                }
                // Left by a crash; nobody was told that it exists, or somebody wanted it gone.
                Phase::Creating | Phase::Removing => self.tear_down(existing).await?,
            }
        }
        let name = spec.name.clone();
        let result = match self.blocking(move |host| host.register(spec)).await {
            Ok(manifest) => self.create(manifest).await,
            Err(error) => Err(error),
        };
        if result.is_err() && self.inner.manifests.get(&name)?.is_none() {
            self.remove_lock()?;
        }
        result
    }

    /// Makes a registered container, or takes back what was made of it.
    async fn create(&self, manifest: Manifest) -> Result<ContainerInfo> {
        match self.raise(&manifest).await {
            Ok(manifest) => self.look(manifest).await,
            Err(cause) => {
                let name = manifest.spec.name.clone();
                Err(Error::after_undoing(cause, self.tear_down(manifest).await, || {
                    format!("container `{name}`")
                }))
            }
        }
    }

    /// Checks `spec` against the host, picks its addresses, and writes its manifest, early: [`Host::raise`] sees to it
    /// that it is durable before there is data.
    fn register(&self, spec: ContainerSpec) -> Result<Manifest> {
        let image = self.check(&spec)?;
        let inner = &self.inner;
        let id = new_id()?;
        let _registry = self.lock_registry()?;
        // A collection of garbage, which holds this lock too, may have come in between; from now on the manifest counts.
        inner.images.layers_of(&image)?;
        let manifests = inner.manifests.all()?;
        let ports = self.plan_ports(&manifests, &id, &spec.interfaces, &BTreeMap::new())?;
        let cgroup = self.cgroup_path(&id)?;
        let (volume, pool) = (id.volume_name(), self.recorded_pool());
        let ids = match spec.privilege {
            Privilege::Unprivileged { .. } => Some(self.plan_ids(&manifests)?),
            Privilege::Privileged => None,
        };
        let objects = Objects { volume, pool, cgroup, ids, ports, former: Former::default() };
        let manifest = Manifest::new(id, spec, image, objects);
        self.check_rules(Some(&manifest), None)?;
        inner.manifests.publish_early(&manifest.spec.name, &manifest)?;
        Ok(manifest)
    }

    async fn start_locked(&self, mut manifest: Manifest) -> Result<ContainerInfo> {
        if self.state(&manifest).await? == State::Stopped {
            self.note_end(&manifest).await?;
            self.forget_retries(&manifest).await?;
            self.lower(&manifest, Duration::ZERO).await?;
            let wished = manifest.run;
            if !wished {
                manifest.run = true;
                self.publish(&manifest).await?;
            }
            if let Err(cause) = self.raise(&manifest).await {
                let lowered = self.lower(&manifest, Duration::ZERO).await;
                manifest.run = wished;
                let undone = lowered.and(self.publish(&manifest).await);
                return Err(Error::after_undoing(cause, undone, || {
                    format!("container `{}`", manifest.spec.name)
                }));
            }
        }
        self.look(manifest).await
    }

    /// What a container is now. The state alone can take a moment: one that reboots from inside is waited for.
    pub(super) async fn look(&self, manifest: Manifest) -> Result<ContainerInfo> {
        self.blocking(move |host| host.info(manifest)).await
    }

    pub(super) async fn state(&self, manifest: &Manifest) -> Result<State> {
        let container = self.container(manifest)?;
        self.blocking(move |_| container.state()).await
    }
}

pub(super) fn new_id() -> Result<ObjectId> {
    ObjectId::new(random::id()?)
}
