//! Files by name in a directory, or in a tar archive that stands for one.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::error::{Error, Result};
use crate::storage::image::compression::Compression;
use crate::storage::image::layer::member::{Kind, located};
use crate::storage::image::layer::options::UnpackLimits;
use crate::storage::image::layer::reader::TarReader;
use crate::storage::image::oci::DOCUMENT_MAX;
use crate::sys::confined::ConfinedRoot;
use crate::sys::file::absent_is_none;

/// Links that follow each other in an archive.
const LINKS_MAX: usize = 8;
/// What an archive of images may have: its layers are a member each.
const LIMITS: UnpackLimits = UnpackLimits {
    bytes: 1 << 40,
    entries: 100_000,
    file_bytes: 1 << 40,
    path_bytes: 4095,
    path_depth: 16,
    xattr_bytes: 64 << 10,
};

/// A directory, or an archive.
#[derive(Debug)]
pub(crate) struct Files {
    path: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Directory(ConfinedRoot),
    Archive { file: File, members: BTreeMap<Vec<u8>, Found> },
}

#[derive(Debug, Clone)]
enum Found {
    File { offset: u64, size: u64 },
    Link(Vec<u8>),
}

/// What is at `path`, where an image comes from.
pub(crate) fn look(path: &Path) -> Result<Metadata> {
    if !path.is_absolute() {
        return Err(Error::invalid("image source", path.to_string_lossy(), "must be an absolute path"));
    }
    let found = absent_is_none(fs::metadata(path)).map_err(|e| Error::os("stat", path.display(), e))?;
    found.ok_or_else(|| Error::NotFound { what: format!("`{}`", path.display()) })
}

/// A file, or a part of one.
#[derive(Debug)]
pub(crate) struct Part {
    file: File,
    offset: u64,
    left: u64,
}

impl Files {
    /// `path` is a directory or a tar archive. Of an archive all headers are read.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let place = if look(path)?.is_dir() {
            Place::Directory(ConfinedRoot::open(path)?)
        } else {
            let file = open_regular(path)?;
            let members = members(&file, path)?;
            Place::Archive { file, members }
        };
        Ok(Self { path: path.to_owned(), place })
    }

    /// The file `name`. Links lead to files of the same place.
    pub(crate) fn part(&self, name: &str) -> Result<Part> {
        let missing = || Error::NotFound { what: format!("`{name}` in `{}`", self.path.display()) };
        match &self.place {
            Place::Directory(root) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
                let file = match root.open_at(Path::new(name), flags, Mode::empty(), true) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
                    result => result.map_err(|e| Error::os("openat2", root.show(Path::new(name)), e))?,
                };
                Part::whole(File::from(file), &self.path.join(name))
            }
            Place::Archive { file, members } => {
                let mut name = normal(name.as_bytes()).ok_or_else(missing)?;
                for _ in 0..LINKS_MAX {
                    match members.get(&name) {
                        Some(Found::Link(text)) => name = beside(&name, text).ok_or_else(missing)?,
                        Some(&Found::File { offset, size }) => {
                            let file =
                                file.try_clone().map_err(|e| Error::os("dup", self.path.display(), e))?;
                            return Ok(Part { file, offset, left: size });
                        }
                        None => return Err(missing()),
                    }
                }
                Err(missing())
            }
        }
    }

    /// The whole of the document `name`.
    pub(crate) fn document(&self, name: &str) -> Result<Vec<u8>> {
        let part = self.part(name)?;
        let target = self.path.join(name);
        if part.left > DOCUMENT_MAX {
            let rule = format!("must have at most {DOCUMENT_MAX} bytes");
            return Err(Error::invalid("image document", target.to_string_lossy(), rule));
        }
        let mut text = Vec::new();
        part.take(DOCUMENT_MAX + 1)
            .read_to_end(&mut text)
            .map_err(|e| Error::os("read", target.display(), e))?;
        Ok(text)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Part {
    pub(crate) fn whole(file: File, path: &Path) -> Result<Self> {
        let found = file.metadata().map_err(|e| Error::os("fstat", path.display(), e))?;
        if !found.is_file() {
            return Err(Error::invalid("image file", path.to_string_lossy(), "must be a regular file"));
        }
        Ok(Self { file, offset: 0, left: found.len() })
    }

    /// How many bytes it has.
    pub(crate) fn size(&self) -> u64 {
        self.left
    }

    /// What it is compressed with, by its first bytes.
    pub(crate) fn compression(&self) -> std::io::Result<Compression> {
        let mut start = [0; 6];
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(start.len());
        let read = self.file.read_at(&mut start[..most], self.offset)?;
        Ok(Compression::detect(&start[..read]))
    }
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.offset)?;
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// Opens a file that is there, and nothing that would be waited for.
pub(crate) fn open_regular(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => Err(Error::NotFound { what: format!("`{}`", path.display()) }),
        result => Ok(File::from(result.map_err(|e| Error::os("open", path.display(), e))?)),
    }
}

fn members(file: &File, path: &Path) -> Result<BTreeMap<Vec<u8>, Found>> {
    let clone = file.try_clone().map_err(|e| Error::os("dup", path.display(), e))?;
    let whole = Part::whole(clone, path)?;
    if whole.compression().map_err(|e| Error::os("read", path.display(), e))? != Compression::None {
        let rule = "is compressed: decompress it first, its parts are not read in order";
        return Err(Error::invalid("image archive", path.to_string_lossy(), rule));
    }
    let mut reader = TarReader::new(BufReader::with_capacity(256 << 10, whole), LIMITS);
    let mut members = BTreeMap::new();
    let place = format_args!("`{}`", path.display());
    while let Some(member) = reader.next().map_err(|e| located(e, place))? {
        let Some(name) = normal(&member.path) else {
            return Err(member.refused("must not be empty or lead upwards"));
        };
        let link = if let Kind::Symlink(text) | Kind::HardLink(text) = &member.kind { text.len() } else { 0 };
        if name.len().max(link) > LIMITS.path_bytes {
            return Err(member.refused(format!("must have at most {} bytes", LIMITS.path_bytes)));
        }
        let found = match &member.kind {
            Kind::File(content) if content.extents.is_none() => {
                Found::File { offset: reader.position(), size: content.size }
            }
            Kind::File(_) => return Err(member.refused("must not be sparse")),
            Kind::Symlink(text) => Found::Link(text.clone()),
            Kind::HardLink(target) => Found::Link([b"/", target.as_slice()].concat()),
            _ => continue,
        };
        if members.insert(name, found).is_some() {
            return Err(member.refused("is there twice: some readers take the first, some the last"));
        }
    }
    Ok(members)
}

/// The path without empty names and `.`; `None` if it is empty or leads out.
fn normal(path: &[u8]) -> Option<Vec<u8>> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|&b| b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()?),
            name => names.push(name),
        }
    }
    (!names.is_empty()).then(|| names.join(&b'/'))
}

/// What a link called `name` with this text leads to.
fn beside(name: &[u8], text: &[u8]) -> Option<Vec<u8>> {
    if text.starts_with(b"/") {
        return normal(text);
    }
    let above = Path::new(std::ffi::OsStr::from_bytes(name)).parent()?;
    normal(&[above.as_os_str().as_bytes(), b"/", text].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(normal(path.as_bytes()), expected.map(|p| p.as_bytes().to_vec()), "{path}");
        };
        check("./a//b/", Some("a/b"));
        check("a/../b", Some("b"));
        check("a/../../b", None);
        check("", None);
        check("./", None);
        assert_eq!(beside(b"x/layer.tar", b"../y/layer.tar"), Some(b"y/layer.tar".to_vec()));
        assert_eq!(beside(b"x", b"../../etc/shadow"), None);
        assert_eq!(beside(b"x/y", b"/z"), Some(b"z".to_vec()));
    }
}
