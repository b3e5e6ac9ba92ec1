//! Pseudo terminals (`man 7 pty`): a pair of ends, and their size.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{
    Action, OptionalActions, OutputModes, Winsize, tcflow, tcgetattr, tcsetattr, tcsetwinsize,
};

use crate::error::{Error, Result};

/// What the end of a pair is called in errors.
const SHOWN: &str = "a pseudo terminal";

/// A new pair: the end to read and write, and the end for programs. It hands on what is written as it is, but nothing yet: see
/// [`let_pass`].
pub(crate) fn open() -> Result<(File, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags).map_err(|e| Error::os("open", "/dev/ptmx", e))?;
    unlockpt(&ours).map_err(|e| Error::os("ioctl TIOCSPTLCK", SHOWN, e))?;
    // No path leads to it: `/dev/pts` may be another instance here.
    let theirs = ioctl_tiocgptpeer(&ours, flags).map_err(|e| Error::os("ioctl TIOCGPTPEER", SHOWN, e))?;
    let mut settings = tcgetattr(&theirs).map_err(|e| Error::os("tcgetattr", SHOWN, e))?;
    settings.make_raw();
    tcsetattr(&theirs, OptionalActions::Now, &settings).map_err(|e| Error::os("tcsetattr", SHOWN, e))?;
    tcflow(&theirs, Action::OOff).map_err(|e| Error::os("ioctl TCXONC", SHOWN, e))?;
    Ok((File::from(ours), theirs))
}

/// Whether a program has set up the end for programs as it wants it.
pub(crate) fn is_set_up(theirs: impl AsFd) -> Result<bool> {
    let settings = tcgetattr(theirs).map_err(|e| Error::os("tcgetattr", SHOWN, e))?;
    Ok(settings.output_modes.contains(OutputModes::OPOST))
}

/// Lets pass what is printed from now on, as it is, whatever a program has set up.
pub(crate) fn let_pass(theirs: impl AsFd) -> Result<()> {
    let mut settings = tcgetattr(&theirs).map_err(|e| Error::os("tcgetattr", SHOWN, e))?;
    settings.output_modes.remove(OutputModes::OPOST);
    tcsetattr(&theirs, OptionalActions::Now, &settings).map_err(|e| Error::os("tcsetattr", SHOWN, e))?;
    tcflow(theirs, Action::OOn).map_err(|e| Error::os("ioctl TCXONC", SHOWN, e))
}

/// Sets its size; programs on it are told by SIGWINCH.
pub(crate) fn resize(terminal: impl AsFd, rows: u16, columns: u16) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).map_err(|e| Error::os("ioctl TIOCSWINSZ", SHOWN, e))
}
