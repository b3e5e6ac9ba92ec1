//! The report on a host, as people and programs get it: from outside, through the example.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::kernel;
use crate::sandbox::Sandbox;

/// All that is looked at on a host where LXC and control groups are.
const SUBJECTS: [&str; 37] = [
    "root",
    "kernel",
    "boot parameters",
    "prefix",
    "space",
    "control groups",
    "memory limit",
    "memory and swap limit",
    "cpu limit",
    "process limit",
    "cpu weight",
    "cpu burst",
    "processors",
    "memory high limit",
    "memory oom group",
    "io limit",
    "io weight",
    "huge page limit",
    "lxc",
    "lxc keys",
    "overlay",
    "user namespaces",
    "id ranges",
    "way to containers",
    "loop devices",
    "apparmor",
    "mkfs.ext4",
    "mkfs.xfs",
    "mkfs.btrfs",
    "lvm",
    "device mapper",
    "nftables",
    "forwarding",
    "bridge",
    "subnets",
    "vxlan",
    "gre",
];

/// The example, of the sources that these tests are of: beside their own directory, and made first where there is a cargo.
fn doctor() -> PathBuf {
    if let Some(cargo) = std::env::var_os("CARGO") {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--example", "doctor", "--manifest-path", manifest])
            .status()
            .expect("cargo");
        assert!(built.success());
    }
    let own = std::env::current_exe().expect("own path");
    let beside = own.ancestors().skip(1).map(|directory| directory.join("examples/doctor"));
    beside.into_iter().find(|path| path.is_file()).expect("the example `doctor`")
}

/// Runs it after `preparation`, lines of a shell in a mount namespace of their own.
fn run(sandbox: &Sandbox, preparation: &str, arguments: &[&str]) -> Output {
    let script = format!("set -e\n{preparation}\nexec \"$0\" \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).arg(doctor()).args(arguments);
    command.env("FS_PREFIX", sandbox.paths.prefix()).output().expect("unshare")
}

fn parse(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Each check by its subject: finding, detail, remedy.
fn checks(report: &Value) -> BTreeMap<String, (String, String, Option<String>)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let checks = report["checks"].as_array().expect("checks").iter();
    checks
        .map(|check| {
            let remedy = check["remedy"].as_str().map(str::to_owned);
            (text(&check["subject"]), (text(&check["finding"]), text(&check["detail"]), remedy))
        })
        .collect()
}

/// A host that can run containers: exit status 0, every check by its name, and a remedy wherever something is missing.
#[test]
#[ignore = "needs root: namespaces, LXC"]
fn everything_is_looked_at() {
    let sandbox = Sandbox::new();
    let output = run(&sandbox, "", &["--json"]);
    let report = parse(&output);
    assert!(output.status.success() && report["healthy"] == true, "{report:#}");
    let checks = checks(&report);
    let names: Vec<&str> = checks.keys().map(String::as_str).collect();
    for subject in SUBJECTS {
        assert!(names.contains(&subject), "{subject}: {names:?}");
    }
    assert_eq!(names.len(), SUBJECTS.len(), "{names:?}");
    for (subject, (finding, detail, remedy)) in &checks {
        match finding.as_str() {
            "good" => assert_eq!(*remedy, None, "{subject}"),
            "limited" => assert!(detail.contains(remedy.as_deref().expect(subject)), "{subject}: {detail}"),
            other => panic!("{subject} is {other}: {detail}"),
        }
    }
    let is_good = |subject: &str| checks[subject].0 == "good";
    let devices = fs::read_to_string("/proc/misc").unwrap();
    assert_eq!(is_good("device mapper"), devices.contains("device-mapper"), "{devices}");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(checks["kernel"].1.ends_with(release.trim()), "{:?}", checks["kernel"]);
    let version = kernel::run("lxc-start", ["--version"]);
    assert_eq!(checks["lxc"].1, format!("liblxc {}", version.trim()));
    // The same for people.
    let output = run(&sandbox, "", &[]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), checks.len());
    for (subject, (_, detail, _)) in &checks {
        // What is free changes meanwhile.
        let line = text.lines().find(|line| line[9..].starts_with(subject)).expect(subject);
        assert!(subject == "space" || line.ends_with(detail), "{line}");
    }
    let locks = fs::read_dir(sandbox.paths.locks()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(locks.filter(|name| name.to_string_lossy().contains("probe")).count(), 0);
}

/// What is missing fails the run, or restricts it, and stands there with what mends it.
#[test]
#[ignore = "needs root: namespaces, LXC"]
fn gaps_are_told_with_their_remedies() {
    let sandbox = Sandbox::new();
    let grub = "printf 'GRUB_CMDLINE_LINUX=\"quiet\"\\nGRUB_CMDLINE_LINUX=\"cgroup_enable=memory swapaccount=1\"\\n'";
    for (case, subject, finding, remedy) in [
        ("umount -R -l /sys/fs/cgroup", "control groups", "missing", "mount -t cgroup2"),
        ("mount -t tmpfs none /dev", "loop devices", "missing", "modprobe loop"),
        (
            &format!("mkdir -p /etc/default; mount -t tmpfs none /etc/default; {grub} > /etc/default/grub"),
            "boot parameters",
            "limited",
            "run update-grub, reboot",
        ),
        (
            "echo root:1:2147483647 > \"$FS_PREFIX/subuid\"; touch /etc/subuid; mount --bind \"$FS_PREFIX/subuid\" /etc/subuid",
            "id ranges",
            "missing",
            "/etc/subuid",
        ),
        (
            "mount -t tmpfs none /sys/module; [ ! -d /lib/modules ] || mount -t tmpfs none /lib/modules",
            "gre",
            "limited",
            "CONFIG_NET_IPGRE",
        ),
    ] {
        let output = run(&sandbox, case, &["--json"]);
        let report = parse(&output);
        let checks = checks(&report);
        let (found, detail, told) = &checks[subject];
        assert_eq!(found, finding, "{case}: {detail}");
        let told = told.as_deref().unwrap_or_else(|| panic!("{case}: no remedy in {detail}"));
        assert!(told.contains(remedy) && detail.contains(told), "{case}: {told}");
        let is_missing = finding == "missing";
        assert_eq!(output.status.code(), Some(i32::from(is_missing)), "{case}: {report:#}");
        assert_eq!(report["healthy"], !is_missing, "{case}");
    }
}

/// A limit whose controller is off: the very line of the boot loader's configuration, and the mount that does without a reboot.
#[test]
#[ignore = "needs root: namespaces, LXC"]
fn a_controller_that_is_not_mounted_is_named() {
    let sandbox = Sandbox::new();
    let without = "for d in /sys/fs/cgroup/*; do case $d in */memory|*/pids) umount -l $d;; esac; done";
    let output = run(&sandbox, without, &["--json"]);
    let checks = checks(&parse(&output));
    let has_v1 = PathBuf::from("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists();
    for subject in ["memory limit", "process limit"] {
        let (finding, detail, remedy) = &checks[subject];
        if has_v1 {
            let remedy = remedy.as_deref().expect(subject);
            assert!(finding == "missing" && remedy.contains("mount -t cgroup -o"), "{detail}");
        } else {
            assert_eq!(finding, "good", "{detail}");
        }
    }
    assert_eq!(output.status.code(), Some(i32::from(has_v1)));
}

#[test]
#[ignore = "needs root: namespaces"]
fn what_cannot_be_examined_is_an_error() {
    let sandbox = Sandbox::new();
    let output = run(&sandbox, "", &["--yaml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    let output = run(&sandbox, "export FS_PREFIX=relative", &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(parse(&output)["error"].as_str().unwrap().contains("relative"));
}

/// As with `| head -1`: who does not read on is no reason to complain.
#[test]
#[ignore = "needs root: namespaces, LXC"]
fn a_reader_that_leaves_is_no_failure() {
    let sandbox = Sandbox::new();
    let mut command = Command::new(doctor());
    command
        .arg("--json")
        .env("FS_PREFIX", sandbox.paths.prefix())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running = command.spawn().unwrap();
    drop(running.stdout.take());
    let output = running.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
