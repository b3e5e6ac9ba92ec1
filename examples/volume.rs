//! A volume's life: created, mounted, filled, grown, and removed without a trace.
//!
//! Run it as root: `cargo run --example volume`.

#![allow(clippy::print_stderr, clippy::print_stdout, reason = "an example speaks to the person who runs it")]

use std::error::Error;
use std::fs;
use std::process::ExitCode;

use docklet::error::Chain;
use docklet::name::VolumeName;
use docklet::storage::{Allocation, Filesystem, VolumePool, VolumeSpec, remove_tree};

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

    let spec = VolumeSpec {
        name: VolumeName::new("data")?,
        size_bytes: 64 << 20,
        filesystem: Filesystem::Ext4,
        allocation: Allocation::Sparse,
    };
    let mut volume = pool.ensure(&spec)?;
    let space = volume.mount()?;
    println!("mounted {} on {}", volume.file().display(), space.path().display());

    fs::write(space.path().join("file"), vec![b'x'; 8 << 20])?;
    println!("before: {:?}", volume.usage()?);

    // With CAP_SYS_RESOURCE it may also stay mounted.
    volume.unmount()?;
    volume.grow(256 << 20)?;
    volume.mount()?;
    println!("grown:  {:?}", volume.usage()?);

    volume.unmount()?;
    pool.remove(&spec.name)?;
    remove_tree("/var/tmp".as_ref(), name.as_ref())?;
    println!("removed");
    Ok(())
}
