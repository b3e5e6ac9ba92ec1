//! The file of an export: written whole before it has its name, and read twice (`man 2 rename`, `man 2 flock`).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::state::entry::Entry;
use crate::state::key::Key;
use crate::state::record::{BYTES_MAX, Stored};
use crate::state::revision::Revision;
use crate::state::store::ClusterStore;
use crate::state::transaction;

/// The newest form of the file that is known.
const VERSION: u32 = 1;
/// How many entries, and how many bytes of them, one transaction of an import has.
pub(super) const BATCH_ENTRIES: usize = 100;
const BATCH_BYTES: usize = 512 << 10;

/// A line of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Line {
    Head { version: u32, revision: Revision },
    Entry { key: Key, value: Box<RawValue> },
    End { entries: u64, sha256: String },
}

/// What is known of a head of any version.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum AnyLine {
    Head { version: u32 },
}

fn failed(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::os(call, format!("`{}`", path.display()), error)
}

fn damaged(path: &Path, reason: impl Into<String>) -> Error {
    Error::Damaged { what: format!("the export `{}`", path.display()), reason: reason.into() }
}

/// A file that is being written, and takes its name when it is whole.
pub(super) struct Writer {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
    digest: Sha256,
    entries: u64,
    is_whole: bool,
}

impl Drop for Writer {
    /// What has not become whole is of no use. It is locked still: nobody else writes it.
    fn drop(&mut self) {
        if !self.is_whole
            && let Err(error) = fs::remove_file(&self.partial)
        {
            tracing::warn!(path = %self.partial.display(), %error, "what an export began is left");
        }
    }
}

impl Writer {
    pub(super) fn create(path: &Path, revision: Revision) -> Result<Self> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = BufWriter::new(own(&partial)?);
        let mut writer =
            Self { path: path.into(), partial, file, digest: Sha256::new(), entries: 0, is_whole: false };
        writer.line(&Line::Head { version: VERSION, revision })?;
        Ok(writer)
    }

    fn line(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_vec(line)
            .map_err(|error| Error::invalid("export", "", format!("cannot be written as JSON: {error}")))?;
        text.push(b'\n');
        self.digest.update(&text);
        self.file.write_all(&text).map_err(failed("write", &self.partial))
    }

    pub(super) fn entry(&mut self, entry: &Entry) -> Result<()> {
        if entry.key.as_str() == ClusterStore::IMPORT_MARK {
            let reason = "an import into it is under way, or was not finished: import again".into();
            return Err(Error::Busy { what: "the store".into(), reason });
        }
        let bytes = entry.value.as_bytes();
        check(&entry.key, &entry.value)?;
        let value =
            serde_json::from_slice(bytes).map_err(|error| Stored::damaged(&entry.key, &error.to_string()))?;
        self.entries += 1;
        self.line(&Line::Entry { key: entry.key.clone(), value })
    }

    pub(super) fn finish(mut self) -> Result<()> {
        let sha256 = hex(&self.digest);
        self.line(&Line::End { entries: self.entries, sha256 })?;
        self.file.flush().map_err(failed("write", &self.partial))?;
        self.file.get_ref().sync_all().map_err(failed("fsync", &self.partial))?;
        fs::rename(&self.partial, &self.path).map_err(failed("rename", &self.path))?;
        self.is_whole = true;
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        File::open(parent).and_then(|directory| directory.sync_all()).map_err(failed("fsync", parent))
    }
}

fn hex(digest: &Sha256) -> String {
    digest.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The file `partial`, empty, for this export alone.
fn own(partial: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(partial).map_err(failed("open", partial))?;
    let busy = || Error::Busy {
        what: format!("`{}`", partial.display()),
        reason: "another export to the same place is under way".into(),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(busy()),
        Err(TryLockError::Error(error)) => return Err(failed("flock", partial)(error)),
    }
    // Whoever had it before may have given it its name meanwhile.
    let there = fs::symlink_metadata(partial).map_err(|_| busy())?;
    let opened = file.metadata().map_err(failed("fstat", partial))?;
    if there.ino() != opened.ino() {
        return Err(busy());
    }
    file.set_len(0).map_err(failed("ftruncate", partial))?;
    Ok(file)
}

/// Whether a value can be in an export: one that an import can put.
fn check(key: &Key, value: &Stored) -> Result<()> {
    value.kind(key)?;
    let bytes = value.as_bytes();
    if bytes.len() > BYTES_MAX || bytes.contains(&b'\n') {
        return Err(Stored::damaged(key, "not a value of this library"));
    }
    Ok(())
}

/// The lines of a file, one after the other. It is read twice: to be verified, and to be put.
pub(super) struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    number: usize,
    digest: Sha256,
    entries: u64,
    last: Option<Key>,
    /// What was too much for the last batch.
    rest: Option<(transaction::Write, usize)>,
    is_at_end: bool,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(failed("open", path))?;
        Self::begin(path.into(), BufReader::new(file))
    }

    /// A reader of a file that stands at its beginning.
    fn begin(path: PathBuf, file: BufReader<File>) -> Result<Self> {
        let mut reader = Self {
            path,
            file,
            number: 0,
            digest: Sha256::new(),
            entries: 0,
            last: None,
            rest: None,
            is_at_end: false,
        };
        reader.head()?;
        Ok(reader)
    }

    /// The next line, and its text.
    fn line(&mut self) -> Result<Option<(Line, Vec<u8>)>> {
        let Some(text) = self.text()? else { return Ok(None) };
        match serde_json::from_slice(&text) {
            Ok(line) => Ok(Some((line, text))),
            Err(error) => Err(damaged(&self.path, format!("line {}: {error}", self.number))),
        }
    }

    fn text(&mut self) -> Result<Option<Vec<u8>>> {
        let mut text = Vec::new();
        // A line holds one value at most: what is longer is none of ours, and is not read into memory.
        let limit = 2 * BYTES_MAX as u64;
        io::Read::take(&mut self.file, limit)
            .read_until(b'\n', &mut text)
            .map_err(failed("read", &self.path))?;
        if text.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        if text.ends_with(b"\n") {
            return Ok(Some(text));
        }
        Err(damaged(&self.path, format!("line {} is cut off, or too long", self.number)))
    }

    fn head(&mut self) -> Result<()> {
        let text = self.text()?.unwrap_or_default();
        if let Ok(AnyLine::Head { version }) = serde_json::from_slice(&text)
            && version != VERSION
        {
            return Err(Error::Unsupported {
                what: format!("the export `{}` of version {version}", self.path.display()),
                needs: format!("this program knows version {VERSION}: use another one"),
            });
        }
        match serde_json::from_slice(&text) {
            Ok(Line::Head { .. }) => self.digest.update(text),
            _ => return Err(damaged(&self.path, "it does not begin as an export does")),
        }
        Ok(())
    }

    /// The next entry, with the size of its line. `None` at the end of a file that is whole.
    fn entry(&mut self) -> Result<Option<(transaction::Write, usize)>> {
        if self.is_at_end {
            return Ok(None);
        }
        match self.line()? {
            Some((Line::Entry { key, value }, text)) => {
                let value = Stored::from_bytes(value.get().as_bytes().to_vec());
                check(&key, &value)?;
                let in_order = self.last.replace(key.clone()).is_none_or(|last| last < key);
                if !in_order || key.as_str() == ClusterStore::IMPORT_MARK {
                    return Err(damaged(
                        &self.path,
                        format!("line {}: there is no place for its key", self.number),
                    ));
                }
                self.digest.update(&text);
                self.entries += 1;
                Ok(Some((transaction::Write::Put { key, value, lease: None }, text.len())))
            }
            Some((Line::End { entries, sha256 }, _))
                if entries == self.entries && sha256 == hex(&self.digest) =>
            {
                self.is_at_end = true;
                match self.line()? {
                    None => Ok(None),
                    Some(_) => Err(damaged(&self.path, "there is something behind its end")),
                }
            }
            _ => Err(damaged(&self.path, "it is not whole: take another copy")),
        }
    }

    /// Reads a file that is whole to its end and back to its beginning. Its digest.
    pub(super) fn verify(mut self) -> Result<(String, Self)> {
        while self.entry()?.is_some() {}
        let sha256 = hex(&self.digest);
        let mut file = self.file;
        file.rewind().map_err(failed("lseek", &self.path))?;
        Ok((sha256, Self::begin(self.path, file)?))
    }

    /// Entries for one transaction. Empty behind the last, if the file is what it was when it had this digest.
    pub(super) fn batch(&mut self, sha256: &str) -> Result<Vec<transaction::Write>> {
        let (mut batch, mut size) = (Vec::new(), 0);
        while batch.len() < BATCH_ENTRIES {
            let next = self.rest.take().map_or_else(|| self.entry(), |rest| Ok(Some(rest)))?;
            let Some((put, length)) = next else {
                if hex(&self.digest) != sha256 {
                    return Err(damaged(&self.path, "it was changed while it was read: import again"));
                }
                break;
            };
            if !batch.is_empty() && size + length > BATCH_BYTES {
                self.rest = Some((put, length));
                break;
            }
            size += length;
            batch.push(put);
        }
        Ok(batch)
    }
}
