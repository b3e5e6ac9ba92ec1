//! Volume groups: made on what is empty, adopted if they were made here, and nothing else.

use std::fs::{self, File};
use std::path::PathBuf;

use docklet::Error;
use docklet::storage::{LvmPool, PhysicalSpace, ThinPoolSpec, VolumeGroup, VolumeGroupSpec, VolumePool};

use crate::kernel;
use crate::sandbox::Sandbox;
use crate::stage::{MIB, message};

fn spec(name: &str, on: PhysicalSpace) -> VolumeGroupSpec {
    let name = format!("dkg-{}-{name}", std::process::id()).parse().expect("name");
    VolumeGroupSpec { name, on, thin_pool: None }
}

fn attached(path: &PathBuf) -> String {
    File::create(path).and_then(|file| file.set_len(64 * MIB)).expect("file");
    kernel::run("losetup", ["--find", "--show", path.to_str().expect("UTF-8")]).trim().to_owned()
}

#[test]
#[ignore = "needs root: device-mapper"]
fn lvm_groups_live_and_leave_nothing() {
    let sandbox = Sandbox::new();
    let path = sandbox.dir("disk").join("group.img");
    let wanted = VolumeGroupSpec {
        thin_pool: Some(ThinPoolSpec { name: "thin".parse().expect("name"), size_bytes: 64 * MIB }),
        ..spec("life", PhysicalSpace::LoopFile { path: path.clone(), size_bytes: 128 * MIB })
    };
    assert!(matches!(VolumeGroup::open(&wanted.name), Err(Error::NotFound { .. })));
    assert!(matches!(VolumeGroup::activate(&wanted), Err(Error::NotFound { .. })), "it creates nothing");
    assert!(!path.exists());
    let made = VolumeGroup::ensure(&wanted).expect("ensure");
    assert_eq!(VolumeGroup::ensure(&wanted).expect("ensure again"), made);
    assert_eq!(VolumeGroup::open(&wanted.name).expect("open"), made);
    assert_eq!(VolumeGroup::activate(&wanted).expect("activate"), made);
    assert_eq!(kernel::loops_beneath(sandbox.paths.prefix()).len(), 1);
    let larger = VolumeGroupSpec {
        thin_pool: Some(ThinPoolSpec { name: "thin".parse().expect("name"), size_bytes: 100 * MIB }),
        ..wanted.clone()
    };
    assert!(matches!(VolumeGroup::ensure(&larger), Err(Error::Differs { .. })));
    let more = VolumeGroupSpec {
        thin_pool: Some(ThinPoolSpec { name: "more".parse().expect("name"), size_bytes: 100 * MIB }),
        ..wanted.clone()
    };
    assert!(matches!(VolumeGroup::ensure(&more), Err(Error::NoSpace { .. })));
    let lvm = LvmPool { volume_group: wanted.name.clone(), thin_pool: Some("none".parse().expect("name")) };
    let missing = VolumePool::lvm(sandbox.dir("disk").join("pool"), &lvm);
    assert!(matches!(missing, Err(Error::NotFound { .. })));
    VolumeGroup::remove(&wanted).expect("remove");
    VolumeGroup::remove(&wanted).expect("what is gone is removed");
    assert!(!path.exists());
}

#[test]
#[ignore = "needs root: device-mapper"]
fn lvm_groups_of_others_are_left_alone() {
    let sandbox = Sandbox::new();
    let (mine, others) = (sandbox.dir("disk").join("mine.img"), sandbox.dir("disk").join("others.img"));
    let wanted = spec("other", PhysicalSpace::LoopFile { path: mine.clone(), size_bytes: 64 * MIB });
    let device = attached(&others);
    kernel::run("lvm", ["vgcreate", wanted.name.as_str(), &device]);
    let before = kernel::run("sha256sum", [&others]);
    let refused = message(VolumeGroup::ensure(&wanted));
    assert!(refused.contains("was not made here"), "{refused}");
    assert!(matches!(VolumeGroup::activate(&wanted), Err(Error::Differs { .. })));
    assert!(matches!(VolumeGroup::remove(&wanted), Err(Error::Differs { .. })));
    assert_eq!(kernel::run("sha256sum", [&others]), before);
    assert!(!mine.exists());
    kernel::run("lvm", ["vgremove", "--yes", wanted.name.as_str()]);
    VolumeGroup::ensure(&wanted).expect("the name is free");
    VolumeGroup::remove(&wanted).expect("remove");
    kernel::run("losetup", ["-d", &device]);
}

#[test]
#[ignore = "needs root: device-mapper"]
fn lvm_groups_take_empty_disks_only() {
    let sandbox = Sandbox::new();
    let disk = sandbox.dir("disk");
    let device = attached(&disk.join("disk.img"));
    let wanted = spec("disks", PhysicalSpace::Disks(vec![device.clone().into()]));
    kernel::run("mkfs.ext4", ["-q", &device]);
    let refused = message(VolumeGroup::ensure(&wanted));
    assert!(refused.contains("it is not empty") && refused.contains("ext4"), "{refused}");
    kernel::run("e2fsck", ["-f", "-n", &device]);
    let missing = spec("none", PhysicalSpace::Disks(vec!["/dev/none".into()]));
    assert!(VolumeGroup::ensure(&missing).is_err());

    kernel::run("wipefs", ["--all", &device]);
    let made = VolumeGroup::ensure(&wanted).expect("ensure");
    assert_eq!(VolumeGroup::ensure(&wanted).expect("ensure again"), made);
    let elsewhere = spec("disks", PhysicalSpace::Disks(vec!["/dev/loop-control".into()]));
    assert!(matches!(VolumeGroup::ensure(&elsewhere), Err(Error::Differs { .. })));
    VolumeGroup::remove(&wanted).expect("remove");
    kernel::run("losetup", ["-d", &device]);

    // A file that holds something is somebody's.
    let file = disk.join("file.img");
    fs::write(&file, vec![0; 64 << 20]).expect("file");
    let wanted = spec("file", PhysicalSpace::LoopFile { path: file.clone(), size_bytes: 64 * MIB });
    let refused = message(VolumeGroup::ensure(&wanted));
    assert!(refused.contains("holds no volume group of that name"), "{refused}");
    assert_eq!(kernel::loops_beneath(sandbox.paths.prefix()), Vec::<String>::new());
}
