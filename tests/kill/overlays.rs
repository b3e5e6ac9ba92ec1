//! Overlay roots, as programs to be killed: mounted on a volume, for a user namespace or without, and unmounted.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use docklet::idmap::IdMap;
use docklet::name::VolumeName;
use docklet::paths::Paths;
use docklet::storage::{
    Allocation, Filesystem, MountedVolume, OverlayPlan, OverlayRoot, VolumePool, VolumeSpec, remove_tree,
};

use crate::operations::scratch;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const OUTSIDE: u32 = 100_000;

fn layers() -> Result<Vec<PathBuf>> {
    ["top", "bottom"].iter().map(|name| Ok(scratch()?.join(name))).collect()
}

fn space() -> Result<MountedVolume> {
    let pool = VolumePool::loop_files(Paths::from_env()?.volumes())?;
    Ok(pool.open(&VolumeName::new("root")?)?.mount()?)
}

fn target() -> Result<PathBuf> {
    Ok(scratch()?.join("root"))
}

/// Two layers, and a volume that is mounted.
pub(crate) fn prepare() -> Result {
    for layer in layers()? {
        fs::create_dir(&layer)?;
        fs::write(layer.join("file"), "layer")?;
    }
    let pool = VolumePool::loop_files(Paths::from_env()?.volumes())?;
    pool.ensure(&VolumeSpec {
        name: VolumeName::new("root")?,
        size_bytes: 64 << 20,
        filesystem: Filesystem::Ext4,
        allocation: Allocation::Sparse,
    })?;
    space().map(drop)
}

fn plan() -> Result<OverlayPlan> {
    Ok(OverlayRoot::over(&layers()?).on(&space()?))
}

pub(crate) fn mount() -> Result {
    plan()?.mount(&target()?)?;
    Ok(())
}

pub(crate) fn mount_mapped() -> Result {
    plan()?.id_map(&IdMap::new([(0, OUTSIDE, 65_536)])?).mount(&target()?)?;
    Ok(())
}

pub(crate) fn mount_read_only() -> Result {
    OverlayRoot::over(&layers()?[..1]).read_only().mount(&target()?)?;
    Ok(())
}

pub(crate) fn unmount() -> Result {
    Ok(OverlayRoot::unmount(&target()?)?)
}

/// As it was before the first mount, the volume too.
pub(crate) fn remove() -> Result {
    unmount()?;
    for name in ["upper", "work"] {
        remove_tree(space()?.path(), Path::new(name))?;
    }
    match fs::remove_dir(target()?) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// "present" if it is mounted once, shows the layers, and has nothing on it that nobody wrote.
pub(crate) fn state() -> Result {
    let target = target()?;
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo")?;
    let mounted =
        mounts.lines().filter(|line| line.split(' ').nth(4).map(Path::new) == Some(&target)).count();
    if mounted == 0 {
        println!("absent");
        return Ok(());
    }
    if mounted > 1
        || fs::read_to_string(target.join("file"))? != "layer"
        || fs::read_dir(&target)?.count() != 1
    {
        return Err(format!("mounted {mounted} times, or it shows something else").into());
    }
    let on_volume = fs::read_dir(space()?.path().join("upper")).map_or(0, Iterator::count);
    if on_volume != 0 {
        return Err(format!("{on_volume} names on the volume").into());
    }
    println!("present");
    Ok(())
}
