//! What has no device, so that nothing of it can be found on one: tmpfs (`man 5 tmpfs`), and a directory of the pool's file
//! system (`man 2 quotactl`).

use std::fs::File;
use std::io;
use std::path::Path;

use crate::error::Result;
use crate::storage::volume::filesystem::superblock::Finding;
use crate::storage::volume::filesystem::{Filesystem, Kind};

pub(crate) struct Deviceless {
    filesystem: Filesystem,
    size_rule: &'static str,
    mender: &'static str,
}

pub(crate) static TMPFS: Deviceless = Deviceless {
    filesystem: Filesystem::Tmpfs,
    size_rule: "must be at least 1048576 bytes (1 MiB) for tmpfs",
    mender: "nothing: its data are lost",
};

pub(crate) static DIRECTORY: Deviceless = Deviceless {
    filesystem: Filesystem::Directory,
    size_rule: "must be at least 1048576 bytes (1 MiB) for a directory",
    mender: "the checker of the file system that it is on",
};

impl Kind for Deviceless {
    fn size_min(&self) -> (u64, &'static str) {
        (1 << 20, self.size_rule)
    }

    fn format(&self, _: &File) -> Result<()> {
        self.filesystem.check_on_device()
    }

    fn find(&self, _: &File) -> io::Result<Finding> {
        Ok(Finding::Nothing)
    }

    fn mount_options(&self) -> &'static [(&'static str, Option<&'static str>)] {
        &[]
    }

    /// Its size is that of what it is made of, or its limit: the back end's part.
    fn grow_mounted(&self, _: &File, _: u64, _: &Path) -> Result<()> {
        Ok(())
    }

    fn mender(&self) -> &'static str {
        self.mender
    }
}
