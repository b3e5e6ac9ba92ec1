//! Filling an image. No path given here can leave the image, whatever links are in it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, fchmod};

use crate::error::{Error, Result};
use crate::sys::confined::ConfinedRoot;

/// Puts files into an image that is being built. Paths are the container's: `/bin/sh`. Directories above them are
/// made as needed (mode 0755). No link on the way is followed. All belong to root.
#[derive(Debug)]
pub struct ImageBuilder {
    root: ConfinedRoot,
}

impl ImageBuilder {
    pub(crate) fn new(layer: &Path) -> Result<Self> {
        Ok(Self { root: ConfinedRoot::open(layer)? })
    }

    /// Makes a directory, or changes the mode of one that was made before.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `path` has `..` in it; [`Error::Os`] if it is something else already.
    pub fn directory(&mut self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        let path = check(path.as_ref())?;
        self.root.create_dir_all(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = self
            .root
            .open_at(path, flags, Mode::empty(), false)
            .map_err(|e| Error::os("openat2", path.display(), e))?;
        // The umask has no say in what an image is.
        fchmod(opened, Mode::from_raw_mode(mode)).map_err(|e| Error::os("fchmod", path.display(), e))
    }

    /// Copies the file `source` of the host.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `path` has `..` in it or `source` is relative; [`Error::Os`] if `source` cannot be read or
    /// `path` not be written.
    pub fn copy_file(&mut self, source: impl AsRef<Path>, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        let source = source.as_ref();
        if !source.is_absolute() {
            let rule = "must be an absolute path";
            return Err(Error::invalid("file to copy", source.to_string_lossy(), rule));
        }
        let mut from = File::open(source).map_err(|e| Error::os("open", source.display(), e))?;
        let metadata = from.metadata().map_err(|e| Error::os("fstat", source.display(), e))?;
        if !metadata.is_file() {
            let rule = "must be a regular file";
            return Err(Error::invalid("file to copy", source.to_string_lossy(), rule));
        }
        let path = path.as_ref();
        let mut to = self.create(path, mode)?;
        let failed = |e| Error::os("copy", format!("{} to {}", source.display(), self.root.show(path)), e);
        io::copy(&mut from, &mut to).map_err(failed)?;
        Ok(())
    }

    /// Writes a file with this content.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `path` has `..` in it; [`Error::Os`] if it cannot be written.
    pub fn write_file(&mut self, path: impl AsRef<Path>, content: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let path = path.as_ref();
        let mut file = self.create(path, mode)?;
        file.write_all(content.as_ref()).map_err(|e| Error::os("write", self.root.show(path), e))
    }

    /// Makes a symbolic link with the text `target`, which may point anywhere: it is the container's.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `path` has `..` in it; [`Error::Os`] if there is something already.
    pub fn symlink(&mut self, path: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<()> {
        self.root.create_symlink(check(path.as_ref())?, target.as_ref())
    }

    fn create(&self, path: &Path, mode: u32) -> Result<File> {
        let file = File::from(self.root.create_file(check(path)?, 0o600)?);
        let failed = |call: &'static str, e: io::Error| Error::os(call, path.display(), e);
        file.set_len(0).map_err(|e| failed("ftruncate", e))?;
        fchmod(&file, Mode::from_raw_mode(mode)).map_err(|e| failed("fchmod", e.into()))?;
        Ok(file)
    }
}

fn check(path: &Path) -> Result<&Path> {
    if path.components().any(|c| c == Component::ParentDir) {
        return Err(Error::invalid("path in an image", path.to_string_lossy(), "must not contain '..'"));
    }
    Ok(path)
}
