//! A layer's archive at its source.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::storage::image::compression::Compression;
use crate::storage::image::digest::{Digest, Hashing};
use crate::storage::image::layer::{PackOptions, pack_layer};
use crate::storage::image::oci::Descriptor;
use crate::storage::image::pipe;
use crate::storage::image::source::files::{Files, Part, look, open_regular};

/// A layer that has not been read yet.
#[derive(Debug)]
pub(crate) struct SourceLayer {
    /// What its archive hashes to, compressed as it is; where the source says so.
    pub(crate) digest: Option<Digest>,
    /// What its uncompressed archive must hash to, where the source says so.
    pub(crate) diff_id: Option<Digest>,
    /// How long its archive is, in bytes; not known of a directory, which is packed when it is read.
    pub(crate) bytes: Option<u64>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Directory(PathBuf),
    File(PathBuf),
    Stored(Arc<Files>, String),
}

impl SourceLayer {
    pub(crate) fn directory(path: &Path) -> Result<Self> {
        if !look(path)?.is_dir() {
            return Err(Error::invalid("image source", path.to_string_lossy(), "must be a directory"));
        }
        let content = Content::Directory(path.to_owned());
        Ok(Self { digest: None, diff_id: None, bytes: None, content })
    }

    pub(crate) fn file(path: &Path) -> Result<Self> {
        look(path)?;
        let part = Part::whole(open_regular(path)?, path)?;
        let content = Content::File(path.to_owned());
        Ok(Self { digest: None, diff_id: None, bytes: Some(part.size()), content })
    }

    /// The blob of a layout that `descriptor` is of, or the file `name`.
    pub(crate) fn blob(files: &Arc<Files>, descriptor: &Descriptor, diff_id: Digest) -> Result<Self> {
        // Before it is looked for: what may not be passed on is not there either.
        let expected = descriptor.layer_compression()?;
        let name = descriptor.blob();
        let part = files.part(&name)?;
        descriptor.check_size(part.size())?;
        let found = part.compression().map_err(|e| Error::os("read", &name, e))?;
        if found != expected {
            let rule = format!("its compression is {found}, its media type says {expected}");
            return Err(Error::invalid("layer", descriptor.digest.to_string(), rule));
        }
        Ok(Self { digest: Some(descriptor.digest), ..Self::named(files, name, diff_id)? })
    }

    /// The file `name` of an archive.
    pub(crate) fn named(files: &Arc<Files>, name: String, diff_id: Digest) -> Result<Self> {
        let bytes = Some(files.part(&name)?.size());
        let content = Content::Stored(Arc::clone(files), name);
        Ok(Self { digest: None, diff_id: Some(diff_id), bytes, content })
    }

    /// Where it is, as errors call it.
    pub(crate) fn place(&self) -> String {
        match &self.content {
            Content::Directory(path) | Content::File(path) => format!("`{}`", path.display()),
            Content::Stored(files, name) => format!("`{name}` in `{}`", files.path().display()),
        }
    }

    /// Reads its archive, compressed as it is. A directory is packed on the way, with gzip. The digest is checked when the
    /// end is reached; an [`enum@Error`] is within the reader's.
    pub(crate) fn open(&self) -> Result<Box<dyn Read + Send>> {
        let part = match &self.content {
            Content::Directory(path) => {
                let path = path.clone();
                let pack = move |output: pipe::Writer| {
                    let options = PackOptions { compression: Compression::Gzip, map_owner: None };
                    pack_layer(&path, output, &options).map(drop)
                };
                return Ok(Box::new(pipe::reader(pack)?));
            }
            Content::File(path) => Part::whole(open_regular(path)?, path)?,
            Content::Stored(files, name) => files.part(name)?,
        };
        Ok(match self.digest {
            None => Box::new(part),
            Some(expected) => Box::new(Verified { reader: Some(Hashing::new(part)), expected }),
        })
    }
}

/// Reads to the end, and fails there if it was not what it should be.
struct Verified {
    reader: Option<Hashing<Part>>,
    expected: Digest,
}

impl Read for Verified {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(reader) = &mut self.reader else { return Ok(0) };
        let read = reader.read(buffer)?;
        if read == 0
            && !buffer.is_empty()
            && let Some(reader) = self.reader.take()
        {
            let (_, digest, _) = reader.finish();
            self.expected.check(digest).map_err(io::Error::other)?;
        }
        Ok(read)
    }
}
