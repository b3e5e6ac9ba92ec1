//! What mounting an overlay costs, plain and with mapped layers, against the same mounts by system calls alone, in turns
//! in one run. Run it as root: `cargo bench --bench overlay [ROUNDS]`.
//!
//! Not criterion's loop: the two sides must meet the same kernel at the same time, so they alternate. The bare side checks
//! nothing, locks nothing, and has its user namespace and its `upper` already.

#![allow(clippy::print_stdout, reason = "a benchmark prints its results")]
#![allow(unsafe_code)]

use std::error::Error;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use docklet::idmap::IdMap;
use docklet::name::VolumeName;
use docklet::storage::{
    Allocation, Filesystem, OverlayPlan, OverlayRoot, VolumePool, VolumeSpec, remove_tree,
};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_string, fsmount, fsopen, mount_change,
    move_mount, open_tree, unmount,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const OUTSIDE: u32 = 100_000;

fn main() -> Outcome {
    let rounds = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(101);
    // Its own mounts, so that no other program's copy of them keeps the volume.
    // SAFETY: only FILES and memory are dangerous to unshare, and there is one thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let name = format!("docklet-bench-overlay-{}", std::process::id());
    let home = PathBuf::from("/var/tmp").join(&name);
    let pool = VolumePool::loop_files(&home)?;
    println!("{rounds} rounds, the two sides in turns, on {}", home.display());
    println!("{:<28} {:>10} {:>10} {:>10} {:>7}", "mounting", "docklet", "bare", "more", "ratio");
    let result = [1, 10, 500].into_iter().try_for_each(|count| {
        [None, Some(namespace()?)]
            .iter()
            .try_for_each(|map| measure(&pool, &home, count, map.as_ref(), rounds))
    });
    result?;
    remove_tree("/var/tmp".as_ref(), name.as_ref())?;
    Ok(())
}

fn measure(
    pool: &VolumePool,
    home: &Path,
    count: usize,
    namespace: Option<&OwnedFd>,
    rounds: usize,
) -> Outcome {
    let layers: Vec<PathBuf> = (0..count).map(|number| home.join(format!("layers/{number}"))).collect();
    layers.iter().try_for_each(fs::create_dir_all)?;
    let name = VolumeName::new("bench")?;
    let volume = pool.ensure(&VolumeSpec {
        name: name.clone(),
        size_bytes: 64 << 20,
        filesystem: Filesystem::Ext4,
        allocation: Allocation::Sparse,
    })?;
    let space = volume.mount()?;
    let map = IdMap::new([(0, OUTSIDE, 65_536)])?;
    let plan = || -> OverlayPlan {
        let plan = OverlayRoot::over(&layers).on(&space);
        if namespace.is_some() { plan.id_map(&map) } else { plan }
    };
    let target = home.join("root");
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let started = Instant::now();
        plan().mount(&target)?;
        ours.push(started.elapsed());
        OverlayRoot::unmount(&target)?;
        let started = Instant::now();
        by_hand(&layers, space.path(), namespace, &target)?;
        bare.push(started.elapsed());
        unmount(&target, UnmountFlags::empty())?;
    }
    volume.unmount()?;
    pool.remove(&name)?;
    let (ours, bare) = (median(&mut ours), median(&mut bare));
    println!(
        "{:<28} {:>10.1?} {:>10.1?} {:>10.1?} {:>7.2}",
        format!("{count} layers{}", if namespace.is_some() { ", mapped" } else { "" }),
        ours,
        bare,
        ours.saturating_sub(bare),
        ours.as_secs_f64() / bare.as_secs_f64()
    );
    Ok(())
}

fn by_hand(layers: &[PathBuf], space: &Path, namespace: Option<&OwnedFd>, target: &Path) -> Outcome {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // A detached mount ends with its descriptor.
    let mut held = Vec::new();
    for layer in layers {
        let opened = match namespace {
            None => open(layer)?,
            Some(namespace) => mapped(layer, namespace)?,
        };
        fsconfig_set_fd(&context, "lowerdir+", &opened)?;
        held.extend(namespace.is_some().then_some(opened));
    }
    fsconfig_set_fd(&context, "upperdir", open(&space.join("upper"))?)?;
    fsconfig_set_fd(&context, "workdir", open(&space.join("work"))?)?;
    for (key, value) in [("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off")] {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_create(&context)?;
    let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    move_mount(mounted, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(())
}

fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn mapped(layer: &Path, namespace: &OwnedFd) -> Outcome<OwnedFd> {
    let clone = open_tree(CWD, layer, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::from(namespace.as_raw_fd().unsigned_abs()),
    };
    // SAFETY: the kernel reads one `mount_attr` of this size and an empty string; both descriptors are open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            clone.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(clone) } else { Err(std::io::Error::last_os_error().into()) }
}

/// A user namespace, through a process that waits in one.
fn namespace() -> Outcome<OwnedFd> {
    let mut child = Command::new("unshare")
        .args(["--user", "sh", "-c", "echo; exec sleep 60"])
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdout.take().ok_or("stdout")?.read_exact(&mut [0])?;
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{map}", child.id()), format!("0 {OUTSIDE} 65536\n"))?;
    }
    let namespace = File::open(format!("/proc/{}/ns/user", child.id()))?;
    child.kill()?;
    child.wait()?;
    Ok(namespace.into())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
