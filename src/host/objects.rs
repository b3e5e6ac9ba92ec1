//! From a manifest to the objects on the host and back.
//!
//! `raise` makes what is missing, `lower` releases what the running container needs, `tear_down` removes all of it.
//! Each can be run again after it was cut off anywhere: launching, rolling back and recovering are these three.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use tracing::{Instrument, debug_span};

use super::etc::mounts_of_names;
use super::handle::Host;
use super::ids;
use super::record::{Manifest, Phase};
use super::spec::{ContainerSpec, Privilege};
use crate::cgroup::{Cgroup, wait_for_migrations};
use crate::error::{Error, Result};
use crate::idmap::IdMap;
use crate::lxc::{ConfigPath, LxcConfig, MountEntry, Namespace, NamespaceSource};
use crate::name::VolumeName;
use crate::net::NetworkNamespace;
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
        // Every rule of the configuration is checked by building it once, over a root that is made later.
        let directory = inner.paths.containers().join("check");
        let config = self.configure(spec, &root_path(&directory), &directory, None)?;
        // Its mounts are LXC's in another form, when they are prepared.
        config.render_in(&inner.target, None, &[])?;
        if spec.privilege != Privilege::Privileged {
            config.check_ways(ids::map(0)?.root())?;
        }
        Ok(image.content)
    }

    /// Makes what is missing of a container and starts it. Returns the manifest as it is written down then.
    pub(super) async fn raise(&self, manifest: &Manifest) -> Result<Manifest> {
        let hierarchies = self.inner.hierarchies.clone();
        // LXC is to move to control groups: what the kernel waits for then may pass while it has nothing to do yet.
        let ahead =
            self.blocking(move || wait_for_migrations(&hierarchies)).instrument(debug_span!("wait_ahead"));
        let (ahead, raised) = tokio::join!(ahead, self.raise_parts(manifest));
        if let Err(error) = ahead {
            tracing::debug!(%error, "not waited ahead: the start takes longer");
        }
        raised
    }

    async fn raise_parts(&self, manifest: &Manifest) -> Result<Manifest> {
        let directory = self.directory(manifest);
        make_own_directory(&directory, manifest.objects.ids.as_ref())?;
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
        let mut config = self.configure(&manifest.spec, &root, &directory, Some(manifest))?;
        for file in files {
            config.mount_own(file)?;
        }
        let container = self.container(manifest)?;
        let started = self.blocking(move || container.start(&config));
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
        self.blocking(move || container.end(grace)).await?;
        self.release(manifest).await
    }

    /// Releases what a container needed that has ended.
    pub(super) async fn release(&self, manifest: &Manifest) -> Result<()> {
        let container = self.container(manifest)?;
        let cleaned = self.blocking(move || container.clean());
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
        let (host, container) = (self.clone(), self.container(&manifest)?);
        let going = manifest.clone();
        let removed = self.blocking(move || {
            // Once more, now that it is written down: a command that was still entering it leaves one behind.
            container.remove_lock_file()?;
            host.pool_of(&going)?.remove(&going.objects.volume)?;
            remove_tree(&host.inner.paths.containers(), Path::new(going.id.as_str()))
        });
        let (ended, removed) = tokio::join!(self.end_connections(&manifest), removed);
        ended?;
        removed?;
        let (host, going) = (self.clone(), manifest.clone());
        self.blocking(move || host.inner.manifests.remove(&going.spec.name)).await?;
        self.lower_names(&manifest).await;
        Ok(())
    }

    /// Writes down what a container should be, durably.
    pub(super) async fn publish(&self, manifest: &Manifest) -> Result<()> {
        let (host, manifest) = (self.clone(), manifest.clone());
        self.blocking(move || host.inner.manifests.publish(&manifest.spec.name, &manifest)).await
    }

    /// Removes the control group above those of containers, and LXC's directory of their locks, when there are none. They
    /// would do no harm, but a host without containers should look like one.
    pub(super) async fn release_parent(&self) -> Result<()> {
        let host = self.clone();
        self.blocking(move || {
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
        let (host, manifest) = (self.clone(), manifest.clone());
        self.blocking(move || {
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
            let target = root_path(&directory);
            make_directory(&target)?;
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
        let (host, directory) = (self.clone(), self.directory(manifest));
        let manifest = manifest.clone();
        self.blocking(move || {
            OverlayRoot::unmount(&root_path(&directory))?;
            release_volume(&host.pool_of(&manifest)?, &manifest.objects.volume)
        })
        .await
    }

    /// The runtime's configuration of the container in `directory`: it joins the namespaces that are pinned there, and makes
    /// neither interfaces nor ids. `manifest` is `None` when only the rules are to be checked.
    pub(super) fn configure(
        &self,
        spec: &ContainerSpec,
        root: &Path,
        directory: &Path,
        manifest: Option<&Manifest>,
    ) -> Result<LxcConfig> {
        let mut config = LxcConfig::new(&spec.name, root)?;
        config.init(&spec.init.command)?.halt_signal(spec.init.halt_signal);
        let limits = match manifest {
            Some(manifest) => self.found_limits(manifest, spec.limits.clone())?,
            None => spec.limits.clone().without_volume(),
        };
        config.limits(&limits);
        config.devices.extend(spec.devices.iter().cloned());
        for (key, value) in &spec.environment {
            config.environment(key, value)?;
        }
        for mount in &spec.mounts {
            config.mount(mount.clone())?;
        }
        if let Privilege::Unprivileged { no_new_privileges } = spec.privilege {
            config.process.no_new_privileges = no_new_privileges;
        }
        if let Some(max_bytes) = spec.console_max_bytes {
            config.console_log(console_path(directory), max_bytes)?;
        }
        let namespace = namespace_path(directory);
        if let Some(Manifest { objects, .. }) = manifest {
            config.cgroup_dir(objects.cgroup.as_str())?;
            if let Some(ids) = &objects.ids {
                let pin = ConfigPath::new(NetworkNamespace::owner_path(&namespace))?;
                config.namespaces.insert(Namespace::User, NamespaceSource::Pinned(pin));
                config.id_map = Some(ids.clone());
            }
        }
        config.join_network(namespace)?;
        Ok(config)
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

/// Where a container's root is mounted.
pub(super) fn root_path(directory: &Path) -> PathBuf {
    directory.join("root")
}

/// Where a container's network namespace is pinned.
pub(super) fn namespace_path(directory: &Path) -> PathBuf {
    directory.join("netns")
}

/// Where what is printed on a container's console is kept.
pub(super) fn console_path(directory: &Path) -> PathBuf {
    directory.join("console.log")
}

/// Makes the directory of a container. Those of its ids may pass, since its runtime mounts its root as one of them, and
/// nobody else: there may be set-uid programs in that root. They own nothing of it. The group also tells whose the ids are
/// when the manifest cannot be read.
fn make_own_directory(path: &Path, ids: Option<&IdMap>) -> Result<()> {
    make_directory(path)?;
    let Some(ids) = ids else { return Ok(()) };
    chown(path, Some(0), Some(ids.root())).map_err(|e| Error::os("chown", path.display(), e))?;
    fs::set_permissions(path, Permissions::from_mode(0o710))
        .map_err(|e| Error::os("chmod", path.display(), e))
}

fn make_directory(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| Error::os("mkdir", path.display(), e))
}
