//! What is mounted in a container (`man 5 fstab`): `lxc.mount.entry`, `lxc.mount.auto`.

use crate::error::{Error, Result};
use crate::lxc::config::reader::Reader;
use crate::lxc::config::render::Lines;
use crate::lxc::config::{DeviceRule, mount_lines};
use crate::lxc::mount::{Create, Found, MountEntry};

/// How a kernel file system is mounted in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoMount {
    /// To be read only.
    ReadOnly,
    /// To be written where it says something of the container alone.
    Mixed,
    /// To be written.
    ReadWrite,
}

/// The kernel's file systems that LXC mounts. Default: `/proc` and `/sys`, mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AutoMounts {
    /// `/proc`. LXC has no [`AutoMount::ReadOnly`] for it: then it is mixed.
    pub proc: Option<AutoMount>,
    /// `/sys`.
    pub sys: Option<AutoMount>,
    /// The container's control group at `/sys/fs/cgroup`.
    pub cgroup: Option<AutoMount>,
}

impl Default for AutoMounts {
    fn default() -> Self {
        Self { proc: Some(AutoMount::Mixed), sys: Some(AutoMount::Mixed), cgroup: None }
    }
}

impl AutoMount {
    fn word(self) -> &'static str {
        match self {
            Self::ReadOnly => "ro",
            Self::Mixed => "mixed",
            Self::ReadWrite => "rw",
        }
    }
}

impl AutoMounts {
    pub(crate) fn render(self, lines: &mut Lines) {
        let proc = self.proc.map(|how| if how == AutoMount::ReadOnly { AutoMount::Mixed } else { how });
        let words: Vec<_> = [("cgroup", self.cgroup), ("proc", proc), ("sys", self.sys)]
            .into_iter()
            .filter_map(|(what, how)| Some(format!("{what}:{}", how?.word())))
            .collect();
        if !words.is_empty() {
            lines.add("lxc.mount.auto", &words.join(" "));
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let mut mounts = Self { proc: None, sys: None, cgroup: None };
        for entry in reader.all("lxc.mount.auto") {
            for word in
                reader.text(&entry).unwrap_or_default().split([' ', '\t']).filter(|word| !word.is_empty())
            {
                // How LXC mounts `cgroup` alone depends on the capabilities.
                let alone = if word == "cgroup" { "" } else { "mixed" };
                let (what, how) = word.split_once(':').unwrap_or((word, alone));
                let how = match how {
                    "ro" => Some(AutoMount::ReadOnly),
                    "mixed" => Some(AutoMount::Mixed),
                    "rw" => Some(AutoMount::ReadWrite),
                    _ => None,
                };
                match (what, how) {
                    ("proc", Some(_)) => mounts.proc = how,
                    ("sys", Some(_)) => mounts.sys = how,
                    ("cgroup", Some(_)) => mounts.cgroup = how,
                    _ => reader.refuse(
                        &entry,
                        format!("`{word}` has no place in a typed configuration: take proc, sys and cgroup, with :ro, :mixed or :rw"),
                    ),
                }
            }
        }
        mounts
    }
}

/// A mount whose host side was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CheckedMount {
    pub(crate) entry: MountEntry,
    /// Whether a directory is shown; of a source that is missing, and may be, whether one would be made for it.
    pub(crate) is_dir: bool,
    /// A file of this library's, in a directory that only root may change: LXC mounts it by its path.
    pub(crate) is_own: bool,
}

/// Adds `entry` to `mounts`, by the rules of [`LxcConfig::mount`](crate::lxc::LxcConfig::mount). Returns what it needs of the
/// device that it is.
pub(crate) fn add(mounts: &mut Vec<CheckedMount>, entry: MountEntry) -> Result<Option<DeviceRule>> {
    let found = entry.look()?;
    let is_dir = found.as_ref().map_or(entry.create() != Some(Create::File), Found::is_directory);
    let target = entry.target();
    for earlier in &*mounts {
        let other = earlier.entry.target();
        let rule = if other == target {
            "is the target of another mount already".to_owned()
        } else if other.starts_with(target) {
            format!("would hide the earlier mount on {}: add the upper one first", other.display())
        } else if target.starts_with(other) && !earlier.is_dir {
            format!("lies beneath {}, where another mount puts a file", other.display())
        } else {
            continue;
        };
        return Err(Error::invalid("mount target", target.to_string_lossy(), rule));
    }
    let rule = found.and_then(|found| found.device_rule(entry.is_read_only()));
    mounts.push(CheckedMount { entry, is_dir, is_own: false });
    Ok(rule)
}

/// The mounts, with their sources as they are on this host.
pub(crate) fn read(reader: &mut Reader<'_>) -> Vec<CheckedMount> {
    let mut mounts = Vec::new();
    for entry in reader.all("lxc.mount.entry") {
        let Some(text) = reader.text(&entry) else { continue };
        let added = mount_lines::parse(text)
            .and_then(|mount| mount.map_or(Ok(None), |mount| add(&mut mounts, mount)));
        reader.parsed(&entry, added);
    }
    mounts
}
