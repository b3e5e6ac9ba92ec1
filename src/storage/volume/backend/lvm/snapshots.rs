//! Snapshots of logical volumes and clones of them (`man 7 lvmthin`, `man 8 lvconvert`), and what a crash or a reboot leaves.
//!
//! The device mapper holds a mounted file system still while it takes a snapshot, and lets it go on whoever dies.
//! Commands: snapshot 4, rollback 5 (thin) or 5 (linear), remove 2, clone 5.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;

use rustix::fs::syncfs;
use serde::{Deserialize, Serialize};

use super::command;
use super::fill;
use super::report::{Group, Layout, LogicalVolume, part};
use super::tags::{Marked, Phase};
use super::volumes::LogicalVolumes;
use crate::error::{Error, Result};
use crate::name::{SnapshotName, VolumeName};
use crate::storage::volume::backend::lvm::group_file::{attach_file, find_after};
use crate::storage::volume::pool::{not_found, what};
use crate::storage::volume::snapshot::{Origin, Reserve, Snapshot, SnapshotSpec, called};
use crate::storage::volume::spec::{Allocation, VolumeSpec};
use crate::sys::directory::entries;
use crate::sys::file::{publish, read_if_exists, remove_file, sync_parent};
use crate::sys::mount::mounted_on;
use crate::sys::{record, wait};

/// At the end of the name of a logical volume that is about to be its volume.
const NEXT: &str = "n";

/// What is written down while a volume goes back to a snapshot.
#[derive(Serialize, Deserialize)]
struct Rollback {
    snapshot: SnapshotName,
    /// Of a linear volume's snapshot, which is used up and made again.
    reserve_bytes: Option<u64>,
}

impl LogicalVolumes {
    pub(super) fn snapshots_in(&self, group: &Group, name: &VolumeName) -> Vec<Snapshot> {
        let mut snapshots: Vec<Snapshot> = self
            .marked(group)
            .filter(|(found, marked)| marked.volume == *name && !is_half_snapshot(found, marked))
            .filter_map(|(found, marked)| {
                let linear = found.layout == Layout::LinearSnapshot;
                let reserve = linear.then(|| Reserve {
                    reserved_bytes: found.size_bytes,
                    used_bytes: part(found.size_bytes, found.data.unwrap_or(0)),
                    overflowed: found.invalid,
                });
                Some(Snapshot {
                    name: marked.snapshot?,
                    size_bytes: if linear { found.origin_bytes } else { found.size_bytes },
                    allocated_bytes: found.held_bytes(),
                    reserve,
                })
            })
            .collect();
        snapshots.sort_by(|one, other| one.name.cmp(&other.name));
        snapshots
    }

    pub(super) fn take_snapshot(&self, name: &VolumeName, spec: &SnapshotSpec) -> Result<()> {
        let _lock = self.directory.lock()?;
        let group = self.whole_group()?;
        let (found, marked) = self.find(&group, name).ok_or_else(|| not_found(name))?;
        let promised = called(name, &spec.name);
        let refused = |given: String, rule: &str| Err(Error::invalid("snapshot reserve", given, rule));
        match (marked.allocation, spec.reserve_bytes) {
            (Allocation::Preallocated, None | Some(0)) => {
                return refused(
                    "none".to_owned(),
                    "a snapshot of a linear volume takes space from the volume group: say how many bytes of changes it \
                     is to survive",
                );
            }
            (Allocation::Sparse, Some(bytes)) => {
                return refused(bytes.to_string(), "only a snapshot of a linear volume has a reserve");
            }
            (Allocation::Preallocated, Some(bytes)) => {
                let bytes = bytes.div_ceil(group.extent_bytes).saturating_mul(group.extent_bytes);
                self.check_room(&group, Allocation::Preallocated, bytes, &promised)?;
            }
            (Allocation::Sparse, None) => {
                self.check_room(&group, Allocation::Sparse, found.size_bytes, &promised)?;
            }
        }
        self.settle(name)?;
        self.make_snapshot(&group, &found.name, marked, spec)
            .map_err(|e| self.full_or(e, &group, spec.reserve_bytes.unwrap_or(found.size_bytes), &promised))
    }

    /// Writes what a mounted volume holds to its device. The device mapper would, except for btrfs, which it does not know to
    /// be on it.
    fn settle(&self, name: &VolumeName) -> Result<()> {
        let target = self.directory.mount_point(name);
        if mounted_on(&target)?.is_none() {
            return Ok(());
        }
        let inside = File::open(&target).map_err(|e| Error::os("open", target.display(), e))?;
        syncfs(inside).map_err(|e| Error::os("syncfs", target.display(), e))
    }

    fn make_snapshot(&self, group: &Group, origin: &str, marked: Marked, spec: &SnapshotSpec) -> Result<()> {
        let logical = self.logical(&marked.volume, Some(&spec.name));
        if self.marked(group).any(|(found, marked)| found.name == logical && is_half_snapshot(found, &marked))
        {
            self.change(&marked.volume, &["lvremove", "-y", &self.full(&logical)])?;
        }
        let mut arguments: Vec<String> =
            ["lvcreate", "--yes", "-s", "-n", &logical].map(str::to_owned).to_vec();
        match spec.reserve_bytes {
            Some(bytes) => arguments.extend(["-L".to_owned(), format!("{bytes}b")]),
            // Nobody needs its device before it is cloned or gone back to.
            None => arguments.extend(["-k".to_owned(), "y".to_owned()]),
        }
        let marked = Marked { snapshot: Some(spec.name.clone()), phase: Phase::Made, ..marked };
        arguments.extend(marked.arguments(&self.record.tag));
        arguments.push(self.full(origin));
        self.change(&marked.volume, &arguments)
    }

    pub(super) fn roll_back(&self, name: &VolumeName, snapshot: &SnapshotName) -> Result<()> {
        self.check_free(name)?;
        let group = self.whole_group()?;
        let logical = self.logical(name, Some(snapshot));
        let found = group.find(&logical).ok_or_else(|| Error::NotFound { what: called(name, snapshot) })?;
        let reserve_bytes = (found.layout == Layout::LinearSnapshot).then_some(found.size_bytes);
        let mark = self.rollback_mark(name);
        let rollback = Rollback { snapshot: snapshot.clone(), reserve_bytes };
        publish(&mark, &record::encode(&rollback, &mark)?)?;
        sync_parent(&mark)?;
        let begun = if reserve_bytes.is_some() {
            // It is what it was from the moment on in which this has begun; the rest is copying.
            self.change(name, &["lvconvert", "--merge", "-i", "1", &self.full(&logical)])
        } else {
            let next = format!("{}{NEXT}", self.logical(name, None));
            let mut arguments: Vec<String> =
                ["lvcreate", "--yes", "-s", "-k", "n", "-n", &next].map(str::to_owned).to_vec();
            // All its tags but that of the snapshot: this command makes it whole.
            let marked = Marked::read(found, &self.record.tag).ok_or_else(|| not_found(name))?;
            arguments.extend(Marked { snapshot: None, ..marked }.arguments(&self.record.tag));
            arguments.push(self.full(&logical));
            self.change(name, &arguments)
        };
        let finished = self.finish_rollback(name);
        begun?;
        finished.map(drop)
    }

    /// Finishes what [`Self::roll_back`] began, if it did. The caller holds the volume's lock. Says whether there was something.
    pub(super) fn finish_rollback(&self, name: &VolumeName) -> Result<bool> {
        let mark = self.rollback_mark(name);
        let Some(text) = read_if_exists(&mark)? else { return Ok(false) };
        let rollback: Rollback = serde_json::from_str(&text)
            .map_err(|e| Error::Damaged { what: mark.display().to_string(), reason: e.to_string() })?;
        match rollback.reserve_bytes {
            Some(reserve) => self.finish_merge(name, &rollback.snapshot, reserve)?,
            None => self.finish_swap(name)?,
        }
        remove_file(&mark)?;
        sync_parent(&mark)?;
        Ok(true)
    }

    /// The new one takes the old one's place.
    fn finish_swap(&self, name: &VolumeName) -> Result<()> {
        let group = self.whole_group()?;
        let logical = self.logical(name, None);
        let next = format!("{logical}{NEXT}");
        if !self.marked(&group).any(|(found, _)| found.name == next) {
            return Ok(());
        }
        if self.find(&group, name).is_some() {
            self.check_free(name)?;
            self.change(name, &["lvremove", "-y", &self.full(&logical)])?;
        }
        self.change(name, &["lvrename", &self.full(&next), &self.full(&logical)])
    }

    /// Waits until the volume is what its snapshot was, and makes that snapshot again.
    fn finish_merge(&self, name: &VolumeName, snapshot: &SnapshotName, reserve_bytes: u64) -> Result<()> {
        let logical = self.logical(name, Some(snapshot));
        let deadline = wait::deadline(command::MERGE_TIMEOUT);
        let mut polled = false;
        let merged = wait::until(deadline, || {
            let group = self.whole_group()?;
            let found = self.marked(&group).find(|(found, _)| found.name == logical);
            let Some((found, _)) = found.filter(|(found, marked)| !is_half_snapshot(found, marked)) else {
                return Ok(Some(true));
            };
            if !found.merging {
                return Ok(Some(false));
            }
            if !polled {
                // Who watched it may have died with the machine.
                self.change(
                    name,
                    &["lvchange", "-ay", "--poll", "y", &self.full(&self.logical(name, None))],
                )?;
                polled = true;
            }
            Ok(None)
        })?;
        let group = self.whole_group()?;
        let (found, marked) = self.find(&group, name).ok_or_else(|| not_found(name))?;
        match merged {
            Some(true) => {
                let spec = SnapshotSpec { name: snapshot.clone(), reserve_bytes: Some(reserve_bytes) };
                self.make_snapshot(&group, &found.name, marked, &spec)
                    .map_err(|e| self.full_or(e, &group, reserve_bytes, &called(name, snapshot)))
            }
            // It never began: all is as it was.
            Some(false) => Ok(()),
            None => Err(Error::Busy {
                what: what(name),
                reason: format!("it is still becoming what {} is", called(name, snapshot)),
            }),
        }
    }

    pub(super) fn delete_snapshot(&self, name: &VolumeName, snapshot: &SnapshotName) -> Result<()> {
        let group = self.group()?;
        let logical = self.logical(name, Some(snapshot));
        if self.marked(&group).any(|(found, marked)| found.name == logical && marked.snapshot.is_some()) {
            self.change(name, &["lvremove", "-y", &self.full(&logical)])?;
        }
        Ok(())
    }

    pub(super) fn make_clone(&self, origin: &Origin<'_>, to: &VolumeSpec) -> Result<bool> {
        let source = self.logical(origin.volume, origin.snapshot);
        let linear = to.allocation == Allocation::Preallocated;
        if linear && origin.snapshot.is_none() {
            // All of it is read, which takes longer than anybody can be held still for.
            self.check_free(origin.volume)?;
        }
        if origin.snapshot.is_none() {
            self.settle(origin.volume)?;
        }
        let how = if linear {
            self.linear(to.size_bytes)
        } else {
            ["-s", "-k", "n", &self.full(&source)].map(str::to_owned).to_vec()
        };
        self.make(to, how, |device| {
            if linear {
                fill::from_volume(&self.activated(&source)?, device, to.filesystem)
            } else {
                fill::make_unique(device, to.filesystem)
            }
        })
    }

    /// After a reboot: the files that the group is in are attached again, the volumes' devices made, and what was begun is
    /// finished.
    pub(super) fn bring_back(&self) -> Result<Vec<String>> {
        let mut done = Vec::new();
        for file in &self.record.files {
            if attach_file(file)? {
                done.push(format!("attached {}", file.display()));
            }
        }
        let group = find_after(!done.is_empty(), || self.group())?;
        // By their names: the pool's tag would select linear volumes' snapshots, too, which go with their origins.
        let asleep: Vec<String> = self
            .marked(&group)
            .filter(|(found, marked)| !found.active && marked.snapshot.is_none())
            .map(|(found, _)| self.full(&found.name))
            .collect();
        if !asleep.is_empty() {
            let mut arguments = vec!["lvchange".to_owned(), "-ay".to_owned()];
            arguments.extend_from_slice(&asleep);
            let activated = command::run(&arguments);
            if group.missing > 0 {
                return Err(self.lost()?);
            }
            activated?;
            done.push(format!("{} logical volumes of volume group `{}`", asleep.len(), group.name));
        }
        for entry in entries(&self.directory.path().join("rollback"))? {
            let Some(name) = entry.to_str().and_then(|entry| VolumeName::new(entry).ok()) else { continue };
            let _lock = self.acquire(&name)?;
            if self.finish_rollback(&name)? {
                done.push(format!("{} went back to a snapshot", what(&name)));
            }
        }
        self.whole_group().map(|_| done)
    }

    /// Which volumes are not there, now that all were activated that can be.
    fn lost(&self) -> Result<Error> {
        let group = self.group()?;
        let lost = self.marked(&group).filter(|(found, marked)| !found.active && marked.snapshot.is_none());
        let lost: Vec<String> = lost.map(|(_, marked)| what(&marked.volume)).collect();
        let reason = format!(
            "{} of its disks are missing, and with them {}; attach them, or see `vgreduce --removemissing`",
            group.missing,
            lost.join(", ")
        );
        Ok(Error::Damaged { what: format!("volume group `{}`", group.name), reason })
    }

    /// Removes what operations that were cut off left.
    pub(super) fn tidy_group(&self) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        let group = self.group()?;
        self.tidy_snapshots(&group, &mut removed)?;
        let locked = entries(&self.directory.path().join("locks"))?.into_iter();
        let locked = locked.filter_map(|entry| VolumeName::new(entry.to_str()?.strip_suffix(".lock")?).ok());
        let mut names: BTreeSet<VolumeName> = locked.collect();
        names.extend(self.marked(&group).map(|(_, marked)| marked.volume));
        names.retain(|name| self.find(&group, name).is_none_or(|(_, marked)| marked.phase == Phase::Making));
        for name in names {
            // Who is making it now holds its lock, and so does a command that a killed process left.
            let lock = self.acquire(&name)?;
            self.finish_rollback(&name)?;
            let now = self.group()?;
            match self.find(&now, &name) {
                Some((found, Marked { phase: Phase::Making, .. })) => {
                    self.change(&name, &["lvremove", "-y", &self.full(&found.name)])?;
                    removed.push(format!("logical volume {}", self.full(&found.name)));
                }
                Some(_) => continue,
                None => {}
            }
            lock.remove()?;
        }
        for entry in entries(&self.directory.path().join("rollback"))? {
            let path = self.directory.path().join("rollback").join(&entry);
            if entry.to_str().is_some_and(|entry| entry.ends_with(".new")) {
                remove_file(&path)?;
                removed.push(format!("file {}", path.display()));
            }
        }
        Ok(removed)
    }

    /// Removes halves of snapshots.
    fn tidy_snapshots(&self, group: &Group, removed: &mut Vec<String>) -> Result<()> {
        let is_half = |(found, marked): &(&LogicalVolume, Marked)| {
            found.name == self.logical(&marked.volume, marked.snapshot.as_ref())
                && is_half_snapshot(found, marked)
        };
        for (half, marked) in self.marked(group).filter(is_half) {
            // Who is making it now holds its volume's lock.
            let _lock = self.acquire(&marked.volume)?;
            let now = self.group()?;
            if self.marked(&now).filter(is_half).any(|(found, _)| found.name == half.name) {
                self.change(&marked.volume, &["lvremove", "-y", &self.full(&half.name)])?;
                removed.push(format!("logical volume {}", self.full(&half.name)));
            }
        }
        Ok(())
    }

    fn rollback_mark(&self, name: &VolumeName) -> PathBuf {
        self.directory.path().join("rollback").join(name.as_str())
    }
}

/// LVM makes a linear volume's snapshot in two steps: a power cut between them leaves the space set aside for it, with all its
/// tags, and a snapshot of nothing.
fn is_half_snapshot(found: &LogicalVolume, marked: &Marked) -> bool {
    marked.snapshot.is_some() && found.layout == Layout::Linear
}
