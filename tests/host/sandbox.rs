//! A scratch host: namespaces and a prefix of a test's own, and the proof that nothing is left of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use docklet::paths::Paths;
use nix::sched::{CloneFlags, unshare};

use crate::kernel;

/// Moves the calling thread into mount and network namespaces of its own, and gives it a prefix. Threads it
/// starts later are in them too, so make one first thing in a test, and use a `current_thread` runtime.
///
/// When it is dropped it asserts with the kernel's own tools that nothing of the prefix is left on the host.
pub(crate) struct Sandbox {
    pub(crate) paths: Paths,
    links_before: Vec<String>,
    _not_send: std::marker::PhantomData<*const ()>,
}

impl Sandbox {
    /// # Panics
    /// Without root: these tests have no meaning then.
    pub(crate) fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root: run `make test` as root");
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("unshare");
        kernel::run("mount", ["--make-rprivate", "/"]);
        kernel::run("ip", ["link", "set", "lo", "up"]);
        Self::beside()
    }

    /// A second prefix in the namespaces that this thread is in already.
    pub(crate) fn beside() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // A process id comes again: what an interrupted run left under one is not taken for a fresh prefix.
        let prefix = loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let prefix = PathBuf::from(format!("/var/tmp/docklet-test-{}-{number}", std::process::id()));
            match fs::create_dir(&prefix) {
                Ok(()) => break prefix,
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{}: {error}", prefix.display()),
            }
        };
        Self {
            paths: Paths::new(prefix).expect("prefix"),
            links_before: kernel::links(),
            _not_send: std::marker::PhantomData,
        }
    }

    /// A new directory for the test's own files, beneath the prefix.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let dir = self.paths.prefix().join("scratch").join(name);
        fs::create_dir_all(&dir).expect("scratch directory");
        dir
    }

    /// What the host still has of this prefix: mounts, loop devices, cgroups, interfaces, nftables tables.
    pub(crate) fn remains(&self) -> Vec<String> {
        let prefix = self.paths.prefix();
        let tag = self.paths.tag();
        let mut remains = kernel::mounts_beneath(prefix);
        remains.extend(kernel::loops_beneath(prefix));
        remains.extend(kernel::cgroups_named(&tag));
        remains.extend(kernel::links().into_iter().filter(|link| !self.links_before.contains(link)));
        remains.extend(kernel::nft_tables().into_iter().filter(|table| table.contains(&tag)));
        remains.extend(kernel::processes_naming(prefix));
        remains
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("left for a look: {} {:?}", self.paths.prefix().display(), self.remains());
            return;
        }
        assert_eq!(self.remains(), Vec::<String>::new(), "the test left something behind");
        let prefix = self.paths.prefix();
        let name = Path::new(prefix.file_name().expect("name"));
        docklet::storage::remove_tree(prefix.parent().expect("parent"), name).expect("remove the prefix");
    }
}

/// Runs a test in a process of its own, where nobody else opens files. True in that process; the caller in this one is
/// done when it is false.
pub(crate) fn alone(test: &str) -> bool {
    const MARK: &str = "DOCKLET_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let status = std::process::Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", test, "--include-ignored", "--test-threads=1", "--quiet"])
        .env(MARK, "1")
        .status()
        .expect("the same program");
    assert!(status.success(), "{test} failed in a process of its own");
    false
}

/// How many descriptors this process has open.
pub(crate) fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("descriptors").count()
}

#[test]
#[ignore = "needs root: namespaces"]
fn a_sandbox_starts_and_ends_empty() {
    let sandbox = Sandbox::new();
    assert!(sandbox.dir("x").is_dir());
    assert_eq!(sandbox.remains(), Vec::<String>::new());
}
