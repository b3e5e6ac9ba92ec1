//! [`LxcConfig`] as text for one liblxc and one host.

use std::fmt::Write;

use crate::cgroup::{Version, settings};
use crate::error::{Error, Result};
use crate::lxc::config::{LxcConfig, Network};
use crate::lxc::target::LxcTarget;
use crate::lxc::{DROPPED_CAPABILITIES, text};

/// The group with the limits, beneath the container's.
pub(crate) const PAYLOAD: &str = "payload";

/// Devices a container may use, as the kernel's `devices.allow` wants them: making any node (an unpacked archive has
/// them) but opening only these. Source: LXC's `common.conf`, without fuse.
const DEVICES: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",   // null
    "c 1:5 rwm",   // zero
    "c 1:7 rwm",   // full
    "c 1:8 rwm",   // random
    "c 1:9 rwm",   // urandom
    "c 5:0 rwm",   // tty
    "c 5:1 rwm",   // console
    "c 5:2 rwm",   // ptmx
    "c 136:* rwm", // pts
];

impl LxcConfig {
    /// The text of LXC's configuration file for this host.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if this host or this liblxc cannot enforce what is asked for.
    pub fn render(&self, target: &LxcTarget) -> Result<String> {
        self.render_in(target, self.cgroup.as_deref())
    }

    pub(crate) fn render_in(&self, target: &LxcTarget, cgroup: Option<&str>) -> Result<String> {
        let mut lines = Lines(String::with_capacity(2048));
        lines.add("lxc.uts.name", self.host_name.as_str());
        // The type is named: liblxc would take a colon in the path for one otherwise.
        lines.add("lxc.rootfs.path", &format!("dir:{}", self.root.display()));
        lines.add("lxc.init.cmd", &self.init.join(" "));
        lines.add("lxc.signal.halt", &self.halt_signal.number().to_string());
        for (name, value) in &self.environment {
            lines.add("lxc.environment", &format!("{name}={value}"));
        }
        self.render_isolation(target, &mut lines);
        self.render_terminals(&mut lines);
        self.render_network(&mut lines);
        if let Some(base) = cgroup {
            lines.add("lxc.cgroup.dir.monitor", &format!("{base}/monitor"));
            // Where the monitor goes when it ends. Otherwise a group `lxc.pivot` stays at each hierarchy's root.
            lines.add("lxc.cgroup.dir.monitor.pivot", &format!("{base}/pivot"));
            lines.add("lxc.cgroup.dir.container", &format!("{base}/{PAYLOAD}"));
            // The limits stand above the container's own group: its root mounts this one and no higher one.
            lines.add("lxc.cgroup.dir.container.inner", "inner");
        }
        self.render_cgroup(target, &mut lines)?;
        lines.add("lxc.mount.auto", "proc:mixed sys:mixed");
        for mount in &self.mounts {
            lines.add("lxc.mount.entry", &mount.entry.render(&mount.source));
        }
        Ok(lines.0)
    }

    fn render_isolation(&self, target: &LxcTarget, lines: &mut Lines) {
        lines.add("lxc.cap.drop", &DROPPED_CAPABILITIES.join(" "));
        if let Some(profile) = &target.seccomp {
            lines.add("lxc.seccomp.profile", &profile.to_string_lossy());
        }
        lines.add("lxc.autodev", "1");
    }

    fn render_terminals(&self, lines: &mut Lines) {
        lines.add("lxc.tty.max", "0");
        lines.add("lxc.pty.max", "1024");
        match &self.console_log {
            Some((path, max_bytes)) => {
                let size = max_bytes.clamp(&4096, &(1 << 30)).next_power_of_two().to_string();
                lines.add("lxc.console.logfile", &path.to_string_lossy());
                lines.add("lxc.console.size", &size);
                lines.add("lxc.console.rotate", "1");
            }
            None => lines.add("lxc.console.path", "none"),
        }
    }

    fn render_network(&self, lines: &mut Lines) {
        match &self.network {
            Network::Isolated => lines.add("lxc.net.0.type", "empty"),
            Network::Joined(path) => {
                // "none" leaves the namespace as it is; that it is the joined one is verified after the start.
                lines.add("lxc.net.0.type", "none");
                lines.add("lxc.namespace.share.net", &path.to_string_lossy());
            }
        }
    }

    fn render_cgroup(&self, target: &LxcTarget, lines: &mut Lines) -> Result<()> {
        let devices =
            target.hierarchies.mounts().iter().any(|h| h.controllers.iter().any(|c| c == "devices"));
        let limits = settings(&self.limits, &target.hierarchies)?;
        if target.version.major >= 7 && (devices || limits.iter().any(|s| s.version == Version::V1)) {
            return Err(Error::Unsupported {
                what: format!("limiting a container with liblxc {} on cgroup v1", target.version.major),
                needs: "cgroup v2 (boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all), or liblxc 5 or 6: \
                        version 7 has no keys for v1"
                    .to_owned(),
            });
        }
        for setting in limits {
            lines.add(&format!("{}.{}", prefix(setting.version), setting.file), &setting.value);
        }
        // Root in the container can make device nodes: opening the host's disks is what must not work.
        let prefix = prefix(if devices { Version::V1 } else { Version::V2 });
        lines.add(&format!("{prefix}.devices.deny"), "a");
        for device in DEVICES {
            lines.add(&format!("{prefix}.devices.allow"), device);
        }
        Ok(())
    }
}

fn prefix(version: Version) -> &'static str {
    match version {
        Version::V1 => "lxc.cgroup",
        Version::V2 => "lxc.cgroup2",
    }
}

struct Lines(String);

impl Lines {
    fn add(&mut self, key: &str, value: &str) {
        debug_assert!(text::check("configuration value", value).is_ok(), "{key} = {value:?}");
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{key} = {}", text::quoted(value));
    }
}
