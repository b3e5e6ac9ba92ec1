//! Limits that are run into, as a descriptor: `memory.events` and `pids.events` of v2 (`Documentation/admin-guide/cgroup-v2.rst`),
//! `cgroup.event_control` of v1 (`cgroup-v1/memory.rst`, "OOM Control").

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use serde::Serialize;

use super::controller::{Controller, Version};
use super::group::Cgroup;
use super::walk;
use crate::error::{Error, Result};
use crate::sys::file;

/// v1 tells of memory that does not suffice before it kills for it, and not when it has: then it is looked at so often.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How many times. Mostly the first one finds it; nothing is killed if memory was freed meanwhile.
const LOOKS: u32 = 100;

/// A limit that was run into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum HitLimit {
    /// Memory was reclaimed because of [`memory_max_bytes`](super::CgroupLimits::memory_max_bytes). v2 only.
    Memory,
    /// Processes were held back because of [`memory_high_bytes`](super::CgroupLimits::memory_high_bytes). v2 only.
    MemoryHigh,
    /// A fork was refused because of [`pids_max`](super::CgroupLimits::pids_max). v2 only; before Linux 6.11 in groups that were there
    /// when watching began.
    Pids,
}

/// What [`LimitEvents::read`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LimitEvent {
    /// The kernel killed processes because memory did not suffice.
    OomKill {
        /// How many since the last look.
        count: u64,
    },
    /// A limit was run into.
    LimitHit {
        /// Which one.
        limit: HitLimit,
        /// How often since the last look.
        count: u64,
    },
}

/// Tells when a group, or what is beneath it, runs into its limits. The descriptor polls as readable then;
/// [`LimitEvents::read`] takes what happened and waits for the next one. Nothing is polled in between.
///
/// In v1 the kernel tells of kills for memory only: for the other limits look at [`Cgroup::usage`] now and then.
#[derive(Debug)]
pub struct LimitEvents {
    group: Cgroup,
    epoll: OwnedFd,
    memory: Option<File>,
    pids: Vec<File>,
    oom: Option<OutOfMemory>,
    counts: Counts,
}

/// v1's way to tell.
#[derive(Debug)]
struct OutOfMemory {
    event: OwnedFd,
    timer: OwnedFd,
    looks: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    oom_kills: u64,
    memory: u64,
    memory_high: u64,
    pids: u64,
}

impl Cgroup {
    /// Limits that are run into from now on.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the group does not exist; [`Error::Unsupported`] if the memory controller is off, and nothing could
    /// be told; [`Error::Os`] otherwise.
    pub fn limit_events(&self) -> Result<LimitEvents> {
        if !self.exists() {
            return Err(self.not_found());
        }
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|error| Error::os("epoll_create1", self.path(), error))?;
        let mut events = LimitEvents {
            group: self.clone(),
            epoll,
            memory: None,
            pids: Vec::new(),
            oom: None,
            counts: Counts::default(),
        };
        let version = super::remedy::require(self.hierarchies(), Controller::Memory)?;
        let memory = self.dir(Controller::Memory).ok_or_else(|| self.not_found())?;
        match version {
            Version::V2 => events.memory = Some(events.watch(&memory.join("memory.events"))?),
            Version::V1 => events.oom = Some(events.watch_v1(&memory)?),
        }
        if let Some(pids) = self.hierarchies().serving(Controller::Pids)
            && pids.version == Version::V2
        {
            events.watch_pids(&pids.mount.join(self.path()))?;
        }
        events.counts = events.count()?;
        Ok(events)
    }
}

impl LimitEvents {
    /// What happened since the last call, or since this was made. Does not wait.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the group was removed.
    pub fn read(&mut self) -> Result<Vec<LimitEvent>> {
        let was_told = self.take_signal();
        let (before, now) = (self.counts, self.count()?);
        self.counts = now;
        self.look_again(was_told && now.oom_kills == before.oom_kills)?;
        let mut found = Vec::new();
        match now.oom_kills.saturating_sub(before.oom_kills) {
            0 => {}
            count => found.push(LimitEvent::OomKill { count }),
        }
        for (limit, before, now) in [
            (HitLimit::Memory, before.memory, now.memory),
            (HitLimit::MemoryHigh, before.memory_high, now.memory_high),
            (HitLimit::Pids, before.pids, now.pids),
        ] {
            match now.saturating_sub(before) {
                0 => {}
                count => found.push(LimitEvent::LimitHit { limit, count }),
            }
        }
        Ok(found)
    }

    fn watch(&self, path: &Path) -> Result<File> {
        let file = File::open(path).map_err(|error| Error::os("open", path.display(), error))?;
        self.add(&file, epoll::EventFlags::PRI)?;
        Ok(file)
    }

    /// A kernel that does not count what happens beneath a group is asked for each one that there is now, the first one first.
    fn watch_pids(&mut self, dir: &Path) -> Result<()> {
        if self.group.hierarchies().counts_beneath(Controller::Pids) {
            self.pids = vec![self.watch(&dir.join("pids.events"))?];
            return Ok(());
        }
        let mut files = Vec::new();
        walk::visit(dir, &mut |group| {
            files.extend(walk::open_at(group, "pids.events")?.map(File::from));
            Ok(())
        })?;
        if files.is_empty() {
            return Err(self.group.not_found());
        }
        files.iter().try_for_each(|file| self.add(file, epoll::EventFlags::PRI))?;
        self.pids = files;
        Ok(())
    }

    fn add(&self, source: impl AsFd, flags: epoll::EventFlags) -> Result<()> {
        epoll::add(&self.epoll, source, epoll::EventData::new_u64(0), flags)
            .map_err(|error| Error::os("epoll_ctl", self.group.path(), error))
    }

    fn watch_v1(&self, dir: &Path) -> Result<OutOfMemory> {
        let failed =
            |call: &'static str| move |error: rustix::io::Errno| Error::os(call, dir.display(), error);
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed("eventfd"))?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
            .map_err(failed("timerfd_create"))?;
        let path = dir.join("memory.oom_control");
        let control = File::open(&path).map_err(|error| Error::os("open", path.display(), error))?;
        let words = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
        file::write_interface(&dir.join("cgroup.event_control"), &words)?;
        self.add(&event, epoll::EventFlags::IN)?;
        self.add(&timer, epoll::EventFlags::IN)?;
        Ok(OutOfMemory { event, timer, looks: 0 })
    }

    /// Whether v1 told that memory does not suffice, or it is to be looked at again because it did.
    fn take_signal(&mut self) -> bool {
        let Some(oom) = &mut self.oom else { return false };
        let mut bytes = [0; 8];
        // There is nothing to read, mostly.
        let timer = rustix::io::read(&oom.timer, &mut bytes).is_ok();
        if rustix::io::read(&oom.event, &mut bytes).is_ok() {
            oom.looks = LOOKS;
            return true;
        }
        timer
    }

    fn look_again(&mut self, wanted: bool) -> Result<()> {
        let Some(oom) = &mut self.oom else { return Ok(()) };
        if !wanted || oom.looks == 0 {
            return Ok(());
        }
        oom.looks -= 1;
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: 0, tv_nsec: LOOK_AGAIN.subsec_nanos().into() };
        timerfd_settime(
            &oom.timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: zero, it_value: value },
        )
        .map(drop)
        .map_err(|error| Error::os("timerfd_settime", self.group.path(), error))
    }

    fn count(&self) -> Result<Counts> {
        let mut counts = Counts::default();
        if let Some(file) = &self.memory {
            let text = self.text(file)?;
            let field = |key| walk::field(&text, key).unwrap_or(0);
            counts.memory = field("max");
            counts.memory_high = field("high");
            counts.oom_kills = field("oom_kill");
        } else {
            let dir = self.group.dir(Controller::Memory).ok_or_else(|| self.group.not_found())?;
            let sum = walk::sum(&dir, "memory.oom_control", "oom_kill")?;
            counts.oom_kills = sum.ok_or_else(|| self.group.not_found())?;
        }
        for (number, file) in self.pids.iter().enumerate() {
            let text = match self.text(file) {
                // Those beneath may go.
                Err(Error::NotFound { .. }) if number > 0 => continue,
                text => text?,
            };
            counts.pids += walk::field(&text, "max").unwrap_or(0);
        }
        Ok(counts)
    }

    fn text(&self, file: &File) -> Result<String> {
        let mut bytes = [0; 512];
        match file.read_at(&mut bytes, 0) {
            Ok(length) => Ok(String::from_utf8_lossy(&bytes[..length]).into_owned()),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Err(self.group.not_found()),
            Err(error) => Err(Error::os("read", self.group.path(), error)),
        }
    }
}

impl AsFd for LimitEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
