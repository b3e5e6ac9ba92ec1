//! Logical volumes as the volumes of a pool (`man 8 lvcreate`, `man 8 lvchange`, `man 8 lvextend`).
//!
//! ```text
//! DIR/lvm.json            the pool's record
//! DIR/locks/NAME.lock     each volume's lock
//! DIR/rollback/NAME       there while the volume goes back to a snapshot: whoever finds it finishes that
//! ```
//!
//! Commands that an operation takes: ensure 4 (2 if the volume is there), open 1, mount and unmount 0 (mount 1 after a
//! reboot), usage 1, grow 4, remove 2, list 1.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};

use tracing::debug;

use super::command;
use super::fill;
use super::record::{LvmPool, Record};
use super::report::{self, Group, Layout, LogicalVolume};
use super::tags::{Marked, Phase, logical_name};
use crate::error::{Error, Result};
use crate::name::{SnapshotName, VolumeName};
use crate::storage::volume::backend::{
    Backend, Draft, Found, RELEASE_TIMEOUT, Source, check_no_snapshots, shrinking, still_held,
};
use crate::storage::volume::directory::PoolDirectory;
use crate::storage::volume::pool::{not_found, what};
use crate::storage::volume::snapshot::{Origin, Snapshot, SnapshotSpec};
use crate::storage::volume::spec::{Allocation, VolumeSpec};
use crate::storage::volume::template;
use crate::sys::file::{absent_is_none, remove_file};
use crate::sys::lock::{FileLock, LOCK_TIMEOUT};
use crate::sys::{block, wait};

/// The logical volumes of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogicalVolumes {
    pub(crate) directory: PoolDirectory,
    pub(super) record: Record,
}

impl LogicalVolumes {
    pub(crate) fn ensure(directory: &Path, lvm: &LvmPool) -> Result<Self> {
        let directory = PoolDirectory::ensure(directory, &["locks", "rollback"])?;
        let record = {
            let _lock = directory.lock()?;
            Record::ensure(&directory.path().join("lvm.json"), lvm)?
        };
        Ok(Self { directory, record })
    }

    /// Where they are.
    pub(crate) fn lvm(&self) -> &LvmPool {
        &self.record.lvm
    }

    /// The pool's volume group as it is. One command.
    pub(super) fn group(&self) -> Result<Group> {
        self.record.group_of(report::groups()?)
    }

    /// The same, if none of its disks is missing.
    pub(super) fn whole_group(&self) -> Result<Group> {
        let group = self.group()?;
        if group.missing == 0 {
            return Ok(group);
        }
        Err(Error::Damaged {
            what: format!("volume group `{}`", group.name),
            reason: format!(
                "{} of its disks are missing, and with them volumes or parts of them; attach them, or see \
                 `vgreduce --removemissing`",
                group.missing
            ),
        })
    }

    /// What the pool has in the group: its logical volumes with what their tags say.
    pub(super) fn marked<'a>(
        &'a self,
        group: &'a Group,
    ) -> impl Iterator<Item = (&'a LogicalVolume, Marked)> {
        group.volumes.iter().filter_map(|found| Some((found, Marked::read(found, &self.record.tag)?)))
    }

    /// The volume's logical volume, in whatever phase.
    pub(super) fn find<'a>(
        &'a self,
        group: &'a Group,
        name: &VolumeName,
    ) -> Option<(&'a LogicalVolume, Marked)> {
        let logical = self.logical(name, None);
        self.marked(group).find(|(found, marked)| found.name == logical && marked.snapshot.is_none())
    }

    pub(super) fn logical(&self, name: &VolumeName, snapshot: Option<&SnapshotName>) -> String {
        logical_name(&self.record.tag, name, snapshot)
    }

    /// A logical volume as commands take it.
    pub(super) fn full(&self, logical: &str) -> String {
        format!("{}/{logical}", self.record.lvm.volume_group)
    }

    pub(super) fn device(&self, logical: &str) -> PathBuf {
        Path::new("/dev").join(self.record.lvm.volume_group.as_str()).join(logical)
    }

    /// The device of a logical volume, made to be there.
    pub(super) fn activated(&self, logical: &str) -> Result<PathBuf> {
        let device = self.device(logical);
        if block::number(&device)?.is_none() {
            // Yes: a linear volume's snapshot takes its origin along.
            command::run(&["lvchange", "--yes", "-ay", "-K", &self.full(logical)])?;
        }
        Ok(device)
    }

    fn lock_file(&self, name: &VolumeName) -> PathBuf {
        self.directory.path().join("locks").join(format!("{name}.lock"))
    }

    /// The volume's lock, whether there is a volume or not. No command runs for an earlier holder.
    pub(super) fn acquire(&self, name: &VolumeName) -> Result<FileLock> {
        let lock = FileLock::acquire(&self.lock_file(name), LOCK_TIMEOUT, &what(name))?;
        lock.await_programs(LOCK_TIMEOUT, &what(name))?;
        Ok(lock)
    }

    /// Runs a command that changes the volume, whose lock the caller holds. If the caller is killed, the lock is not
    /// another's before the command has ended.
    pub(super) fn change<S: AsRef<OsStr>>(&self, name: &VolumeName, arguments: &[S]) -> Result<()> {
        let lent = FileLock::lend(&self.lock_file(name))?;
        command::run_with(arguments, lent.into()).map(drop)
    }

    /// Nobody may have the device.
    pub(super) fn check_free(&self, name: &VolumeName) -> Result<()> {
        let device = self.path(name);
        if block::is_free(&device)? {
            return Ok(());
        }
        let reason = format!("{} is mounted, or part of another device", device.display());
        Err(Error::Busy { what: what(name), reason })
    }
}

impl Backend for LogicalVolumes {
    fn check(&self, spec: &VolumeSpec) -> Result<()> {
        spec.filesystem.check_on_device()?;
        if spec.allocation == Allocation::Sparse && self.record.lvm.thin_pool.is_none() {
            return Err(self.no_thin_pool());
        }
        if spec.size_bytes.is_multiple_of(self.record.extent_bytes) {
            return Ok(());
        }
        let rule =
            format!("must be a multiple of the volume group's extents of {} bytes", self.record.extent_bytes);
        Err(Error::invalid("volume size", spec.size_bytes.to_string(), rule))
    }

    fn lock(&self, name: &VolumeName) -> Result<Option<FileLock>> {
        let path = self.lock_file(name);
        if !path.exists() && self.look(name)?.is_none() {
            return Ok(None);
        }
        let lock = self.acquire(name)?;
        self.finish_rollback(name)?;
        Ok(Some(lock))
    }

    fn look(&self, name: &VolumeName) -> Result<Option<Found>> {
        let group = self.group()?;
        let Some((found, marked)) = self.find(&group, name) else {
            let foreign = group.find(&self.logical(name, None)).is_some();
            return Ok(foreign.then_some(Found {
                size_bytes: 0,
                allocated_bytes: 0,
                filesystem: None,
                allocation: Allocation::Sparse,
                growing: false,
                odd: Some("a logical volume is in its place that has no tags of this pool"),
            }));
        };
        Ok((marked.phase != Phase::Making).then(|| Found {
            size_bytes: found.size_bytes,
            allocated_bytes: found.held_bytes(),
            filesystem: Some(marked.filesystem),
            allocation: marked.allocation,
            growing: marked.phase == Phase::Growing,
            odd: None,
        }))
    }

    fn names(&self) -> Result<Vec<VolumeName>> {
        let group = self.group()?;
        let names = self
            .marked(&group)
            .filter(|(found, marked)| {
                marked.phase != Phase::Making && found.name == self.logical(&marked.volume, None)
            })
            .map(|(_, marked)| marked.volume);
        Ok(names.collect())
    }

    fn path(&self, name: &VolumeName) -> PathBuf {
        self.device(&self.logical(name, None))
    }

    fn open(&self, name: &VolumeName) -> Result<File> {
        let device = self.activated(&self.logical(name, None))?;
        absent_is_none(File::open(&device))
            .map_err(|e| Error::os("open", device.display(), e))?
            .ok_or_else(|| not_found(name))
    }

    fn prepare(&self, spec: &VolumeSpec) -> Result<Draft> {
        template::open(&self.directory.templates(), spec.filesystem, spec.size_bytes).map(Draft::Template)
    }

    fn publish(&self, draft: &Draft, spec: &VolumeSpec) -> Result<bool> {
        let Draft::Template(template) = draft else { return Ok(false) };
        let how = match (spec.allocation, &self.record.lvm.thin_pool) {
            (Allocation::Sparse, Some(pool)) => {
                let size = format!("{}b", spec.size_bytes);
                vec!["-V".to_owned(), size, "--thinpool".to_owned(), self.full(pool.as_str())]
            }
            (Allocation::Sparse, None) => return Err(self.no_thin_pool()),
            (Allocation::Preallocated, _) => self.linear(spec.size_bytes),
        };
        self.make(spec, how, |device| fill::from_template(template, device, spec.filesystem, spec.allocation))
    }

    fn attach(&self, name: &VolumeName) -> Result<Source> {
        match self.activated(&self.logical(name, None)) {
            Ok(device) => Ok(Source::Device(device)),
            Err(error @ Error::Command { .. }) => {
                // Why it cannot be: the group is gone, or the volume.
                let group = self.whole_group()?;
                Err(if self.find(&group, name).is_some() { error } else { not_found(name) })
            }
            Err(error) => Err(error),
        }
    }

    fn is_shown_by(&self, name: &VolumeName, device: u64) -> Result<bool> {
        let doubled = |text: &str| text.replace('-', "--");
        let (group, logical) = (self.record.lvm.volume_group.as_str(), self.logical(name, None));
        let mapped = format!("{}-{}", doubled(group), doubled(&logical));
        Ok(block::mapped_name(device)?.is_some_and(|name| name == mapped))
    }

    fn release(&self, name: &VolumeName, _device: Option<u64>) -> Result<()> {
        let path = self.path(name);
        if wait::until_true(wait::deadline(RELEASE_TIMEOUT), || block::is_free(&path))? {
            return Ok(());
        }
        Err(still_held(name, &path, block::number(&path)?))
    }

    /// The note first: a file system that ends before its device is grown by the next call.
    fn lengthen(&self, spec: &VolumeSpec) -> Result<()> {
        let _lock = self.directory.lock()?;
        let group = self.whole_group()?;
        let (found, marked) = self.find(&group, &spec.name).ok_or_else(|| not_found(&spec.name))?;
        let more =
            spec.size_bytes.checked_sub(found.size_bytes).ok_or_else(|| shrinking(spec, found.size_bytes))?;
        if more == 0 {
            return Ok(());
        }
        if found.layout == Layout::Linear && !self.snapshots_in(&group, &spec.name).is_empty() {
            let reason = "a linear volume with snapshots cannot grow: remove them first".to_owned();
            return Err(Error::Busy { what: what(&spec.name), reason });
        }
        let promised = format!("{more} more bytes of {}", what(&spec.name));
        self.check_room(&group, marked.allocation, more, &promised)?;
        if marked.phase != Phase::Growing {
            self.change_phase(&spec.name, Phase::Made, Phase::Growing)?;
        }
        let size = format!("{}b", spec.size_bytes);
        self.change(&spec.name, &["lvextend", "-L", &size, &self.full(&found.name)])
            .map_err(|e| self.full_or(e, &group, more, &promised))
    }

    fn lengthened(&self, spec: &VolumeSpec) -> Result<()> {
        self.change_phase(&spec.name, Phase::Growing, Phase::Made)
    }

    fn remove(&self, name: &VolumeName) -> Result<()> {
        let group = self.group()?;
        check_no_snapshots(name, &self.snapshots_in(&group, name))?;
        if let Some((found, _)) = self.find(&group, name) {
            self.check_free(name)?;
            self.change(name, &["lvremove", "-y", &self.full(&found.name)])?;
            debug!(logical = found.name, "removed volume");
        }
        remove_file(&self.lock_file(name))
    }

    fn snapshots(&self, name: &VolumeName) -> Result<Vec<Snapshot>> {
        Ok(self.snapshots_in(&self.group()?, name))
    }

    fn snapshot(&self, name: &VolumeName, spec: &SnapshotSpec) -> Result<()> {
        self.take_snapshot(name, spec)
    }

    fn rollback(&self, spec: &VolumeSpec, snapshot: &SnapshotName) -> Result<()> {
        self.roll_back(&spec.name, snapshot)
    }

    fn remove_snapshot(&self, name: &VolumeName, snapshot: &SnapshotName) -> Result<()> {
        self.delete_snapshot(name, snapshot)
    }

    fn clone_volume(&self, origin: &Origin<'_>, to: &VolumeSpec) -> Result<bool> {
        self.make_clone(origin, to)
    }

    fn recover(&self) -> Result<Vec<String>> {
        self.bring_back()
    }

    fn tidy(&self) -> Result<Vec<String>> {
        self.tidy_group()
    }
}
