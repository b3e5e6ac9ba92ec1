//! The host's own programs that do a part of the work: `mkfs.ext4`, `resize2fs`, `modprobe`, `nft`, and where LXC's are.
//!
//! Run by the standard library, with the caller's environment and English messages. What runs during a launch is
//! [`Program`](crate::sys::process::Program)'s.

use std::env;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::sys::pidfd;

/// Searched after the absolute directories of `PATH`: a daemon's often lacks the system's own.
const DIRECTORIES: [&str; 6] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin", "/opt/lxc/bin"];

/// How long a program may take to end when it is asked to.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// Where `program` is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .chain(DIRECTORIES.map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// `program`, to be run; `None` if it is not installed.
pub(crate) fn command(program: &str) -> Option<Command> {
    let mut command = Command::new(find(program)?);
    command.env("LC_ALL", "C");
    Some(command)
}

/// Runs `command` and takes what it prints.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    command.output().map_err(|e| Error::os("execve", command.get_program().display(), e))
}

/// As [`output`], but not for longer than `timeout`: [`Error::Busy`]. It is asked to end then (SIGTERM); one that is in the
/// middle of what it must not leave half ends later, or hangs, and is left to itself.
pub(crate) fn output_within(command: &mut Command, timeout: Duration) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |call: &'static str| {
        let program = program.clone();
        move |e: io::Error| Error::os(call, program, e)
    };
    let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(failed("execve"))?;
    // Read while it runs: a full pipe would hold it up.
    let (stdout, stderr) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let pidfd = pidfd::open(child.id())?;
    let ended = |timeout| pidfd.as_ref().map_or(Ok(true), |fd| pidfd::wait_exit(fd.as_fd(), Some(timeout)));
    if ended(timeout)? {
        let status = child.wait().map_err(failed("waitid"))?;
        let read = |reader: JoinHandle<io::Result<Vec<u8>>>| {
            reader.join().unwrap_or_else(|_| Err(io::Error::other("its reader died")))
        };
        let (stdout, stderr) = (read(stdout).map_err(failed("read"))?, read(stderr).map_err(failed("read"))?);
        return Ok(Output { status, stdout, stderr });
    }
    if let Some(fd) = &pidfd {
        pidfd::signal(fd.as_fd(), libc::SIGTERM)?;
    }
    let how = if ended(END_PATIENCE)? { "was ended" } else { "goes on, whatever it is asked" };
    // Somebody has to take note of its end.
    thread::spawn(move || child.wait());
    Err(Error::Busy {
        what: format!("the program {program}"),
        reason: format!("it was not done after {timeout:?}, and {how}"),
    })
}

fn reader(stream: Option<impl Read + Send + 'static>) -> JoinHandle<io::Result<Vec<u8>>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.map_or(Ok(0), |mut stream| stream.read_to_end(&mut bytes))?;
        Ok(bytes)
    })
}

/// What a program printed, in one line.
pub(crate) fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_and_heard() {
        assert_eq!(find("no-such-program"), None);
        let mut sh = command("sh").unwrap();
        let output = output(sh.args(["-c", "echo a; echo b; echo $LC_ALL >&2"])).unwrap();
        assert_eq!((said(&output.stdout).as_str(), said(&output.stderr).as_str()), ("a; b", "C"));
    }
    #[test]
    fn programs_that_take_too_long_are_ended() {
        let long = Duration::from_secs(60);
        let mut head = command("head").unwrap();
        let output = output_within(head.args(["-c", "300000", "/dev/zero"]), long).unwrap();
        assert_eq!((output.status.success(), output.stdout.len()), (true, 300_000));
        let mut sh = command("sh").unwrap();
        let output = output_within(sh.args(["-c", "echo no >&2; exit 5"]), long).unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(5), &b"no\n"[..]));
        let mut sleep = command("sleep").unwrap();
        let error = output_within(sleep.arg("600"), Duration::from_millis(20)).unwrap_err();
        assert!(matches!(&error, Error::Busy { reason, .. } if reason.contains("was ended")), "{error}");
    }
}
