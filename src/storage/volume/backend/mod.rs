//! What a pool's volumes are made of: the seam between [`VolumePool`](crate::storage::VolumePool), which is the same
//! for all, and the host's facility beneath (for loop files, `man 4 loop`).
//!
//! A back end knows names and bytes. File systems, mounts and the order of things are its callers' part. Unless it says
//! otherwise, the caller of a method that changes a volume holds [`Backend::lock`].

mod directories;
mod file;
mod loop_file;
mod loop_snapshot;
pub(super) mod lvm;
mod tmpfs;

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::name::{SnapshotName, VolumeName};
use crate::storage::volume::directory::PoolDirectory;
use crate::storage::volume::filesystem::Filesystem;
use crate::storage::volume::limit::SizeLimit;
use crate::storage::volume::pool::{not_found, what};
use crate::storage::volume::pool_spec::PoolSpec;
use crate::storage::volume::snapshot::{Origin, Snapshot, SnapshotSpec};
use crate::storage::volume::spec::{Allocation, VolumeSpec};
use crate::sys::lock::FileLock;
use crate::sys::loopdev::LoopDevice;
use crate::sys::mount::viewers_of;

pub(crate) use self::directories::Directories;
pub(crate) use self::file::open_regular;
pub(crate) use self::loop_file::LoopFiles;
use self::lvm::LogicalVolumes;
pub(crate) use self::tmpfs::Tmpfs;

/// How long a device that nobody needs any more may still be held: by a copy of the mount namespace, as a container that
/// is just being started has for a moment; by udev, which looks at each device that changes, and takes seconds for it on
/// a slow host that makes many. Only who waits for a real holder waits that long.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// What is in the place of a volume.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) size_bytes: u64,
    /// What it takes of the host's disk.
    pub(crate) allocated_bytes: u64,
    /// `None` if what it holds is no file system known here.
    pub(crate) filesystem: Option<Filesystem>,
    pub(crate) allocation: Allocation,
    /// A growth was interrupted.
    pub(crate) growing: bool,
    /// Why it is no volume at all.
    pub(crate) odd: Option<&'static str>,
}

impl Found {
    /// What differs from `spec`, field by field; empty if nothing does.
    pub(crate) fn differences(&self, spec: &VolumeSpec) -> Vec<String> {
        if let Some(odd) = self.odd {
            return vec![odd.to_owned()];
        }
        let mut differences = Vec::new();
        if self.size_bytes != spec.size_bytes {
            differences.push(format!("size_bytes is {}, not {}", self.size_bytes, spec.size_bytes));
        }
        match self.filesystem {
            Some(filesystem) if filesystem == spec.filesystem => {}
            Some(filesystem) => {
                differences.push(format!("filesystem is {filesystem}, not {}", spec.filesystem))
            }
            None => differences.push(format!(
                "it holds data that is no file system known here, not {}; it is never formatted over",
                spec.filesystem
            )),
        }
        if self.allocation != spec.allocation {
            differences.push(format!("allocation is {}, not {}", self.allocation, spec.allocation));
        }
        differences
    }
}

/// What can be done of a volume before it may exist. Dropping it leaves nothing.
#[derive(Debug)]
pub(crate) enum Draft {
    /// The volume's file, complete and on the disk, or its tmpfs, without a name.
    Unnamed(File),
    /// What the volume will be a copy of.
    Template(File),
    /// There is nothing slow to do.
    Nothing,
}

/// What is mounted in the volume's place.
#[derive(Debug)]
pub(crate) enum Source {
    /// The file system on a block device, which stays as long as this value, and then as long as it is mounted.
    Loop(LoopDevice),
    /// A file system that is mounted elsewhere all the time, or a directory of one.
    Held(PathBuf),
    /// The same of one that stays by itself.
    Device(PathBuf),
}

impl Source {
    /// The block device, or where the file system is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::Loop(device) => device.path(),
            Self::Device(path) | Self::Held(path) => path.clone(),
        }
    }

    /// Mounts it on `target`. `what` is named in errors.
    pub(crate) fn mount(&self, filesystem: Filesystem, target: &Path, what: &str) -> Result<()> {
        match self {
            Self::Loop(device) => filesystem.mount(&device.path(), target, what),
            Self::Device(device) => filesystem.mount(device, target, what),
            Self::Held(path) => crate::sys::mount::bind(path, target),
        }
    }
}

/// What volumes are made of. What a back end cannot do is [`Error::Unsupported`](crate::Error::Unsupported), by
/// [`Backend::check`] or before anything is touched.
pub(crate) trait Backend: fmt::Debug {
    /// Whether such a volume can be made here at all. Touches nothing.
    fn check(&self, spec: &VolumeSpec) -> Result<()>;

    /// What holds a volume of that size to it. Most end where their device does, or are counted by the kernel itself.
    fn limit(&self, size_bytes: u64) -> SizeLimit {
        SizeLimit::Hard(size_bytes)
    }

    /// Waits for the volume's lock. `None` if there is no volume.
    fn lock(&self, name: &VolumeName) -> Result<Option<FileLock>>;

    /// What is there under a name. Needs no lock, and changes nothing. [`Error::Damaged`](crate::Error::Damaged) if it is
    /// what is left of a volume.
    fn look(&self, name: &VolumeName) -> Result<Option<Found>>;

    /// The [`Error::NotFound`](crate::Error::NotFound) about a volume that is not there, saying why if that is known.
    fn absent(&self, name: &VolumeName) -> Error {
        not_found(name)
    }

    /// The names of all volumes, in any order. Needs no lock.
    fn names(&self) -> Result<Vec<VolumeName>>;

    /// The file, block device or directory that the volume is.
    fn path(&self, name: &VolumeName) -> PathBuf;

    /// The same, open for reading: there whether it is mounted or not.
    fn open(&self, name: &VolumeName) -> Result<File>;

    /// Where its files are seen even while the volume is not mounted.
    fn held(&self, _name: &VolumeName) -> Option<PathBuf> {
        None
    }

    /// The slow part of making a volume. Checks the promise. Needs no lock.
    fn prepare(&self, spec: &VolumeSpec) -> Result<Draft>;

    /// Makes the promise, and of `draft` the volume, whole and durably. False if the name is taken. Needs no lock.
    fn publish(&self, draft: &Draft, spec: &VolumeSpec) -> Result<bool>;

    /// Makes the volume something that can be mounted; what is left of an earlier call is adopted.
    fn attach(&self, name: &VolumeName) -> Result<Source>;

    /// The same of the volume that `draft` has become, without looking for what an earlier call left: nobody else can have had
    /// it. `None` where `draft` does not keep others out.
    fn attach_new(&self, draft: &Draft, name: &VolumeName) -> Result<Option<Source>> {
        let _ = (draft, name);
        Ok(None)
    }

    /// Whether `device`, a number as in `st_dev`, is the volume. Needs no lock.
    fn is_shown_by(&self, name: &VolumeName, device: u64) -> Result<bool>;

    /// Waits until nobody holds what [`Backend::attach`] made, which was `device` if the volume was mounted until now.
    fn release(&self, name: &VolumeName, device: Option<u64>) -> Result<()>;

    /// Makes the promise of `spec`'s size, and the volume that long, durably, with a note that its file system is not
    /// yet. Less than it has is [`Error::Invalid`](crate::Error::Invalid).
    fn lengthen(&self, spec: &VolumeSpec) -> Result<()>;

    /// Takes the disk space that a preallocated volume has to have, and takes off the note of
    /// [`Backend::lengthen`].
    fn lengthened(&self, spec: &VolumeSpec) -> Result<()>;

    /// Removes the volume, durably; what is gone is removed. [`Error::Busy`](crate::Error::Busy) if it is attached.
    fn remove(&self, name: &VolumeName) -> Result<()>;

    /// The volume's snapshots, by name. Needs no lock. This and what follows of snapshots and clones is for a back end that has
    /// none.
    fn snapshots(&self, _name: &VolumeName) -> Result<Vec<Snapshot>> {
        Ok(Vec::new())
    }

    /// Keeps what the volume, mounted or not, holds now, durably. There is no snapshot of that name.
    fn snapshot(&self, name: &VolumeName, _spec: &SnapshotSpec) -> Result<()> {
        Err(no_snapshots(name))
    }

    /// Makes the volume, which is not mounted, what it was, durably. The snapshot, which is there and whole, stays.
    fn rollback(&self, spec: &VolumeSpec, _snapshot: &SnapshotName) -> Result<()> {
        Err(no_snapshots(&spec.name))
    }

    /// Removes a snapshot, durably; what is gone is removed.
    fn remove_snapshot(&self, _name: &VolumeName, _snapshot: &SnapshotName) -> Result<()> {
        Ok(())
    }

    /// Makes the volume `to` of what `origin` holds, durably. False if the name is taken. The caller holds the lock of
    /// the origin's volume.
    fn clone_volume(&self, origin: &Origin<'_>, _to: &VolumeSpec) -> Result<bool> {
        Err(no_snapshots(origin.volume))
    }

    /// Makes volumes usable again, after a crash or a reboot, and says what was done. Needs no lock.
    fn recover(&self) -> Result<Vec<String>>;

    /// Removes what a crash can leave of the back end's own, and says what it removed. Needs no lock.
    fn tidy(&self) -> Result<Vec<String>>;
}

/// The volume's device is held after it was unmounted.
pub(crate) fn still_held(name: &VolumeName, device: &Path, number: Option<u64>) -> Error {
    let viewers = number.map_or_else(Vec::new, viewers_of);
    let holder = if viewers.is_empty() {
        "another program holds".to_owned()
    } else {
        format!("another mount namespace holds, that of process {},", viewers.join(", "))
    };
    let reason = format!(
        "it is no longer mounted here, but {holder} {}; end that, or unmount or detach it there, and repeat",
        device.display()
    );
    Error::Busy { what: what(name), reason }
}

fn no_snapshots(name: &VolumeName) -> Error {
    Error::Unsupported {
        what: format!("a snapshot or clone of {}, which is in memory or a directory,", what(name)),
        needs: "it takes a volume in a pool of loop files or on LVM; or copy its files".to_owned(),
    }
}

/// Whether a volume can go without taking its snapshots with it.
pub(crate) fn check_no_snapshots(name: &VolumeName, snapshots: &[Snapshot]) -> Result<()> {
    if snapshots.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = snapshots.iter().map(|snapshot| snapshot.name.as_str()).collect();
    let reason = format!("it has snapshots, which would be lost with it: {}", names.join(", "));
    Err(Error::Busy { what: what(name), reason })
}

/// Volumes never shrink.
pub(crate) fn shrinking(spec: &VolumeSpec, present: u64) -> Error {
    let rule = format!("volumes never shrink: {} has {present} bytes", what(&spec.name));
    Error::invalid("volume size", spec.size_bytes.to_string(), rule)
}

/// The back end of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    LoopFiles(LoopFiles),
    Tmpfs(Tmpfs),
    Lvm(LogicalVolumes),
    Directories(Directories),
}

impl Kind {
    pub(crate) fn backend(&self) -> &dyn Backend {
        match self {
            Self::LoopFiles(files) => files,
            Self::Tmpfs(tmpfs) => tmpfs,
            Self::Lvm(volumes) => volumes,
            Self::Directories(directories) => directories,
        }
    }

    pub(crate) fn spec(&self) -> PoolSpec {
        let directory = self.directory().path().to_owned();
        match self {
            Self::LoopFiles(_) => PoolSpec::LoopFiles { directory },
            Self::Tmpfs(_) => PoolSpec::Tmpfs { directory },
            Self::Lvm(volumes) => PoolSpec::Lvm { directory, lvm: volumes.lvm().clone() },
            Self::Directories(_) => PoolSpec::Directories { directory },
        }
    }

    pub(crate) fn directory(&self) -> &PoolDirectory {
        match self {
            Self::LoopFiles(files) => &files.directory,
            Self::Tmpfs(tmpfs) => &tmpfs.directory,
            Self::Lvm(volumes) => &volumes.directory,
            Self::Directories(directories) => &directories.directory,
        }
    }

    pub(crate) fn directory_mut(&mut self) -> &mut PoolDirectory {
        match self {
            Self::LoopFiles(files) => &mut files.directory,
            Self::Tmpfs(tmpfs) => &mut tmpfs.directory,
            Self::Lvm(volumes) => &mut volumes.directory,
            Self::Directories(directories) => &mut directories.directory,
        }
    }
}
