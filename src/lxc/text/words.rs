//! The words that liblxc 5 knows (`man 5 lxc.container.conf`): capabilities, namespaces, signals and the like.

/// By their numbers (`man 7 capabilities`).
#[rustfmt::skip]
pub(crate) const CAPABILITIES: [&str; 41] = [
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control",
    "setfcap", "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read",
    "perfmon", "bpf", "checkpoint_restore",
];

#[rustfmt::skip]
pub(crate) const NAMESPACES: [&str; 8] = [
    "user", "mnt", "pid", "uts", "ipc", "net", "cgroup", "time",
];

#[rustfmt::skip]
pub(crate) const ARCHITECTURES: [&str; 28] = [
    "arm", "armel", "armhf", "armv7l", "athlon", "i386", "i486", "i586", "i686", "linux32", "mips",
    "mipsel", "ppc", "powerpc", "x86", "aarch64", "amd64", "arm64", "linux64", "mips64", "mips64el",
    "ppc64", "ppc64el", "ppc64le", "powerpc64", "riscv64", "s390x", "x86_64",
];

/// Without `SIG` (`man 7 signal`); real-time signals apart.
#[rustfmt::skip]
pub(crate) const SIGNALS: [&str; 34] = [
    "HUP", "INT", "QUIT", "ILL", "ABRT", "FPE", "KILL", "SEGV", "PIPE", "ALRM", "TERM", "USR1", "USR2",
    "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "TRAP", "IOT", "BUS", "STKFLT", "CLD", "URG", "XCPU",
    "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "POLL", "PWR", "SYS",
];

#[rustfmt::skip]
pub(crate) const AUTO_MOUNTS: [&str; 27] = [
    "proc", "proc:mixed", "proc:rw", "sys", "sys:ro", "sys:mixed", "sys:rw", "cgroup2", "cgroup2:ro",
    "cgroup2:force", "cgroup2:ro:force", "cgroup", "cgroup:mixed", "cgroup:ro", "cgroup:rw", "cgroup:force",
    "cgroup:mixed:force", "cgroup:ro:force", "cgroup:rw:force", "cgroup-full", "cgroup-full:mixed",
    "cgroup-full:ro", "cgroup-full:rw", "cgroup-full:force", "cgroup-full:mixed:force",
    "cgroup-full:ro:force", "cgroup-full:rw:force",
];

#[rustfmt::skip]
pub(crate) const LEVELS: [&str; 9] = [
    "trace", "debug", "info", "notice", "warn", "error", "crit", "alert", "fatal",
];
