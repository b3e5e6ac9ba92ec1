//! Images: the read-only layers that containers start from, as directories.
//!
//! ```text
//! DIR/NAME/rootfs/        an image's one layer
//! DIR/.new-…, DIR/.old-…  being built, being removed
//! ```

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with, syncfs};
use rustix::io::Errno;
use tracing::{debug, info_span};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::name::ImageName;
use crate::storage::image::builder::ImageBuilder;
use crate::storage::overlay::OverlayRoot;
use crate::storage::overlay::options::overlays;
use crate::storage::volume::directory::make_directory;
use crate::sys::file::{absent_is_none, sync_parent};
use crate::sys::tree::remove_tree;

const LAYER: &str = "rootfs";

/// A directory of images. Several processes may use one at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageStore {
    directory: PathBuf,
}

/// An image: layers that an [`OverlayRoot`](crate::storage::OverlayRoot) can be made over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Image {
    /// What it is called.
    pub name: ImageName,
    /// Its layers, the uppermost first. Nothing may write to them.
    pub layers: Vec<PathBuf>,
}

impl Image {
    /// Whether `path` is a program in the image: a regular file with a permission to execute. Links are followed as
    /// they will be in the container, so none leads out of the image.
    ///
    /// # Errors
    /// [`Error::Os`] if a layer cannot be read.
    pub fn has_executable(&self, path: &Path) -> Result<bool> {
        let found = OverlayRoot::over(&self.layers).metadata(path)?;
        Ok(found.is_some_and(|found| found.is_file() && found.mode() & 0o111 != 0))
    }
}

impl ImageStore {
    /// The images in `directory`, which is made (mode 0700) if it is missing; the one above it must exist.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `directory` is not absolute or only one level below `/`; [`Error::Os`] if it cannot be
    /// made.
    pub fn new(directory: impl Into<PathBuf>) -> Result<Self> {
        let given = directory.into();
        if !given.is_absolute() || given.components().count() < 3 {
            let rule = "must be an absolute path at least two levels below '/'";
            return Err(Error::invalid("image store", given.to_string_lossy(), rule));
        }
        make_directory(&given)?;
        let directory = fs::canonicalize(&given).map_err(|e| Error::os("realpath", given.display(), e))?;
        Ok(Self { directory })
    }

    /// Builds an image: `fill` puts everything into it. It appears whole, on the disk, or not at all.
    ///
    /// # Errors
    /// [`Error::Differs`] if there is an image of that name, which stays; what `fill` returns; [`Error::Os`] if it
    /// cannot be stored. Nothing is left then, except by a crash: see [`ImageStore::tidy`].
    pub fn build(
        &self,
        name: &ImageName,
        fill: impl FnOnce(&mut ImageBuilder) -> Result<()>,
    ) -> Result<Image> {
        let span = info_span!("build_image", image = %name);
        let _entered = span.enter();
        let image = self.image(name);
        if self.directory.join(name.as_str()).exists() {
            return Err(exists(name));
        }
        let temporary = Temporary::make(&self.directory)?;
        let built = self.fill(name, &temporary, fill);
        if built.is_err() {
            // The first error is the one to tell; `tidy` removes what this cannot.
            let _ = remove_tree(&self.directory, &temporary.name);
        }
        built.map(|()| image)
    }

    fn fill(
        &self,
        name: &ImageName,
        temporary: &Temporary,
        fill: impl FnOnce(&mut ImageBuilder) -> Result<()>,
    ) -> Result<()> {
        let path = self.directory.join(&temporary.name);
        let layer = path.join(LAYER);
        fs::create_dir(&layer).map_err(|e| Error::os("mkdir", layer.display(), e))?;
        let mut builder = ImageBuilder::new(&layer)?;
        // Of its own accord, not by what the umask left of it: it becomes the container's `/`.
        builder.directory("/", 0o755)?;
        fill(&mut builder)?;
        drop(builder);
        // One flush of the file system instead of one per file.
        syncfs(&temporary.directory).map_err(|e| Error::os("syncfs", path.display(), e))?;
        let target = self.directory.join(name.as_str());
        match renameat_with(CWD, &path, CWD, &target, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(exists(name)),
            Err(error) => return Err(Error::os("renameat2", target.display(), error)),
        }
        sync_parent(&target)?;
        debug!(image = %name, "built image");
        Ok(())
    }

    /// The image of that name, or a new one from `fill` if there is none.
    ///
    /// # Errors
    /// As [`ImageStore::build`], but for the image being there.
    pub fn ensure(
        &self,
        name: &ImageName,
        fill: impl FnOnce(&mut ImageBuilder) -> Result<()>,
    ) -> Result<Image> {
        match self.open(name) {
            Err(Error::NotFound { .. }) => {}
            result => return result,
        }
        match self.build(name, fill) {
            // Another process was faster.
            Err(Error::Differs { .. }) => self.open(name),
            result => result,
        }
    }

    /// The image of that name.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none.
    pub fn open(&self, name: &ImageName) -> Result<Image> {
        let image = self.image(name);
        if image.layers.iter().all(|layer| layer.is_dir()) {
            Ok(image)
        } else {
            Err(Error::NotFound { what: what(name) })
        }
    }

    /// The names of all images, sorted.
    ///
    /// # Errors
    /// [`Error::Os`] if the directory cannot be read.
    pub fn list(&self) -> Result<Vec<ImageName>> {
        let mut names: Vec<ImageName> =
            self.entries()?.into_iter().filter_map(|name| ImageName::new(name).ok()).collect();
        names.sort();
        Ok(names)
    }

    /// Removes the image. One that is gone is removed.
    ///
    /// # Errors
    /// [`Error::Busy`] if an overlay root of this mount namespace is over it; it stays then.
    pub fn remove(&self, name: &ImageName) -> Result<()> {
        let span = info_span!("remove_image", image = %name);
        let _entered = span.enter();
        let path = self.directory.join(name.as_str());
        if let Some(overlay) = overlays()?.iter().find(|overlay| overlay.reads(&path)) {
            let reason = format!("the overlay root {} is over it", overlay.target.display());
            return Err(Error::Busy { what: what(name), reason });
        }
        // Out of sight in one step, so that nobody starts from half an image.
        let hidden = unique("old");
        let renamed = absent_is_none(fs::rename(&path, self.directory.join(&hidden)))
            .map_err(|e| Error::os("rename", path.display(), e))?;
        if renamed.is_some() {
            remove_tree(&self.directory, &hidden)?;
            debug!(image = %name, "removed image");
        }
        Ok(())
    }

    /// Removes what a crash left half-built or half-removed. Says what it removed.
    ///
    /// # Errors
    /// [`Error::Os`] if a directory cannot be read or removed.
    pub fn tidy(&self) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for name in self.entries()? {
            let path = self.directory.join(&name);
            let dead = name.starts_with(".old-") || (name.starts_with(".new-") && !is_locked(&path)?);
            if dead {
                remove_tree(&self.directory, Path::new(&name))?;
                removed.push(format!("unfinished image {}", path.display()));
            }
        }
        Ok(removed)
    }

    fn image(&self, name: &ImageName) -> Image {
        Image { name: name.clone(), layers: vec![self.directory.join(name.as_str()).join(LAYER)] }
    }

    fn entries(&self) -> Result<Vec<String>> {
        fs::read_dir(&self.directory)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>, _>>())
            .map(|names| names.into_iter().filter_map(|name| name.into_string().ok()).collect())
            .map_err(|e| Error::os("getdents", self.directory.display(), e))
    }
}

/// A directory that is being filled; its lock tells that its maker lives.
#[derive(Debug)]
struct Temporary {
    name: PathBuf,
    directory: File,
}

impl Temporary {
    fn make(parent: &Path) -> Result<Self> {
        // Between making and locking another process can take it for a dead one's, and remove it.
        for _ in 0..100 {
            let name = unique("new");
            let path = parent.join(&name);
            make_directory(&path)?;
            let Ok(directory) = File::open(&path) else { continue };
            if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok() && path.exists() {
                return Ok(Self { name, directory });
            }
        }
        Err(Error::Busy {
            what: format!("image store `{}`", parent.display()),
            reason: "new directories vanish".to_owned(),
        })
    }
}

/// A name that no other process or thread chooses at the same time.
fn unique(kind: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    PathBuf::from(format!(".{kind}-{}-{count}-{:x}", std::process::id(), now.as_nanos()))
}

fn is_locked(path: &Path) -> Result<bool> {
    let Ok(directory) = File::open(path) else { return Ok(false) };
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(Error::os("flock", path.display(), error)),
    }
}

fn what(name: &ImageName) -> String {
    format!("image `{name}`")
}

fn exists(name: &ImageName) -> Error {
    Error::Differs { what: what(name), difference: "a new one was to be built; remove it first".to_owned() }
}
