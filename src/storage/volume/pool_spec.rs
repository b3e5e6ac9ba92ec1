//! Where a pool of volumes is, as plain data that can be written down (`man 8 lvm` for logical volumes).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::storage::volume::backend::lvm::LvmPool;
use crate::storage::volume::pool::VolumePool;

/// Where a pool of volumes is, and what they are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum PoolSpec {
    /// As for [`VolumePool::loop_files`].
    LoopFiles {
        /// The pool's directory.
        directory: PathBuf,
    },
    /// As for [`VolumePool::tmpfs`].
    Tmpfs {
        /// The pool's directory.
        directory: PathBuf,
    },
    /// As for [`VolumePool::lvm`].
    Lvm {
        /// The pool's directory.
        directory: PathBuf,
        /// Where its logical volumes are.
        lvm: LvmPool,
    },
    /// As for [`VolumePool::directories`].
    Directories {
        /// The pool's directory.
        directory: PathBuf,
    },
}

impl PoolSpec {
    /// The pool, with a provision ratio of 1.
    ///
    /// # Errors
    /// As [`VolumePool::loop_files`], [`VolumePool::tmpfs`], [`VolumePool::lvm`] and [`VolumePool::directories`].
    pub fn pool(&self) -> Result<VolumePool> {
        match self {
            Self::LoopFiles { directory } => VolumePool::loop_files(directory),
            Self::Tmpfs { directory } => VolumePool::tmpfs(directory),
            Self::Lvm { directory, lvm } => VolumePool::lvm(directory, lvm),
            Self::Directories { directory } => VolumePool::directories(directory),
        }
    }
}
