//! [`LxcConfig`] out of a text (`man 5 lxc.container.conf`).

use crate::lxc::config::init::{self, InitProcess};
use crate::lxc::config::reader::Reader;
use crate::lxc::config::values::ConfigPath;
use crate::lxc::config::{
    AppArmor, AutoMounts, Autostart, Capabilities, Console, Hooks, LxcConfig, LxcLog, Network, Seccomp,
    Terminals, devices, environment, group, id_map, kernel_settings, limits, mounts, namespaces,
    resource_limits,
};
use crate::lxc::text::{ConfigProblems, ConfigText};
use crate::name::ContainerName;

impl TryFrom<&ConfigText> for LxcConfig {
    type Error = ConfigProblems;

    /// What a text says, with the files that it includes. Sources of mounts are looked at on this host.
    ///
    /// Two things come out narrower than LXC has them, so that what LXC's own files for distributions say can be read. An `optional`
    /// mount at or beneath `/proc` or `/sys` is left out (`common.conf` has `/sys/fs/fuse/connections`, the host's). And where a
    /// container with an id map is told nothing of devices (`userns.conf` takes all rules away), it has [the usual
    /// ones](crate::lxc::DeviceRule::standard).
    ///
    /// # Errors
    /// [`ConfigProblems`] with every line that is not valid, has no place in an [`LxcConfig`], or would leave a container
    /// without what should hold it; and as [`ConfigText::with_includes`].
    fn try_from(text: &ConfigText) -> Result<Self, ConfigProblems> {
        let whole = if text.has_includes() { Some(text.with_includes()?) } else { None };
        let mut reader = Reader::new(whole.as_ref().unwrap_or(text));
        let config = read(&mut reader);
        reader.finish(config)
    }
}

impl TryFrom<ConfigText> for LxcConfig {
    type Error = ConfigProblems;

    /// As for `&ConfigText`.
    fn try_from(text: ConfigText) -> Result<Self, ConfigProblems> {
        Self::try_from(&text)
    }
}

/// Every topic takes its keys, also when an earlier one has found a problem. `None` only with a problem.
fn read(reader: &mut Reader<'_>) -> Option<LxcConfig> {
    let host_name = read_name(reader);
    let root = read_root(reader);
    if let Some(entry) = reader.one("lxc.autodev")
        && !reader.flag(&entry)
    {
        reader.refuse(&entry, "must be 1: without it the image's own device nodes are used");
    }
    let console = Console::read(reader);
    let init = init::read_command(reader);
    let halt_signal = init::read_halt_signal(reader);
    let environment = environment::read(reader);
    let limits = limits::read(reader);
    let cgroup = group::read(reader);
    let network = Network::read(reader);
    let mounts = mounts::read(reader);
    let process = InitProcess::read(reader);
    let capabilities = Capabilities::read(reader);
    let seccomp = Seccomp::read(reader);
    let apparmor = AppArmor::read(reader);
    let id_map = id_map::read(reader);
    let devices = devices::read(reader, id_map.is_some());
    let terminals = Terminals::read(reader);
    let auto_mounts = AutoMounts::read(reader);
    let namespaces = namespaces::read(reader);
    let resource_limits = resource_limits::read(reader);
    let sysctls = kernel_settings::read("lxc.sysctl.", reader);
    let proc = kernel_settings::read("lxc.proc.", reader);
    let hooks = Hooks::read(reader);
    let log = LxcLog::read(reader);
    let autostart = Autostart::read(reader);
    Some(LxcConfig {
        host_name: host_name?,
        root: root?.as_path().to_owned(),
        init,
        halt_signal,
        environment,
        limits,
        cgroup,
        network,
        mounts,
        console,
        process,
        capabilities,
        seccomp,
        apparmor,
        devices,
        id_map,
        terminals,
        auto_mounts,
        namespaces,
        resource_limits,
        sysctls,
        proc,
        hooks,
        log,
        autostart,
    })
}

fn read_name(reader: &mut Reader<'_>) -> Option<ContainerName> {
    let Some(entry) = reader.one("lxc.uts.name") else {
        reader.missing("lxc.uts.name", "must be given: the container would have the host's name");
        return None;
    };
    let text = reader.text(&entry)?;
    reader.parsed(&entry, ContainerName::new(text))
}

fn read_root(reader: &mut Reader<'_>) -> Option<ConfigPath> {
    let Some(entry) = reader.one("lxc.rootfs.path") else {
        reader.missing("lxc.rootfs.path", "must be given: the container would have the host's root");
        return None;
    };
    let text = reader.text(&entry)?;
    let path = text.strip_prefix("dir:").unwrap_or(text);
    if !path.starts_with('/') && path.contains(':') {
        reader.refuse(&entry, "must be a directory that is mounted already: dir:/PATH");
        return None;
    }
    reader.parsed(&entry, ConfigPath::new(path))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::cgroup::{CgroupLimits, CpuQuota, CpuWeight, Limit};
    use crate::idmap::IdMap;
    use crate::lxc::config::render::tests::{hybrid, v2};
    use crate::lxc::config::{
        AutoMount, ConfigValue, DeviceRule, HookPoint, InitProcess, LogLevel, LxcInterface, Namespace,
        NamespaceSource, Resource,
    };
    use crate::lxc::{LxcTarget, MountEntry, Tmpfs};

    /// A configuration with something in every field.
    fn full() -> LxcConfig {
        let value = |text: &str| ConfigValue::new(text).unwrap();
        let path = |text: &str| ConfigPath::new(text).unwrap();
        let mut config = LxcConfig::new(&ContainerName::new("web").unwrap(), "/srv/a b/'web'").unwrap();
        config.init(["/sbin/init", "--x=\"y\"", "'z'"]).unwrap().halt_signal("SIGRTMIN+3".parse().unwrap());
        config.environment("A", " x\" ").unwrap().environment("B", "").unwrap();
        config.limits(&CgroupLimits {
            memory_max_bytes: Some(Limit::At(128 << 20)),
            memory_swap_max_bytes: Some(Limit::At(0)),
            cpu: Some(CpuQuota::cores(0.5).unwrap()),
            cpu_weight: Some(CpuWeight::new(300).unwrap()),
            pids_max: Some(Limit::At(64)),
            ..CgroupLimits::default()
        });
        config.cgroup_dir("docklet/t/i").unwrap().join_network("/run/net s").unwrap();
        config.console_log("/var/log/c", 8192).unwrap();
        config.mount(MountEntry::bind("/etc", "/a b\\c").unwrap().without_submounts().read_only()).unwrap();
        config.mount(MountEntry::bind("/usr", "/u").unwrap().recursive()).unwrap();
        config.mount(MountEntry::tmpfs(Tmpfs::new(1 << 20), "/u/t").unwrap()).unwrap();
        config.mount(MountEntry::device("/dev/null", "/dev/zilch").unwrap()).unwrap();
        config.process = InitProcess {
            user: 1000,
            group: 1001,
            groups: vec![4, 24],
            directory: Some(path("/home/x")),
            architecture: Some("i686".parse().unwrap()),
            no_new_privileges: true,
        };
        config.capabilities = Capabilities::Only(["chown", "40"].map(|name| name.parse().unwrap()).into());
        config.seccomp = Seccomp::Profile(path("/etc/lxc/my.seccomp"));
        config.apparmor = AppArmor::Unconfined;
        config.devices.push("c 10:229 rwm".parse().unwrap());
        config.id_map = Some(IdMap::new([(0, 100_000, 1000), (1000, 200_000, 64_536)]).unwrap());
        config.terminals = Terminals { ttys: 4, tty_directory: Some(value("lxc")), ptys: 16 };
        config.auto_mounts =
            AutoMounts { proc: Some(AutoMount::ReadWrite), sys: None, cgroup: Some(AutoMount::ReadOnly) };
        config.namespaces = BTreeMap::from([
            (Namespace::Ipc, NamespaceSource::Host),
            (Namespace::Uts, NamespaceSource::Pinned(path("/run/uts"))),
        ]);
        config.resource_limits = BTreeMap::from([
            ("nofile".parse::<Resource>().unwrap(), "1024:4096".parse().unwrap()),
            ("core".parse().unwrap(), "unlimited".parse().unwrap()),
        ]);
        config.sysctls = BTreeMap::from([("net.ipv4.ip_forward".parse().unwrap(), value("1"))]);
        config.proc = BTreeMap::from([("oom_score_adj".parse().unwrap(), value("10"))]);
        config.hooks =
            Hooks { list: vec![(HookPoint::PreStart, value("/bin/true a b"))], in_environment: true };
        config.log = LxcLog { file: Some(path("/var/log/l")), level: Some(LogLevel::Info) };
        (config.autostart.enabled, config.autostart.delay_seconds, config.autostart.order) = (true, 5, -3);
        config.autostart.group("a").unwrap().group("b").unwrap();
        config
    }

    fn back(config: &LxcConfig, target: &LxcTarget) -> LxcConfig {
        let text = config.render(target).unwrap();
        LxcConfig::try_from(ConfigText::parse(text).unwrap()).unwrap()
    }

    #[test]
    fn what_is_rendered_is_read_back() {
        let plain = LxcConfig::new(&ContainerName::new("web").unwrap(), "/srv/web").unwrap();
        let mut sparse = plain.clone();
        sparse.capabilities = Capabilities::Only([].into());
        sparse.seccomp = Seccomp::Off;
        sparse.devices.clear();
        sparse.auto_mounts = AutoMounts { proc: None, sys: None, cgroup: None };
        let mut linked = plain.clone();
        let port = LxcInterface {
            bridge: Some("br0".parse().unwrap()),
            name: Some("eth7".parse().unwrap()),
            mac: Some([0, 0x16, 0x3e, 1, 2, 0xff]),
            mtu: Some(1400),
            addresses: ["10.0.0.2/24", "fd00::2/64"].map(|address| address.parse().unwrap()).into(),
            gateways: ["10.0.0.1", "fd00::1"].map(|address| address.parse().unwrap()).into(),
        };
        linked.interfaces(vec![port, LxcInterface::default()]).unwrap();
        for config in [full(), plain, sparse, linked] {
            for target in [hybrid(), v2()] {
                assert_eq!(back(&config, &target), config);
            }
        }
    }

    /// All limits, as either version writes them.
    #[test]
    fn limits_are_read_from_either_version() {
        let head = "lxc.uts.name = a\nlxc.rootfs.path = /r\nlxc.cgroup.devices.deny = a\n";
        let read = |lines: &str| {
            let text = ConfigText::parse(format!("{head}{lines}")).unwrap();
            LxcConfig::try_from(text).unwrap().limits
        };
        let both = |text: &str| serde_json::from_str::<CgroupLimits>(text).unwrap();
        let v1 = read(
            "lxc.cgroup.cpu.cfs_quota_us = 50000\nlxc.cgroup.cpu.cfs_burst_us = 7000\nlxc.cgroup.cpu.shares = 2048\n\
             lxc.cgroup.cpuset.cpus = 0,1\nlxc.cgroup.blkio.bfq.weight = 7\n\
             lxc.cgroup.blkio.throttle.read_bps_device = 7:3 5\nlxc.cgroup.blkio.throttle.write_iops_device = 7:3 0\n\
             lxc.cgroup2.hugetlb.2MB.max = 4M\n",
        );
        let expected = r#"{"cpu":{"quota_us":50000,"burst_us":7000},"cpu_weight":200,"cpus":"0-1","io_weight":7,
            "io":{"/dev/block/7:3":{"read_bytes_per_second":5,"write_operations_per_second":"max"}},
            "hugetlb_max_bytes":{"2MB":4194304}}"#;
        assert_eq!(v1, both(expected));
        let v2 = read(
            "lxc.cgroup2.cpu.max = 50000\nlxc.cgroup2.cpu.max.burst = 7000\nlxc.cgroup2.cpu.weight = 200\n\
             lxc.cgroup2.cpuset.cpus = 0-1\nlxc.cgroup2.io.bfq.weight = 7\n\
             lxc.cgroup2.io.max = 7:3 rbps=5\nlxc.cgroup2.io.max = 7:3 wiops=max\nlxc.cgroup2.hugetlb.2MB.max = 4194304\n\
             lxc.cgroup2.memory.high = 8M\nlxc.cgroup2.memory.oom.group = 1\n",
        );
        let more = format!(
            r#"{},"memory_high_bytes":8388608,"memory_oom_group":true}}"#,
            &expected[..expected.len() - 1]
        );
        assert_eq!(v2, both(&more));
    }

    /// As LXC's `userns.conf` leaves them: nobody in a user namespace makes nodes.
    #[test]
    fn mapped_containers_have_the_usual_devices() {
        let head = "lxc.uts.name = a\nlxc.rootfs.path = /r\nlxc.cgroup2.devices.deny = a\nlxc.cgroup2.devices.allow = c 1:3 rwm\n";
        let cleared = "lxc.cgroup2.devices.deny =\nlxc.cgroup2.devices.allow =\n";
        let map = "lxc.idmap = u 0 100000 65536\nlxc.idmap = g 0 100000 65536\n";
        let read = |text: String| LxcConfig::try_from(ConfigText::parse(text).unwrap());
        assert_eq!(read(format!("{head}{cleared}{map}")).unwrap().devices, DeviceRule::standard());
        assert_eq!(read(format!("{head}{map}")).unwrap().devices, ["c 1:3 rwm".parse().unwrap()]);
        let message = read(format!("{head}{cleared}")).unwrap_err().to_string();
        assert!(message.contains("every disk of the host"), "{message}");
    }

    fn problems(text: &str) -> Vec<String> {
        let text = ConfigText::parse(text).unwrap();
        let problems = LxcConfig::try_from(text).unwrap_err();
        problems.list().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_problem_is_listed() {
        let text = "\
# from elsewhere
lxc.rootfs.path = overlay:/a:/b
lxc.init.uid = root
lxc.net.0.type = macvlan
lxc.net.0.link = lxcbr0
lxc.mount.entry = proc proc proc defaults 0 0
lxc.mount.entry = /nonexistent x none bind 0 0
lxc.cgroup2.memory.low = 5
lxc.cgroup2.devices.allow = c 1:3 rwm
lxc.environment = TERM
lxc.cap.drop = sys_admin
lxc.prlimit.files = 5
lxc.ephemeral = 1
";
        let found = problems(text);
        let expected = [
            "line 2, column 19: `lxc.rootfs.path` = \"overlay:/a:/b\": must be a directory that is mounted already: dir:/PATH",
            "`lxc.uts.name`: must be given",
            "line 3, column 16: `lxc.init.uid` = \"root\": must be a number from 0 to 4294967295",
            "line 4, column 18: `lxc.net.0.type` = \"macvlan\": has no place in a typed configuration: write veth",
            "line 5, column 1: `lxc.net.0.link` = \"lxcbr0\": has no place in a typed configuration: it is for a veth",
            "line 6, column 19: `lxc.mount.entry` = \"proc proc proc defaults 0 0\": has no place in a typed configuration: of a second",
            "line 7, column 19: `lxc.mount.entry` = \"/nonexistent x none bind 0 0\": mount source `/nonexistent` does not exist",
            "line 8, column 1: `lxc.cgroup2.memory.low` = \"5\": has no place in a typed configuration: of control groups",
            "line 9, column 29: `lxc.cgroup2.devices.allow` = \"c 1:3 rwm\": has no effect while all are allowed",
            "`lxc.cgroup2.devices.deny`: must be there",
            "line 10, column 19: `lxc.environment` = \"TERM\": must be NAME=VALUE",
            "line 12, column 21: `lxc.prlimit.files` = \"5\": must be one of as, core",
            "line 13, column 1: `lxc.ephemeral` = \"1\": has no place in a typed configuration: leave it out",
        ];
        for expected in expected {
            assert!(found.iter().any(|problem| problem.starts_with(expected)), "{expected}\n{found:#?}");
        }
        assert_eq!(found.len(), expected.len(), "{found:#?}");
    }

    #[test]
    fn what_would_open_the_host_is_refused() {
        let head = "lxc.uts.name = a\nlxc.rootfs.path = /r\nlxc.cgroup.devices.deny = a\n";
        for (line, expected) in [
            ("lxc.net.0.type = none", "would be the host's network"),
            ("lxc.namespace.share.net = /n", "LXC would make interfaces in it"),
            ("lxc.namespace.keep = net", "a namespace `net` of its own"),
            ("lxc.mount.entry = /etc /etc none bind 0 0", "the target must be relative to the root"),
            ("lxc.mount.entry = /etc ../etc none bind 0 0", "must not contain '..'"),
            ("lxc.net.0.type = veth", "an interface is up: write lxc.net.0.flags = up"),
            (
                "lxc.net.0.type = veth\nlxc.net.00.ipv4.address = 10.0.0.2/024",
                "must be an address with its prefix",
            ),
            ("lxc.net.0.type = veth\nlxc.net.0.hwaddr = 00:16:3e:xx:xx:xx", "without an x"),
            ("lxc.net.0.type = veth\nlxc.net.0.script.up = /x", "has no place"),
            (
                "lxc.net.0.link = br0\nlxc.net.0.type = veth\nlxc.net.1.type = none",
                "would be the host's network",
            ),
            ("lxc.autodev = 0", "must be 1"),
            ("lxc.cgroup2.devices.deny = a\nlxc.cgroup2.devices.allow = b *:* rwm", "must be the same"),
            (
                "lxc.cgroup.memory.limit_in_bytes = 512M\nlxc.cgroup2.memory.max = 1G",
                "enforces only one of them",
            ),
            ("lxc.console.logfile = /c", "would grow without a bound"),
            ("lxc.mount.auto = cgroup", "`cgroup` has no place"),
            ("lxc.cgroup.cpu.cfs_period_us = 100000", "has no effect without lxc.cgroup.cpu.cfs_quota_us"),
            ("lxc.cgroup2.cpu.max = 50000 x", "must be the quota in microseconds"),
            ("lxc.cgroup2.memory.max = 1X", "must be a number"),
            ("lxc.cgroup2.cpu.weight = 0", "must be 1 to 10000"),
            ("lxc.cgroup2.cpuset.cpus = a", "must be numbers and ranges"),
            ("lxc.cgroup2.memory.oom.group = 2", "must be 0 or 1"),
            ("lxc.cgroup2.io.max = 7:3 rbps=0", "must be from 1"),
            ("lxc.cgroup2.io.max = 7 rbps=5", "the number of a block device"),
            ("lxc.cgroup2.io.max = 7:3 bps=5", "must be some of rbps="),
            ("lxc.cgroup.blkio.throttle.read_bps_device = 7:3 x", "must be a number"),
            ("lxc.cgroup2.hugetlb.2MB.rsvd.max = 0", "must be a power of two"),
            ("lxc.cgroup2.hugetlb.2MB.events = 0", "give the limit of a size"),
            ("lxc.cgroup2.hugetlb.2MB.max = 1", "must be a multiple of 2097152"),
            ("lxc.sysctl.../../x = 1", "words of letters"),
        ] {
            let found = problems(&format!("{head}{line}\n"));
            assert!(found.iter().any(|problem| problem.contains(expected)), "{line}: {found:?}");
        }
    }

    proptest! {
        /// No value becomes another key, or another value.
        #[test]
        fn values_stay_where_they_are(value in "[\\PC\n\r\t\0\"' =#\\\\]{0,24}", name in "[a-z.=\n\r /\\PC]{0,12}") {
            let mut config = LxcConfig::new(&ContainerName::new("web").unwrap(), "/srv/web").unwrap();
            let _ = config.environment("A", value.as_str());
            if let Ok(value) = ConfigValue::new(value.as_str()) {
                config.hooks.list.push((HookPoint::Stop, value.clone()));
                config.terminals.tty_directory = Some(value.clone());
                config.apparmor = AppArmor::Standard;
                if let Ok(name) = name.parse() {
                    config.sysctls.insert(name, value);
                }
            }
            if let Ok(path) = ConfigPath::new(format!("/{value}")) {
                config.process.directory = Some(path.clone());
                config.seccomp = Seccomp::Profile(path);
            }
            let _ = config.autostart.group(name.as_str());
            let _ = config.init([format!("/{value}")]);
            let _ = config.join_network(format!("/{name}"));
            prop_assert_eq!(back(&config, &v2()), config);
        }
    }
}
