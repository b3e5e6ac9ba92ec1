//! The proof that a start was completed and verified, and of which processes it is about.

use std::os::fd::OwnedFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::lxc::HaltSignal;
use crate::sys::kernel::boot_id;
use crate::sys::{file, pidfd, record};

/// A process that cannot be taken for another: pids come again, births do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Birth {
    pub(crate) pid: u32,
    /// Clock ticks since boot.
    pub(crate) start_time: u64,
}

/// A run of a container, told from all others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) boot_id: String,
    /// Its first init.
    pub(crate) init: Birth,
}

/// `started.json` in the container's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) boot_id: String,
    pub(crate) init: Birth,
    /// LXC's monitor: it lives through a reboot from inside, and ends with the container.
    pub(crate) monitor: Birth,
    pub(crate) halt_signal: HaltSignal,
}

impl Birth {
    /// The process `pid`, if there is one.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, start_time: pidfd::start_time(pid)? })
    }

    /// A descriptor of it while it lives.
    pub(crate) fn open(self) -> Result<Option<OwnedFd>> {
        pidfd::open_born(self.pid, self.start_time)
    }
}

impl Record {
    /// The record at `path`, if it is of this boot. What cannot be read as one is none: it is not written durably.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>> {
        let text = match file::read_if_exists(path) {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(None),
            // Read, but no text, or no file.
            Err(error) if error.errno().is_none() => return Ok(None),
            Err(error) => return Err(error),
        };
        let Ok(record) = serde_json::from_str::<Self>(&text) else { return Ok(None) };
        Ok((record.boot_id == boot_id()?).then_some(record))
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        file::publish_volatile(path, &record::encode(self, path)?)
    }
}
