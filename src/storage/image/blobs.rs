//! Files that are called by the digest of what they hold (OCI `image-layout.md`, "Blobs").
//!
//! ```text
//! DIR/blobs/sha256/HEX   whole, and on the disk; never changed
//! DIR/condemned/HEX      about to be removed, unless somebody turns out to need it
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::storage::image::digest::{Digest, Hashing};
use crate::storage::image::layer::reader::reading;
use crate::storage::image::staging::{Staging, entries, modified};
use crate::sys::directory::make_directory;
use crate::sys::file::{absent_is_none, remove_file, sync_parent};
use crate::sys::space::or_no_space;

/// Bytes copied at once.
const BUFFER: usize = 256 << 10;

/// The blobs of an image store, shared by its hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blobs {
    directory: PathBuf,
}

impl Blobs {
    /// The blobs beneath `directory`. What is missing of its directories is made.
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        let blobs = Self { directory: directory.to_owned() };
        for path in [directory.join("blobs"), blobs.whole(), blobs.condemned()] {
            make_directory(&path)?;
        }
        Ok(blobs)
    }

    fn whole(&self) -> PathBuf {
        self.directory.join("blobs/sha256")
    }

    fn condemned(&self) -> PathBuf {
        self.directory.join("condemned")
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.whole().join(digest.hex())
    }

    /// Opens a blob for reading. One that was condemned too early is taken back.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is missing, though something is made of it.
    pub(crate) fn open(&self, digest: &Digest) -> Result<File> {
        if let Some(file) = self.try_open(digest)? {
            return Ok(file);
        }
        self.restore(digest)?;
        self.try_open(digest)?.ok_or_else(|| Error::Damaged {
            what: what(digest),
            reason: "it is missing; import what it belongs to again".to_owned(),
        })
    }

    fn try_open(&self, digest: &Digest) -> Result<Option<File>> {
        let path = self.path(digest);
        let open = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path);
        absent_is_none(open).map_err(|e| Error::os("open", path.display(), e))
    }

    /// Reads a small blob whole, and checks it.
    pub(crate) fn read(&self, digest: &Digest, limit_bytes: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = self.open(digest)?;
        file.take(limit_bytes).read_to_end(&mut bytes).map_err(|e| Error::os("read", what(digest), e))?;
        digest.check(Digest::of(&bytes))?;
        Ok(bytes)
    }

    /// Whether the blob is there and holds what its name says. It is read in full. `None` if it is missing.
    pub(crate) fn verify(&self, digest: &Digest) -> Result<Option<u64>> {
        let Some(file) = self.try_open(digest)? else { return Ok(None) };
        let mut reader = Hashing::new(file);
        io::copy(&mut reader, &mut io::sink()).map_err(|e| Error::os("read", what(digest), e))?;
        let (_, found, bytes) = reader.finish();
        digest.check(found)?;
        Ok(Some(bytes))
    }

    /// Whether the blob is there, or can be taken back. It is not read.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        let (whole, condemned) = (self.path(digest), self.condemned().join(digest.hex()));
        // Looked for again: it may have been taken back in between.
        whole.is_file() || condemned.is_file() || whole.is_file()
    }

    /// Keeps a blob that is there and good, by reading it in full; else writes it from `source`. Returns its size.
    pub(crate) fn ensure<R: Read>(
        &self,
        staging: &mut Staging,
        digest: &Digest,
        source: impl FnOnce() -> Result<R>,
    ) -> Result<u64> {
        staging.pin([digest])?;
        // Altered, it is written anew.
        if let Ok(Some(bytes)) = self.verify(digest) {
            // As if it had been written now, for collections that go by age.
            let touched = File::open(self.path(digest)).and_then(|file| file.set_modified(SystemTime::now()));
            touched.map_err(|e| Error::os("utimensat", what(digest), e))?;
            return Ok(bytes);
        }
        let (_, bytes) = self.write(staging, |file| {
            let (found, bytes) = self.pour(source()?, file)?;
            digest.check(found)?;
            Ok((found, bytes))
        })?;
        Ok(bytes)
    }

    /// Stores what `source` holds. Returns its digest and size.
    pub(crate) fn copy(&self, staging: &mut Staging, source: impl Read) -> Result<(Digest, u64)> {
        self.write(staging, |file| self.pour(source, file))
    }

    /// Stores these bytes.
    pub(crate) fn add(&self, staging: &mut Staging, content: &[u8]) -> Result<Digest> {
        self.copy(staging, content).map(|(digest, _)| digest)
    }

    fn pour(&self, source: impl Read, file: &mut File) -> Result<(Digest, u64)> {
        let mut source = Hashing::new(source);
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(reading(error)),
            };
            file.write_all(&buffer[..read])
                .map_err(|e| self.failed("write", "an image's blob".to_owned(), e))?;
        }
        let (_, digest, bytes) = source.finish();
        Ok((digest, bytes))
    }

    /// Stores what `fill` writes, of which it says the digest.
    pub(crate) fn write<T>(
        &self,
        staging: &mut Staging,
        fill: impl FnOnce(&mut File) -> Result<(Digest, T)>,
    ) -> Result<(Digest, T)> {
        let path = staging.global_path()?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut file = file.map_err(|e| Error::os("open", path.display(), e))?;
        let (digest, filled) = fill(&mut file)?;
        file.sync_all().map_err(|e| self.failed("fsync", path.display().to_string(), e))?;
        staging.pin([&digest])?;
        // In the place of one that is there: what was just written is known to be good.
        fs::rename(&path, self.path(&digest)).map_err(|e| Error::os("rename", path.display(), e))?;
        Ok((digest, filled))
    }

    /// Makes it durable that the blobs written so far are there.
    pub(crate) fn sync(&self) -> Result<()> {
        sync_parent(&self.whole().join("any"))
    }

    fn failed(&self, call: &'static str, target: String, error: io::Error) -> Error {
        let what = format!("an image's blobs in {}", self.directory.display());
        or_no_space(Error::os(call, target, error), what, None, &self.directory)
    }

    /// Every blob with its size and when it was written or last needed.
    pub(crate) fn list(&self) -> Result<Vec<(Digest, u64, SystemTime)>> {
        let mut blobs = Vec::new();
        for name in entries(&self.whole())? {
            let path = self.whole().join(&name);
            // What has another name is none of ours; what goes meanwhile is not there.
            if let (Ok(digest), Ok(metadata)) =
                (format!("sha256:{name}").parse(), fs::symlink_metadata(&path))
                && let Some(time) = modified(&path)
            {
                blobs.push((digest, metadata.len(), time));
            }
        }
        Ok(blobs)
    }

    /// Takes a blob out of use, so that nobody begins to rely on it any more.
    pub(crate) fn condemn(&self, digest: &Digest) -> Result<()> {
        let path = self.path(digest);
        absent_is_none(fs::rename(&path, self.condemned().join(digest.hex())))
            .map(drop)
            .map_err(|e| Error::os("rename", path.display(), e))
    }

    /// Every condemned blob with its size, those of earlier collections that were cut off too.
    pub(crate) fn list_condemned(&self) -> Result<Vec<(Digest, u64)>> {
        let mut blobs = Vec::new();
        for name in entries(&self.condemned())? {
            let size =
                fs::symlink_metadata(self.condemned().join(&name)).map_or(0, |metadata| metadata.len());
            blobs.extend(format!("sha256:{name}").parse().ok().map(|digest| (digest, size)));
        }
        Ok(blobs)
    }

    /// Takes a condemned blob back. One that was not condemned stays as it is, also if it was stored anew meanwhile.
    pub(crate) fn restore(&self, digest: &Digest) -> Result<()> {
        let path = self.condemned().join(digest.hex());
        match absent_is_none(fs::hard_link(&path, self.path(digest))) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(Error::os("link", path.display(), error))
            }
            Ok(None) => Ok(()),
            _ => remove_file(&path),
        }
    }

    /// Removes a condemned blob for good.
    pub(crate) fn execute(&self, digest: &Digest) -> Result<()> {
        remove_file(&self.condemned().join(digest.hex()))
    }
}

fn what(digest: &Digest) -> String {
    format!("blob {digest}")
}
