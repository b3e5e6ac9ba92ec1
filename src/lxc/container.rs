//! One container: starting it, and what is known of it without asking a program.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::lxc::birthplace::Birthplace;
use crate::lxc::config::{LxcConfig, Network};
use crate::lxc::record::{Birth, Record};
use crate::lxc::{LxcTarget, lock_file, reason, render};
use crate::name::{ContainerName, ObjectId};
use crate::sys::kernel::boot_id;
use crate::sys::process::{Child, Ended, Program};
use crate::sys::{file, pidfd};

/// How long `lxc-start` may take: a loaded host needs a second, a wedged one is given up.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How often a start that takes long is looked at.
const START_GLANCE: Duration = Duration::from_millis(250);
/// For how long the payload's group may be empty during a start: LXC makes it right before it puts a process there.
const EMPTY_PATIENCE: Duration = Duration::from_secs(2);
/// How long processes may take to die after SIGKILL.
pub(crate) const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long freezing may take.
const FREEZE_PATIENCE: Duration = Duration::from_secs(10);
/// How long init may take from LXC's word that it runs to its execution.
const INIT_PATIENCE: Duration = Duration::from_secs(10);
/// How long a reboot from inside may take between the old init and the new one.
const REBOOT_PATIENCE: Duration = Duration::from_secs(2);
/// How much of LXC's log is read for the reason.
const LOG_MOST_BYTES: u64 = 64 << 10;

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

/// A completed start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Started {
    /// Init, by its id as the caller's namespace sees it.
    pub init_pid: u32,
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
    pub(crate) group: Cgroup,
}

/// The processes of a container that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) init: Birth,
    pub(crate) init_fd: OwnedFd,
    pub(crate) record: Record,
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
        let group = Cgroup::new(&target.hierarchies, cgroup)?;
        Ok(Self { lxc_path: lxc_path.to_owned(), id: id.clone(), name: None, target: target.clone(), group })
    }

    /// The same container with the name that errors call it by. Default: its id.
    #[must_use]
    pub fn named(mut self, name: &ContainerName) -> Self {
        self.name = Some(name.clone());
        self
    }

    /// Starts it, waits until its init runs, and checks that its limits and its network are those of `config`. What an
    /// earlier, unfinished start left is removed first. After an error nothing of it runs.
    ///
    /// # Errors
    /// [`Error::Busy`] if it runs. Before anything is touched: as [`LxcConfig::render`];
    /// [`Error::NotFound`] if the root, its init or the network namespace is missing; [`Error::Differs`] if something in the
    /// root that LXC opens is not what it must be; as [`LxcConfig::prepare_targets`]. Then
    /// [`Error::Command`] with the reason from LXC's log; [`Error::Differs`] if a limit was not enforced;
    /// [`Error::LeftBehind`] if what was begun could not be removed.
    pub fn start(&self, config: &LxcConfig) -> Result<Started> {
        let _span = tracing::info_span!("container_start", id = %self.id).entered();
        if self.running()?.is_some() {
            return Err(Error::Busy { what: self.shown(), reason: "it runs already".to_owned() });
        }
        let text = config.render_in(&self.target, Some(self.group.path()))?;
        config.check_init()?;
        config.check_openings()?;
        config.check_network()?;
        config.prepare_targets()?;
        self.clean()?;
        self.attempt(config, &text).map_err(|cause| match self.clean() {
            Ok(()) => cause,
            Err(error) => Error::LeftBehind {
                cause: Box::new(cause),
                remains: vec![format!("cgroup {} ({error})", self.group.path())],
            },
        })
    }

    fn attempt(&self, config: &LxcConfig, text: &str) -> Result<Started> {
        let dir = self.dir();
        match fs::create_dir(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::os("mkdir", dir.display(), e));
            }
            _ => {}
        }
        file::publish_volatile(&dir.join("config"), text.as_bytes())?;
        let log = self.log();
        file::absent_is_none(fs::rename(&log, dir.join("lxc.log.old")))
            .map_err(|e| Error::os("rename", log.display(), e))?;
        lock_file::claim(&self.lxc_path, self.id.as_str())?;
        self.run_lxc_start(&dir.join("config"), &log)?;
        let (init, monitor) = self.await_init()?;
        self.group.child(render::PAYLOAD)?.verify(&config.limits)?;
        self.verify_devices()?;
        verify_network(init.pid, &config.network)?;
        let record = Record { boot_id: boot_id()?, init, monitor, halt_signal: config.halt_signal };
        record.write(&self.record_path())?;
        tracing::debug!(init = init.pid, "container runs");
        Ok(Started { init_pid: init.pid })
    }

    fn run_lxc_start(&self, config: &Path, log: &Path) -> Result<()> {
        let mut program = Program::new(&self.target.lxc_start)?;
        for arg in ["-d", "-n", self.id.as_str(), "-l", "WARN", "-P"] {
            program = program.arg(arg)?;
        }
        program = program.arg(&self.lxc_path)?.arg("-f")?.arg(config)?.arg("-o")?.arg(log)?;
        let place = Birthplace::ensure(&self.group)?;
        let mut child = place.of(program).spawn()?;
        tracing::debug!(pid = child.pid, "lxc-start");
        match self.watch_start(&mut child)? {
            Some(Ended::Exited(0)) => Ok(()),
            Some(ended) => Err(self.start_failed(&ended.shown())),
            None => Err(self.start_failed("it hung")),
        }
    }

    /// Waits for `lxc-start`. `None` if it does not end: LXC 5 waits for ever for a first process that was killed (by
    /// the memory limit, by a person) while it was set up.
    fn watch_start(&self, child: &mut Child) -> Result<Option<Ended>> {
        let payload = self.group.child(render::PAYLOAD)?;
        let deadline = Instant::now() + START_PATIENCE;
        let mut empty_for = Duration::ZERO;
        while Instant::now() < deadline && empty_for < EMPTY_PATIENCE {
            if let Some(ended) = child.wait_timeout(START_GLANCE)? {
                return Ok(Some(ended));
            }
            let is_empty = payload.exists() && !payload.is_populated()?;
            empty_for = if is_empty { empty_for + START_GLANCE } else { Duration::ZERO };
        }
        Ok(None)
    }

    /// Finds init, and waits until it is the program it should be: LXC says "running" just before it executes it.
    fn await_init(&self) -> Result<(Birth, Birth)> {
        let deadline = Instant::now() + INIT_PATIENCE;
        while let Some(init) = self.find_init()? {
            let Some(monitor) = pidfd::parent(init.pid).and_then(Birth::of) else { break };
            if has_executed(init.pid, monitor.pid) {
                return Ok((init, monitor));
            }
            if Instant::now() >= deadline {
                break;
            }
            thread::sleep(Duration::from_micros(100));
        }
        Err(self.init_ended())
    }

    /// The process in the payload's group that is the first one of its pid namespace.
    fn find_init(&self) -> Result<Option<Birth>> {
        let procs = self.group.child(render::PAYLOAD)?.child("inner")?.procs_file()?;
        let Some(list) = file::read_if_exists(&procs)? else { return Ok(None) };
        for pid in list.lines().filter_map(|line| line.parse::<u32>().ok()) {
            let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
            let levels = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            // Exactly two levels: a container inside this one has an init of its own, one level deeper.
            let mut levels = levels.unwrap_or_default().split_ascii_whitespace().skip(1);
            if levels.next() == Some("1") && levels.next().is_none() {
                return Ok(Birth::of(pid));
            }
        }
        Ok(None)
    }

    /// Checks that the device rules took hold: without them root inside can open the host's disks. In v2 they are a
    /// program that the kernel does not show; LXC fails when it cannot load it.
    fn verify_devices(&self) -> Result<()> {
        let Some(devices) = self.target.devices() else { return Ok(()) };
        let list = devices.mount.join(self.group.path()).join(render::PAYLOAD).join("devices.list");
        if file::read(&list)?.lines().any(|line| line.starts_with("a *:*")) {
            let difference = "every device is allowed".to_owned();
            return Err(Error::Differs { what: list.display().to_string(), difference });
        }
        Ok(())
    }

    fn start_failed(&self, status: &str) -> Error {
        let stderr = reason::distill(&self.log_text());
        Error::Command { program: "lxc-start".to_owned(), status: status.to_owned(), stderr }
    }

    /// LXC said that it runs, and it is gone: LXC hands a file without a known format to `/bin/sh`, for one.
    fn init_ended(&self) -> Error {
        let log = self.log_text();
        let errors = reason::errors(&log);
        let stderr = match errors.first() {
            Some(error) => (*error).to_owned(),
            None => "init ended as soon as it was started; what it said is on its console".to_owned(),
        };
        Error::Command { program: "lxc-start".to_owned(), status: "the container stopped".to_owned(), stderr }
    }

    fn log_text(&self) -> String {
        let mut log = Vec::new();
        // What was read before an error tells more than the error.
        let _ = File::open(self.log()).and_then(|file| file.take(LOG_MOST_BYTES).read_to_end(&mut log));
        String::from_utf8_lossy(&log).into_owned()
    }

    /// What it does now.
    ///
    /// # Errors
    /// [`Error::Os`] if `/proc` or the control groups cannot be read.
    pub fn state(&self) -> Result<State> {
        match self.running()? {
            None => Ok(State::Stopped),
            Some(_) if self.group.child(render::PAYLOAD)?.is_frozen()? => Ok(State::Frozen),
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
        self.group.child(render::PAYLOAD)?.freeze(FREEZE_PATIENCE)
    }

    /// Lets its processes go on.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it does not run; otherwise as [`Cgroup::thaw`].
    pub fn unfreeze(&self) -> Result<()> {
        self.must_run()?;
        self.group.child(render::PAYLOAD)?.thaw(FREEZE_PATIENCE)
    }

    /// The control group with its limits.
    ///
    /// # Errors
    /// Never for a container that could be made.
    pub fn payload(&self) -> Result<Cgroup> {
        self.group.child(render::PAYLOAD)
    }

    pub(crate) fn must_run(&self) -> Result<Running> {
        self.running()?.ok_or_else(|| Error::NotFound { what: format!("a running {}", self.shown()) })
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
                && has_executed(init.pid, record.monitor.pid)
                && let Some(init_fd) = init.open()?
            {
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

    pub(crate) fn dir(&self) -> PathBuf {
        self.lxc_path.join(self.id.as_str())
    }

    pub(crate) fn record_path(&self) -> PathBuf {
        self.dir().join("started.json")
    }

    fn log(&self) -> PathBuf {
        self.dir().join("lxc.log")
    }

    pub(crate) fn shown(&self) -> String {
        format!("container `{}`", self.name.as_ref().map_or(self.id.as_str(), ContainerName::as_str))
    }
}

/// Whether init is another program than the monitor, which it is a fork of at first.
fn has_executed(init: u32, monitor: u32) -> bool {
    let exe = |pid: u32| fs::metadata(format!("/proc/{pid}/exe")).map(|file| (file.dev(), file.ino()));
    matches!((exe(init), exe(monitor)), (Ok(init), Ok(monitor)) if init != monitor)
}

/// Checks that init is in the namespace it should be in: with the type "none" and a join that did not take place it
/// would have the host's network.
fn verify_network(init: u32, network: &Network) -> Result<()> {
    let inode = |path: &Path| {
        fs::metadata(path).map(|m| (m.dev(), m.ino())).map_err(|e| Error::os("stat", path.display(), e))
    };
    let inside = inode(Path::new(&format!("/proc/{init}/ns/net")))?;
    let (right, wanted) = match network {
        Network::Joined(path) => (inode(path)? == inside, format!("it is not in {}", path.display())),
        Network::Isolated => {
            (inode(Path::new("/proc/thread-self/ns/net"))? != inside, "it is in the host's".to_owned())
        }
    };
    if right {
        return Ok(());
    }
    Err(Error::Differs { what: format!("network namespace of process {init}"), difference: wanted })
}
