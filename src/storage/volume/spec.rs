//! What a volume should be, and what it holds.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::name::VolumeName;
use crate::storage::volume::filesystem::Filesystem;

/// The largest volume: the largest file that ext4, with its blocks of 4096 bytes, can hold.
const SIZE_MAX: u64 = (16 << 40) - BLOCK;
/// Sizes are whole blocks of the file system.
const BLOCK: u64 = 4096;

/// What a volume should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// What it is called in its pool.
    pub name: VolumeName,
    /// The size of its device, or the limit of its directory, in bytes: a multiple of 4096, less than 16 TiB, and not less than its [`Filesystem`] needs.
    /// What the file system in it needs for itself comes out of it; [`Usage::size_bytes`] is what remains.
    pub size_bytes: u64,
    /// What it is formatted with. Default: ext4.
    #[serde(default)]
    pub filesystem: Filesystem,
    /// When its disk space is taken. Default: sparse.
    #[serde(default)]
    pub allocation: Allocation,
}

impl VolumeSpec {
    /// Checks what the types alone do not: the size. `ensure` does it, too.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the rule that is broken.
    pub fn check(&self) -> Result<()> {
        check_size(self.filesystem, self.size_bytes)
    }
}

pub(crate) fn check_size(filesystem: Filesystem, size_bytes: u64) -> Result<()> {
    let (size_min, rule) = filesystem.kind().size_min();
    let rule = if size_bytes < size_min {
        rule
    } else if size_bytes > SIZE_MAX {
        "must be less than 17592186044416 bytes (16 TiB)"
    } else if !size_bytes.is_multiple_of(BLOCK) {
        "must be a multiple of 4096 bytes"
    } else {
        return Ok(());
    };
    Err(Error::invalid("volume size", size_bytes.to_string(), rule))
}

/// When a volume's disk space is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Allocation {
    /// As it is written. Creating is a matter of a millisecond; whether there will be room is what the pool's
    /// [`ProvisionRatio`](crate::storage::ProvisionRatio) is about.
    #[default]
    Sparse,
    /// All of it when the volume is created. What is discarded from inside (`fstrim`) is taken again by the next
    /// [`ensure`](crate::storage::VolumePool::ensure).
    Preallocated,
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sparse => "sparse",
            Self::Preallocated => "preallocated",
        })
    }
}

/// What a volume holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// What can be stored in bytes (`f_blocks` of `man 3 statvfs`).
    pub size_bytes: u64,
    /// What is stored in bytes (`f_blocks` less `f_bfree`).
    pub used_bytes: u64,
    /// What can still be stored in bytes (`f_bavail`). ext4 keeps up to 2 % back for its own needs.
    pub available_bytes: u64,
    /// What the volume takes of the host's disk in bytes (`st_blocks` of `man 3type stat`).
    pub allocated_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked() {
        for (filesystem, size_min) in
            [(Filesystem::Ext4, 16 << 20), (Filesystem::Xfs, 300 << 20), (Filesystem::Btrfs, 256 << 20)]
        {
            for good in [size_min, 1 << 30, 1 << 40, SIZE_MAX] {
                check_size(filesystem, good).unwrap();
            }
            let too_small = format!("at least {size_min} bytes");
            for (bad, rule) in [
                (0, &*too_small),
                (4096, &too_small),
                (size_min - 4096, &too_small),
                ((1 << 30) + 1, "multiple of 4096"),
                ((1 << 30) + 512, "multiple of 4096"),
                (16 << 40, "less than 17592186044416"),
                (u64::MAX, "less than 17592186044416"),
            ] {
                let message = check_size(filesystem, bad).unwrap_err().to_string();
                assert!(message.starts_with("invalid volume size") && message.contains(rule), "{message}");
            }
        }
    }

    #[test]
    fn defaults_need_not_be_written() {
        let spec: VolumeSpec = serde_json::from_str(r#"{"name": "data", "size_bytes": 1073741824}"#).unwrap();
        assert_eq!((spec.filesystem, spec.allocation), (Filesystem::Ext4, Allocation::Sparse));
        let text = serde_json::to_string(&spec).unwrap();
        assert!(text.contains(r#""filesystem":"ext4","allocation":"sparse""#), "{text}");
        assert_eq!(serde_json::from_str::<VolumeSpec>(&text).unwrap(), spec);
    }
}
