//! The host's own programs that do a part of the work: `mkfs.ext4`, `resize2fs`, `modprobe`, `nft`, and where LXC's are.
//!
//! Run by the standard library, with the caller's environment and English messages. What runs during a launch is
//! [`Program`](crate::sys::process::Program)'s.

use std::env;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::sys::pidfd;

/// Searched after the absolute directories of `PATH`: a daemon's often lacks the system's own.
const DIRECTORIES: [&str; 6] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin", "/opt/lxc/bin"];

/// How long a program may take to end when it is asked to.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// How long a program may take, and what becomes of one that takes longer. Each is far above what it takes where nothing hangs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    /// It is killed: what it leaves is nobody's, or it changes nothing.
    Kill(Duration),
    /// It is asked to end (SIGTERM). In the middle of what it must not leave half it ends later, or hangs, and is left to
    /// itself.
    Ask(Duration),
    /// It is left to itself: half of what it does is damage.
    Leave(Duration),
}

impl Limit {
    /// For what only looks, or loads a module.
    pub(crate) const QUICK: Self = Self::Kill(Duration::from_secs(60));

    fn time(self) -> Duration {
        match self {
            Self::Kill(time) | Self::Ask(time) | Self::Leave(time) => time,
        }
    }
}

/// Where `program` is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .chain(DIRECTORIES.map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// `program`, to be run, with nothing to read; `None` if it is not installed.
pub(crate) fn command(program: &str) -> Option<Command> {
    let mut command = Command::new(find(program)?);
    command.env("LC_ALL", "C").stdin(Stdio::null());
    Some(command)
}

/// Runs `command` and takes what it prints, as long as `limit` allows: then it is [`Error::Busy`].
pub(crate) fn output(command: &mut Command, limit: Limit) -> Result<Output> {
    run(command.stdout(Stdio::piped()), limit)
}

/// As [`output`], with the standard output that `command` has: what is printed there is not taken unless it is a pipe.
pub(crate) fn run(command: &mut Command, limit: Limit) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |call: &'static str| {
        let program = program.clone();
        move |e: io::Error| Error::os(call, program, e)
    };
    let spawned = command.stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(failed("execve"))?;
    // Read while it runs: a full pipe would hold it up.
    let (stdout, stderr) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let pidfd = pidfd::open(child.id())?;
    let ended = |timeout| pidfd.as_ref().map_or(Ok(true), |fd| pidfd::wait_exit(fd.as_fd(), Some(timeout)));
    if ended(limit.time())? {
        let status = child.wait().map_err(failed("waitid"))?;
        // What it may have left running could hold them open.
        let read = |stream: &Receiver<io::Result<Vec<u8>>>| {
            stream.recv_timeout(END_PATIENCE).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        };
        let (stdout, stderr) =
            (read(&stdout).map_err(failed("read"))?, read(&stderr).map_err(failed("read"))?);
        return Ok(Output { status, stdout, stderr });
    }
    let signal = match limit {
        Limit::Kill(_) => Some(libc::SIGKILL),
        Limit::Ask(_) => Some(libc::SIGTERM),
        Limit::Leave(_) => None,
    };
    if let (Some(fd), Some(signal)) = (&pidfd, signal) {
        pidfd::signal(fd.as_fd(), signal)?;
    }
    let has_ended = signal.is_some() && ended(END_PATIENCE)?;
    let how = match (has_ended, signal) {
        (true, _) => "was ended",
        (false, Some(_)) => "goes on, whatever it is asked",
        (false, None) => "goes on: to end it would do damage",
    };
    if has_ended {
        child.wait().map_err(failed("waitid"))?;
    } else {
        // Somebody has to take note of its end.
        thread::spawn(move || child.wait());
    }
    Err(Error::Busy {
        what: format!("the program {program}"),
        reason: format!("it was not done after {:?}, and {how}", limit.time()),
    })
}

fn reader(stream: Option<impl Read + Send + 'static>) -> Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = stream.map_or(Ok(0), |mut stream| stream.read_to_end(&mut bytes));
        // Nobody waits for what comes too late.
        let _ = sender.send(read.map(|_| bytes));
    });
    receiver
}

/// What a program printed, in one line.
pub(crate) fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Limit = Limit::Kill(Duration::from_secs(60));

    #[test]
    fn programs_are_found_and_heard() {
        assert_eq!(find("no-such-program"), None);
        let mut sh = command("sh").unwrap();
        let output = output(sh.args(["-c", "echo a; echo b; echo $LC_ALL >&2; cat; exit 5"]), LONG).unwrap();
        assert_eq!((said(&output.stdout).as_str(), said(&output.stderr).as_str()), ("a; b", "C"));
        assert_eq!(output.status.code(), Some(5));
    }

    #[test]
    fn much_output_does_not_hold_a_program_up() {
        let mut head = command("head").unwrap();
        let output = output(head.args(["-c", "300000", "/dev/zero"]), LONG).unwrap();
        assert_eq!((output.status.success(), output.stdout.len()), (true, 300_000));
    }

    /// Runs what never ends, and gives its process id and the error.
    fn late(script: &str, limit: Limit) -> (u32, Error) {
        let path = env::temp_dir().join(format!("docklet-tool-{}-{limit:?}", std::process::id()));
        let mut sh = command("sh").unwrap();
        let error = output(sh.args(["-c", script, "sh"]).arg(&path), limit).unwrap_err();
        let pid = std::fs::read_to_string(&path).unwrap().trim().parse().unwrap();
        std::fs::remove_file(path).unwrap();
        (pid, error)
    }

    #[test]
    fn programs_that_take_too_long_are_ended_and_reaped() {
        let time = Duration::from_secs(1);
        for (script, limit) in [
            ("echo $$ >$1; exec sleep 600", Limit::Ask(time)),
            ("trap '' TERM; echo $$ >$1; exec sleep 600", Limit::Kill(time)),
        ] {
            let (pid, error) = late(script, limit);
            assert!(
                matches!(&error, Error::Busy { reason, .. } if reason.contains("was ended")),
                "{limit:?}: {error}"
            );
            assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{limit:?}");
        }
    }

    #[test]
    fn programs_that_must_not_be_ended_go_on() {
        let (pid, error) = late("echo $$ >$1; exec sleep 600", Limit::Leave(Duration::from_secs(1)));
        assert!(matches!(&error, Error::Busy { reason, .. } if reason.contains("goes on")), "{error}");
        let pidfd = pidfd::open(pid).unwrap().unwrap();
        assert!(pidfd::signal(pidfd.as_fd(), libc::SIGKILL).unwrap(), "it lives");
        assert!(pidfd::wait_exit(pidfd.as_fd(), Some(Duration::from_secs(60))).unwrap());
    }
}
