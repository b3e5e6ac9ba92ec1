//! A container's configuration as typed data (`man 5 lxc.container.conf`).

use std::path::{Path, PathBuf};

use crate::cgroup::CgroupLimits;
use crate::error::{Error, Result};
use crate::idmap::IdMap;
use crate::lxc::mount_entry::MountEntry;
use crate::lxc::{HaltSignal, text};
use crate::name::ContainerName;

/// Where a container's network comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Network {
    /// A new namespace with a loopback interface and nothing else.
    #[default]
    Isolated,
    /// A namespace that exists, pinned at a path.
    Joined(PathBuf),
}

/// The user namespace of an unprivileged container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapped {
    pub(crate) map: IdMap,
    /// Where it is pinned.
    pub(crate) namespace: PathBuf,
}

/// A mount whose host side was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CheckedMount {
    pub(crate) entry: MountEntry,
    /// The source without links.
    pub(crate) source: PathBuf,
    pub(crate) is_dir: bool,
}

/// The configuration of one container. What can be built with it is valid; rendering says whether this host can do it.
///
/// Without [`id_map`](LxcConfig::id_map) the container is privileged: its root is root of the host as well, and what keeps it
/// inside are the other namespaces, [`DROPPED_CAPABILITIES`], the device rules and a list of denied system calls. Run only
/// what you would run as root with some care.
///
/// ```no_run
/// # use docklet::{cgroup::{CgroupLimits, Hierarchies}, lxc::{LxcConfig, LxcTarget, MountEntry}, name::ContainerName};
/// # fn main() -> docklet::Result<()> {
/// let mut config = LxcConfig::new(&ContainerName::new("web")?, "/srv/roots/web")?;
/// config.init(["/sbin/init"])?.mount(MountEntry::bind("/srv/data", "/data")?.create_dir())?;
/// let text = config.render(&LxcTarget::detect(&Hierarchies::detect()?)?)?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LxcConfig {
    pub(crate) host_name: ContainerName,
    pub(crate) root: PathBuf,
    pub(crate) init: Vec<String>,
    pub(crate) halt_signal: HaltSignal,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) limits: CgroupLimits,
    pub(crate) cgroup: Option<String>,
    pub(crate) network: Network,
    pub(crate) user: Option<Mapped>,
    pub(crate) no_new_privileges: bool,
    pub(crate) mounts: Vec<CheckedMount>,
    pub(crate) console_log: Option<(PathBuf, u64)>,
}

/// The capabilities (`man 7 capabilities`) that a container's root does not have: those that reach the whole machine
/// rather than the container's namespaces (clock, modules, raw I/O, kernel log, audit, BPF, tracing, waking the machine),
/// and opening files by handle, which leaves the root.
///
/// It keeps the others, `sys_admin` above all, which a system's init needs to mount its file systems. Those of an unprivileged
/// container hold for what belongs to its user namespace, and for nothing else.
pub const DROPPED_CAPABILITIES: [&str; 13] = [
    "audit_control",
    "audit_read",
    "block_suspend",
    "bpf",
    "dac_read_search",
    "mac_admin",
    "mac_override",
    "perfmon",
    "sys_module",
    "sys_rawio",
    "sys_time",
    "syslog",
    "wake_alarm",
];

impl LxcConfig {
    /// A container whose host name is `name` and whose root is the directory `root`. Its init is `/sbin/init`, it has
    /// no limits, no mounts but LXC's own, and no network but loopback.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `root` is relative, is `/`, has `..`, is not UTF-8, or holds what LXC cannot express.
    pub fn new(name: &ContainerName, root: impl Into<PathBuf>) -> Result<Self> {
        let root = config_path("root", root.into())?;
        Ok(Self {
            host_name: name.clone(),
            root,
            init: vec!["/sbin/init".to_owned()],
            halt_signal: HaltSignal::default(),
            environment: Vec::new(),
            limits: CgroupLimits::default(),
            cgroup: None,
            network: Network::default(),
            user: None,
            no_new_privileges: false,
            mounts: Vec::new(),
            console_log: None,
        })
    }

    /// The program that runs as the container's first process, with its arguments.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is none, if its path is not absolute, or if an argument is empty or holds white space
    /// or a control character: LXC splits the line at spaces and knows no quotes.
    pub fn init(&mut self, command: impl IntoIterator<Item = impl Into<String>>) -> Result<&mut Self> {
        let command: Vec<String> = command.into_iter().map(Into::into).collect();
        let Some(program) = command.first() else {
            return Err(Error::invalid("init command", "", "must name a program"));
        };
        text::check_path("init command", Path::new(program))?;
        for arg in &command {
            if arg.is_empty() || arg.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err(Error::invalid(
                    "init command",
                    arg,
                    "its parts must not be empty nor hold white space or control characters: LXC splits at spaces and \
                     knows no quotes; put such a command into a script",
                ));
            }
        }
        self.init = command;
        Ok(self)
    }

    /// The signal that asks init to shut down. Default: [`HaltSignal::POWER`].
    pub fn halt_signal(&mut self, signal: HaltSignal) -> &mut Self {
        self.halt_signal = signal;
        self
    }

    /// Sets a variable of init's environment. LXC itself sets `container=lxc`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `name` is not letters, digits and `_`, or if it begins with a digit or was set already; or if
    /// `value` holds a newline, a carriage return or a zero byte.
    pub fn environment(&mut self, name: impl Into<String>, value: impl Into<String>) -> Result<&mut Self> {
        let (name, value) = (name.into(), value.into());
        check_variable(&name)?;
        if self.environment.iter().any(|(other, _)| *other == name) {
            return Err(Error::invalid("environment variable", name, "is given twice"));
        }
        text::check("environment variable's value", &value)?;
        self.environment.push((name, value));
        Ok(self)
    }

    /// Resource limits. They stand on a group above the container's own, out of its root's reach.
    pub fn limits(&mut self, limits: &CgroupLimits) -> &mut Self {
        self.limits = *limits;
        self
    }

    /// The control group of the container, relative to the hierarchies' roots: `docklet/TAG/ID`. Beneath it are
    /// `monitor`, `payload` (the limits) and `payload/inner` (the container).
    /// [`Container::start`](crate::lxc::Container::start) sets it by itself.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is absolute, or has a component that is not a plain name of letters, digits, `-`, `_`, `.`.
    pub fn cgroup_dir(&mut self, base: impl Into<String>) -> Result<&mut Self> {
        let base = base.into();
        check_cgroup(&base)?;
        self.cgroup = Some(base);
        Ok(self)
    }

    /// Joins the network namespace that is pinned at `path`, instead of having one of its own without links.
    ///
    /// # Errors
    /// [`Error::Invalid`] by the same rules as for the root.
    pub fn join_network(&mut self, path: impl Into<PathBuf>) -> Result<&mut Self> {
        self.network = Network::Joined(config_path("network namespace", path.into())?);
        Ok(self)
    }

    /// Makes it unprivileged: its ids are those of `map` on the host. It joins the user namespace that is pinned at `path` and
    /// has that map, which is verified after the start; the network namespace that it
    /// [joins](LxcConfig::join_network) must belong to it
    /// ([`NetworkNamespace::ensure_mapped`](crate::net::NetworkNamespace::ensure_mapped) makes both). No entry in
    /// `/etc/subuid` is needed.
    ///
    /// The root's files belong to the ids of the map, and the root of the map, an ordinary user of the host, must be able to
    /// search all directories above it, and above the sources of mounts.
    ///
    /// # Errors
    /// [`Error::Invalid`] by the same rules as for the root.
    pub fn id_map(&mut self, map: &IdMap, path: impl Into<PathBuf>) -> Result<&mut Self> {
        let namespace = config_path("user namespace", path.into())?;
        self.user = Some(Mapped { map: map.clone(), namespace });
        Ok(self)
    }

    /// Whether no program inside gives more rights than its caller has (`man 2 prctl`, `PR_SET_NO_NEW_PRIVS`): neither by
    /// set-uid bits nor by capabilities of files, so that `su` and `sudo` do not work. Default: `false`.
    pub fn no_new_privileges(&mut self, set: bool) -> &mut Self {
        self.no_new_privileges = set;
        self
    }

    /// Writes what the container prints on its console to the file `path`, at most `max_bytes` (and as much again in
    /// the older half, `path.1`). Rounded up to a power of two of at least one page. Without it there is no console.
    ///
    /// # Errors
    /// [`Error::Invalid`] by the same rules as for the root, or if `max_bytes` is over 1 GiB.
    pub fn console_log(&mut self, path: impl Into<PathBuf>, max_bytes: u64) -> Result<&mut Self> {
        let path = config_path("console log", path.into())?;
        if max_bytes > 1 << 30 {
            return Err(Error::invalid("console log size", max_bytes.to_string(), "must be at most 1 GiB"));
        }
        self.console_log = Some((path, max_bytes));
        Ok(self)
    }

    /// Adds a bind mount; later ones are mounted later.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the source does not exist. [`Error::Invalid`] if `create_dir`/`create_file` does not fit the
    /// source, if a plain bind's source has submounts, if read-only and recursive meet, if the target is one that was
    /// given already, or if it would hide one: the upper of two nested targets comes first.
    pub fn mount(&mut self, entry: MountEntry) -> Result<&mut Self> {
        let (source, is_dir) = entry.check_source()?;
        let target = entry.target();
        for earlier in &self.mounts {
            let other = earlier.entry.target();
            let rule = if other == target {
                "is the target of another mount already".to_owned()
            } else if other.starts_with(target) {
                format!("would hide the earlier mount on {}: add the upper one first", other.display())
            } else if target.starts_with(other) && !earlier.is_dir {
                format!("lies beneath {}, where another mount puts a file", other.display())
            } else {
                continue;
            };
            return Err(Error::invalid("mount target", target.to_string_lossy(), rule));
        }
        self.mounts.push(CheckedMount { entry, source, is_dir });
        Ok(self)
    }

    /// The container's root on the host.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
}

pub(crate) fn check_variable(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if name.is_empty() || !name.bytes().all(plain) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(Error::invalid(
            "environment variable",
            name,
            "must be letters, digits and '_', and must not begin with a digit",
        ));
    }
    Ok(())
}

fn config_path(what: &'static str, path: PathBuf) -> Result<PathBuf> {
    let path: PathBuf = path.components().collect();
    let shown = text::check_path(what, &path)?;
    text::check(what, shown)?;
    if shown.len() > text::LINE_MAX / 2 {
        return Err(Error::invalid(what, shown, "must have at most 2048 bytes"));
    }
    Ok(path)
}

fn check_cgroup(base: &str) -> Result<()> {
    let plain = |name: &str| {
        let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        !name.is_empty() && name != "." && name != ".." && name.bytes().all(safe)
    };
    if base.len() > 512 || !base.split('/').all(plain) {
        let rule = "must be a relative path of plain names: letters, digits, '-', '_', '.'";
        return Err(Error::invalid("cgroup directory", base, rule));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> LxcConfig {
        LxcConfig::new(&ContainerName::new("web").unwrap(), "/srv/web").unwrap()
    }

    #[test]
    fn values_are_checked() {
        let name = ContainerName::new("web").unwrap();
        let cases: [(Result<()>, &str); 16] = [
            (LxcConfig::new(&name, "srv").map(drop), "invalid root \"srv\": must be an absolute path"),
            (LxcConfig::new(&name, "/").map(drop), "must not be the root directory"),
            (LxcConfig::new(&name, "/a/../b").map(drop), "must not contain '..'"),
            (LxcConfig::new(&name, "/a\nlxc.hook.start = /x").map(drop), "must not contain a newline"),
            (config().init([""; 0]).map(drop), "must name a program"),
            (config().init(["init"]).map(drop), "must be an absolute path"),
            (config().init(["/bin/sh", "-c", "a b"]).map(drop), "put such a command into a script"),
            (config().init(["/bin/sh", ""]).map(drop), "must not be empty"),
            (config().init(["/bin/sh", "a\nb"]).map(drop), "control characters"),
            (config().environment("A B", "").map(drop), "letters, digits and '_'"),
            (config().environment("1A", "").map(drop), "must not begin with a digit"),
            (config().environment("A", "x\ny").map(drop), "must not contain a newline"),
            (config().environment("A", "").unwrap().environment("A", "").map(drop), "given twice"),
            (config().cgroup_dir("/abs").map(drop), "relative path of plain names"),
            (config().cgroup_dir("a/../b").map(drop), "relative path of plain names"),
            (config().join_network("net").map(drop), "must be an absolute path"),
        ];
        for (result, expected) in cases {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(expected), "{message} / {expected}");
        }
    }

    #[test]
    fn targets_do_not_hide_each_other() {
        let add = |config: &mut LxcConfig, source: &str, target: &str| {
            config.mount(MountEntry::bind(source, target).unwrap().without_submounts()).map(drop)
        };
        let mut config = config();
        add(&mut config, "/usr/bin", "/data/sub").unwrap();
        for (target, expected) in [
            ("/data/sub", "invalid mount target \"/data/sub\": is the target of another mount already"),
            ("//data/./sub/", "is the target of another mount already"),
            ("/data", "would hide the earlier mount on /data/sub: add the upper one first"),
        ] {
            let message = add(&mut config, "/usr/bin", target).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        add(&mut config, "/usr/bin", "/data/sub/deeper").unwrap();
        add(&mut config, "/usr/bin", "/data/subway").unwrap();
        add(&mut config, "/etc/passwd", "/file").unwrap();
        let message = add(&mut config, "/usr/bin", "/file/x").unwrap_err().to_string();
        assert!(message.contains("lies beneath /file, where another mount puts a file"), "{message}");
    }

    #[test]
    fn sources_are_checked() {
        let mut config = config();
        let mut refused = |entry: MountEntry| config.mount(entry).map(drop).unwrap_err().to_string();
        let bind = |source: &str| MountEntry::bind(source, "/data").unwrap();
        assert_eq!(refused(bind("/nonexistent/x")), "mount source `/nonexistent/x` does not exist");
        assert!(refused(bind("/etc/passwd").create_dir()).contains("use .create_file(), not .create_dir()"));
        assert!(refused(bind("/etc").create_file()).contains("use .create_dir(), not .create_file()"));
        let message = refused(bind("/sys"));
        assert!(
            message.contains(".recursive() to show them or .without_submounts() to hide them"),
            "{message}"
        );
        assert!(refused(bind("/etc").recursive().read_only()).contains("do not go together"));
    }
}
