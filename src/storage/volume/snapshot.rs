//! Snapshots: what a volume held at one moment, kept beside it; going back to it, and new volumes made of it.
//!
//! How a snapshot is made is the back end's: shared or copied blocks of a file (`man 2 ioctl_ficlone`), or a snapshot of
//! a logical volume (`man 7 lvmthin`, `man 8 lvcreate`).

use serde::{Deserialize, Serialize};
use tracing::info_span;

use crate::error::{Error, Result};
use crate::name::{SnapshotName, VolumeName};
use crate::storage::volume::handle::Volume;
use crate::storage::volume::pool::{VolumePool, not_found, what};
use crate::storage::volume::spec::VolumeSpec;

/// What a snapshot should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotSpec {
    /// What it is called among its volume's snapshots.
    pub name: SnapshotName,
    /// How many bytes of the volume may change before the snapshot is lost, rounded up to the volume group's extents.
    /// Only snapshots of a preallocated (linear) logical volume have such a limit, and must be given one; for all
    /// others it must be `None`, the default.
    ///
    /// **Choose it with care.** Everything that is written to the volume afterwards takes from it, deleting included,
    /// and while the snapshot exists each first write to a place takes three. When it is full the snapshot, and
    /// nothing else, is [damaged](Reserve::overflowed) for good. As much as the volume's size always suffices.
    #[serde(default)]
    pub reserve_bytes: Option<u64>,
}

impl SnapshotSpec {
    /// A snapshot without a reserve.
    #[must_use]
    pub fn new(name: SnapshotName) -> Self {
        Self { name, reserve_bytes: None }
    }
}

/// What a snapshot is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// What it is called among its volume's snapshots.
    pub name: SnapshotName,
    /// The size in bytes that the volume had, and has again after going back to it.
    pub size_bytes: u64,
    /// What it takes of the host's disk in bytes, what it shares with its volume included.
    pub allocated_bytes: u64,
    /// What was set aside for it; only for one of a preallocated (linear) logical volume.
    pub reserve: Option<Reserve>,
}

/// What was set aside for a snapshot, and how much of it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Reserve {
    /// How many bytes were set aside.
    pub reserved_bytes: u64,
    /// How many of them are used.
    pub used_bytes: u64,
    /// More was changed than it could keep: it is damaged, and can only be removed.
    pub overflowed: bool,
}

impl Reserve {
    /// Whether 80 % of it are used, or more: time to take what is needed from the snapshot, and remove it.
    #[must_use]
    pub fn is_nearly_full(&self) -> bool {
        self.overflowed || u128::from(self.used_bytes) * 5 >= u128::from(self.reserved_bytes) * 4
    }
}

/// What a new volume is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) volume: &'a VolumeName,
    /// `None`: the volume as it is now.
    pub(crate) snapshot: Option<&'a SnapshotName>,
}

impl Volume {
    /// Keeps what the volume holds now. A mounted volume is held still for that: who writes to it waits. Its content is
    /// what a file system has after `sync`; what programs have not written yet is not in it.
    ///
    /// Of a loop file, on a file system that can share blocks (xfs, btrfs) it takes milliseconds; on another the volume is
    /// copied, in which time it is held still if it is mounted. It counts as the volume's size against the pool's promise.
    ///
    /// # Errors
    /// - [`Error::Differs`] if there is a snapshot of that name: it is of another moment.
    /// - [`Error::Invalid`] about [`SnapshotSpec::reserve_bytes`].
    /// - [`Error::NoSpace`] if the pool may not promise that much.
    /// - [`Error::Busy`] if somebody else uses the volume's device, or has frozen its file system.
    pub fn snapshot(&self, spec: &SnapshotSpec) -> Result<Snapshot> {
        let span = info_span!("snapshot_volume", volume = %self.spec().name, snapshot = %spec.name);
        let _entered = span.enter();
        let name = &self.spec().name;
        let _lock = self.lock()?.ok_or_else(|| not_found(name))?;
        self.device_of_mount()?;
        if self.backend().snapshots(name)?.iter().any(|snapshot| snapshot.name == spec.name) {
            let difference = "it is of another moment; remove it first, or choose another name".to_owned();
            return Err(Error::Differs { what: called(name, &spec.name), difference });
        }
        self.backend().snapshot(name, spec)?;
        self.find_snapshot(&spec.name)
    }

    /// The volume's snapshots, sorted by name.
    ///
    /// # Errors
    /// [`Error::Os`] if they cannot be read.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.backend().snapshots(&self.spec().name)
    }

    /// Makes the volume what it was when the snapshot was taken: all that was written since is lost. The snapshot stays. Cut
    /// off anywhere, the volume is what it was before or what it was then; repeating finishes it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Busy`] if the volume is mounted or attached; [`Error::NoSpace`] if there is no room
    /// for a copy of the snapshot; [`Error::Damaged`] if the snapshot's reserve overflowed.
    pub fn rollback(&mut self, snapshot: &SnapshotName) -> Result<()> {
        let span = info_span!("roll_back_volume", volume = %self.spec().name, snapshot = %snapshot);
        let _entered = span.enter();
        let name = self.spec().name.clone();
        let _lock = self.lock()?.ok_or_else(|| not_found(&name))?;
        let target = self.mount_point();
        if self.device_of_mount()?.is_some() {
            let reason = format!("it is mounted on {}; unmount it first", target.display());
            return Err(Error::Busy { what: what(&name), reason });
        }
        let found = self.find_snapshot(snapshot)?;
        check_whole(&name, &found)?;
        self.backend().rollback(&self.spec, snapshot)?;
        self.spec.size_bytes = found.size_bytes;
        Ok(())
    }

    /// Removes a snapshot. One that is gone is removed.
    ///
    /// # Errors
    /// [`Error::Os`] or [`Error::Command`] if it cannot be removed.
    pub fn remove_snapshot(&self, snapshot: &SnapshotName) -> Result<()> {
        let span = info_span!("remove_snapshot", volume = %self.spec().name, snapshot = %snapshot);
        let _entered = span.enter();
        let name = &self.spec().name;
        let _lock = self.lock()?.ok_or_else(|| not_found(name))?;
        self.backend().remove_snapshot(name, snapshot)
    }

    fn find_snapshot(&self, snapshot: &SnapshotName) -> Result<Snapshot> {
        let name = &self.spec().name;
        let found = self.backend().snapshots(name)?.into_iter().find(|found| found.name == *snapshot);
        found.ok_or_else(|| Error::NotFound { what: called(name, snapshot) })
    }
}

impl VolumePool {
    /// Makes `to` a volume of its own with what the volume `from` holds now, as [`Volume::snapshot`] would keep it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Differs`] if there is a volume `to`; otherwise as [`Volume::snapshot`].
    pub fn clone_volume(&self, from: &VolumeName, to: &VolumeName) -> Result<Volume> {
        self.clone_origin(&Origin { volume: from, snapshot: None }, to)
    }

    /// Makes `to` a volume of its own with what the volume `from` held when `snapshot` was taken.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Differs`] if there is a volume `to`; [`Error::Damaged`] if the snapshot's reserve
    /// overflowed; otherwise as [`Volume::snapshot`].
    pub fn clone_snapshot(
        &self,
        from: &VolumeName,
        snapshot: &SnapshotName,
        to: &VolumeName,
    ) -> Result<Volume> {
        self.clone_origin(&Origin { volume: from, snapshot: Some(snapshot) }, to)
    }

    fn clone_origin(&self, origin: &Origin<'_>, to: &VolumeName) -> Result<Volume> {
        let span = info_span!("clone_volume", from = %origin.volume, to = %to);
        let _entered = span.enter();
        let from = self.open(origin.volume)?;
        let taken = || Error::Differs {
            what: what(to),
            difference: format!("it is not a clone of {} that was just made", what(origin.volume)),
        };
        if self.backend().look(to)?.is_some() {
            return Err(taken());
        }
        let _lock = from.lock()?.ok_or_else(|| not_found(origin.volume))?;
        let mut spec = VolumeSpec { name: to.clone(), ..from.spec().clone() };
        match origin.snapshot {
            Some(snapshot) => {
                let found = from.find_snapshot(snapshot)?;
                check_whole(origin.volume, &found)?;
                spec.size_bytes = found.size_bytes;
            }
            None => drop(from.device_of_mount()?),
        }
        if self.backend().clone_volume(origin, &spec)? {
            Ok(Volume::new(self.clone(), spec))
        } else {
            Err(taken())
        }
    }
}

/// A snapshot, as errors call it.
pub(crate) fn called(volume: &VolumeName, snapshot: &SnapshotName) -> String {
    format!("snapshot `{snapshot}` of volume `{volume}`")
}

fn check_whole(volume: &VolumeName, snapshot: &Snapshot) -> Result<()> {
    match snapshot.reserve {
        Some(Reserve { overflowed: true, reserved_bytes, .. }) => Err(Error::Damaged {
            what: called(volume, &snapshot.name),
            reason: format!(
                "more was changed than the {reserved_bytes} bytes of its reserve could keep; it can only be removed"
            ),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_fifths_are_nearly_full() {
        let reserve = |used_bytes, overflowed| Reserve { reserved_bytes: 100, used_bytes, overflowed };
        assert!(!reserve(79, false).is_nearly_full());
        assert!(reserve(80, false).is_nearly_full());
        assert!(reserve(0, true).is_nearly_full());
    }
}
