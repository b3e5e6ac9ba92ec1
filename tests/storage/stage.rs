//! Where a test of the suite plays: a pool of a back end in a sandbox, and the kernel's word on what is in it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use docklet::Error;
use docklet::name::VolumeName;
use docklet::storage::{Filesystem, MountedVolume, VolumePool, VolumeSpec};
use rustix::thread::{CapabilitySet, capabilities};

use crate::back_end::BackEnd;
use crate::kernel;
use crate::sandbox::Sandbox;
pub(crate) use crate::volume::{MIB, message};

/// Taken down in the order of the fields.
pub(crate) struct Stage<B> {
    back_end: B,
    _disk: Option<SmallDisk>,
    filesystem: Filesystem,
    pub(crate) sandbox: Sandbox,
}

impl<B: BackEnd> Stage<B> {
    pub(crate) fn new(filesystem: Filesystem) -> Self {
        let sandbox = Sandbox::new();
        let back_end = B::on(&sandbox.dir("disk"));
        Self { back_end, _disk: None, filesystem, sandbox }
    }

    /// The pool's room is a file system of its own, of `bytes`.
    pub(crate) fn on_small_disk(filesystem: Filesystem, bytes: u64) -> Self {
        let sandbox = Sandbox::new();
        let disk = SmallDisk::mount(sandbox.dir("disk"), bytes);
        Self { back_end: B::on(&disk.0), _disk: Some(disk), filesystem, sandbox }
    }

    pub(crate) fn pool(&self) -> &VolumePool {
        self.back_end.pool()
    }

    /// A volume of the least size that its file system can have, rounded up.
    pub(crate) fn small(&self, name: &str) -> VolumeSpec {
        self.sized(name, small(self.filesystem))
    }

    pub(crate) fn sized(&self, name: &str, size_bytes: u64) -> VolumeSpec {
        VolumeSpec {
            name: VolumeName::new(name).expect("name"),
            size_bytes,
            filesystem: self.filesystem,
            allocation: B::ALLOCATION,
        }
    }

    /// Asserts that the kernel shows no volume in its place and no loop device of the pool.
    pub(crate) fn assert_at_rest(&self) {
        assert_eq!(self.in_use(), Vec::<String>::new());
    }

    pub(crate) fn is_at_rest(&self) -> bool {
        self.in_use().is_empty()
    }

    fn in_use(&self) -> Vec<String> {
        let pool = self.sandbox.paths.prefix().join("scratch/disk/pool");
        let mut users = kernel::mounts_beneath(&pool.join("mounts"));
        users.extend(kernel::loops_beneath(&pool));
        users
    }
}

/// The least size of a volume with this file system, rounded up.
pub(crate) fn small(filesystem: Filesystem) -> u64 {
    match filesystem {
        Filesystem::Ext4 => 32 * MIB,
        Filesystem::Xfs => 300 * MIB,
        Filesystem::Tmpfs | Filesystem::Directory => 32 * MIB,
        _ => 256 * MIB,
    }
}

/// A tmpfs in the place of a host's disk.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(disk: PathBuf, bytes: u64) -> Self {
        let size = format!("size={bytes}");
        kernel::run("mount", ["-t", "tmpfs", "-o", &size, "small", disk.to_str().expect("UTF-8")]);
        Self(disk)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            kernel::unmount(&self.0);
        }
    }
}

/// Writes until the file system refuses: how many bytes there are on the disk then, and the reason.
pub(crate) fn fill(path: &Path) -> (u64, io::Error) {
    let mut file = File::create(path).expect("create");
    let block = vec![0x5a; 1 << 20];
    let mut written = 0;
    loop {
        if let Err(error) = file.write_all(&block).and_then(|()| file.sync_data()) {
            return (written, error);
        }
        written += block.len() as u64;
    }
}

/// What `stat -f` says of the file system: its size and what is free in it.
pub(crate) fn space_of(space: &MountedVolume) -> (u64, u64, u64) {
    let text = kernel::run("stat", ["-f", "-c", "%b %f %a %S", space.path().to_str().expect("UTF-8")]);
    let figures: Vec<u64> = text.split_whitespace().map(|n| n.parse().expect("number")).collect();
    (figures[0] * figures[3], figures[1] * figures[3], figures[2] * figures[3])
}

/// The file system's own checker must find nothing wrong with what is on `device`, and changes nothing.
pub(crate) fn check_whole(filesystem: Filesystem, device: &Path) {
    match filesystem {
        Filesystem::Ext4 => kernel::run("e2fsck", ["-f", "-n", device.to_str().expect("UTF-8")]),
        Filesystem::Xfs => kernel::run("xfs_repair", ["-n", device.to_str().expect("UTF-8")]),
        Filesystem::Btrfs => kernel::run("btrfs", ["check", "--readonly", device.to_str().expect("UTF-8")]),
        other => panic!("no checker for {other}"),
    };
}

/// Whether it is on a device of its own, and can be checked.
pub(crate) fn is_on_device(filesystem: Filesystem) -> bool {
    !matches!(filesystem, Filesystem::Tmpfs | Filesystem::Directory)
}

/// Whether this process may grow the file system while it is mounted.
pub(crate) fn may_grow_mounted(filesystem: Filesystem) -> bool {
    filesystem != Filesystem::Ext4
        || capabilities(None).expect("capget").effective.contains(CapabilitySet::SYS_RESOURCE)
}

/// SHA-256 by the host's own program.
pub(crate) fn sha256(path: &Path) -> String {
    kernel::run("sha256sum", [path]).split(' ').next().expect("a sum").to_owned()
}

/// A program that goes on until it is killed, with its working directory in `path`.
pub(crate) fn sleeper(path: &Path) -> std::process::Child {
    Command::new("sleep").arg("60").current_dir(path).spawn().expect("sleep")
}

/// The names in a directory, sorted.
pub(crate) fn names_in(path: &Path) -> Vec<OsString> {
    let mut names: Vec<_> =
        fs::read_dir(path).expect("list").map(|entry| entry.expect("entry").file_name()).collect();
    names.sort();
    names
}

/// Runs `work` in `count` threads that start at the same moment.
pub(crate) fn together<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = std::sync::Barrier::new(count);
    let (barrier, work) = (&barrier, &work);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|index| {
                scope.spawn(move || {
                    barrier.wait();
                    work(index)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("thread")).collect()
    })
}

/// Two that clone each into the other's name, and remove what they cloned from: of two that meet, each is told why not, none waits
/// for ever, and what is there in the end is whole.
pub(crate) fn clones_into_each_other(pool: &VolumePool, wanted: &VolumeSpec, turns: usize) {
    let names = ["a", "b"].map(|name| name.parse::<docklet::name::VolumeName>().expect("name"));
    let volume = pool.ensure(wanted).expect("ensure");
    fs::write(volume.mount().expect("mount").path().join("file"), "kept").expect("write");
    volume.unmount().expect("unmount");
    let (names, start) = (&names, &std::sync::Barrier::new(2));
    let cloned: usize = std::thread::scope(|scope| {
        let threads = [(0, 1), (1, 0)].map(|(from, to)| {
            scope.spawn(move || {
                let mut cloned = 0;
                for _ in 0..turns {
                    start.wait();
                    match pool.clone_volume(&names[from], &names[to]) {
                        Ok(_) => {
                            cloned += 1;
                            pool.remove(&names[from]).expect("remove");
                        }
                        Err(Error::NotFound { .. } | Error::Differs { .. }) => {}
                        Err(error) => panic!("{}", docklet::error::Chain(&error)),
                    }
                }
                cloned
            })
        });
        threads.into_iter().map(|thread| thread.join().expect("thread")).sum()
    });
    assert!(cloned > 0);
    let left = pool.list().expect("list");
    assert_eq!(left.len(), 1, "{left:?}");
    let volume = pool.open(&left[0]).expect("open");
    assert_eq!(fs::read_to_string(volume.mount().expect("mount").path().join("file")).expect("read"), "kept");
    volume.unmount().expect("unmount");
    check_whole(wanted.filesystem, &volume.file());
    pool.remove(&left[0]).expect("remove");
    assert_eq!(pool.tidy().expect("tidy"), Vec::<String>::new());
}
