//! The keys of liblxc 5 (`man 5 lxc.container.conf`), and what a repeated or an empty one does.

use crate::lxc::text::form::Form;
use crate::lxc::text::words::NAMESPACES;

/// What a second value does to the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeated {
    /// Takes its place.
    Replaces,
    /// Comes after it.
    Adds,
}

/// What an empty value does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Empty {
    /// Takes back what was given.
    Clears,
    /// Takes back all keys that begin with this one and a dot.
    ClearsAll,
    /// liblxc refuses it.
    Refused,
    /// Nothing.
    Ignored,
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) repeated: Repeated,
    pub(crate) empty: Empty,
    pub(crate) form: Form,
}

const fn one(form: Form) -> Key {
    Key { repeated: Repeated::Replaces, empty: Empty::Clears, form }
}

const fn many(form: Form) -> Key {
    Key { repeated: Repeated::Adds, empty: Empty::Clears, form }
}

const ANY: Key = one(Form::Any);
const PATH: Key = one(Form::Path);
const FLAG: Key = one(Form::Number(1));
const NUMBER: Key = one(Form::Number(u32::MAX));
const SIGNAL: Key = one(Form::Signal);
const CGROUP_DIR: Key = one(Form::CgroupDir);
const LIST: Key = many(Form::Any);

const EXACT: [(&str, Key); 79] = [
    ("lxc.apparmor.allow_incomplete", FLAG),
    ("lxc.apparmor.allow_nesting", FLAG),
    ("lxc.apparmor.profile", ANY),
    ("lxc.apparmor.raw", LIST),
    ("lxc.arch", Key { empty: Empty::Refused, ..one(Form::Arch) }),
    ("lxc.autodev", FLAG),
    ("lxc.autodev.tmpfs.size", ANY),
    ("lxc.cap.drop", many(Form::DroppedCapabilities)),
    ("lxc.cap.keep", many(Form::KeptCapabilities)),
    ("lxc.cgroup.dir", CGROUP_DIR),
    ("lxc.cgroup.dir.container", CGROUP_DIR),
    ("lxc.cgroup.dir.container.inner", one(Form::CgroupName)),
    ("lxc.cgroup.dir.monitor", CGROUP_DIR),
    ("lxc.cgroup.dir.monitor.pivot", CGROUP_DIR),
    ("lxc.cgroup.relative", FLAG),
    ("lxc.console.buffer.size", one(Form::Size)),
    ("lxc.console.logfile", PATH),
    ("lxc.console.path", PATH),
    ("lxc.console.rotate", FLAG),
    ("lxc.console.size", one(Form::Size)),
    ("lxc.environment", LIST),
    ("lxc.ephemeral", FLAG),
    ("lxc.execute.cmd", ANY),
    ("lxc.group", LIST),
    ("lxc.hook", Key { empty: Empty::ClearsAll, ..one(Form::Nothing) }),
    ("lxc.hook.autodev", LIST),
    ("lxc.hook.clone", LIST),
    ("lxc.hook.destroy", LIST),
    ("lxc.hook.mount", LIST),
    ("lxc.hook.post-stop", LIST),
    ("lxc.hook.pre-mount", LIST),
    ("lxc.hook.pre-start", LIST),
    ("lxc.hook.start", LIST),
    ("lxc.hook.start-host", LIST),
    ("lxc.hook.stop", LIST),
    ("lxc.hook.version", one(Form::LooseNumber(1))),
    ("lxc.idmap", many(Form::IdMap)),
    (INCLUDE, Key { empty: Empty::Ignored, ..LIST }),
    ("lxc.init.cmd", ANY),
    ("lxc.init.cwd", PATH),
    ("lxc.init.gid", one(Form::LooseNumber(u32::MAX))),
    ("lxc.init.groups", many(Form::Groups)),
    ("lxc.init.uid", one(Form::LooseNumber(u32::MAX))),
    ("lxc.keyring.session", FLAG),
    ("lxc.log.file", PATH),
    ("lxc.log.level", one(Form::Level)),
    ("lxc.log.syslog", one(Form::Facility)),
    ("lxc.monitor.signal.pdeath", SIGNAL),
    ("lxc.monitor.unshare", NUMBER),
    ("lxc.mount.auto", many(Form::AutoMounts)),
    ("lxc.mount.entry", LIST),
    ("lxc.mount.fstab", Key { empty: Empty::Refused, ..PATH }),
    ("lxc.namespace.clone", many(Form::Namespaces)),
    ("lxc.namespace.keep", many(Form::Namespaces)),
    ("lxc.net", Key { empty: Empty::ClearsAll, ..one(Form::Nothing) }),
    ("lxc.no_new_privs", FLAG),
    ("lxc.pty.max", NUMBER),
    ("lxc.rootfs.managed", FLAG),
    ("lxc.rootfs.mount", PATH),
    ("lxc.rootfs.options", one(Form::RootOptions)),
    ("lxc.rootfs.path", one(Form::Root)),
    ("lxc.sched.core", FLAG),
    ("lxc.seccomp.allow_nesting", one(Form::LooseNumber(1))),
    ("lxc.seccomp.notify.cookie", ANY),
    ("lxc.seccomp.notify.proxy", one(Form::Proxy)),
    ("lxc.seccomp.profile", PATH),
    ("lxc.selinux.context", ANY),
    ("lxc.selinux.context.keyring", ANY),
    ("lxc.signal.halt", SIGNAL),
    ("lxc.signal.reboot", SIGNAL),
    ("lxc.signal.stop", SIGNAL),
    ("lxc.start.auto", FLAG),
    ("lxc.start.delay", NUMBER),
    ("lxc.start.order", one(Form::Signed)),
    ("lxc.time.offset.boot", one(Form::Offset)),
    ("lxc.time.offset.monotonic", one(Form::Offset)),
    ("lxc.tty.dir", one(Form::Short(255))),
    ("lxc.tty.max", NUMBER),
    // A host name of the kernel (`__NEW_UTS_LEN`).
    ("lxc.uts.name", one(Form::Short(64))),
];

/// Keys that go on after these words: with a file, a resource, a namespace, a setting.
const FAMILIES: [(&str, Key); 6] = [
    ("lxc.cgroup", LIST),
    ("lxc.cgroup2", LIST),
    ("lxc.namespace.share", ANY),
    ("lxc.prlimit", one(Form::ResourceLimit)),
    ("lxc.proc", LIST),
    ("lxc.sysctl", ANY),
];

/// The key that takes in other files.
pub(crate) const INCLUDE: &str = "lxc.include";

/// The key `name`, unless it is one of a network. `None` if liblxc has no such key.
pub(crate) fn find(name: &[u8], has_value: bool) -> Option<Key> {
    if let Some(key) = exact(name) {
        return Some(key);
    }
    for (family, key) in FAMILIES {
        let Some(rest) = name.strip_prefix(family.as_bytes()) else { continue };
        return match rest {
            // The bare family only clears; namespaces have none.
            [] if family == "lxc.namespace.share" => None,
            [] => Some(Key { empty: Empty::ClearsAll, form: Form::Nothing, ..key }),
            [b'.', rest @ ..] => match family {
                "lxc.namespace.share" => NAMESPACES.iter().any(|n| n.as_bytes() == rest).then_some(key),
                // A limit of nothing is taken when the file is read.
                "lxc.prlimit" => Some(key),
                _ => (!rest.is_empty() || !has_value).then_some(key),
            },
            _ => continue,
        };
    }
    None
}

/// The key that is written exactly so.
pub(crate) fn exact(name: &[u8]) -> Option<Key> {
    EXACT.iter().find(|(key, _)| key.as_bytes() == name).map(|(_, key)| *key)
}

/// The key that `name` may have been meant for.
pub(crate) fn nearest(name: &[u8]) -> Option<&'static str> {
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    let close = |key: &&str| distance(key, &name) <= 2;
    EXACT.iter().map(|(key, _)| *key).filter(close).min_by_key(|key| distance(key, &name))
}

/// How many letters differ, where that is few and the names are short.
fn distance(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > 2 || b.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}
