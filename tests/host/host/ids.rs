//! Which ids containers have on the host, by the kernel's word.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use docklet::error::Chain;
use docklet::host::{ContainerInfo, ContainerSpec, Doctor, Finding, Privilege};
use docklet::lxc::MountEntry;
use docklet::{Error, name::ContainerName};

use super::fixture::{Fixture, spec};
use crate::kernel;

/// Where docklet's ranges begin, and how long each is.
const FIRST: u32 = 1_879_048_192;
const LENGTH: u32 = 65_536;

fn lonely(name: &str) -> ContainerSpec {
    ContainerSpec { interfaces: BTreeMap::new(), ..spec(name) }
}

/// The map of a container's first process, and its root's id in it.
fn map_of(fixture: &Fixture, name: &ContainerName) -> (String, u32) {
    let pid = fixture.host.runtime(name).unwrap().init_pid().unwrap().expect("it runs");
    let read = |file: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(read("uid_map"), read("gid_map"));
    let root = fs::metadata(format!("/proc/{pid}")).unwrap().uid();
    (read("uid_map"), root)
}

fn root_of(info: &ContainerInfo) -> u32 {
    info.ids.as_ref().expect("ids").root()
}

/// Each has a range of its own, which its files on the volume have, too; it stays the same, and does not come again soon.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn each_container_has_ids_of_its_own() {
    let fixture = Fixture::new().await;
    let (one, two) = (spec("one"), spec("two"));
    let ranges = [
        root_of(&fixture.host.launch(one.clone()).await.unwrap()),
        root_of(&fixture.host.launch(two.clone()).await.unwrap()),
    ];
    assert!(ranges.iter().all(|first| *first >= FIRST && *first < 2_147_352_576), "{ranges:?}");
    assert_ne!(ranges[0], ranges[1]);
    for (spec, root) in [&one, &two].into_iter().zip(ranges) {
        assert_eq!(map_of(&fixture, &spec.name), (format!("0 {root} {LENGTH}"), root));
        fixture.sh(&spec.name, "echo x > /root/own; touch /root/other; chown 33:34 /root/other").await;
        let id = fixture.host.get(&spec.name).unwrap().id;
        let upper = fixture.sandbox.paths.volumes().join("mounts").join(id.as_str()).join("upper/root");
        let owner =
            |name: &str| fs::metadata(upper.join(name)).map(|found| (found.uid(), found.gid())).unwrap();
        assert_eq!((owner("own"), owner("other")), ((root, root), (root + 33, root + 34)));
        assert_eq!(
            fixture.sh(&spec.name, "stat -c %u:%g /bin /root/own /root/other | xargs").await,
            "0:0 0:0 33:34\n"
        );
    }
    // Down and up, and after a recovery, they are what they were.
    fixture.host.stop(&one.name, Duration::ZERO).await.unwrap();
    assert_eq!(root_of(&fixture.host.start(&one.name).await.unwrap()), ranges[0]);
    assert_eq!(map_of(&fixture, &one.name).1, ranges[0]);
    fixture.host.runtime(&one.name).unwrap().kill().unwrap();
    fixture.host.recover().await.unwrap();
    assert_eq!(map_of(&fixture, &one.name).1, ranges[0]);
    // What was in use a moment ago is not given to the next.
    fixture.host.remove(&two.name).await.unwrap();
    let three = fixture.host.launch(lonely("three")).await.unwrap();
    assert!(!ranges.contains(&root_of(&three)), "{three:?}");
    for name in [&one.name, &three.spec.name] {
        fixture.host.remove(name).await.unwrap();
    }
    fixture.end().await;
}

/// While a manifest cannot be read its container's range is not another's, nor is one that `/etc/subuid` gives away.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn ids_in_use_are_not_given_again() {
    let fixture = Fixture::new().await;
    let own = root_of(&fixture.host.launch(lonely("damaged")).await.unwrap());
    let manifest = fixture.sandbox.paths.manifests().join("damaged.json");
    let text = fs::read(&manifest).unwrap();
    fs::write(&manifest, "{").unwrap();
    // The search goes on right before it.
    let number = (own - FIRST) / LENGTH;
    let last = fixture.sandbox.paths.prefix().join("local/last-ids");
    assert_eq!(fs::read_to_string(&last).unwrap(), format!("{number:010}\n"));
    let before = (number + 4093) % 4094;
    fs::write(&last, format!("{before:010}\n")).unwrap();
    // In this sandbox's own mount namespace.
    let dir = fixture.sandbox.dir("etc");
    for part in ["upper", "work"] {
        fs::create_dir(dir.join(part)).unwrap();
    }
    let options = format!("lowerdir=/etc,upperdir={0}/upper,workdir={0}/work", dir.display());
    kernel::run("mount", ["-t", "overlay", "-o", &options, "overlay", "/etc"]);
    let next = FIRST + (number + 1) % 4094 * LENGTH;
    fs::write("/etc/subuid", format!("somebody:{next}:1\n")).unwrap();
    fs::write("/etc/subgid", format!("somebody:{}:{}\n", next + LENGTH + 7, 1)).unwrap();
    let other = root_of(&fixture.host.launch(lonely("other")).await.unwrap());
    kernel::unmount("/etc");
    assert_eq!((other - FIRST) / LENGTH, (number + 3) % 4094);
    // What cannot be read of the file only tells where to begin.
    fs::write(&last, "no number").unwrap();
    let third = root_of(&fixture.host.launch(lonely("third")).await.unwrap());
    assert!(third != own && third != other);
    fs::write(&manifest, text).unwrap();
    for name in ["damaged", "other", "third"] {
        fixture.host.remove(&name.parse().unwrap()).await.unwrap();
    }
    fixture.end().await;
}

/// Two launches at once never get the same.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn launches_at_once_get_different_ids() {
    let fixture = Fixture::new().await;
    let names: Vec<String> = (0..6).map(|n| format!("c{n}")).collect();
    let launches = names.iter().map(|name| fixture.host.launch(lonely(name)));
    let infos = futures_util::future::try_join_all(launches).await.unwrap();
    let mut roots: Vec<u32> = infos.iter().map(root_of).collect();
    roots.sort_unstable();
    roots.dedup();
    assert_eq!(roots.len(), names.len());
    for info in infos {
        fixture.host.remove(&info.spec.name).await.unwrap();
    }
    fixture.end().await;
}

/// A container that reboots from inside has the same ids after it.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_reboot_from_inside_keeps_the_ids() {
    let fixture = Fixture::new().await;
    let info = fixture.host.launch(spec("again")).await.unwrap();
    let runtime = fixture.host.runtime(&info.spec.name).unwrap();
    let first = runtime.init_pid().unwrap().unwrap();
    let ids = map_of(&fixture, &info.spec.name);
    let exec = docklet::lxc::Exec {
        timeout: Some(Duration::from_secs(20)),
        ..docklet::lxc::Exec::new(["reboot", "-f"])
    };
    // It ends with the old init.
    let _ = fixture.host.exec(&info.spec.name, exec).await;
    let begin = Instant::now();
    let again = loop {
        match runtime.init_pid().unwrap() {
            Some(pid) if pid != first => break pid,
            _ => assert!(begin.elapsed() < Duration::from_secs(30), "it does not come back"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_ne!(again, first);
    assert_eq!(map_of(&fixture, &info.spec.name), ids);
    assert_eq!(fixture.sh(&info.spec.name, "cat /proc/1/uid_map | xargs").await, format!("{}\n", ids.0));
    fixture.host.remove(&info.spec.name).await.unwrap();
    fixture.end().await;
}

/// Privileged is a choice: then root inside is root outside, which is told.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_privileged_container_is_one_by_choice() {
    let fixture = Fixture::new().await;
    let spec = ContainerSpec { privilege: Privilege::Privileged, ..spec("loud") };
    let info = fixture.host.launch(spec.clone()).await.unwrap();
    assert_eq!((info.ids, info.spec.privilege), (None, Privilege::Privileged));
    assert_eq!(map_of(&fixture, &spec.name), ("0 0 4294967295".to_owned(), 0));
    let directory = fixture.sandbox.paths.containers().join(info.id.as_str());
    assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o7777, 0o700);
    let other = ContainerSpec { privilege: Privilege::default(), ..spec.clone() };
    let error = fixture.host.launch(other).await.unwrap_err();
    assert!(matches!(&error, Error::Differs { .. }) && error.to_string().contains("privilege"), "{error}");
    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}

/// A directory that ordinary users may not search is named before anything is made.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_barred_way_is_named() {
    let fixture = Fixture::new().await;
    let prefix = fixture.sandbox.paths.prefix().to_owned();
    let bar = |path: &PathBuf, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    bar(&prefix, 0o700);
    let check = |error: Error, path: &PathBuf| {
        let message = Chain(&error).to_string();
        assert!(matches!(error, Error::Unsupported { .. }), "{message}");
        assert!(message.contains(&format!("chmod o+x {}`", path.display())), "{message}");
    };
    check(fixture.host.launch(spec("barred")).await.unwrap_err(), &prefix);
    let found = Doctor::examine(&fixture.sandbox.paths).await;
    let way = found.checks.iter().find(|check| check.subject == "way to containers").unwrap();
    assert!(way.finding == Finding::Missing && way.detail.contains("chmod o+x"), "{way:?}");
    let privileged = ContainerSpec { privilege: Privilege::Privileged, ..spec("free") };
    fixture.host.launch(privileged.clone()).await.unwrap();
    fixture.host.remove(&privileged.name).await.unwrap();
    bar(&prefix, 0o711);
    // What is shown inside needs no way for others: it is opened by the host's root.
    let hidden = fixture.sandbox.dir("hidden");
    fs::create_dir(hidden.join("shown")).unwrap();
    fs::write(hidden.join("shown/file"), "seen").unwrap();
    bar(&hidden, 0o700);
    let mut spec = spec("shown");
    spec.mounts = vec![MountEntry::bind(hidden.join("shown"), "/mnt").unwrap().create_dir()];
    fixture.host.launch(spec.clone()).await.unwrap();
    assert_eq!(fixture.sh(&spec.name, "cat /mnt/file").await, "seen");
    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}

/// The programs of the package uidmap, which know `/etc/subuid` only, are not asked.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn programs_for_subordinate_ids_are_not_asked() {
    let fixture = Fixture::new().await;
    // In this sandbox's own mount namespace.
    kernel::run("mount", ["-t", "tmpfs", "tmpfs", "/usr/local/bin"]);
    for program in ["newuidmap", "newgidmap"] {
        let path = PathBuf::from("/usr/local/bin").join(program);
        fs::copy("/bin/false", &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
    }
    let spec = spec("asked");
    fixture.host.launch(spec.clone()).await.unwrap();
    assert!(!fixture.sh(&spec.name, "tr '\\0' '\\n' < /proc/1/environ").await.contains("nonexistent"));
    fixture.host.remove(&spec.name).await.unwrap();
    kernel::unmount("/usr/local/bin");
    fixture.end().await;
}
