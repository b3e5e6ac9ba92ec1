//! Taking in the files that a configuration includes (`lxc.include`).
//!
//! liblxc reads a file, or all of a directory whose names end in `.conf`, in the order in which the file system lists them;
//! here they are read by name. It follows circles until it dies; here they are refused, and so is what is no regular file.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::lxc::text::config_text::{BYTES_MAX, ConfigText, cut};
use crate::lxc::text::entry::Place;
use crate::lxc::text::lines::live;
use crate::lxc::text::problem::Found;
use crate::lxc::text::{ConfigProblems, key};
use crate::sys::file::descriptor_path;

/// How deep files may include each other.
const DEPTH_MAX: usize = 16;
/// How many files may be read for one configuration.
const FILES_MAX: usize = 1000;

impl ConfigText {
    /// Reads the file at `path`, and does not follow what it includes.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it does not exist, [`Error::Invalid`] if it is not a regular file or as
    /// [`ConfigText::parse`] says, [`Error::Os`] if it cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let (bytes, _) = read_file(path).map_err(|refusal| match refusal {
            Refusal::Absent => Error::NotFound { what: format!("LXC configuration `{}`", path.display()) },
            Refusal::Kind => {
                Error::invalid("LXC configuration", path.to_string_lossy(), "must be a regular file")
            }
            Refusal::Os(error) => Error::os("open", path.display(), error),
        })?;
        let invalid = |problems: ConfigProblems| {
            Error::invalid("LXC configuration", path.to_string_lossy(), problems.to_string())
        };
        Self::parse(bytes).map_err(invalid)
    }

    /// The same configuration in one text: what is included stands in the place of the line that includes it, and what
    /// follows is judged with it. Entries keep the file and the line they come from.
    ///
    /// # Errors
    /// [`ConfigProblems`] if an included file does not exist, cannot be read, is not a regular file, includes itself, or is
    /// included by a relative path (which LXC looks up in the directory it happens to be started in); if there are more than
    /// 1000 files, 16 levels or 4 MiB; and as [`ConfigText::parse`], for all files. A directory that does not exist is empty,
    /// as for LXC, if its path ends in `/`.
    pub fn with_includes(&self) -> Result<Self, ConfigProblems> {
        let mut taking = Taking::default();
        taking.take(self.render(), self.places(), 0);
        let Taking { bytes, places, files, found, .. } = taking;
        Self::judge(bytes, places, files, found)
    }
}

/// A text while it is put together.
#[derive(Default)]
struct Taking {
    bytes: Vec<u8>,
    places: Vec<Place>,
    files: Vec<PathBuf>,
    /// The files that are being taken in now, by device and inode.
    open: Vec<(u64, u64)>,
    found: Found,
}

/// Why a file is not read.
enum Refusal {
    Absent,
    Kind,
    Os(io::Error),
}

impl Taking {
    /// Adds the file with this number, as far as LXC looks at it.
    fn take(&mut self, bytes: &[u8], places: &[Place], file: u32) {
        let mut done = 0;
        for place in places {
            let part = |range: &Range<u32>| &bytes[range.start as usize..range.end as usize];
            let value = part(&place.value);
            if part(&place.key) != key::INCLUDE.as_bytes() || value.is_empty() {
                // What comes before it is copied later. All is within BYTES_MAX, which fits.
                let from = u32::try_from(done).unwrap_or(u32::MAX);
                let to = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
                let moved = |range: &Range<u32>| range.start - from + to..range.end - from + to;
                self.places.push(Place {
                    file,
                    line_bytes: moved(&place.line_bytes),
                    key: moved(&place.key),
                    value: moved(&place.value),
                    ..place.clone()
                });
                continue;
            }
            self.copy(&bytes[done..place.line_bytes.start as usize]);
            done = bytes.len().min(place.line_bytes.end as usize + 1);
            if let Err(rule) = self.include(Path::new(OsStr::from_bytes(value))) {
                self.found.add(place.problem(bytes, self.file(file), place.value_column, rule));
            }
        }
        self.copy(&bytes[done..live(bytes).max(done)]);
    }

    /// Adds whole lines.
    fn copy(&mut self, lines: &[u8]) {
        self.bytes.extend_from_slice(lines);
        if self.bytes.last().is_some_and(|last| !matches!(last, b'\n' | b'\r')) {
            self.bytes.push(b'\n');
        }
    }

    fn include(&mut self, path: &Path) -> Result<(), String> {
        if !path.is_absolute() {
            return Err("must be an absolute path: LXC looks up others where it is started".to_owned());
        }
        let is_named_dir = path.as_os_str().as_bytes().ends_with(b"/");
        if !is_named_dir && !path.is_dir() {
            return self.include_file(path);
        }
        let names = match fs::read_dir(path) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(format!("the directory cannot be read: {error}")),
        };
        let mut names: Vec<_> = names
            .collect::<io::Result<Vec<_>>>()
            .map_err(|error| format!("the directory cannot be read: {error}"))?
            .into_iter()
            .map(|entry| entry.file_name())
            .filter(|name| name.len() >= 6 && name.as_bytes().ends_with(b".conf"))
            .collect();
        names.sort();
        names.into_iter().try_for_each(|name| self.include_file(&path.join(name)))
    }

    fn include_file(&mut self, path: &Path) -> Result<(), String> {
        let shown = path.display();
        let (bytes, id) = read_file(path).map_err(|refusal| match refusal {
            Refusal::Absent => format!("the file {shown} does not exist"),
            Refusal::Kind => format!("{shown} is not a regular file"),
            Refusal::Os(error) => format!("the file {shown} cannot be read: {error}"),
        })?;
        if self.open.contains(&id) {
            return Err(format!("the file {shown} includes itself"));
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(format!("files include each other more than {DEPTH_MAX} levels deep"));
        }
        if self.files.len() >= FILES_MAX {
            return Err(format!("more than {FILES_MAX} files are included"));
        }
        // Each file may add a newline.
        if self.bytes.len() + bytes.len() + FILES_MAX > BYTES_MAX {
            return Err(format!("with the file {shown} it has more than {BYTES_MAX} bytes"));
        }
        self.files.push(path.to_owned());
        let number = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        self.open.push(id);
        self.take(&bytes, &cut(&bytes), number);
        self.open.pop();
        Ok(())
    }

    fn file(&self, number: u32) -> Option<&Path> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.files.get(index).map(PathBuf::as_path)
    }
}

/// A regular file's content, up to one byte more than a configuration may have, and which file it is. Nothing else is
/// opened: not a fifo, for which one would wait, nor a device.
fn read_file(path: &Path) -> Result<(Vec<u8>, (u64, u64)), Refusal> {
    let found =
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(
            |errno| match errno {
                Errno::NOENT | Errno::NOTDIR => Refusal::Absent,
                errno => Refusal::Os(errno.into()),
            },
        )?;
    let stat = rustix::fs::fstat(&found).map_err(|errno| Refusal::Os(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Refusal::Kind);
    }
    let mut bytes = Vec::new();
    File::open(descriptor_path(&found))
        .and_then(|file| file.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(Refusal::Os)?;
    Ok((bytes, (stat.st_dev, stat.st_ino)))
}
