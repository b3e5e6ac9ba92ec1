//! Mounts that come and go while a container runs.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use docklet::Error;
use docklet::cgroup::Limit;
use docklet::error::Chain;
use docklet::host::{ContainerSpec, Outcome, Privilege};
use docklet::lxc::{Exec, MountEntry, Tmpfs};
use docklet::name::ContainerName;
use serde_json::{Value, json};

use super::fixture::{Fixture, spec};
use super::limits;
use crate::kernel;

fn bind(source: &Path, target: &str) -> MountEntry {
    MountEntry::bind(source, target).unwrap().create_dir()
}

/// A directory with a file that says which one it is.
fn source(fixture: &Fixture, name: &str) -> PathBuf {
    let dir = fixture.sandbox.dir(name);
    fs::write(dir.join("name"), name).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    dir
}

/// What the container sees mounted beneath `/srv`.
async fn seen(fixture: &Fixture, name: &ContainerName) -> String {
    let lines = "cut -d' ' -f5 /proc/self/mountinfo | grep ^/srv | sort | tr '\\n' ' '";
    fixture.sh(name, lines).await.trim().to_owned()
}

/// What is kept ready for it on the host.
fn ready(fixture: &Fixture, name: &ContainerName) -> usize {
    let id = fixture.host.get(name).unwrap().id;
    let place = fixture.sandbox.paths.containers().join(id.as_str()).join("mounts");
    kernel::mounts_beneath(&place).len().saturating_sub(1)
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn mounts_change_while_it_runs() {
    mounts_change(Privilege::default()).await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn mounts_of_a_privileged_container_change_while_it_runs() {
    mounts_change(Privilege::Privileged).await;
}

async fn mounts_change(privilege: Privilege) {
    let fixture = Fixture::new().await;
    let (one, two) = (source(&fixture, "one"), source(&fixture, "two"));
    let below = fixture.sandbox.dir("two/below");
    kernel::run("mount", ["-t", "tmpfs", "below", below.to_str().unwrap()]);
    fs::write(below.join("deep"), "").unwrap();
    let mut spec = ContainerSpec { privilege, ..spec("hot") };
    spec.mounts = vec![bind(&one, "/srv/one")];
    let name = spec.name.clone();
    fixture.host.launch(spec).await.unwrap();
    let init = fixture.host.runtime(&name).unwrap().init_pid().unwrap();
    let one_of = |info: &docklet::host::ContainerInfo| info.spec.mounts.clone();

    // Some more: with submounts, read-only; memory; a file; owners as on the disk.
    let mut wanted = vec![
        bind(&one, "/srv/one"),
        bind(&two, "/srv/two").recursive().read_only(),
        MountEntry::tmpfs(Tmpfs::new(1 << 20), "/srv/memory").unwrap().create_dir(),
        MountEntry::bind(one.join("name"), "/srv/file").unwrap().create_file(),
        bind(&one, "/srv/memory/owned").id_mapped(),
    ];
    let info =
        fixture.host.apply_mounts(&name, wanted.clone()).await.unwrap_or_else(|e| panic!("{}", Chain(&e)));
    assert_eq!(one_of(&info), wanted);
    assert_eq!(
        seen(&fixture, &name).await,
        "/srv/file /srv/memory /srv/memory/owned /srv/one /srv/two /srv/two/below"
    );
    assert_eq!(
        fixture.sh(&name, "cat /srv/one/name /srv/two/name /srv/file; ls /srv/two/below").await,
        "onetwoonedeep\n"
    );
    assert_eq!(
        fixture.sh(&name, "stat -c %u:%g /srv/memory /srv/memory/owned /srv/memory/owned/name").await,
        "0:0\n0:0\n0:0\n"
    );
    for line in ["touch /srv/two/x", "touch /srv/two/below/x"] {
        let said = fixture.sh(&name, &format!("{line} 2>&1 || true")).await;
        assert!(said.contains("Read-only file system"), "{said}");
    }
    if privilege != Privilege::Privileged {
        let said =
            fixture.sh(&name, "mount -o remount,bind,rw /srv/two 2>&1; touch /srv/two/x 2>&1 || true").await;
        assert!(said.contains("denied") && said.contains("Read-only file system"), "{said}");
    }
    fixture.sh(&name, "echo x > /srv/memory/owned/written; echo y > /srv/one/plain").await;
    assert_eq!(fs::metadata(one.join("written")).unwrap().uid(), 0);
    let report = fixture.host.recover().await.unwrap();
    assert!(!report.changed() && report.complete(), "{report:?}");

    // All but two go. One of them takes another's place, in the order of the new list.
    wanted = vec![bind(&two, "/srv/one").without_submounts(), bind(&one, "/srv/one/below")];
    fixture.host.apply_mounts(&name, wanted.clone()).await.unwrap_or_else(|e| panic!("{}", Chain(&e)));
    assert_eq!(seen(&fixture, &name).await, "/srv/one /srv/one/below");
    assert_eq!(fixture.sh(&name, "cat /srv/one/name /srv/one/below/name").await, "twoone");
    assert_eq!(ready(&fixture, &name), 2);
    // The same again is nothing, and the container went on all the time.
    fixture.host.apply_mounts(&name, wanted.clone()).await.unwrap();
    assert_eq!(fixture.host.runtime(&name).unwrap().init_pid().unwrap(), init);

    // Down, and up again, it has what was said; none at all.
    fixture.host.stop(&name, Duration::ZERO).await.unwrap();
    fixture.host.start(&name).await.unwrap();
    assert_eq!(seen(&fixture, &name).await, "/srv/one /srv/one/below");
    fixture.host.stop(&name, Duration::ZERO).await.unwrap();
    let later = vec![bind(&one, "/srv/later").id_mapped(), bind(&two, "/srv/all").recursive().read_only()];
    fixture.host.apply_mounts(&name, later).await.unwrap();
    fixture.host.start(&name).await.unwrap();
    assert_eq!(
        fixture.sh(&name, "cat /srv/later/name; stat -c %u /srv/later/name; ls /srv/all/below").await,
        "one0\ndeep\n"
    );
    fixture.host.apply_mounts(&name, Vec::new()).await.unwrap();
    assert_eq!((seen(&fixture, &name).await, ready(&fixture, &name)), (String::new(), 0));
    fixture.host.remove(&name).await.unwrap();
    kernel::run("umount", [&below]);
    fixture.end().await;
}

/// What cannot be done leaves all as it was, inside, on the host and on the disk.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_change_of_mounts_that_fails_is_taken_back() {
    let fixture = Fixture::new().await;
    let (one, two) = (source(&fixture, "one"), source(&fixture, "two"));
    let mut spec = spec("hot");
    spec.mounts = vec![bind(&one, "/srv/one"), bind(&two, "/srv/two")];
    let name = spec.name.clone();
    let before = fixture.host.launch(spec).await.unwrap();
    fixture.sh(&name, "mkdir /srv/taken; mount -t tmpfs x /srv/taken; ln -s /etc /srv/link; ln -s /nowhere /srv/dangling").await;
    let inside = seen(&fixture, &name).await;
    let outside = fixture.sandbox.dir("outside");
    fixture.sh(&name, &format!("ln -s {} /srv/absolute", outside.display())).await;
    // Somebody works in one of them.
    fixture.sh(&name, "cd /srv/one; sleep 1000 > /dev/null 2>&1 & true").await;

    let stays = bind(&one, "/srv/one");
    let device = MountEntry::device("/dev/null", "/dev/another").unwrap();
    for (mounts, expected) in [
        (vec![bind(&two, "/srv/two")], "mount on `/srv/one` in the container is busy"),
        (vec![stays.clone(), bind(&two, "/srv/taken")], "has something else mounted on it"),
        (vec![stays.clone(), bind(&two, "/srv/link")], "runs through a symbolic link"),
        (vec![stays.clone(), bind(&two, "/srv/link/x")], "runs through a symbolic link"),
        (vec![stays.clone(), bind(&two, "/srv/dangling")], "runs through a symbolic link"),
        (vec![stays.clone(), bind(&two, "/srv/absolute/new")], "runs through a symbolic link"),
        (
            vec![stays.clone(), MountEntry::bind(&two, "/srv/none").unwrap()],
            "(.create_dir() makes it) does not exist",
        ),
        (vec![stays.clone(), bind(&two, "/etc/passwd")], "it is a file, the source is a directory"),
        (vec![stays.clone(), bind(&outside.join("missing"), "/srv/x")], "does not exist"),
        (vec![stays.clone(), stays.clone()], "is the target of another mount already"),
        (vec![stays.clone(), device], "giving the device `/dev/null`"),
    ] {
        let error = fixture.host.apply_mounts(&name, mounts).await.expect_err(expected);
        let message = Chain(&error).to_string();
        assert!(message.contains(expected), "{message}");
        assert_eq!(fixture.host.get(&name).unwrap(), before, "{message}");
        assert_eq!((seen(&fixture, &name).await, ready(&fixture, &name)), (inside.clone(), 2), "{message}");
    }
    assert_eq!(fixture.sh(&name, "cat /srv/one/name /srv/two/name").await, "onetwo");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let report = fixture.host.recover().await.unwrap();
    assert!(!report.changed() && report.complete(), "{report:?}");
    fixture.host.remove(&name).await.unwrap();
    assert!(matches!(fixture.host.apply_mounts(&name, Vec::new()).await, Err(Error::NotFound { .. })));
    fixture.end().await;
}

/// Its control group is told of a device at the start: one that is left out stays, and the refusal says so.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_device_goes_when_the_container_is_down() {
    let fixture = Fixture::new().await;
    let mut spec = spec("devices");
    spec.mounts = vec![MountEntry::device("/dev/null", "/dev/another").unwrap()];
    let name = spec.name.clone();
    let before = fixture.host.launch(spec).await.unwrap();
    let error = fixture.host.apply_mounts(&name, Vec::new()).await.unwrap_err();
    let Error::Unsupported { what, needs } = &error else { panic!("{error}") };
    assert!(what.contains("taking the device `/dev/null`, which the mounts leave out"), "{error}");
    assert!(needs.contains("until the container stops"), "{error}");
    assert_eq!(fixture.host.get(&name).unwrap(), before);
    fixture.sh(&name, "test -c /dev/another").await;
    fixture.host.stop(&name, Duration::ZERO).await.unwrap();
    fixture.host.apply_mounts(&name, Vec::new()).await.unwrap();
    fixture.host.start(&name).await.unwrap();
    fixture.sh(&name, "test ! -e /dev/another").await;
    fixture.host.remove(&name).await.unwrap();
    fixture.end().await;
}

/// A change of mounts that was cut off, and cannot go on since one that is to go is in use, is in the way of no other change.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_mount_in_use_keeps_nobody_from_changing_limits() {
    let fixture = Fixture::new().await;
    let one = source(&fixture, "one");
    let mut spec = spec("stuck");
    spec.mounts = vec![bind(&one, "/srv/one")];
    let name = spec.name.clone();
    let mut limits = fixture.host.launch(spec).await.unwrap().spec.limits;
    fixture.sh(&name, "cd /srv/one; sleep 1000 > /dev/null 2>&1 & echo $! > /pid").await;
    // As a kill leaves it: written down, and not begun.
    let file = fixture.sandbox.paths.manifests().join("stuck.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    manifest["objects"]["former"] = json!({ "mounts": manifest["spec"]["mounts"].take() });
    manifest["spec"]["mounts"] = json!([]);
    fs::write(&file, manifest.to_string()).unwrap();
    let report = fixture.host.recover().await.unwrap();
    let [(_, Outcome::Failed(reason))] = report.containers.as_slice() else { panic!("{report:?}") };
    assert!(reason.contains("mount on `/srv/one` in the container is busy"), "{reason}");

    limits.pids_max = Some(Limit::At(33));
    let info = fixture.host.apply_limits(&name, limits.clone()).await.unwrap();
    assert_eq!(info.spec.limits, limits);
    assert_eq!(limits::file(&fixture.host, &name, "pids", "", "pids.max"), "33");
    assert_eq!(seen(&fixture, &name).await, "/srv/one");

    // Once it is free, recovery goes on.
    fixture.sh(&name, "kill $(cat /pid); while kill -0 $(cat /pid) 2> /dev/null; do sleep 0.1; done").await;
    let report = fixture.host.recover().await.unwrap();
    assert_eq!(report.containers, [(name.clone(), Outcome::Changed)]);
    assert_eq!((seen(&fixture, &name).await.as_str(), ready(&fixture, &name)), ("", 0));
    fixture.host.remove(&name).await.unwrap();
    fixture.end().await;
}

/// What the container has taken away or covered itself is gone, or is in nobody's way but its own.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_container_that_changes_its_mounts_itself() {
    let fixture = Fixture::new().await;
    let (one, two) = (source(&fixture, "one"), source(&fixture, "two"));
    let mut spec = spec("own");
    spec.mounts = vec![bind(&one, "/srv/one"), bind(&two, "/srv/two")];
    let name = spec.name.clone();
    fixture.host.launch(spec).await.unwrap();
    fixture.sh(&name, "umount /srv/one; mount -t tmpfs x /srv/two").await;
    let error = fixture.host.apply_mounts(&name, Vec::new()).await.unwrap_err();
    assert!(error.to_string().contains("has mounted something over it"), "{error}");
    // Taking the change back has made whole what it took away.
    assert_eq!(fixture.sh(&name, "umount /srv/two; cat /srv/one/name /srv/two/name").await, "onetwo");
    fixture.host.apply_mounts(&name, Vec::new()).await.unwrap();
    assert_eq!(seen(&fixture, &name).await, "");
    fixture.host.remove(&name).await.unwrap();
    fixture.end().await;
}

/// Reboots it from inside, and waits until it runs again.
async fn reboot(fixture: &Fixture, name: &ContainerName) {
    let runtime = fixture.host.runtime(name).unwrap();
    let first = runtime.init_pid().unwrap().unwrap();
    fixture.host.exec(name, Exec::new(["reboot", "-f"])).await.ok();
    let deadline = Instant::now() + Duration::from_secs(60);
    while runtime.init_pid().unwrap().is_none_or(|init| init == first) {
        assert!(Instant::now() < deadline, "it did not come back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// After a reboot from inside it has what it was started with, with its content, and the rest for the asking.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn mounts_outlive_a_reboot_from_inside() {
    let fixture = Fixture::new().await;
    let one = source(&fixture, "one");
    let memory = MountEntry::tmpfs(Tmpfs::new(1 << 20), "/srv/memory").unwrap().create_dir();
    let mut spec = spec("again");
    spec.mounts = vec![bind(&one, "/srv/one").id_mapped(), memory];
    let mut wanted = spec.mounts.clone();
    let name = spec.name.clone();
    fixture.host.launch(spec).await.unwrap();
    wanted.push(bind(&one, "/srv/later"));
    fixture.host.apply_mounts(&name, wanted.clone()).await.unwrap();
    fixture.sh(&name, "echo kept > /srv/memory/file").await;
    reboot(&fixture, &name).await;
    assert_eq!(seen(&fixture, &name).await, "/srv/memory /srv/one");
    assert_eq!(fixture.sh(&name, "cat /srv/memory/file; stat -c %u /srv/one/name").await, "kept\n0\n");
    fixture.host.apply_mounts(&name, wanted.clone()).await.unwrap();
    assert_eq!(seen(&fixture, &name).await, "/srv/later /srv/memory /srv/one");
    // What was taken away does not come back, and does not keep it from coming back.
    wanted.truncate(1);
    fixture.host.apply_mounts(&name, wanted).await.unwrap();
    reboot(&fixture, &name).await;
    assert_eq!(seen(&fixture, &name).await, "/srv/one");
    fixture.host.remove(&name).await.unwrap();
    fixture.end().await;
}

/// A container whose init is killed in the middle: the mounts are those of the new list after the next start.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn mounts_of_a_container_that_died_come_with_the_next_start() {
    let fixture = Fixture::new().await;
    let one = source(&fixture, "one");
    let spec = spec("dead");
    let name = spec.name.clone();
    fixture.host.launch(spec).await.unwrap();
    fixture.host.apply_mounts(&name, vec![bind(&one, "/srv/one")]).await.unwrap();
    fixture.host.runtime(&name).unwrap().kill().unwrap();
    assert_eq!(ready(&fixture, &name), 0);
    fixture.host.apply_mounts(&name, vec![bind(&one, "/srv/one"), bind(&one, "/srv/two")]).await.unwrap();
    let report = fixture.host.recover().await.unwrap();
    assert!(report.complete(), "{report:?}");
    assert_eq!(seen(&fixture, &name).await, "/srv/one /srv/two");
    let link = fixture.sandbox.dir("links").join("link");
    symlink(&one, &link).unwrap();
    let error = fixture.host.apply_mounts(&name, vec![bind(&link, "/srv/one")]).await.unwrap_err();
    assert!(error.to_string().contains("runs through a symbolic link: name the place itself"), "{error}");
    fixture.host.remove(&name).await.unwrap();
    fixture.end().await;
}
