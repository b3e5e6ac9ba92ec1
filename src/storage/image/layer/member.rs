//! One member of a tar archive, after all its extension headers (`man 5 tar`).

use rustix::fs::Timespec;

use crate::error::Error;
use crate::storage::image::layer::sparse::Extent;

/// What errors call it.
pub(crate) const ARCHIVE: &str = "layer archive";
/// What a name begins with that stands for a missing file (OCI image specification, `layer.md`).
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// The whiteout of everything that lower layers have in the directory.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

/// A file, directory or whatever, as the archive tells of it. Nothing is checked but that it can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// As it is written there: may be absolute, or have `..` in it.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits with set-id and sticky ones.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timespec,
    /// Full names and values.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a [`Member`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File(Content),
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Fifo,
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
}

/// How long a file is, and where in it the bytes go that follow in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) size: u64,
    /// `None` if it has no holes.
    pub(crate) extents: Option<Vec<Extent>>,
}

impl Member {
    /// An error about this member.
    pub(crate) fn refused(&self, rule: impl Into<String>) -> Error {
        refused(&self.path, rule)
    }
}

impl Kind {
    /// How long its content is.
    pub(crate) fn bytes(&self) -> u64 {
        if let Self::File(content) = self { content.size } else { 0 }
    }
}

/// The archive breaks a rule with the member `path`.
pub(crate) fn refused(path: &[u8], rule: impl Into<String>) -> Error {
    Error::invalid(ARCHIVE, String::from_utf8_lossy(path), rule)
}

/// The same error, which tells where the archive is.
pub(crate) fn located(error: Error, place: impl std::fmt::Display) -> Error {
    match error {
        Error::Damaged { what, reason } if what == ARCHIVE => {
            Error::Damaged { what: format!("{ARCHIVE} {place}"), reason }
        }
        error => error,
    }
}

/// The archive is not whole.
pub(crate) fn damaged(reason: impl Into<String>) -> Error {
    Error::Damaged { what: ARCHIVE.to_owned(), reason: reason.into() }
}
