//! What real hosts say, for tests.

use super::hierarchy::Hierarchies;
use super::probe::HierarchyProbe;

/// Debian 12 with systemd.
pub(super) fn v2() -> HierarchyProbe {
    HierarchyProbe {
        mountinfo: "\
23 28 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw
24 28 0:22 / /sys rw,nosuid,nodev,noexec,relatime shared:6 - sysfs sysfs rw
30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:8 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
31 24 0:27 / /sys/fs/pstore rw,nosuid,nodev,noexec,relatime shared:9 - pstore pstore rw
"
        .to_owned(),
        controllers: table(&[
            ("cpuset", 0, 1),
            ("cpu", 0, 1),
            ("cpuacct", 0, 1),
            ("blkio", 0, 1),
            ("memory", 0, 1),
            ("freezer", 0, 1),
            ("pids", 0, 1),
        ]),
        unified_controllers: "cpuset cpu io memory hugetlb pids rdma misc\n".to_owned(),
        kernel_release: "6.1.0-18-amd64\n".to_owned(),
        boot_parameters: "BOOT_IMAGE=/boot/vmlinuz-6.1.0-18-amd64 root=/dev/vda1 ro quiet\n".to_owned(),
        can_swap: true,
        swap_file: Some(true),
        quota_file: Some(true),
        burst_file: Some(true),
        online_cpus: "0-3\n".to_owned(),
        huge_pages: "hugepages-2048kB hugepages-1048576kB".to_owned(),
    }
}

/// A small virtual machine without systemd: one v1 hierarchy for each controller, and v2 beside them.
pub(super) fn hybrid() -> HierarchyProbe {
    HierarchyProbe {
        mountinfo: "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"
        .to_owned(),
        controllers: table(&[
            ("cpuset", 3, 1),
            ("cpu", 1, 1),
            ("cpuacct", 2, 1),
            ("blkio", 7, 1),
            ("memory", 4, 1),
            ("freezer", 6, 1),
            ("hugetlb", 0, 1),
            ("pids", 8, 1),
        ]),
        unified_controllers: "hugetlb\n".to_owned(),
        kernel_release: "6.18.44\n".to_owned(),
        boot_parameters: "console=ttyS0 quiet\n".to_owned(),
        can_swap: true,
        swap_file: Some(true),
        quota_file: Some(true),
        burst_file: Some(true),
        online_cpus: "0-3\n".to_owned(),
        huge_pages: "hugepages-2048kB hugepages-1048576kB".to_owned(),
    }
}

/// Debian 10 with `systemd.legacy_systemd_cgroup_controller=1`: v1 only, `cpu` and `cpuacct` in one hierarchy.
pub(super) fn v1() -> HierarchyProbe {
    HierarchyProbe {
        mountinfo: "\
25 18 0:22 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:8 - tmpfs tmpfs ro,mode=755
26 25 0:23 / /sys/fs/cgroup/systemd rw,nosuid,nodev,noexec,relatime shared:9 - cgroup cgroup rw,xattr,release_agent=/lib/systemd/systemd-cgroups-agent,name=systemd
29 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,nodev,noexec,relatime shared:13 - cgroup cgroup rw,cpu,cpuacct
30 25 0:27 / /sys/fs/cgroup/pids rw,nosuid,nodev,noexec,relatime shared:14 - cgroup cgroup rw,pids
31 25 0:28 / /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime shared:15 - cgroup cgroup rw,memory
34 25 0:31 / /sys/fs/cgroup/freezer rw,nosuid,nodev,noexec,relatime shared:18 - cgroup cgroup rw,freezer
88 70 0:31 /docker/x /srv/view/freezer ro,relatime - cgroup cgroup rw,freezer
99 70 0:31 / /srv/again rw,relatime - cgroup cgroup rw,freezer
"
        .to_owned(),
        controllers: table(&[
            ("cpu", 2, 1),
            ("cpuacct", 2, 1),
            ("memory", 5, 1),
            ("freezer", 8, 1),
            ("pids", 4, 1),
        ]),
        kernel_release: "4.19.0-26-amd64\n".to_owned(),
        boot_parameters: "root=/dev/vda1 ro quiet swapaccount=1\n".to_owned(),
        can_swap: true,
        swap_file: Some(true),
        quota_file: Some(true),
        burst_file: Some(false),
        online_cpus: "0-3\n".to_owned(),
        ..HierarchyProbe::default()
    }
}

/// What `probe` is judged to be, after `change`.
pub(super) fn changed(mut probe: HierarchyProbe, change: impl FnOnce(&mut HierarchyProbe)) -> Hierarchies {
    change(&mut probe);
    Hierarchies::from_probe(probe)
}

/// `/proc/cgroups` with these names, hierarchy numbers and states.
pub(super) fn table(rows: &[(&str, u32, u8)]) -> String {
    let mut text = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n".to_owned();
    for (name, hierarchy, enabled) in rows {
        text.push_str(&format!("{name}\t{hierarchy}\t1\t{enabled}\n"));
    }
    text
}
