//! What redb's errors mean to a caller (<https://docs.rs/redb/latest/redb/enum.Error.html>).

use std::io::ErrorKind;
use std::path::Path;

use redb::Error as Trouble;

use crate::error::Error;

/// What a commit takes besides its values, at least: a copy of each page that it changes.
const PAGES_BYTES: u64 = 64 << 10;

/// A commit that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) trouble: Trouble,
    /// Whether it may have been done all the same; else nothing was.
    pub(super) is_unknown: bool,
}

impl Failure {
    /// As it is told to whoever ordered `subject`, of so many bytes.
    pub(super) fn told(&self, path: &Path, subject: String, bytes: usize) -> Error {
        let trouble = &self.trouble;
        if self.is_unknown {
            let reason = format!("writing {} failed ({trouble}): mend the cause, then read it", name(path));
            return Error::OutcomeUnknown { what: subject, reason };
        }
        match trouble {
            Trouble::Io(error)
                if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) =>
            {
                Error::NoSpace {
                    what: format!("a change of {subject} in {}", name(path)),
                    needed_bytes: u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(PAGES_BYTES),
                    available_bytes: available_bytes(path),
                }
            }
            Trouble::Corrupted(reason) => damaged(path, reason),
            _ => unavailable(path, &format!("nothing was changed, because writing it failed: {trouble}")),
        }
    }
}

fn available_bytes(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(0, |space| space.f_bavail.saturating_mul(space.f_frsize))
}

fn name(path: &Path) -> String {
    format!("the store `{}`", path.display())
}

pub(super) fn unavailable(path: &Path, reason: &str) -> Error {
    Error::Unavailable { what: name(path), reason: reason.into() }
}

pub(super) fn damaged(path: &Path, reason: &str) -> Error {
    let reason = format!("{reason}; restore it from a copy or an export, or move it away to begin anew");
    Error::Damaged { what: name(path), reason }
}

/// Of an operation that changes nothing.
pub(super) fn of(path: &Path, trouble: Trouble) -> Error {
    match trouble {
        Trouble::Corrupted(reason) => damaged(path, &reason),
        Trouble::Io(error) if error.kind() == ErrorKind::InvalidData => damaged(path, &error.to_string()),
        Trouble::Io(error) => unavailable(path, &format!("reading it failed: {error}")),
        Trouble::PreviousIo | Trouble::DatabaseClosed => {
            unavailable(path, "a write to it has failed; it is opened again at least once in a second")
        }
        other => damaged(path, &other.to_string()),
    }
}

/// redb trusts what it has written. Where that does not hold, it panics.
pub(super) fn panicked(path: &Path, panic: &tokio::task::JoinError) -> Error {
    damaged(path, &format!("reading it failed: {panic}"))
}
