//! What is a directory's own that is held by a project quota: whom it holds, and how its projects are kept (`man 2 quotactl`,
//! `man 1 chattr`).

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output};

use docklet::Error;
use docklet::storage::{Filesystem, ProvisionRatio, SnapshotSpec, Volume, VolumePool, VolumeSpec};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::back_end::{BackEnd, QuotaExt4, QuotaXfs};
use crate::kernel;
use crate::sandbox::Sandbox;
use crate::stage::{MIB, Stage, fill, message, names_in, space_of, together};

const FIRST: &str = "1684733952";

fn stage<B: BackEnd>() -> Stage<B> {
    Stage::new(Filesystem::Directory)
}

/// The file system that the pool is on.
fn disk<B>(stage: &Stage<B>) -> std::path::PathBuf {
    stage.sandbox.dir("disk").join("pool")
}

/// Runs a program in `directory`, behind words such as those that make it somebody else.
fn inside(directory: &Path, words: &str) -> Output {
    let mut words = words.split(' ');
    let program = words.next().expect("a program");
    Command::new(program).args(words).current_dir(directory).env("LC_ALL", "C").output().expect("runs")
}

const USER: &str = "setpriv --reuid 1000 --regid 1000 --clear-groups";
const USER_NAMESPACE: &str = "unshare --user --map-root-user";

fn project_of(path: &Path) -> String {
    let listed = kernel::run("lsattr", ["-pd", path.to_str().expect("UTF-8")]);
    listed.split_whitespace().next().expect("a project").to_owned()
}

fn remove(pool: &VolumePool, volume: &Volume) {
    volume.unmount().expect("unmount");
    pool.remove(&volume.spec().name).expect("remove");
}

/// Takes files out of the project, as whoever owns them may in the host's own user namespace, and nobody else.
fn leaves<B: BackEnd>() {
    let stage = stage::<B>();
    let volume = stage.pool().ensure(&stage.sized("data", 32 * MIB)).expect("ensure");
    let space = volume.mount().expect("mount");
    assert_eq!(project_of(space.path()), FIRST);
    kernel::run("chmod", ["777", space.path().to_str().expect("UTF-8")]);
    for number in 0..2 {
        let written = inside(space.path(), &format!("{USER} dd if=/dev/zero of=f{number} bs=1M count=24"));
        assert!(written.status.success(), "{written:?}");
        // In a user namespace the kernel refuses it, also to who is root there.
        for refused in [
            format!("{USER_NAMESPACE} chattr -p 0 f{number}"),
            format!("{USER_NAMESPACE} chattr -P ."),
            format!("{USER} chattr -p 0 ."),
        ] {
            let output = inside(space.path(), &refused);
            assert!(!output.status.success(), "{refused}: {output:?}");
        }
        assert_eq!(project_of(&space.path().join(format!("f{number}"))), FIRST);
        let left = inside(space.path(), &format!("{USER} chattr -p 0 f{number}"));
        assert!(left.status.success(), "{left:?}");
    }
    // That is why the limit is soft.
    assert!(volume.usage().expect("usage").used_bytes < MIB);
    // Nothing comes in from another project by a link, which would not be counted.
    fs::write(disk(&stage).join("other"), "other").expect("write");
    let link = fs::hard_link(disk(&stage).join("other"), volume.file().join("other"));
    assert_eq!(link.expect_err("refused").raw_os_error(), Some(libc::EXDEV));
    let moved = fs::rename(disk(&stage).join("other"), volume.file().join("other"));
    assert_eq!(moved.expect_err("refused").raw_os_error(), Some(libc::EXDEV));
    remove(stage.pool(), &volume);
}

#[test]
#[ignore = "needs root: quotas"]
fn quota_of_xfs_holds_root_who_may_leave() {
    let stage = stage::<QuotaXfs>();
    let volume = stage.pool().ensure(&stage.sized("data", 32 * MIB)).expect("ensure");
    let space = volume.mount().expect("mount");
    let (written, error) = fill(&space.path().join("file"));
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "xfs says so of projects: {error}");
    assert!((31 * MIB..=32 * MIB).contains(&written), "{written}");
    remove(stage.pool(), &volume);
    drop(stage);
    leaves::<QuotaXfs>();
}

#[test]
#[ignore = "needs root: quotas"]
fn quota_of_ext4_holds_users_and_not_root() {
    let stage = stage::<QuotaExt4>();
    let volume = stage.pool().ensure(&stage.sized("data", 32 * MIB)).expect("ensure");
    let space = volume.mount().expect("mount");
    kernel::run("chmod", ["777", space.path().to_str().expect("UTF-8")]);
    for who in [USER, USER_NAMESPACE] {
        let held = inside(space.path(), &format!("{who} dd if=/dev/zero of=file bs=1M count=64"));
        let said = String::from_utf8_lossy(&held.stderr).into_owned();
        assert!(said.contains("Disk quota exceeded"), "{who}: {said}");
        let length = fs::metadata(space.path().join("file")).expect("stat").len();
        assert!((30 * MIB..=32 * MIB).contains(&length), "{who}: {length}");
        fs::remove_file(space.path().join("file")).expect("unlink");
    }
    let mut all = capabilities(None).expect("capget");
    all.effective.insert(CapabilitySet::SYS_RESOURCE);
    set_capabilities(None, all).expect("capset");
    fs::write(space.path().join("file"), vec![1; 64 << 20]).expect("root is not held");
    assert!(volume.usage().expect("usage").allocated_bytes >= 64 * MIB);
    remove(stage.pool(), &volume);
    drop(stage);
    leaves::<QuotaExt4>();
}

/// Who takes the limit away is found out before the volume is used again.
fn is_told_without_its_limit<B: BackEnd>() {
    let stage = stage::<B>();
    let (pool, wanted) = (stage.pool(), stage.sized("data", 32 * MIB));
    let volume = pool.ensure(&wanted).expect("ensure");
    let (shown, name) = (volume.file(), &wanted.name);
    let disk = disk(&stage);
    let (shown, on) = (shown.to_str().expect("UTF-8"), disk.to_str().expect("UTF-8"));
    kernel::run("chattr", ["-p", "0", shown]);
    for refused in [message(pool.open(name)), message(pool.ensure(&wanted)), message(volume.mount())] {
        assert!(refused.contains("was taken out of its project"), "{refused}");
    }
    kernel::run("chattr", ["-p", FIRST, shown]);
    kernel::run("setquota", ["-P", FIRST, "0", "0", "0", "0", on]);
    for refused in [message(pool.open(name)), message(pool.ensure(&wanted)), message(volume.mount())] {
        assert!(refused.contains("limit of its project was taken off"), "{refused}");
    }
    assert_eq!(pool.recover().expect("recover"), ["limit of volume `data` put back"]);
    assert_eq!(pool.recover().expect("recover"), Vec::<String>::new());
    assert_eq!(pool.ensure(&wanted).expect("as it was"), volume);
    kernel::run("setquota", ["-P", FIRST, "0", "16384", "0", "0", on]);
    let refused = message(pool.ensure(&wanted));
    assert!(refused.contains("size_bytes is 16777216, not 33554432"), "{refused}");
    let mut volume = pool.open(name).expect("open");
    volume.grow(wanted.size_bytes).expect("grow");
    assert_eq!(pool.ensure(&wanted).expect("ensure"), volume);
    let snapshot = volume.snapshot(&SnapshotSpec::new("then".parse().expect("name")));
    assert!(matches!(snapshot, Err(Error::Unsupported { .. })), "{snapshot:?}");
    // What is left of a volume is no volume, and can be removed.
    fs::remove_dir(shown).expect("rmdir");
    assert!(matches!(pool.open(name), Err(Error::Damaged { .. })));
    pool.remove(name).expect("remove");
    assert_eq!(pool.list().expect("list"), []);
}

/// What a crash leaves of making and of removing one, and a project that cannot be given back yet.
fn halves_are_tidied<B: BackEnd>() {
    let stage = stage::<B>();
    let (pool, wanted) = (stage.pool(), stage.sized("data", 32 * MIB));
    let disk = disk(&stage);
    let half = disk.join("halves").join(FIRST);
    fs::create_dir(&half).expect("mkdir");
    assert_eq!(pool.tidy().expect("tidy"), [format!("half a volume {}", half.display())]);
    fs::create_dir_all(half.join(FIRST)).expect("mkdir");
    kernel::run("chattr", ["+P", "-p", FIRST, half.join(FIRST).to_str().expect("UTF-8")]);
    kernel::run("setquota", ["-P", FIRST, "0", "16384", "0", "0", disk.to_str().expect("UTF-8")]);
    fs::write(half.join(FIRST).join("file"), "half").expect("write");
    fs::create_dir(disk.join("halves/lost")).expect("mkdir");
    let volume = pool.ensure(&wanted).expect("ensure");
    assert_eq!(project_of(&volume.file()), "1684733953", "the half's is taken");
    assert_eq!(pool.tidy().expect("tidy").len(), 1);
    assert_eq!(pool.tidy().expect("tidy"), Vec::<String>::new());
    assert_eq!(names_in(&disk.join("halves")), ["lost"], "not ours");
    // It was given back, with its limit.
    let again = pool.ensure(&stage.sized("again", 16 * MIB)).expect("ensure");
    assert_eq!(project_of(&again.file()), FIRST);
    let space = again.mount().expect("mount");
    assert_eq!(space_of(&space).0, 16 * MIB);
    let open = File::create(space.path().join("open")).expect("create");
    fs::write(space.path().join("open"), vec![1; 5 << 20]).expect("write");
    again.unmount().expect_err("it is in use");
    drop(open);
    again.unmount().expect("unmount");
    // The open file is not of the mount, so nothing keeps the volume from being removed.
    let open = File::open(again.file().join("open")).expect("open");
    pool.remove(&again.spec().name).expect("remove");
    assert!(half.exists(), "it still has an inode");
    let third = pool.ensure(&stage.sized("third", 16 * MIB)).expect("ensure");
    assert_eq!(project_of(&third.file()), "1684733954");
    drop(open);
    assert_eq!(pool.tidy().expect("tidy").len(), 1);
    for name in pool.list().expect("list") {
        pool.remove(&name).expect("remove");
    }
    assert_eq!(pool.tidy().expect("tidy"), Vec::<String>::new());
}

/// Somebody else's are left to them, and pools that know nothing of each other do not take the same.
fn projects_are_nobody_elses<B: BackEnd>() {
    let stage = stage::<B>();
    let disk = disk(&stage);
    fs::write(disk.join("foreign"), "foreign").expect("write");
    kernel::run("chattr", ["-p", FIRST, disk.join("foreign").to_str().expect("UTF-8")]);
    kernel::run("setquota", ["-P", "1684733953", "0", "16384", "0", "0", disk.to_str().expect("UTF-8")]);
    let other = VolumePool::directories(disk.join("other")).expect("pool");
    let pools = [stage.pool(), &other];
    let wanted: Vec<_> = (0..12).map(|i| stage.sized(&format!("v{i}"), 16 * MIB)).collect();
    let volumes = together(12, |i| pools[i % 2].ensure(&wanted[i]).expect("ensure"));
    let mut projects: Vec<_> = volumes.iter().map(|volume| project_of(&volume.file())).collect();
    projects.sort();
    projects.dedup();
    assert_eq!(projects.len(), 12, "{projects:?}");
    assert!(projects.iter().all(|project| project.as_str() > "1684733953"), "{projects:?}");
    // A mount of it elsewhere keeps it from being removed.
    let elsewhere = stage.sandbox.dir("elsewhere");
    let (from, to) = (volumes[0].file(), elsewhere.to_str().expect("UTF-8"));
    kernel::run("mount", ["--bind", from.to_str().expect("UTF-8"), to]);
    assert!(matches!(pools[0].remove(&volumes[0].spec().name), Err(Error::Busy { .. })));
    kernel::unmount(to);
    together(12, |i| pools[i % 2].remove(&volumes[i].spec().name).expect("remove"));
    for pool in pools {
        assert_eq!(pool.list().expect("list"), []);
        assert_eq!(pool.tidy().expect("tidy"), Vec::<String>::new());
    }
    assert_eq!(fs::read_to_string(disk.join("foreign")).expect("read"), "foreign");
    // Of each project: what its blocks are limited to, and how many inodes are in it.
    let report = kernel::run("repquota", ["-P", "-n", "-v", "-O", "csv", disk.to_str().expect("UTF-8")]);
    let left: Vec<_> = report
        .lines()
        .map(|line| line.split(',').collect::<Vec<_>>())
        .filter(|fields| fields[0].starts_with("#16847") && (fields[5], fields[7]) != ("0", "0"))
        .map(|fields| [fields[0], fields[5], fields[7]])
        .collect();
    assert_eq!(left, [["#1684733952", "0", "1"], ["#1684733953", "16384", "0"]], "{report}");
}

fn are_promised<B: BackEnd>() {
    let stage = stage::<B>();
    let pool = stage.pool();
    let space = rustix::fs::statvfs(disk(&stage)).expect("statvfs");
    let all = space.f_bavail * space.f_frsize / 4096 * 4096;
    let mut first = pool.ensure(&stage.sized("first", all / 2 / 4096 * 4096)).expect("ensure");
    let second = stage.sized("second", all / 4096 / 4 * 3 * 4096);
    assert!(matches!(pool.ensure(&second), Err(Error::NoSpace { .. })));
    assert!(matches!(first.grow(all * 2), Err(Error::NoSpace { .. })));
    // What it holds is not owed any more.
    fs::write(first.file().join("file"), vec![1; 64 << 20]).expect("write");
    assert!(matches!(pool.ensure(&second), Err(Error::NoSpace { .. })));
    let generous = pool.clone().with_provision_ratio(ProvisionRatio::percent(200).expect("ratio"));
    generous.ensure(&second).expect("promised twice");
    for name in pool.list().expect("list") {
        pool.remove(&name).expect("remove");
    }
}

#[test]
#[ignore = "needs root: quotas"]
fn quota_taken_off_is_told() {
    is_told_without_its_limit::<QuotaXfs>();
    is_told_without_its_limit::<QuotaExt4>();
}

#[test]
#[ignore = "needs root: quotas"]
fn quota_halves_are_tidied() {
    halves_are_tidied::<QuotaXfs>();
    halves_are_tidied::<QuotaExt4>();
}

#[test]
#[ignore = "needs root: quotas"]
fn quota_projects_are_nobody_elses() {
    projects_are_nobody_elses::<QuotaXfs>();
    projects_are_nobody_elses::<QuotaExt4>();
}

#[test]
#[ignore = "needs root: quotas"]
fn quota_is_promised_against_the_disk() {
    are_promised::<QuotaXfs>();
    are_promised::<QuotaExt4>();
}

/// ext4 counts projects without the mount option, and holds nobody to them.
#[test]
#[ignore = "needs root: quotas"]
fn quota_that_only_counts_is_refused() {
    let sandbox = Sandbox::new();
    let (image, place) = (sandbox.dir("disk").join("image"), sandbox.dir("place"));
    File::create(&image).and_then(|file| file.set_len(320 * MIB)).expect("file");
    let image = image.to_str().expect("UTF-8");
    kernel::run("mkfs.ext4", ["-q", "-O", "project,quota", "-E", "quotatype=prjquota", image]);
    kernel::run("mount", ["-o", "loop", image, place.to_str().expect("UTF-8")]);
    let refused = message(VolumePool::directories(&place));
    assert!(refused.contains("mount it with the option `prjquota`"), "{refused}");
    kernel::unmount(&place);
    kernel::run("mkfs.xfs", ["-q", "-f", image]);
    kernel::run("mount", ["-o", "loop,pqnoenforce", image, place.to_str().expect("UTF-8")]);
    let refused = message(VolumePool::directories(&place));
    assert!(refused.contains("option `prjquota`"), "{refused}");
    kernel::unmount(&place);
    kernel::run("mount", ["-o", "loop,prjquota", image, place.to_str().expect("UTF-8")]);
    let pool = VolumePool::directories(&place).expect("pool");
    let preallocated = VolumeSpec {
        name: "data".parse().expect("name"),
        size_bytes: 16 * MIB,
        filesystem: Filesystem::Directory,
        allocation: docklet::storage::Allocation::Preallocated,
    };
    assert!(matches!(pool.ensure(&preallocated), Err(Error::Unsupported { .. })));
    kernel::unmount(&place);
}
