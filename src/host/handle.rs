//! The handle to one host, and the life of its containers.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::runtime::Handle;
use tracing::{Instrument, info_span};

use super::manifest::{Manifest, NetworkRecord, Phase, Records};
use super::spec::ContainerSpec;
use crate::cgroup::Hierarchies;
use crate::error::{Error, Result};
use crate::lxc::{Container, Exec, ExecOutput, LxcTarget, State};
use crate::name::{ContainerName, ObjectId};
use crate::net::{Firewall, InterfaceAddress, Netlink};
use crate::paths::Paths;
use crate::storage::{ImageStore, ProvisionRatio, VolumePool};
use crate::sys::lock::FileLock;

/// How long an operation waits for another one on the same container before it gives up with [`Error::Busy`].
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// One machine that runs containers, as seen through one prefix. Cheap to clone.
///
/// A host belongs to the tokio runtime and to the network and mount namespaces in which it was opened. Methods that
/// change something run there as tasks of their own: dropping the future does not stop them, and they can be awaited from
/// any other runtime. When that runtime is shut down they end in an error, and what they were at is for
/// [`Host::recover`].
#[derive(Debug, Clone)]
pub struct Host {
    pub(super) inner: Arc<Inner>,
    /// For new containers.
    pub(super) pool: VolumePool,
    lock_timeout: Duration,
    /// The lock under which this clone works. Calls on other threads carry it along: it is held until the last of them
    /// has ended, whatever becomes of the task that began them.
    held: Option<Arc<FileLock>>,
}

#[derive(Debug)]
pub(super) struct Inner {
    runtime: Handle,
    pub(super) paths: Paths,
    pub(super) tag: String,
    pub(super) hierarchies: Hierarchies,
    pub(super) target: LxcTarget,
    pub(super) netlink: Netlink,
    pub(super) firewall: Firewall,
    pub(super) images: ImageStore,
    /// The directory of the pool of loop files, as the pool spells it.
    pub(super) volumes: PathBuf,
    pub(super) manifests: Records<Manifest>,
    pub(super) networks: Records<NetworkRecord>,
}

/// A container as it is now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ContainerInfo {
    /// Its identity, which its objects on the host are named after.
    pub id: ObjectId,
    /// What it does now.
    pub state: State,
    /// Whether it should run. It differs from `state` when the container ended by itself.
    pub should_run: bool,
    /// Its address and the length of its subnet.
    pub address: Option<InterfaceAddress>,
    /// What it was asked to be.
    pub spec: ContainerSpec,
}

impl Host {
    /// Opens the host under `paths`. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without root, without LXC, or without control groups; [`Error::Invalid`] outside of a
    /// runtime.
    pub async fn open(paths: Paths) -> Result<Self> {
        require_root()?;
        let runtime = runtime()?;
        let (hierarchies, target) = blocking_on(&runtime, || {
            let hierarchies = Hierarchies::detect()?;
            let target = LxcTarget::detect(&hierarchies)?;
            Ok((hierarchies, target))
        })
        .await?;
        let pool = VolumePool::loop_files(paths.volumes())?;
        let inner = Inner {
            runtime,
            tag: paths.tag(),
            target,
            hierarchies,
            firewall: Firewall::new(format!("docklet-{}", paths.tag()))?,
            netlink: Netlink::connect().await?,
            images: ImageStore::new(paths.images(), paths.layers())?,
            volumes: pool.path().to_owned(),
            manifests: Records::new(paths.manifests()),
            networks: Records::new(paths.networks()),
            paths,
        };
        Ok(Self { inner: Arc::new(inner), pool, lock_timeout: LOCK_TIMEOUT, held: None })
    }

    /// The same host with another limit on how long an operation waits for a lock. Default: 30 seconds.
    #[must_use]
    pub fn with_lock_timeout(self, timeout: Duration) -> Self {
        Self { lock_timeout: timeout, ..self }
    }

    /// The same host with another limit to what its containers' volumes may be promised together. Default:
    /// [`ProvisionRatio::ONE`]: no more than the disk has.
    #[must_use]
    pub fn with_provision_ratio(self, ratio: ProvisionRatio) -> Self {
        let pool = self.pool.clone().with_provision_ratio(ratio);
        Self { pool, ..self }
    }

    /// The same host with another pool for the volumes of new containers. Default: loop files under the prefix. Which pool
    /// a container's volume is in is written down: containers that exist stay where they are, and any host of this prefix
    /// finds them. The pool's own provision ratio counts.
    #[must_use]
    pub fn with_volume_pool(self, pool: VolumePool) -> Self {
        Self { pool, ..self }
    }

    /// Where this host keeps its files.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.inner.paths
    }

    /// The images that containers can be made of.
    #[must_use]
    pub fn images(&self) -> &ImageStore {
        &self.inner.images
    }

    /// Stops a container: asks its init to shut down, and kills what is left after `grace`. Its data stays; its
    /// mounts, links and control groups go.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Os`] or [`Error::Busy`] if something of it could not be released.
    pub async fn stop(&self, name: &ContainerName, grace: Duration) -> Result<()> {
        let name = name.clone();
        let span = info_span!("stop", container = %name);
        self.owned(|host| {
            async move {
                let host = host.locked(&name).await?;
                let mut manifest = host.created(&name)?;
                if manifest.run {
                    manifest.run = false;
                    host.publish(&manifest).await?;
                }
                host.lower(&manifest, grace).await
            }
            .instrument(span)
        })
        .await
    }

    /// Removes a container with everything it wrote. One that runs is killed; one that is gone is removed.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Os`] if something of it could not be released; calling it again goes on.
    pub async fn remove(&self, name: &ContainerName) -> Result<()> {
        let name = name.clone();
        let span = info_span!("remove", container = %name);
        self.owned(|host| {
            async move {
                let host = host.locked(&name).await?;
                if let Some(manifest) = host.inner.manifests.get(&name)? {
                    host.tear_down(manifest).await?;
                }
                host.remove_lock()?;
                host.release_parent().await
            }
            .instrument(span)
        })
        .await
    }

    /// Suspends every process of a running container.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such container or it does not run; [`Error::Busy`] if it cannot be frozen in
    /// time.
    pub async fn freeze(&self, name: &ContainerName) -> Result<()> {
        let name = name.clone();
        self.owned(|host| async move {
            let host = host.locked(&name).await?;
            let container = host.container(&host.created(&name)?)?;
            host.blocking(move || container.freeze()).await
        })
        .await
    }

    /// Lets a frozen container go on.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such container or it does not run.
    pub async fn unfreeze(&self, name: &ContainerName) -> Result<()> {
        let name = name.clone();
        self.owned(|host| async move {
            let host = host.locked(&name).await?;
            let container = host.container(&host.created(&name)?)?;
            host.blocking(move || container.unfreeze()).await
        })
        .await
    }

    /// Runs a program inside a running container and waits for its end.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such container or it does not run; [`Error::Busy`] if it is frozen; otherwise as
    /// [`Container::exec`]. A program that cannot be run or outlives its time-out is no error: see [`ExecOutput::status`].
    pub async fn exec(&self, name: &ContainerName, exec: Exec) -> Result<ExecOutput> {
        let manifest = self.created(name)?;
        let (host, container) = (self.clone(), self.container(&manifest)?);
        self.blocking(move || {
            let output = container.exec(&exec);
            let now = host.created(&manifest.spec.name);
            if !now.is_ok_and(|now| now.id == manifest.id) {
                // It was removed meanwhile, and this may have made LXC's lock file again.
                container.remove_lock_file()?;
            }
            output
        })
        .await
    }

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
        Ok(ContainerInfo {
            state: self.container(&manifest)?.state()?,
            id: manifest.id,
            should_run: manifest.run,
            address: manifest.objects.port.map(|port| port.address),
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

    pub(super) fn container(&self, manifest: &Manifest) -> Result<Container> {
        let inner = &self.inner;
        Container::new(&inner.paths.containers(), &manifest.id, &inner.target, &manifest.objects.cgroup)
            .map(|container| container.named(&manifest.spec.name))
    }

    /// Where one container's own files are.
    pub(super) fn directory(&self, manifest: &Manifest) -> PathBuf {
        self.inner.paths.containers().join(manifest.id.as_str())
    }

    /// This host, holding the lock of the container `name`.
    pub(super) async fn locked(&self, name: &ContainerName) -> Result<Self> {
        let path = self.inner.paths.locks().join(format!("{name}.lock"));
        let (timeout, what) = (self.lock_timeout, format!("container `{name}`"));
        self.holding(move || FileLock::acquire(&path, timeout, &what)).await
    }

    /// This host, holding the registry's lock.
    pub(super) async fn registry(&self) -> Result<Self> {
        let host = self.clone();
        self.holding(move || host.lock_registry()).await
    }

    async fn holding(&self, acquire: impl FnOnce() -> Result<FileLock> + Send + 'static) -> Result<Self> {
        let lock = self.blocking(acquire).await?;
        Ok(Self { held: Some(Arc::new(lock)), ..self.clone() })
    }

    /// Removes the file of the lock that is held: its container is gone.
    pub(super) fn remove_lock(&self) -> Result<()> {
        self.held.as_ref().map_or(Ok(()), |lock| lock.remove())
    }

    /// The lock around choosing names and addresses, and around changes of networks. A launch holds it for one read and
    /// one write.
    pub(super) fn lock_registry(&self) -> Result<FileLock> {
        // A dot keeps it apart from containers' locks: a name cannot have one.
        let path = self.inner.paths.locks().join(".registry");
        FileLock::acquire(&path, self.lock_timeout, "the registry of containers")
    }

    /// Runs an operation as a task of its own, so that it ends even if nobody waits for it.
    pub(super) async fn owned<T, F>(&self, operation: impl FnOnce(Self) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        finished(self.inner.runtime.spawn(operation(self.clone())).await)
    }

    /// Runs a call that may block on a thread where that is allowed. The lock is held until it has ended.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let held = self.held.clone();
        blocking_on(&self.inner.runtime, move || {
            let result = call();
            drop(held);
            result
        })
        .await
    }
}

/// Whoever runs containers is root.
pub(super) fn require_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: "running containers as an ordinary user".to_owned(),
        needs: "run as root".to_owned(),
    })
}

/// The runtime that this is called in.
pub(super) fn runtime() -> Result<Handle> {
    Handle::try_current()
        .map_err(|_| Error::invalid("runtime", "none", "must be called within a tokio runtime"))
}

/// Runs a call that may block on one of the runtime's threads for that.
pub(super) async fn blocking_on<T: Send + 'static>(
    runtime: &Handle,
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let span = tracing::Span::current();
    finished(runtime.spawn_blocking(move || span.in_scope(call)).await)
}

fn finished<T>(result: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    match result {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(Error::os("spawn", "an operation", std::io::Error::other(error))),
        },
    }
}
