//! The caller's end of a pseudo terminal that a command in a container runs on (`man 7 pty`).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::sys::wait::{deadline, until_true};
use crate::sys::{pidfd, terminal};

/// How long LXC's program may take to set up the terminal that it was given.
const SET_UP_PATIENCE: Duration = Duration::from_secs(10);

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TerminalSize {
    /// Lines. Default: 24.
    pub rows: u16,
    /// Characters of a line. Default: 80.
    pub columns: u16,
}

impl Default for TerminalSize {
    fn default() -> Self {
        Self { rows: 24, columns: 80 }
    }
}

/// The caller's end of a pseudo terminal: what is written is typed on it, what is read was printed on it. An interrupt is the
/// byte `\x03`, the end of input `\x04`, as a keyboard sends them. A read returns nothing more once the other end is closed.
/// Dropping it hangs up: programs on it get `SIGHUP`.
#[derive(Debug)]
pub struct Terminal(File);

impl Terminal {
    /// A new one, and the end for programs.
    pub(crate) fn open(size: TerminalSize) -> Result<(Self, OwnedFd)> {
        let (ours, theirs) = terminal::open()?;
        let ours = Self(ours);
        ours.resize(size)?;
        Ok((ours, theirs))
    }

    /// Gives it another size. Programs on it are told by `SIGWINCH`.
    ///
    /// # Errors
    /// [`Error::Os`] if the kernel refuses.
    pub fn resize(&self, size: TerminalSize) -> Result<()> {
        terminal::resize(&self.0, size.rows, size.columns)
    }

    /// The same end by another descriptor.
    pub(crate) fn file(&self) -> Result<File> {
        self.0.try_clone().map_err(|e| Error::os("dup", "a pseudo terminal", e))
    }
}

/// Waits until LXC's `program` has set up its end, or has ended. It drops what was typed before, and has the kernel turn each
/// line's end into two characters a second time: the container's own terminal has done that.
pub(crate) fn hand_over(theirs: &OwnedFd, program: BorrowedFd<'_>) -> Result<()> {
    until_true(deadline(SET_UP_PATIENCE), || {
        Ok::<_, Error>(terminal::is_set_up(theirs)? || pidfd::wait_exit(program, Some(Duration::ZERO))?)
    })?;
    terminal::let_pass(theirs)
}

impl Read for &Terminal {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match (&self.0).read(bytes) {
            // The kernel's word for: nobody has the other end any more.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
            result => result,
        }
    }
}

impl Write for &Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Readable when something was printed, or the other end was closed.
impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
