//! An overlay root: an image's layer below, a volume's space on top, and what is written ends up in the volume.
//!
//! Run it as root: `cargo run --example overlay`.

#![allow(clippy::print_stderr, clippy::print_stdout, reason = "an example speaks to the person who runs it")]

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use docklet::error::Chain;
use docklet::name::{ImageName, VolumeName};
use docklet::storage::{
    Allocation, Filesystem, ImageStore, OverlayRoot, VolumePool, VolumeSpec, remove_tree,
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("overlay: {}", Chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let name = format!("docklet-example-overlay-{}", std::process::id());
    let scratch = PathBuf::from("/var/tmp").join(&name);
    fs::create_dir(&scratch)?;

    let image = ImageStore::new(scratch.join("images"), scratch.join("layers"))?.build(
        &ImageName::new("tiny")?,
        |image| {
            image.write_file("/etc/motd", "from the image\n", 0o644)?;
            image.symlink("/motd", "/etc/motd")
        },
    )?;
    let pool = VolumePool::loop_files(scratch.join("volumes"))?;
    let volume = pool.ensure(&VolumeSpec {
        name: VolumeName::new("space")?,
        size_bytes: 64 << 20,
        filesystem: Filesystem::Ext4,
        allocation: Allocation::Sparse,
    })?;
    let space = volume.mount()?;

    let root = OverlayRoot::over(&image.layers).on(&space).mount(&scratch.join("root"))?;
    print!("{}", fs::read_to_string(root.path().join("etc/motd"))?);
    fs::write(root.path().join("etc/motd"), "from the container\n")?;
    print!("{}", fs::read_to_string(space.path().join("upper/etc/motd"))?);
    print!("{}", fs::read_to_string(image.layers[0].join("etc/motd"))?);

    OverlayRoot::unmount(root.path())?;
    volume.unmount()?;
    remove_tree("/var/tmp".as_ref(), name.as_ref())?;
    Ok(())
}
