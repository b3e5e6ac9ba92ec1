//! A host to break: namespaces and a prefix of its own, and programs that run in them.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use docklet::paths::Paths;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::leftovers;
use crate::operations::OPERATE;
use crate::process;
use crate::ptrace::Tid;
use crate::snapshot::Snapshot;
use crate::tracer::{self, Mode, Outcome, Strike};

/// No operation takes this long, traced or not.
const PATIENCE: Duration = Duration::from_secs(60);

/// The scratch host. Only one is in use at a time.
pub(crate) struct Sandbox {
    pub(crate) paths: Paths,
    /// What the traced programs print.
    output: PathBuf,
}

impl Sandbox {
    /// Moves the calling thread into new mount and network namespaces. The prefix is `base` and a number.
    pub(crate) fn new(base: &str) -> Self {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("unshare");
        let status = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip");
        assert!(status.success(), "ip: {status}");
        let prefix = unused(base);
        let sandbox =
            Self { output: prefix.with_extension("log"), paths: Paths::new(prefix).expect("prefix") };
        fs::create_dir(sandbox.scratch()).expect("scratch");
        sandbox
    }

    /// A directory for an operation's own files.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.paths.prefix().join("scratch")
    }

    /// How many entries the scratch directory has.
    pub(crate) fn scratch_entries(&self) -> usize {
        fs::read_dir(self.scratch()).map_or(0, Iterator::count)
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot::take(&self.paths)
    }

    /// Runs an operation to its end, untraced, and returns what it printed.
    pub(crate) fn operate(&self, name: &str) -> Result<String, String> {
        let watchdog = Watchdog::start();
        let output = self.command(name).stdin(Stdio::null()).output().expect("run myself");
        if watchdog.barked() {
            return Err(format!("`{name}` hung"));
        }
        if !output.status.success() {
            return Err(format!(
                "`{name}`: {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            ));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs an operation under the tracer.
    #[expect(clippy::zombie_processes, reason = "the tracer waits for it")]
    pub(crate) fn trace(&self, name: &str, mode: Mode, strike: Option<Strike>) -> Result<Outcome, String> {
        let output = File::create(&self.output).expect("output");
        let errors = output.try_clone().expect("descriptor");
        let mut child =
            self.command(name).stdin(Stdio::piped()).stdout(output).stderr(errors).spawn().expect("spawn");
        let mut stdin = child.stdin.take().expect("stdin");
        let watchdog = Watchdog::start();
        let program = Tid::try_from(child.id()).expect("pid");
        let outcome =
            tracer::run(program, mode, strike, move || stdin.write_all(b"\n").expect("the program waits"));
        if watchdog.barked() {
            return Err(format!(
                "`{name}` hung, last call: {:?}",
                outcome.calls.last().map(|call| &call.text)
            ));
        }
        Ok(outcome)
    }

    /// What the last traced operation printed.
    pub(crate) fn last_output(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.args([OPERATE, name]).env("FS_PREFIX", self.paths.prefix());
        command
    }

    /// Removes everything, by force: the next sandbox must not find it.
    pub(crate) fn destroy(self) {
        kill_the_others();
        leftovers::remove(&self.paths);
    }
}

/// Makes the first directory that is not there yet: another run with this process id may have left some.
fn unused(base: &str) -> PathBuf {
    for number in 1.. {
        let prefix = PathBuf::from(format!("{base}-{number}"));
        match fs::create_dir(&prefix) {
            Ok(()) => return prefix,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => panic!("{}: {error}", prefix.display()),
        }
    }
    unreachable!("the numbers have no end")
}

/// Kills every process of this process namespace but its init and this one, and waits until they are gone.
fn kill_the_others() {
    while !process::others().is_empty() {
        // A process can fork before it is reached.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        while nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG))
            .is_ok_and(|status| status.pid().is_some())
        {}
        thread::sleep(Duration::from_millis(1));
    }
}

/// Ends a run that hangs, by killing everything in the sandbox.
struct Watchdog {
    stop: mpsc::Sender<()>,
    thread: thread::JoinHandle<bool>,
}

impl Watchdog {
    fn start() -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let hung = stopped.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
            if hung {
                let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
            }
            hung
        });
        Self { stop, thread }
    }

    /// Whether it had to be ended.
    fn barked(self) -> bool {
        drop(self.stop);
        self.thread.join().expect("watchdog")
    }
}
