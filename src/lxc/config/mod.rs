//! A container's configuration as typed data (`man 5 lxc.container.conf`).

mod autostart;
mod capabilities;
mod devices;
mod environment;
mod group;
mod hooks;
mod id_map;
mod init;
mod kernel_settings;
mod limits;
mod log;
mod mount_lines;
mod mounts;
mod namespaces;
mod network;
mod read;
mod reader;
mod render;
mod resource_limits;
mod security;
mod terminals;
mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::cgroup::CgroupLimits;
use crate::error::{Error, Result};
use crate::idmap::IdMap;
use crate::lxc::HaltSignal;
use crate::lxc::mount::MountEntry;
use crate::name::ContainerName;

pub use autostart::Autostart;
pub use capabilities::{Capabilities, Capability, DROPPED_CAPABILITIES};
pub use devices::DeviceRule;
pub use hooks::{HookPoint, Hooks};
pub use init::{Architecture, InitProcess};
pub use kernel_settings::SettingName;
pub use log::{LogLevel, LxcLog};
pub use mounts::{AutoMount, AutoMounts};
pub use namespaces::{Namespace, NamespaceSource};
pub use network::LxcInterface;
pub use resource_limits::{Resource, ResourceLimit};
pub use security::{AppArmor, Seccomp};
pub use terminals::Terminals;
pub use values::{ConfigPath, ConfigValue};

pub(crate) use environment::check_variable;
pub(crate) use mount_lines::{TARGET_MAX, by_lxc, escape, prepared};
pub(crate) use mounts::CheckedMount;
pub(crate) use network::Network;
pub(crate) use terminals::{CONSOLE_LOG_MAX, Console};

/// The configuration of one container. What can be built with it is valid; rendering says whether this host can do it.
/// Fields stand for themselves; what has rules with others (mounts, environment) or for what is there on the host has a method.
/// It is also made of a [`ConfigText`](crate::lxc::ConfigText), by `TryFrom`, with the files that this includes: LXC's own for distributions
/// (`/usr/share/lxc/config/common.conf`, `userns.conf`), too, but `nesting.conf`, whose second `/proc` and `/sys` have no place here.
///
/// Without an [`id_map`](Self::id_map) the container is privileged: its root is root of the host as well, and what keeps it
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
    pub(crate) mounts: Vec<CheckedMount>,
    pub(crate) console: Console,
    /// As whom init runs.
    pub process: InitProcess,
    /// What the container's root may do.
    pub capabilities: Capabilities,
    /// Which system calls are denied.
    pub seccomp: Seccomp,
    /// AppArmor's profile.
    pub apparmor: AppArmor,
    /// The devices that may be opened. Default: [`DeviceRule::standard`].
    pub devices: Vec<DeviceRule>,
    /// The container's ids on the host, which make it unprivileged. Default: the host's own.
    ///
    /// [`Container::start`](crate::lxc::Container::start) takes a map with two namespaces that were made for it, and verifies
    /// it: the user namespace in [`namespaces`](Self::namespaces), and the network namespace that the container
    /// [joins](LxcConfig::join_network)
    /// ([`NetworkNamespace::ensure_mapped`](crate::net::NetworkNamespace::ensure_mapped) makes both). No entry in
    /// `/etc/subuid` is needed. The root's files belong to the ids of the map, and the root of the map, an ordinary user of
    /// the host, must be able to search all directories above it.
    pub id_map: Option<IdMap>,
    /// How many terminals there are.
    pub terminals: Terminals,
    /// The kernel's file systems that are mounted.
    pub auto_mounts: AutoMounts,
    /// Namespaces that are not the container's own. Default: none.
    pub namespaces: BTreeMap<Namespace, NamespaceSource>,
    /// Limits of each process. Default: those of whoever starts the container.
    pub resource_limits: BTreeMap<Resource, ResourceLimit>,
    /// Settings beneath `/proc/sys`. Default: none.
    pub sysctls: BTreeMap<SettingName, ConfigValue>,
    /// Settings in init's directory of `/proc`. Default: none.
    pub proc: BTreeMap<SettingName, ConfigValue>,
    /// Programs that LXC runs.
    pub hooks: Hooks,
    /// LXC's log.
    pub log: LxcLog,
    /// What `lxc-autostart` does.
    pub autostart: Autostart,
}

impl LxcConfig {
    /// A container whose host name is `name` and whose root is the directory `root`. Its init is `/sbin/init`, it has
    /// no limits, no mounts but LXC's own, and no network but loopback.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `root` is relative, is `/`, has `..`, is not UTF-8, or holds what LXC cannot express.
    pub fn new(name: &ContainerName, root: impl Into<PathBuf>) -> Result<Self> {
        let root = ConfigPath::of("root", root.into())?.as_path().to_owned();
        Ok(Self {
            host_name: name.clone(),
            root,
            init: vec!["/sbin/init".to_owned()],
            halt_signal: HaltSignal::default(),
            environment: Vec::new(),
            limits: CgroupLimits::default(),
            cgroup: None,
            network: Network::default(),
            mounts: Vec::new(),
            console: Console::default(),
            process: InitProcess::default(),
            capabilities: Capabilities::default(),
            seccomp: Seccomp::default(),
            apparmor: AppArmor::default(),
            devices: DeviceRule::standard(),
            id_map: None,
            terminals: Terminals::default(),
            auto_mounts: AutoMounts::default(),
            namespaces: BTreeMap::new(),
            resource_limits: BTreeMap::new(),
            sysctls: BTreeMap::new(),
            proc: BTreeMap::new(),
            hooks: Hooks::default(),
            log: LxcLog::default(),
            autostart: Autostart::default(),
        })
    }

    /// The program that runs as the container's first process, with its arguments.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is none, if its path is not absolute, or if an argument is empty or holds white space
    /// or a control character: LXC splits the line at spaces and knows no quotes.
    pub fn init(&mut self, command: impl IntoIterator<Item = impl Into<String>>) -> Result<&mut Self> {
        self.init = init::check_command(command.into_iter().map(Into::into).collect())?;
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
        environment::add(&mut self.environment, name.into(), value.into())?;
        Ok(self)
    }

    /// Resource limits. They stand on a group above the container's own, out of its root's reach.
    pub fn limits(&mut self, limits: &CgroupLimits) -> &mut Self {
        self.limits = limits.clone();
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
        group::check(&base)?;
        self.cgroup = Some(base);
        Ok(self)
    }

    /// Joins the network namespace that is pinned at `path`, instead of having one of its own without links.
    ///
    /// # Errors
    /// [`Error::Invalid`] by the same rules as for the root.
    pub fn join_network(&mut self, path: impl Into<PathBuf>) -> Result<&mut Self> {
        let path = ConfigPath::of("network namespace", path.into())?;
        self.network = Network::Joined(path.as_path().to_owned());
        Ok(self)
    }

    /// Gives the container a network namespace of its own with these interfaces, which LXC makes.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is none, or if one has two gateways of one family.
    pub fn interfaces(&mut self, interfaces: Vec<LxcInterface>) -> Result<&mut Self> {
        if interfaces.is_empty() {
            return Err(Error::invalid("interfaces", "", "must be at least one"));
        }
        interfaces.iter().try_for_each(LxcInterface::check)?;
        self.network = Network::Interfaces(interfaces);
        Ok(self)
    }

    /// Writes what the container prints on its console to the file `path`, at most `max_bytes` (and as much again in
    /// the older half, `path.1`). Rounded up to a power of two of at least one page. Without it there is no console.
    ///
    /// # Errors
    /// [`Error::Invalid`] by the same rules as for the root, or if `max_bytes` is over 1 GiB.
    pub fn console_log(&mut self, path: impl Into<PathBuf>, max_bytes: u64) -> Result<&mut Self> {
        let path = ConfigPath::of("console log", path.into())?;
        if max_bytes > terminals::CONSOLE_LOG_MAX {
            return Err(Error::invalid("console log size", max_bytes.to_string(), "must be at most 1 GiB"));
        }
        self.console = Console::Log { path, max_bytes };
        Ok(self)
    }

    /// Adds a mount; later ones are mounted later. A device is allowed in [`devices`](Self::devices), too.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the source does not exist and is not optional. [`Error::Invalid`] if the way to it runs through a
    /// symbolic link, if `create_dir`/`create_file` does not fit the source, if a plain bind's source has submounts, if what is
    /// asked for does not go together, if the target is one that was given already, or if it would hide one: the upper of two
    /// nested targets comes first.
    pub fn mount(&mut self, entry: MountEntry) -> Result<&mut Self> {
        let rule = mounts::add(&mut self.mounts, entry)?;
        self.devices.extend(rule.filter(|rule| !self.devices.contains(rule)));
        Ok(self)
    }

    /// Adds a mount of a file of this library's own, in a directory that only root may change.
    pub(crate) fn mount_own(&mut self, entry: MountEntry) -> Result<&mut Self> {
        self.mount(entry)?;
        if let Some(mount) = self.mounts.last_mut() {
            mount.is_own = true;
        }
        Ok(self)
    }

    /// The container's root on the host.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
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
        config.mount(bind("/nonexistent/x").optional().create_dir()).unwrap();
    }
}
