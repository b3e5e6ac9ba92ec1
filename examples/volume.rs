//! A volume's life: created, mounted, filled, kept in a snapshot, grown, cloned, brought back, and removed without a trace.
//!
//! Run it as root: `cargo run --example volume [ext4|xfs|btrfs]`.

#![allow(clippy::print_stderr, reason = "an example speaks to the person who runs it")]

#[macro_use]
#[path = "parts/say.rs"]
mod say;

use std::error::Error;
use std::fs;
use std::process::ExitCode;

use docklet::error::Chain;
use docklet::name::{SnapshotName, VolumeName};
use docklet::storage::{Allocation, Filesystem, SnapshotSpec, VolumePool, VolumeSpec, remove_tree};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("volume: {}", Chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let name = format!("docklet-example-volume-{}", std::process::id());
    let pool = VolumePool::loop_files(format!("/var/tmp/{name}"))?;

    let filesystem = match std::env::args().nth(1).as_deref() {
        None | Some("ext4") => Filesystem::Ext4,
        Some("xfs") => Filesystem::Xfs,
        Some("btrfs") => Filesystem::Btrfs,
        Some(other) => return Err(format!("no file system {other:?}: ext4, xfs or btrfs").into()),
    };

    let spec = VolumeSpec {
        name: VolumeName::new("data")?,
        size_bytes: 320 << 20,
        filesystem,
        allocation: Allocation::Sparse,
    };
    let mut volume = pool.ensure(&spec)?;
    let space = volume.mount()?;
    say!("mounted {} on {}", volume.file().display(), space.path().display());

    fs::write(space.path().join("file"), vec![b'x'; 8 << 20])?;
    say!("before: {:?}", volume.usage()?);

    let snapshot = SnapshotName::new("before")?;
    say!("kept:   {:?}", volume.snapshot(&SnapshotSpec::new(snapshot.clone()))?);

    // xfs and btrfs may also stay mounted; ext4 may with CAP_SYS_RESOURCE.
    volume.unmount()?;
    volume.grow(1 << 30)?;
    volume.mount()?;
    say!("grown:  {:?}", volume.usage()?);

    // Another volume of what was there, and the volume itself as it was, also in size.
    let copy = pool.clone_snapshot(&spec.name, &snapshot, &VolumeName::new("copy")?)?;
    say!("cloned: {:?}", copy.spec());
    volume.unmount()?;
    volume.rollback(&snapshot)?;
    say!("back:   {:?}", volume.usage()?);

    volume.remove_snapshot(&snapshot)?;
    pool.remove(&copy.spec().name)?;
    pool.remove(&spec.name)?;
    remove_tree("/var/tmp".as_ref(), name.as_ref())?;
    say!("removed");
    Ok(())
}
