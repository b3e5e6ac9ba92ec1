//! Running commands in a running container, by `lxc-attach`: it enters the namespaces and the control group, drops the
//! same capabilities and loads the same system call filter as init has.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::lxc::account::{self, Identity};
use crate::lxc::birthplace::Birthplace;
use crate::lxc::command::Command;
use crate::lxc::container::Container;
use crate::lxc::exec_child::ExecChild;
use crate::lxc::exec_output::{ExecOutput, ExecStatus};
use crate::lxc::pump;
use crate::lxc::terminal::{self, Terminal};
use crate::sys::confined::ConfinedRoot;
use crate::sys::process::{Program, Stream};
use crate::sys::wait::deadline;

/// A command's search path, unless its environment says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A whole run of a command in a container: from what it reads to what it says.
///
/// ```
/// # use std::time::Duration;
/// # use docklet::lxc::{Command, Exec};
/// let exec = Exec { timeout: Some(Duration::from_secs(5)), ..Exec::new(["id", "-u"]) };
/// assert_eq!((exec.command, exec.output_max_bytes), (Command::new(["id", "-u"]), 1 << 20));
/// let as_web = Exec::from(Command { user: Some("web".into()), ..Command::new(["id"]) });
/// let text = r#"{"command": {"argv": ["id"], "user": "web"}}"#;
/// assert_eq!(serde_json::from_str::<Exec>(text).unwrap(), as_web);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Exec {
    /// What is run.
    pub command: Command,
    /// What it reads from its standard input, or is typed on its terminal: that does not end then, unless by an
    /// end-of-file character (`\x04`) in it. In JSON an array of bytes.
    pub stdin: Vec<u8>,
    /// For how long it may run, then it is killed. Default: no bound.
    pub timeout: Option<Duration>,
    /// How much of each of its outputs is kept, in bytes. Default: 1 MiB.
    pub output_max_bytes: usize,
}

impl Default for Exec {
    fn default() -> Self {
        Self { command: Command::default(), stdin: Vec::new(), timeout: None, output_max_bytes: 1 << 20 }
    }
}

impl Exec {
    /// The program and its arguments as a [`Command::new`], without input and without a bound of time.
    #[must_use]
    pub fn new(argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Command::new(argv).into()
    }
}

impl From<Command> for Exec {
    fn from(command: Command) -> Self {
        Self { command, ..Self::default() }
    }
}

impl Container {
    /// Runs a command in the container and waits for its end. Its output is kept up to a bound, the rest is read and
    /// dropped.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the container does not run, or has no such working directory, user or group; [`Error::Invalid`] if the
    /// command is empty or cannot be expressed; [`Error::Busy`] if the container is frozen; [`Error::Command`] if
    /// `lxc-attach` itself failed, as where the limit of processes is reached, or the user's id is none of the container's. What the command
    /// does, that it cannot be run too, is in [`ExecOutput::status`].
    pub fn exec(&self, exec: &Exec) -> Result<ExecOutput> {
        let _span = tracing::info_span!("container_exec", id = %self.id).entered();
        let deadline = exec.timeout.map(deadline);
        let mut child = self.spawn(&exec.command)?;
        let (stdin, outputs) = match &child.terminal {
            Some(terminal) => (Some(terminal.file()?), [Some(terminal.file()?), None]),
            None => (child.stdin.take(), [child.stdout.take(), child.stderr.take()]),
        };
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

    /// Starts a command in the container, with its streams as pipes, or on a terminal.
    ///
    /// # Errors
    /// As [`Container::exec`]; what fails later is told by [`ExecChild::wait`].
    pub fn spawn(&self, command: &Command) -> Result<ExecChild> {
        command.check()?;
        let running = self.must_run()?;
        if self.groups.payload.is_frozen()? {
            // So is what is killed, for a moment.
            if running.is_ending()? {
                return Err(self.not_running());
            }
            return Err(Error::Busy {
                what: self.shown(),
                reason: "it is frozen: a command would stand still; unfreeze it first".to_owned(),
            });
        }
        if let Some(cwd) = &command.cwd {
            check_cwd(running.init.pid, cwd)?;
        }
        let identity = account::resolve(running.init.pid, command.user.as_ref(), command.group.as_ref())?;
        let (terminal, theirs) = command.terminal.map(Terminal::open).transpose()?.unzip();
        let log: File = memfd_create("lxc-attach.log", MemfdFlags::CLOEXEC)
            .map_err(|e| Error::os("memfd_create", "lxc-attach.log", e))?
            .into();
        // Born there it ends with the container, and cannot make LXC's lock file again after it.
        let place = Birthplace::ensure(&self.groups.start)?;
        let program = self.program(command, &identity, &log)?;
        let program = match &theirs {
            Some(terminal) => program.on_terminal(terminal.as_fd()),
            None => program.streams([Stream::Pipe; 3]),
        };
        let mut child = place.of(program).spawn()?;
        tracing::debug!(pid = child.pid, argv = ?command.argv, "lxc-attach");
        let child = ExecChild {
            terminal,
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            child,
            log,
            container: self.clone(),
            init: running.init,
            init_fd: running.init_fd,
        };
        if let Some(theirs) = theirs {
            terminal::hand_over(&theirs, child.as_fd())?;
        }
        Ok(child)
    }

    fn program<'a>(&self, command: &Command, identity: &Identity, log: &File) -> Result<Program<'a>> {
        // lxc-attach opens it itself, so that no descriptor of ours reaches the container.
        let log = format!("/proc/{}/fd/{}", std::process::id(), log.as_raw_fd());
        let mut program = Program::new(&self.target.lxc_attach)?;
        for arg in ["-n", self.id.as_str(), "--quiet", "-l", "ERROR", "-o", &log, "--clear-env", "-P"] {
            program = program.arg(arg)?;
        }
        program = program.arg(&self.lxc_path)?;
        for (option, id) in [("-u", identity.user), ("-g", identity.group)] {
            if let Some(id) = id {
                program = program.arg(option)?.arg(id.to_string())?;
            }
        }
        if !command.environment.contains_key("PATH") {
            program = program.arg("-v")?.arg(format!("PATH={PATH}"))?;
        }
        if let Some(home) = identity.home.as_ref().filter(|_| !command.environment.contains_key("HOME")) {
            program = program.arg("-v")?.arg(format!("HOME={home}"))?;
        }
        for (name, value) in &command.environment {
            program = program.arg("-v")?.arg(format!("{name}={value}"))?;
        }
        program = program.arg("--")?;
        if let Some(cwd) = &command.cwd {
            // A fixed text; what the caller gives are arguments to it.
            for arg in ["/bin/sh", "-c", "cd -- \"$0\" && exec \"$@\""] {
                program = program.arg(arg)?;
            }
            program = program.arg(cwd)?;
        }
        for arg in &command.argv {
            program = program.arg(arg)?;
        }
        Ok(program)
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
