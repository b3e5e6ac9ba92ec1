//! From a manifest to the objects on the host and back.
//!
//! `raise` makes what is missing, `lower` releases what the running container needs, `tear_down` removes all of it.
//! Each can be run again after it was cut off anywhere: launching, rolling back and recovering are these three.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use tracing::{Instrument, debug_span};

use super::configuration::configuration;
use super::etc::mounts_of_names;
use super::handle::Host;
use super::ids;
use super::record::{Manifest, Phase};
use super::spec::{ContainerSpec, Privilege};
use crate::cgroup::{Cgroup, wait_for_migrations};
use crate::error::{Error, Result};
use crate::lxc::MountEntry;
use crate::name::VolumeName;
use crate::storage::{ImageContent, MountedVolume, OverlayRoot, VolumePool, VolumeSpec, remove_tree};
use crate::sys::userns;

impl Host {
    /// Checks what can be checked of `spec` before anything is written down. Returns what its image is made of, which is on
    /// this host then.
    pub(super) fn check(&self, spec: &ContainerSpec) -> Result<ImageContent> {
        let inner = &self.inner;
        spec.limits.check(&inner.hierarchies)?;
        self.pool.check(&volume_spec(spec, VolumeName::new(spec.name.as_str())?))?;
        let image = inner.images.open(&spec.image)?;
        let init = spec.init.command.first().map_or("", String::as_str);
        if !image.has_executable(Path::new(init))? {
            return Err(Error::invalid(
                "init command",
                init,
                format!("image `{}` has no such program; give an absolute path inside the image", spec.image),
            ));
        }
        let config = self.rehearse(spec)?;
        // Its mounts are LXC's in another form, when they are prepared.
        config.render_in(&inner.target, None, &[])?;
        if spec.privilege != Privilege::Privileged {
            config.check_ways(ids::map(0)?.root())?;
        }
        Ok(image.content)
    }

    /// Makes what is missing of a container and starts it. Returns the manifest as it is written down then.
    pub(super) async fn raise(&self, manifest: &Manifest) -> Result<Manifest> {
        // LXC is to move to control groups: what the kernel waits for then may pass while it has nothing to do yet.
        let ahead = self
            .blocking(|host| wait_for_migrations(&host.inner.hierarchies))
            .instrument(debug_span!("wait_ahead"));
        let (ahead, raised) = tokio::join!(ahead, self.raise_parts(manifest));
        if let Err(error) = ahead {
            tracing::debug!(%error, "not waited ahead: the start takes longer");
        }
        raised
    }

    async fn raise_parts(&self, manifest: &Manifest) -> Result<Manifest> {
        let directory = self.directory(manifest);
        directory.make(manifest.objects.ids.as_ref())?;
        if manifest.objects.ids.is_none() {
            tracing::warn!(container = %manifest.spec.name, "starting a privileged container: its root is root of this host");
        }
        // All parts run to their end whatever becomes of the others: nothing goes on behind a roll-back's back.
        let (root, ports, names, rules) = tokio::join!(
            self.raise_root(manifest).instrument(debug_span!("raise_root")),
            self.raise_ports(manifest, &directory).instrument(debug_span!("raise_ports")),
            self.raise_names(manifest).instrument(debug_span!("raise_names")),
            self.raise_forwards(manifest)
        );
        ports?;
        names?;
        rules?;
        let (root, files) = root?;
        let limits = self.found_limits(manifest, manifest.spec.limits.clone())?;
        let ids = manifest.objects.ids.as_ref();
        let mut config = configuration(&manifest.spec, &root, &directory, &limits, ids)?;
        for file in files {
            config.mount_own(file)?;
        }
        let container = self.container(manifest)?;
        let started = self.blocking(move |_| container.start(&config));
        if manifest.phase == Phase::Created {
            started.await?;
            return Ok(manifest.clone());
        }
        // The data is on the disk; saying so costs a flush, which passes while the runtime starts.
        let mut created = manifest.clone();
        created.phase = Phase::Created;
        let (started, recorded) = tokio::join!(started, self.publish(&created));
        started?;
        recorded?;
        Ok(created)
    }

    /// Releases what a running container needs: its processes, its ports, its mounts, its control groups. Data stays.
    pub(super) async fn lower(&self, manifest: &Manifest, grace: Duration) -> Result<()> {
        let container = self.container(manifest)?;
        self.blocking(move |_| container.end(grace)).await?;
        self.release(manifest).await
    }

    /// Releases what a container needed that has ended.
    pub(super) async fn release(&self, manifest: &Manifest) -> Result<()> {
        let container = self.container(manifest)?;
        let cleaned = self.blocking(move |_| container.clean());
        let (cleaned, ports, root) =
            tokio::join!(cleaned, self.lower_ports(manifest), self.lower_root(manifest));
        cleaned?;
        ports?;
        root
    }

    /// Removes everything of a container, its data too, and its manifest at the end.
    pub(super) async fn tear_down(&self, mut manifest: Manifest) -> Result<()> {
        let recorded = manifest.phase == Phase::Removing;
        manifest.phase = Phase::Removing;
        manifest.run = false;
        // Nothing that is lowered is lost: only what comes after must wait until the removal is written down.
        let recording = async { if recorded { Ok(()) } else { self.publish(&manifest).await } };
        let (recorded, lowered) = tokio::join!(recording, self.lower(&manifest, Duration::ZERO));
        match recorded {
            // A full disk is what removing helps against. Cut off now, the container lacks its data, which recovery
            // reports, until it is removed again.
            Err(error) if matches!(error.errno(), Some(libc::ENOSPC | libc::EDQUOT)) => {
                tracing::warn!(%error, "removing without a record of it");
            }
            recorded => recorded?,
        }
        lowered?;
        self.apply_forwards(&manifest).await?;
        let container = self.container(&manifest)?;
        let going = manifest.clone();
        let removed = self.blocking(move |host| {
            // Once more, now that it is written down: a command that was still entering it leaves one behind.
            container.remove_lock_file()?;
            host.pool_of(&going)?.remove(&going.objects.volume)?;
            remove_tree(&host.inner.paths.containers(), Path::new(going.id.as_str()))
        });
        let (ended, removed) = tokio::join!(self.end_connections(&manifest), removed);
        ended?;
        removed?;
        let going = manifest.clone();
        self.blocking(move |host| host.inner.manifests.remove(&going.spec.name)).await?;
        self.lower_names(&manifest).await;
        Ok(())
    }

    /// Writes down what a container should be, durably.
    pub(super) async fn publish(&self, manifest: &Manifest) -> Result<()> {
        let manifest = manifest.clone();
        self.blocking(move |host| host.inner.manifests.publish(&manifest.spec.name, &manifest)).await
    }

    /// Removes the control group above those of containers, and LXC's directory of their locks, when there are none. They
    /// would do no harm, but a host without containers should look like one.
    pub(super) async fn release_parent(&self) -> Result<()> {
        self.blocking(move |host| {
            // A launch writes its manifest under this lock before it makes a group: there is none to come now.
            let _registry = host.lock_registry()?;
            if host.inner.manifests.names()?.is_empty() {
                let parent = format!("docklet/{}", host.inner.tag);
                Cgroup::new(&host.inner.hierarchies, parent)?.remove_unused()?;
                crate::lxc::remove_lock_directory(&host.inner.paths.containers());
            }
            Ok(())
        })
        .await
    }

    /// Makes what is missing of a container's root. Returns where it is, and what is mounted on it to tell of names.
    async fn raise_root(&self, manifest: &Manifest) -> Result<(PathBuf, Vec<MountEntry>)> {
        let manifest = manifest.clone();
        self.blocking(move |host| {
            let inner = &host.inner;
            let layers = inner.images.layers_of(&manifest.image)?;
            let space = match manifest.phase {
                Phase::Creating => host.make_volume(&manifest)?,
                // What a created container wrote is never replaced by something empty.
                Phase::Created | Phase::Removing => {
                    host.pool_of(&manifest)?.open(&manifest.objects.volume)?.mount()?
                }
            };
            let directory = host.directory(&manifest);
            let target = directory.make_root()?;
            let mut plan = OverlayRoot::over(&layers).on(&space);
            if let Some(ids) = &manifest.objects.ids {
                plan = plan.id_map(ids);
            }
            let root = plan.mount(&target)?;
            let names = || mounts_of_names(&directory, root.path(), &manifest.spec.mounts);
            let files = match &manifest.objects.ids {
                Some(ids) => userns::as_root_of_map(ids.root(), names)?,
                None => names()?,
            };
            Ok((root.path().to_owned(), files))
        })
        .await
    }

    /// Makes and mounts the volume of a new container: its data at the same time as the manifest's name gets to the disk, its
    /// own name after that.
    fn make_volume(&self, manifest: &Manifest) -> Result<MountedVolume> {
        let inner = &self.inner;
        let spec = volume_spec(&manifest.spec, manifest.objects.volume.clone());
        let (synced, prepared) = thread::scope(|scope| {
            let sync = scope.spawn(|| inner.manifests.sync(&manifest.spec.name));
            let prepared = self.pool_of(manifest).and_then(|pool| pool.prepare(&spec));
            (sync.join(), prepared)
        });
        synced.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        prepared?.mount()
    }

    async fn lower_root(&self, manifest: &Manifest) -> Result<()> {
        let directory = self.directory(manifest);
        let manifest = manifest.clone();
        self.blocking(move |host| {
            OverlayRoot::unmount(&directory.root())?;
            release_volume(&host.pool_of(&manifest)?, &manifest.objects.volume)
        })
        .await
    }
}

fn volume_spec(spec: &ContainerSpec, name: VolumeName) -> VolumeSpec {
    VolumeSpec {
        name,
        size_bytes: spec.volume.size_bytes,
        filesystem: spec.volume.filesystem,
        allocation: spec.volume.allocation,
    }
}

/// Unmounts a container's volume. One that is gone is released.
pub(super) fn release_volume(pool: &VolumePool, volume: &VolumeName) -> Result<()> {
    match pool.open(volume) {
        Ok(volume) => volume.unmount(),
        Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
