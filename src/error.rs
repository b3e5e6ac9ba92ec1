//! The one error of the library.
//!
//! Variants follow what a caller can do about them; the message names the object, the operation and the
//! remedy in one lower-case line. The cause is reached through [`std::error::Error::source`], and [`Chain`]
//! prints both.

use std::fmt;
use std::io;

/// Shorthand for a result with this library's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation was not carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The input breaks a documented rule. The host was not touched.
    #[error("invalid {what} {value:?}: {rule}")]
    Invalid {
        /// What was given: "container name", "mount source".
        what: &'static str,
        /// The value as it was given.
        value: String,
        /// The rule it breaks, or what to give instead.
        rule: String,
    },
    /// An object that must exist does not.
    #[error("{what} does not exist")]
    NotFound {
        /// The object: "volume `data`".
        what: String,
    },
    /// The object exists, but not as asked. It was left as it is.
    #[error("{what} exists but differs: {difference}")]
    Differs {
        /// The object: "bridge `br0`".
        what: String,
        /// Each field that differs: what it is, and what was asked for.
        difference: String,
    },
    /// Somebody else uses the object now; trying again later may work.
    #[error("{what} is busy: {reason}")]
    Busy {
        /// The object.
        what: String,
        /// Who or what uses it.
        reason: String,
    },
    /// It cannot be done as things are: by this host, this server, or this version of the program.
    #[error("{what} is not possible here: {needs}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// What to enable or to use: the kernel option, the boot parameter, the module, the package, the newer program.
        needs: String,
    },
    /// The data is there, but not whole: repeating will not help, a copy of it will. It was left as it is.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// The object: "layer sha256:…".
        what: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// There is not enough room for it. Making room, or another place, may help.
    #[error("no room for {what}: it needs {needed_bytes} bytes, {available_bytes} are available")]
    NoSpace {
        /// The object: "volume `data` of 1073741824 bytes".
        what: String,
        /// How many bytes it takes, or may grow into.
        needed_bytes: u64,
        /// How many bytes can still be promised.
        available_bytes: u64,
    },
    /// The operating system refused.
    #[error("{call} on {target} failed")]
    Os {
        /// The system call, or the netlink message.
        call: &'static str,
        /// What it was applied to.
        target: String,
        /// The reason the kernel gave.
        source: io::Error,
    },
    /// A program that does part of the work failed.
    #[error("{program} failed ({status}): {stderr}")]
    Command {
        /// The program.
        program: String,
        /// How it ended: "exit status: 1".
        status: String,
        /// What it said about the reason.
        stderr: String,
    },
    /// Somebody else changed it meanwhile: nothing was done. Reading again and deciding anew may work.
    #[error("{what} was changed meanwhile: {reason}")]
    Conflict {
        /// What was to be changed, or read as it was.
        what: String,
        /// What does not hold any more.
        reason: String,
    },
    /// A server cannot be reached, or does not answer in time. Nothing was done; trying again later may work.
    #[error("{what} is not available: {reason}")]
    Unavailable {
        /// The server.
        what: String,
        /// What it is like, and what to look at.
        reason: String,
    },
    /// A change was asked for, and the answer is lost: it may have been made, or may yet be. Reading tells.
    #[error("it is not known whether {what} was changed: {reason}")]
    OutcomeUnknown {
        /// What was to be changed.
        what: String,
        /// How the answer was lost.
        reason: String,
    },
    /// A server does not let this user in, or does not let it do this.
    #[error("{what} is denied: {needs}")]
    Denied {
        /// What was to be done.
        what: String,
        /// What to give: another password, a certificate, a role.
        needs: String,
    },
    /// An operation failed, and so did undoing what it had done. `recover` finishes the job.
    #[error("the operation failed and left {} behind", remains.join(", "))]
    LeftBehind {
        /// Why the operation failed.
        #[source]
        cause: Box<Error>,
        /// What is still on the host.
        remains: Vec<String>,
    },
}

impl Error {
    /// An [`Error::Invalid`].
    pub(crate) fn invalid(what: &'static str, value: impl Into<String>, rule: impl Into<String>) -> Self {
        Self::Invalid { what, value: value.into(), rule: rule.into() }
    }

    /// An [`Error::Os`]. `source` is what the call returned.
    pub(crate) fn os(call: &'static str, target: impl fmt::Display, source: impl Into<io::Error>) -> Self {
        Self::Os { call, target: target.to_string(), source: source.into() }
    }

    /// An [`Error::Invalid`] with more words to its rule: where the value stands. Any other error as it is.
    pub(crate) fn adding(self, words: impl fmt::Display) -> Self {
        match self {
            Self::Invalid { what, value, rule } => {
                Self::Invalid { what, value, rule: format!("{rule}{words}") }
            }
            error => error,
        }
    }

    /// What to tell of an operation that failed for `cause`, once undoing it has ended as `undone`: the cause, or, if that failed,
    /// too, an [`Error::LeftBehind`] with what `remains`.
    pub(crate) fn after_undoing(cause: Self, undone: Result<()>, remains: impl FnOnce() -> String) -> Self {
        let Err(error) = undone else { return cause };
        tracing::error!(%error, "roll-back failed");
        Self::LeftBehind { cause: Box::new(cause), remains: vec![remains()] }
    }

    /// The number the kernel gave, when this is an [`Error::Os`].
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Os { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// Displays an error and everything beneath it, separated by `: `.
///
/// ```
/// # use docklet::error::Chain;
/// let error = docklet::name::ContainerName::new("-").unwrap_err();
/// assert!(Chain(&error).to_string().starts_with("invalid container name"));
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a>(pub &'a (dyn std::error::Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}
