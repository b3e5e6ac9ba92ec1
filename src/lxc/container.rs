//! One container: what is known of it without asking a program, and freezing it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cgroup::{Cgroup, CgroupLimits};
use crate::error::{Error, Result};
use crate::lxc::LxcTarget;
use crate::lxc::groups::Groups;
use crate::lxc::record::{Birth, Record};
use crate::name::{ContainerName, ObjectId};
use crate::sys::{file, pidfd};

/// How long processes may take to die after SIGKILL.
pub(crate) const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long freezing may take.
const FREEZE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a reboot from inside may take between the old init and the new one.
const REBOOT_PATIENCE: Duration = Duration::from_secs(2);

/// What a container does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// No start was completed, or it has ended. What a crash left half-started counts as stopped:
    /// [`Container::clean`] and [`Container::start`] remove it.
    Stopped,
    /// Its init runs.
    Running,
    /// Its processes are frozen.
    Frozen,
}

/// One container of this host, by its id. It need not exist. Nothing happens when it is dropped.
///
/// Its directory holds `config`, `lxc.log` (of the last start; the one before is `lxc.log.old`) and `started.json`. Its
/// control group holds `start` (LXC's programs), `monitor`, `payload` and `payload/inner`, so that everything that
/// belongs to it can be found and ended, however far a start came.
///
/// Who changes a container holds a lock for it: two starts of one container at once are not kept apart here.
#[derive(Debug, Clone)]
pub struct Container {
    pub(crate) lxc_path: PathBuf,
    pub(crate) id: ObjectId,
    pub(crate) name: Option<ContainerName>,
    pub(crate) target: LxcTarget,
    pub(crate) groups: Groups,
}

/// The processes of a container that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) init: Birth,
    pub(crate) init_fd: OwnedFd,
    pub(crate) record: Record,
}

impl Running {
    /// Whether it is being killed, or has just ended: its monitor goes first.
    pub(crate) fn is_ending(&self) -> Result<bool> {
        Ok(self.record.monitor.open()?.is_none())
    }
}

impl Container {
    /// The container `id` whose directory is `id` beneath `lxc_path`, and whose control group is `cgroup`
    /// (`docklet/TAG/ID`).
    ///
    /// # Errors
    /// [`Error::Invalid`] if `lxc_path` is not a plain absolute path, or as [`Cgroup::new`].
    pub fn new(
        lxc_path: &Path,
        id: &ObjectId,
        target: &LxcTarget,
        cgroup: impl Into<String>,
    ) -> Result<Self> {
        crate::lxc::text::check_path("containers' directory", lxc_path)?;
        let groups = Groups::beneath(Cgroup::new(&target.hierarchies, cgroup)?)?;
        Ok(Self { lxc_path: lxc_path.to_owned(), id: id.clone(), name: None, target: target.clone(), groups })
    }

    /// The same container with the name that errors call it by. Default: its id.
    #[must_use]
    pub fn named(mut self, name: &ContainerName) -> Self {
        self.name = Some(name.clone());
        self
    }

    /// The process in the payload's group that is the first one of its pid namespace.
    pub(super) fn find_init(&self) -> Result<Option<Birth>> {
        let list = file::read_if_exists(&self.groups.inner.procs_file()?)?.unwrap_or_default();
        if let Some(init) = list.lines().filter_map(|line| line.parse().ok()).find(|pid| is_init(*pid)) {
            return Ok(Birth::of(init));
        }
        // It may be in a group that it has made for itself, as systemd is.
        Ok(self.groups.payload.processes()?.into_iter().find(|pid| is_init(*pid)).and_then(Birth::of))
    }

    /// What it does now.
    ///
    /// # Errors
    /// [`Error::Os`] if `/proc` or the control groups cannot be read.
    pub fn state(&self) -> Result<State> {
        match self.running()? {
            None => Ok(State::Stopped),
            Some(_) if self.groups.payload.is_frozen()? => Ok(State::Frozen),
            Some(_) => Ok(State::Running),
        }
    }

    /// Its init while it runs, by its id as the caller's namespace sees it.
    ///
    /// # Errors
    /// As [`Container::state`].
    pub fn init_pid(&self) -> Result<Option<u32>> {
        Ok(self.running()?.map(|running| running.init.pid))
    }

    /// A descriptor of its init while it runs: readable once init has ended (tokio: `AsyncFd`). A reboot from inside
    /// ends init too; look at [`Container::state`] then.
    ///
    /// # Errors
    /// As [`Container::state`].
    pub fn init_pidfd(&self) -> Result<Option<OwnedFd>> {
        Ok(self.running()?.map(|running| running.init_fd))
    }

    /// Stops its processes where they are, and waits until they stand still.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it does not run; otherwise as [`Cgroup::freeze`].
    pub fn freeze(&self) -> Result<()> {
        self.must_run()?;
        self.groups.payload.freeze(FREEZE_PATIENCE)
    }

    /// Lets its processes go on.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it does not run; otherwise as [`Cgroup::unfreeze`].
    pub fn unfreeze(&self) -> Result<()> {
        self.must_run()?;
        self.groups.payload.unfreeze(FREEZE_PATIENCE)
    }

    /// The control group with its limits. What is given to it does not weigh among other containers: its group is not beside
    /// theirs. [`Host::apply_limits`](crate::host::Host::apply_limits) sees to that.
    #[must_use]
    pub fn payload(&self) -> &Cgroup {
        &self.groups.payload
    }

    /// Gives it other limits while it runs.
    pub(crate) fn change_limits(&self, limits: &CgroupLimits) -> Result<()> {
        self.groups.change_limits(limits)
    }

    pub(crate) fn must_run(&self) -> Result<Running> {
        self.running()?.ok_or_else(|| self.not_running())
    }

    pub(crate) fn not_running(&self) -> Error {
        Error::NotFound { what: format!("a running {} (it is down: start it first)", self.shown()) }
    }

    /// Its processes, if a start was completed in this boot and has not ended.
    pub(crate) fn running(&self) -> Result<Option<Running>> {
        let Some(record) = Record::read(&self.record_path())? else { return Ok(None) };
        if let Some(init_fd) = record.init.open()? {
            return Ok(Some(Running { init: record.init, init_fd, record }));
        }
        // Rebooted from inside: the monitor that was verified then starts a new init with the same settings. It has
        // its limits once it is executed. If there is none and the monitor lives, one or the other ends soon.
        let deadline = Instant::now() + REBOOT_PATIENCE;
        while let Some(monitor) = record.monitor.open()? {
            if let Some(init) = self.find_init()?
                && pidfd::has_executed(init.pid)
                && let Some(init_fd) = init.open()?
            {
                self.bound_log();
                return Ok(Some(Running { init, init_fd, record }));
            }
            if pidfd::wait_exit(monitor.as_fd(), Some(Duration::from_millis(1)))?
                || Instant::now() >= deadline
            {
                break;
            }
        }
        Ok(None)
    }

    /// Whether it has rebooted from inside since it was started.
    pub(crate) fn has_rebooted(&self) -> Result<bool> {
        Ok(self.running()?.is_some_and(|running| running.init != running.record.init))
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.lxc_path.join(self.id.as_str())
    }

    pub(crate) fn record_path(&self) -> PathBuf {
        self.dir().join("started.json")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.dir().join("lxc.log")
    }

    pub(crate) fn shown(&self) -> String {
        format!("container `{}`", self.name.as_ref().map_or(self.id.as_str(), ContainerName::as_str))
    }
}

/// Whether a process of a container is the first one there.
fn is_init(pid: u32) -> bool {
    let status = file::of_process(pid, "status").unwrap_or_default();
    let levels = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    // Exactly two levels: a container inside this one has an init of its own, one level deeper.
    let mut levels = levels.unwrap_or_default().split_ascii_whitespace().skip(1);
    levels.next() == Some("1") && levels.next().is_none()
}
