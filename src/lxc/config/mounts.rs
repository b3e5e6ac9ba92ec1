//! What is mounted in a container (`man 5 fstab`): `lxc.mount.entry`, `lxc.mount.auto`.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::lxc::MountEntry;
use crate::lxc::config::reader::Reader;
use crate::lxc::config::render::Lines;

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

/// A mount whose host side was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CheckedMount {
    pub(crate) entry: MountEntry,
    /// The source without links.
    pub(crate) source: PathBuf,
    pub(crate) is_dir: bool,
}

/// Adds `entry` to `mounts`, by the rules of [`LxcConfig::mount`](crate::lxc::LxcConfig::mount).
pub(crate) fn add(mounts: &mut Vec<CheckedMount>, entry: MountEntry) -> Result<()> {
    let (source, is_dir) = entry.check_source()?;
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
    mounts.push(CheckedMount { entry, source, is_dir });
    Ok(())
}

/// The mounts, with their sources as they are on this host.
pub(crate) fn read(reader: &mut Reader<'_>) -> Vec<CheckedMount> {
    let mut mounts = Vec::new();
    for entry in reader.all("lxc.mount.entry") {
        let Some(text) = reader.text(&entry) else { continue };
        let added = parse(text).and_then(|mount| add(&mut mounts, mount));
        reader.parsed(&entry, added);
    }
    mounts
}

/// A bind mount, as [`MountEntry`] renders it.
fn parse(text: &str) -> Result<MountEntry> {
    let invalid = |rule: String| Err(Error::invalid("mount entry", text, rule));
    let fields: Vec<_> = text.split([' ', '\t']).filter(|field| !field.is_empty()).collect();
    let (source, target, kind, options) = match fields[..] {
        [source, target, kind, options]
        | [source, target, kind, options, _]
        | [source, target, kind, options, _, _] => (decode(source), decode(target), kind, options),
        _ => {
            return invalid(
                "must be SOURCE TARGET none bind 0 0, with \\040 for a blank in a path".to_owned(),
            );
        }
    };
    if target.starts_with('/') {
        return invalid("the target must be relative to the root: LXC passes over an absolute one, unless the root's path is in it".to_owned());
    }
    let options: Vec<_> = options.split(',').collect();
    let is_recursive = options.contains(&"rbind");
    if kind != "none" || !(is_recursive || options.contains(&"bind")) {
        return invalid(
            "only bind mounts have a place in a typed configuration: SOURCE TARGET none bind 0 0".to_owned(),
        );
    }
    let mut mount = MountEntry::bind(source, format!("/{target}"))?;
    mount = if is_recursive { mount.recursive() } else { mount.without_submounts() };
    for option in options {
        mount = match option {
            "bind" | "rbind" | "private" | "rw" | "defaults" => mount,
            "ro" => mount.read_only(),
            "create=dir" => mount.create_dir(),
            "create=file" => mount.create_file(),
            "optional" => {
                return invalid("a mount takes place or is an error: leave `optional` out".to_owned());
            }
            option => return invalid(format!("the option `{option}` has no place in a typed configuration")),
        };
    }
    Ok(mount)
}

/// As `getmntent` reads a field.
fn decode(field: &str) -> String {
    let mut decoded = String::new();
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        decoded.push_str(&rest[..at]);
        let codes = [("\\040", ' '), ("\\011", '\t'), ("\\012", '\n'), ("\\134", '\\'), ("\\\\", '\\')];
        let (length, c) = match codes.iter().find(|(code, _)| rest[at..].starts_with(code)) {
            Some((code, c)) => (code.len(), *c),
            None => (1, '\\'),
        };
        decoded.push(c);
        rest = &rest[at + length..];
    }
    decoded + rest
}
