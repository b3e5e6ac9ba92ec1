//! A directory of the pool's file system (`man 2 quotactl`), which has no device: nothing of it can be found on one.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::error::Result;
use crate::storage::volume::filesystem::superblock::Finding;
use crate::storage::volume::filesystem::{Filesystem, Kind};

pub(crate) struct Directory;

impl Kind for Directory {
    fn size_min(&self) -> (u64, &'static str) {
        (1 << 20, "must be at least 1048576 bytes (1 MiB) for a directory")
    }

    fn format(&self, _: &File) -> Result<()> {
        Filesystem::Directory.check_on_device()
    }

    fn find(&self, _: &File) -> io::Result<Finding> {
        Ok(Finding::Nothing)
    }

    fn mount_options(&self) -> &'static [(&'static str, Option<&'static str>)] {
        &[]
    }

    /// Its size is its limit, which the back end has set.
    fn grow_mounted(&self, _: &File, _: u64, _: &Path) -> Result<()> {
        Ok(())
    }

    fn mender(&self) -> &'static str {
        "the checker of the file system that it is on"
    }
}
