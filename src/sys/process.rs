//! Helper programs: born inside a control group, cheap from a large program, reaped without signals.
//!
//! `man 2 clone3`, `man 2 vfork`, `man 2 pidfd_open`. Everything the child needs is made before the clone: between
//! clone and exec it shares the caller's memory and allocates nothing. No shell, no search in `PATH`, no inherited
//! environment.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::error::{Error, Result};
use crate::sys::{clone, file, pidfd};

/// What a standard stream of the child is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// `/dev/null`.
    Null,
    /// A pipe whose other end is in [`Child`].
    Pipe,
}

/// A program to run.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    streams: [Stream; 3],
    cgroup: Option<BorrowedFd<'a>>,
    procs: Vec<BorrowedFd<'a>>,
    terminal: Option<BorrowedFd<'a>>,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Exited(i32),
    Signaled(i32),
}

/// How long a dropped program may take to die after SIGKILL: one that waits for a dead disk does not.
const DROP_PATIENCE: Duration = Duration::from_secs(10);

/// A running program. Dropping it kills it, and reaps it if it dies within ten seconds.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: u32,
    pidfd: OwnedFd,
    ended: Option<Ended>,
    /// Our end of the child's standard input, if it is a pipe.
    pub(crate) stdin: Option<File>,
    /// Our end of the child's standard output, if it is a pipe.
    pub(crate) stdout: Option<File>,
    /// Our end of the child's standard error, if it is a pipe.
    pub(crate) stderr: Option<File>,
}

impl<'a> Program<'a> {
    /// The program at the absolute `path`. Its environment is `PATH` alone, its streams are `/dev/null`.
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let path = c_string(path.as_os_str())?;
        Ok(Self {
            args: vec![path.clone()],
            path,
            env: vec![c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
            streams: [Stream::Null; 3],
            cgroup: None,
            procs: Vec::new(),
            terminal: None,
        })
    }

    /// Finds no other program by its name: its `PATH` leads nowhere.
    pub(crate) fn without_others(mut self) -> Self {
        self.env = vec![c"PATH=/nonexistent".to_owned()];
        self
    }

    /// Adds one argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Result<Self> {
        self.args.push(c_string(arg.as_ref())?);
        Ok(self)
    }

    /// Sets what standard input, output and error are.
    pub(crate) fn streams(mut self, streams: [Stream; 3]) -> Self {
        self.streams = streams;
        self
    }

    /// The child is born in the cgroup v2 directory `dir`.
    pub(crate) fn in_cgroup(mut self, dir: BorrowedFd<'a>) -> Self {
        self.cgroup = Some(dir);
        self
    }

    /// The child moves itself to this cgroup (an open `cgroup.procs`) before it becomes the program.
    pub(crate) fn entering(mut self, procs: BorrowedFd<'a>) -> Self {
        self.procs.push(procs);
        self
    }

    /// All its streams are `terminal`, which becomes its controlling one.
    pub(crate) fn on_terminal(mut self, terminal: BorrowedFd<'a>) -> Self {
        self.terminal = Some(terminal);
        self
    }

    /// Starts it. Returns once the program runs, or did not.
    pub(crate) fn spawn(&self) -> Result<Child> {
        let shown = self.path.to_string_lossy();
        let failed = |call: &'static str| move |e: io::Error| Error::os(call, &shown, e);
        let mut ours = [None, None, None];
        let mut theirs = Vec::with_capacity(3);
        for (index, stream) in self.streams.iter().enumerate() {
            let end = match (stream, self.terminal) {
                (_, Some(terminal)) => terminal.try_clone_to_owned(),
                (Stream::Null, None) => {
                    File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from)
                }
                (Stream::Pipe, None) => {
                    pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from).map(|(read, write)| {
                        let (mine, its) = if index == 0 { (write, read) } else { (read, write) };
                        ours[index] = Some(File::from(mine));
                        its
                    })
                }
            };
            // Above the standard ones, so that the child's dup2 never meets its own source.
            let end = end.and_then(|fd| Ok(fcntl_dupfd_cloexec(&fd, 3)?)).map_err(failed.clone()("pipe"))?;
            theirs.push(end);
        }
        let request = clone::Request {
            path: &self.path,
            args: &self.args,
            env: &self.env,
            streams: [theirs[0].as_fd(), theirs[1].as_fd(), theirs[2].as_fd()],
            procs: &self.procs,
            on_terminal: self.terminal.is_some(),
            cgroup: self.cgroup,
        };
        let (pid, pidfd, refused) = clone::spawn(&request).map_err(failed.clone()("clone3"))?;
        let [stdin, stdout, stderr] = ours;
        let mut child = Child { pid, pidfd, ended: None, stdin, stdout, stderr };
        if let Some(error) = refused {
            child.wait()?;
            return Err(failed("execve")(error));
        }
        Ok(child)
    }
}

impl Child {
    /// Waits until it ends.
    pub(crate) fn wait(&mut self) -> Result<Ended> {
        if let Some(ended) = self.ended {
            return Ok(ended);
        }
        let status = loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Ok(Some(status)) => break status,
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::os("waitid", self.pid, error)),
            }
        };
        let ended = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ended::Exited(code),
            (None, signal) => Ended::Signaled(signal.unwrap_or(0)),
        };
        self.ended = Some(ended);
        Ok(ended)
    }

    /// Waits until it ends, for at most `timeout`.
    pub(crate) fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<Ended>> {
        if self.ended.is_none() && !pidfd::wait_exit(self.pidfd.as_fd(), Some(timeout))? {
            return Ok(None);
        }
        self.wait().map(Some)
    }

    /// Sends SIGKILL. One that has ended is killed.
    pub(crate) fn kill(&self) {
        if self.ended.is_none() {
            // It fails only for a process that is dead already.
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
    }

    /// Becomes readable when the program has ended.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.kill();
            // One that does not die stays as it is until this process ends, and is reaped by init then.
            let _ = self.wait_timeout(DROP_PATIENCE);
        }
    }
}

fn c_string(text: &OsStr) -> Result<CString> {
    CString::new(text.as_bytes())
        .map_err(|_| Error::invalid("argument", text.to_string_lossy(), "must not contain a zero byte"))
}

impl Ended {
    /// As a person reads it.
    pub(crate) fn shown(self) -> String {
        match self {
            Self::Exited(code) => format!("exit status: {code}"),
            Self::Signaled(signal) => format!("signal: {signal}"),
        }
    }
}

/// The process `pid` as a person reads it: "4711 (sleep)".
pub(crate) fn shown(pid: u32) -> String {
    let name = file::of_process(pid, "comm").unwrap_or_default();
    // A process names itself: what would move a terminal's cursor is not handed on.
    format!("{pid} ({})", name.trim_end().escape_debug())
}

/// The pid as rustix wants it.
pub(crate) fn pid(raw: u32) -> Result<Pid> {
    i32::try_from(raw)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| Error::invalid("process id", raw.to_string(), "must be 1 to 2147483647"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn sh(line: &str, streams: [Stream; 3]) -> Child {
        let program = Program::new(Path::new("/bin/sh")).unwrap().arg("-c").unwrap().arg(line).unwrap();
        program.streams(streams).spawn().unwrap()
    }

    fn said(line: &str) -> String {
        let mut child = sh(line, [Stream::Null, Stream::Pipe, Stream::Null]);
        let mut text = String::new();
        child.stdout.as_mut().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(child.wait().unwrap(), Ended::Exited(0));
        text
    }

    #[test]
    fn ends_are_told() {
        for (line, expected) in [
            ("exit 0", Ended::Exited(0)),
            ("exit 7", Ended::Exited(7)),
            ("kill -9 $$", Ended::Signaled(9)),
            // Rust ignores SIGPIPE; its children must not.
            ("kill -PIPE $$", Ended::Signaled(13)),
        ] {
            let mut child = sh(line, [Stream::Null; 3]);
            assert_eq!(child.wait().unwrap(), expected, "{line}");
            assert_eq!(child.wait().unwrap(), expected, "{line}");
        }
        let mut child = sh("sleep 30", [Stream::Null; 3]);
        assert_eq!(child.wait_timeout(Duration::from_millis(20)).unwrap(), None);
        child.kill();
        assert_eq!(child.wait_timeout(Duration::from_secs(20)).unwrap(), Some(Ended::Signaled(9)));
    }

    #[test]
    fn a_program_that_cannot_run_is_an_error() {
        for (path, expected) in
            [("/nonexistent", libc::ENOENT), ("/etc/passwd", libc::EACCES), ("/etc", libc::EACCES)]
        {
            let error = Program::new(Path::new(path)).unwrap().spawn().unwrap_err();
            assert_eq!(error.errno(), Some(expected), "{error}");
            assert!(error.to_string().starts_with("execve on "), "{error}");
        }
        let error = Program::new(Path::new("/bin/true")).unwrap().arg("a\0b").unwrap_err();
        assert!(error.to_string().contains("zero byte"), "{error}");
    }

    #[test]
    fn nothing_is_handed_on_but_the_streams() {
        // A descriptor that lacks CLOEXEC, as an embedding program may have.
        let (read, _write) = pipe_with(PipeFlags::empty()).unwrap();
        assert_eq!(said("ls /proc/self/fd").lines().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
        drop(read);
        assert_eq!(said("env | grep -v ^_= | grep -v ^PWD= | cut -d= -f1"), "PATH\n");
        // Beyond 31 are the C library's own ones, which it does not let anybody change.
        assert_eq!(said("grep -cE 'SigBlk:.0{16}|SigIgn:.0{8}[08]0{7}' /proc/self/status"), "2\n");
    }

    #[test]
    fn streams_are_pipes() {
        let mut child = sh("cat; echo err >&2", [Stream::Pipe; 3]);
        child.stdin.take().unwrap().write_all(b"in").unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        child.stdout.as_mut().unwrap().read_to_string(&mut out).unwrap();
        child.stderr.as_mut().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!((out.as_str(), err.as_str()), ("in", "err\n"));
        assert_eq!(child.wait().unwrap(), Ended::Exited(0));
    }

    /// Many threads at once: signal masks and stacks are each child's own.
    #[test]
    fn threads_start_children_at_once() {
        let workers: Vec<_> = (0..8)
            .map(|n| {
                std::thread::spawn(move || {
                    for _ in 0..20 {
                        assert_eq!(said(&format!("echo {n}")), format!("{n}\n"));
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    }
}
