//! Programs that run in a user namespace, as a container's do.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

/// The map that the tests use, as `man 1 newuidmap` takes it.
pub(crate) const OUTSIDE: u32 = 100_000;
pub(crate) const LENGTH: u32 = 65_536;

/// A process in a user and a mount namespace of its own, that waits.
pub(crate) struct Inside {
    child: std::process::Child,
}

impl Inside {
    /// Its ids are mapped from [`OUTSIDE`] on.
    pub(crate) fn new() -> Self {
        let mut child = Command::new("unshare")
            .args(["--user", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 600"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        // It is in its namespaces once it says something.
        let mut said = [0];
        child.stdout.take().expect("stdout").read_exact(&mut said).expect("unshare says a line");
        for map in ["uid_map", "gid_map"] {
            let path = format!("/proc/{}/{map}", child.id());
            std::fs::write(path, format!("0 {OUTSIDE} {LENGTH}\n")).expect("map");
        }
        Self { child }
    }

    /// Runs a shell line there, as the namespace's root, in the directory `root`. Returns what it printed.
    pub(crate) fn sh(&self, root: &Path, script: &str) -> String {
        let (status, text) = self.attempt(root, script);
        assert!(status, "{script}: {text}");
        text
    }

    /// As [`Inside::sh`], for what must fail. Returns what it said.
    pub(crate) fn sh_fails(&self, root: &Path, script: &str) -> String {
        let (status, text) = self.attempt(root, script);
        assert!(!status, "{script} succeeded: {text}");
        text
    }

    fn attempt(&self, root: &Path, script: &str) -> (bool, String) {
        let target = self.child.id().to_string();
        let output = Command::new("nsenter")
            .args(["--user", "--mount", "--setuid", "0", "--setgid", "0", "--target", &target])
            .args(["sh", "-c", "cd \"$1\" && exec 2>&1 && eval \"$2\"", "sh"].map(OsStr::new))
            .args([root.as_os_str(), script.as_ref()])
            .env("LC_ALL", "C")
            .output()
            .expect("nsenter");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}
