//! How a container's run ended. LXC's monitor is the only process that is told (`man 2 wait`), and writes it into its log.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::cgroup::{Controller, Version};
use crate::error::{Error, Result};
use crate::lxc::container::Container;
use crate::lxc::reason::texts;
use crate::lxc::record::{Birth, Record, Run};
use crate::sys::file::absent_is_none;
use crate::sys::wait::{deadline, until};

/// How long LXC's monitor may take from init's end to saying so, on a busy machine.
const EXIT_PATIENCE: Duration = Duration::from_secs(5);
/// How much of the end of LXC's log is read: what stands there of a run's end is a few lines.
const TAIL_BYTES: u64 = 16 << 10;
/// Who reboots from inside makes the log longer, with no end to it: longer than this it begins anew.
const LOG_MAX_BYTES: u64 = 1 << 20;

/// How a container's run ended: what became of its first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// It ended with this code.
    Exited(u8),
    /// This signal killed it.
    Signaled(u8),
    /// It asked the kernel to halt or to power off (`man 2 reboot`), as an init does at the end of its shutdown.
    Halted,
    /// Nobody knows: LXC's monitor was killed with it, or the host went down.
    Unknown,
}

impl Exit {
    /// Whether it ended as it wanted to: halted, or with the code 0.
    #[must_use]
    pub fn success(self) -> bool {
        matches!(self, Self::Halted | Self::Exited(0))
    }
}

/// As a person reads it: "exit code 3".
impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signaled(signal) => write!(f, "killed by signal {signal}"),
            Self::Halted => f.write_str("halted"),
            Self::Unknown => f.write_str("nobody knows how it ended"),
        }
    }
}

impl Container {
    /// How its last run ended. `None` if it did not yet, or if LXC's monitor was killed before it could say.
    ///
    /// # Errors
    /// [`Error::Os`] if LXC's log cannot be read.
    pub fn last_exit(&self) -> Result<Option<Exit>> {
        let path = self.log();
        let read = || {
            let file = File::open(&path)?;
            let length = file.metadata()?.len();
            let mut tail = vec![0; usize::try_from(length.min(TAIL_BYTES)).unwrap_or(0)];
            let got = file.read_at(&mut tail, length.saturating_sub(TAIL_BYTES))?;
            tail.truncate(got);
            Ok(tail)
        };
        let tail = absent_is_none(read()).map_err(|e| Error::os("read", path.display(), e))?;
        Ok(tail.and_then(|tail| parse(&String::from_utf8_lossy(&tail))))
    }

    /// What tells LXC's log from that of an earlier start. `None` if there is none.
    pub(crate) fn log_identity(&self) -> Option<u64> {
        fs::metadata(self.log()).ok().map(|log| log.ino())
    }

    /// How the run ended that has just ended: `monitor` says it within a moment, unless it is killed.
    pub(crate) fn await_exit(&self, monitor: Option<Birth>) -> Result<Option<Exit>> {
        let end = deadline(EXIT_PATIENCE);
        let told = until(end, || {
            let lives = match monitor {
                Some(monitor) => monitor.open()?.is_some(),
                None => self.groups.all.is_populated()?,
            };
            let exit = self.last_exit()?;
            // Another line may follow the one that says that init has ended.
            Ok::<_, Error>((!lives || exit.is_some_and(|exit| exit != Exit::Exited(0))).then_some(exit))
        })?;
        told.map_or_else(|| self.last_exit(), Ok)
    }

    /// The run that was begun last in this boot, which may have ended, unless it was cleaned up.
    pub(crate) fn run(&self) -> Result<Option<Run>> {
        let record = Record::read(&self.record_path())?;
        Ok(record.map(|record| Run { boot_id: record.boot_id, init: record.init }))
    }

    /// When its last run ended, and how long it took: when LXC's monitor has `told` of it, else now.
    pub(crate) fn ended_at(&self, told: bool) -> (SystemTime, Duration) {
        let now = SystemTime::now();
        let written = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
        let at = written(&self.log()).filter(|at| told && *at <= now).unwrap_or(now);
        let began = written(&self.record_path()).unwrap_or(at);
        (at, at.duration_since(began).unwrap_or_default())
    }

    /// How many processes the kernel has killed for memory in this run, as far as that is still known.
    pub(crate) fn oom_kills(&self) -> Option<u64> {
        let memory = self.target.hierarchies.serving(Controller::Memory)?;
        // LXC removes its own group at the end. In v2 the one above has counted, too.
        let group = match memory.version {
            Version::V1 => &self.groups.payload,
            Version::V2 => &self.groups.all,
        };
        group.usage().ok()?.oom_kills
    }

    /// Keeps LXC's log within bounds. LXC appends to it.
    pub(crate) fn bound_log(&self) {
        let Ok(file) = File::options().write(true).open(self.log()) else { return };
        if file.metadata().is_ok_and(|status| status.len() > LOG_MAX_BYTES) {
            // It stays as it is then, and whoever looks next tries again.
            let _ = file.set_len(0);
        }
    }
}

/// What the end of LXC's log says of the last run in it.
fn parse(log: &str) -> Option<Exit> {
    let mut exit = None;
    for text in texts(log) {
        if text.starts_with("Container init process ") && text.ends_with(" exited") {
            // A code that is not 0, or a signal, is told in another line after it.
            exit = Some(Exit::Exited(0));
        } else if let Some(number) = number_after(text, " ended on error ") {
            exit = Some(Exit::Exited(number));
        } else if let Some(number) = number_after(text, " ended on signal ") {
            exit = match i32::from(number) {
                libc::SIGINT => Some(Exit::Halted),
                // Rebooted from inside: it goes on.
                libc::SIGHUP => None,
                _ => Some(Exit::Signaled(number)),
            };
        }
    }
    exit
}

/// The number of "Child <12> ended on signal SIGKILL(9)".
fn number_after(text: &str, words: &str) -> Option<u8> {
    let (_, rest) = text.strip_prefix("Child <")?.split_once(words)?;
    rest.strip_suffix(')')?.rsplit_once('(')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(texts: &[&str]) -> String {
        texts.iter().map(|text| format!("lxc-start x 20261123022000.100 INFO     error - ../src/lxc/error.c:lxc_error_set_and_log:28 - {text}\n")).collect()
    }

    #[test]
    fn ends_are_read() {
        let ended = "Container init process 7 exited";
        let check = |texts: &[&str], expected| assert_eq!(parse(&log(texts)), expected, "{texts:?}");
        check(&[], None);
        check(&["Container \"x\" is initialized"], None);
        check(&[ended], Some(Exit::Exited(0)));
        check(&[ended, "Child <7> ended on error (3)"], Some(Exit::Exited(3)));
        check(&[ended, "Child <7> ended on signal SIGKILL(9)", "more"], Some(Exit::Signaled(9)));
        check(&[ended, "Child <7> ended on signal SIGINT(2)"], Some(Exit::Halted));
        check(&[ended, "Child <7> ended on signal (2)"], Some(Exit::Halted));
        let reboot = "Child <7> ended on signal SIGHUP(1)";
        check(&[ended, reboot], None);
        check(&[ended, reboot, "Container init process 8 exited"], Some(Exit::Exited(0)));
        check(&["Child <7> ended on error (x)", "Child <7> ended on error"], None);
    }
}
