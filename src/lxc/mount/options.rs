//! How something is mounted (`man 8 mount`, `man 7 mount_namespaces`).

use serde::{Deserialize, Serialize};

/// What happens to file systems that are mounted beneath the source of a bind mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Submounts {
    /// There must be none when the container starts.
    #[default]
    Refuse,
    /// They are shown too.
    Include,
    /// They are not shown: the directories beneath them are.
    Hide,
}

/// Whether later mounts go from the host to the container. None ever goes the other way: what a container mounts stays its
/// own (source: `man 7 mount_namespaces`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Propagation {
    /// What the host mounts or unmounts beneath the source later changes nothing inside.
    #[default]
    Private,
    /// It changes inside, too, as far as the host's own mount is shared (`mount --make-shared`; systemd does it).
    Slave,
}

/// What a mount does not allow (`man 8 mount`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountOption {
    /// Set-user-id bits and file capabilities count for nothing.
    NoSuid,
    /// Device nodes cannot be opened.
    NoDev,
    /// Nothing can be executed.
    NoExec,
}

/// What to make where the target is missing in the container's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Create {
    /// A directory. The source must be one.
    Dir,
    /// An empty file. The source must not be a directory.
    File,
}
