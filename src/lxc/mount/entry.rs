//! One mount of a container (`man 5 lxc.container.conf`, `lxc.mount.entry`; `man 8 mount`; `man 2 mount_setattr`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::fields::Fields;
use super::source::{is_lxc_s_own, plain};
use super::{Create, FilesystemMount, MountOption, MountSource, Propagation, Submounts, Tmpfs};
use crate::error::{Error, Result};
use crate::lxc::config::{TARGET_MAX, escape};

/// Something that is mounted in a container: a file or directory of the host, a device, memory, another file system.
///
/// ```
/// # use docklet::lxc::{MountEntry, Tmpfs};
/// # fn main() -> docklet::Result<()> {
/// // All of it, to be read only; the files' owners inside are those on the disk.
/// let data = MountEntry::bind("/srv/data", "/root/data")?.recursive().read_only().id_mapped().create_dir();
/// let scratch = MountEntry::tmpfs(Tmpfs { mode: 0o1777, ..Tmpfs::new(64 << 20) }, "/tmp")?;
/// let fuse = MountEntry::device("/dev/fuse", "/dev/fuse")?;
/// assert!(MountEntry::bind("srv/data", "/root/data").is_err()); // relative
///
/// let text = r#"{"source": "/srv/data", "target": "/data", "submounts": "include", "read_only": true, "create": "dir"}"#;
/// let entry: MountEntry = serde_json::from_str(text).unwrap();
/// assert_eq!(entry, MountEntry::bind("/srv/data", "/data")?.recursive().read_only().create_dir());
/// // As {"tmpfs": {"size_bytes": 67108864}, …}, {"device": "/dev/fuse", …}, {"filesystem": {"type": "ext4", "source": "/dev/vdb"}, …}
/// assert!(MountEntry::bind("/srv/data", "/root/../etc").is_err());
/// # Ok(()) }
/// ```
///
/// Rules that need no host are checked here, and when it is deserialized; the others (the source exists, `create`
/// fits it, submounts) by [`LxcConfig::mount`](crate::lxc::LxcConfig::mount), and again when it is mounted: then the source is
/// opened once, through no symbolic link, and what was opened is what is checked and mounted, whoever changes its path
/// meanwhile. The target is resolved in the same way, and never leaves the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub struct MountEntry {
    pub(super) source: MountSource,
    pub(super) target: PathBuf,
    pub(super) submounts: Submounts,
    pub(super) propagation: Propagation,
    pub(super) read_only: bool,
    pub(super) id_mapped: bool,
    pub(super) optional: bool,
    pub(super) options: BTreeSet<MountOption>,
    pub(super) create: Option<Create>,
}

impl MountEntry {
    /// Shows `source` of the host at `target` in the container. Both are absolute; `target` counts from the
    /// container's root.
    ///
    /// # Errors
    /// [`Error::Invalid`] if one of them is relative, is `/`, has `..`, is not UTF-8, holds a carriage return (LXC
    /// cannot express it) or is too long; or if `target` is at or beneath `/proc`, `/sys` or `/dev`, where LXC mounts
    /// file systems of its own.
    pub fn bind(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Result<Self> {
        Self::of(MountSource::Bind(source.into()), target)
    }

    /// Lets the container use the device `source` of the host, at `target`, which is missing or a file. The container gets a
    /// node of its own: with the same mode, but its own root as the owner. The device is allowed in its control group; with
    /// [`read_only`](Self::read_only) only to be read.
    ///
    /// # Errors
    /// As [`MountEntry::bind`], but `target` may be beneath `/dev`.
    pub fn device(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Result<Self> {
        Self::of(MountSource::Device(source.into()), target).map(Self::create_file)
    }

    /// Mounts memory at `target`, without set-user-id programs and devices.
    ///
    /// # Errors
    /// As [`MountEntry::bind`]; and if the size is 0 or the mode is none.
    pub fn tmpfs(tmpfs: Tmpfs, target: impl Into<PathBuf>) -> Result<Self> {
        let entry = Self::of(MountSource::Tmpfs(tmpfs), target)?;
        Ok(entry.with(MountOption::NoSuid).with(MountOption::NoDev))
    }

    /// Mounts a file system at `target`, without set-user-id programs and devices.
    ///
    /// # Errors
    /// As [`MountEntry::bind`]; and if it is none with data of its own, or if an option is none.
    pub fn filesystem(mount: FilesystemMount, target: impl Into<PathBuf>) -> Result<Self> {
        let entry = Self::of(MountSource::Filesystem(mount), target)?;
        Ok(entry.with(MountOption::NoSuid).with(MountOption::NoDev))
    }

    /// Any source, without options.
    pub(crate) fn of(source: MountSource, target: impl Into<PathBuf>) -> Result<Self> {
        let target = target.into();
        let (source, target) = (source.checked()?, plain("mount target", target)?);
        let allowed = matches!(source, MountSource::Device(_))
            && target.starts_with("/dev")
            && target != Path::new("/dev");
        if let Some(own) = is_lxc_s_own(&target).filter(|_| !allowed) {
            let rule = format!("must not be at or beneath {own}: LXC mounts its own file system there");
            return Err(Error::invalid("mount target", target.to_string_lossy(), rule));
        }
        let entry = Self {
            source,
            target,
            submounts: Submounts::default(),
            propagation: Propagation::default(),
            read_only: false,
            id_mapped: false,
            optional: false,
            options: BTreeSet::new(),
            create: None,
        };
        if escape(&entry.target).len() > TARGET_MAX {
            let rule = format!(
                "is too long: a target is limited to {TARGET_MAX} bytes, of which a blank takes four"
            );
            return Err(Error::invalid("mount target", entry.target.to_string_lossy(), rule));
        }
        Ok(entry)
    }

    /// Shows what is mounted beneath the source too.
    #[must_use]
    pub fn recursive(mut self) -> Self {
        self.submounts = Submounts::Include;
        self
    }

    /// Shows the source's own file system only, whatever is mounted beneath it.
    #[must_use]
    pub fn without_submounts(mut self) -> Self {
        self.submounts = Submounts::Hide;
        self
    }

    /// Whether later mounts of the host show inside. Default: they do not.
    #[must_use]
    pub fn propagation(mut self, propagation: Propagation) -> Self {
        self.propagation = propagation;
        self
    }

    /// Lets the container read only, what is mounted beneath the source, too.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Gives files inside the owners that they have on the disk: user 1000's are user 1000's there, and what root inside
    /// writes is root's on the disk. Without it the host's users are nobody in an unprivileged container; in a privileged
    /// one this is so anyway.
    ///
    /// Keep such a directory where no other user of the host gets to (mode 0700 of one above it): the container's root can
    /// make set-user-id programs there that are the host's root's.
    #[must_use]
    pub fn id_mapped(mut self) -> Self {
        self.id_mapped = true;
        self
    }

    /// Leaves the mount out where the source does not exist. Nothing is made at the target then. Anything else that is wrong
    /// stays an error.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Adds what the mount is not to allow.
    #[must_use]
    pub fn with(mut self, option: MountOption) -> Self {
        self.options.insert(option);
        self
    }

    /// Makes a directory where the target is missing.
    #[must_use]
    pub fn create_dir(mut self) -> Self {
        self.create = Some(Create::Dir);
        self
    }

    /// Makes an empty file where the target is missing.
    #[must_use]
    pub fn create_file(mut self) -> Self {
        self.create = Some(Create::File);
        self
    }

    /// What is mounted.
    #[must_use]
    pub fn source(&self) -> &MountSource {
        &self.source
    }

    /// Where it is shown, counted from the container's root.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    pub(crate) fn submounts(&self) -> Submounts {
        self.submounts
    }

    pub(crate) fn propagates(&self) -> Propagation {
        self.propagation
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub(crate) fn is_id_mapped(&self) -> bool {
        self.id_mapped
    }

    pub(crate) fn is_optional(&self) -> bool {
        self.optional
    }

    pub(crate) fn options(&self) -> &BTreeSet<MountOption> {
        &self.options
    }

    pub(crate) fn create(&self) -> Option<Create> {
        self.create
    }

    /// The rules that need no host.
    pub(crate) fn check(&self) -> Result<()> {
        let is_bind = matches!(self.source, MountSource::Bind(_));
        let has_files = matches!(self.source, MountSource::Bind(_) | MountSource::Filesystem(_));
        if !is_bind && (self.submounts != Submounts::Refuse || self.propagation != Propagation::Private) {
            return Err(self.invalid("only a bind mount has submounts and propagates"));
        }
        if self.id_mapped && !has_files {
            return Err(self.invalid("belongs to the container's root already: leave .id_mapped() out"));
        }
        if self.optional && matches!(self.source, MountSource::Tmpfs(_)) {
            return Err(self.invalid("is always there: leave .optional() out"));
        }
        match self.source.is_directory() {
            Some(is_directory) => self.check_create(is_directory),
            None => Ok(()),
        }
    }

    /// Checks that what is to be made at the target fits the source.
    pub(crate) fn check_create(&self, is_directory: bool) -> Result<()> {
        match self.create {
            Some(Create::Dir) if !is_directory => {
                Err(self.invalid("is not a directory: use .create_file(), not .create_dir()"))
            }
            Some(Create::File) if is_directory => {
                Err(self.invalid("is a directory: use .create_dir(), not .create_file()"))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn invalid(&self, rule: &str) -> Error {
        Error::invalid("mount source", self.source.shown(), rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(source: &str, target: &str) -> String {
        MountEntry::bind(source, target).unwrap_err().to_string()
    }

    #[test]
    fn paths_are_checked() {
        for (source, target, expected) in [
            ("data", "/data", "invalid mount source \"data\": must be an absolute path"),
            ("", "/data", "invalid mount source \"\": must be an absolute path"),
            ("/srv/../etc", "/data", "invalid mount source \"/srv/../etc\": must not contain '..'"),
            ("/", "/data", "invalid mount source \"/\": must not be the root directory"),
            ("/srv", "data", "invalid mount target \"data\": must be an absolute path"),
            ("/srv", "/a/../b", "invalid mount target \"/a/../b\": must not contain '..'"),
            ("/srv", "/", "invalid mount target \"/\": must not be the root directory"),
            ("/srv", "/./", "must not be the root directory"),
            ("/srv", "/proc", "must not be at or beneath /proc"),
            ("/srv", "/sys/fs", "must not be at or beneath /sys"),
            ("/srv", "//dev/./shm", "must not be at or beneath /dev"),
            ("/srv", "/a\rb", "carriage return"),
        ] {
            let message = rule(source, target);
            assert!(message.contains(expected), "{message}");
        }
        assert!(rule("/srv", &format!("/{}", "x/".repeat(2000))).contains("too long"));
        MountEntry::bind("/srv", "/development").unwrap();
        MountEntry::device("/dev/fuse", "/dev/fuse").unwrap();
        for target in ["/dev", "/proc/x"] {
            let message = MountEntry::device("/dev/fuse", target).unwrap_err().to_string();
            assert!(message.contains("must not be at or beneath"), "{message}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let tmpfs = || MountEntry::tmpfs(Tmpfs::new(4096), "/tmp").unwrap();
        let device = || MountEntry::device("/dev/fuse", "/dev/fuse").unwrap();
        for (entry, expected) in [
            (tmpfs().recursive(), "only a bind mount has submounts"),
            (tmpfs().propagation(Propagation::Slave), "only a bind mount has submounts and propagates"),
            (tmpfs().id_mapped(), "belongs to the container's root already"),
            (tmpfs().optional(), "is always there"),
            (tmpfs().create_file(), "use .create_dir()"),
            (device().id_mapped(), "belongs to the container's root already"),
            (device().create_dir(), "use .create_file()"),
        ] {
            let message = entry.check().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
            let text = serde_json::to_string(&entry).unwrap();
            assert!(serde_json::from_str::<MountEntry>(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn data_goes_through_the_same_checks() {
        // As it was written down before there were other kinds.
        let old = r#"{"source":"/srv//data/","target":"/data","submounts":"refuse","read_only":false,"create":"dir"}"#;
        let entry: MountEntry = serde_json::from_str(old).unwrap();
        assert_eq!(entry, MountEntry::bind("/srv/data", "/data").unwrap().create_dir());
        let mount = FilesystemMount {
            filesystem: "ext4".to_owned(),
            source: "/dev/sdb1".to_owned(),
            options: vec!["noload".to_owned()],
        };
        for entry in [
            entry.recursive().read_only().id_mapped().optional().propagation(Propagation::Slave),
            MountEntry::tmpfs(Tmpfs::new(1 << 20), "/tmp").unwrap().with(MountOption::NoExec).create_dir(),
            MountEntry::device("/dev/fuse", "/dev/fuse").unwrap().read_only(),
            MountEntry::filesystem(mount, "/mnt").unwrap().id_mapped(),
        ] {
            let text = serde_json::to_string(&entry).unwrap();
            assert_eq!(serde_json::from_str::<MountEntry>(&text).unwrap(), entry, "{text}");
        }
        for (bad, expected) in [
            (r#"{"source": "srv", "target": "/data"}"#, "absolute"),
            (r#"{"source": "/srv", "target": "/data", "creat": "dir"}"#, "unknown field"),
            (r#"{"target": "/data"}"#, "must have one of source, device"),
            (r#"{"source": "/a", "device": "/dev/fuse", "target": "/data"}"#, "must have one of"),
            (r#"{"tmpfs": {"size_bytes": 1, "x": 1}, "target": "/data"}"#, "unknown field"),
            (r#"{"source": "/a", "target": "/b", "options": ["nosuid", "suid"]}"#, "unknown variant"),
        ] {
            let message = serde_json::from_str::<MountEntry>(bad).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
