//! Making a logical volume in steps that a crash can cut (`man 8 lvcreate`): marked as being made, filled, marked as made.

use std::path::Path;

use tracing::debug;

use super::tags::{Marked, Phase};
use super::volumes::LogicalVolumes;
use crate::error::{Error, Result};
use crate::name::VolumeName;
use crate::storage::volume::pool::{promise, what};
use crate::storage::volume::spec::VolumeSpec;

impl LogicalVolumes {
    /// Makes a volume of a new logical volume, with these arguments of `lvcreate`, that `fill` gives its content. False if
    /// there is one.
    pub(super) fn make(
        &self,
        spec: &VolumeSpec,
        how: Vec<String>,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<bool> {
        let lock = self.acquire(&spec.name)?;
        if self.finish_rollback(&spec.name)? {
            return Ok(false);
        }
        let made = match self.create(spec, how) {
            Ok(true) => self.complete(&spec.name, fill).map(|()| true),
            created => created,
        };
        if made.is_err() {
            lock.remove()?;
        }
        made
    }

    /// The arguments for a linear one: its first block is made zero, and nobody looks at the old data.
    pub(super) fn linear(&self, size_bytes: u64) -> Vec<String> {
        let (size, group) = (format!("{size_bytes}b"), self.record.lvm.volume_group.as_str());
        ["-Z", "y", "-W", "n", "-L", &size, group].map(str::to_owned).to_vec()
    }

    /// Makes a new logical volume that is marked as being made, in the place of what is left of one that was cut off. False
    /// if there is a volume. The caller holds the volume's lock.
    fn create(&self, spec: &VolumeSpec, how: Vec<String>) -> Result<bool> {
        let _lock = self.directory.lock()?;
        let mut group = self.whole_group()?;
        let logical = self.logical(&spec.name, None);
        match self.find(&group, &spec.name).map(|(found, marked)| (found.name.clone(), marked.phase)) {
            Some((left, Phase::Making)) => {
                self.change(&spec.name, &["lvremove", "-y", &self.full(&left)])?;
                group = self.whole_group()?;
            }
            Some(_) => return Ok(false),
            None if group.find(&logical).is_some() => return Err(self.foreign(&spec.name, &logical)),
            None => {}
        }
        self.check_room(&group, spec.allocation, spec.size_bytes, &promise(spec))?;
        let marked = Marked {
            volume: spec.name.clone(),
            snapshot: None,
            filesystem: spec.filesystem,
            allocation: spec.allocation,
            phase: Phase::Making,
        };
        let mut arguments: Vec<String> = ["lvcreate", "--yes", "-n", &logical].map(str::to_owned).to_vec();
        arguments.extend(marked.arguments(&self.record.tag));
        arguments.extend(how);
        self.change(&spec.name, &arguments)
            .map_err(|e| self.full_or(e, &group, spec.size_bytes, &promise(spec)))?;
        Ok(true)
    }

    /// Makes of what was [created](Self::create) a volume, when `fill` has given it its content; else nothing.
    fn complete(&self, name: &VolumeName, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let logical = self.logical(name, None);
        let filled = self
            .activated(&logical)
            .and_then(|device| fill(&device))
            .and_then(|()| self.change_phase(name, Phase::Making, Phase::Made));
        if filled.is_err()
            && let Err(error) = self.change(name, &["lvremove", "-y", &self.full(&logical)])
        {
            debug!(%error, logical, "left for tidy");
        }
        filled
    }

    pub(super) fn change_phase(&self, name: &VolumeName, from: Phase, to: Phase) -> Result<()> {
        let full = self.full(&self.logical(name, None));
        self.change(name, &["lvchange", "--deltag", &from.tag(), "--addtag", &to.tag(), &full])
    }

    fn foreign(&self, name: &VolumeName, logical: &str) -> Error {
        let difference =
            format!("logical volume `{}` is in its place and has no tags of this pool", self.full(logical));
        Error::Differs { what: what(name), difference }
    }
}
