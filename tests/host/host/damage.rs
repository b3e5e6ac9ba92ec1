//! What somebody or something damaged beneath the prefix: it is reported, kept, and in nobody else's way.

use std::fs;

use docklet::Error;
use docklet::error::Chain;
use docklet::host::{ContainerSpec, NetworkSpec, Outcome};
use docklet::lxc::State;
use docklet::name::ContainerName;

use super::fixture::{Fixture, network, spec};
use crate::kernel;

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
    let (sound, lonely) = (spec("sound"), ContainerSpec { network: None, ..spec("lonely") });
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
    let other =
        NetworkSpec { name: "other".parse().unwrap(), gateway: "10.97.0.1/24".parse().unwrap(), ..network() };
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
    let third =
        NetworkSpec { name: "third".parse().unwrap(), gateway: "10.96.0.1/24".parse().unwrap(), ..network() };
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
    let other =
        NetworkSpec { name: "other".parse().unwrap(), gateway: "10.97.0.1/24".parse().unwrap(), ..network() };
    kernel::run("mount", ["--bind", "/bin/false", "/usr/sbin/nft"]);
    let error = fixture.host.ensure_network(&other).await.unwrap_err();
    kernel::run("umount", ["/usr/sbin/nft"]);
    assert!(error.to_string().contains("nft"), "{error}");
    assert_eq!(fixture.changes().await, "");
    fixture.end().await;
}
