//! Images on their way out: OCI image layouts (`image-layout.md` of `opencontainers/image-spec`), as a directory or as a
//! tar archive of one. `skopeo`, `umoci`, `podman` and `docker load` (from 25 on) take them.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, Timespec, renameat_with, syncfs};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tracing::{debug, info_span};

use crate::error::{Error, Result};
use crate::storage::image::digest::{Digest, Hashing};
use crate::storage::image::documents;
use crate::storage::image::layer::member::{Content, Kind, Member};
use crate::storage::image::layer::writer::TarWriter;
use crate::storage::image::oci::{
    DOCUMENT_MAX, Descriptor, INDEX, Index, Layout, MANIFEST, Manifest, Platform, REF_NAME, parse,
};
use crate::sys::file::sync_parent;
use crate::sys::lock::FileLock;
use crate::sys::space::or_no_space;
use crate::sys::tree::remove_tree;
use crate::sys::unnamed::{publish, unnamed};

/// Where an image is written to, in which form. Nothing may be there yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ImageTarget {
    /// An OCI image layout as a directory.
    OciLayout(PathBuf),
    /// A tar archive of an OCI image layout.
    OciArchive(PathBuf),
}

/// Gives the blob with this digest.
type OpenBlob<'a> = &'a dyn Fn(&Digest) -> Result<File>;

impl ImageTarget {
    /// Writes the image with this manifest, under the name `reference`. Each blob is checked against its digest. The target
    /// appears whole, on the disk, or not at all; the directory above it must exist. Only root may read it.
    pub(crate) fn write(&self, reference: &str, manifest: &Digest, blobs: OpenBlob<'_>) -> Result<()> {
        let path = self.path();
        let span = info_span!("export_image", to = %path.display(), %manifest);
        let _entered = span.enter();
        let invalid = |rule: &str| Error::invalid("image target", path.to_string_lossy(), rule);
        if !path.is_absolute() || path.components().count() < 4 || path.file_name().is_none() {
            return Err(invalid("must be an absolute path at least three levels below '/'"));
        }
        if path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
        let contents = Contents::of(reference, manifest, blobs)?;
        match self {
            Self::OciLayout(path) => directory(path, &contents, blobs),
            Self::OciArchive(path) => archive(path, &contents, blobs),
        }?;
        sync_parent(path)?;
        debug!(to = %path.display(), "exported image");
        Ok(())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        let (Self::OciLayout(path) | Self::OciArchive(path)) = self;
        path
    }
}

/// What is in a layout of one image.
struct Contents {
    layout: Vec<u8>,
    index: Vec<u8>,
    /// All blobs and their sizes, the manifest too.
    blobs: BTreeMap<Digest, u64>,
}

impl Contents {
    fn of(reference: &str, digest: &Digest, blobs: OpenBlob<'_>) -> Result<Self> {
        let mut text = Vec::new();
        blobs(digest)?
            .take(DOCUMENT_MAX)
            .read_to_end(&mut text)
            .map_err(|e| Error::os("read", format_args!("blob {digest}"), e))?;
        digest.check(Digest::of(&text))?;
        let manifest: Manifest = parse("image manifest", &text)?;
        let size = text.len() as u64;
        let mut all = BTreeMap::from([(*digest, size), (manifest.config.digest, manifest.config.size)]);
        all.extend(manifest.layers.iter().map(|layer| (layer.digest, layer.size)));
        let descriptor = Descriptor {
            media_type: manifest.media_type.unwrap_or_else(|| MANIFEST.to_owned()),
            digest: *digest,
            size,
            annotations: BTreeMap::from([(REF_NAME.to_owned(), reference.to_owned())]),
            platform: Some(Platform::host()),
        };
        let media_type = Some(INDEX.to_owned());
        let index = Index { schema_version: 2, media_type, manifests: vec![descriptor] };
        let layout = Layout { image_layout_version: "1.0.0".to_owned() };
        Ok(Self { layout: documents::bytes(&layout)?, index: documents::bytes(&index)?, blobs: all })
    }
}

fn directory(path: &Path, contents: &Contents, blobs: OpenBlob<'_>) -> Result<()> {
    let temporary = Temporary::make(path)?;
    let written = fill(&temporary, contents, blobs).and_then(|()| temporary.publish(path));
    if written.is_err() {
        // The first error is the one to tell; the next export to the same place removes what this cannot.
        let _ = remove_tree(&temporary.parent, Path::new(&temporary.name));
    }
    written
}

fn fill(temporary: &Temporary, contents: &Contents, blobs: OpenBlob<'_>) -> Result<()> {
    let root = temporary.parent.join(&temporary.name);
    for name in ["blobs", "blobs/sha256"] {
        let path = root.join(name);
        DirBuilder::new().mode(0o700).create(&path).map_err(|e| failed("mkdir", &path, 0, e))?;
    }
    let put = |name: &str, content: &mut dyn Read, bytes: u64| {
        let path = root.join(name);
        let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut file = create().map_err(|e| failed("open", &path, bytes, e))?;
        io::copy(content, &mut file).map(drop).map_err(|e| failed("write", &path, bytes, e))
    };
    put("oci-layout", &mut &*contents.layout, 0)?;
    put("index.json", &mut &*contents.index, 0)?;
    for (digest, size) in &contents.blobs {
        let mut blob = Hashing::new(blobs(digest)?);
        put(&format!("blobs/sha256/{}", digest.hex()), &mut blob, *size)?;
        check(blob, digest, *size)?;
    }
    // One flush of the file system instead of one per file.
    let flushed = File::open(&root).map_err(|e| Error::os("open", root.display(), e))?;
    syncfs(&flushed).map_err(|e| Error::os("syncfs", root.display(), e))
}

/// The file has no name until it is whole.
fn archive(path: &Path, contents: &Contents, blobs: OpenBlob<'_>) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let file = unnamed(parent)?;
    let failed = |bytes: u64| move |e: io::Error| failed("write", path, bytes, e);
    let mut writer = TarWriter::new(BufWriter::with_capacity(256 << 10, &file));
    let mut put = |name: String, content: &mut dyn Read, size: u64| {
        writer.begin(&member(name, size)).map_err(failed(size))?;
        // A blob that is longer than it should be is not what its digest says; the archive stays well-formed until then.
        io::copy(&mut content.take(size), &mut writer).map(drop).map_err(failed(size))
    };
    put("oci-layout".to_owned(), &mut &*contents.layout, contents.layout.len() as u64)?;
    put("index.json".to_owned(), &mut &*contents.index, contents.index.len() as u64)?;
    for (digest, size) in &contents.blobs {
        let mut blob = Hashing::new(blobs(digest)?);
        put(format!("blobs/sha256/{}", digest.hex()), &mut blob, *size)?;
        check(blob, digest, *size)?;
    }
    writer.finish().and_then(|mut buffered| buffered.flush()).map_err(failed(0))?;
    file.sync_all().map_err(|e| Error::os("fsync", path.display(), e))?;
    if publish(&file, path)? { Ok(()) } else { Err(exists(path)) }
}

/// The directory beside the target that becomes it. The lock on it tells that its maker lives.
struct Temporary {
    parent: PathBuf,
    name: PathBuf,
    _lock: FileLock,
}

impl Temporary {
    fn make(target: &Path) -> Result<Self> {
        let parent = target.parent().unwrap_or(Path::new("/")).to_owned();
        let mut name = std::ffi::OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        name.push(".new");
        let name = PathBuf::from(name);
        let path = parent.join(&name);
        let busy = || Error::Busy {
            what: format!("image target `{}`", target.display()),
            reason: "another process is writing it".to_owned(),
        };
        // Others may write to the directory above: a link is not followed, and a fifo not waited for.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || {
            let opened = rustix::fs::open(&path, flags, Mode::empty());
            opened.map(File::from).map_err(|e| Error::os("open", path.display(), e))
        };
        // What a killed one left is removed, and made again.
        for _ in 0..2 {
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    open()?; // only a directory can be one of ours
                    let _left = FileLock::try_existing(&path)?.ok_or_else(busy)?;
                    remove_tree(&parent, &name)?;
                    continue;
                }
                Err(error) => return Err(failed("mkdir", &path, 0, error)),
            }
            let lock = FileLock::try_existing(&path)?.ok_or_else(busy)?;
            return Ok(Self { parent, name, _lock: lock });
        }
        Err(busy())
    }

    fn publish(&self, target: &Path) -> Result<()> {
        match renameat_with(CWD, self.parent.join(&self.name), CWD, target, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => Err(exists(target)),
            result => result.map_err(|e| Error::os("renameat2", target.display(), e)),
        }
    }
}

/// Whether a blob that was copied was what it should be.
fn check(mut blob: Hashing<File>, digest: &Digest, size: u64) -> Result<()> {
    // Anything after the size that was asked for changes the digest.
    io::copy(&mut blob, &mut io::sink()).map_err(|e| Error::os("read", format_args!("blob {digest}"), e))?;
    let (_, found, bytes) = blob.finish();
    if bytes != size {
        let reason = format!("it has {bytes} bytes instead of {size}");
        return Err(Error::Damaged { what: format!("blob {digest}"), reason });
    }
    digest.check(found)
}

fn member(name: String, size: u64) -> Member {
    let kind = Kind::File(Content { size, extents: None });
    let mtime = Timespec { tv_sec: 0, tv_nsec: 0 };
    Member { path: name.into_bytes(), kind, mode: 0o644, uid: 0, gid: 0, mtime, xattrs: Vec::new() }
}

fn exists(path: &Path) -> Error {
    let what = format!("image target `{}`", path.display());
    Error::Differs { what, difference: "an image was to be written there; remove it first".to_owned() }
}

fn failed(call: &'static str, path: &Path, needed_bytes: u64, error: io::Error) -> Error {
    let (what, parent) = (format!("`{}`", path.display()), path.parent().unwrap_or(Path::new("/")));
    or_no_space(Error::os(call, path.display(), error), what, Some(needed_bytes), parent)
}
