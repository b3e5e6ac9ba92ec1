//! What an overlay is to be (kernel `Documentation/filesystems/overlayfs.rst`), and making it so.

use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, fstatvfs};
use tracing::{debug, debug_span, info_span};

use crate::error::{Error, Result};
use crate::idmap::IdMap;
use crate::storage::overlay::assembly::{Assembly, Mapping};
use crate::storage::overlay::directory::Directory;
use crate::storage::overlay::input::{LAYERS_MAX, check_apart, check_kernel, check_layers, make_target};
use crate::storage::overlay::options::{MountMethod, ShownOverlay};
use crate::storage::overlay::root::{OverlayRoot, what};
use crate::storage::overlay::signature::{differences, source};
use crate::storage::overlay::top::{self, Top};
use crate::storage::volume::handle::MountedVolume;
use crate::sys::lock::{FileLock, LOCK_TIMEOUT};
use crate::sys::mount::mounted_on;
use crate::sys::{detached, mountinfo, userns};

/// The layers of an overlay of which it is not said yet what is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is mounted yet"]
pub struct OverlayLayers {
    pub(super) layers: Vec<PathBuf>,
}

/// An overlay that is not mounted yet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is mounted yet"]
pub struct OverlayPlan {
    pub(super) layers: Vec<PathBuf>,
    /// Where the volume is mounted.
    pub(super) space: Option<PathBuf>,
    /// Whether no overlay can be on the volume.
    space_is_new: bool,
    pub(super) read_only: bool,
    pub(super) map: Option<IdMap>,
    method: MountMethod,
}

impl OverlayLayers {
    /// What is written goes to `volume`: its directories `upper` and `work`, which therefore cannot be on two file
    /// systems. A volume carries one overlay.
    pub fn on(self, volume: &MountedVolume) -> OverlayPlan {
        OverlayPlan {
            space: Some(volume.path().to_owned()),
            space_is_new: volume.is_new(),
            read_only: false,
            ..self.read_only()
        }
    }

    /// Nothing is written: every attempt is `EROFS`, and no volume is needed.
    pub fn read_only(self) -> OverlayPlan {
        OverlayPlan {
            layers: self.layers,
            space: None,
            space_is_new: false,
            read_only: true,
            map: None,
            method: MountMethod::Newest,
        }
    }
}

impl OverlayPlan {
    /// Mounts it by these calls and no others. Default: [`MountMethod::Newest`].
    pub fn method(mut self, method: MountMethod) -> Self {
        self.method = method;
        self
    }

    /// Shows what the volume has, but lets nobody write: every attempt is `EROFS`. Default: it is written to.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// For a container with a user namespace of this map. Default: none, ids inside are the host's.
    ///
    /// The layers stay as they are on the disk, and are shown with their owners mapped (`man 2 mount_setattr`), in no time
    /// and whatever their size. What is written belongs to the container's ids on the volume. The volume has them for
    /// good: with another map, or none, it is not the same container's.
    ///
    /// It takes kernel 5.19, and layers on a file system that the kernel can mount so. There is no fallback on purpose:
    /// without it each container would need its own copy of each layer.
    pub fn id_map(mut self, map: &IdMap) -> Self {
        self.map = Some(map.clone());
        self
    }

    /// Mounts the overlay on the directory `target`, which is made (mode 0755) if it is missing; the one above it must
    /// exist. The same overlay that is there already is adopted: the same directories in the same order, not only the same
    /// names, the same map and the same right to write.
    ///
    /// Before anybody can see it, it is made sure that it can be written to, with a map as the container's root.
    ///
    /// # Errors
    /// - [`Error::Invalid`] if there is no layer, more than 500, one is given twice or lies in another one, or a path is
    ///   relative, no directory or (the target) a link.
    /// - [`Error::Differs`] if something else is mounted on `target`, with what differs; or if the volume belongs to
    ///   another map.
    /// - [`Error::Busy`] if the volume carries another overlay.
    /// - [`Error::NotFound`] if the volume is not mounted.
    /// - [`Error::Damaged`] if the volume cannot be written to, as after an error of its file system.
    /// - [`Error::Unsupported`] if the kernel has no overlayfs, or cannot take that many layers, or not map them.
    /// - [`Error::Os`] with the kernel's own words, if it has any.
    pub fn mount(self, target: &Path) -> Result<OverlayRoot> {
        let span = info_span!("mount_overlay", target = %target.display(), layers = self.layers.len());
        let _entered = span.enter();
        // A volume that is only read is a layer, too.
        let more = usize::from(self.read_only && self.space.is_some());
        let layers = check_layers(&self.layers, LAYERS_MAX - more)?;
        if self.map.is_some() {
            check_kernel(rustix::system::uname().release().to_string_lossy().as_ref())?;
        }
        let target = make_target(target)?;
        // One at a time on one volume; the lock is the volume's top directory. A lock on the target itself could be held
        // by the container.
        let busy = self.space.as_ref().map(|space| format!("volume mounted on `{}`", space.display()));
        let _space_lock = match (&self.space, &busy) {
            (Some(space), Some(busy)) => Some(
                FileLock::acquire_existing(space, LOCK_TIMEOUT, busy)?
                    .ok_or_else(|| Error::NotFound { what: busy.clone() })?,
            ),
            _ => None,
        };
        let space = self.space.as_deref().map(open_space).transpose()?;
        let parent = target.parent().unwrap_or(Path::new("/"));
        if let Some(space) = &space {
            check_apart(&layers, space, &target)?;
        }
        // One at a time on one target.
        let _target_lock = FileLock::acquire_existing(parent, LOCK_TIMEOUT, &what(&target))?;
        let root = OverlayRoot::at(&target);
        if self.adopt(&layers, space.as_ref(), &target)? {
            return Ok(root);
        }
        let top = match (&space, layers.first()) {
            (Some(space), Some(layer)) => Some(self.prepare(space, layer)?),
            _ => None,
        };
        let map = match &self.map {
            Some(map) => Some(Mapping { namespace: userns::with_map(&map.to_string())?, root: map.root() }),
            None => None,
        };
        let place = Directory::look(&target)?;
        let source = source(&layers, top.as_ref(), self.map.as_ref());
        debug!(target = %target.display(), source, "mounting overlay");
        let (read_only, method) = (self.read_only, self.method);
        let assembly = Assembly { layers, top, read_only, map, source, target: place.clone(), method };
        debug_span!("mount_overlayfs").in_scope(|| {
            let mounted = assembly.mount()?;
            detached::attach(mounted, place.open()?).map_err(|e| Error::os("move_mount", what(&target), e))
        })?;
        Ok(root)
    }

    fn prepare(&self, space: &Directory, layer: &Directory) -> Result<Top> {
        let shown = fstatvfs(space.open()?).map_err(|e| Error::os("fstatvfs", space.path().display(), e))?;
        if shown.f_flag.contains(StatVfsMountFlags::RDONLY) && !self.read_only {
            return Err(top::read_only(space));
        }
        Top::ensure(space, layer, self.map.as_ref())
    }

    /// True if it is mounted already.
    fn adopt(&self, layers: &[Directory], space: Option<&Directory>, target: &Path) -> Result<bool> {
        if self.space_is_new && mounted_on(target)?.is_none() {
            return Ok(false);
        }
        // Read once: it is the largest part of a mount on a host with many.
        let mounts = mountinfo::mounts()?;
        let overlays = mounts.iter().filter(|mount| mount.filesystem == "overlay" && mount.target != target);
        if let Some(space) = space
            && let Some(other) = overlays.map(ShownOverlay::parse).find(|other| other.is_on(space.path()))
        {
            return Err(Error::Busy {
                what: top::what(space),
                reason: format!("the overlay root {} is on it", other.target.display()),
            });
        }
        let differs = |difference: String| Err(Error::Differs { what: what(target), difference });
        let Some(mount) = mounts.iter().rev().find(|mount| mount.target == target) else { return Ok(false) };
        if mount.filesystem != "overlay" {
            return differs(format!("{} is mounted there, not overlay", mount.filesystem));
        }
        let shown = ShownOverlay::parse(mount);
        let top = space.map(Top::look).transpose()?.flatten();
        let wanted = source(layers, top.as_ref(), self.map.as_ref());
        let mut differences = differences(&shown.source, &wanted);
        if shown.read_only != self.read_only {
            let says = |read_only| if read_only { "read-only" } else { "writable" };
            differences.push(format!(
                "it is {}, {} was asked for",
                says(shown.read_only),
                says(self.read_only)
            ));
        }
        if !shown.foreign_options.is_empty() {
            differences.push(format!("it has the options {}", shown.foreign_options.join(",")));
        }
        if differences.is_empty() { Ok(true) } else { differs(differences.join("; ")) }
    }
}

/// Where a volume is mounted.
fn open_space(space: &Path) -> Result<Directory> {
    if mounted_on(space)?.is_none() {
        return Err(Error::NotFound { what: format!("volume mounted on `{}`", space.display()) });
    }
    Directory::look(space)
}
