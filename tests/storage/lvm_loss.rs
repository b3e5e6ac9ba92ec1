//! What volumes on LVM lose, and what they do not: a disk that is gone, a volume that is cloned from both sides (`man 8 lvm`).

use std::fs::{self, File};
use std::path::Path;

use docklet::Error;
use docklet::storage::{
    Allocation, Filesystem, LvmPool, PhysicalSpace, ThinPoolSpec, VolumeGroup, VolumeGroupSpec, VolumePool,
    VolumeSpec,
};

use crate::kernel;
use crate::sandbox::Sandbox;
use crate::stage::{MIB, check_whole, clones_into_each_other};

fn lvm<'a>(arguments: impl IntoIterator<Item = &'a str>) -> String {
    kernel::run("lvm", arguments)
}

fn attach(path: &Path) -> String {
    kernel::run("losetup", ["--find", "--show", path.to_str().expect("UTF-8")]).trim().to_owned()
}

fn spec(name: &str, size_bytes: u64, allocation: Allocation) -> VolumeSpec {
    VolumeSpec { name: name.parse().expect("name"), size_bytes, filesystem: Filesystem::Ext4, allocation }
}

fn logical_volumes(group: &str) -> Vec<String> {
    let text = lvm(["lvs", "--noheadings", "-o", "lv_name", group]);
    text.split_whitespace().map(str::to_owned).collect()
}

fn content(pool: &VolumePool, name: &str) -> String {
    let volume = pool.open(&name.parse().expect("name")).expect("open");
    let read = fs::read_to_string(volume.mount().expect("mount").path().join("file")).expect("read");
    volume.unmount().expect("unmount");
    read
}

/// A group of two disks of which one is gone: what lies on the other is used, what is lost is told, and nothing is made in its
/// place; with the disk all is back.
#[test]
#[ignore = "needs root: device-mapper"]
fn lvm_disks_that_are_gone_are_told() {
    let sandbox = Sandbox::new();
    let disk = sandbox.dir("disk");
    let images = ["one.img", "two.img"].map(|name| disk.join(name));
    let devices = images.each_ref().map(|path| {
        File::create(path).and_then(|file| file.set_len(128 * MIB)).expect("file");
        attach(path)
    });
    let wanted = VolumeGroupSpec {
        name: format!("dkl-{}", std::process::id()).parse().expect("name"),
        on: PhysicalSpace::Disks(devices.iter().map(Into::into).collect()),
        thin_pool: None,
    };
    let name = wanted.name.as_str();
    VolumeGroup::ensure(&wanted).expect("ensure");
    let lvm_pool = LvmPool { volume_group: wanted.name.clone(), thin_pool: None };
    let pool = VolumePool::lvm(disk.join("pool"), &lvm_pool).expect("pool");
    for volume in ["first", "second"] {
        let made = pool.ensure(&spec(volume, 96 * MIB, Allocation::Preallocated)).expect("ensure");
        fs::write(made.mount().expect("mount").path().join("file"), volume).expect("write");
        made.unmount().expect("unmount");
    }
    let on = |device: &str| lvm(["pvs", "--noheadings", "-o", "pv_used", "--units", "m", device]);
    assert!(devices.iter().all(|device| on(device).trim().starts_with("96")), "one volume on each");
    let before = logical_volumes(name);

    lvm(["vgchange", "-an", name]);
    kernel::run("losetup", ["-d", &devices[1]]);
    kernel::run("udevadm", ["settle"]);
    let lost = VolumeGroup::activate(&wanted).expect_err("a disk is missing");
    assert!(matches!(&lost, Error::Damaged { reason, .. } if reason.contains("1 of its disks")), "{lost}");
    assert_eq!(VolumeGroup::open(&wanted.name).expect("open").usage().expect("usage").missing_disks, 1);
    // The file that was a disk is attached again by itself, if it is there.
    let away = disk.join("away.img");
    fs::rename(&images[1], &away).expect("rename");
    let recovered = pool.recover().expect_err("the file is gone");
    assert!(matches!(&recovered, Error::NotFound { what } if what.contains("two.img")), "{recovered}");
    assert!(!images[1].exists(), "it creates nothing");
    fs::rename(&away, &images[1]).expect("rename");
    // As if it were a disk, of which there is no file.
    let record = disk.join("pool/lvm.json");
    let text = fs::read_to_string(&record).expect("read");
    let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    json["files"] = serde_json::json!([]);
    fs::write(&record, json.to_string()).expect("write");
    let pool = VolumePool::lvm(disk.join("pool"), &lvm_pool).expect("pool");
    let recovered = pool.recover().expect_err("a volume is lost");
    let is_told = |reason: &str| reason.contains("`second`") && !reason.contains("`first`");
    assert!(matches!(&recovered, Error::Damaged { reason, .. } if is_told(reason)), "{recovered}");
    assert_eq!(content(&pool, "first"), "first");
    let gone = pool.open(&"second".parse().expect("name")).expect("it is known");
    assert!(matches!(gone.mount(), Err(Error::Damaged { .. })));
    for (what, refused) in [
        (
            "ensure",
            pool.ensure(&spec("second", 96 * MIB, Allocation::Preallocated))
                .and_then(|v| v.mount())
                .map(drop),
        ),
        ("make", pool.ensure(&spec("third", 16 * MIB, Allocation::Preallocated)).map(drop)),
        (
            "clone",
            pool.clone_volume(&"first".parse().expect("name"), &"copy".parse().expect("name")).map(drop),
        ),
        ("group", VolumeGroup::activate(&wanted).map(drop)),
    ] {
        assert!(matches!(refused, Err(Error::Damaged { .. })), "{what}: {refused:?}");
    }
    assert_eq!(logical_volumes(name), before, "nothing was made, and nothing removed");
    assert_eq!(pool.tidy().expect("tidy"), Vec::<String>::new());

    let again = attach(&images[1]);
    kernel::run("udevadm", ["settle"]);
    pool.recover().expect("whole again");
    assert_eq!((content(&pool, "first"), content(&pool, "second")), ("first".into(), "second".into()));
    for volume in ["first", "second"] {
        check_whole(Filesystem::Ext4, &pool.open(&volume.parse().expect("name")).expect("open").file());
        pool.remove(&volume.parse().expect("name")).expect("remove");
    }
    let on = PhysicalSpace::Disks(vec![devices[0].clone().into(), again.clone().into()]);
    VolumeGroup::remove(&VolumeGroupSpec { on, ..wanted }).expect("remove");
    kernel::run("losetup", ["-d", &devices[0]]);
    kernel::run("losetup", ["-d", &again]);
}

/// Two that clone each into the other's name, with removals between: nobody waits for ever, and both volumes are whole.
#[test]
#[ignore = "needs root: device-mapper"]
fn lvm_clones_into_each_other_do_not_wait_for_ever() {
    let sandbox = Sandbox::new();
    let disk = sandbox.dir("disk");
    let wanted = VolumeGroupSpec {
        name: format!("dkc-{}", std::process::id()).parse().expect("name"),
        on: PhysicalSpace::LoopFile { path: disk.join("group.img"), size_bytes: 512 * MIB },
        thin_pool: Some(ThinPoolSpec { name: "thin".parse().expect("name"), size_bytes: 400 * MIB }),
    };
    VolumeGroup::ensure(&wanted).expect("ensure");
    let lvm_pool =
        LvmPool { volume_group: wanted.name.clone(), thin_pool: Some("thin".parse().expect("name")) };
    let pool = VolumePool::lvm(disk.join("pool"), &lvm_pool).expect("pool");
    clones_into_each_other(&pool, &spec("a", 32 * MIB, Allocation::Sparse), 6);
    assert_eq!(logical_volumes(wanted.name.as_str()), ["thin"]);
    VolumeGroup::remove(&wanted).expect("remove");
}
