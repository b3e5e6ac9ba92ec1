//! Growing a volume: what it is made of, then its file system.
//!
//! A kernel grows a mounted ext4 for a process with CAP_SYS_RESOURCE only. Without it a volume that is not mounted is
//! grown by `e2fsck` and `resize2fs` (`man 8 resize2fs`), which need nothing but the file.

use std::fs::File;
use std::path::Path;

use rustix::thread::{CapabilitySet, capabilities};
use tracing::{debug, info_span};

use crate::error::{Error, Result};
use crate::storage::volume::handle::Volume;
use crate::storage::volume::pool::{not_found, what};
use crate::storage::volume::spec::{VolumeSpec, check_size};
use crate::sys::ext4::{self, Superblock};
use crate::sys::tool;

impl Volume {
    /// Makes the volume larger. With CAP_SYS_RESOURCE this is done by the kernel, also while the volume is mounted and
    /// written to; a volume that is not mounted is for a moment. Repeating an interrupted call finishes it; the present
    /// size changes nothing.
    ///
    /// # Errors
    /// - [`Error::Invalid`] if `size_bytes` is less than the present size (volumes never shrink), or breaks the rules of
    ///   [`VolumeSpec::size_bytes`](crate::storage::VolumeSpec::size_bytes).
    /// - [`Error::NoSpace`] if the pool may not promise that much.
    /// - [`Error::Unsupported`] if the volume is mounted and this process has no CAP_SYS_RESOURCE, or if it is not, and
    ///   the programs `e2fsck` and `resize2fs` are missing.
    ///
    /// The first three leave everything as it was.
    pub fn grow(&mut self, size_bytes: u64) -> Result<()> {
        let span = info_span!("grow_volume", volume = %self.spec.name, size_bytes);
        let _entered = span.enter();
        check_size(size_bytes)?;
        let wanted = VolumeSpec { size_bytes, ..self.spec.clone() };
        self.backend().check(&wanted)?;
        let _lock = self.lock()?.ok_or_else(|| not_found(&self.spec.name))?;
        let mounted = self.device_of_mount()?.is_some();
        let by_kernel = may_grow_mounted();
        if mounted && !by_kernel {
            let found = self.backend().look(&self.spec.name)?.ok_or_else(|| not_found(&self.spec.name))?;
            if size_bytes == found.size_bytes && !found.growing {
                return self.backend().lengthened(&wanted);
            }
            return Err(Error::Unsupported {
                what: format!("growing {} while it is mounted", what(&self.spec.name)),
                needs: "the capability CAP_SYS_RESOURCE, or to unmount it first".to_owned(),
            });
        }
        self.backend().lengthen(&wanted)?;
        self.spec.size_bytes = size_bytes;
        if mounted {
            self.grow_mounted(size_bytes)?;
        } else if by_kernel {
            self.mount_locked()?;
            let result = self.grow_mounted(size_bytes);
            self.unmount_locked()?;
            result?;
        } else {
            grow_unmounted(&self.file())?;
        }
        self.backend().lengthened(&wanted)?;
        debug!(file = %self.file().display(), size_bytes, "grew volume");
        Ok(())
    }

    fn grow_mounted(&self, size_bytes: u64) -> Result<()> {
        let (path, target) = (self.file(), self.mount_point());
        let file = self.backend().open(&self.spec.name)?;
        let superblock =
            Superblock::read(&file, &path)?.ok_or_else(|| self.differs("its file system is gone"))?;
        let inside = File::open(&target).map_err(|e| Error::os("open", target.display(), e))?;
        ext4::grow_mounted(&inside, size_bytes / superblock.block_bytes, &target)
    }
}

/// Whether this thread has what `EXT4_IOC_RESIZE_FS` asks for.
fn may_grow_mounted() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE))
}

/// `resize2fs` insists on a check before, and an interrupted `resize2fs` needs one.
fn grow_unmounted(path: &Path) -> Result<()> {
    // 1: errors were found and corrected.
    run("e2fsck", &["-f", "-p"], path, &[0, 1])?;
    run("resize2fs", &[], path, &[0])
}

fn run(program: &str, options: &[&str], path: &Path, good: &[i32]) -> Result<()> {
    let mut command = tool::command(program).ok_or_else(|| Error::Unsupported {
        what: "growing a volume".to_owned(),
        needs: format!("CAP_SYS_RESOURCE, or the program {program}: install the package e2fsprogs"),
    })?;
    let output = tool::output(command.args(options).arg(path))?;
    if output.status.code().is_some_and(|code| good.contains(&code)) {
        return Ok(());
    }
    Err(Error::Command {
        program: program.to_owned(),
        status: output.status.to_string(),
        stderr: tool::said(&[output.stdout, output.stderr].concat()),
    })
}
