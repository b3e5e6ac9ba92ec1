//! What an overlay is to be (kernel `Documentation/filesystems/overlayfs.rst`), and making it so.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, fstatvfs};
use sha2::{Digest, Sha256};
use tracing::{debug, debug_span, info_span};

use crate::error::{Error, Result};
use crate::idmap::IdMap;
use crate::storage::overlay::assembly::{Assembly, Mapping};
use crate::storage::overlay::directory::{Directory, digits};
use crate::storage::overlay::options::{MountMethod, ShownOverlay, overlays};
use crate::storage::overlay::root::{OverlayRoot, what};
use crate::storage::overlay::top::{self, Top};
use crate::storage::volume::handle::MountedVolume;
use crate::storage::volume::pool::LOCK_TIMEOUT;
use crate::sys::lock::FileLock;
use crate::sys::mount::mounted_on;
use crate::sys::{detached, kernel, mountinfo, userns};

/// The most layers that an overlay can have (`OVL_MAX_STACK` of the kernel). Before kernel 6.5 all their paths together
/// must have less than 4 KiB, too.
pub(super) const LAYERS_MAX: usize = 500;

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
    pub(super) read_only: bool,
    pub(super) map: Option<IdMap>,
    method: MountMethod,
}

impl OverlayLayers {
    /// What is written goes to `volume`: its directories `upper` and `work`, which therefore cannot be on two file
    /// systems. A volume carries one overlay.
    pub fn on(self, volume: &MountedVolume) -> OverlayPlan {
        OverlayPlan { space: Some(volume.path().to_owned()), read_only: false, ..self.read_only() }
    }

    /// Nothing is written: every attempt is `EROFS`, and no volume is needed.
    pub fn read_only(self) -> OverlayPlan {
        OverlayPlan {
            layers: self.layers,
            space: None,
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
        if let Some(space) = space
            && let Some(other) = overlays()?.iter().find(|o| o.target != target && o.is_on(space.path()))
        {
            return Err(Error::Busy {
                what: top::what(space),
                reason: format!("the overlay root {} is on it", other.target.display()),
            });
        }
        let differs = |difference: String| Err(Error::Differs { what: what(target), difference });
        let Some(mount) = mountinfo::mount_at(target)? else { return Ok(false) };
        if mount.filesystem != "overlay" {
            return differs(format!("{} is mounted there, not overlay", mount.filesystem));
        }
        let shown = ShownOverlay::parse(&mount);
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

/// What an overlay is called in the list of mounts, where it tells which one it is: paths do not tell an exchanged
/// directory, and of a map nothing else is shown.
fn source(layers: &[Directory], top: Option<&Top>, map: Option<&IdMap>) -> String {
    let upper = top.map(|top| Directory::fingerprint([&top.upper, &top.work]));
    let ids = map.map(|map| digits(Sha256::new().chain_update(map.to_string())));
    let or_none = |part: Option<String>| part.unwrap_or_else(|| "none".to_owned());
    let layers = Directory::fingerprint(layers);
    format!("docklet:layers={layers},upper={},ids={}", or_none(upper), or_none(ids))
}

/// In what a mounted overlay is another than the wanted one, by what they are called.
fn differences(shown: &OsStr, wanted: &str) -> Vec<String> {
    let shown = shown.to_string_lossy();
    let Some(parts) = shown.strip_prefix("docklet:") else {
        return vec![format!("it was not mounted by docklet: its source is `{shown}`")];
    };
    let of = |text: &str, key: &str| {
        text.split(',').find_map(|part| part.strip_prefix(key)?.strip_prefix('=').map(str::to_owned))
    };
    let wanted = wanted.trim_start_matches("docklet:");
    [
        ("layers", "it was mounted from other layers, or in another order"),
        ("upper", "it writes to another upper directory, perhaps an earlier one of that name"),
        ("ids", "it has another id map"),
    ]
    .into_iter()
    .filter(|(key, _)| of(parts, key) != of(wanted, key))
    .map(|(_, difference)| difference.to_owned())
    .collect()
}

fn check_layers(given: &[PathBuf], max: usize) -> Result<Vec<Directory>> {
    if given.is_empty() {
        return Err(Error::invalid("overlay layers", "[]", "must have at least one layer"));
    }
    if given.len() > max {
        let value = format!("{} layers", given.len());
        return Err(Error::invalid("overlay layers", value, format!("must be at most {max}")));
    }
    let mut seen = BTreeSet::new();
    let mut layers = Vec::with_capacity(given.len());
    for layer in given {
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
        let path = fs::canonicalize(layer).map_err(|e| Error::os("realpath", layer.display(), e))?;
        layers.push(Directory::look(&path)?);
    }
    let paths: BTreeSet<&Path> = layers.iter().map(Directory::path).collect();
    for path in &paths {
        if path.ancestors().skip(1).any(|above| paths.contains(above)) {
            let rule = "must not lie in another layer";
            return Err(Error::invalid("overlay layer", path.to_string_lossy(), rule));
        }
    }
    drop(paths);
    Ok(layers)
}

/// The kernel refuses a volume in a layer, or the other way round; an overlay on its own volume could not be unmounted.
fn check_apart(layers: &[Directory], space: &Directory, target: &Path) -> Result<()> {
    if target.starts_with(space.path()) {
        let rule = "must not lie on the volume that it writes to";
        return Err(Error::invalid("overlay target", target.to_string_lossy(), rule));
    }
    for layer in layers.iter().map(Directory::path) {
        if space.path().starts_with(layer)
            || ["upper", "work"].iter().any(|d| layer.starts_with(space.path().join(d)))
        {
            let rule = "must lie apart from the volume that is written to";
            return Err(Error::invalid("overlay layer", layer.to_string_lossy(), rule));
        }
    }
    Ok(())
}

/// Whether the kernel of this release can put mapped layers into an overlay.
fn check_kernel(release: &str) -> Result<()> {
    if kernel::version(release).is_none_or(|version| version >= (5, 19)) {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: "an overlay root with an id map".to_owned(),
        needs: format!("kernel 5.19, which mounts layers with their owners mapped; this is {release}"),
    })
}

/// Where a volume is mounted.
fn open_space(space: &Path) -> Result<Directory> {
    if mounted_on(space)?.is_none() {
        return Err(Error::NotFound { what: format!("volume mounted on `{}`", space.display()) });
    }
    Directory::look(space)
}

fn make_target(target: &Path) -> Result<PathBuf> {
    let invalid = |rule: &str| Error::invalid("overlay target", target.to_string_lossy(), rule);
    if !target.is_absolute() {
        return Err(invalid("must be an absolute path"));
    }
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(invalid("must end in a name"));
    };
    match DirBuilder::new().mode(0o755).create(target) {
        Ok(()) => {}
        Err(error) => match fs::symlink_metadata(target) {
            Ok(found) if found.is_dir() => {}
            Ok(found) if found.is_symlink() => return Err(invalid("must not be a link")),
            Ok(_) => return Err(invalid("must be a directory")),
            Err(_) => return Err(Error::os("mkdir", target.display(), error)),
        },
    }
    let parent = fs::canonicalize(parent).map_err(|e| Error::os("realpath", parent.display(), e))?;
    Ok(parent.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named() {
        let wanted = "docklet:layers=1,upper=2,ids=none";
        for (shown, expected) in [
            (wanted, vec![]),
            ("docklet:layers=9,upper=2,ids=none", vec!["other layers"]),
            ("docklet:layers=1,upper=none,ids=none", vec!["another upper"]),
            ("docklet:layers=9,upper=2,ids=8", vec!["other layers", "another id map"]),
            ("docklet:layers=1", vec!["another upper", "another id map"]),
            ("overlay", vec!["its source is `overlay`"]),
        ] {
            let found = differences(OsStr::new(shown), wanted);
            assert_eq!(found.len(), expected.len(), "{shown}: {found:?}");
            assert!(found.iter().zip(&expected).all(|(f, e)| f.contains(e)), "{shown}: {found:?}");
        }
    }

    #[test]
    fn old_kernels_cannot_map() {
        for (release, possible) in
            [("5.10.0-8-amd64", false), ("5.18.1", false), ("5.19.0", true), ("6.1.0-28-amd64", true)]
        {
            assert_eq!(check_kernel(release).is_ok(), possible, "{release}");
        }
        assert!(check_kernel("5.15.0").unwrap_err().to_string().contains("kernel 5.19"));
    }
}
