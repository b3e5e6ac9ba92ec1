//! From a tree, which may be the upper directory of an overlay, to an archive; what `unpack` undoes.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, fstat, major, minor, readlinkat, statat};
use rustix::io::Errno;
use serde::Serialize;
use tracing::{debug, info_span};

use crate::error::{Error, Result};
use crate::storage::image::compression::{Compression, Encoder};
use crate::storage::image::digest::{Digest, Hashing};
use crate::storage::image::layer::content;
use crate::storage::image::layer::member::{Content, Kind, Member, OPAQUE, WHITEOUT};
use crate::storage::image::layer::options::UnpackLimits;
use crate::storage::image::layer::tree::mtime;
use crate::storage::image::layer::writer::TarWriter;
use crate::storage::image::layer::xattrs;
use crate::storage::overlay::marks::{self, is_opaque, is_whiteout_device};
use crate::sys::beneath::open_beneath;
use crate::sys::directory::names_backwards;

/// What errors call the tree.
const TREE: &str = "tree to pack";
/// Bytes given to the compressor at once.
const BUFFER: usize = 256 << 10;

/// What may be remembered of files with several names, in bytes: some millions of them, or fewer with long paths. Who made the tree
/// shall not choose how much memory packing it takes.
const LINKS_BYTES_MAX: usize = 256 << 20;
/// What one takes beside its path.
const LINK_OVERHEAD: usize = 64;

/// The owner, as user and group, that the archive names for one of the tree. `None` refuses it.
pub type MapOwner<'a> = &'a dyn Fn(u32, u32) -> Option<(u32, u32)>;

/// How [`pack_layer`] writes an archive.
#[derive(Clone, Copy, Default)]
pub struct PackOptions<'a> {
    /// With what the archive is compressed. Default: gzip.
    pub compression: Compression,
    /// Whose the archive says things are. Default: as in the tree.
    pub map_owner: Option<MapOwner<'a>>,
}

impl fmt::Debug for PackOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let maps = self.map_owner.is_some();
        f.debug_struct("PackOptions").field("compression", &self.compression).field("maps", &maps).finish()
    }
}

/// What was packed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Packed {
    /// The digest of the archive before it was compressed.
    pub diff_id: Digest,
    /// The digest of what was written.
    pub digest: Digest,
    /// Bytes written.
    pub bytes: u64,
    /// Bytes of the archive before it was compressed.
    pub uncompressed_bytes: u64,
    /// Files, directories and so on in it.
    pub entries: u64,
}

/// Packs the directory `tree`: the same tree gives the same archive, byte for byte. Overlayfs' marks of missing files
/// and of directories that hide lower ones become whiteouts. Kept is what [`unpack_layer`](crate::storage::unpack_layer)
/// keeps. Sockets are left out. A directory that something is mounted on is packed empty. No link is followed. Memory grows only
/// with the files that have several names, until the last of them was met: a path for each, 256 MiB at most.
///
/// # Errors
/// - [`Error::Invalid`] if there is a name beginning with `.wh.`, more than the default [`UnpackLimits`] let unpack (of a
///   file with holes its whole length counts), more files with several names than are remembered, or an owner that `map_owner` refuses; or if the tree is an overlay's upper directory that refers to lower layers by
///   `trusted.overlay.redirect` or `trusted.overlay.metacopy`.
/// - [`Error::Busy`] if a file changes while it is read, or something is mounted on it.
/// - [`Error::NoSpace`] if `output` says so; [`Error::Os`] otherwise.
pub fn pack_layer(tree: &Path, output: impl Write, options: &PackOptions<'_>) -> Result<Packed> {
    let span = info_span!("pack_layer", tree = %tree.display());
    let _entered = span.enter();
    let encoder = Encoder::new(output, options.compression)?;
    let mut packing = Packing {
        writer: TarWriter::new(BufWriter::with_capacity(BUFFER, Hashing::new(encoder))),
        tree,
        options,
        path: Vec::new(),
        links: BTreeMap::new(),
        links_bytes: 0,
        entries: 0,
        bytes: 0,
        buffer: vec![0; BUFFER],
    };
    packing.all()?;
    let entries = packing.entries;
    let writing = |e| content::writing(e, 0);
    let buffered = packing.writer.finish().map_err(writing)?;
    let hashing = buffered.into_inner().map_err(|e| writing(e.into_error()))?;
    let (encoder, diff_id, uncompressed_bytes) = hashing.finish();
    let (mut output, compressed) = encoder.finish().map_err(writing)?;
    let (digest, bytes) = compressed.unwrap_or((diff_id, uncompressed_bytes));
    output.flush().map_err(writing)?;
    debug!(%diff_id, %digest, bytes, entries, "packed layer");
    Ok(Packed { diff_id, digest, bytes, uncompressed_bytes, entries })
}

struct Packing<'a, W: Write> {
    writer: TarWriter<W>,
    tree: &'a Path,
    options: &'a PackOptions<'a>,
    /// Of the current member, from the root of the tree; a directory's ends in '/'.
    path: Vec<u8>,
    /// The first path of what has several, and how many of them are still to come, here or elsewhere.
    links: BTreeMap<(u64, u64), (Vec<u8>, u64)>,
    /// What those take of memory, nearly.
    links_bytes: usize,
    entries: u64,
    /// Of all files so far, holes included.
    bytes: u64,
    buffer: Vec<u8>,
}

/// A directory that is being packed.
struct Level {
    fd: OwnedFd,
    /// The names in it that are left, the next one last.
    names: Vec<OsString>,
    /// How long the path of it is.
    path: usize,
}

impl<W: Write> Packing<'_, W> {
    fn all(&mut self) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(self.tree, flags, Mode::empty())
            .map_err(|e| Error::os("open", self.tree.display(), e))?;
        self.path = b"./".to_vec();
        let found = fstat(&root).map_err(|e| self.failed("fstat", e))?;
        self.directory(&root, &found)?;
        self.path.clear();
        let mut levels = vec![self.level(root)?];
        while let Some(level) = levels.last_mut() {
            self.path.truncate(level.path);
            let Some(name) = level.names.pop() else {
                levels.pop();
                continue;
            };
            if let Some(below) = self.entry(&level.fd, name.as_bytes())? {
                levels.push(below);
            }
            let limits = UnpackLimits::default();
            if levels.len() > limits.path_depth || self.path.len() > limits.path_bytes {
                return Err(self.refused("its path is too long or too deep"));
            }
        }
        Ok(())
    }

    /// Packs what is called `name`. A directory is returned, to be gone through.
    fn entry(&mut self, above: &OwnedFd, name: &[u8]) -> Result<Option<Level>> {
        self.path.extend_from_slice(name);
        if name.starts_with(WHITEOUT) {
            return Err(self.refused("names that begin with '.wh.' mean missing files in an archive"));
        }
        let found = statat(above, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
            .map_err(|e| self.failed("fstatat", e))?;
        let kind = FileType::from_raw_mode(found.st_mode);
        if kind == FileType::Directory {
            self.path.push(b'/');
            let fd = match open_beneath(
                above.as_fd(),
                OsStr::from_bytes(name),
                OFlags::RDONLY | OFlags::DIRECTORY,
            ) {
                Err(Errno::XDEV) => return self.write(&self.member(Kind::Directory, &found)?).map(|()| None),
                result => result.map_err(|e| self.failed("openat2", e))?,
            };
            self.directory(&fd, &found)?;
            return self.level(fd).map(Some);
        }
        if is_whiteout_device(&found) {
            let at = self.path.len() - name.len();
            self.path.splice(at..at, WHITEOUT.iter().copied());
            return self.write(&mark(self.path.clone())).map(|()| None);
        }
        if found.st_nlink > 1
            && kind != FileType::Socket
            && let Some(first) = self.link(&found)?
        {
            let member = self.member(Kind::HardLink(first), &found)?;
            return self.write(&Member { xattrs: Vec::new(), ..member }).map(|()| None);
        }
        let (major, minor) = (major(found.st_rdev), minor(found.st_rdev));
        let kind = match kind {
            FileType::RegularFile => return self.file(above, name, &found).map(|()| None),
            FileType::Symlink => {
                let text = readlinkat(above, name, Vec::new()).map_err(|e| self.failed("readlinkat", e))?;
                Kind::Symlink(text.into_bytes())
            }
            FileType::Fifo => Kind::Fifo,
            FileType::CharacterDevice => Kind::CharDevice { major, minor },
            FileType::BlockDevice => Kind::BlockDevice { major, minor },
            _ => {
                debug!(path = %String::from_utf8_lossy(&self.path), "left out a socket");
                return Ok(None);
            }
        };
        self.write(&self.member(kind, &found)?).map(|()| None)
    }

    /// The first path of what has several; `None` if it is this one.
    fn link(&mut self, found: &Stat) -> Result<Option<Vec<u8>>> {
        let inode = (found.st_dev, found.st_ino);
        let Some((first, left)) = self.links.get_mut(&inode) else {
            self.links_bytes += self.path.len() + LINK_OVERHEAD;
            if self.links_bytes > LINKS_BYTES_MAX {
                return Err(
                    self.refused("there are too many files before it whose other names are not in the tree")
                );
            }
            self.links.insert(inode, (self.path.clone(), found.st_nlink - 1));
            return Ok(None);
        };
        *left -= 1;
        if *left > 0 {
            return Ok(Some(first.clone()));
        }
        // That was the last.
        let first = self.links.remove(&inode).map(|(first, _)| first);
        self.links_bytes -= first.as_ref().map_or(0, |first| first.len() + LINK_OVERHEAD);
        Ok(first)
    }

    fn directory(&mut self, fd: &OwnedFd, found: &Stat) -> Result<()> {
        let mut member = self.member(Kind::Directory, found)?;
        member.xattrs = self.xattrs(fd, found)?;
        self.write(&member)?;
        if is_opaque(fd).map_err(|e| self.failed("fgetxattr", e))? {
            self.write(&mark([&self.path, OPAQUE].concat()))?;
        }
        Ok(())
    }

    fn file(&mut self, above: &OwnedFd, name: &[u8], found: &Stat) -> Result<()> {
        let changed = |path: &Path| Error::Busy {
            what: format!("file `{}`", path.display()),
            reason: "it changes while it is packed, or something is mounted on it".to_owned(),
        };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOATIME;
        let file = match open_beneath(above.as_fd(), OsStr::from_bytes(name), flags) {
            Err(Errno::XDEV | Errno::LOOP | Errno::NOENT) => return Err(changed(&self.shown())),
            result => result.map_err(|e| self.failed("openat2", e))?,
        };
        let size = u64::try_from(found.st_size).unwrap_or(0);
        self.bytes = self.bytes.saturating_add(size);
        let limits = UnpackLimits::default();
        // Before it is read: a file of terabytes takes its maker no space, and us hours.
        if size > limits.file_bytes || self.bytes > limits.bytes {
            return Err(self.refused("it is too large to be unpacked again, or all until here is"));
        }
        let mut member = self.member(Kind::File(Content { size, extents: None }), found)?;
        let opened = fstat(&file).map_err(|e| self.failed("fstat", e))?;
        if !same(&opened, found) {
            return Err(changed(&self.shown()));
        }
        member.xattrs = self.xattrs(&file, found)?;
        self.write(&member)?;
        let sparse = u64::try_from(found.st_blocks).unwrap_or(0) * 512 < size;
        let shown = self.shown();
        let whole = content::copy(&file, size, sparse, &mut self.writer, &mut self.buffer, &shown)?;
        let after = fstat(&file).map_err(|e| self.failed("fstat", e))?;
        if !whole || !same(&after, found) {
            return Err(changed(&self.shown()));
        }
        Ok(())
    }

    /// The current member, without attributes that take a descriptor.
    fn member(&self, kind: Kind, found: &Stat) -> Result<Member> {
        let (uid, gid) = match self.options.map_owner {
            None => (found.st_uid, found.st_gid),
            Some(map) => map(found.st_uid, found.st_gid).ok_or_else(|| {
                self.refused(format!("its owner {}:{} has no place in the map", found.st_uid, found.st_gid))
            })?,
        };
        let (path, mode) = (self.path.clone(), found.st_mode & 0o7777);
        Ok(Member { path, kind, mode, uid, gid, mtime: mtime(found), xattrs: Vec::new() })
    }

    fn xattrs(&mut self, fd: &OwnedFd, found: &Stat) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut kept = Vec::new();
        for name in xattrs::names(fd, &mut self.buffer).map_err(|e| self.failed("flistxattr", e))? {
            if marks::ELSEWHERE.iter().any(|mark| mark.as_bytes() == name) {
                let name = String::from_utf8_lossy(&name);
                let rule = format!(
                    "`{name}` means content of a lower layer: mount with redirect_dir=off,metacopy=off"
                );
                return Err(self.refused(rule));
            }
            if !xattrs::is_kept(&name) {
                continue;
            }
            let value =
                xattrs::value(fd, &name, &mut self.buffer).map_err(|e| self.failed("fgetxattr", e))?;
            let owner = (found.st_uid, found.st_gid);
            let value = match self.options.map_owner {
                Some(map) => xattrs::mapped(&name, value, owner, map).ok_or_else(|| {
                    let name = String::from_utf8_lossy(&name);
                    self.refused(format!("its `{name}` names owners without a place in the map"))
                })?,
                None => value,
            };
            kept.push((name, value));
        }
        Ok(kept)
    }

    fn write(&mut self, member: &Member) -> Result<()> {
        self.entries += 1;
        if self.entries > UnpackLimits::default().entries {
            return Err(self.refused("there is more in it than can be unpacked again"));
        }
        self.writer.begin(member).map_err(|e| content::writing(e, member.kind.bytes()))
    }

    fn level(&self, fd: OwnedFd) -> Result<Level> {
        let names = names_backwards(&fd).map_err(|e| self.failed("getdents", e))?;
        Ok(Level { fd, names, path: self.path.len() })
    }

    fn shown(&self) -> PathBuf {
        self.tree.join(OsStr::from_bytes(self.path.strip_prefix(b"./").unwrap_or(&self.path)))
    }

    fn refused(&self, rule: impl Into<String>) -> Error {
        Error::invalid(TREE, self.shown().to_string_lossy(), rule)
    }

    fn failed(&self, call: &'static str, error: Errno) -> Error {
        Error::os(call, self.shown().display(), error)
    }
}

/// An empty file whose name says everything.
fn mark(path: Vec<u8>) -> Member {
    let kind = Kind::File(Content { size: 0, extents: None });
    let mtime = Timespec { tv_sec: 0, tv_nsec: 0 };
    Member { path, kind, mode: 0, uid: 0, gid: 0, mtime, xattrs: Vec::new() }
}

/// Whether it is the same file with the same content.
fn same(one: &Stat, other: &Stat) -> bool {
    let key = |s: &Stat| {
        (s.st_dev, s.st_ino, s.st_mode, s.st_size, s.st_mtime, s.st_mtime_nsec, s.st_ctime, s.st_ctime_nsec)
    };
    key(one) == key(other)
}
