//! What holds a volume to its size (kernel `Documentation/filesystems/`).

use serde::{Deserialize, Serialize};

/// What holds a volume to its size, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SizeLimit {
    /// The kernel refuses to write past it, whoever writes, root included: there is nothing behind it. What the file
    /// system needs for itself comes out of it.
    Hard(u64),
    /// The kernel refuses it to most, and not to all: root, or whoever may give files to another project, writes past it. For
    /// directories with a quota, [`VolumePool::directories`](crate::storage::VolumePool::directories) says who.
    Soft(u64),
}
