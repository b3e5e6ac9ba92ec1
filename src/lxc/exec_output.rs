//! What a command in a container did.

use serde::Serialize;

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExecStatus {
    /// It ran and ended with this code. A command that signal N killed has 128 + N, as shells say it: LXC hands on no
    /// more, see [`ExecStatus::signal`].
    Exited(u8),
    /// It could not be run: it does not exist in the container, or is not a program.
    NotRun {
        /// What a shell would give: 127 if it does not exist, else 126.
        code: u8,
        /// The kernel's reason, as `lxc-attach` tells it, which also writes a line of its own to the standard error.
        reason: String,
    },
    /// The time was over, and it was killed.
    TimedOut,
}

/// What a command in a container did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExecOutput {
    /// How it ended.
    pub status: ExecStatus,
    /// What it wrote to its standard output, at most [`Exec::output_max_bytes`](crate::lxc::Exec::output_max_bytes).
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error, with the same bound.
    pub stderr: Vec<u8>,
    /// Whether it wrote more than is here.
    pub truncated: bool,
}

impl ExecStatus {
    /// Whether it ran and ended with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        *self == Self::Exited(0)
    }

    /// The exit code as a shell would give it. `None` if the time was over.
    #[must_use]
    pub fn code(&self) -> Option<u8> {
        match self {
            Self::Exited(code) | Self::NotRun { code, .. } => Some(*code),
            Self::TimedOut => None,
        }
    }

    /// The signal that killed it, unless it ended with a code over 128 on its own account: the two look the same.
    #[must_use]
    pub fn signal(&self) -> Option<u8> {
        match self {
            Self::Exited(code) => code.checked_sub(128).filter(|signal| (1..=64).contains(signal)),
            _ => None,
        }
    }
}
