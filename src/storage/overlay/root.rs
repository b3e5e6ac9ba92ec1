//! A root directory made of read-only layers with a volume on top (kernel
//! `Documentation/filesystems/overlayfs.rst`).

use std::path::{Path, PathBuf};

use rustix::fs::statfs;
use tracing::{debug_span, info_span};

use crate::error::{Error, Result};
use crate::storage::overlay::plan::OverlayLayers;
use crate::storage::overlay::support;
use crate::sys::mount::{mounted_on, unmount_at};

/// `OVERLAYFS_SUPER_MAGIC` of `linux/magic.h`.
const OVERLAY_MAGIC: i64 = 0x794c_7630;

/// A mounted overlay. Dropping it does not unmount it.
///
/// ```no_run
/// # use docklet::storage::{MountedVolume, OverlayRoot};
/// # fn example(space: &MountedVolume) -> docklet::Result<()> {
/// let layers = ["/srv/layers/upper", "/srv/layers/lower"];
/// let root = OverlayRoot::over(&layers).on(space).mount("/run/web/root".as_ref())?;
/// OverlayRoot::unmount(root.path())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayRoot {
    path: PathBuf,
}

impl OverlayRoot {
    /// Whether this host has overlay file systems. Loads the kernel module if it is not there yet.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming the module, and how to have it after a reboot.
    pub fn supported() -> Result<()> {
        support::load()
    }

    /// An overlay of these directories, the uppermost first, 500 at most. They must be absolute and exist when it is
    /// mounted, and must not change while it is.
    pub fn over<P: AsRef<Path>>(layers: &[P]) -> OverlayLayers {
        OverlayLayers { layers: layers.iter().map(|layer| layer.as_ref().to_owned()).collect() }
    }

    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Where it is mounted: absolute, without links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts the overlay on `target`. One that is not mounted is unmounted. The directory stays.
    ///
    /// # Errors
    /// [`Error::Busy`] with what uses it; [`Error::Differs`] if something else is mounted there, which stays.
    pub fn unmount(target: &Path) -> Result<()> {
        let span = info_span!("unmount_overlay", target = %target.display());
        let _entered = span.enter();
        let what = what(target);
        if mounted_on(target)?.is_none() {
            return Ok(());
        }
        let kind = statfs(target).map_err(|e| Error::os("statfs", target.display(), e))?.f_type;
        #[allow(clippy::useless_conversion, reason = "the type differs between architectures")]
        if i64::from(kind) != OVERLAY_MAGIC {
            return Err(Error::Differs {
                what,
                difference: "what is mounted there is no overlay; unmount it first".to_owned(),
            });
        }
        debug_span!("umount_overlayfs").in_scope(|| unmount_at(target, &what))
    }
}

/// How messages name the overlay on `target`.
pub(super) fn what(target: &Path) -> String {
    format!("overlay root `{}`", target.display())
}
