//! The reader of LXC's configuration against liblxc itself: the same texts, the same verdicts, the same values.
//!
//! liblxc is asked by its own programs: `lxc-ls` loads the configuration of each container of a directory and leaves out
//! those that it cannot load, hundreds in one process; `lxc-info -c` prints what a key came to.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use docklet::idmap::IdMap;
use docklet::lxc::{ConfigPath, ConfigText, ConfigValue, HookPoint, LxcConfig, LxcInterface, Seccomp};
use docklet::storage::remove_tree;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::sandbox::Sandbox;
use crate::scripted_root;

/// Containers that exist only as configurations, in a directory of the sandbox.
struct Liblxc {
    path: PathBuf,
}

impl Liblxc {
    fn new(sandbox: &Sandbox) -> Self {
        let path = sandbox.dir("configs");
        fs::create_dir_all(&path).expect("configs");
        Self { path }
    }

    /// Which of `texts` liblxc loads.
    fn accepts(&self, texts: &[Vec<u8>]) -> Vec<bool> {
        for (number, text) in texts.iter().enumerate() {
            let dir = self.path.join(format!("c{number}"));
            fs::create_dir_all(&dir).expect("container");
            fs::write(dir.join("config"), text).expect("config");
        }
        let output = self.run("lxc-ls", &["-1", "--defined"]);
        let loaded: BTreeSet<&str> = std::str::from_utf8(&output).expect("names").lines().collect();
        (0..texts.len()).map(|n| loaded.contains(&*format!("c{n}"))).collect()
    }

    /// The lines of what each of `keys` came to in the text `number` of the last call of `accepts`. `None` where liblxc has
    /// no answer.
    fn values(&self, number: usize, keys: &[Vec<u8>]) -> Vec<Option<Vec<Vec<u8>>>> {
        let mut command = self.command("lxc-info");
        command.arg("-n").arg(format!("c{number}"));
        for key in keys {
            command.arg("-c").arg(OsStr::from_bytes(key));
        }
        // A last key of its own, so that the answer to one is told from that to many, and has an end.
        command.args(["-c", "lxc.ephemeral"]);
        let output = command.output().expect("lxc-info").stdout;
        let mut rest: &[u8] = &output;
        let mut values = Vec::new();
        for key in keys {
            let head = [key.as_slice(), b" ="].concat();
            let Some(answer) = rest.strip_prefix(head.as_slice()) else {
                values.push(None);
                continue;
            };
            let ends = keys.iter().map(Vec::as_slice).chain([&b"lxc.ephemeral"[..]]);
            let ends: Vec<_> = ends.map(|key| [b"\n", key, b" ="].concat()).collect();
            let end = (0..answer.len()).find(|at| ends.iter().any(|end| answer[*at..].starts_with(end)));
            let end = end.unwrap_or(answer.len());
            let value = answer[..end].strip_prefix(b" ").unwrap_or(&answer[..end]);
            let mut lines: Vec<_> = value.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
            while lines.last().is_some_and(Vec::is_empty) {
                lines.pop();
            }
            // How it prints what there is none of, for some keys.
            if lines == [b"(null)"] {
                lines.clear();
            }
            values.push(Some(lines));
            rest = answer.get(end + 1..).unwrap_or_default();
        }
        values
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["60", program, "-P"]).arg(&self.path).env("DOCKLET_TEST", "set");
        command
    }

    fn run(&self, program: &str, args: &[&str]) -> Vec<u8> {
        let output = self.command(program).args(args).output().expect("program");
        assert!(output.status.success(), "{program}: {output:?}");
        output.stdout
    }
}

impl Drop for Liblxc {
    /// liblxc leaves its lock files behind.
    fn drop(&mut self) {
        let locks = self.path.strip_prefix("/").expect("absolute");
        let _ = remove_tree(Path::new("/run/lxc/lock"), locks);
    }
}

/// Gives `texts` to both, and says where they differ.
fn differences(liblxc: &Liblxc, texts: &[Vec<u8>], with_values: bool) -> Vec<String> {
    let mut differences = Vec::new();
    for texts in texts.chunks(1000) {
        let verdicts = liblxc.accepts(texts);
        for (number, (text, theirs)) in texts.iter().zip(verdicts).enumerate() {
            let shown = String::from_utf8_lossy(text);
            let ours = ConfigText::parse(text.clone()).and_then(|read| read.with_includes());
            match ours {
                Ok(read) if theirs => {
                    if with_values {
                        differences.extend(different_values(liblxc, number, &read));
                    }
                }
                Ok(_) => differences.push(format!("taken, but liblxc refuses {shown:?}")),
                Err(problems) if theirs => {
                    differences.push(format!("liblxc takes {shown:?}, but: {problems}"));
                }
                Err(_) => {}
            }
        }
    }
    differences
}

fn different_values(liblxc: &Liblxc, number: usize, read: &ConfigText) -> Vec<String> {
    let keys: BTreeSet<Vec<u8>> = read.entries().map(|entry| entry.key().to_vec()).collect();
    let keys: Vec<_> = keys.into_iter().filter(|key| is_told(key, read)).collect();
    let mut differences = Vec::new();
    for (key, theirs) in keys.iter().zip(liblxc.values(number, &keys)) {
        let ours = value(read, std::str::from_utf8(key).expect("a key that is told"));
        if theirs.as_ref() != Some(&ours) {
            let key = String::from_utf8_lossy(key);
            let text = String::from_utf8_lossy(read.render());
            differences.push(format!("{key}: {ours:?}, liblxc {theirs:?}, in {text:?}"));
        }
    }
    differences
}

/// Keys whose values liblxc prints as they are written, but for the form of numbers and paths.
fn is_told(key: &[u8], read: &ConfigText) -> bool {
    let Ok(name) = std::str::from_utf8(key) else { return false };
    // Printed as something else, or from somewhere else.
    const OWN_FORM: [&str; 24] = [
        "lxc.include",
        "lxc.arch",
        "lxc.log.level",
        "lxc.log.file",
        "lxc.mount.auto",
        "lxc.namespace.clone",
        "lxc.namespace.keep",
        "lxc.console.size",
        "lxc.console.buffer.size",
        "lxc.autodev.tmpfs.size",
        "lxc.hook",
        "lxc.net",
        "lxc.cgroup",
        "lxc.cgroup2",
        "lxc.prlimit",
        "lxc.sysctl",
        "lxc.proc",
        "lxc.init.groups",
        "lxc.seccomp.notify.proxy",
        "lxc.rootfs.path",
        "lxc.monitor.signal.pdeath",
        "lxc.time.offset.boot",
        "lxc.time.offset.monotonic",
        "lxc.hook.version",
    ];
    if OWN_FORM.contains(&name) {
        return false;
    }
    let is_signal = name.starts_with("lxc.signal.");
    let is_loose = ["lxc.init.uid", "lxc.seccomp.allow_nesting"].contains(&name);
    if is_signal || is_loose {
        return read.get(name).is_some_and(|value| number(value).is_some());
    }
    if let Some(rest) = name.strip_prefix("lxc.net.") {
        // liblxc has no list of a network that is gone, names `lo` itself, cuts names at 15 bytes, and makes up addresses.
        let Some((number, setting)) = rest.split_once('.') else { return false };
        let kind = read.get(&format!("lxc.net.{number}.type"));
        let value = read.get(name);
        return matches!(setting, "link" | "mtu" | "script.up" | "script.down")
            && kind.is_some_and(|kind| !matches!(kind, b"empty" | b"none" | b"phys"))
            && value.is_some_and(|value| value.len() <= 15);
    }
    // The last of several lists: liblxc prints the capabilities of either under both names.
    true
}

/// What liblxc prints for a key that is told.
fn value(read: &ConfigText, key: &str) -> Vec<Vec<u8>> {
    let all: Vec<&[u8]> = read.all(key).map(|entry| entry.value()).collect();
    let numbers = [
        "lxc.apparmor.allow_incomplete",
        "lxc.apparmor.allow_nesting",
        "lxc.autodev",
        "lxc.cgroup.relative",
        "lxc.console.rotate",
        "lxc.ephemeral",
        "lxc.keyring.session",
        "lxc.monitor.unshare",
        "lxc.no_new_privs",
        "lxc.pty.max",
        "lxc.sched.core",
        "lxc.seccomp.allow_nesting",
        "lxc.signal.halt",
        "lxc.signal.reboot",
        "lxc.signal.stop",
        "lxc.start.auto",
        "lxc.start.delay",
        "lxc.start.order",
        "lxc.tty.max",
    ];
    let paths = [
        "lxc.cgroup.dir",
        "lxc.cgroup.dir.container",
        "lxc.cgroup.dir.monitor",
        "lxc.cgroup.dir.monitor.pivot",
        "lxc.console.logfile",
        "lxc.console.path",
        "lxc.init.cwd",
        "lxc.mount.fstab",
        "lxc.rootfs.mount",
        "lxc.seccomp.profile",
    ];
    let decimal = |text: &[u8]| number(text).unwrap_or(0).to_string().into_bytes();
    match key {
        // It is on unless it is said not to be.
        "lxc.rootfs.managed" => vec![all.last().map_or(b"1".to_vec(), |value| decimal(value))],
        // Printed as if it had a sign.
        "lxc.init.uid" | "lxc.init.gid" => {
            let id = all.last().and_then(|value| number(value)).unwrap_or(0);
            let id = u32::try_from(id).map_or(id, |id| i128::from(id.cast_signed()));
            vec![id.to_string().into_bytes()]
        }
        key if numbers.contains(&key) => vec![decimal(all.last().copied().unwrap_or(b"0"))],
        key if paths.contains(&key) => all.last().map(|path| simple(path)).into_iter().collect(),
        "lxc.cap.drop" | "lxc.cap.keep" => {
            let both = read.in_force().filter(|entry| entry.key().starts_with(b"lxc.cap."));
            let words = both.flat_map(|entry| entry.value().split(|b| matches!(b, b' ' | b'\t')));
            let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
            let after_none = words.iter().rposition(|word| *word == b"none").map_or(0, |at| at + 1);
            words[after_none..].iter().map(|word| word.to_vec()).collect()
        }
        "lxc.group" => {
            let words = all.iter().flat_map(|value| value.split(|b| matches!(b, b' ' | b'\t')));
            words.filter(|word| !word.is_empty()).map(<[u8]>::to_vec).collect()
        }
        "lxc.environment" => {
            let whole = |value: &&[u8]| {
                let is_whole = value.contains(&b'=');
                if is_whole { value.to_vec() } else { [value, &b"=set"[..]].concat() }
            };
            all.iter().map(whole).collect()
        }
        "lxc.idmap" => {
            let parts = |value: &&[u8]| -> Vec<u8> {
                let words = value.split(|b| matches!(b, b' ' | b'\t' | b'\r'));
                let words = words.filter(|word| !word.is_empty());
                let shown =
                    words.map(|word| if number(word).is_some() { decimal(word) } else { word.to_vec() });
                shown.collect::<Vec<_>>().join(&b' ')
            };
            all.iter().map(parts).collect()
        }
        key if key.starts_with("lxc.prlimit.") => {
            all.last().map(|limit| printed_limit(limit)).into_iter().collect()
        }
        // Without anything between them.
        key if key.starts_with("lxc.proc.") => {
            vec![all.concat()].into_iter().filter(|all| !all.is_empty()).collect()
        }
        _ => all.into_iter().map(<[u8]>::to_vec).collect(),
    }
}

/// A number in C's notation.
fn number(text: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?.trim_start();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits = digits.to_ascii_lowercase();
    let magnitude = match digits.strip_prefix("0x") {
        Some(hex) => i128::from_str_radix(hex, 16),
        None if digits.starts_with('0') && digits.len() > 1 => i128::from_str_radix(&digits, 8),
        None if digits.starts_with(|c: char| c.is_ascii_digit()) => digits.parse(),
        None => return None,
    };
    Some(sign * magnitude.ok()?)
}

fn simple(path: &[u8]) -> Vec<u8> {
    let parts: Vec<_> = path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    let joined = parts.join(&b'/');
    match (path.starts_with(b"/"), joined.is_empty()) {
        (true, _) => [b"/", joined.as_slice()].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}

fn printed_limit(limit: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(limit);
    let (soft, hard) = text.split_once(':').unwrap_or((&text, ""));
    let one = |text: &str| match text.trim() {
        "" => "0".to_owned(),
        "-1" | "unlimited" | "18446744073709551615" => "unlimited".to_owned(),
        text => text.trim_start_matches('+').parse::<u64>().expect("a limit").to_string(),
    };
    let (soft, hard) = (one(soft), if hard.trim().is_empty() { one(soft) } else { one(hard) });
    if soft == hard { soft.into_bytes() } else { format!("{soft}:{hard}").into_bytes() }
}

fn assert_same(differences: &[String]) {
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

#[rustfmt::skip]
const KEYS: &[&str] = &[
    "lxc.apparmor.allow_nesting", "lxc.apparmor.profile", "lxc.apparmor.raw", "lxc.arch", "lxc.autodev",
    "lxc.autodev.tmpfs.size", "lxc.cap.drop", "lxc.cap.keep", "lxc.cgroup.dir",
    "lxc.cgroup.dir.container.inner", "lxc.cgroup.relative", "lxc.cgroup", "lxc.cgroup.",
    "lxc.cgroup.memory.limit_in_bytes", "lxc.cgroup.dirx", "lxc.cgroupx", "lxc.cgroup2", "lxc.cgroup2.",
    "lxc.cgroup2.memory.max", "lxc.cgroup2x", "lxc.console.path", "lxc.console.size", "lxc.environment",
    "lxc.group", "lxc.hook", "lxc.hook.", "lxc.hook.mount", "lxc.hook.version", "lxc.hook.x", "lxc.idmap",
    "lxc.init.cmd", "lxc.init.cwd", "lxc.init.groups", "lxc.init.uid", "lxc.keyring.session",
    "lxc.log.level", "lxc.log.syslog", "lxc.monitor.signal.pdeath", "lxc.monitor.unshare", "lxc.monitor",
    "lxc.mount.auto", "lxc.mount.entry", "lxc.mount.fstab", "lxc.mount", "lxc.namespace.clone",
    "lxc.namespace.keep", "lxc.namespace.share.", "lxc.namespace.share", "lxc.namespace.share.net",
    "lxc.namespace.share.x", "lxc.net", "lxc.net.", "lxc.net.0", "lxc.net.0x1", "lxc.net.1x", "lxc.net.0.",
    "lxc.net.x", "lxc.net.0.type", "lxc.net.0.link", "lxc.net.0.flags", "lxc.net.0.hwaddr",
    "lxc.net.0.ipv4.address", "lxc.net.0.ipv4.gateway", "lxc.net.0.ipv6.address", "lxc.net.0.ipv6.gateway",
    "lxc.net.0.l2proxy", "lxc.net.0.name", "lxc.net.0.veth.pair", "lxc.net.0.x", "lxc.net.2147483647.mtu",
    "lxc.net.2147483646.mtu", "lxc.prlimit", "lxc.prlimit.", "lxc.prlimit.nofile", "lxc.prlimitx",
    "lxc.proc", "lxc.proc.", "lxc.proc.oom_score_adj", "lxc.procx", "lxc.pty.max", "lxc.rootfs.managed",
    "lxc.rootfs.mount", "lxc.rootfs.options", "lxc.rootfs.path", "lxc.rootfs", "lxc.seccomp.allow_nesting",
    "lxc.seccomp.notify.cookie", "lxc.seccomp.notify.proxy", "lxc.seccomp.profile", "lxc.selinux.context",
    "lxc.signal.halt", "lxc.start.auto", "lxc.start.delay", "lxc.start.order", "lxc.start", "lxc.sysctl",
    "lxc.sysctl.", "lxc.sysctl.net.ipv4.ip_forward", "lxc.sysctlx", "lxc.time.offset.boot", "lxc.tty.dir",
    "lxc.uts.name", "lxc.", "lxc.x", "lxc.utsname", "lxc.network.type", "lxc.limit.nofile", "lxc.kmsg",
    "lxc.UTS.name", "LXC.uts.name",
];

#[rustfmt::skip]
const VALUES: &[&str] = &[
    "", "0", "1", "2", "-1", "-0", "+1", "010", "08", "0x10", "0x", "4294967295", "4294967296",
    "2147483648", "99999999999999999999", "-9223372036854775808", "1 ", " 1", "1 2", "abc", "\"\"", "''",
    "\"", "\"1\"", "'1'", "\"1'", "\" 1 \"", "\"\" 1", "\"\t\"", "/a//./b/", "a/..", "/", ".", "..",
    "dir:/a", ":", "unix:/a", "unix:@", "unix:", "none", "sys_admin", "SYS_ADMIN", "sys_admin none",
    "none chown 40", "41", "40 0x3", "chown,kill", "auto", "8KB", "8kb", "8K", "8KBB", "K", "1B", "KB",
    "8 KB", "9007199254740992GB", "8589934591GB", "veth", "macvlan", "empty", "phys", "ipvlan", "proc",
    "proc:mixed sys:ro cgroup", "proc:ro", "shmounts:", "shmounts:/a:/b", "net", "NET uts", "net,uts",
    "user\tpid", "10.0.0.1", "10.0.0.1/24", "10.0.0.1/33", "10.0.0.1/024 10.0.0.255", "010.0.0.1",
    "10.0.0.1/24  10.0.0.255", "10.0.0", "fd00::1", "fd00::1/129", "::ffff:1.2.3.4/64", "1:2:3:4:5:6:7::",
    "dev", "u 0 100000 65536", "g 0 100000 65536 ", "u 0 0x10 010", "u 0 100000", "u 0 1 2 3", "u0 1 2",
    "x 0 1 2", "b 0 1 2", "unlimited", "10:20", "10 : 20", "10:", ":10", "unlimited:5", "5:unlimitedx",
    "5x", "SIGPWR", "sigpwr", "PWR", "SIGRTMIN+3", "sigrtmax-30", "SIGRTMIN+31", "SIGRTMIN+", "SIGRTMIN3",
    "SIGIOT", "SIGUNUSED", "1h", "-1h", "-1s", "1 s", "1  s", "1ms", "9223372036854775807h", "1", "warn",
    "WARN", "9", "8", "daemon", "local7", "local8", "x86_64", "i686", "X86_64", "a=b", "a=b=c", "=b",
    "DOCKLET_TEST", "1,2,3", ",", ",1,,2", "1,x", "1;2", "ro,noatime", "create=dir", "xoptionaly", "bridge",
    "router", "up", "a # b", "a\\", "\u{fc}ber", "a\tb", "\x0b1", "1\x0c",
];

/// Each key with each value: what the kinds of keys take, whatever the value was written for.
#[test]
#[ignore = "needs root: liblxc's lock files"]
fn config_text_each_key_with_each_value() {
    let sandbox = Sandbox::new();
    let liblxc = Liblxc::new(&sandbox);
    let texts: Vec<Vec<u8>> = KEYS
        .iter()
        .flat_map(|key| VALUES.iter().map(move |value| (*key, *value)))
        // A variable without a value is the host's.
        .filter(|(key, value)| *key != "lxc.environment" || value.contains('=') || *value == "DOCKLET_TEST")
        .map(|(key, value)| format!("{key} = {value}\n").into_bytes())
        .collect();
    assert_same(&differences(&liblxc, &texts, false));
}

/// The same for values that reach the limits of a length.
#[test]
#[ignore = "needs root: liblxc's lock files"]
fn config_text_lengths() {
    let sandbox = Sandbox::new();
    let liblxc = Liblxc::new(&sandbox);
    let mut texts = Vec::new();
    for key in [
        "lxc.uts.name",
        "lxc.tty.dir",
        "lxc.console.path",
        "lxc.rootfs.path",
        "lxc.cgroup.dir",
        "lxc.seccomp.notify.proxy",
        "lxc.init.cmd",
        "lxc.mount.entry",
        "lxc.net.0.link",
        "lxc.net.0.name",
        "lxc.console.size",
        "lxc.group",
        "lxc.x",
    ] {
        for length in [64, 65, 101, 102, 103, 255, 256, 4094, 4095, 4096, 4097, 70_000] {
            texts.push(format!("{key} = {}\n", "x".repeat(length)).into_bytes());
            texts.push(format!("{key} = /{}\n", "a/".repeat(length / 2)).into_bytes());
            texts.push(format!("{key} = .//{}\n", "aa//".repeat(length / 3)).into_bytes());
            texts.push(format!("{key} = unix:/{}\n", "a".repeat(length)).into_bytes());
        }
        texts.push(format!("{key}.{} = 1\n", "x".repeat(5000)).into_bytes());
    }
    assert_same(&differences(&liblxc, &texts, false));
}

/// Texts that depend on what stands before, on how lines are cut, or on both. Values are compared, too.
#[rustfmt::skip]
const TEXTS: &[&str] = &[
    "", "\n", "\n\n\r\n", "lxc.tty.max", "lxc.tty.max\n= 1", "lxc.tty.max=1", "lxc.tty.max\t=\t1",
    "\t lxc.tty.max = 1 \t", "# lxc.x = 1", " # lxc.x = 1", "lxc.tty.max = 1 # one",
    "lxc.tty.max = 1\rlxc.pty.max = 2", "lxc.x = 1\rlxc.pty.max = 2",
    "lxc.tty.max = 1\r\nlxc.pty.max = 2\r\n", "lxc.uts.name = a\\\nlxc.tty.max = 1", "x\nlxc\nlxc_\n=\n",
    "\x0clxc.x = 1", "\x0b\nlxc.tty.max = 1", "\u{a0}lxc.x = 1", "lxc.uts.name = \u{a0}a\u{a0}",
    "\u{feff}lxc.x = 1", "lxc.tty.max = 1\0\nlxc.x = 1\n", "lxc.tty.max = 1\n\0\nlxc.x = 1\n",
    "\0lxc.x = 1", "lxc.tty.max\0 = 1", "lxc.uts.name = a = b", "lxc.uts.name == b",
    "lxc.uts.name = \"a\"b\"", "lxc.uts.name = 'a\"", "lxc.uts.name = \"\"a\"\"",
    "lxc.uts.name = \" a\"\nlxc.init.cmd = ' b '\n", "lxc.uts.name = a\nlxc.uts.name = \"\"\n",
    "\"lxc.uts.name\" = a", "lxc.uts.name = a\nlxc.uts.name = b\n", "lxc.uts.name = a\nlxc.uts.name =\n",
    "lxc.uts.name = a\nlxc.uts.name\n", "lxc.cap.drop = chown\nlxc.cap.keep = kill\n",
    "lxc.cap.keep = kill\nlxc.cap.drop = chown\n",
    "lxc.cap.drop = chown\nlxc.cap.drop =\nlxc.cap.keep = kill\n",
    "lxc.cap.drop = chown\nlxc.cap.keep =\nlxc.cap.keep = kill\n",
    "lxc.cap.keep = kill chown\nlxc.cap.keep = none\n",
    "lxc.cap.keep = kill\nlxc.cap.keep = chown none lease mknod\n",
    "lxc.cap.keep = none\nlxc.cap.drop = chown\n", "lxc.cap.drop = \" \"\nlxc.cap.keep = kill\n",
    "lxc.cap.keep = \" \"\nlxc.cap.drop = kill\n",
    "lxc.cap.drop = chown  kill\tlease\nlxc.cap.drop = mknod\n",
    "lxc.namespace.clone = net\nlxc.namespace.keep = uts\n",
    "lxc.namespace.keep = uts\nlxc.namespace.clone = net\n",
    "lxc.namespace.clone = net\nlxc.namespace.clone =\nlxc.namespace.keep = uts\n",
    "lxc.namespace.clone = \" \"\nlxc.namespace.keep = uts\n",
    "lxc.namespace.share.net = /a\nlxc.namespace.share.net = /b\n", "lxc.namespace.share.NET = /a\n",
    "lxc.net.0.mtu =", "lxc.net.0.mtu = 1500\nlxc.net.0.mtu =\n", "lxc.net.0 =", "lxc.net.0 = x",
    "lxc.net.7.link = br0", "lxc.net.0.type = veth\nlxc.net.0.link = br0\nlxc.net.0.mtu = 1400\n",
    "lxc.net.0.veth.pair = a\n", "lxc.net.0.link = br0\nlxc.net.0.type = veth\n",
    "lxc.net.0.type = veth\nlxc.net.0.link = br0\nlxc.net.0.type = veth\n",
    "lxc.net.0.veth.pair = a\nlxc.net.0.type = veth\n", "lxc.net.0.type = veth\nlxc.net.0.veth.pair = a\n",
    "lxc.net.0.type = veth\nlxc.net.0.type =\nlxc.net.0.veth.pair = a\n",
    "lxc.net.0.type = veth\nlxc.net.0.vlan.id = 1\n",
    "lxc.net.0.type = veth\nlxc.net.00.link = br1\nlxc.net.0.veth.mode = router\n",
    "lxc.net.0.type = vlan\nlxc.net.0.vlan.id = 65536\n",
    "lxc.net.0.type = veth\nlxc.net =\nlxc.net.0.veth.pair = a\n",
    "lxc.net.0.type = veth\nlxc.net.0 =\nlxc.net.0.veth.pair = a\n",
    "lxc.net.8.type = veth\nlxc.net.010 =\nlxc.net.8.veth.pair = a\n",
    "lxc.net.1.type = macvlan\nlxc.net.1.macvlan.mode = x\n",
    "lxc.net.0.type = veth\nlxc.net.0.veth.vlan.id = 4095\n",
    "lxc.net.0.type = veth\nlxc.net.0.veth.vlan.id = none\n",
    "lxc.net.0.type = veth\nlxc.net.0.veth.n_rxqueues = 0\n",
    "lxc.net.0.type = veth\nlxc.net.0.veth.ipv4.route = 10.0.0.0\n",
    "lxc.net.0.type = veth\nlxc.net.0.veth.ipv4.route = 10.0.0.0/8\nlxc.net.0.veth.ipv6.route = fd00::/129\n",
    "lxc.net.0.type = vlan\nlxc.net.0.vlan.id = -18446744073709551615\n",
    "lxc.net.0.type = vlan\nlxc.net.0.vlan.id = -1\n",
    "lxc.net.0.type = ipvlan\nlxc.net.0.ipvlan.mode = l2\nlxc.net.0.ipvlan.isolation = private\n",
    "lxc.cgroup.a = 1\nlxc.cgroup.b = 2\nlxc.cgroup.a = 3\n",
    "lxc.cgroup.a = 1\nlxc.cgroup.b = 2\nlxc.cgroup.a =\n",
    "lxc.cgroup.a = 1\nlxc.cgroup.dir = d\nlxc.cgroup =\n",
    "lxc.cgroup.a = 1\nlxc.cgroup2.a = 2\nlxc.cgroup =\n",
    "lxc.cgroup2.a = 1\nlxc.cgroup2 =\nlxc.cgroup2.a = 2\n", "lxc.cgroup2x =", "lxc.cgroup. =",
    "lxc.procx =", "lxc.sysctl. =", "lxc.prlimit.a = 1\nlxc.prlimit.a = 2:3\n",
    "lxc.prlimit.a = 1\nlxc.prlimit =\n", "lxc.prlimit.a = -1\n", "lxc.prlimit.a = :\n",
    "lxc.sysctl.a = 1\nlxc.sysctl.a = 2\nlxc.sysctl.b = 3\n", "lxc.proc.a = 1\nlxc.proc.a = 2\n",
    "lxc.sysctl.a = 1\nlxc.sysctl =\n",
    "lxc.hook.mount = /a\nlxc.hook.start = /b\nlxc.hook.version = 1\nlxc.hook =\n",
    "lxc.hook.mount = /a b\nlxc.hook.mount = /c\n",
    "lxc.hook.mount = /a\nlxc.hook.mount =\nlxc.hook.mount = /b\n",
    "lxc.environment = A=1\nlxc.environment = A=2\n",
    "lxc.environment = DOCKLET_TEST\nlxc.environment = \"B= x \"\n", "lxc.environment = A=\n",
    "lxc.group = a b\nlxc.group = c\n", "lxc.mount.entry = a b c d\nlxc.mount.entry = e\n",
    "lxc.mount.entry = a\nlxc.mount.entry =\n", "lxc.mount.fstab =\n",
    "lxc.idmap = u 0 100000 65536\nlxc.idmap = g\t0 \t100000 0x10000\n",
    "lxc.rootfs.path = dir:/a\nlxc.rootfs.path =\n", "lxc.rootfs.managed = 0\nlxc.rootfs.managed =\n",
    "lxc.autodev = 1\nlxc.autodev =\n", "lxc.include =\n", "lxc.utsname = a\n",
    "lxc.network.type = veth\nlxc.network.link = br0\n", "lxc.aa_profile = unconfined\n",
    "lxc.rootfs = /a\n", "lxc.include = /nonexistent/\n", "lxc.include = /nonexistent\n",
];

/// Files with all kinds of lines in them.
#[test]
#[ignore = "needs root: liblxc's lock files"]
fn config_text_hard_cases() {
    let sandbox = Sandbox::new();
    let liblxc = Liblxc::new(&sandbox);
    let mut texts: Vec<_> = TEXTS.iter().map(|text| text.as_bytes().to_vec()).collect();
    texts.push(b"lxc.uts.name = \xff\xfe\nlxc.cgroup2.\xfe = 1\nlxc.tty.max = 3\n".to_vec());
    texts.push(b"lxc.\xff = 1\n".to_vec());
    texts.push(b"\xef\xbb\xbflxc.tty.max = 3\nlxc.pty.max = 4\n".to_vec());
    texts.push([b"lxc.init.cmd = ".as_slice(), &[b'x'; 1 << 20], b"\n"].concat());
    texts.push([&[b'\n'; 100_000][..], b"lxc.tty.max = 3\n"].concat());
    let differences = differences(&liblxc, &texts, true);
    assert_same(&differences);
}

/// All that Debian's package installs, alone, and as templates include it.
#[test]
#[ignore = "needs root: liblxc's lock files"]
fn config_text_files_of_the_package() {
    let sandbox = Sandbox::new();
    let liblxc = Liblxc::new(&sandbox);
    let mut texts = Vec::new();
    let mut waiting: Vec<PathBuf> = ["/usr/share/lxc", "/etc/lxc"].map(PathBuf::from).into();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).expect("directory").map(|entry| entry.expect("entry").path()));
        } else if path.is_file() {
            texts.push(fs::read(&path).expect("file"));
            texts.push(format!("lxc.include = {}\n", path.display()).into_bytes());
        }
    }
    assert!(texts.len() >= 20, "the package lxc is not there");
    let common = "lxc.include = /usr/share/lxc/config/common.conf\n";
    texts.push(format!("{common}lxc.cap.keep = chown\n").into_bytes());
    texts.push(
        format!("{common}lxc.include = /usr/share/lxc/config/userns.conf\nlxc.cap.keep = chown\n")
            .into_bytes(),
    );
    texts.push(
        format!("lxc.uts.name = a\r{common}lxc.tty.max = 0x2\nlxc.include = /etc/lxc/default.conf\n")
            .into_bytes(),
    );
    texts.push(b"lxc.include = /usr/share/lxc/config\nlxc.tty.max =\n".to_vec());
    assert_same(&differences(&liblxc, &texts, true));
    for text in &texts {
        let read = ConfigText::parse(text.clone());
        let Ok(read) = read else { continue };
        assert_eq!(read.render(), text, "not the same bytes");
        assert_eq!(ConfigText::parse(read.render()).as_ref(), Ok(&read));
        let Ok(whole) = read.with_includes() else { continue };
        assert!(!whole.has_includes());
        let again = ConfigText::parse(whole.render()).expect("a text of its own");
        let values = |text: &ConfigText| -> Vec<(Vec<u8>, Vec<u8>)> {
            text.in_force().map(|entry| (entry.key().to_vec(), entry.value().to_vec())).collect()
        };
        assert_eq!(values(&again), values(&whole));
    }
}

/// Texts put together at random out of keys, values, and what is between them.
fn generated() -> impl Strategy<Value = Vec<u8>> {
    let key = prop_oneof![
        8 => prop::sample::select(KEYS).prop_map(|key| key.as_bytes().to_vec()),
        4 => (0..3_u32, prop::sample::select(&["type", "link", "mtu", "veth.pair", "flags", "vlan.id", "ipv4.address"][..]))
            .prop_map(|(number, setting)| format!("lxc.net.{number}.{setting}").into_bytes()),
        1 => "lxc\\.[a-z0-9.]{0,12}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..12),
    ];
    let value = prop_oneof![
        8 => prop::sample::select(VALUES).prop_map(|value| value.as_bytes().to_vec()),
        2 => prop::sample::select(&["veth", "macvlan", "vlan", "phys", "empty"][..]).prop_map(|value| value.as_bytes().to_vec()),
        1 => "[0-9a-zA-Z=:./ \"'-]{0,10}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ];
    let between = prop::sample::select(&["=", " = ", "\t= ", " =\t\t", "= \"", " ", "=="][..]);
    let after =
        prop::sample::select(&["\n", "\r", "\r\n", "\n\n", " \n", "\"\n", "'\n", "\n# \n", "\n\t"][..]);
    let line = (key, between, value, after).prop_map(|(key, between, value, after)| {
        [&key, between.as_bytes(), &value, after.as_bytes()].concat()
    });
    prop::collection::vec(line, 1..5).prop_map(|lines| lines.concat()).prop_filter("the host's", |text| {
        // What makes files, reads others, or takes values from the environment and the host's interfaces.
        let text = String::from_utf8_lossy(text);
        !["lxc.log.file", "lxc.include", "lxc.environment", "idmap=", "+"]
            .iter()
            .any(|host| text.contains(host))
    })
}

/// A few hundred generated texts.
#[test]
#[ignore = "needs root: liblxc's lock files"]
fn config_text_generated() {
    let sandbox = Sandbox::new();
    let liblxc = Liblxc::new(&sandbox);
    let mut runner = runner();
    let texts: Vec<_> =
        (0..600).map(|_| generated().new_tree(&mut runner).expect("a text").current()).collect();
    let taken = texts.iter().filter(|text| ConfigText::parse((*text).clone()).is_ok()).count();
    assert!((50..550).contains(&taken), "{taken} of 600 are taken: the generator says little");
    assert_same(&differences(&liblxc, &texts, true));
}

/// The configurations of the package with bytes changed, taken out and put in.
#[test]
#[ignore = "needs root: liblxc's lock files"]
fn config_text_changed_files() {
    let sandbox = Sandbox::new();
    let liblxc = Liblxc::new(&sandbox);
    let mut whole = fs::read("/usr/share/lxc/config/common.conf").expect("lxc");
    for more in
        ["/usr/share/lxc/config/nesting.conf", "/etc/lxc/default.conf", "/usr/share/lxc/config/userns.conf"]
    {
        whole.extend(fs::read(more).expect("lxc"));
    }
    // The included files are not the point, and a changed path may be any file.
    let lines = whole.split_inclusive(|b| *b == b'\n').filter(|line| !line.starts_with(b"lxc.include"));
    let lines: Vec<_> = lines.map(<[u8]>::to_vec).collect();
    let mut runner = runner();
    let change = (0..lines.len(), any::<prop::sample::Index>(), any::<Option<u8>>(), 0..3_usize);
    let changes = prop::collection::vec(change, 1..3);
    let mut texts = Vec::new();
    while texts.len() < 400 {
        let mut lines = lines.clone();
        for (line, at, byte, cut) in changes.new_tree(&mut runner).expect("changes").current() {
            let at = at.index(lines[line].len() + 1);
            let end = (at + cut).min(lines[line].len());
            lines[line].splice(at..end, byte);
        }
        texts.push(lines.concat());
    }
    assert_same(&differences(&liblxc, &texts, false));
}

/// What is rendered for this host is what liblxc reads.
#[test]
#[ignore = "needs root: liblxc's lock files"]
fn config_text_rendered() {
    let sandbox = Sandbox::new();
    let liblxc = Liblxc::new(&sandbox);
    let target = scripted_root::target();
    let mut texts = Vec::new();
    for odd in
        ["x", " x ", "\"x\"", "'", "\"", "a = b", "# x", "x\\", "\t", "lxc.uts.name = y", "\u{fc}\u{a0}"]
    {
        let mut config = scripted_root::config(&sandbox.dir("root"));
        config.environment("A", odd).expect("environment").environment("B", "").expect("environment");
        let value = ConfigValue::new(odd).expect("value");
        config.hooks.list.push((HookPoint::Stop, value.clone()));
        config.sysctls.insert("kernel.x".parse().expect("name"), value.clone());
        config.proc.insert("x".parse().expect("name"), value.clone());
        config.terminals.tty_directory = Some(value);
        let path = ConfigPath::new(format!("/a{odd}")).expect("path");
        config.process.directory = Some(path.clone());
        config.seccomp = Seccomp::Profile(path.clone());
        config.join_network(path.as_path()).expect("network");
        config.resource_limits.insert("nofile".parse().expect("name"), "5:unlimited".parse().expect("limit"));
        config.id_map = Some(IdMap::new([(0, 100_000, 65_536)]).expect("map"));
        config.autostart.group("g").expect("group");
        texts.push(config.render(&target).expect("text").into_bytes());
        let read = LxcConfig::try_from(ConfigText::parse(texts.last().expect("text").clone()).expect("text"));
        assert_eq!(read.expect("the same"), config);
    }
    let mut linked = scripted_root::config(&sandbox.dir("root"));
    let interface = LxcInterface {
        bridge: Some("br0".parse().expect("name")),
        mac: Some([0, 0x16, 0x3e, 1, 2, 3]),
        addresses: vec!["10.0.0.2/24".parse().expect("address"), "fd00::2/64".parse().expect("address")],
        gateways: vec!["10.0.0.1".parse().expect("address")],
        ..LxcInterface::default()
    };
    linked.interfaces(vec![interface, LxcInterface::default()]).expect("interfaces");
    texts.push(linked.render(&target).expect("text").into_bytes());
    for text in &texts {
        assert!(ConfigText::parse(text.clone()).is_ok());
    }
    assert_same(&differences(&liblxc, &texts, true));
}

/// Included files: where entries come from, and what is not followed.
#[test]
#[ignore = "needs root: a prefix of its own"]
fn config_text_includes() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("included");
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        fs::write(&path, text).expect("file");
        path
    };
    let include = |path: &Path| format!("lxc.include = {}\n", path.display());
    file("many/b.conf", "lxc.tty.max = 2");
    file("many/a.conf", "# first\nlxc.tty.max = 1\n lxc.cap.drop = chown\0lxc.x\n");
    file("many/c.txt", "lxc.x\n");
    file("many/.conf", "lxc.x\n");
    let top = file("top", &format!("lxc.uts.name = a\r{}lxc.pty.max = 3", include(&dir.join("many"))));
    let whole = ConfigText::read(&top).expect("text").with_includes().expect("includes");
    assert_eq!(
        String::from_utf8_lossy(whole.render()),
        "lxc.uts.name = a\r# first\nlxc.tty.max = 1\n lxc.cap.drop = chown\nlxc.tty.max = 2\nlxc.pty.max = 3\n"
    );
    let dropped = whole.all("lxc.cap.drop").next().expect("entry");
    assert_eq!(
        (dropped.file(), dropped.line(), dropped.key_column()),
        (Some(&*dir.join("many/a.conf")), 3, 2)
    );
    assert_eq!(whole.get("lxc.tty.max"), Some(&b"2"[..]));

    nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    let circle = file("circle", &include(&dir.join("circle")));
    let far = file("far", &include(&file("far2", &include(&dir.join("far")))));
    let huge = dir.join("huge");
    fs::File::create(&huge).and_then(|file| file.set_len(1 << 30)).expect("sparse");
    let bad = file("bad", "\n\nlxc.utsname = a\n");
    let mut deep = file("deep0", "");
    for level in 1..20 {
        deep = file(&format!("deep{level}"), &include(&deep));
    }
    for (path, expected) in [
        (dir.join("missing"), "does not exist"),
        (dir.join("fifo"), "is not a regular file"),
        (PathBuf::from("/dev/zero"), "is not a regular file"),
        (PathBuf::from("relative"), "must be an absolute path"),
        (circle, "includes itself"),
        (far, "includes itself"),
        (huge.clone(), "more than 4194304 bytes"),
        (deep, "more than 16 levels"),
        (bad, "bad, line 3, column 1: `lxc.utsname` = \"a\": is a key of liblxc before 3.0"),
    ] {
        let text = ConfigText::parse(include(&path)).expect("an include alone");
        let problems = text.with_includes().expect_err(expected).to_string();
        assert!(problems.contains(expected), "{problems}");
    }
    assert!(ConfigText::read(&huge).unwrap_err().to_string().contains("at most 4194304"));
    assert!(ConfigText::read(&dir.join("fifo")).unwrap_err().to_string().contains("must be a regular file"));
    let empty = ConfigText::parse(include(&dir.join("none/"))).expect("text").with_includes();
    assert_eq!(empty.expect("a directory that is not there").entries().len(), 0);
}

/// A runner whose seed is told: always the same one, so that a failure is the change's. `DOCKLET_TEST_SEED` is another one, or
/// `random` in search of new differences.
fn runner() -> TestRunner {
    let seed: u64 = match std::env::var("DOCKLET_TEST_SEED").as_deref() {
        Ok("random") => rand_seed(),
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => 5,
    };
    eprintln!("DOCKLET_TEST_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

fn rand_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    now.as_micros().try_into().expect("64 bits")
}
