//! A root directory made of read-only layers with a volume on top (kernel
//! `Documentation/filesystems/overlayfs.rst`).

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown, lgetxattr, statfs, statvfs};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags};
use tracing::{debug, debug_span, info_span};

use crate::error::{Error, Result};
use crate::storage::overlay::options::{Directories, MountMethod, ShownOverlay, overlays, upper_text};
use crate::storage::overlay::support;
use crate::storage::volume::handle::MountedVolume;
use crate::storage::volume::pool::LOCK_TIMEOUT;
use crate::sys::lock::FileLock;
use crate::sys::mount::{FsContext, FsError, mount_classic, mounted_on, unmount_at};
use crate::sys::mountinfo::{self, Mount};

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

/// The layers of an overlay that has no writable space yet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is mounted yet"]
pub struct OverlayLayers {
    layers: Vec<PathBuf>,
}

/// An overlay that is not mounted yet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is mounted yet"]
pub struct OverlayPlan {
    layers: Vec<PathBuf>,
    space: PathBuf,
    method: MountMethod,
}

impl OverlayLayers {
    /// What is written goes to `volume`: its directories `upper` and `work`, which therefore cannot be on two file
    /// systems. A volume carries one overlay.
    pub fn on(self, volume: &MountedVolume) -> OverlayPlan {
        OverlayPlan { layers: self.layers, space: volume.path().to_owned(), method: MountMethod::Newest }
    }
}

impl OverlayRoot {
    /// Whether this host has overlay file systems. Loads the kernel module if it is not there yet.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming the module, and how to have it after a reboot.
    pub fn supported() -> Result<()> {
        support::load()
    }

    /// An overlay of these directories, the uppermost first. They must be absolute and exist when it is mounted, and
    /// must not change while it is.
    pub fn over<P: AsRef<Path>>(layers: &[P]) -> OverlayLayers {
        OverlayLayers { layers: layers.iter().map(|layer| layer.as_ref().to_owned()).collect() }
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

impl OverlayPlan {
    /// Mounts it by these calls and no others. Default: [`MountMethod::Newest`].
    pub fn method(mut self, method: MountMethod) -> Self {
        self.method = method;
        self
    }

    /// Mounts the overlay on the directory `target`, which is made if it is missing. The same overlay that is there
    /// already is adopted.
    ///
    /// # Errors
    /// - [`Error::Invalid`] if there is no layer, one is given twice, or a path is relative or no directory.
    /// - [`Error::Differs`] if something else is mounted on `target`.
    /// - [`Error::Busy`] if the volume carries another overlay.
    /// - [`Error::Unsupported`] if the kernel has no overlayfs, or cannot take that many layers.
    /// - [`Error::Os`] with the kernel's own words, if it has any.
    pub fn mount(self, target: &Path) -> Result<OverlayRoot> {
        let span = info_span!("mount_overlay", target = %target.display(), layers = self.layers.len());
        let _entered = span.enter();
        let layers = self.check_layers()?;
        let target = make_target(target)?;
        // One at a time on one volume; the lock is the volume's top directory.
        let busy = format!("volume mounted on `{}`", self.space.display());
        let _lock = FileLock::acquire_existing(&self.space, LOCK_TIMEOUT, &busy)?
            .ok_or_else(|| Error::NotFound { what: busy.clone() })?;
        if mounted_on(&self.space)?.is_none() {
            return Err(Error::NotFound { what: busy });
        }
        let directories =
            Directories { layers, upper: self.space.join("upper"), work: self.space.join("work") };
        let root = OverlayRoot { path: target };
        if adopt(&directories, &self.space, &root.path)? {
            return Ok(root);
        }
        prepare(&directories)?;
        debug_span!("mount_overlayfs").in_scope(|| mount(self.method, &directories, &root.path))?;
        debug!(target = %root.path.display(), upper = %directories.upper.display(), "mounted overlay");
        Ok(root)
    }

    fn check_layers(&self) -> Result<Vec<PathBuf>> {
        if self.layers.is_empty() {
            return Err(Error::invalid("overlay layers", "[]", "must have at least one layer"));
        }
        let mut seen = BTreeSet::new();
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let invalid = |rule: &str| Error::invalid("overlay layer", layer.to_string_lossy(), rule);
            if !layer.is_absolute() {
                return Err(invalid("must be an absolute path"));
            }
            let found = fs::metadata(layer).map_err(|_| invalid("must exist"))?;
            if !found.is_dir() {
                return Err(invalid("must be a directory"));
            }
            if !seen.insert((found.dev(), found.ino())) {
                return Err(invalid("must not be given twice, under whatever name"));
            }
            layers.push(fs::canonicalize(layer).map_err(|e| Error::os("realpath", layer.display(), e))?);
        }
        Ok(layers)
    }
}

fn what(target: &Path) -> String {
    format!("overlay root `{}`", target.display())
}

fn make_target(target: &Path) -> Result<PathBuf> {
    let invalid = |rule: &str| Error::invalid("overlay target", target.to_string_lossy(), rule);
    if !target.is_absolute() {
        return Err(invalid("must be an absolute path"));
    }
    match DirBuilder::new().mode(0o755).create(target) {
        Ok(()) => {}
        Err(_) if target.is_dir() => {}
        Err(_) if target.exists() => return Err(invalid("must be a directory")),
        Err(error) => return Err(Error::os("mkdir", target.display(), error)),
    }
    fs::canonicalize(target).map_err(|e| Error::os("realpath", target.display(), e))
}

/// True if it is mounted already.
fn adopt(directories: &Directories, space: &Path, target: &Path) -> Result<bool> {
    let differs =
        |difference: &str| Err(Error::Differs { what: what(target), difference: difference.to_owned() });
    if let Some(other) = overlays()?.iter().find(|o| o.target != target && o.is_on(space)) {
        return Err(Error::Busy {
            what: format!("volume mounted on `{}`", space.display()),
            reason: format!("the overlay root {} is on it", other.target.display()),
        });
    }
    let Some(mount): Option<Mount> = mountinfo::mount_at(target)? else { return Ok(false) };
    if mount.filesystem != "overlay" {
        return differs(&format!("{} is mounted there, not overlay", mount.filesystem));
    }
    let shown = ShownOverlay::parse(&mount);
    if !shown.shows(directories) {
        return differs("it was mounted from other directories");
    }
    if shown.has_uuid && !is_upper_of(target, &directories.upper)? {
        return differs("its upper directory is an earlier one of that name");
    }
    Ok(true)
}

/// Whether the overlay on `target` writes to this very `upper`: its file system id is made from the upper's number.
fn is_upper_of(target: &Path, upper: &Path) -> Result<bool> {
    let mut uuid = [0_u8; 16];
    match lgetxattr(upper, "trusted.overlay.uuid", &mut uuid[..]) {
        Ok(16) => {}
        Ok(_) | Err(Errno::NODATA | Errno::NOENT | Errno::OPNOTSUPP) => return Ok(false),
        Err(error) => return Err(Error::os("lgetxattr", upper.display(), error)),
    }
    let shown = statvfs(target).map_err(|e| Error::os("statvfs", target.display(), e))?.f_fsid;
    let [low, high] = [0, 8].map(|at| {
        let mut half = [0; 8];
        half.copy_from_slice(&uuid[at..at + 8]);
        u64::from_le_bytes(half)
    });
    Ok(shown == low ^ high)
}

/// Makes `upper` and `work`. A new `upper` looks as the uppermost layer does, since it covers that layer's root.
fn prepare(directories: &Directories) -> Result<()> {
    let failed = |call: &'static str, path: &Path| {
        let path = path.display().to_string();
        move |e: std::io::Error| Error::os(call, path, e)
    };
    let (upper, work) = (&directories.upper, &directories.work);
    // `work` comes last, so where it is, `upper` is complete.
    if fs::symlink_metadata(work).is_ok_and(|m| m.is_dir())
        && fs::symlink_metadata(upper).is_ok_and(|m| m.is_dir())
    {
        return Ok(());
    }
    let make = |path: &Path| match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        result => result.map_err(failed("mkdir", path)),
    };
    make(upper)?;
    if let Some(layer) = directories.layers.first() {
        let like = fs::metadata(layer).map_err(failed("stat", layer))?;
        let opened: File = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_DIRECTORY)
            .open(upper)
            .map_err(failed("open", upper))?;
        fchown(&opened, Some(Uid::from_raw(like.uid())), Some(Gid::from_raw(like.gid())))
            .map_err(|e| Error::os("fchown", upper.display(), e))?;
        fchmod(&opened, Mode::from_raw_mode(like.mode()))
            .map_err(|e| Error::os("fchmod", upper.display(), e))?;
    }
    make(work)
}

fn mount(method: MountMethod, directories: &Directories, target: &Path) -> Result<()> {
    match mount_once(method, directories, target) {
        Err(error) if error.errno() == Some(libc::ENODEV) => {
            support::load()?;
            mount_once(method, directories, target)
        }
        result => result,
    }
}

fn mount_once(method: MountMethod, directories: &Directories, target: &Path) -> Result<()> {
    match method {
        MountMethod::Descriptors => by_descriptors(directories, target)?.map_err(|e| e.about(what(target))),
        MountMethod::Texts => by_texts(directories, target).map_err(|e| e.about(what(target))),
        MountMethod::Classic => by_mount(directories, target),
        MountMethod::Newest => {
            match by_descriptors(directories, target)? {
                Ok(()) => return Ok(()),
                Err(error) if !may_be_unknown(&error) => return Err(error.about(what(target))),
                Err(_) => {}
            }
            match by_texts(directories, target) {
                Ok(()) => Ok(()),
                Err(error) if !may_be_unknown(&error) => Err(error.about(what(target))),
                // Where all ways fail it is not for want of a newer call, and what the newer one says is clearer.
                Err(error) => by_mount(directories, target)
                    .map_err(|last| if error.says_why() { error.about(what(target)) } else { last }),
            }
        }
    }
}

/// Old kernels say these to a call, an option or a kind of value that they do not know.
fn may_be_unknown(error: &FsError) -> bool {
    matches!(error.errno, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM)
}

fn by_descriptors(directories: &Directories, target: &Path) -> Result<Result<(), FsError>> {
    let open = |path: &PathBuf| -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::os("open", path.display(), e))
    };
    let layers = directories.layers.iter().map(open).collect::<Result<Vec<_>>>()?;
    let (upper, work) = (open(&directories.upper)?, open(&directories.work)?);
    let mount = || {
        let context = FsContext::open("overlay")?;
        context.text("source", "overlay")?;
        for layer in &layers {
            context.descriptor("lowerdir+", layer)?;
        }
        context.descriptor("upperdir", &upper)?;
        context.descriptor("workdir", &work)?;
        context.mount(MountAttrFlags::empty(), target)
    };
    Ok(mount())
}

fn by_texts(directories: &Directories, target: &Path) -> Result<(), FsError> {
    let context = FsContext::open("overlay")?;
    context.text("source", "overlay")?;
    for layer in &directories.layers {
        context.text("lowerdir+", layer)?;
    }
    context.text("upperdir", upper_text(&directories.upper))?;
    context.text("workdir", upper_text(&directories.work))?;
    context.mount(MountAttrFlags::empty(), target)
}

fn by_mount(directories: &Directories, target: &Path) -> Result<()> {
    let options = directories.classic()?;
    mount_classic(Path::new("overlay"), target, "overlay", MountFlags::empty(), &options)
}
