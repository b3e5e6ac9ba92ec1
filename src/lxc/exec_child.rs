//! A running command in a container: its streams, its end, and what it has started (`man 2 setsid`).

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::lxc::container::{Container, KILL_PATIENCE};
use crate::lxc::exec_output::ExecStatus;
use crate::lxc::record::Birth;
use crate::lxc::{Terminal, reason};
use crate::sys::pidfd::{self, Family};
use crate::sys::process::{Child, Ended};
use crate::sys::wait::until;

/// How long `lxc-attach` may take to end after its command.
const REAP_PATIENCE: Duration = Duration::from_secs(1);
/// How long `lxc-attach` may take to become the command.
const COMMAND_PATIENCE: Duration = Duration::from_secs(10);
/// For how long a container that could not be entered may still be ending.
const GONE_PATIENCE: Duration = Duration::from_millis(200);

/// A running command in a container. Dropping it kills the command with all that it
/// started.
#[derive(Debug)]
pub struct ExecChild {
    /// The terminal it runs on, if it was asked for; then it has no other streams. Drop it to hang up.
    pub terminal: Option<Terminal>,
    /// Writes to the command's standard input. Drop it to end that.
    pub stdin: Option<File>,
    /// Reads the command's standard output.
    pub stdout: Option<File>,
    /// Reads the command's standard error.
    pub stderr: Option<File>,
    pub(super) child: Child,
    pub(super) log: File,
    pub(super) container: Container,
    pub(super) init: Birth,
    pub(super) init_fd: OwnedFd,
}

impl ExecChild {
    /// Waits until the command has ended. Read its outputs first, or it may wait for you.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the container stopped meanwhile; [`Error::Command`] if `lxc-attach` itself failed;
    /// [`Error::Os`] otherwise.
    pub fn wait(&mut self) -> Result<ExecStatus> {
        self.stdin = None;
        let ended = self.child.wait()?;
        let mut log = String::new();
        let mut bytes = vec![0; 16 << 10];
        if let Ok(length) = self.log.read_at(&mut bytes, 0) {
            log = String::from_utf8_lossy(&bytes[..length]).into_owned();
        }
        let said = reason::errors(&log);
        let not_run = said.iter().find(|line| line.contains("Failed to exec \""));
        match (ended, not_run) {
            (Ended::Exited(code), Some(line)) => {
                let (code, reason) = (u8::try_from(code).unwrap_or(126), (*line).to_owned());
                let code = if code == 127 { 127 } else { 126 };
                Ok(ExecStatus::NotRun { code, reason })
            }
            (Ended::Exited(code), None) if code == 0 || said.is_empty() => {
                Ok(ExecStatus::Exited(u8::try_from(code).unwrap_or(u8::MAX)))
            }
            _ if self.container_stopped()? => {
                let what = format!("a running {} (it stopped beneath the command)", self.container.shown());
                Err(Error::NotFound { what })
            }
            (ended, _) => Err(Error::Command {
                program: "lxc-attach".to_owned(),
                status: ended.shown(),
                stderr: reason::distill(&log),
            }),
        }
    }

    /// Whether the container that the command was started in has ended, or is about to (its monitor dies first), or was
    /// cleaned away.
    fn container_stopped(&self) -> Result<bool> {
        if pidfd::wait_exit(self.init_fd.as_fd(), Some(GONE_PATIENCE))? {
            return Ok(true);
        }
        let Some(running) = self.container.running()? else { return Ok(true) };
        Ok(running.init != self.init || running.is_ending()?)
    }

    /// Kills the command with all that it started: its children and theirs, and what is in a session of one of them. Who has
    /// left both (a daemon, which did it on purpose) belongs to the container and goes on, as does all that is left behind by a
    /// command that has ended.
    ///
    /// # Errors
    /// [`Error::Os`] if the control group cannot be read.
    pub fn kill(&mut self) -> Result<()> {
        if pidfd::wait_exit(self.child.pidfd(), Some(Duration::ZERO))? {
            return self.child.wait().map(drop);
        }
        // The command is lxc-attach's child: LXC clones it beside its helper. Stopped, lxc-attach makes no other one.
        pidfd::signal(self.child.pidfd(), libc::SIGSTOP)?;
        let deadline = Instant::now() + KILL_PATIENCE;
        let mut sessions = BTreeSet::from([self.child.pid]);
        let mut killed = false;
        while self.kill_tree(&mut sessions, deadline)? && Instant::now() < deadline {
            killed = true;
        }
        if killed {
            // It reaps the command and ends. A dead process that nobody reaps keeps the container's init from ending.
            pidfd::signal(self.child.pidfd(), libc::SIGCONT)?;
            pidfd::wait_exit(self.child.pidfd(), Some(REAP_PATIENCE))?;
        }
        self.child.kill();
        self.child.wait().map(drop)
    }

    /// Kills what lxc-attach has made, with what that has made, and waits for its end. `sessions` are those of what was found so
    /// far: a process that lost its parent is still in one. False if there is nothing.
    fn kill_tree(&self, sessions: &mut BTreeSet<u32>, deadline: Instant) -> Result<bool> {
        let mut left = Vec::new();
        for pid in self.container.groups.all.processes()? {
            left.extend(pidfd::family(pid).filter(|_| pid != self.child.pid).map(|family| (pid, family)));
        }
        let mut tree = BTreeSet::from([self.child.pid]);
        let mut held = Vec::new();
        loop {
            let belongs = |(_, family): &(u32, Family)| {
                tree.contains(&family.parent) || sessions.contains(&family.session)
            };
            let (found, rest): (Vec<_>, Vec<_>) = left.into_iter().partition(belongs);
            left = rest;
            if found.is_empty() {
                break;
            }
            for (pid, family) in found {
                tree.insert(pid);
                if family.session == pid {
                    sessions.insert(pid);
                }
                // The same one still, if it has the same family now that it is held.
                if let Some(process) = pidfd::open(pid)?
                    && pidfd::family(pid) == Some(family)
                {
                    pidfd::signal(process.as_fd(), libc::SIGKILL)?;
                    held.push(process);
                }
            }
        }
        for process in &held {
            pidfd::wait_exit(process.as_fd(), Some(deadline.saturating_duration_since(Instant::now())))?;
        }
        Ok(!held.is_empty())
    }

    /// Sends a signal (`man 7 signal`) to the command, once it is one. False if it has ended.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless `number` is 1 to 64; [`Error::Busy`] if the command does not come to be; [`Error::Os`] if the
    /// control group cannot be read.
    pub fn signal(&self, number: u8) -> Result<bool> {
        if !(1..=64).contains(&number) {
            return Err(Error::invalid("signal", number.to_string(), "must be 1 to 64"));
        }
        let sent = until(Instant::now() + COMMAND_PATIENCE, || {
            if pidfd::wait_exit(self.child.pidfd(), Some(Duration::ZERO))? {
                return Ok(Some(false));
            }
            self.signal_command(number)
        })?;
        sent.ok_or_else(|| Error::Busy {
            what: format!("a command in {}", self.container.shown()),
            reason: "it is still being started".to_owned(),
        })
    }

    /// Sends it to lxc-attach's child that is another program by now. `None` if there is none.
    fn signal_command(&self, number: u8) -> Result<Option<bool>> {
        for pid in self.container.groups.all.processes()? {
            if let Some(process) = pidfd::open(pid)?
                && pidfd::parent(pid) == Some(self.child.pid)
                && pidfd::has_executed(pid)
            {
                return pidfd::signal(process.as_fd(), number.into()).map(Some);
            }
        }
        Ok(None)
    }

    /// Init of the container the command is in: readable once it has ended.
    #[must_use]
    pub fn init_pidfd(&self) -> BorrowedFd<'_> {
        self.init_fd.as_fd()
    }
}

/// Readable once the command has ended.
impl AsFd for ExecChild {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.pidfd()
    }
}

impl Drop for ExecChild {
    fn drop(&mut self) {
        // An error here means that there is nothing to kill any more.
        let _ = self.kill();
    }
}
