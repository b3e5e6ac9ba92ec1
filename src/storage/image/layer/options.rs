//! How a layer archive is unpacked, and how much of it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::storage::image::digest::Digest;

/// How [`unpack_layer`](crate::storage::unpack_layer) treats an archive.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UnpackOptions {
    /// What the uncompressed archive must hash to. Default: anything.
    pub diff_id: Option<Digest>,
    /// The trees of the layers below, the uppermost first. Directories that the archive names only in the paths of others
    /// look as they do there: the archive means them to stay as they are, and an overlay shows only the upper one. What
    /// such an archive is unpacked to fits these layers and no others: see
    /// [`Unpacked::implied_directories`](crate::storage::Unpacked::implied_directories). Default: none.
    pub lower: Vec<PathBuf>,
    /// What becomes of device nodes.
    pub device_nodes: DeviceNodes,
    /// How much is taken before the archive is refused.
    pub limits: UnpackLimits,
}

/// What becomes of the device nodes in an archive. Named pipes are always made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceNodes {
    /// Those beneath `/dev` are left out, since a container's own `/dev` hides them: the root archives of
    /// distributions have some. Any other is an error. The default.
    #[default]
    LeaveOutOfDev,
    /// All are made. Which of them a container may open is up to its control group.
    Make,
}

/// Bounds on what one archive may take of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UnpackLimits {
    /// Bytes of the uncompressed archive. Default: 64 GiB.
    pub bytes: u64,
    /// Members of the archive. Default: 4,000,000.
    pub entries: u64,
    /// Bytes of one file, holes included. Default: 64 GiB.
    pub file_bytes: u64,
    /// Bytes of one path. Default: 4095, the kernel's.
    pub path_bytes: usize,
    /// Names in one path. Each directory on the way is held open. Default: 128.
    pub path_depth: usize,
    /// Bytes of the extended attributes of one file, names included. Default: 64 KiB.
    pub xattr_bytes: usize,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self {
            bytes: 64 << 30,
            entries: 4_000_000,
            file_bytes: 64 << 30,
            path_bytes: 4095,
            path_depth: 128,
            xattr_bytes: 64 << 10,
        }
    }
}
