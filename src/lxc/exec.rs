//! Running commands in a running container, by `lxc-attach`: it enters the namespaces and the control group, drops the
//! same capabilities and loads the same system call filter as init has.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::lxc::account::{self, Account, Identity};
use crate::lxc::birthplace::Birthplace;
use crate::lxc::config::check_variable;
use crate::lxc::container::Container;
use crate::lxc::exec_child::ExecChild;
use crate::lxc::exec_output::{ExecOutput, ExecStatus};
use crate::lxc::terminal::{self, Terminal, TerminalSize};
use crate::lxc::{pump, text};
use crate::sys::confined::ConfinedRoot;
use crate::sys::process::{Program, Stream};
use crate::sys::wait::deadline;

/// A command's search path, unless its environment says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command to run in a container.
///
/// ```
/// # use docklet::lxc::Exec;
/// let exec = Exec { user: Some(1000.into()), ..Exec::new(["id", "-u"]) };
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
    /// `container=lxc` and the variables of the container's configuration. They are arguments of `lxc-attach`, as the command is, and
    /// those every user of the host can read while it runs: a secret is for [`Exec::stdin`], or a file.
    pub environment: BTreeMap<String, String>,
    /// The directory to run it in, as the container sees it. Default: `/`. It needs `/bin/sh` in the container, which
    /// changes there before it becomes the command: LXC has no way of its own.
    pub cwd: Option<PathBuf>,
    /// The user to run it as. Default: 0. By a name, the container's `/etc/passwd` says which, and `HOME` is what stands there,
    /// unless it is given. It has no supplementary groups: `lxc-attach` gives none.
    pub user: Option<Account>,
    /// The group to run it as. Default: that of a user given by name, else 0. By a name, the container's `/etc/group` says which.
    pub group: Option<Account>,
    /// Runs it on a pseudo terminal of this size, of the container's own (`tty` tells its name), as its controlling one.
    /// Standard output and error are one then. Default: none, its streams are pipes.
    pub terminal: Option<TerminalSize>,
    /// What it reads from its standard input, or is typed on its terminal: that does not end then, unless by an
    /// end-of-file character (`\x04`) in it. In JSON an array of bytes. [`Container::spawn`] does not look at it.
    pub stdin: Vec<u8>,
    /// For how long it may run, then it is killed. Default: no bound. [`Container::spawn`] does not look at it.
    pub timeout: Option<Duration>,
    /// How much of each of its outputs is kept, in bytes. Default: 1 MiB. [`Container::spawn`] does not look at it.
    pub output_max_bytes: usize,
}

impl Default for Exec {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            environment: BTreeMap::new(),
            cwd: None,
            user: None,
            group: None,
            terminal: None,
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
        self.user.iter().chain(&self.group).try_for_each(Account::check)?;
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
    /// [`Error::NotFound`] if the container does not run, or has no such working directory, user or group; [`Error::Invalid`] if the
    /// command is empty or cannot be expressed; [`Error::Busy`] if the container is frozen; [`Error::Command`] if
    /// `lxc-attach` itself failed, as where the limit of processes is reached, or the user's id is none of the container's. What the command
    /// does, that it cannot be run too, is in [`ExecOutput::status`].
    pub fn exec(&self, exec: &Exec) -> Result<ExecOutput> {
        let _span = tracing::info_span!("container_exec", id = %self.id).entered();
        let deadline = exec.timeout.map(deadline);
        let mut child = self.spawn(exec)?;
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
    pub fn spawn(&self, exec: &Exec) -> Result<ExecChild> {
        exec.check()?;
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
        if let Some(cwd) = &exec.cwd {
            check_cwd(running.init.pid, cwd)?;
        }
        let identity = account::resolve(running.init.pid, exec.user.as_ref(), exec.group.as_ref())?;
        let (terminal, theirs) = exec.terminal.map(Terminal::open).transpose()?.unzip();
        let log: File = memfd_create("lxc-attach.log", MemfdFlags::CLOEXEC)
            .map_err(|e| Error::os("memfd_create", "lxc-attach.log", e))?
            .into();
        // Born there it ends with the container, and cannot make LXC's lock file again after it.
        let place = Birthplace::ensure(&self.groups.start)?;
        let program = self.program(exec, &identity, &log)?;
        let program = match &theirs {
            Some(terminal) => program.on_terminal(terminal.as_fd()),
            None => program.streams([Stream::Pipe; 3]),
        };
        let mut child = place.of(program).spawn()?;
        tracing::debug!(pid = child.pid, command = ?exec.command, "lxc-attach");
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

    fn program<'a>(&self, exec: &Exec, identity: &Identity, log: &File) -> Result<Program<'a>> {
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
        if !exec.environment.contains_key("PATH") {
            program = program.arg("-v")?.arg(format!("PATH={PATH}"))?;
        }
        if let Some(home) = identity.home.as_ref().filter(|_| !exec.environment.contains_key("HOME")) {
            program = program.arg("-v")?.arg(format!("HOME={home}"))?;
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
