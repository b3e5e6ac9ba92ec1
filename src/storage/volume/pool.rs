//! A directory of volumes.
//!
//! ```text
//! DIR/files/NAME.img      the volumes
//! DIR/mounts/NAME/        where each is mounted
//! DIR/templates/          formatted files to copy from
//! DIR/pool.lock           held while a promise is checked and made
//! ```

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::statvfs;
use rustix::io::Errno;
use tracing::{debug, debug_span, info_span};

use crate::error::{Error, Result};
use crate::name::VolumeName;
use crate::storage::volume::file::{VolumeFile, publish, record_allocation, unnamed};
use crate::storage::volume::handle::Volume;
use crate::storage::volume::prepared::PreparedVolume;
use crate::storage::volume::space::{ProvisionRatio, Room};
use crate::storage::volume::spec::{Allocation, VolumeSpec};
use crate::storage::volume::{handle, template};
use crate::sys::file::{absent_is_none, remove_file, sync_parent};
use crate::sys::lock::FileLock;
use crate::sys::loopdev::LoopDevice;
use crate::sys::mount::mounted_on;
use crate::sys::sparse;

/// How long to wait for another process that is at the same pool, volume or overlay.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// A directory of volumes. Several processes may use one at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumePool {
    directory: PathBuf,
    ratio: ProvisionRatio,
}

impl VolumePool {
    /// The pool in `directory`, whose volumes are files that are attached to loop devices. Makes the directory
    /// (mode 0700) if it is missing; the one above it must exist.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `directory` is not absolute; [`Error::Os`] if it cannot be made.
    pub fn loop_files(directory: impl Into<PathBuf>) -> Result<Self> {
        let given = directory.into();
        if !given.is_absolute() {
            return Err(Error::invalid("volume pool", given.to_string_lossy(), "must be an absolute path"));
        }
        make_directory(&given)?;
        // Mounts are compared by path, so there must be one spelling of it.
        let directory = fs::canonicalize(&given).map_err(|e| Error::os("realpath", given.display(), e))?;
        for name in ["files", "mounts", "templates"] {
            make_directory(&directory.join(name))?;
        }
        Ok(Self { directory, ratio: ProvisionRatio::ONE })
    }

    /// The same pool with another limit to what it may promise. Default: [`ProvisionRatio::ONE`].
    #[must_use]
    pub fn with_provision_ratio(mut self, ratio: ProvisionRatio) -> Self {
        self.ratio = ratio;
        self
    }

    /// Creates the volume, or adopts the one of that name if it is as asked. When this returns the volume is on
    /// the disk: a power cut does not lose it. An interrupted [growth](Volume::grow) to this size is finished.
    ///
    /// # Errors
    /// - [`Error::Invalid`] if the size breaks the rules of [`VolumeSpec::size_bytes`].
    /// - [`Error::Differs`] with each field, if a file of that name is not as asked. It is not touched; data that is
    ///   no file system known here is never formatted over.
    /// - [`Error::NoSpace`] if the pool may not promise that much, or cannot preallocate it.
    /// - [`Error::Damaged`] if the file of that name holds what is left of a file system, with the program that mends it.
    /// - [`Error::Unsupported`] if the program that makes the file system, or a feature of the pool's own, is missing.
    pub fn ensure(&self, spec: &VolumeSpec) -> Result<Volume> {
        let span = info_span!("ensure_volume", volume = %spec.name, size_bytes = spec.size_bytes);
        let _entered = span.enter();
        self.prepare(spec)?.publish()
    }

    /// Does the slow part of [`VolumePool::ensure`]: makes the file system, in a file without a name. Dropping the
    /// result leaves nothing. For who has something else to wait for before the volume may exist.
    ///
    /// # Errors
    /// As [`VolumePool::ensure`].
    pub fn prepare(&self, spec: &VolumeSpec) -> Result<PreparedVolume> {
        spec.check()?;
        let found = VolumeFile::look(&self.file(&spec.name), &what(&spec.name))?;
        let file = if found.is_none() { Some(self.format(spec)?) } else { None };
        Ok(PreparedVolume { pool: self.clone(), spec: spec.clone(), file })
    }

    pub(super) fn adopt(&self, spec: &VolumeSpec, found: &VolumeFile) -> Result<Volume> {
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

    /// A file without a name that holds the file system, on the disk.
    pub(super) fn format(&self, spec: &VolumeSpec) -> Result<File> {
        let path = self.file(&spec.name);
        let what = promise(spec);
        let room = self.room()?;
        room.check(self.ratio, spec.size_bytes, &what)?;
        let out_of_space = |errno| match errno {
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Error::NoSpace {
                what: what.clone(),
                needed_bytes: spec.size_bytes,
                available_bytes: room.available_bytes,
            },
            errno => Error::os("fallocate", path.display(), errno),
        };
        if spec.allocation == Allocation::Preallocated && spec.size_bytes > room.available_bytes {
            // Not first taken from everyone else and then given back.
            return Err(out_of_space(Errno::NOSPC));
        }
        let template = template::open(&self.directory.join("templates"), spec.filesystem, spec.size_bytes)?;
        let file = unnamed(&self.directory.join("files"))?;
        debug_span!("copy_template").in_scope(|| sparse::copy(&template, &file, &path))?;
        spec.filesystem.kind().make_unique(&file, &path)?;
        if spec.allocation == Allocation::Preallocated {
            sparse::allocate(&file, spec.size_bytes).map_err(out_of_space)?;
        }
        record_allocation(&file, spec.allocation, &path)?;
        // Before it gets its name: a name with half a file system behind it could never be told from a real one.
        debug_span!("flush")
            .in_scope(|| file.sync_all())
            .map_err(|e| Error::os("fsync", path.display(), e))?;
        Ok(file)
    }

    /// Gives `file` the volume's name, durably. False if the name is taken.
    pub(super) fn name(&self, file: &File, spec: &VolumeSpec) -> Result<bool> {
        let path = self.file(&spec.name);
        {
            let _entered = debug_span!("check_and_link").entered();
            let _lock = self.lock()?;
            let mut room = self.room()?;
            // What the new file takes is part of what it is promised.
            room.available_bytes = room.available_bytes.saturating_add(allocated(file, &path)?);
            room.check(self.ratio, spec.size_bytes, &promise(spec))?;
            if !publish(file, &path)? {
                return Ok(false);
            }
        }
        sync_parent(&path)?;
        debug!(file = %path.display(), "created volume");
        Ok(true)
    }

    /// The volume of that name.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Differs`] if a file of that name is not a volume; [`Error::Damaged`] if it was one.
    pub fn open(&self, name: &VolumeName) -> Result<Volume> {
        let found = VolumeFile::look(&self.file(name), &what(name))?.ok_or_else(|| not_found(name))?;
        let Some(filesystem) = found.filesystem() else {
            let difference = "it is no regular file with a file system known here".to_owned();
            return Err(Error::Differs { what: what(name), difference });
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
        let mut names: Vec<VolumeName> =
            self.entries("files")?.iter().filter_map(|n| volume_name(n)).collect();
        names.sort();
        Ok(names)
    }

    /// Removes the volume and all that is in it, durably. A volume that is gone is removed.
    ///
    /// # Errors
    /// [`Error::Busy`] if it is mounted or attached; nothing happened then.
    pub fn remove(&self, name: &VolumeName) -> Result<()> {
        let span = info_span!("remove_volume", volume = %name);
        let _entered = span.enter();
        let busy = |reason: String| Error::Busy { what: what(name), reason };
        let (path, target) = (self.file(name), self.mount_point(name));
        if mounted_on(&target)?.is_some() {
            return Err(busy(format!("it is mounted on {}; unmount it first", target.display())));
        }
        if let Some(_lock) = handle::lock(&path, name)? {
            let file = File::open(&path).map_err(|e| Error::os("open", path.display(), e))?;
            if let Some(device) = LoopDevice::find(&file, &path)? {
                let device = device.path();
                return Err(busy(format!(
                    "it is attached to {0}; detach it with `losetup -d {0}`",
                    device.display()
                )));
            }
            remove_directory(&target)?;
            debug_span!("unlink").in_scope(|| remove_file(&path))?;
            sync_parent(&path)?;
            debug!(file = %path.display(), "removed volume");
        } else {
            remove_directory(&target)?;
        }
        Ok(())
    }

    /// Removes what a crash can leave: mount points without a volume, surplus templates. Says what it removed.
    ///
    /// # Errors
    /// [`Error::Os`] if a directory cannot be read or changed.
    pub fn tidy(&self) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for name in self.entries("mounts")? {
            let Some(name) = name.to_str().and_then(|n| VolumeName::new(n).ok()) else { continue };
            let target = self.mount_point(&name);
            let _lock = self.lock()?;
            let file = self.file(&name);
            let found = absent_is_none(fs::symlink_metadata(&file))
                .map_err(|e| Error::os("stat", file.display(), e))?;
            let orphan = found.is_none() && mounted_on(&target)?.is_none();
            if orphan && remove_directory(&target)? {
                removed.push(format!("mount point {}", target.display()));
            }
        }
        let templates = template::prune(&self.directory.join("templates"))?;
        removed.extend(templates.iter().map(|path| format!("template {}", path.display())));
        Ok(removed)
    }

    pub(crate) fn file(&self, name: &VolumeName) -> PathBuf {
        self.directory.join("files").join(format!("{name}.img"))
    }

    pub(crate) fn mount_point(&self, name: &VolumeName) -> PathBuf {
        self.mounts().join(name.as_str())
    }

    /// Where volumes are mounted.
    pub(crate) fn mounts(&self) -> PathBuf {
        self.directory.join("mounts")
    }

    pub(crate) fn ratio(&self) -> ProvisionRatio {
        self.ratio
    }

    /// The lock under which a promise is checked and made.
    pub(crate) fn lock(&self) -> Result<FileLock> {
        let path = self.directory.join("pool.lock");
        FileLock::acquire(&path, LOCK_TIMEOUT, &format!("volume pool `{}`", self.directory.display()))
    }

    pub(crate) fn room(&self) -> Result<Room> {
        let files = self.directory.join("files");
        let space = statvfs(&files).map_err(|e| Error::os("statvfs", files.display(), e))?;
        let mut room =
            Room { available_bytes: space.f_bavail.saturating_mul(space.f_frsize), ..Room::default() };
        for name in self.entries("files")? {
            let path = files.join(name);
            let found = absent_is_none(fs::symlink_metadata(&path))
                .map_err(|e| Error::os("stat", path.display(), e))?;
            let Some(found) = found.filter(fs::Metadata::is_file) else { continue };
            let held = found.blocks().saturating_mul(512).min(found.len());
            room.held_bytes = room.held_bytes.saturating_add(held);
            room.promised_bytes = room.promised_bytes.saturating_add(found.len());
        }
        Ok(room)
    }

    fn entries(&self, directory: &str) -> Result<Vec<std::ffi::OsString>> {
        let path = self.directory.join(directory);
        fs::read_dir(&path)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
            .map_err(|e| Error::os("getdents", path.display(), e))
    }
}

pub(crate) fn what(name: &VolumeName) -> String {
    format!("volume `{name}`")
}

pub(crate) fn not_found(name: &VolumeName) -> Error {
    Error::NotFound { what: what(name) }
}

pub(crate) fn allocated(file: &File, path: &Path) -> Result<u64> {
    let metadata = file.metadata().map_err(|e| Error::os("fstat", path.display(), e))?;
    Ok(metadata.blocks().saturating_mul(512))
}

pub(crate) fn make_directory(path: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(Error::os("mkdir", path.display(), error)),
    }
}

/// False if there was none.
fn remove_directory(path: &Path) -> Result<bool> {
    absent_is_none(fs::remove_dir(path))
        .map(|removed| removed.is_some())
        .map_err(|e| Error::os("rmdir", path.display(), e))
}

fn volume_name(file: &OsStr) -> Option<VolumeName> {
    VolumeName::new(file.to_str()?.strip_suffix(".img")?).ok()
}

/// What is promised with a volume, as errors call it.
fn promise(spec: &VolumeSpec) -> String {
    format!("{} of {} bytes", what(&spec.name), spec.size_bytes)
}
