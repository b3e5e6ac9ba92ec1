//! Removes what a test that was interrupted left, by force and without the library's word for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use docklet::paths::Paths;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{logical, process};

/// Where tests and benchmarks have their prefixes, and how the names begin that go on with a process id, and perhaps a number.
const DIRECTORY: &str = "/var/tmp";
const NAMES: [&str; 3] = ["docklet-test-", "docklet-kill-", "docklet-bench-"];

/// What nobody changed for that long is no operation in progress.
const OLD: Duration = Duration::from_secs(3600);

/// Removes everything of prefixes whose test no longer runs, and control groups that nothing is in, and says which.
pub(crate) fn clean() {
    let entries = fs::read_dir(DIRECTORY).expect(DIRECTORY).filter_map(Result::ok);
    for path in entries.map(|entry| entry.path()).filter(|path| path.is_dir()) {
        let name = path.file_name().expect("name").to_string_lossy();
        let Some(rest) = NAMES.iter().find_map(|start| name.strip_prefix(start)) else { continue };
        let Some(owner) = rest.split('-').next().and_then(|pid| pid.parse().ok()) else { continue };
        // A process with that id which is no test is another one.
        if process::command(owner).is_some_and(|command| command.contains("/deps/")) {
            println!("{}: in use", path.display());
            continue;
        }
        let paths = Paths::new(&path).expect("prefix");
        kill_processes(&paths);
        remove(&paths);
        println!("{}: removed", path.display());
    }
    remove_abandoned(Path::new("/sys/fs/cgroup"), &|path| {
        let is_ours = path.parent().and_then(Path::file_name).is_some_and(|name| name == "docklet");
        // The launch benchmark's plain containers leave these.
        is_ours || path.file_name().is_some_and(|name| name == "lxc.pivot")
    });
}

/// Removes the control groups in which no process is, and was put for a while, with those beneath them.
fn remove_abandoned(directory: &Path, is_meant: &dyn Fn(&Path) -> bool) {
    for path in directories(directory) {
        if !is_meant(&path) {
            remove_abandoned(&path, is_meant);
        } else if is_abandoned(&path) && remove_groups(&path) {
            println!("{}: removed", path.display());
        }
    }
}

fn is_abandoned(group: &Path) -> bool {
    let is_old = fs::metadata(group)
        .and_then(|data| data.modified())
        .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > OLD));
    let is_empty = fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|text| text.is_empty());
    is_old && is_empty && directories(group).iter().all(|below| is_abandoned(below))
}

/// The kernel removes none that something is in.
fn remove_groups(group: &Path) -> bool {
    directories(group).iter().all(|below| remove_groups(below)) && fs::remove_dir(group).is_ok()
}

fn directories(directory: &Path) -> Vec<PathBuf> {
    // One can go away meanwhile.
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let entries = entries.filter_map(Result::ok);
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Kills what runs in control groups of the prefix, and what has the prefix in its command line.
fn kill_processes(paths: &Paths) {
    let group = format!("/docklet/{}", paths.tag());
    let prefix = format!("{}/", paths.prefix().display());
    let belongs = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(&group))
            || process::command(*pid).is_some_and(|command| command.contains(&prefix))
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let pids: Vec<i32> = process::others().into_iter().filter(belongs).collect();
        if pids.is_empty() || Instant::now() > deadline {
            return;
        }
        for pid in pids {
            // It may be gone by now.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Removes the prefix, its control groups, the mounts on it that this process sees, and liblxc's locks. Loop devices
/// and network namespaces end with the mounts.
pub(crate) fn remove(paths: &Paths) {
    let prefix = paths.prefix();
    remove_cgroups(Path::new("/sys/fs/cgroup"), &paths.tag());
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    for target in mounts.lines().rev().filter_map(|line| line.split(' ').nth(4)) {
        if Path::new(target).starts_with(prefix) {
            let _ = rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH);
        }
    }
    logical::destroy(paths);
    let locks = Path::new("/run/lxc/lock").join(prefix.strip_prefix("/").expect("absolute"));
    for tree in [prefix, &locks] {
        let base = tree.parent().expect("parent");
        if base.is_dir()
            && let Err(error) =
                docklet::storage::remove_tree(base, Path::new(tree.file_name().expect("name")))
        {
            println!("{}: {}", tree.display(), docklet::error::Chain(&error));
        }
    }
    // There is one if programs were traced here.
    let _ = fs::remove_file(prefix.with_extension("log"));
}

/// Removes the control groups at and beneath directories called `tag`.
fn remove_cgroups(directory: &Path, tag: &str) {
    for path in directories(directory) {
        remove_cgroups(&path, tag);
        if path.components().any(|component| component.as_os_str() == tag) {
            let _ = fs::remove_dir(&path);
        }
    }
}
