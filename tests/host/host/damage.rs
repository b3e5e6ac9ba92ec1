//! What somebody or something damaged beneath the prefix: it is reported, kept, and in nobody else's way.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use docklet::Error;
use docklet::error::Chain;
use docklet::host::{ContainerSpec, Host, NetworkSpec, Outcome};
use docklet::lxc::State;
use docklet::name::ContainerName;
use docklet::paths::Paths;
use serde_json::Value;

use super::fixture::{Fixture, network, spec};
use crate::kernel;
use crate::sandbox::Sandbox;

/// Files that are no manifests of this version, by name.
const DAMAGED: [(&str, &str, &str); 4] = [
    ("corrupt", "{\"format\": 1, \"id\"", "EOF"),
    ("empty", "", "EOF"),
    ("newer", "{\"format\": 99}", "has format 99"),
    ("partial", "{\"format\": 1}", "missing field"),
];

/// Manifests that cannot be read are reported and stay; other containers are found, recovered, stopped and removed.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn damaged_manifests_are_in_nobodys_way() {
    let fixture = Fixture::new().await;
    let (sound, lonely) = (spec("sound"), ContainerSpec { interfaces: BTreeMap::new(), ..spec("lonely") });
    fixture.host.launch(sound.clone()).await.unwrap();
    let dir = fixture.sandbox.paths.manifests();
    for (name, text, _) in DAMAGED {
        fs::write(dir.join(format!("{name}.json")), text).unwrap();
    }
    fs::write(dir.join("Not a name!.json"), "{").unwrap();
    fs::copy(dir.join("sound.json"), dir.join("copy.json")).unwrap();

    assert_eq!(fixture.host.list().unwrap().len(), 1);
    let report = fixture.host.recover().await.unwrap();
    assert!(!report.changed() && !report.complete(), "{report:?}");
    for (name, _, words) in DAMAGED.into_iter().chain([("copy", "", "copy.json is of `sound`")]) {
        let name: ContainerName = name.parse().unwrap();
        let found = report.containers.iter().find(|(other, _)| *other == name);
        let Some((_, Outcome::Failed(reason))) = found else { panic!("{name}: {found:?}") };
        assert!(reason.contains(words), "{reason}");
        let error = fixture.host.remove(&name).await.unwrap_err();
        assert!(Chain(&error).to_string().contains(words), "{error}");
    }
    assert_eq!(fixture.host.get(&sound.name).unwrap().state, State::Running);
    // An address that may be another's is not given out; without one nothing is in the way.
    let error = fixture.host.launch(spec("third")).await.unwrap_err();
    assert!(matches!(error, Error::Busy { .. }) && error.to_string().contains("copy.json"), "{error}");
    let error = fixture.host.remove_network(&network().name).await.unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    fixture.host.launch(lonely.clone()).await.unwrap();
    for name in [&lonely.name, &sound.name] {
        fixture.host.remove(name).await.unwrap();
    }
    for name in DAMAGED.map(|(name, _, _)| name).into_iter().chain(["Not a name!", "copy"]) {
        fs::remove_file(dir.join(format!("{name}.json"))).unwrap();
    }
    fixture.host.recover().await.unwrap();
    fixture.end().await;
}

/// A network whose change was cut off becomes what it should be, whatever else cannot be recovered.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_network_is_settled_beside_damage() {
    let fixture = Fixture::new().await;
    let sound = spec("sound");
    fixture.host.launch(sound.clone()).await.unwrap();
    let dir = fixture.sandbox.paths.networks();
    let (file, damaged) = (dir.join(format!("{}.json", network().name)), dir.join("damaged.json"));
    let read = || serde_json::from_slice::<Value>(&fs::read(&file).unwrap()).unwrap();
    let settled = read();
    let mut record = settled.clone();
    record["unsettled"] = true.into();
    fs::write(&file, record.to_string()).unwrap();
    fs::write(&damaged, "{").unwrap();

    let report = fixture.host.recover().await.unwrap();
    assert!(report.failures.iter().any(|failure| failure.contains("`damaged`")), "{report:?}");
    assert_eq!(report.ports, [(sound.name.clone(), "eth0".parse().unwrap())]);
    assert_eq!(read(), settled);
    fs::remove_file(&damaged).unwrap();
    let report = fixture.host.recover().await.unwrap();
    assert!(!report.changed() && report.complete(), "{report:?}");
    fixture.host.remove(&sound.name).await.unwrap();
    fixture.end().await;
}

/// While a manifest is damaged, its container goes on: it is not taken for an orphan.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_container_outlives_damage_to_its_manifest() {
    let fixture = Fixture::new().await;
    let spec = spec("one");
    fixture.host.launch(spec.clone()).await.unwrap();
    let init = fixture.host.runtime(&spec.name).unwrap().init_pid().unwrap();
    let path = fixture.sandbox.paths.manifests().join("one.json");
    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    let report = fixture.host.recover().await.unwrap();
    assert!(!report.changed() && !report.complete(), "{report:?}");
    fs::write(&path, good).unwrap();
    assert_eq!(fixture.host.runtime(&spec.name).unwrap().init_pid().unwrap(), init);
    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}

/// A network whose record is damaged goes on, its translation too; other networks can be used.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_network_outlives_damage_to_its_record() {
    let fixture = Fixture::new().await;
    let other = NetworkSpec {
        name: "other".parse().unwrap(),
        gateways: vec!["10.97.0.1/24".parse().unwrap()],
        ..network()
    };
    fixture.host.ensure_network(&other).await.unwrap();
    let all = fixture.host.inventory().await.unwrap();
    let path = fixture.sandbox.paths.networks().join("other.json");
    let good = fs::read(&path).unwrap();
    fs::write(&path, "").unwrap();
    let report = fixture.host.recover().await.unwrap();
    assert!(!report.changed() && report.failures.len() == 1, "{report:?}");
    fixture.host.ensure_network(&network()).await.unwrap();
    assert_eq!(all.diff(&fixture.host.inventory().await.unwrap()).to_string(), "");
    // Its subnet is not known, so none is taken.
    let third = NetworkSpec {
        name: "third".parse().unwrap(),
        gateways: vec!["10.96.0.1/24".parse().unwrap()],
        ..network()
    };
    let error = fixture.host.ensure_network(&third).await.unwrap_err();
    assert!(error.to_string().contains("other.json"), "{error}");
    fixture.host.launch(spec("one")).await.unwrap();
    fixture.host.remove(&spec("one").name).await.unwrap();
    fs::write(&path, good).unwrap();
    fixture.host.remove_network(&other.name).await.unwrap();
    fixture.end().await;
}

/// A network that cannot be made whole is not made at all.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_network_without_its_rules_is_taken_back() {
    let fixture = Fixture::new().await;
    let other = NetworkSpec {
        name: "other".parse().unwrap(),
        gateways: vec!["10.97.0.1/24".parse().unwrap()],
        ..network()
    };
    kernel::run("mount", ["--bind", "/bin/false", "/usr/sbin/nft"]);
    let error = fixture.host.ensure_network(&other).await.unwrap_err();
    kernel::unmount("/usr/sbin/nft");
    assert!(error.to_string().contains("nft"), "{error}");
    assert_eq!(fixture.changes().await, "");
    fixture.end().await;
}

/// On a full disk every operation says so and leaves nothing half-written; what helps against it, removing, works.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_full_disk_can_be_emptied() {
    let sandbox = Sandbox::new();
    let small = small_disk(&sandbox);
    let host = Host::open(Paths::new(&small).unwrap()).await.unwrap();
    crate::busybox::ensure(host.images(), &"busybox".parse().unwrap()).unwrap();
    host.ensure_network(&network()).await.unwrap();
    let empty = host.inventory().await.unwrap();
    let (running, stopped) = (spec("running"), spec("stopped"));
    for spec in [&running, &stopped] {
        host.launch(spec.clone()).await.unwrap();
    }
    host.stop(&stopped.name, Duration::ZERO).await.unwrap();
    let before = host.inventory().await.unwrap();
    for block in ["1M", "512"] {
        let fill = small.join(format!("fill-{block}"));
        let args = ["if=/dev/zero".to_owned(), format!("bs={block}"), format!("of={}", fill.display())];
        assert!(!Command::new("dd").args(args).output().unwrap().status.success());
    }
    let other = NetworkSpec { gateways: vec!["10.97.0.1/24".parse().unwrap()], ..network() };
    let other = NetworkSpec { name: "other".parse().unwrap(), ..other };
    for error in [
        host.launch(spec("new")).await.unwrap_err(),
        host.start(&stopped.name).await.unwrap_err(),
        host.stop(&running.name, Duration::ZERO).await.unwrap_err(),
        host.ensure_network(&other).await.unwrap_err(),
    ] {
        assert_eq!(error.errno(), Some(28), "{}", Chain(&error));
    }
    assert_eq!(before.diff(&host.inventory().await.unwrap()).to_string(), "");
    assert!(host.recover().await.unwrap().complete());
    for spec in [&running, &stopped] {
        host.remove(&spec.name).await.unwrap();
    }
    assert_eq!(empty.diff(&host.inventory().await.unwrap()).to_string(), "");
    host.remove_network(&network().name).await.unwrap();
    drop(host);
    kernel::unmount(&small);
}

/// However many inodes are left, a launch succeeds or leaves nothing.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_disk_without_inodes_keeps_nothing_half_made() {
    let sandbox = Sandbox::new();
    let small = small_disk(&sandbox);
    let host = Host::open(Paths::new(&small).unwrap()).await.unwrap();
    crate::busybox::ensure(host.images(), &"busybox".parse().unwrap()).unwrap();
    let spec = ContainerSpec { interfaces: BTreeMap::new(), ..spec("one") };
    // The template of its volume.
    host.launch(spec.clone()).await.unwrap();
    host.remove(&spec.name).await.unwrap();
    let empty = host.inventory().await.unwrap();
    let many = small.join("many");
    fs::create_dir(&many).unwrap();
    let made = (0..).take_while(|n| fs::File::create(many.join(n.to_string())).is_ok()).count();
    let mut launched = false;
    for left in 1..=made {
        if let Err(error) = host.launch(spec.clone()).await {
            let message = Chain(&error).to_string();
            assert!(!matches!(error, Error::LeftBehind { .. }), "{message}");
            assert_eq!(empty.diff(&host.inventory().await.unwrap()).to_string(), "", "{message}");
        } else {
            launched = true;
            break;
        }
        fs::remove_file(many.join((left - 1).to_string())).unwrap();
    }
    assert!(launched);
    host.remove(&spec.name).await.unwrap();
    assert_eq!(empty.diff(&host.inventory().await.unwrap()).to_string(), "");
    drop(host);
    kernel::unmount(&small);
}

/// A file system of its own for a prefix, without a reserve for root.
fn small_disk(sandbox: &Sandbox) -> PathBuf {
    let (image, small) = (sandbox.dir("image").join("disk"), sandbox.dir("small"));
    kernel::run("truncate", ["--size=200M", image.to_str().unwrap()]);
    kernel::run("mkfs.ext4", ["-q", "-m", "0", "-N", "1024", image.to_str().unwrap()]);
    kernel::run("mount", ["-o", "loop", image.to_str().unwrap(), small.to_str().unwrap()]);
    small
}

/// Fifos and links that somebody put where docklet keeps its files are neither waited for nor written through.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn odd_files_neither_hang_nor_lead_elsewhere() {
    let fixture = Fixture::new().await;
    let spec = spec("one");
    let name = &spec.name;
    let id = fixture.host.launch(spec.clone()).await.unwrap().id;
    let outside = fixture.sandbox.dir("outside").join("file");
    fs::write(&outside, "precious").unwrap();
    let manifest = fixture.sandbox.paths.manifests().join("one.json.new");
    let dir = fixture.sandbox.paths.containers().join(id.as_str());
    for file in
        ["config", "config.new", "lxc.log", "lxc.log.old", "started.json", "started.json.new", "manifest"]
    {
        for odd in ["fifo", "link"] {
            let path = if file == "manifest" { manifest.clone() } else { dir.join(file) };
            within(fixture.host.stop(name, Duration::ZERO)).await.unwrap();
            drop(fs::remove_file(&path));
            if odd == "fifo" {
                kernel::run("mkfifo", [&path]);
            } else {
                symlink(&outside, &path).unwrap();
            }
            within(async { fixture.host.get(name) }).await.unwrap();
            within(fixture.host.start(name)).await.unwrap();
            within(fixture.host.recover()).await.unwrap();
            assert_eq!(fs::read_to_string(&outside).unwrap(), "precious", "{odd} {file}");
        }
    }
    within(fixture.host.remove(name)).await.unwrap();
    // In the place of what must be a file, it is an error.
    let path = fixture.sandbox.paths.manifests().join("two.json");
    kernel::run("mkfifo", [&path]);
    let error = fixture.host.get(&"two".parse().unwrap()).unwrap_err();
    assert!(Chain(&error).to_string().contains("not a regular file"), "{error}");
    assert!(!fixture.host.recover().await.unwrap().complete());
    fs::remove_file(path).unwrap();
    fixture.host.recover().await.unwrap();
    fixture.end().await;
}

async fn within<T>(operation: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), operation).await.expect("it hangs")
}
