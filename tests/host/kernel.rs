//! The kernel's word, through its own tools and files: never through the library that is being tested.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// How long to wait for what will happen: long, for the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a program and returns what it printed.
///
/// # Panics
/// If it fails.
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(
        output.status.success(),
        "{program}: {} {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    // What another test calls its files may be no text.
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Unmounts `target`. A program that another test is starting may have its files for a moment more.
///
/// # Panics
/// If it is in use for longer than that, or cannot be unmounted.
pub(crate) fn unmount(target: impl AsRef<Path>) {
    let target = target.as_ref();
    let begun = Instant::now();
    loop {
        let output = Command::new("umount").arg(target).output().expect("umount");
        let words = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return;
        }
        assert!(words.contains("busy") && begun.elapsed() < PATIENCE, "umount: {} {words}", output.status);
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until `done`.
///
/// # Panics
/// If that does not happen.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not happen");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until nobody in this thread's network namespace listens at `port`: a program that another test is starting may have
/// the socket for a moment more.
pub(crate) fn wait_closed(port: u16) {
    let local = format!(":{port:04X} ");
    let open = |list: &str| {
        let list = fs::read_to_string(format!("/proc/thread-self/net/{list}")).expect("sockets");
        // TCP_LISTEN, and TCP_CLOSE, which is UDP's only state.
        list.lines().any(|line| line.contains(&local) && [" 0A ", " 07 "].iter().any(|s| line.contains(s)))
    };
    wait_until("closing the port", || !["tcp", "udp"].into_iter().any(open));
}

/// As [`run`], parsed as JSON; nothing printed is `null`.
pub(crate) fn json<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> serde_json::Value {
    let text = run(program, args);
    if text.trim().is_empty() { serde_json::Value::Null } else { serde_json::from_str(&text).expect("JSON") }
}

/// Whether this kernel is of that version or newer.
pub(crate) fn is_at_least(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("osrelease");
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().expect("number"));
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

/// The lines of this thread's mountinfo whose target is `prefix` or beneath it.
pub(crate) fn mounts_beneath(prefix: &Path) -> Vec<String> {
    let needle = prefix.to_str().expect("UTF-8");
    fs::read_to_string("/proc/thread-self/mountinfo")
        .expect("mountinfo")
        .lines()
        .filter(|line| line.split(' ').nth(4).is_some_and(|target| Path::new(target).starts_with(needle)))
        .map(str::to_owned)
        .collect()
}

/// `losetup`'s devices with a backing file beneath `prefix`: "/dev/loop0 /path".
pub(crate) fn loops_beneath(prefix: &Path) -> Vec<String> {
    let list = json("losetup", ["--json", "--list", "--output", "NAME,BACK-FILE"]);
    list["loopdevices"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
        .filter(|device| device["back-file"].as_str().is_some_and(|file| Path::new(file).starts_with(prefix)))
        .map(|device| format!("{} {}", device["name"], device["back-file"]))
        .collect()
}

/// The root of the unified hierarchy, on any layout that has one.
pub(crate) fn unified() -> Option<PathBuf> {
    let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
    roots.into_iter().find(|root| root.join("cgroup.procs").exists())
}

/// Control groups that are called `name`, in every hierarchy. (Not by `find`: it fails when another test's groups
/// vanish while it looks.)
pub(crate) fn cgroups_named(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![Path::new("/sys/fs/cgroup").to_owned()];
    while let Some(dir) = dirs.pop() {
        if dir.file_name().is_some_and(|last| last == name) {
            found.push(dir.to_str().expect("UTF-8").to_owned());
        }
        let entries = fs::read_dir(&dir).into_iter().flatten().filter_map(Result::ok);
        dirs.extend(entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    found
}

/// The interfaces of this thread's network namespace.
pub(crate) fn links() -> Vec<String> {
    let list = json("ip", ["-j", "link", "show"]);
    list.as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
        .map(|link| link["ifname"].as_str().expect("ifname").to_owned())
        .collect()
}

/// The nftables tables of this thread's network namespace: "inet name".
pub(crate) fn nft_tables() -> Vec<String> {
    let text = run("nft", ["list", "tables"]);
    text.lines().map(|line| line.trim_start_matches("table ").to_owned()).collect()
}

/// Processes with `path` in their command line.
pub(crate) fn processes_naming(path: &Path) -> Vec<String> {
    let needle = path.to_str().expect("UTF-8");
    fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
        .filter(|line| line.contains(needle))
        .collect()
}
