//! What can be mounted in a container, besides LXC's own file systems (`man 8 mount`, `man 5 tmpfs`).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::lxc::text;

/// File systems with data of their own. Others show something of the kernel's, which LXC mounts for the container as far as
/// it is the container's.
const FILESYSTEMS: [&str; 19] = [
    "9p", "btrfs", "ceph", "cifs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "iso9660", "nfs",
    "nfs4", "ntfs3", "squashfs", "udf", "vfat", "virtiofs", "xfs",
];
/// What the kernel takes of an option, of its name and of its value (`man 2 fsconfig`).
const OPTION_MAX: usize = 255;

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A file or directory of the host.
    Bind(PathBuf),
    /// A device of the host: a node of its own, with its number and its mode, that belongs to the container's root.
    Device(PathBuf),
    /// A file system in memory.
    Tmpfs(Tmpfs),
    /// A file system that the host mounts.
    Filesystem(FilesystemMount),
}

/// A new file system in memory, empty at each start. It belongs to the container's root, who cannot make it larger.
///
/// What is written there counts as memory of whoever writes. It lasts until the container is stopped, also over a reboot
/// from inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tmpfs {
    /// The limit on what it holds, in bytes, rounded up to whole pages. At least 1.
    pub size_bytes: u64,
    /// The mode of its directory. Default: 0755; 0o1777 for one that everybody writes to.
    #[serde(default = "Tmpfs::mode")]
    pub mode: u32,
}

impl Tmpfs {
    /// One of at most `size_bytes`, whose directory only root may write to.
    #[must_use]
    pub fn new(size_bytes: u64) -> Self {
        Self { size_bytes, mode: Self::mode() }
    }

    fn mode() -> u32 {
        0o755
    }
}

/// A file system that the host's kernel mounts: it must be one that you would mount yourself. Its files keep their owners,
/// unless the entry is [`id_mapped`](super::MountEntry::id_mapped).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesystemMount {
    /// `ext4`, `squashfs`, `nfs4`, …: one with data of its own.
    #[serde(rename = "type")]
    pub filesystem: String,
    /// The block device, or what the file system takes instead: `server:/path`.
    pub source: String,
    /// The file system's own options, each as `name` or `name=value`. A comma is part of a value. Default: none.
    #[serde(default)]
    pub options: Vec<String>,
}

impl MountSource {
    /// Whether a directory is shown, if that can be told without looking.
    pub(crate) fn is_directory(&self) -> Option<bool> {
        match self {
            Self::Bind(_) => None,
            Self::Device(_) => Some(false),
            Self::Tmpfs(_) | Self::Filesystem(_) => Some(true),
        }
    }

    /// As a person reads it.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Bind(path) | Self::Device(path) => path.display().to_string(),
            Self::Tmpfs(_) => "tmpfs".to_owned(),
            Self::Filesystem(mount) => format!("{} on {}", mount.filesystem, mount.source),
        }
    }

    /// The same with plain paths.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub(crate) fn checked(self) -> Result<Self> {
        Ok(match self {
            Self::Bind(path) => Self::Bind(plain("mount source", path)?),
            Self::Device(path) => Self::Device(plain("mount source", path)?),
            Self::Tmpfs(tmpfs) => {
                tmpfs.check()?;
                Self::Tmpfs(tmpfs)
            }
            Self::Filesystem(mount) => {
                mount.check()?;
                Self::Filesystem(mount)
            }
        })
    }
}

impl Tmpfs {
    fn check(&self) -> Result<()> {
        if self.size_bytes == 0 {
            return Err(Error::invalid(
                "tmpfs size",
                "0",
                "must be at least 1 byte: 0 means no limit to the kernel",
            ));
        }
        if self.mode & !0o7777 != 0 {
            return Err(Error::invalid(
                "tmpfs mode",
                format!("{:o}", self.mode),
                "must be at most 7777, octal",
            ));
        }
        Ok(())
    }
}

impl FilesystemMount {
    fn check(&self) -> Result<()> {
        if !is_filesystem(&self.filesystem) {
            let rule = format!("must be one of {}", FILESYSTEMS.join(", "));
            return Err(Error::invalid("file system", &self.filesystem, rule));
        }
        if self.source.is_empty() || self.source.len() > OPTION_MAX || self.source.contains('\0') {
            let rule = format!("must have 1 to {OPTION_MAX} bytes, and no zero byte");
            return Err(Error::invalid("mount source", &self.source, rule));
        }
        for option in &self.options {
            let invalid = |rule: &str| Err(Error::invalid("mount option", option, rule));
            let (name, value) = self::option(option);
            let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
            if name.is_empty() || name.len() > OPTION_MAX || !name.chars().all(is_plain) {
                return invalid(
                    "must be NAME or NAME=VALUE, the name of letters, digits, `_`, `-`, `.` and `:`",
                );
            }
            if name == "source" {
                return invalid("is the source itself");
            }
            if value.is_some_and(|value| value.len() > OPTION_MAX || value.contains('\0')) {
                return invalid("must have at most 255 bytes in its value, and no zero byte");
            }
        }
        Ok(())
    }

    /// The options as the kernel takes them.
    pub(crate) fn pairs(&self) -> Vec<(&str, Option<&str>)> {
        self.options.iter().map(|text| option(text)).collect()
    }
}

fn option(text: &str) -> (&str, Option<&str>) {
    text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)))
}

/// The path without `.`, doubled and trailing slashes.
pub(crate) fn plain(what: &'static str, path: PathBuf) -> Result<PathBuf> {
    let plain: PathBuf = path.components().collect();
    let shown = text::check_path(what, &plain)?;
    if shown.contains('\r') {
        let rule = "must not contain a carriage return: LXC's configuration cannot express it";
        return Err(Error::invalid(what, shown, rule));
    }
    Ok(plain)
}

/// Whether it is a file system with data of its own.
pub(crate) fn is_filesystem(name: &str) -> bool {
    FILESYSTEMS.contains(&name)
}

/// LXC mounts over these.
pub(crate) fn is_lxc_s_own(target: &Path) -> Option<&'static str> {
    ["/proc", "/sys", "/dev"].into_iter().find(|own| target.starts_with(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_the_kernel_is_refused() {
        let mount = |filesystem: &str, source: &str, options: &[&str]| {
            let options = options.iter().map(|option| (*option).to_owned()).collect();
            let (filesystem, source) = (filesystem.to_owned(), source.to_owned());
            MountSource::Filesystem(FilesystemMount { filesystem, source, options }).checked()
        };
        mount("ext4", "/dev/sdb1", &["noload", "data=ordered,x"]).unwrap();
        mount("nfs4", "server:/a b", &["addr=192.0.2.1"]).unwrap();
        for (filesystem, source, option, expected) in [
            ("proc", "proc", "x", "must be one of 9p, btrfs"),
            ("sysfs", "x", "x", "must be one of"),
            ("ext4,ro", "x", "x", "must be one of"),
            ("ext4", "", "x", "must have 1 to 255 bytes"),
            ("ext4", "a\0b", "x", "no zero byte"),
            ("ext4", "/dev/sdb", "a b", "must be NAME or NAME=VALUE"),
            ("ext4", "/dev/sdb", "a,b", "must be NAME or NAME=VALUE"),
            ("ext4", "/dev/sdb", "=b", "must be NAME or NAME=VALUE"),
            ("ext4", "/dev/sdb", "source=/dev/sda", "is the source itself"),
        ] {
            let message = mount(filesystem, source, &[option]).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        for (tmpfs, expected) in [
            (Tmpfs::new(0), "must be at least 1 byte"),
            (Tmpfs { mode: 0o17777, ..Tmpfs::new(1) }, "must be at most 7777"),
        ] {
            let message = MountSource::Tmpfs(tmpfs).checked().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
