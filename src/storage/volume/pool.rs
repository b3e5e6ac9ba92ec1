//! A pool of volumes: what is the same whatever they are made of.
//!
//! ```text
//! DIR/mounts/NAME/        where each volume is mounted
//! DIR/templates/          formatted files to copy from
//! DIR/pool.lock           held while a promise is checked and made (`man 2 flock`)
//! ```

use std::path::{Path, PathBuf};

use tracing::info_span;

use crate::error::{Error, Result};
use crate::name::VolumeName;
use crate::storage::volume::backend::lvm::{LogicalVolumes, LvmPool};
use crate::storage::volume::backend::{Backend, Directories, Found, Kind, LoopFiles, Tmpfs};
use crate::storage::volume::directory::PoolDirectory;
use crate::storage::volume::handle::Volume;
use crate::storage::volume::pool_spec::PoolSpec;
use crate::storage::volume::prepared::PreparedVolume;
use crate::storage::volume::space::ProvisionRatio;
use crate::storage::volume::spec::{Allocation, VolumeSpec};
use crate::storage::volume::template;
use crate::sys::directory::{entries, remove_directory};
use crate::sys::mount::mounted_on;

/// A pool of volumes, in a directory of its own. Several processes may use one at the same time.
///
/// ```no_run
/// # use docklet::storage::{Allocation, Filesystem, SnapshotSpec, VolumePool, VolumeSpec};
/// # fn example() -> docklet::Result<()> {
/// let pool = VolumePool::loop_files("/srv/volumes")?;
/// let mut volume = pool.ensure(&VolumeSpec {
///     name: "data".parse()?,
///     size_bytes: 1 << 30,
///     filesystem: Filesystem::Xfs,
///     allocation: Allocation::Sparse,
/// })?;
/// std::fs::write(volume.mount()?.path().join("file"), "content").expect("there is room");
/// volume.snapshot(&SnapshotSpec::new("monday".parse()?))?;
/// volume.grow(2 << 30)?; // while it is mounted
/// pool.clone_snapshot(&"data".parse()?, &"monday".parse()?, &"copy".parse()?)?;
/// volume.unmount()?;
/// volume.rollback(&"monday".parse()?) // what was written since is lost, and it has 1 GiB again
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumePool {
    kind: Kind,
}

impl VolumePool {
    /// The pool in `directory`, whose volumes are files that are attached to loop devices. Makes the directory
    /// (mode 0700) if it is missing; the one above it must exist.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `directory` is not absolute, or is something else; [`Error::Os`] if it cannot be made.
    pub fn loop_files(directory: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self { kind: Kind::LoopFiles(LoopFiles::ensure(&directory.into())?) })
    }

    /// The pool in `directory`, whose volumes are in memory: of [`Filesystem::Tmpfs`](crate::storage::Filesystem::Tmpfs)
    /// only. Makes the directory as [`VolumePool::loop_files`] does.
    ///
    /// What the volumes may become is promised against the memory that the host has available, without its swap; the
    /// kernel takes that memory as it is written, and what programs take afterwards is beyond the pool's control. Volumes
    /// are there, mounted or not, in the mount namespace in which they were made, until they are removed or the host stops.
    /// A reboot loses them: [`open`](VolumePool::open) says so, [`ensure`](VolumePool::ensure) makes an empty one again.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `directory` is not absolute, or is something else; [`Error::Os`] if it cannot be made.
    pub fn tmpfs(directory: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self { kind: Kind::Tmpfs(Tmpfs::ensure(&directory.into())?) })
    }

    /// The pool in `directory`, whose volumes are logical volumes: thin ones for [`Allocation::Sparse`], linear ones for
    /// [`Allocation::Preallocated`]. Makes the directory if it is missing, and writes down which volume group it is for; the
    /// group must exist then ([`VolumeGroup::ensure`](crate::storage::VolumeGroup::ensure)), and is found by its UUID from then on.
    /// Sizes are multiples of the group's extents.
    ///
    /// A preallocated volume takes its space from the group at once. A sparse one is a promise of its thin pool: the sum of
    /// the sizes of all thin volumes and snapshots in it is held to the pool's ratio. That counts what others make there, but
    /// cannot keep them from it; when the thin pool is full, writing fails.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such volume group or thin pool; [`Error::Differs`] if the directory is another
    /// pool's; [`Error::Unsupported`] if the program `lvm` is missing; otherwise as [`VolumePool::loop_files`].
    pub fn lvm(directory: impl Into<PathBuf>, lvm: &LvmPool) -> Result<Self> {
        Ok(Self { kind: Kind::Lvm(LogicalVolumes::ensure(&directory.into(), lvm)?) })
    }

    /// The pool in `directory`, whose volumes are directories beside each other, each held to its size and to an inode for
    /// each 16 KiB by a project quota: of [`Filesystem::Directory`](crate::storage::Filesystem::Directory) only. Makes the
    /// directory as [`VolumePool::loop_files`] does. It must be on xfs that is mounted with `prjquota`, or on ext4 with
    /// the features `project` and `quota` that is mounted with `prjquota`.
    ///
    /// The projects that volumes have are numbered 1684733952 to 1684799487; one that somebody else uses on that file
    /// system is left to them. What is promised is counted against what the file system has available; what others store
    /// on it afterwards is beyond the pool's control.
    ///
    /// **The limit is [soft](crate::storage::SizeLimit::Soft).** Who is in the host's own user namespace, as all processes of
    /// privileged containers are, can take the files that it owns out of the volume's project (`chattr -p`), without being
    /// root, and goes on writing; it can put them in another volume's, too. In a user namespace of its own nobody can, not
    /// even its root. Besides, ext4 does not hold who has CAP_SYS_RESOURCE; xfs holds root as well. What is refused is
    /// `EDQUOT` on ext4 and `ENOSPC` on xfs. A file of another project cannot be linked or renamed into a volume (`EXDEV`);
    /// one that the host moves out of it stays in its project, and counts.
    ///
    /// A volume whose directory was taken out of its project, or whose limit was taken off, is not mounted any more
    /// ([`Error::Differs`]). There are no snapshots; where the file system can share blocks, a copy of the files costs
    /// little.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with what to enable if the file system has no project quotas, or does not enforce them: nothing
    /// was touched then; otherwise as [`VolumePool::loop_files`].
    pub fn directories(directory: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self { kind: Kind::Directories(Directories::ensure(&directory.into())?) })
    }

    /// Where the pool is, to be written down.
    #[must_use]
    pub fn spec(&self) -> PoolSpec {
        self.kind.spec()
    }

    /// Whether such a volume can be made here at all. Touches nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the size breaks the rules of [`VolumeSpec::size_bytes`], or of the pool;
    /// [`Error::Unsupported`] if the pool has no such volumes.
    pub fn check(&self, spec: &VolumeSpec) -> Result<()> {
        spec.check()?;
        self.backend().check(spec)
    }

    /// The same pool with another limit to what it may promise. Default: [`ProvisionRatio::ONE`].
    #[must_use]
    pub fn with_provision_ratio(mut self, ratio: ProvisionRatio) -> Self {
        self.kind.directory_mut().ratio = ratio;
        self
    }

    /// Creates the volume, or adopts the one of that name if it is as asked. When this returns the volume is on
    /// the disk: a power cut does not lose it. An interrupted [growth](Volume::grow) to this size is finished.
    ///
    /// # Errors
    /// - [`Error::Invalid`] if the size breaks the rules of [`VolumeSpec::size_bytes`].
    /// - [`Error::Differs`] with each field, if what has that name is not as asked. It is not touched; data that is
    ///   no file system known here is never formatted over.
    /// - [`Error::NoSpace`] if the pool may not promise that much, or cannot preallocate it.
    /// - [`Error::Damaged`] if what has that name holds what is left of a file system, with the program that mends it.
    /// - [`Error::Unsupported`] if the pool has no such volumes, or the program that makes the file system is missing, or
    ///   a feature of the pool's own.
    pub fn ensure(&self, spec: &VolumeSpec) -> Result<Volume> {
        let span = info_span!("ensure_volume", volume = %spec.name, size_bytes = spec.size_bytes);
        let _entered = span.enter();
        self.prepare(spec)?.publish()
    }

    /// Does the slow part of [`VolumePool::ensure`]: makes what can be made of the volume before it has a name.
    /// Dropping the result leaves nothing. For who has something else to wait for before the volume may exist.
    ///
    /// # Errors
    /// As [`VolumePool::ensure`].
    pub fn prepare(&self, spec: &VolumeSpec) -> Result<PreparedVolume> {
        self.check(spec)?;
        let found = self.backend().look(&spec.name)?;
        let draft = if found.is_none() { Some(self.backend().prepare(spec)?) } else { None };
        Ok(PreparedVolume { pool: self.clone(), spec: spec.clone(), draft })
    }

    pub(super) fn adopt(&self, spec: &VolumeSpec, found: &Found) -> Result<Volume> {
        let differences = found.differences(spec);
        if !differences.is_empty() {
            return Err(Error::Differs { what: what(&spec.name), difference: differences.join(", ") });
        }
        let mut volume = Volume::new(self.clone(), spec.clone());
        let discarded =
            spec.allocation == Allocation::Preallocated && found.allocated_bytes < spec.size_bytes;
        if found.growing || discarded {
            volume.grow(spec.size_bytes)?;
        }
        Ok(volume)
    }

    /// The volume of that name.
    ///
    /// # Errors
    /// [`Error::NotFound`], also of one in memory that a reboot lost; [`Error::Differs`] if what has that name is not a volume; [`Error::Damaged`] if it was one.
    pub fn open(&self, name: &VolumeName) -> Result<Volume> {
        let found = self.backend().look(name)?.ok_or_else(|| self.backend().absent(name))?;
        let filesystem = match (found.odd, found.filesystem) {
            (None, Some(filesystem)) => filesystem,
            (odd, _) => {
                let difference = odd.unwrap_or("it holds no file system known here").to_owned();
                return Err(Error::Differs { what: what(name), difference });
            }
        };
        let spec = VolumeSpec {
            name: name.clone(),
            size_bytes: found.size_bytes,
            filesystem,
            allocation: found.allocation,
        };
        Ok(Volume::new(self.clone(), spec))
    }

    /// The names of all volumes, sorted.
    ///
    /// # Errors
    /// [`Error::Os`] if the directory cannot be read.
    pub fn list(&self) -> Result<Vec<VolumeName>> {
        let mut names = self.backend().names()?;
        names.sort();
        Ok(names)
    }

    /// Removes the volume and all that is in it, durably. A volume that is gone is removed.
    ///
    /// # Errors
    /// [`Error::Busy`] if it is mounted or attached, or has snapshots; nothing happened then.
    pub fn remove(&self, name: &VolumeName) -> Result<()> {
        let span = info_span!("remove_volume", volume = %name);
        let _entered = span.enter();
        let target = self.mount_point(name);
        let lock = self.backend().lock(name)?;
        if mounted_on(&target)?.is_some() {
            let reason = format!("it is mounted on {}; unmount it first", target.display());
            return Err(Error::Busy { what: what(name), reason });
        }
        if lock.is_some() {
            // First: once the volume is gone, the next one of that name may be mounted there.
            remove_directory(&target)?;
            return self.backend().remove(name);
        }
        let _lock = self.directory().lock()?;
        if self.backend().look(name)?.is_none() {
            remove_directory(&target)?;
        }
        Ok(())
    }

    /// Makes volumes usable again after a crash or a reboot, and says what it did: lets a volume go on that was held still
    /// for a snapshot, puts back limits of directories that are lost. It never makes a volume, and never formats anything.
    /// Call it before volumes are mounted.
    ///
    /// # Errors
    /// [`Error::Os`] if a directory cannot be read or changed.
    pub fn recover(&self) -> Result<Vec<String>> {
        let span = info_span!("recover_volumes");
        let _entered = span.enter();
        self.backend().recover()
    }

    /// Removes what a crash can leave: mount points without a volume, surplus templates. Says what it removed.
    ///
    /// # Errors
    /// [`Error::Os`] if a directory cannot be read or changed.
    pub fn tidy(&self) -> Result<Vec<String>> {
        let directory = self.kind.directory();
        let mut removed = self.backend().tidy()?;
        for name in entries(&directory.mounts())? {
            let Some(name) = name.to_str().and_then(|n| VolumeName::new(n).ok()) else { continue };
            let target = self.mount_point(&name);
            let _lock = directory.lock()?;
            let is_there = match self.backend().look(&name) {
                Err(Error::Damaged { .. }) => true,
                found => found?.is_some(),
            };
            let orphan = !is_there && mounted_on(&target)?.is_none();
            if orphan && remove_directory(&target)? {
                removed.push(format!("mount point {}", target.display()));
            }
        }
        let templates = template::prune(&directory.templates())?;
        removed.extend(templates.iter().map(|path| format!("template {}", path.display())));
        Ok(removed)
    }

    /// The pool's directory.
    pub(crate) fn path(&self) -> &Path {
        self.directory().path()
    }

    pub(crate) fn mount_point(&self, name: &VolumeName) -> PathBuf {
        self.directory().mount_point(name)
    }

    /// Where volumes are mounted.
    pub(crate) fn mounts(&self) -> PathBuf {
        self.directory().mounts()
    }

    pub(super) fn directory(&self) -> &PoolDirectory {
        self.kind.directory()
    }

    pub(super) fn backend(&self) -> &dyn Backend {
        self.kind.backend()
    }
}

pub(crate) fn what(name: &VolumeName) -> String {
    format!("volume `{name}`")
}

pub(crate) fn not_found(name: &VolumeName) -> Error {
    Error::NotFound { what: what(name) }
}

/// What is promised with a volume, as errors call it.
pub(crate) fn promise(spec: &VolumeSpec) -> String {
    format!("{} of {} bytes", what(&spec.name), spec.size_bytes)
}
