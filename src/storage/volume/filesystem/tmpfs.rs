//! tmpfs (`man 5 tmpfs`), which has no device: nothing of it can be found on one, or damaged.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::error::Result;
use crate::storage::volume::filesystem::superblock::Finding;
use crate::storage::volume::filesystem::{Filesystem, Kind};

pub(crate) struct Tmpfs;

impl Kind for Tmpfs {
    fn size_min(&self) -> (u64, &'static str) {
        (1 << 20, "must be at least 1048576 bytes (1 MiB) for tmpfs")
    }

    fn format(&self, _: &File) -> Result<()> {
        Filesystem::Tmpfs.check_on_device()
    }

    fn find(&self, _: &File) -> io::Result<Finding> {
        Ok(Finding::Nothing)
    }

    fn mount_options(&self) -> &'static [(&'static str, Option<&'static str>)] {
        &[]
    }

    /// It has no size but that of what it is made of.
    fn grow_mounted(&self, _: &File, _: u64, _: &Path) -> Result<()> {
        Ok(())
    }

    fn mender(&self) -> &'static str {
        "nothing: its data are lost"
    }
}
