//! Growing a volume: what it is made of, then its file system.
//!
//! Kernels grow mounted file systems only, ext4 for a process with CAP_SYS_RESOURCE only. Without it an ext4 that is not
//! mounted is grown by `e2fsck` and `resize2fs` (`man 8 resize2fs`), which need nothing but the file.

use std::fs::File;

use tracing::{debug, info_span};

use crate::error::{Error, Result};
use crate::storage::volume::filesystem::GrowUnmounted;
use crate::storage::volume::handle::Volume;
use crate::storage::volume::pool::what;
use crate::storage::volume::spec::{VolumeSpec, check_size};

impl Volume {
    /// Makes the volume larger. This is done by the kernel, also while the volume is mounted and written to; a volume that
    /// is not mounted is for a moment. ext4 takes CAP_SYS_RESOURCE for it; without, `resize2fs` grows it while it is not
    /// mounted. Repeating an interrupted call finishes it; the present size changes nothing.
    ///
    /// # Errors
    /// - [`Error::Invalid`] if `size_bytes` is less than the present size (volumes never shrink), or breaks the rules of
    ///   [`VolumeSpec::size_bytes`](crate::storage::VolumeSpec::size_bytes).
    /// - [`Error::NoSpace`] if the pool may not promise that much.
    /// - [`Error::Unsupported`] if it is a mounted ext4 and this process has no CAP_SYS_RESOURCE, or an unmounted one and
    ///   the programs `e2fsck` and `resize2fs` are missing, too.
    /// - [`Error::Damaged`] if its file system cannot be mounted.
    ///
    /// They leave everything as it was.
    pub fn grow(&mut self, size_bytes: u64) -> Result<()> {
        let span = info_span!("grow_volume", volume = %self.spec.name, size_bytes);
        let _entered = span.enter();
        check_size(self.spec.filesystem, size_bytes)?;
        let wanted = VolumeSpec { size_bytes, ..self.spec.clone() };
        self.backend().check(&wanted)?;
        let _lock = self.lock()?.ok_or_else(|| self.backend().absent(&self.spec.name))?;
        let mounted = self.device_of_mount()?.is_some();
        let found =
            self.backend().look(&self.spec.name)?.ok_or_else(|| self.backend().absent(&self.spec.name))?;
        let unmounted_only = self.spec.filesystem.kind().grows_unmounted_only();
        if let Some(GrowUnmounted { lacking, .. }) = unmounted_only
            && mounted
        {
            if size_bytes == found.size_bytes && !found.growing {
                return self.backend().lengthened(&wanted);
            }
            return Err(Error::Unsupported {
                what: format!("growing {} while it is mounted", what(&self.spec.name)),
                needs: format!("it takes the capability {lacking}; or unmount it first"),
            });
        }
        match unmounted_only {
            Some(unmounted) => self.grow_unmounted(&wanted, &unmounted)?,
            None if mounted => self.grow_mounted(&wanted)?,
            None => {
                // First, since what cannot be mounted is not made longer.
                self.mount_locked()?;
                let result = self.grow_mounted(&wanted);
                self.unmount_locked()?;
                result?;
            }
        }
        self.backend().lengthened(&wanted)?;
        self.spec.size_bytes = size_bytes;
        debug!(file = %self.file().display(), size_bytes, "grew volume");
        Ok(())
    }

    fn grow_unmounted(&self, wanted: &VolumeSpec, by: &GrowUnmounted) -> Result<()> {
        let source = self.backend().attach(&wanted.name)?;
        (by.check)(&source.path(), &what(&wanted.name))?;
        self.backend().lengthen(wanted)?;
        let result = (by.grow)(&source.path());
        drop(source);
        self.backend().release(&wanted.name, None)?;
        result
    }

    fn grow_mounted(&self, wanted: &VolumeSpec) -> Result<()> {
        self.backend().lengthen(wanted)?;
        let target = self.mount_point();
        let inside = File::open(&target).map_err(|e| Error::os("open", target.display(), e))?;
        self.spec.filesystem.kind().grow_mounted(&inside, wanted.size_bytes, &target)
    }
}
