//! [`LxcConfig`] as text for one liblxc and one host.

use std::fmt::Write;

use crate::cgroup::{Version, settings};
use crate::error::{Error, Result};
use crate::lxc::config::{
    LxcConfig, devices, environment, group, id_map, kernel_settings, mount_lines, namespaces, resource_limits,
};
use crate::lxc::target::LxcTarget;
use crate::lxc::text;

impl LxcConfig {
    /// The text of LXC's configuration file for this host.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if this host or this liblxc cannot enforce what is asked for.
    pub fn render(&self, target: &LxcTarget) -> Result<String> {
        // One whose source is missing, and may be, is left out: LXC's own `optional` hides every error.
        let there = self.mounts.iter().filter(|mount| !matches!(mount.entry.look(), Ok(None)));
        let mounts: Vec<String> =
            there.map(|mount| mount_lines::by_lxc(&mount.entry)).collect::<Result<_>>()?;
        self.render_in(target, self.cgroup.as_deref(), &mounts)
    }

    /// `mounts` are the values of `lxc.mount.entry`.
    pub(crate) fn render_in(
        &self,
        target: &LxcTarget,
        cgroup: Option<&str>,
        mounts: &[String],
    ) -> Result<String> {
        let mut lines = Lines(String::with_capacity(2048));
        lines.add("lxc.uts.name", self.host_name.as_str());
        // The type is named: liblxc would take a colon in the path for one otherwise.
        lines.add("lxc.rootfs.path", &format!("dir:{}", self.root.display()));
        lines.add("lxc.init.cmd", &self.init.join(" "));
        lines.add("lxc.signal.halt", &self.halt_signal.number().to_string());
        self.process.render(&mut lines);
        environment::render(&self.environment, &mut lines);
        self.capabilities.render(&mut lines);
        self.seccomp.render(target, &mut lines);
        self.apparmor.render(target, &mut lines)?;
        id_map::render(self.id_map.as_ref(), &mut lines);
        lines.add("lxc.autodev", "1");
        self.terminals.render(&mut lines);
        self.console.render(&mut lines);
        self.network.render(&mut lines);
        namespaces::render(&self.namespaces, &mut lines);
        if let Some(base) = cgroup {
            group::render(base, &mut lines);
        }
        self.render_cgroup(target, &mut lines)?;
        self.auto_mounts.render(&mut lines);
        for mount in mounts {
            lines.add("lxc.mount.entry", mount);
        }
        resource_limits::render(&self.resource_limits, &mut lines);
        kernel_settings::render("lxc.sysctl.", &self.sysctls, &mut lines);
        kernel_settings::render("lxc.proc.", &self.proc, &mut lines);
        self.hooks.render(&mut lines);
        self.log.render(&mut lines);
        self.autostart.render(&mut lines);
        Ok(lines.0)
    }

    fn render_cgroup(&self, target: &LxcTarget, lines: &mut Lines) -> Result<()> {
        let has_v1_devices = target.devices().is_some();
        let limits = settings(&self.limits, &target.hierarchies)?;
        if target.version.major >= 7 && (has_v1_devices || limits.iter().any(|s| s.version == Version::V1)) {
            return Err(Error::Unsupported {
                what: format!("limiting a container with liblxc {} on cgroup v1", target.version),
                needs: "it takes cgroup v2 (boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all), or liblxc 5 or 6: \
                        version 7 has no keys for v1"
                    .to_owned(),
            });
        }
        for setting in limits {
            lines.add(&format!("{}.{}", prefix(setting.version), setting.file), &setting.value);
        }
        devices::render(&self.devices, if has_v1_devices { Version::V1 } else { Version::V2 }, lines);
        Ok(())
    }
}

/// What LXC's keys for a version of control groups begin with.
pub(crate) fn prefix(version: Version) -> &'static str {
    match version {
        Version::V1 => "lxc.cgroup",
        Version::V2 => "lxc.cgroup2",
    }
}

/// The text while it is written.
pub(crate) struct Lines(String);

impl Lines {
    /// Adds a line that liblxc reads as exactly this key and this value.
    pub(crate) fn add(&mut self, key: &str, value: &str) {
        debug_assert!(text::check("configuration value", value).is_ok(), "{key} = {value:?}");
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{key} = {}", text::quoted(value));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::cgroup::{CgroupLimits, CpuQuota, Hierarchies, HierarchyProbe, Limit};
    use crate::idmap::IdMap;
    use crate::lxc::{ConfigPath, HaltSignal, LxcVersion, MountEntry, Namespace, NamespaceSource};
    use crate::name::ContainerName;

    const V1: [&str; 4] = ["cpu", "memory", "pids", "devices"];

    /// A host with these mounts.
    fn target(v1: &[&str], unified: &str, controllers: &str, major: u32) -> LxcTarget {
        let mut probe = HierarchyProbe {
            unified_controllers: controllers.to_owned(),
            kernel_release: "6.1.0-18-amd64".to_owned(),
            can_swap: true,
            swap_file: Some(true),
            quota_file: Some(true),
            ..HierarchyProbe::default()
        };
        for name in v1 {
            probe.mountinfo += &format!("3 3 0:1 / /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}\n");
            probe.controllers += &format!("{name}\t1\t1\t1\n");
        }
        probe.mountinfo += &format!("4 3 0:9 / {unified} rw - cgroup2 cgroup2 rw\n");
        LxcTarget {
            version: LxcVersion { major, minor: 0, patch: 2 },
            hierarchies: Hierarchies::from_probe(probe),
            lxc_start: PathBuf::from("/usr/bin/lxc-start"),
            lxc_attach: PathBuf::from("/usr/bin/lxc-attach"),
            seccomp: Some(PathBuf::from("/usr/share/lxc/config/common.seccomp")),
            apparmor: false,
        }
    }

    pub(crate) fn hybrid() -> LxcTarget {
        target(&V1, "/sys/fs/cgroup/unified", "", 5)
    }

    pub(crate) fn v2() -> LxcTarget {
        target(&[], "/sys/fs/cgroup", "cpu memory pids", 5)
    }

    fn config() -> LxcConfig {
        LxcConfig::new(&ContainerName::new("web").unwrap(), "/srv/web").unwrap()
    }

    fn limited() -> LxcConfig {
        let mut config = config();
        config.limits(&CgroupLimits {
            memory_max_bytes: Some(Limit::At(128 << 20)),
            cpu: Some(CpuQuota::cores(0.5).unwrap()),
            pids_max: Some(Limit::At(64)),
            ..CgroupLimits::default()
        });
        config
    }

    #[test]
    fn a_whole_configuration() {
        let mut config = limited();
        config.init(["/sbin/init", "--log=a\"b"]).unwrap().halt_signal(HaltSignal::USER2);
        config.environment("A", " padded ").unwrap().environment("B", "").unwrap();
        config.cgroup_dir("docklet/t/i").unwrap().join_network("/run/net s").unwrap();
        config.console_log("/var/log/c", 5000).unwrap();
        config.mount(MountEntry::bind("/etc", "/a b").unwrap().without_submounts().read_only()).unwrap();
        let expected = "\
lxc.uts.name = web
lxc.rootfs.path = dir:/srv/web
lxc.init.cmd = /sbin/init --log=a\"b
lxc.signal.halt = 12
lxc.environment = \"A= padded \"
lxc.environment = B=
lxc.cap.drop = audit_control audit_read block_suspend bpf dac_read_search mac_admin mac_override perfmon sys_module \
sys_rawio sys_time syslog wake_alarm
lxc.seccomp.profile = /usr/share/lxc/config/common.seccomp
lxc.autodev = 1
lxc.tty.max = 0
lxc.pty.max = 1024
lxc.console.logfile = /var/log/c
lxc.console.size = 8192
lxc.console.rotate = 1
lxc.net.0.type = none
lxc.namespace.share.net = /run/net s
lxc.cgroup.dir.monitor = docklet/t/i/monitor
lxc.cgroup.dir.monitor.pivot = docklet/t/i/pivot
lxc.cgroup.dir.container = docklet/t/i/payload
lxc.cgroup.dir.container.inner = inner
lxc.cgroup.memory.limit_in_bytes = 134217728
lxc.cgroup.cpu.cfs_period_us = 100000
lxc.cgroup.cpu.cfs_quota_us = 50000
lxc.cgroup.cpu.cfs_burst_us = 0
lxc.cgroup.pids.max = 64
lxc.cgroup.devices.deny = a
";
        let text = config.render(&hybrid()).unwrap();
        let (head, tail) = text.split_once("lxc.cgroup.devices.allow").unwrap();
        assert_eq!(head, expected);
        assert!(tail.ends_with(
            "lxc.cgroup.devices.allow = c 136:* rwm
lxc.mount.auto = proc:mixed sys:mixed
lxc.mount.entry = /etc a\\040b none bind,private,ro 0 0
"
        ));
    }

    #[test]
    fn ids_are_rendered_with_their_namespaces() {
        let mut config = config();
        config.id_map = Some(IdMap::new([(0, 100_000, 1000), (1000, 300_000, 1)]).unwrap());
        config.process.no_new_privileges = true;
        let pinned = NamespaceSource::Pinned(ConfigPath::new("/run/user").unwrap());
        config.namespaces.insert(Namespace::User, pinned);
        let text = config.join_network("/run/net").unwrap().render(&hybrid()).unwrap();
        for lines in [
            "lxc.idmap = u 0 100000 1000\nlxc.idmap = u 1000 300000 1\nlxc.idmap = g 0 100000 1000\n\
             lxc.idmap = g 1000 300000 1\n",
            "lxc.namespace.share.user = /run/user\n",
            "lxc.no_new_privs = 1\n",
        ] {
            assert!(text.contains(lines), "{text}");
        }
    }

    #[test]
    fn limits_fit_the_hierarchy() {
        let text = limited().render(&v2()).unwrap();
        for line in [
            "lxc.cgroup2.memory.max = 134217728\n",
            "lxc.cgroup2.cpu.max = 50000 100000\n",
            "lxc.cgroup2.pids.max = 64\n",
            "lxc.cgroup2.devices.deny = a\n",
            "lxc.net.0.type = empty\n",
            "lxc.console.path = none\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("lxc.cgroup."), "{text}");
        assert!(limited().render(&target(&[], "/sys/fs/cgroup", "cpu memory pids", 7)).is_ok());
    }

    #[test]
    fn what_would_not_be_enforced_is_refused() {
        for (refusing, expected) in [
            (target(&V1, "/sys/fs/cgroup/unified", "", 7), "version 7 has no keys for v1"),
            (target(&["cpu", "pids"], "/sys/fs/cgroup/unified", "", 5), "memory"),
            (target(&[], "/sys/fs/cgroup", "cpu memory", 5), "pids"),
        ] {
            let message = limited().render(&refusing).unwrap_err().to_string();
            assert!(message.contains("is not possible here") && message.contains(expected), "{message}");
        }
    }
}
