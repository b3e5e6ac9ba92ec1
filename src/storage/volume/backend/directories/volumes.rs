//! Volumes that are directories of the pool's own file system, each held to its size by a project quota (`man 2 quotactl`).
//!
//! ```text
//! DIR/volumes/NAME/ID/    what is shown of the volume, in the project ID
//! DIR/volumes/NAME/size   its size in bytes
//! DIR/halves/ID/          the same of one that is being made or removed
//! ```
//!
//! A volume appears, whole, and goes, by one rename. The directory's name is its project: who is root in a container can
//! change what the file system says, and not what the directory is called. A project that has a half is nobody else's.
//!
//! The quota says what the size is. It is written down, too, because an xfs that is mounted without quotas after a power cut
//! leaves out what its log has of them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::debug;

use super::enforced;
use super::halves::{Halves, project_named};
use crate::error::{Error, Result};
use crate::name::VolumeName;
use crate::storage::volume::backend::{Backend, Draft, Found, Source, shrinking};
use crate::storage::volume::directory::PoolDirectory;
use crate::storage::volume::filesystem::Filesystem;
use crate::storage::volume::limit::SizeLimit;
use crate::storage::volume::pool::{promise, what};
use crate::storage::volume::space::Room;
use crate::storage::volume::spec::{Allocation, VolumeSpec};
use crate::sys::directory::entries;
use crate::sys::file::{self, absent_is_none, sync_parent};
use crate::sys::lock::{FileLock, LOCK_TIMEOUT};
use crate::sys::mount::viewers_of_directory;
use crate::sys::quota::{Account, ProjectQuotas, inherited_project};
use crate::sys::space::available_bytes;
use crate::sys::tree::remove_tree;
use crate::sys::wait;

/// Where the size is written down.
const SIZE: &str = "size";
/// As on an ext4 of the volume's size.
const BYTES_PER_INODE: u64 = 16 << 10;
/// Who starts a container at this moment has a copy of all mounts.
const UNSEEN_PATIENCE: Duration = Duration::from_secs(2);

/// Directories with a project quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directories {
    pub(crate) directory: PoolDirectory,
}

impl Directories {
    pub(crate) fn ensure(directory: &Path) -> Result<Self> {
        let present = if directory.is_dir() { Some(directory) } else { directory.parent() };
        if let Some(present) = present.filter(|_| directory.is_absolute()) {
            enforced::check(present, directory)?;
        }
        Ok(Self { directory: PoolDirectory::ensure(directory, &["volumes", "halves"])? })
    }

    fn volumes(&self) -> PathBuf {
        self.directory.path().join("volumes")
    }

    fn home(&self, name: &VolumeName) -> PathBuf {
        self.volumes().join(name.as_str())
    }

    fn quotas(&self) -> Result<ProjectQuotas> {
        ProjectQuotas::of(self.directory.path())
    }

    fn halves(&self) -> Result<Halves<'_>> {
        Ok(Halves { pool: &self.directory, quotas: self.quotas()? })
    }

    /// The volume's project, by its directory's name. `None` if it has no such directory, or there is no volume.
    fn project(&self, name: &VolumeName) -> Result<Option<u32>> {
        let names = match fs::read_dir(self.home(name)) {
            Ok(names) => names,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
                return Ok(None);
            }
            Err(error) => return Err(Error::os("getdents", self.home(name).display(), error)),
        };
        Ok(names.flatten().find_map(|entry| project_named(entry.file_name().to_str()?)))
    }

    fn account(&self, name: &VolumeName) -> Result<Option<Account>> {
        self.project(name)?.map(|project| self.quotas()?.account(project)).transpose()
    }

    fn room(&self) -> Result<Room> {
        let mut room = Room { available_bytes: available_bytes(self.directory.path())?, ..Room::default() };
        for name in self.names()? {
            let Some(account) = self.account(&name)? else { continue };
            let held = account.used_bytes.min(account.limit_bytes);
            room.held_bytes = room.held_bytes.saturating_add(held);
            room.promised_bytes = room.promised_bytes.saturating_add(account.limit_bytes);
        }
        Ok(room)
    }

    fn check_room(&self, bytes: u64, what: &str) -> Result<()> {
        self.room()?.check(self.directory.ratio, bytes, what)
    }

    /// Makes an empty half a volume. The caller holds the pool's lock.
    fn complete(&self, halves: &Halves<'_>, project: u32, spec: &VolumeSpec) -> Result<()> {
        let home = self.home(&spec.name);
        record_size(&halves.path(project), spec.size_bytes)?;
        set_limit(&halves.quotas, project, spec.size_bytes, &what(&spec.name))?;
        fs::rename(halves.path(project), &home).map_err(|e| Error::os("rename", home.display(), e))?;
        // Both file systems write changes in their order: with this one the others are on the disk.
        sync_parent(&home)
    }

    /// [`Error::Busy`] if the volume goes on being mounted somewhere.
    fn wait_until_unseen(&self, name: &VolumeName) -> Result<()> {
        let shown = self.path(name);
        let mut viewers = Vec::new();
        let unseen = wait::until_true(wait::deadline(UNSEEN_PATIENCE), || {
            viewers = viewers_of_directory(&shown)?;
            Ok::<_, Error>(viewers.is_empty())
        })?;
        if unseen {
            return Ok(());
        }
        let reason = format!("{} is mounted where {} sees it", shown.display(), viewers.join(", "));
        Err(Error::Busy { what: what(name), reason })
    }

    /// [`Error::Differs`] if `found` is not held to its size.
    fn check_whole(&self, name: &VolumeName, found: &Found) -> Result<()> {
        match found.odd {
            Some(odd) => Err(Error::Differs { what: what(name), difference: odd.to_owned() }),
            None => Ok(()),
        }
    }
}

impl Backend for Directories {
    fn check(&self, spec: &VolumeSpec) -> Result<()> {
        let (what, needs) = match (spec.filesystem, spec.allocation) {
            (Filesystem::Directory, Allocation::Sparse) => return Ok(()),
            (Filesystem::Directory, Allocation::Preallocated) => (
                "a preallocated directory".to_owned(),
                "a sparse one: what the file system has is taken as it is written",
            ),
            (other, _) => {
                (format!("{other} in a pool of directories"), "the file system `directory`, or another pool")
            }
        };
        Err(Error::Unsupported { what, needs: needs.to_owned() })
    }

    /// Who owns a file and is in the host's own user namespace may take it out of its project.
    fn limit(&self, size_bytes: u64) -> SizeLimit {
        SizeLimit::Soft(size_bytes)
    }

    /// The volume's lock is its outer directory, which keeps it on the way out.
    fn lock(&self, name: &VolumeName) -> Result<Option<FileLock>> {
        FileLock::acquire_existing(&self.home(name), LOCK_TIMEOUT, &what(name))
    }

    fn look(&self, name: &VolumeName) -> Result<Option<Found>> {
        let home = self.home(name);
        let Some(before) = identity(&home)? else { return Ok(None) };
        let Some(project) = self.project(name)? else {
            if identity(&home)? != Some(before) {
                return self.look(name);
            }
            let reason = format!("there is no directory of a project in {}; remove it", home.display());
            return Err(Error::Damaged { what: what(name), reason });
        };
        let shown = home.join(project.to_string());
        let opened = match File::open(&shown) {
            // It was removed since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.look(name),
            opened => opened.map_err(|e| Error::os("open", shown.display(), e))?,
        };
        let account = self.quotas()?.account(project)?;
        let odd = if inherited_project(&opened, &shown)? != Some(project) {
            Some(
                "its directory was taken out of its project, so that it is not held to its size (`man 1 chattr`)",
            )
        } else if account.limit_bytes == 0 {
            Some(
                "the limit of its project was taken off, so that it is not held to its size: `recover` puts it back",
            )
        } else {
            None
        };
        if odd.is_some() && identity(&home)? != Some(before) {
            return self.look(name);
        }
        Ok(Some(Found {
            size_bytes: account.limit_bytes,
            allocated_bytes: account.used_bytes,
            filesystem: Some(Filesystem::Directory),
            allocation: Allocation::Sparse,
            growing: false,
            odd,
        }))
    }

    fn names(&self) -> Result<Vec<VolumeName>> {
        let names = entries(&self.volumes())?;
        Ok(names.iter().filter_map(|name| VolumeName::new(name.to_str()?).ok()).collect())
    }

    fn path(&self, name: &VolumeName) -> PathBuf {
        let home = self.home(name);
        match self.project(name) {
            Ok(Some(project)) => home.join(project.to_string()),
            _ => home,
        }
    }

    fn held(&self, name: &VolumeName) -> Option<PathBuf> {
        Some(self.path(name))
    }

    fn open(&self, name: &VolumeName) -> Result<File> {
        let path = self.path(name);
        File::open(&path).map_err(|e| Error::os("open", path.display(), e))
    }

    /// Only the promise: what there is to make is made under the pool's lock.
    fn prepare(&self, spec: &VolumeSpec) -> Result<Draft> {
        self.check_room(spec.size_bytes, &promise(spec))?;
        Ok(Draft::Nothing)
    }

    fn publish(&self, _draft: &Draft, spec: &VolumeSpec) -> Result<bool> {
        let _lock = self.directory.lock()?;
        if identity(&self.home(&spec.name))?.is_some() {
            return Ok(false);
        }
        self.check_room(spec.size_bytes, &promise(spec))?;
        enforced::check(self.directory.path(), self.directory.path())?;
        let mut taken = Vec::new();
        for name in self.names()? {
            taken.extend(self.project(&name)?);
        }
        let halves = self.halves()?;
        let project = halves.begin(&taken)?;
        if let Err(error) = self.complete(&halves, project, spec) {
            // What cannot be removed now is left to `tidy`. The first error is the one to tell.
            let _ = halves.discard(project);
            return Err(error);
        }
        debug!(home = %self.home(&spec.name).display(), project, "created volume");
        Ok(true)
    }

    fn attach(&self, name: &VolumeName) -> Result<Source> {
        let found = self.look(name)?.ok_or_else(|| self.absent(name))?;
        self.check_whole(name, &found)?;
        enforced::check(self.directory.path(), self.directory.path())?;
        Ok(Source::Held(self.path(name)))
    }

    /// All directories of a file system have its device's number: what is mounted in the volume's place is compared.
    fn is_shown_by(&self, name: &VolumeName, _device: u64) -> Result<bool> {
        let own = identity(&self.path(name))?;
        Ok(own.is_some() && own == identity(&self.directory.mount_point(name))?)
    }

    fn release(&self, _name: &VolumeName, _device: Option<u64>) -> Result<()> {
        Ok(())
    }

    fn lengthen(&self, spec: &VolumeSpec) -> Result<()> {
        let _lock = self.directory.lock()?;
        let present = self.look(&spec.name)?.ok_or_else(|| self.absent(&spec.name))?;
        self.check_whole(&spec.name, &present)?;
        let more = spec
            .size_bytes
            .checked_sub(present.size_bytes)
            .ok_or_else(|| shrinking(spec, present.size_bytes))?;
        self.check_room(more, &format!("{more} more bytes of {}", what(&spec.name)))?;
        let project = self.project(&spec.name)?.ok_or_else(|| self.absent(&spec.name))?;
        set_limit(&self.quotas()?, project, spec.size_bytes, &what(&spec.name))?;
        // It flushes the limit, too: both file systems write changes in their order.
        let home = self.home(&spec.name);
        record_size(&home, spec.size_bytes)?;
        sync_parent(&home.join(SIZE))
    }

    fn lengthened(&self, _spec: &VolumeSpec) -> Result<()> {
        Ok(())
    }

    fn remove(&self, name: &VolumeName) -> Result<()> {
        let home = self.home(name);
        let Some(project) = self.project(name)? else {
            return remove_tree(&self.volumes(), Path::new(name.as_str()));
        };
        self.wait_until_unseen(name)?;
        let halves = self.halves()?;
        fs::rename(&home, halves.path(project)).map_err(|e| Error::os("rename", home.display(), e))?;
        sync_parent(&home)?;
        halves.discard(project)?;
        debug!(home = %home.display(), project, "removed volume");
        Ok(())
    }

    /// Puts limits back that are lost.
    fn recover(&self) -> Result<Vec<String>> {
        let mut recovered = Vec::new();
        for name in self.names()? {
            let Some(_lock) = self.lock(&name)? else { continue };
            let Some(project) = self.project(&name)? else { continue };
            let quotas = self.quotas()?;
            if quotas.account(project)?.limit_bytes > 0 {
                continue;
            }
            if let Some(size_bytes) = recorded_size(&self.home(&name))? {
                set_limit(&quotas, project, size_bytes, &what(&name))?;
                recovered.push(format!("limit of {} put back", what(&name)));
            }
        }
        Ok(recovered)
    }

    fn tidy(&self) -> Result<Vec<String>> {
        self.halves()?.tidy()
    }
}

/// Which directory or file it is. `None` if there is none.
fn identity(path: &Path) -> Result<Option<(u64, u64)>> {
    absent_is_none(fs::symlink_metadata(path))
        .map(|found| found.map(|metadata| (metadata.dev(), metadata.ino())))
        .map_err(|e| Error::os("lstat", path.display(), e))
}

/// Sets the limit, and reads it back.
fn set_limit(quotas: &ProjectQuotas, project: u32, size_bytes: u64, what: &str) -> Result<()> {
    quotas.set_limit(project, size_bytes, size_bytes / BYTES_PER_INODE)?;
    let limit = quotas.account(project)?.limit_bytes;
    if limit == size_bytes {
        return Ok(());
    }
    let difference = format!("its limit is {limit} bytes after it was set to {size_bytes}");
    Err(Error::Differs { what: what.to_owned(), difference })
}

fn record_size(home: &Path, size_bytes: u64) -> Result<()> {
    file::publish(&home.join(SIZE), size_bytes.to_string().as_bytes())
}

fn recorded_size(home: &Path) -> Result<Option<u64>> {
    Ok(file::read_if_exists(&home.join(SIZE))?.and_then(|text| text.parse().ok()))
}
