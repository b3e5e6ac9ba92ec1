//! From an archive to a tree that overlayfs takes as a layer (OCI image specification, `layer.md`; kernel
//! `Documentation/filesystems/overlayfs.rst`, "whiteouts and opaque directories").

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use rustix::fs::FileType;
use serde::Serialize;
use tracing::{debug, info_span};

use crate::error::{Error, Result};
use crate::storage::image::compression::{Compression, Decoder};
use crate::storage::image::digest::{Digest, Hashing};
use crate::storage::image::layer::diff_id::mismatch;
use crate::storage::image::layer::member::{Content, Kind, Member, OPAQUE, WHITEOUT};
use crate::storage::image::layer::options::{DeviceNodes, UnpackOptions};
use crate::storage::image::layer::reader::{TarReader, reading};
use crate::storage::image::layer::sparse::Extent;
use crate::storage::image::layer::tree::FreshTree;
use crate::storage::image::layer::xattrs;

/// Bytes read and written at once.
const BUFFER: usize = 256 << 10;
/// A run of this many zeros, where a multiple of it begins, becomes a hole.
const HOLE: usize = 64 << 10;
const HOLE_STEP: i64 = 64 << 10;
/// The kernel's longest name, and longest text of a link, in bytes.
const NAME_MAX: usize = 255;
const PATH_MAX: usize = 4095;
/// Between two calls of the callback at least so much is read, in bytes.
const PROGRESS_STEP: u64 = 4 << 20;

/// How far unpacking has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnpackProgress {
    /// Bytes of the archive that were read, compressed as it is.
    pub bytes: u64,
    /// Members of the archive that were seen.
    pub entries: u64,
}

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unpacked {
    /// The digest of the uncompressed archive, by which OCI image configurations know a layer.
    pub diff_id: Digest,
    /// Bytes of the uncompressed archive.
    pub bytes: u64,
    /// Members of the archive, extended headers included.
    pub entries: u64,
    /// What the archive was compressed with.
    pub compression: Compression,
    /// Directories that the archive names only in the paths of others. They look as in the layers below, or have mode 0755
    /// and are root's, of 1970. If there are none, the tree is the same whatever is below it.
    pub implied_directories: u64,
    /// Device nodes that were left out.
    pub skipped_devices: u64,
}

/// Unpacks a layer into the empty directory `into`, which the caller makes and nobody else writes to. The archive is a
/// tar archive of any kind, compressed with gzip, zstd, xz or nothing. Memory does not grow with it.
///
/// Whiteouts become what overlayfs has for them: a device 0:0 for a missing file, `trusted.overlay.opaque` on a
/// directory that hides lower ones; wherever in the archive they are. Owners, set-id bits, times, holes and the
/// extended attributes `user.*`, `security.capability` and `system.posix_acl_*` are kept, others left out. Leading
/// `/` are dropped. Links are made and never followed. `progress` is called now and then. Nothing is flushed.
///
/// # Errors
/// - [`Error::Invalid`] naming the member, if the archive leads out of the tree, through a link or to a file it
///   does not have, or exceeds a limit.
/// - [`Error::Damaged`] if it is cut off, continued, malformed, or not what `options.diff_id` says.
/// - [`Error::NoSpace`] if the disk or a quota is full; [`Error::Os`] for what else the kernel refuses.
///
/// What was unpacked until then stays: [`remove_tree`](crate::storage::remove_tree) removes it.
pub fn unpack_layer(
    archive: impl Read,
    into: &Path,
    options: &UnpackOptions,
    progress: &mut dyn FnMut(UnpackProgress),
) -> Result<Unpacked> {
    let span = info_span!("unpack_layer", into = %into.display());
    let _entered = span.enter();
    let mut entries = fs::read_dir(into).map_err(|e| Error::os("getdents", into.display(), e))?;
    if entries.next().is_some() {
        let what = format!("directory `{}`", into.display());
        return Err(Error::Differs { what, difference: "it must be empty".to_owned() });
    }
    let read = Cell::new(0);
    let decoder = Decoder::new(Counting { inner: archive, bytes: &read }).map_err(reading)?;
    let compression = decoder.compression();
    let mut unpacking = Unpacking {
        reader: TarReader::new(Hashing::new(decoder), options.limits),
        tree: FreshTree::open(into, &options.lower)?,
        options,
        buffer: vec![0; BUFFER],
        skipped_devices: 0,
        read: &read,
        reported: 0,
        progress,
    };
    unpacking.all()?;
    let implied_directories = unpacking.tree.implied();
    let (reader, skipped_devices) = (unpacking.reader, unpacking.skipped_devices);
    let entries = reader.entries();
    let (_, diff_id, bytes) = reader.into_inner().finish();
    if let Some(expected) = options.diff_id.filter(|expected| *expected != diff_id) {
        return Err(mismatch(&expected, &diff_id));
    }
    debug!(%diff_id, bytes, entries, "unpacked layer");
    Ok(Unpacked { diff_id, bytes, entries, compression, implied_directories, skipped_devices })
}

struct Unpacking<'a, R> {
    reader: TarReader<R>,
    tree: FreshTree,
    options: &'a UnpackOptions,
    buffer: Vec<u8>,
    skipped_devices: u64,
    read: &'a Cell<u64>,
    reported: u64,
    progress: &'a mut dyn FnMut(UnpackProgress),
}

impl<R: Read> Unpacking<'_, R> {
    fn all(&mut self) -> Result<()> {
        while let Some(mut member) = self.reader.next()? {
            member.xattrs.retain(|(name, _)| xattrs::is_kept(name));
            self.check_xattrs(&member)?;
            self.one(&member)?;
            if self.read.get() - self.reported >= PROGRESS_STEP {
                self.report();
            }
        }
        self.report();
        self.tree.finish()
    }

    fn report(&mut self) {
        self.reported = self.read.get();
        (self.progress)(UnpackProgress { bytes: self.reported, entries: self.reader.entries() });
    }

    fn one(&mut self, member: &Member) -> Result<()> {
        let names = self.names(&member.path, member)?;
        let Some((name, directories)) = names.split_last() else {
            self.tree.enter(&[], member)?;
            return match member.kind {
                Kind::Directory => self.tree.root(member),
                _ => Err(member.refused("has no name")),
            };
        };
        if directories.iter().any(|name| name.starts_with(WHITEOUT)) {
            return Err(member.refused("is beneath a whiteout"));
        }
        if self.is_left_out(member, &names)? {
            self.skipped_devices += 1;
            return Ok(());
        }
        if *name != OPAQUE
            && let Some(hidden) = name.strip_prefix(WHITEOUT)
        {
            return self.hide(hidden, directories, member);
        }
        self.tree.enter(directories, member)?;
        if *name == OPAQUE {
            return self.tree.opaque();
        }
        match &member.kind {
            Kind::Directory => self.tree.directory(name, member),
            Kind::File(content) => {
                let mut file = self.tree.file(name)?;
                self.write(&mut file, content, member)?;
                self.tree.complete(&file, member)
            }
            Kind::Symlink(text) if text.is_empty() || text.len() > PATH_MAX || text.contains(&0) => {
                Err(member.refused("is a link with an empty, overlong or broken text"))
            }
            Kind::Symlink(text) => self.tree.symlink(name, text, member),
            Kind::HardLink(target) => self.tree.hard_link(name, &self.names(target, member)?),
            Kind::Fifo => self.tree.node(name, FileType::Fifo, (0, 0), member),
            Kind::CharDevice { major: 0, minor: 0 } => {
                Err(member.refused("is a device 0:0, which is a whiteout to overlayfs"))
            }
            &Kind::CharDevice { major, minor } => {
                self.tree.node(name, FileType::CharacterDevice, (major, minor), member)
            }
            &Kind::BlockDevice { major, minor } => {
                self.tree.node(name, FileType::BlockDevice, (major, minor), member)
            }
        }
    }

    fn hide(&mut self, hidden: &[u8], directories: &[&[u8]], member: &Member) -> Result<()> {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(member.refused("is a whiteout of nothing"));
        }
        // Those that begin with it again are notes of the file system that layers once were on.
        if !hidden.starts_with(WHITEOUT) && self.tree.enter_to_hide(directories, member)? {
            self.tree.whiteout(hidden)?;
        }
        Ok(())
    }

    /// The names in `path`, from the root.
    fn names<'p>(&self, path: &'p [u8], member: &Member) -> Result<Vec<&'p [u8]>> {
        let limits = &self.options.limits;
        let names: Vec<&[u8]> =
            path.split(|&b| b == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
        let rule = if path.is_empty() {
            "has an empty path"
        } else if path.contains(&0) {
            "has a zero byte in its path"
        } else if names.contains(&&b".."[..]) {
            "leads upwards with '..'"
        } else if path.len() > limits.path_bytes {
            "has too long a path: raise `UnpackLimits::path_bytes`"
        } else if names.len() > limits.path_depth {
            "is too deep: raise `UnpackLimits::path_depth`"
        } else if names.iter().any(|name| name.len() > NAME_MAX) {
            "has a name of more than 255 bytes"
        } else {
            return Ok(names);
        };
        Err(member.refused(rule))
    }

    fn check_xattrs(&self, member: &Member) -> Result<()> {
        let bytes: usize = member.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > self.options.limits.xattr_bytes {
            return Err(member.refused("has too large attributes: raise `UnpackLimits::xattr_bytes`"));
        }
        Ok(())
    }

    fn is_left_out(&self, member: &Member, names: &[&[u8]]) -> Result<bool> {
        let is_device = matches!(member.kind, Kind::CharDevice { .. } | Kind::BlockDevice { .. })
            && !names.last().is_some_and(|name| name.starts_with(WHITEOUT));
        match self.options.device_nodes {
            DeviceNodes::LeaveOutOfDev if is_device && names[0] == b"dev" => Ok(true),
            DeviceNodes::LeaveOutOfDev if is_device => {
                Err(member.refused("is a device node: `DeviceNodes::Make` allows them"))
            }
            DeviceNodes::LeaveOutOfDev | DeviceNodes::Make => Ok(false),
        }
    }

    fn write(&mut self, file: &mut File, content: &Content, member: &Member) -> Result<()> {
        if content.size > self.options.limits.file_bytes {
            return Err(member.refused("is too large: raise `UnpackLimits::file_bytes`"));
        }
        let whole = [Extent { offset: 0, length: content.size }];
        for extent in content.extents.as_deref().unwrap_or(&whole) {
            self.write_extent(file, *extent)?;
        }
        // What follows the last data is a hole.
        file.set_len(content.size).map_err(|e| self.tree.failed("ftruncate", e))
    }

    fn write_extent(&mut self, file: &mut File, extent: Extent) -> Result<()> {
        let mut left = extent.length;
        file.seek(SeekFrom::Start(extent.offset)).map_err(|e| self.tree.failed("lseek", e))?;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
            let chunk = &mut self.buffer[..most];
            self.reader.read_exact(chunk).map_err(reading)?;
            left -= most as u64;
            for run in chunk.chunks(HOLE) {
                let wrote = if run.len() == HOLE && is_zero(run) {
                    file.seek_relative(HOLE_STEP)
                } else {
                    file.write_all(run)
                };
                wrote.map_err(|e| self.tree.failed("write", e))?;
            }
            if self.read.get() - self.reported >= PROGRESS_STEP {
                self.report();
            }
        }
        Ok(())
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // Most data shows what it is in its first bytes; the comparison of the rest is `memcmp`.
    bytes[..16].iter().all(|&b| b == 0) && bytes[16..] == bytes[..bytes.len() - 16]
}

struct Counting<'a, R> {
    inner: R,
    bytes: &'a Cell<u64>,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes.set(self.bytes.get() + read as u64);
        Ok(read)
    }
}
