//! The handle to one host: what belongs to it, and how its operations are run (locks: `man 2 flock`).

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tracing::{Instrument, Span};

use super::directory::ContainerDirectory;
use super::record::{IsolationRecord, Manifest, NetworkRecord, Records};
use crate::cgroup::Hierarchies;
use crate::error::{Error, Result};
use crate::lxc::{Container, LxcTarget};
use crate::name::ContainerName;
use crate::net::{Firewall, Netlink};
use crate::paths::Paths;
use crate::storage::{ImageStore, VolumePool};
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
    pub(super) runtime: Handle,
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
    pub(super) isolation: IsolationRecord,
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
            isolation: IsolationRecord::new(paths.isolation()),
            paths,
        };
        Ok(Self { inner: Arc::new(inner), pool, lock_timeout: LOCK_TIMEOUT, held: None })
    }

    /// The same host with another limit on how long an operation waits for a lock. Default: 30 seconds.
    #[must_use]
    pub fn with_lock_timeout(self, timeout: Duration) -> Self {
        Self { lock_timeout: timeout, ..self }
    }

    /// The same host with another pool for the volumes of new containers. Default: loop files in [`Paths::volumes`], and no more
    /// promised than the disk has: the pool's own provision ratio counts. Which pool a container's volume is in is written
    /// down: containers that exist stay where they are, and any host of this prefix finds them.
    ///
    /// ```no_run
    /// # fn example(host: docklet::host::Host) -> docklet::Result<()> {
    /// use docklet::storage::{ProvisionRatio, VolumePool};
    ///
    /// let generous = VolumePool::loop_files(host.paths().volumes())?;
    /// let host = host.with_volume_pool(generous.with_provision_ratio(ProvisionRatio::percent(200)?));
    /// # Ok(())
    /// # }
    /// ```
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

    pub(super) fn container(&self, manifest: &Manifest) -> Result<Container> {
        let inner = &self.inner;
        Container::new(
            &inner.paths.containers(),
            &manifest.id,
            &inner.target,
            manifest.objects.cgroup.as_str(),
        )
        .map(|container| container.named(&manifest.spec.name))
    }

    /// Where one container's own files are.
    pub(super) fn directory(&self, manifest: &Manifest) -> ContainerDirectory {
        ContainerDirectory::of(&manifest.id, &self.inner.paths)
    }

    /// This host, holding the lock of the container `name`.
    pub(super) async fn locked(&self, name: &ContainerName) -> Result<Self> {
        let path = self.inner.paths.locks().join(format!("{name}.lock"));
        let (timeout, what) = (self.lock_timeout, format!("container `{name}`"));
        self.holding(move |_| FileLock::acquire(&path, timeout, &what)).await
    }

    /// This host, holding the registry's lock.
    pub(super) async fn registry(&self) -> Result<Self> {
        self.holding(Self::lock_registry).await
    }

    async fn holding(
        &self,
        acquire: impl FnOnce(&Self) -> Result<FileLock> + Send + 'static,
    ) -> Result<Self> {
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

    /// The same for an operation on the container `name`, under its lock.
    pub(super) async fn on<T, F>(
        &self,
        name: &ContainerName,
        span: Span,
        operation: impl FnOnce(Self, ContainerName) -> F + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let name = name.clone();
        self.owned(|host| async move { operation(host.locked(&name).await?, name).await }.instrument(span))
            .await
    }

    /// Runs a call that may block on a thread where that is allowed. The lock is held until it has ended.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let host = self.clone();
        blocking_on(&self.inner.runtime, move || call(&host)).await
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
