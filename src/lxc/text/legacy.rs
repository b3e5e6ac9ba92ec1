//! The keys of liblxc up to 2.0, which liblxc from 3.0 on refuses, and what they are called now (`lxc-update-config`).

const RENAMED: [(&str, &str); 23] = [
    ("lxc.aa_allow_incomplete", "lxc.apparmor.allow_incomplete"),
    ("lxc.aa_profile", "lxc.apparmor.profile"),
    ("lxc.console", "lxc.console.path"),
    ("lxc.devttydir", "lxc.tty.dir"),
    ("lxc.haltsignal", "lxc.signal.halt"),
    ("lxc.id_map", "lxc.idmap"),
    ("lxc.init_cmd", "lxc.init.cmd"),
    ("lxc.init_gid", "lxc.init.gid"),
    ("lxc.init_uid", "lxc.init.uid"),
    ("lxc.limit", "lxc.prlimit"),
    ("lxc.logfile", "lxc.log.file"),
    ("lxc.loglevel", "lxc.log.level"),
    ("lxc.mount", "lxc.mount.fstab"),
    ("lxc.network", "lxc.net"),
    ("lxc.pts", "lxc.pty.max"),
    ("lxc.rebootsignal", "lxc.signal.reboot"),
    ("lxc.rootfs", "lxc.rootfs.path"),
    ("lxc.se_context", "lxc.selinux.context"),
    ("lxc.seccomp", "lxc.seccomp.profile"),
    ("lxc.stopsignal", "lxc.signal.stop"),
    ("lxc.syslog", "lxc.log.syslog"),
    ("lxc.tty", "lxc.tty.max"),
    ("lxc.utsname", "lxc.uts.name"),
];

const GONE: [(&str, &str); 3] = [
    ("lxc.kmsg", "leave it out: containers have no /dev/kmsg any more"),
    ("lxc.pivotdir", "leave it out: it has had no effect since liblxc 1.1"),
    ("lxc.rootfs.backend", "write the type before the path: lxc.rootfs.path = TYPE:PATH"),
];

/// What to write instead of a key of old; `None` if it never was one.
pub(crate) fn remedy(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    if let Some((_, remedy)) = GONE.iter().find(|(old, _)| *old == name) {
        return Some(format!("is a key of liblxc before 3.0: {remedy}"));
    }
    let now = RENAMED.iter().find(|(old, _)| *old == name).map(|(_, now)| (*now).to_owned());
    let now =
        now.or_else(|| name.strip_prefix("lxc.limit.").map(|resource| format!("lxc.prlimit.{resource}")));
    let now = now.or_else(|| name.strip_prefix("lxc.network.").map(network))?;
    Some(format!("is a key of liblxc before 3.0: it is {now} now (lxc-update-config changes a whole file)"))
}

/// The key of a network: it had no number before 2.1, where the first was meant and `type` began the next.
fn network(rest: &str) -> String {
    let (number, key) = match rest.split_once('.') {
        Some((number, key)) if number.bytes().all(|b| b.is_ascii_digit()) => (number, key),
        _ => ("0", rest),
    };
    let key = match key {
        "ipv4" => "ipv4.address",
        "ipv6" => "ipv6.address",
        key => key,
    };
    format!("lxc.net.{number}.{key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_keys_have_new_names() {
        for (old, new) in [
            ("lxc.utsname", "it is lxc.uts.name now"),
            ("lxc.rootfs", "it is lxc.rootfs.path now"),
            ("lxc.rootfs.backend", "lxc.rootfs.path = TYPE:PATH"),
            ("lxc.network.type", "it is lxc.net.0.type now"),
            ("lxc.network.1.ipv4", "it is lxc.net.1.ipv4.address now"),
            ("lxc.network.veth.pair", "it is lxc.net.0.veth.pair now"),
            ("lxc.limit.nofile", "it is lxc.prlimit.nofile now"),
        ] {
            let remedy = remedy(old.as_bytes()).unwrap();
            assert!(remedy.contains(new), "{remedy}");
        }
        assert_eq!(remedy(b"lxc.uts.name"), None);
        assert_eq!(remedy(b"lxc.\xff"), None);
    }
}
