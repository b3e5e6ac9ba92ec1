//! What is logical volumes' own: old data beneath, snapshots that overflow, strangers, what a crash or a reboot leaves.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use docklet::Error;
use docklet::name::SnapshotName;
use docklet::storage::{
    Allocation, Filesystem, PhysicalSpace, SnapshotSpec, Volume, VolumeGroup, VolumePool, VolumeSpec,
};

use crate::back_end::{BackEnd, Lvm, LvmLinear, LvmThin};
use crate::kernel;
use crate::sandbox::Sandbox;
use crate::stage::{MIB, check_whole, message, small};

fn spec(name: &str, filesystem: Filesystem, allocation: Allocation) -> VolumeSpec {
    VolumeSpec { name: name.parse().expect("name"), size_bytes: small(filesystem), filesystem, allocation }
}

fn lvm<'a>(arguments: impl IntoIterator<Item = &'a str>) -> String {
    kernel::run("lvm", arguments)
}

/// The logical volumes of a group, by LVM's word.
fn logical_volumes<const THIN: bool>(back_end: &Lvm<THIN>) -> Vec<String> {
    let text = lvm(["lvs", "--noheadings", "-o", "lv_name", back_end.group.name.as_str()]);
    text.split_whitespace().map(str::to_owned).collect()
}

fn file_of<const THIN: bool>(back_end: &Lvm<THIN>) -> &Path {
    let PhysicalSpace::LoopFile { path, .. } = &back_end.group.on else { panic!("a file") };
    path
}

/// What was there before is not what the file system finds.
#[test]
#[ignore = "needs root: device-mapper"]
fn lvm_linear_volumes_lie_on_old_data() {
    let sandbox = Sandbox::new();
    let disk = sandbox.dir("disk");
    let back_end = LvmLinear::on(&disk);
    let group = back_end.group.name.as_str();
    // All that the volumes can get, full of ones.
    lvm(["lvcreate", "--yes", "-W", "n", "-L", "1400m", "-n", "old", group]);
    let mut old = OpenOptions::new().write(true).open(format!("/dev/{group}/old")).expect("open");
    for _ in 0..1400 {
        old.write_all(&vec![0xff; 1 << 20]).expect("write");
    }
    old.sync_all().expect("sync");
    drop(old);
    lvm(["lvremove", "--yes", &format!("{group}/old")]);
    for filesystem in [Filesystem::Ext4, Filesystem::Xfs, Filesystem::Btrfs] {
        let wanted = VolumeSpec {
            size_bytes: 320 * MIB,
            ..spec(&filesystem.to_string(), filesystem, Allocation::Preallocated)
        };
        let volume = back_end.pool().ensure(&wanted).expect("ensure");
        check_whole(filesystem, &volume.file());
        let device = File::open(volume.file()).expect("open");
        let mut last = [0; 4096];
        std::os::unix::fs::FileExt::read_exact_at(&device, &mut last, 300 * MIB).expect("read");
        assert!(last == [0xff; 4096], "{filesystem}: the test's old data is not there");
        let space = volume.mount().expect("mount");
        for number in 0..3000 {
            fs::write(space.path().join(number.to_string()), [7; 2000]).expect("write");
        }
        volume.unmount().expect("unmount");
        check_whole(filesystem, &volume.file());
    }
    for name in back_end.pool().list().expect("list") {
        back_end.pool().remove(&name).expect("remove");
    }
}

/// The price of a linear volume's snapshot: when its reserve is full, it is lost, and nothing else.
#[test]
#[ignore = "needs root: device-mapper"]
fn lvm_linear_snapshots_overflow() {
    let sandbox = Sandbox::new();
    let back_end = LvmLinear::on(&sandbox.dir("disk"));
    let wanted =
        VolumeSpec { size_bytes: 64 * MIB, ..spec("data", Filesystem::Ext4, Allocation::Preallocated) };
    let mut volume = back_end.pool().ensure(&wanted).expect("ensure");
    let name = SnapshotName::new("then").expect("name");
    let missing = SnapshotSpec::new(name.clone());
    assert!(message(volume.snapshot(&missing)).contains("say how many bytes of changes"), "no reserve");
    let large = SnapshotSpec { reserve_bytes: Some(1 << 40), ..missing.clone() };
    assert!(matches!(volume.snapshot(&large), Err(Error::NoSpace { .. })));
    let taken = volume.snapshot(&SnapshotSpec { reserve_bytes: Some(8 * MIB), ..missing }).expect("snapshot");
    let reserve = taken.reserve.expect("reserve");
    assert_eq!((reserve.reserved_bytes, reserve.overflowed), (8 * MIB, false));
    assert!(!reserve.is_nearly_full(), "{reserve:?}");
    assert!(matches!(volume.grow(128 * MIB), Err(Error::Busy { .. })));

    let space = volume.mount().expect("mount");
    let mut file = File::create(space.path().join("file")).expect("create");
    file.write_all(&vec![1; 7 << 20]).and_then(|()| file.sync_all()).expect("write");
    let reserve = volume.snapshots().expect("snapshots")[0].reserve.expect("reserve");
    assert!(reserve.is_nearly_full() && !reserve.overflowed, "{reserve:?}");
    file.write_all(&vec![2; 8 << 20]).and_then(|()| file.sync_all()).expect("write");
    drop(file);
    let reserve = volume.snapshots().expect("snapshots")[0].reserve.expect("reserve");
    assert!(reserve.overflowed, "{reserve:?}");
    volume.unmount().expect("unmount");
    assert!(matches!(volume.rollback(&name), Err(Error::Damaged { .. })));
    let clone = back_end.pool().clone_snapshot(&wanted.name, &name, &"clone".parse().expect("name"));
    assert!(matches!(clone, Err(Error::Damaged { .. })));
    check_whole(Filesystem::Ext4, &volume.file());
    volume.remove_snapshot(&name).expect("remove");
    back_end.pool().remove(&wanted.name).expect("remove");
}

/// What is not marked as the pool's is neither listed nor touched.
#[test]
#[ignore = "needs root: device-mapper"]
fn lvm_strangers_are_left_alone() {
    let sandbox = Sandbox::new();
    let disk = sandbox.dir("disk");
    let back_end = LvmLinear::on(&disk);
    let (pool, group) = (back_end.pool(), back_end.group.name.as_str());
    let sparse = spec("data", Filesystem::Ext4, Allocation::Sparse);
    assert!(matches!(pool.ensure(&sparse), Err(Error::Unsupported { .. })), "no thin pool");
    let odd = VolumeSpec {
        size_bytes: 32 * MIB + 4096,
        ..spec("data", Filesystem::Ext4, Allocation::Preallocated)
    };
    assert!(matches!(pool.ensure(&odd), Err(Error::Invalid { .. })), "half an extent");

    let wanted = spec("data", Filesystem::Ext4, Allocation::Preallocated);
    let device = pool.ensure(&wanted).expect("ensure").file();
    pool.remove(&wanted.name).expect("remove");
    let logical = device.file_name().expect("name").to_str().expect("UTF-8");
    lvm(["lvcreate", "--yes", "-L", "8m", "-n", logical, group]);
    fs::write(&device, "a stranger's").expect("write");
    assert!(matches!(pool.ensure(&wanted), Err(Error::Differs { .. })));
    assert!(matches!(pool.open(&wanted.name), Err(Error::Differs { .. })));
    assert_eq!(pool.list().expect("list"), []);
    pool.remove(&wanted.name).expect("no volume is removed");
    assert_eq!(pool.tidy().expect("tidy"), Vec::<String>::new());
    assert_eq!(logical_volumes(&back_end), [logical]);
    assert!(fs::read(&device).expect("read").starts_with(b"a stranger's"));

    // Another pool in the same group has volumes of its own.
    let other = VolumePool::lvm(disk.join("other"), &back_end.lvm()).expect("pool");
    let its =
        other.ensure(&VolumeSpec { name: "its".parse().expect("name"), ..wanted.clone() }).expect("ensure");
    assert_eq!(pool.list().expect("list"), []);
    assert!(matches!(pool.open(&its.spec().name), Err(Error::NotFound { .. })));
    other.remove(&its.spec().name).expect("remove");
    assert!(
        matches!(VolumeGroup::remove(&back_end.group), Err(Error::Busy { .. })),
        "the stranger's is in it"
    );
    lvm(["lvremove", "--yes", &format!("{group}/{logical}")]);
}

/// A process was killed between making the logical volume and giving it a file system.
#[test]
#[ignore = "needs root: device-mapper"]
fn lvm_half_made_volumes_are_nothing() {
    let sandbox = Sandbox::new();
    let back_end = LvmThin::on(&sandbox.dir("disk"));
    let (pool, group) = (back_end.pool(), back_end.group.name.as_str());
    let wanted = spec("data", Filesystem::Ext4, Allocation::Sparse);
    let halve = || {
        let device = pool.ensure(&wanted).expect("ensure").file();
        let logical = device.file_name().expect("name").to_str().expect("UTF-8");
        let full = format!("{group}/{logical}");
        lvm(["lvchange", "--deltag", "docklet.phase=made", "--addtag", "docklet.phase=making", &full]);
        fs::write(device, vec![0; 1 << 20]).expect("write");
        full
    };
    let left = halve();
    assert!(matches!(pool.open(&wanted.name), Err(Error::NotFound { .. })));
    assert_eq!(pool.list().expect("list"), []);
    assert_eq!(pool.tidy().expect("tidy"), [format!("logical volume {left}")]);
    assert_eq!(pool.tidy().expect("tidy"), Vec::<String>::new());
    assert_eq!(logical_volumes(&back_end), ["thin"]);

    halve();
    let volume = pool.ensure(&wanted).expect("made again");
    check_whole(Filesystem::Ext4, &volume.file());
    pool.remove(&wanted.name).expect("remove");
}

/// A process was killed while a volume went back: its place was empty, and the one to come had another name.
#[test]
#[ignore = "needs root: device-mapper"]
fn lvm_volumes_on_their_way_back_are_not_made_anew() {
    let sandbox = Sandbox::new();
    let disk = sandbox.dir("disk");
    let back_end = LvmThin::on(&disk);
    let (pool, group) = (back_end.pool(), back_end.group.name.as_str());
    let wanted = spec("data", Filesystem::Ext4, Allocation::Sparse);
    let volume = pool.ensure(&wanted).expect("ensure");
    fs::write(volume.mount().expect("mount").path().join("file"), "kept").expect("write");
    volume.unmount().expect("unmount");
    let device = volume.file();
    let logical = device.file_name().expect("name").to_str().expect("UTF-8");
    let mark = disk.join("pool/rollback/data");
    for finish in ["ensure", "tidy"] {
        lvm(["lvrename", &format!("{group}/{logical}"), &format!("{group}/{logical}n")]);
        fs::write(&mark, r#"{"snapshot":"then","reserve_bytes":null}"#).expect("write");
        if finish == "tidy" {
            assert_eq!(pool.tidy().expect("tidy"), Vec::<String>::new());
        }
        let volume = pool.ensure(&wanted).expect("ensure");
        assert_eq!(logical_volumes(&back_end), [logical, "thin"], "after {finish}");
        let space = volume.mount().expect("mount");
        assert_eq!(fs::read_to_string(space.path().join("file")).expect("read"), "kept");
        volume.unmount().expect("unmount");
        assert!(!mark.exists());
    }
    pool.remove(&wanted.name).expect("remove");
}

/// As after a reboot: nothing is attached, and somebody else has the loop device.
#[test]
#[ignore = "needs root: device-mapper"]
fn lvm_pools_come_back() {
    let sandbox = Sandbox::new();
    let disk = sandbox.dir("disk");
    let back_end = LvmThin::on(&disk);
    let (pool, group) = (back_end.pool(), back_end.group.name.as_str());
    let wanted = spec("data", Filesystem::Ext4, Allocation::Sparse);
    let volume = pool.ensure(&wanted).expect("ensure");
    fs::write(volume.mount().expect("mount").path().join("file"), "kept").expect("write");
    volume.unmount().expect("unmount");
    volume.snapshot(&SnapshotSpec::new("then".parse().expect("name"))).expect("snapshot");

    let device = kernel::run(
        "losetup",
        ["--noheadings", "-O", "NAME", "-j", file_of(&back_end).to_str().expect("UTF-8")],
    );
    let detach = || {
        lvm(["vgchange", "-an", group]);
        let device = kernel::run(
            "losetup",
            ["--noheadings", "-O", "NAME", "-j", file_of(&back_end).to_str().expect("UTF-8")],
        );
        kernel::run("losetup", ["-d", device.trim()]);
        kernel::run("udevadm", ["settle"]);
    };
    detach();
    let lost = message(pool.ensure(&wanted));
    assert!(lost.contains(&format!("volume group `{group}`")) && lost.ends_with("does not exist"), "{lost}");
    assert!(matches!(volume.mount(), Err(Error::NotFound { .. })));
    let strange = disk.join("strange.img");
    File::create(&strange).and_then(|file| file.set_len(1 << 20)).expect("file");
    kernel::run("losetup", [device.trim(), strange.to_str().expect("UTF-8")]);

    let again = VolumePool::lvm(disk.join("pool"), &back_end.lvm()).expect("it is written down");
    let done = again.recover().expect("recover");
    assert_eq!(done.first(), Some(&format!("attached {}", file_of(&back_end).display())), "{done:?}");
    assert_eq!(again.recover().expect("recover"), Vec::<String>::new());
    let volume = again.open(&wanted.name).expect("open");
    assert_eq!(fs::read_to_string(volume.mount().expect("mount").path().join("file")).expect("read"), "kept");
    volume.unmount().expect("unmount");
    assert_eq!(volume.snapshots().expect("snapshots").len(), 1);

    detach();
    VolumeGroup::activate(&back_end.group).expect("activate");
    assert_eq!(volume.snapshots().expect("snapshots").len(), 1);
    volume.remove_snapshot(&"then".parse().expect("name")).expect("remove");
    again.remove(&wanted.name).expect("remove");
    kernel::run("losetup", ["-d", device.trim()]);
}

/// A thin pool holds its promises, and no more.
#[test]
#[ignore = "needs root: device-mapper"]
fn lvm_thin_pools_promise_what_they_have() {
    let sandbox = Sandbox::new();
    let back_end = LvmThin::on(&sandbox.dir("disk"));
    let pool = back_end.pool();
    let wanted = |name: &str, size_bytes| VolumeSpec {
        size_bytes,
        ..spec(name, Filesystem::Ext4, Allocation::Sparse)
    };
    pool.ensure(&wanted("first", 2048 * MIB)).expect("ensure");
    let refused = pool.ensure(&wanted("second", 3072 * MIB)).expect_err("refused");
    assert!(
        matches!(refused, Error::NoSpace { needed_bytes, .. } if needed_bytes == 3072 * MIB),
        "{refused}"
    );
    let first = pool.open(&"first".parse().expect("name")).expect("open");
    let snapshot = SnapshotSpec::new("then".parse().expect("name"));
    first.snapshot(&snapshot).expect_err("2048 MiB twice are more than there is");
    let usage = VolumeGroup::open(&back_end.group.name).expect("open").usage().expect("usage");
    let thin = &usage.thin_pools[0];
    assert!(thin.name == "thin" && thin.data.is_some_and(|full| full < 1000), "{usage:?}");
    assert!(thin.metadata.is_some_and(|full| full < 5000) && usage.missing_disks == 0, "{usage:?}");
    pool.remove(&first.spec().name).expect("remove");
}

fn tags_of(logical: &str) -> Vec<String> {
    let text = lvm(["lvs", "--noheadings", "-o", "lv_tags", logical]);
    text.trim().split(',').flat_map(|tag| ["--addtag".to_owned(), tag.to_owned()]).collect()
}

/// `VG/LV` of the volume, and of its only snapshot.
fn pair_of<const THIN: bool>(back_end: &Lvm<THIN>, volume: &Volume) -> (String, String) {
    let group = back_end.group.name.as_str();
    let own = volume.file().file_name().expect("name").to_str().expect("UTF-8").to_owned();
    let others = logical_volumes(back_end).into_iter().filter(|name| *name != own && name.starts_with("dk"));
    let snapshot = others.collect::<Vec<_>>().remove(0);
    (format!("{group}/{own}"), format!("{group}/{snapshot}"))
}

/// Killed when the old volume is gone and the new one has not its name yet: what is asked for then is not made empty.
#[test]
#[ignore = "needs root: device-mapper"]
fn lvm_rollbacks_that_were_cut_off_come_first() {
    let sandbox = Sandbox::new();
    let back_end = LvmThin::on(&sandbox.dir("disk"));
    let pool = back_end.pool();
    let wanted = spec("data", Filesystem::Ext4, Allocation::Sparse);
    let volume = pool.ensure(&wanted).expect("ensure");
    fs::write(volume.mount().expect("mount").path().join("file"), "then").expect("write");
    let then = SnapshotSpec::new("then".parse().expect("name"));
    volume.snapshot(&then).expect("snapshot");
    volume.unmount().expect("unmount");

    let (own, snapshot) = pair_of(&back_end, &volume);
    let next = format!("{}n", own.split_once('/').expect("a name").1);
    let mut arguments = ["lvcreate", "--yes", "-s", "-k", "n", "-n", &next].map(str::to_owned).to_vec();
    arguments.extend(tags_of(&own));
    arguments.push(snapshot);
    lvm(arguments.iter().map(String::as_str));
    let mark = sandbox.dir("disk").join("pool/rollback/data");
    fs::write(&mark, r#"{"snapshot": "then", "reserve_bytes": null}"#).expect("mark");
    lvm(["lvremove", "--yes", &own]);

    let volume = pool.ensure(&wanted).expect("ensure");
    assert!(!mark.exists());
    let space = volume.mount().expect("mount");
    assert_eq!(fs::read_to_string(space.path().join("file")).expect("read"), "then");
    volume.unmount().expect("unmount");
    volume.remove_snapshot(&then.name).expect("remove");
    pool.remove(&wanted.name).expect("remove");
    assert_eq!(logical_volumes(&back_end), ["thin"]);
}

/// As a power cut leaves it that came between the two steps of `lvcreate`.
#[test]
#[ignore = "needs root: device-mapper"]
fn lvm_half_made_snapshots_are_nothing() {
    let sandbox = Sandbox::new();
    let back_end = LvmLinear::on(&sandbox.dir("disk"));
    let pool = back_end.pool();
    let volume = pool.ensure(&spec("data", Filesystem::Ext4, Allocation::Preallocated)).expect("ensure");
    let then = SnapshotSpec { name: "then".parse().expect("name"), reserve_bytes: Some(16 * MIB) };
    volume.snapshot(&then).expect("snapshot");
    let (_, logical) = pair_of(&back_end, &volume);
    let tags = tags_of(&logical);
    let (group, name) = logical.split_once('/').expect("a name");
    for mend in ["tidy", "snapshot"] {
        volume.remove_snapshot(&then.name).expect("remove");
        let mut arguments = ["lvcreate", "--yes", "-L", "16m", "-n", name].map(str::to_owned).to_vec();
        arguments.extend(tags.iter().cloned().chain([group.to_owned()]));
        lvm(arguments.iter().map(String::as_str));
        assert_eq!(volume.snapshots().expect("snapshots"), []);
        let copy = pool.clone_snapshot(&volume.spec().name, &then.name, &"copy".parse().expect("name"));
        assert!(matches!(copy, Err(Error::NotFound { .. })), "{copy:?}");
        if mend == "tidy" {
            assert_eq!(pool.tidy().expect("tidy"), [format!("logical volume {logical}")]);
            assert_eq!(logical_volumes(&back_end).len(), 1);
        } else {
            volume.snapshot(&then).expect("in its place");
            assert_eq!(volume.snapshots().expect("snapshots").len(), 1);
        }
    }
    volume.remove_snapshot(&then.name).expect("remove");
    pool.remove(&volume.spec().name).expect("remove");
}

/// Commands take a group by its name, which can be another's.
#[test]
#[ignore = "needs root: device-mapper"]
fn lvm_groups_that_were_renamed_are_not_guessed() {
    let sandbox = Sandbox::new();
    let back_end = LvmLinear::on(&sandbox.dir("disk"));
    let pool = back_end.pool();
    let wanted = spec("data", Filesystem::Ext4, Allocation::Preallocated);
    let group = back_end.group.name.as_str();
    let other = format!("{group}-other");
    lvm(["vgrename", group, &other]);
    for refused in [pool.ensure(&wanted).map(drop), pool.list().map(drop), pool.remove(&wanted.name)] {
        assert!(matches!(refused, Err(Error::Differs { .. })), "{refused:?}");
    }
    lvm(["vgrename", &other, group]);
    pool.ensure(&wanted).expect("ensure");
    pool.remove(&wanted.name).expect("remove");
}

/// Set in the process whose `lvm` has other settings.
const SETTINGS: &str = "DOCKLET_TEST_LVM_SETTINGS";

/// What a host has in its `lvm.conf` does not change what a report says.
#[test]
#[ignore = "needs root: device-mapper"]
fn lvm_reports_are_read_whatever_the_hosts_settings() {
    if std::env::var_os(SETTINGS).is_some() {
        let sandbox = Sandbox::new();
        let back_end = LvmLinear::on(&sandbox.dir("disk"));
        VolumeGroup::ensure(&back_end.group).expect("adopted");
        assert_eq!(back_end.pool().list().expect("list"), []);
        return;
    }
    let sandbox = Sandbox::new();
    let settings = sandbox.dir("settings");
    let text = "report { binary_values_as_numeric=1 compact_output=1 prefixes=1 quoted=0 columns_as_rows=1 }\n\
                log { verbose=2 report_command_log=1 }\nglobal { units=\"h\" suffix=1 }\n";
    fs::write(settings.join("lvm.conf"), text).expect("write");
    let status = std::process::Command::new(std::env::current_exe().expect("own path"))
        .args([
            "--exact",
            "lvm_volumes::lvm_reports_are_read_whatever_the_hosts_settings",
            "--include-ignored",
        ])
        .env(SETTINGS, "1")
        .env("LVM_SYSTEM_DIR", &settings)
        .status()
        .expect("the same program");
    assert!(status.success(), "{status}");
}
