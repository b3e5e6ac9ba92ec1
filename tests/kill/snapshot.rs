//! What the host has of one prefix, by the kernel's word alone.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use docklet::paths::Paths;

use crate::process::Part;
use crate::{logical, process, quotas};

/// One line per object: "mount …", "loop …", "mapped …", "project …", "cgroup …", "link …", "nft …", "process …", "file …".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Everything of the prefix, and everything in the sandbox's network and process namespaces.
    pub(crate) fn take(paths: &Paths) -> Self {
        let mut lines = BTreeSet::new();
        let prefix = paths.prefix();
        mounts(prefix, &mut lines);
        loops(prefix, &mut lines);
        lines.extend(logical::mapped(paths).into_iter().map(|line| format!("mapped {line}")));
        lines.extend(quotas::projects(paths).into_iter().map(|line| format!("project {line}")));
        directories_named(Path::new("/sys/fs/cgroup"), &paths.tag(), &mut lines);
        links(&mut lines);
        nftables(&mut lines);
        for pid in process::others() {
            let Some(command) = process::command(pid) else { continue };
            match process::part(pid) {
                Part::Inner => {}
                // What it is called is its own affair: busybox makes "init" of "/sbin/init" when it gets to it.
                Part::First if !is_of_an_ending(&command) => {
                    lines.insert(format!("process {pid} of a container"));
                }
                Part::First | Part::Outside => {
                    lines.insert(format!("process {pid} {command}"));
                }
            }
        }
        files(prefix, &mut lines);
        files(&quotas::directory(paths), &mut lines);
        // liblxc keeps its locks outside.
        let locks = Path::new("/run/lxc/lock").join(prefix.strip_prefix("/").expect("absolute"));
        files(&locks, &mut lines);
        Self(lines)
    }

    /// Whether a process in it is at its end: it has no command line any more.
    pub(crate) fn has_ending_processes(&self) -> bool {
        self.0.iter().any(|line| line.starts_with("process ") && is_of_an_ending(line))
    }

    /// The lines that are new (`+`) or missing (`-`) in `later`.
    pub(crate) fn changes(&self, later: &Self) -> Vec<String> {
        let new = later.0.difference(&self.0).map(|line| format!("+ {line}"));
        let missing = self.0.difference(&later.0).map(|line| format!("- {line}"));
        new.chain(missing).collect()
    }
}

/// Whether a process that is shown so is at its end.
fn is_of_an_ending(shown: &str) -> bool {
    shown.ends_with(']')
}

fn mounts(prefix: &Path, lines: &mut BTreeSet<String>) {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    for line in text.lines() {
        let mut fields = line.split(' ').skip(4);
        if fields.next().is_some_and(|target| Path::new(target).starts_with(prefix)) {
            lines.insert(format!("mount {line}"));
        }
    }
}

fn loops(prefix: &Path, lines: &mut BTreeSet<String>) {
    for entry in fs::read_dir("/sys/block").expect("/sys/block") {
        let device = entry.expect("entry").path();
        // There is no such file for a free device.
        if let Ok(file) = fs::read_to_string(device.join("loop/backing_file"))
            && Path::new(&file).starts_with(prefix)
        {
            lines.insert(format!("loop {} {}", device.display(), file.trim_end()));
        }
    }
}

/// The control groups of the prefix: those at or beneath a directory called by its tag.
fn directories_named(directory: &Path, tag: &str, lines: &mut BTreeSet<String>) {
    // Another test's control group can go away meanwhile.
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir())) {
        if entry.path().components().any(|component| component.as_os_str() == tag) {
            lines.insert(format!("cgroup {}", entry.path().display()));
        }
        directories_named(&entry.path(), tag, lines);
    }
}

fn links(lines: &mut BTreeSet<String>) {
    let text = fs::read_to_string("/proc/thread-self/net/dev").expect("net/dev");
    // Two lines of headings.
    for name in text.lines().skip(2).filter_map(|line| line.split(':').next()) {
        lines.insert(format!("link {}", name.trim()));
    }
}

fn nftables(lines: &mut BTreeSet<String>) {
    let output = Command::new("nft").args(["list", "ruleset"]).output().expect("nft");
    assert!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    let mut table = String::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if line.starts_with("table ") {
            line.trim_end_matches(" {").clone_into(&mut table);
        }
        lines.insert(format!("nft {table}: {}", line.trim()));
    }
}

/// Every name beneath `directory` on the same file system, with the length of a file.
fn files(directory: &Path, lines: &mut BTreeSet<String>) {
    let Ok(device) = fs::symlink_metadata(directory).map(|data| data.dev()) else { return };
    let Ok(entries) = fs::read_dir(directory) else { return };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        let Ok(data) = fs::symlink_metadata(&path) else { continue };
        let log =
            path.extension().is_some_and(|e| e == "log") || path.file_name().is_some_and(|n| n == "log");
        lines.insert(if data.is_dir() {
            format!("file {}/", path.display())
        } else if log {
            // It may grow at any time.
            format!("file {}", path.display())
        } else {
            format!("file {} ({} bytes)", path.display(), data.len())
        });
        if data.is_dir() && data.dev() == device {
            files(&path, lines);
        }
    }
}
