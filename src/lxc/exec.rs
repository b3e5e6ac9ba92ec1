//! Running commands in a running container, by `lxc-attach`: it enters the namespaces and the control group, drops the
//! same capabilities and loads the same system call filter as init has.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::lxc::birthplace::Birthplace;
use crate::lxc::config::check_variable;
use crate::lxc::container::{Container, KILL_PATIENCE};
use crate::lxc::exec_output::{ExecOutput, ExecStatus};
use crate::lxc::record::Birth;
use crate::lxc::{config, pump, reason, text};
use crate::sys::confined::ConfinedRoot;
use crate::sys::pidfd;
use crate::sys::process::{Child, Ended, Program, Stream};
use crate::sys::wait::deadline;

/// A command's search path, unless its environment says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long `lxc-attach` may take to end after its command.
const REAP_PATIENCE: Duration = Duration::from_secs(1);
/// For how long a container that could not be entered may still be ending.
const GONE_PATIENCE: Duration = Duration::from_millis(200);

/// A command to run in a container.
///
/// ```
/// # use docklet::lxc::Exec;
/// let exec = Exec { user: Some(1000), ..Exec::new(["id", "-u"]) };
/// assert_eq!(exec.output_max_bytes, 1 << 20);
/// let exec: Exec = serde_json::from_str(r#"{"command": ["id"]}"#).unwrap();
/// assert_eq!(exec, Exec::new(["id"]));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Exec {
    /// The program and its arguments. A program without a slash is searched for in the container's `PATH`.
    pub command: Vec<String>,
    /// Its environment. Nothing of the caller's is handed on; `PATH` has a usual value unless it is given, and LXC adds
    /// `container=lxc` and the variables of the container's configuration.
    pub environment: BTreeMap<String, String>,
    /// The directory to run it in, as the container sees it. Default: `/`. It needs `/bin/sh` in the container, which
    /// changes there before it becomes the command: LXC has no way of its own.
    pub cwd: Option<PathBuf>,
    /// The user id to run it as. Default: 0.
    pub user: Option<u32>,
    /// The group id to run it as. Default: 0.
    pub group: Option<u32>,
    /// What it reads from its standard input. Not for [`Container::spawn`].
    pub stdin: Vec<u8>,
    /// For how long it may run, then it is killed. Default: no bound. Not for [`Container::spawn`].
    pub timeout: Option<Duration>,
    /// How much of each of its outputs is kept. Default: 1 MiB. Not for [`Container::spawn`].
    pub output_max_bytes: usize,
}

/// A running command in a container. Dropping it kills the command.
#[derive(Debug)]
pub struct ExecChild {
    /// Writes to the command's standard input. Drop it to end that.
    pub stdin: Option<File>,
    /// Reads the command's standard output.
    pub stdout: Option<File>,
    /// Reads the command's standard error.
    pub stderr: Option<File>,
    child: Child,
    log: File,
    container: Container,
    init: Birth,
    init_fd: OwnedFd,
}

impl Default for Exec {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            environment: BTreeMap::new(),
            cwd: None,
            user: None,
            group: None,
            stdin: Vec::new(),
            timeout: None,
            output_max_bytes: 1 << 20,
        }
    }
}

impl Exec {
    /// `command` with an empty environment, no input and no bound of time.
    #[must_use]
    pub fn new(command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { command: command.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    fn check(&self) -> Result<()> {
        if self.command.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("command", "", "must name a program"));
        }
        let zero = |text: &&String| text.contains('\0');
        if let Some(bad) = self.command.iter().chain(self.environment.values()).find(zero) {
            return Err(Error::invalid("command", bad, "must not contain a zero byte"));
        }
        self.environment.keys().try_for_each(|name| check_variable(name))?;
        if let Some(cwd) = &self.cwd
            && cwd != Path::new("/")
        {
            text::check_path("working directory", cwd)?;
        }
        Ok(())
    }
}

impl Container {
    /// Runs a command in the container and waits for its end. Its output is kept up to a bound, the rest is read and
    /// dropped.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the container does not run, or has no such working directory; [`Error::Invalid`] if the
    /// command is empty or cannot be expressed; [`Error::Busy`] if the container is frozen; [`Error::Command`] if
    /// `lxc-attach` itself failed. What the command does, that it cannot be run too, is in [`ExecOutput::status`].
    pub fn exec(&self, exec: &Exec) -> Result<ExecOutput> {
        let _span = tracing::info_span!("container_exec", id = %self.id).entered();
        let deadline = exec.timeout.map(deadline);
        let mut child = self.spawn(exec)?;
        let outputs = [child.stdout.take(), child.stderr.take()];
        let stdin = child.stdin.take();
        let max_bytes = exec.output_max_bytes;
        let (captured, ended) =
            pump::pump(child.child.pidfd(), stdin, &exec.stdin, outputs, max_bytes, deadline)?;
        let status = if ended {
            child.wait()?
        } else {
            child.kill()?;
            ExecStatus::TimedOut
        };
        let pump::Captured { stdout, stderr, truncated } = captured;
        Ok(ExecOutput { status, stdout, stderr, truncated })
    }

    /// Starts a command in the container, with its streams as pipes.
    ///
    /// # Errors
    /// As [`Container::exec`]; what fails later is told by [`ExecChild::wait`].
    pub fn spawn(&self, exec: &Exec) -> Result<ExecChild> {
        exec.check()?;
        let running = self.must_run()?;
        if self.group.child(config::PAYLOAD)?.is_frozen()? {
            // So is what is killed, for a moment.
            if running.is_ending()? {
                return Err(self.not_running());
            }
            return Err(Error::Busy {
                what: self.shown(),
                reason: "it is frozen: a command would stand still; unfreeze it first".to_owned(),
            });
        }
        if let Some(cwd) = &exec.cwd {
            check_cwd(running.init.pid, cwd)?;
        }
        let log: File = memfd_create("lxc-attach.log", MemfdFlags::CLOEXEC)
            .map_err(|e| Error::os("memfd_create", "lxc-attach.log", e))?
            .into();
        // Born there it ends with the container, and cannot make LXC's lock file again after it.
        let place = Birthplace::ensure(&self.group)?;
        let mut child = place.of(self.program(exec, &log)?).spawn()?;
        tracing::debug!(pid = child.pid, command = ?exec.command, "lxc-attach");
        Ok(ExecChild {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            child,
            log,
            container: self.clone(),
            init: running.init,
            init_fd: running.init_fd,
        })
    }

    fn program(&self, exec: &Exec, log: &File) -> Result<Program<'static>> {
        // lxc-attach opens it itself, so that no descriptor of ours reaches the container.
        let log = format!("/proc/{}/fd/{}", std::process::id(), log.as_raw_fd());
        let mut program = Program::new(&self.target.lxc_attach)?.streams([Stream::Pipe; 3]);
        for arg in ["-n", self.id.as_str(), "--quiet", "-l", "ERROR", "-o", &log, "--clear-env", "-P"] {
            program = program.arg(arg)?;
        }
        program = program.arg(&self.lxc_path)?;
        for (option, id) in [("-u", exec.user), ("-g", exec.group)] {
            if let Some(id) = id {
                program = program.arg(option)?.arg(id.to_string())?;
            }
        }
        if !exec.environment.contains_key("PATH") {
            program = program.arg("-v")?.arg(format!("PATH={PATH}"))?;
        }
        for (name, value) in &exec.environment {
            program = program.arg("-v")?.arg(format!("{name}={value}"))?;
        }
        program = program.arg("--")?;
        if let Some(cwd) = &exec.cwd {
            // A fixed text; what the caller gives are arguments to it.
            for arg in ["/bin/sh", "-c", "cd -- \"$0\" && exec \"$@\""] {
                program = program.arg(arg)?;
            }
            program = program.arg(cwd)?;
        }
        for arg in &exec.command {
            program = program.arg(arg)?;
        }
        Ok(program)
    }
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

    /// Kills the command. Processes that it started and left behind belong to the container and go on.
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
        let mut killed = false;
        while self.kill_children(deadline)? && Instant::now() < deadline {
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

    /// Kills what lxc-attach has made and waits for its end. False if there is nothing.
    fn kill_children(&self, deadline: Instant) -> Result<bool> {
        let mut held = Vec::new();
        for pid in self.container.group.processes()? {
            if let Some(process) = pidfd::open(pid)?
                && pidfd::parent(pid) == Some(self.child.pid)
            {
                pidfd::signal(process.as_fd(), libc::SIGKILL)?;
                held.push(process);
            }
        }
        for process in &held {
            pidfd::wait_exit(process.as_fd(), Some(deadline.saturating_duration_since(Instant::now())))?;
        }
        Ok(!held.is_empty())
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

fn check_cwd(init: u32, cwd: &Path) -> Result<()> {
    let root = ConfinedRoot::open(Path::new(&format!("/proc/{init}/root")))?;
    match root.open_at(cwd, OFlags::PATH | OFlags::DIRECTORY, Mode::empty(), true) {
        Ok(_) => Ok(()),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Err(Error::NotFound { what: format!("directory `{}` in the container", cwd.display()) })
        }
        Err(e) => Err(Error::os("openat2", cwd.display(), e)),
    }
}
