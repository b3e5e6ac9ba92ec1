//! Starting a container by `lxc-start` (`man 1 lxc-start`), and checking that what runs then is what was asked for.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::idmap::IdMap;
use crate::lxc::birthplace::Birthplace;
use crate::lxc::config::{DeviceRule, LxcConfig, Network};
use crate::lxc::container::Container;
use crate::lxc::record::{Birth, Record};
use crate::lxc::root::Opened;
use crate::lxc::{lock_file, reason};
use crate::sys::kernel::boot_id;
use crate::sys::process::{Child, Ended, Program};
use crate::sys::{file, pidfd};

/// How long `lxc-start` may take: a loaded host needs a second, a wedged one is given up.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How often a start that takes long is looked at.
const START_GLANCE: Duration = Duration::from_millis(250);
/// For how long the payload's group may be empty, and nothing of the start on a processor: LXC makes the group right
/// before it puts a process there.
const STILL_PATIENCE: Duration = Duration::from_secs(2);
/// How long init may take from LXC's word that it runs to its execution.
const INIT_PATIENCE: Duration = Duration::from_secs(10);
/// How much of LXC's log is read for the reason.
const LOG_MOST_BYTES: u64 = 64 << 10;

/// A completed start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Started {
    /// Init, by its id as the caller's namespace sees it.
    pub init_pid: u32,
}

impl Container {
    /// Starts it, waits until its init runs, and checks that its limits, its network and its ids are those of `config`. What an
    /// earlier, unfinished start left is removed first. After an error nothing of it runs.
    ///
    /// # Errors
    /// [`Error::Busy`] if it runs. Before anything is touched: as [`LxcConfig::render`]; [`Error::Invalid`] for an id map without its
    /// namespaces;
    /// [`Error::NotFound`] if the root, its init or a namespace to join is missing; [`Error::Unsupported`] if the root of an id map
    /// may not search a directory above the root, or if the kernel cannot mount what is asked for; [`Error::Differs`] if something
    /// in the root that LXC opens is not what it must be. For a mount's target: [`Error::NotFound`] if it is missing and has
    /// neither `create_dir` nor `create_file`; [`Error::Differs`] if it is a directory and its source is not, or the other way round;
    /// [`Error::Invalid`] if the way to it runs through a symbolic link. Then
    /// [`Error::Command`] with the reason from LXC's log; [`Error::Differs`] if a limit was not enforced, or a mount is not in its
    /// place;
    /// [`Error::LeftBehind`] if what was begun could not be removed.
    pub fn start(&self, config: &LxcConfig) -> Result<Started> {
        let _span = tracing::info_span!("container_start", id = %self.id).entered();
        if self.running()?.is_some() {
            return Err(Error::Busy { what: self.shown(), reason: "it runs already".to_owned() });
        }
        let mapped = config.mapped()?;
        config.check_init()?;
        config.check_openings()?;
        config.check_namespaces()?;
        if let Some((map, _)) = mapped {
            config.check_ways(map.root())?;
        }
        let mounts = config.open_mounts()?;
        let lines = self.mount_lines(&mounts)?;
        let text = config.render_in(&self.target, Some(self.groups.all.path()), &lines)?;
        config.prepare_targets(&mounts)?;
        self.clean()?;
        self.attempt(config, &text, &mounts).map_err(|cause| {
            Error::after_undoing(cause, self.clean(), || format!("cgroup {}", self.groups.all.path()))
        })
    }

    fn attempt(&self, config: &LxcConfig, text: &str, mounts: &[Opened<'_>]) -> Result<Started> {
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
        self.groups.payload.delegate_for(&config.limits)?;
        self.place_mounts(mounts, config.id_map.as_ref())?;
        let (init, monitor) = tracing::debug_span!("lxc_start").in_scope(|| {
            self.run_lxc_start(&dir.join("config"), &log)?;
            self.await_init()
        })?;
        self.complete(config, init, mounts).map_err(|error| match init.open() {
            // What was to be looked at ended with it.
            Ok(None) => self.init_ended(Some(monitor)),
            _ => error,
        })?;
        let record =
            Record { boot_id: boot_id()?.to_owned(), init, monitor, halt_signal: config.halt_signal };
        record.write(&self.record_path())?;
        tracing::debug!(init = init.pid, "container runs");
        Ok(Started { init_pid: init.pid })
    }

    /// Sets what LXC cannot, and checks what it should have set.
    fn complete(&self, config: &LxcConfig, init: Birth, mounts: &[Opened<'_>]) -> Result<()> {
        let payload = &self.groups.payload;
        payload.complete(&config.limits)?;
        payload.verify(&config.limits)?;
        self.groups.weigh(&config.limits)?;
        self.verify_devices(&config.devices)?;
        verify_network(init.pid, &config.network)?;
        config.id_map.as_ref().map_or(Ok(()), |map| verify_ids(init.pid, map))?;
        self.verify_mounts(init.pid, mounts)
    }

    fn run_lxc_start(&self, config: &Path, log: &Path) -> Result<()> {
        // LXC asks `newuidmap`, where it is installed, also for what root can do itself; that knows only `/etc/subuid`.
        let mut program = Program::new(&self.target.lxc_start)?.without_others();
        // At this level it says how init ended: nobody else is told.
        for arg in ["-d", "-n", self.id.as_str(), "-l", "DEBUG", "-P"] {
            program = program.arg(arg)?;
        }
        program = program.arg(&self.lxc_path)?.arg("-f")?.arg(config)?.arg("-o")?.arg(log)?;
        let place = Birthplace::ensure(&self.groups.start)?;
        // Above what the container's root can write to, and above what LXC makes anew when that reboots.
        self.groups.all.bound_beneath()?;
        let mut child = place.of(program).spawn()?;
        tracing::debug!(pid = child.pid, "lxc-start");
        match self.watch_start(&mut child)? {
            Some(Ended::Exited(0)) => Ok(()),
            Some(ended) => Err(self.start_failed(&ended.shown())),
            None => Err(self.start_failed("it hung")),
        }
    }

    /// Waits for `lxc-start`. `None` if it does not end: LXC 5 waits for ever for a first process that was killed (by
    /// the memory limit, by a person) while it was set up. On a busy host it is only slow, so what makes progress is
    /// waited for.
    fn watch_start(&self, child: &mut Child) -> Result<Option<Ended>> {
        let payload = &self.groups.payload;
        let deadline = Instant::now() + START_PATIENCE;
        let (mut still_for, mut last) = (Duration::ZERO, None);
        while Instant::now() < deadline && still_for < STILL_PATIENCE {
            if let Some(ended) = child.wait_timeout(START_GLANCE)? {
                return Ok(Some(ended));
            }
            let is_empty = payload.exists() && !payload.is_populated()?;
            let now = self.switches()?;
            still_for = if is_empty && now.is_some() && now == last {
                still_for + START_GLANCE
            } else {
                Duration::ZERO
            };
            last = now;
        }
        Ok(None)
    }

    /// How often each of its processes has been on a processor: one that waits for what never comes adds nothing.
    /// `None` if one of them wants to go on, or waits for the kernel.
    fn switches(&self) -> Result<Option<Vec<(u32, String)>>> {
        let of = |pid: u32| {
            let status = file::of_process(pid, "status").unwrap_or_default();
            let waits = !["State:\tR", "State:\tD"].iter().any(|state| status.contains(state));
            waits.then(|| (pid, status.lines().filter(|line| line.contains("ctxt_switches")).collect()))
        };
        Ok(self.groups.all.processes()?.into_iter().map(of).collect())
    }

    /// Finds init, and waits until it is the program it should be: LXC says "running" just before it executes it.
    fn await_init(&self) -> Result<(Birth, Birth)> {
        let deadline = Instant::now() + INIT_PATIENCE;
        let mut known = None;
        while let Some(init) = self.find_init()? {
            let Some(monitor) = pidfd::parent(init.pid).and_then(Birth::of) else { break };
            known = Some(monitor);
            if pidfd::has_executed(init.pid) {
                return Ok((init, monitor));
            }
            if Instant::now() >= deadline {
                break;
            }
            thread::sleep(Duration::from_micros(100));
        }
        Err(self.init_ended(known))
    }

    /// Checks that the device rules took hold: without them root inside can open the host's disks. In v2 they are a
    /// program that the kernel does not show; LXC fails when it cannot load it.
    fn verify_devices(&self, rules: &[DeviceRule]) -> Result<()> {
        let Some(devices) = self.target.devices() else { return Ok(()) };
        let list = devices.mount.join(self.groups.payload.path()).join("devices.list");
        let found = file::read(&list)?;
        let difference = if found.lines().any(|line| line.starts_with("a *:*")) {
            "every device is allowed".to_owned()
        } else if let Some(rule) = rules.iter().find(|rule| !rule.is_in(&found)) {
            format!("`{rule}` is not allowed")
        } else {
            return Ok(());
        };
        Err(Error::Differs { what: list.display().to_string(), difference })
    }

    fn start_failed(&self, status: &str) -> Error {
        let stderr = reason::distill(&self.log_text());
        Error::Command { program: "lxc-start".to_owned(), status: status.to_owned(), stderr }
    }

    /// LXC said that it runs, and it is gone: LXC hands a file without a known format to `/bin/sh`, for one.
    fn init_ended(&self, monitor: Option<Birth>) -> Error {
        // Who is to tell how it ended may still be at it.
        let exit = self.await_exit(monitor).ok().flatten();
        let log = self.log_text();
        let errors = reason::errors(&log);
        let stderr = match (errors.first(), exit) {
            (Some(error), _) => (*error).to_owned(),
            (None, Some(exit)) => format!("init ended as soon as it was started: {exit}"),
            (None, None) => "init ended as soon as it was started".to_owned(),
        };
        Error::Command { program: "lxc-start".to_owned(), status: "the container stopped".to_owned(), stderr }
    }

    fn log_text(&self) -> String {
        let mut log = Vec::new();
        // What was read before an error tells more than the error.
        let _ = File::open(self.log()).and_then(|file| file.take(LOG_MOST_BYTES).read_to_end(&mut log));
        String::from_utf8_lossy(&log).into_owned()
    }
}

/// Checks that init has the ids it should have: LXC could not have joined, and it would be privileged without a word.
fn verify_ids(init: u32, map: &IdMap) -> Result<()> {
    let fields = |text: &str| text.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let wanted = fields(&map.to_string());
    for name in ["uid_map", "gid_map"] {
        let path = format!("/proc/{init}/{name}");
        let found = file::read(Path::new(&path))?;
        if fields(&found) != wanted {
            let difference = format!("it is {}, not {}", found.trim(), map.to_string().trim());
            return Err(Error::Differs { what: path, difference });
        }
    }
    Ok(())
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
        Network::Isolated | Network::Interfaces(_) => {
            (inode(Path::new("/proc/thread-self/ns/net"))? != inside, "it is in the host's".to_owned())
        }
    };
    if right {
        return Ok(());
    }
    Err(Error::Differs { what: format!("network namespace of process {init}"), difference: wanted })
}
