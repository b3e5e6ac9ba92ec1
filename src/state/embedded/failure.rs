//! What redb's errors mean to a caller (<https://docs.rs/redb/latest/redb/enum.Error.html>).

use std::io::ErrorKind;
use std::path::Path;

use redb::Error as Trouble;

use crate::error::Error;

/// A commit that failed.
pub(super) struct Failure {
    pub(super) trouble: Trouble,
    /// Whether it may have been done all the same.
    unknown: bool,
}

impl Failure {
    /// Before anything was committed: it was not done.
    pub(super) fn before(trouble: impl Into<Trouble>) -> Self {
        Self { trouble: trouble.into(), unknown: false }
    }

    /// While it was committed.
    pub(super) fn within(trouble: Trouble) -> Self {
        Self { trouble, unknown: true }
    }

    /// As it is told to whoever ordered `subject`.
    pub(super) fn told(&self, path: &Path, subject: String) -> Error {
        if self.unknown {
            let reason = format!(
                "writing {} failed ({}): read it once the cause is mended and the store was opened again",
                name(path),
                self.trouble
            );
            return Error::OutcomeUnknown { what: subject, reason };
        }
        unavailable(path, &format!("nothing was written: {}", self.trouble))
    }
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
            unavailable(path, "it is closed, or a write to it has failed: open it again")
        }
        other => damaged(path, &other.to_string()),
    }
}

/// redb trusts what it has written. Where that does not hold, it panics.
pub(super) fn panicked(path: &Path, panic: &tokio::task::JoinError) -> Error {
    damaged(path, &format!("reading it failed: {panic}"))
}
