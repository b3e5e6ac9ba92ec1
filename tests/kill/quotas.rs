//! The volumes of `parts` as directories with project quotas (`man 2 quotactl`): where such a file system is in the prefix, they
//! are on it. Needs quotas in the kernel, and so runs in the VM tier only.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use docklet::paths::Paths;
use docklet::storage::VolumePool;

use crate::containers::Result;
use crate::parts;

const DISK_BYTES: u64 = 1 << 30;
/// What docklet's projects begin with, in decimal.
const PROJECTS: &str = "#16847";

/// Where the file system is mounted.
pub(crate) fn directory(paths: &Paths) -> PathBuf {
    paths.prefix().join("quota")
}

fn run(program: &str, arguments: &[&str], path: &Path) -> Result {
    let output = Command::new(program).args(arguments).arg(path).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

pub(crate) fn prepare_ext4() -> Result {
    prepare("mkfs.ext4", &["-q", "-O", "project,quota", "-E", "quotatype=prjquota"])
}

pub(crate) fn prepare_xfs() -> Result {
    prepare("mkfs.xfs", &["-q"])
}

/// A file system with project quotas in a file, and what a pool makes once.
fn prepare(mkfs: &str, options: &[&str]) -> Result {
    let paths = Paths::from_env()?;
    let (image, target) = (paths.prefix().join("quota.img"), directory(&paths));
    File::create(&image)?.set_len(DISK_BYTES)?;
    run(mkfs, options, &image)?;
    fs::create_dir(&target)?;
    run("mount", &["-o", "loop,prjquota", image.to_str().ok_or("UTF-8")?], &target)?;
    parts::make_volume()?;
    parts::remove_volume()
}

/// The pool on the prefix's file system with quotas, if it has one.
pub(crate) fn pool(paths: &Paths) -> docklet::Result<Option<VolumePool>> {
    let directory = directory(paths);
    if directory.exists() { VolumePool::directories(directory).map(Some) } else { Ok(None) }
}

/// The projects in which something is or that have a limit, by the kernel's word.
pub(crate) fn projects(paths: &Paths) -> Vec<String> {
    let directory = directory(paths);
    if !directory.exists() {
        return Vec::new();
    }
    let arguments = ["-P", "-n", "-v", "-O", "csv"];
    let output = Command::new("repquota").args(arguments).arg(&directory).output().expect("repquota");
    assert!(output.status.success(), "repquota: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let used = |line: &&str| {
        let numbers = line.split(',').skip(1).filter_map(|field| field.parse::<u64>().ok());
        line.starts_with(PROJECTS) && numbers.into_iter().any(|number| number > 0)
    };
    text.lines().filter(used).map(str::to_owned).collect()
}
