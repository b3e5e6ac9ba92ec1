//! A container's console (`/dev/console`): what was printed on it, and sitting at it, by `lxc-console` (`man 1 lxc-console`).

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::lxc::birthplace::Birthplace;
use crate::lxc::config::CONSOLE_LOG_MAX;
use crate::lxc::container::Container;
use crate::lxc::terminal::{self, Terminal, TerminalSize};
use crate::sys::file::absent_is_none;
use crate::sys::pidfd;
use crate::sys::process::{Child, Program};

/// LXC takes a letter, and computes the control character that ends the session from it. What it makes of this one is none: each
/// byte that is typed reaches the container.
const NO_ESCAPE: &str = "A";

/// A seat at a container's console. Dropping it gives the seat up; the container goes on.
#[derive(Debug)]
pub struct Console {
    /// What is typed and printed there. LXC sends one carriage return more than needed before each new line.
    pub terminal: Terminal,
    child: Child,
}

impl Container {
    /// Sits down at the console of a container that has [one](crate::lxc::LxcConfig::console_log). What was printed before is
    /// not printed again. There is one seat.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it does not run; [`Error::Busy`] if somebody sits there; [`Error::Unsupported`] without
    /// `lxc-console`.
    pub fn console(&self, size: TerminalSize) -> Result<Console> {
        self.must_run()?;
        let program = self.target.lxc_start.with_file_name("lxc-console");
        if !program.exists() {
            return Err(Error::Unsupported {
                what: "sitting at a container's console".to_owned(),
                needs: format!(
                    "{} is missing: install LXC's programs (Debian: apt install lxc)",
                    program.display()
                ),
            });
        }
        let (terminal, theirs) = Terminal::open(size)?;
        let mut program = Program::new(&program)?;
        for arg in ["-n", self.id.as_str(), "-t", "0", "-e", NO_ESCAPE, "--quiet", "-P"] {
            program = program.arg(arg)?;
        }
        program = program.arg(&self.lxc_path)?.on_terminal(theirs.as_fd());
        let place = Birthplace::ensure(&self.groups.start)?;
        let child = place.of(program).spawn()?;
        let console = Console { terminal, child };
        terminal::hand_over(&theirs, console.as_fd())?;
        if pidfd::wait_exit(console.as_fd(), Some(Duration::ZERO))? {
            self.must_run()?;
            return Err(Error::Busy {
                what: format!("the console of {}", self.shown()),
                reason: "somebody sits at it, or the container was made without one".to_owned(),
            });
        }
        Ok(console)
    }
}

/// Readable once the seat is lost: the container has ended.
impl AsFd for Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.pidfd()
    }
}

/// What the log `path` of a console keeps, the older half first. Empty if there is none.
pub(crate) fn read_log(path: &Path) -> Result<Vec<u8>> {
    let mut older = path.as_os_str().to_owned();
    older.push(".1");
    let mut text = Vec::new();
    for path in [Path::new(&older), path] {
        let mut read = || File::open(path)?.take(CONSOLE_LOG_MAX).read_to_end(&mut text);
        absent_is_none(read()).map_err(|e| Error::os("read", path.display(), e))?;
    }
    Ok(text)
}
