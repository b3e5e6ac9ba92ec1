//! LXC: typed configuration, and the life of one container.
//!
//! [`LxcConfig`] says what a container should be, with a field and a type for each topic (capabilities, devices, namespaces,
//! hooks, …); [`MountEntry`] is one mount of it; [`LxcTarget`] is the LXC and the control groups of this host, which the
//! configuration is rendered for. A [`Container`] is started, stopped, frozen and entered.
//!
//! [`ConfigText`] is any configuration file, byte for byte: what liblxc takes, it takes, and what liblxc refuses is listed
//! ([`ConfigProblems`]). An [`LxcConfig`] is made of it where everything in it has a place.
//!
//! ```
//! # use docklet::lxc::{ConfigText, LxcConfig};
//! let text: ConfigText = "lxc.uts.name = web\nlxc.rootfs.path = overlay:/a:/b\nlxc.net.0.type = none\n".parse()?;
//! let problems = LxcConfig::try_from(&text).unwrap_err();
//! assert_eq!(problems.count(), 3);
//! let root = problems.list()[1].to_string();
//! assert!(root.starts_with("line 2, column 19: `lxc.rootfs.path` = \"overlay:/a:/b\": must be a directory"), "{root}");
//! # Ok::<(), docklet::lxc::ConfigProblems>(())
//! ```
//!
//! The runtime is liblxc (from 5.0 on) by its programs `lxc-start` and `lxc-attach`: its monitor is a fork of whoever
//! starts a container, and so must not be a fork of a large program.
//!
//! Needs root, but for configurations. Not here: making namespaces, network links, the root's file system.

mod account;
mod birthplace;
mod command;
mod config;
mod console;
mod container;
mod exec;
mod exec_child;
mod exec_output;
mod exit;
mod groups;
mod halt_signal;
mod lock_file;
mod mount;
mod pump;
mod reason;
mod record;
mod root;
mod start;
mod stop;
mod target;
mod terminal;
mod text;

pub use account::Account;
pub use command::Command;
pub use config::{
    AppArmor, Architecture, AutoMount, AutoMounts, Autostart, Capabilities, Capability, ConfigPath,
    ConfigValue, DROPPED_CAPABILITIES, DeviceRule, HookPoint, Hooks, InitProcess, LogLevel, LxcConfig,
    LxcInterface, LxcLog, Namespace, NamespaceSource, Resource, ResourceLimit, Seccomp, SettingName,
    Terminals,
};
pub use console::Console;
pub(crate) use console::read_log as read_console_log;
pub use container::{Container, State};
pub use exec::Exec;
pub use exec_child::ExecChild;
pub use exec_output::{ExecOutput, ExecStatus};
pub use exit::Exit;
pub use halt_signal::HaltSignal;
pub(crate) use lock_file::{
    directory as lock_directory, names as lock_names, remove as remove_lock,
    remove_directory as remove_lock_directory,
};
pub use mount::{
    Create, FilesystemMount, MountEntry, MountOption, MountSource, Propagation, Submounts, Tmpfs,
};
pub(crate) use record::Run;
pub use start::Started;
pub use stop::StopOutcome;
pub use target::{LxcTarget, LxcVersion};
pub use terminal::{Terminal, TerminalSize};
pub use text::{ConfigProblem, ConfigProblems, ConfigText, Entry};
