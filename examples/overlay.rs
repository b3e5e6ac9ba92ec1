//! An overlay root for a user namespace: an image's layer below, a volume's space on top, and what is written ends up in
//! the volume.
//!
//! Run it as root: `cargo run --example overlay`.

#![allow(clippy::print_stderr, reason = "an example speaks to the person who runs it")]

#[macro_use]
#[path = "parts/say.rs"]
mod say;

use std::error::Error;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;

use docklet::error::Chain;
use docklet::idmap::IdMap;
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

    // For a container whose root is 100000 on the host. The image's files stay root's on the disk.
    let map = IdMap::new([(0, 100_000, 65_536)])?;
    let plan = OverlayRoot::over(&image.layers).on(&space).id_map(&map);
    let root = plan.clone().mount(&scratch.join("root"))?;
    let motd = root.path().join("etc/motd");
    say!("owner in the image: {}", fs::metadata(image.layers[0].join("etc/motd"))?.uid());
    say!("owner in the root:  {}", fs::metadata(&motd)?.uid());
    say!("{}", fs::read_to_string(&motd)?.trim_end());
    fs::write(&motd, "from the container\n")?;
    fs::remove_file(root.path().join("motd"))?;
    say!("{}", fs::read_to_string(space.path().join("upper/etc/motd"))?.trim_end());
    say!("{}", fs::read_to_string(image.layers[0].join("etc/motd"))?.trim_end());
    for change in plan.changes()? {
        say!("{}", serde_json::to_string(&change?)?);
    }

    OverlayRoot::unmount(root.path())?;
    volume.unmount()?;
    remove_tree("/var/tmp".as_ref(), name.as_ref())?;
    Ok(())
}
