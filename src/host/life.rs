//! A container's life after its launch: stopped, removed, frozen, and what runs inside (`man 7 lxc`).

use std::time::Duration;

use tracing::info_span;

use super::Host;
use crate::error::{Error, Result};
use crate::lxc::{Exec, ExecOutput, read_console_log};
use crate::name::ContainerName;

impl Host {
    /// Stops a container: asks its init to shut down, and kills what is left after `grace`. Its data stays; its
    /// mounts, links and control groups go.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound); [`Error::Os`](crate::Error::Os) or [`Error::Busy`](crate::Error::Busy) if something of it could not be released.
    pub async fn stop(&self, name: &ContainerName, grace: Duration) -> Result<()> {
        self.on(name, info_span!("stop", container = %name), move |host, name| async move {
            let mut manifest = host.created(&name)?;
            if manifest.run {
                manifest.run = false;
                host.publish(&manifest).await?;
            }
            let ending = host.container(&manifest)?;
            host.blocking(move |_| ending.end(grace)).await?;
            host.note_end(&manifest).await?;
            host.release(&manifest).await
        })
        .await
    }

    /// Removes a container with everything it wrote. One that runs is killed; one that is gone is removed.
    ///
    /// # Errors
    /// [`Error::Busy`](crate::Error::Busy), [`Error::Os`](crate::Error::Os) if something of it could not be released; calling it again goes on.
    pub async fn remove(&self, name: &ContainerName) -> Result<()> {
        self.on(name, info_span!("remove", container = %name), |host, name| async move {
            if let Some(manifest) = host.inner.manifests.get(&name)? {
                host.tear_down(manifest).await?;
            }
            host.remove_lock()?;
            host.release_parent().await
        })
        .await
    }

    /// Suspends every process of a running container.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) if there is no such container or it does not run; [`Error::Busy`](crate::Error::Busy) if it cannot be frozen in
    /// time.
    pub async fn freeze(&self, name: &ContainerName) -> Result<()> {
        self.on(name, info_span!("freeze", container = %name), |host, name| async move {
            let container = host.container(&host.created(&name)?)?;
            host.blocking(move |_| container.freeze()).await
        })
        .await
    }

    /// Lets a frozen container go on.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) if there is no such container or it does not run.
    pub async fn unfreeze(&self, name: &ContainerName) -> Result<()> {
        self.on(name, info_span!("unfreeze", container = %name), |host, name| async move {
            let container = host.container(&host.created(&name)?)?;
            host.blocking(move |_| container.unfreeze()).await
        })
        .await
    }

    /// What was printed on a container's console, in this run and earlier ones: as much as is
    /// [kept](super::ContainerSpec::console_max_bytes). To sit at it, see [`Container::console`](crate::lxc::Container::console) of
    /// [`Host::runtime`].
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) if there is no such container, or it has no console.
    pub fn console_log(&self, name: &ContainerName) -> Result<Vec<u8>> {
        let manifest = self.created(name)?;
        if manifest.spec.console_max_bytes.is_none() {
            let what = format!("a console of container `{name}` (its console_max_bytes would make one)");
            return Err(Error::NotFound { what });
        }
        read_console_log(&self.directory(&manifest).console_log())
    }

    /// Runs a program inside a running container and waits for its end.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) if there is no such container or it does not run; [`Error::Busy`](crate::Error::Busy) if it is frozen; otherwise as
    /// [`Container::exec`](crate::lxc::Container::exec). A program that cannot be run or outlives its time-out is no error: see [`ExecOutput::status`].
    pub async fn exec(&self, name: &ContainerName, exec: Exec) -> Result<ExecOutput> {
        let manifest = self.created(name)?;
        let container = self.container(&manifest)?;
        self.blocking(move |host| {
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
}
