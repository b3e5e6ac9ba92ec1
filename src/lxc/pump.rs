//! Feeding a child and draining it at once, so that neither waits for the other for ever (`man 2 poll`).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::error::{Error, Result};
use crate::sys::wait::ready;

/// What the child wrote, up to a bound.
#[derive(Debug, Default)]
pub(crate) struct Captured {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) truncated: bool,
}

/// One of the child's outputs.
struct Source {
    file: Option<File>,
    bytes: Vec<u8>,
}

/// Writes `input` to `stdin` and reads the outputs until the process behind `pidfd` has ended. What its own children
/// write after that is not waited for. The outputs, and whether it has ended: else `deadline` passed first, and they are as far as
/// they came.
pub(crate) fn pump(
    pidfd: BorrowedFd<'_>,
    mut stdin: Option<File>,
    input: &[u8],
    [stdout, stderr]: [Option<File>; 2],
    max_bytes: usize,
    deadline: Option<Instant>,
) -> Result<(Captured, bool)> {
    let mut input = input;
    let mut sources =
        [Source { file: stdout, bytes: Vec::new() }, Source { file: stderr, bytes: Vec::new() }];
    let mut truncated = false;
    for file in stdin.iter().chain(sources.iter().filter_map(|source| source.file.as_ref())) {
        set_nonblocking(file)?;
    }
    let ended = loop {
        if input.is_empty() {
            stdin = None;
        }
        let ended = wait(pidfd, stdin.as_ref(), &sources, deadline)?;
        if let Some(file) = &mut stdin {
            match file.write(input) {
                Ok(length) => input = &input[length..],
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                // It does not read on: no error of ours.
                Err(_) => input = &[],
            }
        }
        for source in &mut sources {
            truncated |= source.drain(max_bytes)?;
        }
        if ended || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break ended;
        }
    };
    let [stdout, stderr] = sources.map(|source| source.bytes);
    Ok((Captured { stdout, stderr, truncated }, ended))
}

/// Waits until something can be done. True when the process has ended.
fn wait(
    pidfd: BorrowedFd<'_>,
    stdin: Option<&File>,
    sources: &[Source; 2],
    deadline: Option<Instant>,
) -> Result<bool> {
    let mut watched = vec![PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    if let Some(file) = stdin {
        watched.push(PollFd::new(file, PollFlags::OUT));
    }
    watched
        .extend(sources.iter().filter_map(|s| s.file.as_ref()).map(|file| PollFd::new(file, PollFlags::IN)));
    ready(&mut watched, deadline).map_err(|e| Error::os("poll", "a command's streams", e))?;
    Ok(!watched[0].revents().is_empty())
}

impl Source {
    /// Takes what is there. True if some of it was over the bound.
    fn drain(&mut self, max_bytes: usize) -> Result<bool> {
        let mut truncated = false;
        let mut chunk = [0; 16 << 10];
        while let Some(file) = &mut self.file {
            match file.read(&mut chunk) {
                Ok(0) => self.file = None,
                // The other end of a terminal is closed.
                Err(e) if e.raw_os_error() == Some(libc::EIO) => self.file = None,
                Ok(length) => {
                    let room = max_bytes.saturating_sub(self.bytes.len()).min(length);
                    self.bytes.extend_from_slice(&chunk[..room]);
                    truncated |= room < length;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::os("read", "a command's output", e)),
            }
        }
        Ok(truncated)
    }
}

fn set_nonblocking(file: &File) -> Result<()> {
    let flags = fcntl_getfl(file).map_err(|e| Error::os("fcntl", "a pipe", e))?;
    fcntl_setfl(file.as_fd(), flags | OFlags::NONBLOCK).map_err(|e| Error::os("fcntl", "a pipe", e))
}
