//! Looking into layers as an overlay of them would, without one (kernel `Documentation/filesystems/overlayfs.rst`:
//! whiteouts, opaque directories, merged directories). No link is followed but by [`Lowers::resolve`].

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, readlinkat};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::storage::overlay::marks::{is_opaque, is_whiteout};
use crate::storage::overlay::plan::OverlayLayers;
use crate::sys::beneath::open_beneath;

/// How many links are followed before it is a loop; as the kernel.
const LINKS_MAX: usize = 40;

/// Layers, the uppermost first.
#[derive(Debug)]
pub(super) struct Lowers {
    roots: Vec<(OwnedFd, PathBuf)>,
}

/// A path in layers.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// From the root.
    path: PathBuf,
    /// The layers whose directories of that path are merged; of anything but a directory, none.
    merged: Vec<usize>,
}

/// What layers have under one path.
pub(super) struct Entry {
    /// Opened with `O_PATH`.
    pub(super) file: OwnedFd,
    pub(super) found: Stat,
    pub(super) place: Place,
}

impl Entry {
    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.found.st_mode)
    }
}

impl OverlayLayers {
    /// What an overlay of these layers has at `path`, without mounting one: a file of an upper layer hides that of a
    /// lower one, and so does its removal there. `path` is the container's; links are followed as they will be in it, so
    /// none leads out of the layers. `None` if there is nothing, or links lead in a circle.
    ///
    /// # Errors
    /// [`Error::Os`] if a layer cannot be read.
    pub fn metadata(&self, path: &Path) -> Result<Option<Metadata>> {
        let Some(entry) = Lowers::open(&self.layers)?.resolve(path)? else { return Ok(None) };
        File::from(entry.file).metadata().map(Some).map_err(|e| Error::os("fstat", path.display(), e))
    }
}

impl Lowers {
    pub(super) fn open(layers: &[PathBuf]) -> Result<Self> {
        let open = |layer: &PathBuf| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(layer, flags, Mode::empty())
                .map(|root| (root, layer.clone()))
                .map_err(|e| Error::os("open", layer.display(), e))
        };
        Ok(Self { roots: layers.iter().map(open).collect::<Result<_>>()? })
    }

    /// The directory above all.
    pub(super) fn root(&self) -> Result<Option<Entry>> {
        self.merge(&(0..self.roots.len()).collect::<Vec<_>>(), PathBuf::new())
    }

    /// What there is under `name` in the directory `above`.
    pub(super) fn child(&self, above: &Place, name: &OsStr) -> Result<Option<Entry>> {
        self.merge(&above.merged, above.path.join(name))
    }

    fn merge(&self, candidates: &[usize], path: PathBuf) -> Result<Option<Entry>> {
        let mut entry: Option<Entry> = None;
        for index in candidates {
            let Some((root, layer)) = self.roots.get(*index) else { continue };
            let failed = |call: &'static str| {
                let path = layer.join(&path);
                move |e: Errno| Error::os(call, path.display(), e)
            };
            let file = match open_beneath(root.as_fd(), &path, OFlags::PATH) {
                Ok(file) => file,
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                Err(error) => return Err(failed("openat2")(error)),
            };
            let found = fstat(&file).map_err(failed("fstat"))?;
            if is_whiteout(&file, &found).map_err(failed("getxattr"))? {
                break;
            }
            let directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
            // The root of a layer hides no other layer.
            let last = !directory
                || (!path.as_os_str().is_empty() && is_opaque(&file).map_err(failed("getxattr"))?);
            match &mut entry {
                None => {
                    let merged = if directory { vec![*index] } else { Vec::new() };
                    entry = Some(Entry { file, found, place: Place { path: path.clone(), merged } });
                }
                Some(upper) if directory && !upper.place.merged.is_empty() => upper.place.merged.push(*index),
                Some(_) => {}
            }
            if last {
                break;
            }
        }
        Ok(entry)
    }

    /// What there is at `path`, which begins at the root. Links are followed, and none leads out.
    fn resolve(&self, path: &Path) -> Result<Option<Entry>> {
        let mut todo = components(path);
        let Some(root) = self.root()? else { return Ok(None) };
        let mut way = vec![root.place];
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                way.truncate(way.len().saturating_sub(1).max(1));
                continue;
            }
            let Some(above) = way.last() else { return Ok(None) };
            let Some(entry) = self.child(above, &name)? else { return Ok(None) };
            match entry.kind() {
                FileType::Directory => way.push(entry.place),
                FileType::Symlink => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Ok(None);
                    }
                    let text = readlinkat(&entry.file, "", Vec::new())
                        .map_err(|e| Error::os("readlinkat", entry.place.path.display(), e))?;
                    let text = PathBuf::from(OsString::from_vec(text.into_bytes()));
                    if text.is_absolute() {
                        way.truncate(1);
                    }
                    for name in components(&text).into_iter().rev() {
                        todo.push_front(name);
                    }
                }
                _ if todo.is_empty() => return Ok(Some(entry)),
                _ => return Ok(None),
            }
        }
        way.pop().map_or(Ok(None), |place| self.merge(&place.merged, place.path))
    }
}

/// The names of a path, and `..`.
fn components(path: &Path) -> VecDeque<OsString> {
    let named = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(named).collect()
}
