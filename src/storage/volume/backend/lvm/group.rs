//! LVM volume groups (`man 8 vgcreate`): one for pools of logical volumes, on disks or in a file.
//!
//! A group is created on what is empty, or adopted if it was made here. No data is ever wiped to make room for one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::info_span;

use super::command;
use super::group_file::{
    adopt_or_make_file, attach_file, detach_file, find_after, is_making, mark_making, open_file,
};
use super::record::{backing_files, the_one};
use super::report::{self, Group, Layout};
use super::tags::OURS;
use crate::error::{Error, Result};
use crate::name::{ThinPoolName, VolumeGroupName};
use crate::sys::file::{remove_file, sync_parent};
use crate::sys::loopdev::LoopDevice;
use crate::sys::tool::{self, Limit};

/// The extents of a new group: volumes' sizes are multiples of this.
const EXTENT: &str = "1m";

/// What a volume group should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeGroupSpec {
    /// What it is called.
    pub name: VolumeGroupName,
    /// Where its space is.
    pub on: PhysicalSpace,
    /// A thin pool in it. Default: none.
    #[serde(default)]
    pub thin_pool: Option<ThinPoolSpec>,
}

/// Where a volume group's space is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum PhysicalSpace {
    /// Whole block devices, or partitions, with nothing on them: their absolute paths, one at least.
    Disks(Vec<PathBuf>),
    /// A file, which is attached to a loop device. It is sparse: it takes what the volumes write.
    LoopFile {
        /// Where the file is; the directory above it must exist.
        path: PathBuf,
        /// How long it is in bytes.
        size_bytes: u64,
    },
}

/// A thin pool: what sparse volumes take their space from as they are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThinPoolSpec {
    /// What it is called.
    pub name: ThinPoolName,
    /// How much it can hold in bytes, rounded up to the group's extents.
    pub size_bytes: u64,
}

/// A volume group. Dropping it does nothing to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeGroup {
    name: VolumeGroupName,
    uuid: String,
}

/// How full a volume group is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GroupUsage {
    /// All its disks together, in bytes.
    pub size_bytes: u64,
    /// What no logical volume has, in bytes.
    pub free_bytes: u64,
    /// How many of its disks are not there.
    pub missing_disks: u64,
    /// Its thin pools.
    pub thin_pools: Vec<ThinUsage>,
}

/// How full a thin pool is. When its data or its metadata are full, writing to the volumes in it fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ThinUsage {
    /// What it is called.
    pub name: String,
    /// How much it can hold in bytes.
    pub size_bytes: u64,
    /// How much of that is used, in hundredths of a percent. `None` while it is not active.
    pub data: Option<u32>,
    /// How much of its metadata is used, likewise.
    pub metadata: Option<u32>,
}

impl VolumeGroup {
    /// Creates the group, or adopts the one that was made here as asked.
    ///
    /// # Errors
    /// - [`Error::Invalid`] if a path is not absolute, or there are no disks.
    /// - [`Error::Differs`] if a group of that name was not made here, is on other disks, or has another thin pool; and if a
    ///   disk or the file holds something. Nothing is ever wiped.
    /// - [`Error::Unsupported`] if the program `lvm` or the kernel's device mapper is missing.
    /// - [`Error::NoSpace`] if the thin pool does not fit.
    pub fn ensure(spec: &VolumeGroupSpec) -> Result<Self> {
        let span = info_span!("ensure_volume_group", group = %spec.name);
        let _entered = span.enter();
        check(&spec.on)?;
        // Before a file or a group is made that could not be used.
        command::require_device_mapper()?;
        let group = match (the_one(report::groups()?, spec.name.as_str()), &spec.on) {
            (Err(Error::NotFound { .. }), PhysicalSpace::LoopFile { path, size_bytes }) => {
                let attached = adopt_or_make_file(path, *size_bytes)?;
                let kept = !is_making(&open_file(path)?);
                let made =
                    match find_after(attached && kept, || the_one(report::groups()?, spec.name.as_str())) {
                        Err(Error::NotFound { .. }) => create(spec),
                        found => found,
                    };
                if made.is_err() && attached {
                    detach_file(path)?;
                }
                made?
            }
            (Err(Error::NotFound { .. }), PhysicalSpace::Disks(_)) => create(spec)?,
            (found, _) => found?,
        };
        check_ours(spec, &group)?;
        if let PhysicalSpace::LoopFile { path, .. } = &spec.on {
            mark_making(&open_file(path)?, false, path)?;
        }
        ensure_thin_pool(spec, &group)?;
        Ok(Self { name: spec.name.clone(), uuid: group.uuid })
    }

    /// The group of that name, whoever made it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Busy`] if several have that name.
    pub fn open(name: &VolumeGroupName) -> Result<Self> {
        let group = the_one(report::groups()?, name.as_str())?;
        Ok(Self { name: name.clone(), uuid: group.uuid })
    }

    /// Makes the group that `spec` asks for usable again after a reboot: attaches its file, by whatever loop device, and
    /// makes the devices of its volumes. It creates nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the file or the group is not there; [`Error::Damaged`] if some of its disks are not: what
    /// does not need them was activated.
    pub fn activate(spec: &VolumeGroupSpec) -> Result<Self> {
        let group = match (the_one(report::groups()?, spec.name.as_str()), &spec.on) {
            (Err(Error::NotFound { .. }), PhysicalSpace::LoopFile { path, .. }) => {
                let attached = attach_file(path)?;
                find_after(attached, || the_one(report::groups()?, spec.name.as_str()))?
            }
            (found, _) => found?,
        };
        check_ours(spec, &group)?;
        let activated = command::run(&["vgchange", "-ay", &group.name]);
        if group.missing > 0 {
            return Err(Error::Damaged {
                what: format!("volume group `{}`", group.name),
                reason: format!(
                    "{} of its disks are missing, and volumes or parts of them with them",
                    group.missing
                ),
            });
        }
        activated?;
        Ok(Self { name: spec.name.clone(), uuid: group.uuid })
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &VolumeGroupName {
        &self.name
    }

    /// LVM's identity of it, which another group of the same name does not have.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// How full it is now.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is gone.
    pub fn usage(&self) -> Result<GroupUsage> {
        let group = report::groups()?.into_iter().find(|group| group.uuid == self.uuid);
        let group = group.ok_or_else(|| Error::NotFound { what: format!("volume group `{}`", self.name) })?;
        let pools = group.volumes.iter().filter(|found| found.layout == Layout::ThinPool);
        Ok(GroupUsage {
            size_bytes: group.size_bytes,
            free_bytes: group.free_bytes,
            missing_disks: group.missing,
            thin_pools: pools
                .map(|found| ThinUsage {
                    name: found.name.clone(),
                    size_bytes: found.size_bytes,
                    data: found.data,
                    metadata: found.metadata,
                })
                .collect(),
        })
    }

    /// Removes the group that `spec` asks for, its thin pool, and its file. One that is gone is removed.
    ///
    /// # Errors
    /// [`Error::Busy`] if there are logical volumes in it; [`Error::Differs`] if it was not made here.
    pub fn remove(spec: &VolumeGroupSpec) -> Result<()> {
        match the_one(report::groups()?, spec.name.as_str()) {
            Err(Error::NotFound { .. }) => {}
            found => {
                let group = found?;
                check_ours(spec, &group)?;
                let is_pool =
                    |name: &str| spec.thin_pool.as_ref().is_some_and(|pool| pool.name.as_str() == name);
                if let Some(other) = group.volumes.iter().find(|found| !is_pool(&found.name)) {
                    let reason = format!("logical volume `{}` is in it", other.name);
                    return Err(Error::Busy { what: called(spec), reason });
                }
                command::run(&["vgremove", "--yes", &group.name])?;
                for disk in &group.disks {
                    command::run(&["pvremove", disk])?;
                }
            }
        }
        let PhysicalSpace::LoopFile { path, .. } = &spec.on else { return Ok(()) };
        if !path.exists() {
            return Ok(());
        }
        detach_file(path)?;
        remove_file(path)?;
        sync_parent(path)
    }
}

/// Paths become arguments of programs: absolute ones are no options.
fn check(on: &PhysicalSpace) -> Result<()> {
    let paths = match on {
        PhysicalSpace::Disks(disks) if disks.is_empty() => {
            return Err(Error::invalid("volume group disks", "[]", "must have one disk at least"));
        }
        PhysicalSpace::Disks(disks) => disks.as_slice(),
        PhysicalSpace::LoopFile { path, .. } => std::slice::from_ref(path),
    };
    match paths.iter().find(|path| !path.is_absolute()) {
        Some(path) => {
            Err(Error::invalid("volume group path", path.to_string_lossy(), "must be an absolute path"))
        }
        None => Ok(()),
    }
}

fn called(spec: &VolumeGroupSpec) -> String {
    format!("volume group `{}`", spec.name)
}

/// Whether the group is what was asked for.
fn check_ours(spec: &VolumeGroupSpec, group: &Group) -> Result<()> {
    let differs = |difference: String| Err(Error::Differs { what: called(spec), difference });
    if !group.tags.iter().any(|tag| tag == OURS) {
        return differs(format!("it was not made here: it has no tag `{OURS}`; it is left alone"));
    }
    match &spec.on {
        PhysicalSpace::Disks(disks) => {
            let real = |path: &PathBuf| fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            let mut wanted: Vec<PathBuf> = disks.iter().map(real).collect();
            let mut found: Vec<PathBuf> = group.disks.iter().map(|disk| real(&disk.into())).collect();
            wanted.sort();
            found.sort();
            if wanted == found || group.missing > 0 {
                return Ok(());
            }
            differs(format!("it is on {found:?}, not on {wanted:?}"))
        }
        PhysicalSpace::LoopFile { path, .. } => {
            let real = fs::canonicalize(path).map_err(|e| Error::os("realpath", path.display(), e))?;
            let files = backing_files(group)?;
            if files == [real] {
                return Ok(());
            }
            differs(format!("it is on {:?} {files:?}, not on {}", group.disks, path.display()))
        }
    }
}

fn create(spec: &VolumeGroupSpec) -> Result<Group> {
    let disks = match &spec.on {
        PhysicalSpace::Disks(disks) => {
            for disk in disks {
                check_empty(disk)?;
            }
            disks.clone()
        }
        PhysicalSpace::LoopFile { path, .. } => {
            let file = open_file(path)?;
            if !is_making(&file) {
                let difference =
                    "it is there, and holds no volume group of that name; it is left alone".to_owned();
                return Err(Error::Differs { what: format!("file `{}`", path.display()), difference });
            }
            let device = LoopDevice::find(&file, path)?;
            vec![
                device
                    .ok_or_else(|| Error::NotFound { what: format!("loop device of `{}`", path.display()) })?
                    .path(),
            ]
        }
    };
    // Asked whether to wipe a signature that was overlooked, it hears nothing, which means no. What a killed call left on a
    // file of ours is nobody's.
    let force: &[&str] =
        if matches!(spec.on, PhysicalSpace::LoopFile { .. }) { &["--yes", "-ff"] } else { &[] };
    let mut arguments = vec!["vgcreate".to_owned()];
    arguments.extend(force.iter().map(|flag| (*flag).to_owned()));
    arguments.extend(["-s", EXTENT, "--addtag", OURS, spec.name.as_str()].map(str::to_owned));
    arguments.extend(disks.iter().map(|disk| disk.display().to_string()));
    command::run(&arguments)?;
    the_one(report::groups()?, spec.name.as_str())
}

/// A disk with any signature is somebody's.
fn check_empty(disk: &Path) -> Result<()> {
    let mut command = tool::command("blkid").ok_or_else(|| Error::Unsupported {
        what: "looking at a disk before it is used".to_owned(),
        needs: "the program `blkid` is missing: install the package util-linux".to_owned(),
    })?;
    let output = tool::output(command.args(["-p", "-o", "export"]).arg(disk), Limit::QUICK)?;
    match output.status.code() {
        Some(2) if File::open(disk).is_ok() => Ok(()),
        Some(2) => Err(Error::NotFound { what: format!("disk `{}`", disk.display()) }),
        _ => Err(Error::Differs {
            what: format!("disk `{}`", disk.display()),
            difference: format!(
                "it is not empty: {}; it is never wiped (see `wipefs`)",
                tool::said(&[output.stdout, output.stderr].concat())
            ),
        }),
    }
}

fn ensure_thin_pool(spec: &VolumeGroupSpec, group: &Group) -> Result<()> {
    let Some(pool) = &spec.thin_pool else { return Ok(()) };
    let wanted = pool.size_bytes.div_ceil(group.extent_bytes).saturating_mul(group.extent_bytes);
    let name = format!("thin pool `{}` of {}", pool.name, called(spec));
    if let Some(found) = group.find(pool.name.as_str()) {
        if found.layout == Layout::ThinPool && found.size_bytes >= wanted {
            return Ok(());
        }
        let difference =
            format!("it has {} bytes ({:?}), not {wanted} as a thin pool", found.size_bytes, found.layout);
        return Err(Error::Differs { what: name, difference });
    }
    let size = format!("{wanted}b");
    let full = format!("{}/{}", spec.name, pool.name);
    match command::run(&["lvcreate", "--yes", "-W", "n", "--addtag", OURS, "-L", &size, "--thinpool", &full])
    {
        Err(error) if command::is_full(&error) => Err(Error::NoSpace {
            what: format!("{name} ({error})"),
            needed_bytes: wanted,
            available_bytes: group.free_bytes,
        }),
        result => result.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute() {
        let disks = |paths: &[&str]| PhysicalSpace::Disks(paths.iter().map(PathBuf::from).collect());
        check(&disks(&["/dev/sdb", "/dev/sdc"])).unwrap();
        for bad in [disks(&[]), disks(&["/dev/sdb", "sdc"]), disks(&["--config=x"]), disks(&[""])] {
            assert!(matches!(check(&bad), Err(Error::Invalid { .. })), "{bad:?}");
        }
        let file = |path: &str| PhysicalSpace::LoopFile { path: path.into(), size_bytes: 1 << 30 };
        check(&file("/srv/group.img")).unwrap();
        assert!(matches!(check(&file("group.img")), Err(Error::Invalid { .. })));
    }
}
