//! What a pool of logical volumes has written down: which volume group its volumes are in, by the group's UUID.
//!
//! ```text
//! DIR/lvm.json
//! ```

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::report::{self, Group, Layout};
use crate::error::{Error, Result};
use crate::name::{ThinPoolName, VolumeGroupName};
use crate::sys::file::{self, sync_parent};
use crate::sys::{loopdev, random, record};

/// The version of the file's format that this version writes. It reads no newer one.
const FORMAT: u32 = 1;

/// Where the logical volumes of a pool are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LvmPool {
    /// The volume group.
    pub volume_group: VolumeGroupName,
    /// The thin pool in it for sparse volumes. Default: none, and sparse volumes are unsupported.
    #[serde(default)]
    pub thin_pool: Option<ThinPoolName>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    format: u32,
    /// Tells its logical volumes from those of other pools in the same group.
    pub(super) tag: String,
    pub(super) lvm: LvmPool,
    /// Of the group: its name can be another's after a disk was plugged in.
    pub(super) uuid: String,
    /// Sizes are multiples of this.
    pub(super) extent_bytes: u64,
    /// The files that the group's disks were, when this was written: after a reboot they are attached again.
    pub(super) files: Vec<PathBuf>,
}

impl Record {
    /// The record at `path`; writes it first if there is none, which takes one look at the group.
    pub(super) fn ensure(path: &Path, lvm: &LvmPool) -> Result<Self> {
        if let Some(record) = Self::read(path)? {
            if record.lvm == *lvm {
                return Ok(record);
            }
            let difference = format!(
                "it is in volume group `{}` with {}, not in `{}` with {}",
                record.lvm.volume_group,
                shown(&record.lvm),
                lvm.volume_group,
                shown(lvm)
            );
            return Err(Error::Differs {
                what: format!("the volume pool of {}", path.display()),
                difference,
            });
        }
        let group = the_one(report::groups()?, lvm.volume_group.as_str())?;
        if let Some(pool) = &lvm.thin_pool
            && group.find(pool.as_str()).is_none_or(|found| found.layout != Layout::ThinPool)
        {
            return Err(Error::NotFound {
                what: format!("thin pool `{pool}` in volume group `{}`", group.name),
            });
        }
        let record = Self {
            format: FORMAT,
            tag: random::id()?,
            lvm: lvm.clone(),
            extent_bytes: group.extent_bytes,
            files: backing_files(&group)?,
            uuid: group.uuid,
        };
        file::publish(path, &record::encode(&record, path)?)?;
        sync_parent(path)?;
        Ok(record)
    }

    /// The pool's group, of all groups. Commands take it by its name, which must be its own still, and no other's.
    pub(super) fn group_of(&self, groups: Vec<Group>) -> Result<Group> {
        let name = self.lvm.volume_group.as_str();
        let called = groups.iter().find(|group| group.uuid == self.uuid).map(|group| group.name.clone());
        let what = || format!("volume group `{name}` ({}), which has the volumes of a pool,", self.uuid);
        match called {
            Some(called) if called == name => the_one(groups, name),
            Some(called) => Err(Error::Differs {
                what: what(),
                difference: format!("it is called `{called}` now; give it its name back with `vgrename`"),
            }),
            None => Err(Error::NotFound { what: what() }),
        }
    }

    fn read(path: &Path) -> Result<Option<Self>> {
        let Some(text) = file::read_if_exists(path)? else { return Ok(None) };
        let record: Self = record::decode(&text, path, FORMAT)?;
        if record.extent_bytes > 0 {
            return Ok(Some(record));
        }
        let reason = "its extents have no size".to_owned();
        Err(Error::Damaged { what: format!("record `{}`", path.display()), reason })
    }
}

fn shown(lvm: &LvmPool) -> String {
    lvm.thin_pool.as_ref().map_or_else(|| "no thin pool".to_owned(), |pool| format!("thin pool `{pool}`"))
}

/// The group called `name`, of all groups.
pub(super) fn the_one(groups: Vec<Group>, name: &str) -> Result<Group> {
    let mut found: Vec<Group> = groups.into_iter().filter(|group| group.name == name).collect();
    match (found.pop(), found.is_empty()) {
        (Some(group), true) => Ok(group),
        (Some(_), false) => Err(Error::Busy {
            what: format!("volume group `{name}`"),
            reason: "several have that name; rename one by its UUID with `vgrename`".to_owned(),
        }),
        (None, _) => Err(Error::NotFound { what: format!("volume group `{name}`") }),
    }
}

/// The files behind the group's disks that are loop devices.
pub(super) fn backing_files(group: &Group) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for disk in &group.disks {
        files.extend(loopdev::backing_of(Path::new(disk))?);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, uuid: &str) -> Group {
        Group {
            name: name.to_owned(),
            uuid: uuid.to_owned(),
            tags: Vec::new(),
            size_bytes: 0,
            free_bytes: 0,
            extent_bytes: 1,
            missing: 0,
            disks: Vec::new(),
            volumes: Vec::new(),
        }
    }

    #[test]
    fn a_group_is_the_pools_by_identity_and_name() {
        let record = Record {
            format: 1,
            tag: "0123".to_owned(),
            lvm: LvmPool { volume_group: VolumeGroupName::new("vg").unwrap(), thin_pool: None },
            uuid: "ours".to_owned(),
            extent_bytes: 1,
            files: Vec::new(),
        };
        let found = record.group_of(vec![group("other", "x"), group("vg", "ours")]);
        assert_eq!(found.unwrap().uuid, "ours");
        for (groups, expected) in [
            (vec![], "does not exist"),
            (vec![group("vg", "another")], "does not exist"),
            (vec![group("renamed", "ours")], "it is called `renamed` now"),
            (vec![group("renamed", "ours"), group("vg", "another")], "it is called `renamed` now"),
            (vec![group("vg", "ours"), group("vg", "another")], "several have that name"),
            (vec![group("vg", "another"), group("vg", "ours")], "several have that name"),
        ] {
            let error = record.group_of(groups).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
