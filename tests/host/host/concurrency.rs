//! Many operations at once, from one process and from two.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use docklet::Error;
use docklet::error::Chain;
use docklet::host::{ContainerInfo, ContainerSpec, Host, NetworkSpec};
use docklet::lxc::Exec;
use docklet::name::ContainerName;
use docklet::paths::Paths;

use super::fixture::{Fixture, network, spec};
use super::interfaces::{dmz, interfaces};
use crate::kernel;
use crate::sandbox::{alone, open_descriptors};
use crate::sixteen::{number, processes, wait_for};

/// Tells the test below that it is the second process on a prefix.
const PREFIX: &str = "DOCKLET_TEST_PREFIX";

/// Sixteen launches and then sixteen removals at once.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn sixteen_at_once() {
    let fixture = Fixture::new().await;
    let specs: Vec<_> = (0..16).map(|n| spec(&format!("c{n}"))).collect();
    let addresses: BTreeSet<_> =
        launch_all(&fixture.host, &specs).await.iter().map(docklet::host::ContainerInfo::address).collect();
    assert_eq!(addresses.len(), 16, "each has an address of its own");
    assert_eq!(fixture.host.list().unwrap().len(), 16);
    remove_all(&fixture.host, &specs).await;
    fixture.end().await;
}

/// Sixteen launches of one name are one container; sixteen removals of it are one.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn sixteen_times_the_same() {
    let fixture = Fixture::new().await;
    let specs = vec![spec("same"); 16];
    let ids: BTreeSet<_> = launch_all(&fixture.host, &specs).await.into_iter().map(|info| info.id).collect();
    assert_eq!(ids.len(), 1);
    remove_all(&fixture.host, &specs).await;
    fixture.end().await;
}

/// Launches all at once.
async fn launch_all(host: &Host, specs: &[ContainerSpec]) -> Vec<ContainerInfo> {
    let launches: Vec<_> = specs
        .iter()
        .map(|spec| {
            let (host, spec) = (host.clone(), spec.clone());
            tokio::spawn(async move { host.launch(spec).await })
        })
        .collect();
    let mut launched = Vec::new();
    for launch in launches {
        launched.push(launch.await.unwrap().unwrap());
    }
    launched
}

/// Removes all at once.
async fn remove_all(host: &Host, specs: &[ContainerSpec]) {
    let removals: Vec<_> = specs
        .iter()
        .map(|spec| {
            let (host, name) = (host.clone(), spec.name.clone());
            tokio::spawn(async move { host.remove(&name).await })
        })
        .collect();
    for removal in removals {
        removal.await.unwrap().unwrap();
    }
}

/// Runs another test of this program in a second process, on this fixture's prefix, while `work` goes on.
async fn beside(fixture: &Fixture, test: &str, work: impl Future<Output = ()>) {
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--include-ignored"])
        .env(PREFIX, fixture.sandbox.paths.prefix())
        .spawn()
        .unwrap();
    work.await;
    let status = tokio::task::spawn_blocking(move || other.wait()).await.unwrap().unwrap();
    assert!(status.success(), "the second process failed");
}

/// Two processes launch and remove on one prefix, the same names and others.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn two_processes_share_a_prefix() {
    let fixture = Fixture::new().await;
    beside(&fixture, "host::concurrency::the_second_process", churn(&fixture.host)).await;
    assert_eq!(fixture.host.list().unwrap(), []);
    fixture.end().await;
}

/// What the second process of the test above does; alone, it does it on a prefix of its own.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn the_second_process() {
    match std::env::var_os(PREFIX) {
        Some(prefix) => {
            let host = Host::open(Paths::new(prefix).unwrap()).await.unwrap();
            churn(&host).await;
        }
        None => {
            let fixture = Fixture::new().await;
            churn(&fixture.host).await;
            fixture.end().await;
        }
    }
}

async fn churn(host: &Host) {
    for round in 0..3 {
        for name in ["shared", &format!("own-{}-{round}", std::process::id())] {
            host.launch(spec(name)).await.unwrap();
            host.remove(&name.parse().unwrap()).await.unwrap();
        }
    }
}

/// Who waits too long for another's operation is told so.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_lock_that_is_held_ends_in_busy() {
    let fixture = Fixture::new().await;
    let name: ContainerName = "held".parse().unwrap();
    let path = fixture.sandbox.paths.locks().join("held.lock");
    let mut holder = Command::new("flock").arg("--no-fork").arg(&path).args(["sleep", "60"]).spawn().unwrap();
    while Command::new("flock").arg("--nonblock").arg(&path).arg("true").status().unwrap().success() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let impatient = fixture.host.clone().with_lock_timeout(Duration::from_millis(100));
    let error = impatient.launch(spec("held")).await.unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    assert!(error.to_string().contains("container `held` is busy"), "{error}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    fixture.host.remove(&name).await.unwrap();
    fixture.end().await;
}

/// Whoever loses interest half-way leaves a running container, or nothing.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_dropped_launch_is_whole() {
    let fixture = Fixture::new().await;
    for milliseconds in [0, 1, 3, 6, 10, 15, 25] {
        let spec = spec("dropped");
        let launch = fixture.host.launch(spec.clone());
        let _ = tokio::time::timeout(Duration::from_millis(milliseconds), launch).await;
        // The next operation on the name waits for the one that goes on.
        let report = fixture.host.recover().await.unwrap();
        assert!(report.complete(), "{report:?}");
        if let Ok(info) = fixture.host.get(&spec.name) {
            assert_eq!(info.state, docklet::lxc::State::Running);
        }
        fixture.host.remove(&spec.name).await.unwrap();
        assert_eq!(fixture.changes().await, "");
    }
    fixture.end().await;
}

/// Every operation on the same two names from many tasks and from two processes at once, recovery among them: each
/// succeeds or says why not, and in the end nothing is left.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn everything_at_once_on_two_names() {
    let fixture = Fixture::new().await;
    beside(&fixture, "host::concurrency::the_second_storm", storm(&fixture.host)).await;
    for name in STORMY {
        fixture.host.remove(&name.parse().unwrap()).await.unwrap();
    }
    let report = fixture.host.recover().await.unwrap();
    assert!(report.complete(), "{report:?}");
    fixture.end().await;
}

/// What the second process of the test above does; alone, nothing.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn the_second_storm() {
    if let Some(prefix) = std::env::var_os(PREFIX) {
        storm(&Host::open(Paths::new(prefix).unwrap()).await.unwrap()).await;
    }
}

const STORMY: [&str; 2] = ["storm-a", "storm-b"];

async fn storm(host: &Host) {
    let end = std::time::Instant::now() + Duration::from_secs(4);
    let tasks: Vec<_> = (0..6_usize)
        .map(|task| {
            let host = host.clone();
            tokio::spawn(async move {
                // Each task goes through all pairs of an operation and a name, in an order of its own.
                let mut step = task * 5 + std::process::id() as usize;
                while std::time::Instant::now() < end {
                    step += 2 * task + 1;
                    let name: ContainerName = STORMY[step / 7 % 2].parse().unwrap();
                    let result = match step % 7 {
                        0 | 1 => host.launch(spec(name.as_str())).await.map(drop),
                        2 => host.remove(&name).await,
                        3 => host.stop(&name, Duration::from_millis(50)).await,
                        4 => host.start(&name).await.map(drop),
                        5 => host.exec(&name, Exec::new(["true"])).await.map(drop),
                        _ => host.recover().await.map(|report| assert!(report.complete(), "{report:?}")),
                    };
                    match result {
                        Ok(()) | Err(Error::NotFound { .. }) => {}
                        Err(error) => panic!("{}: {}", step % 7, Chain(&error)),
                    }
                    host.list().unwrap();
                    host.inventory().await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Twelve threads of one process, each with a runtime of its own, drive a container each on one host, and all of them one more.
#[test]
#[ignore = "needs root: namespaces, mounts, LXC"]
fn many_threads_drive_many_containers() {
    let sandbox = crate::sandbox::Sandbox::new();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime().block_on(async {
        let fixture = Fixture::within(sandbox).await;
        fixture.host.launch(spec("shared")).await.unwrap();
        let threads: Vec<_> = (0..12)
            .map(|number| {
                let host = fixture.host.clone();
                let drive = move || runtime().block_on(drive(&host, &spec(&format!("t{number}"))));
                tokio::task::spawn_blocking(move || std::thread::spawn(drive).join().unwrap())
            })
            .collect();
        for thread in threads {
            thread.await.unwrap();
        }
        let names: Vec<_> = fixture.host.list().unwrap().into_iter().map(|info| info.spec.name).collect();
        assert_eq!(names, ["shared".parse().unwrap()]);
        fixture.host.remove(&names[0]).await.unwrap();
        fixture.end().await;
    });
}

/// What each of these threads does.
async fn drive(host: &Host, own: &ContainerSpec) {
    let shared: ContainerName = "shared".parse().unwrap();
    for _ in 0..2 {
        host.launch(own.clone()).await.unwrap();
        for name in [&own.name, &shared] {
            let output = host.exec(name, Exec::new(["hostname"])).await.unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{name}\n"));
        }
        host.freeze(&own.name).await.unwrap();
        host.unfreeze(&own.name).await.unwrap();
        host.stop(&own.name, Duration::ZERO).await.unwrap();
        host.start(&own.name).await.unwrap();
        assert!(host.list().unwrap().iter().any(|info| info.spec == *own));
        host.remove(&own.name).await.unwrap();
    }
}

/// A runtime that is shut down in the middle of a launch leaves what one recovery mends: the work that still runs on its
/// threads holds the container's lock. And a host can be used from another runtime than its own.
#[test]
#[ignore = "needs root: namespaces, mounts, LXC"]
fn a_runtime_that_ends_half_way_leaves_no_orphans() {
    let sandbox = crate::sandbox::Sandbox::new();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let lasting = runtime();
    let fixture = lasting.block_on(Fixture::within(sandbox));
    let spec = spec("dropped");
    for milliseconds in [1, 5, 8, 11, 14, 17, 20, 25, 30] {
        let short = runtime();
        short.block_on(async {
            let host = Host::open(fixture.sandbox.paths.clone()).await.unwrap();
            let launch = host.launch(spec.clone());
            let _ = tokio::time::timeout(Duration::from_millis(milliseconds), launch).await;
        });
        short.shutdown_background();
        lasting.block_on(async {
            let report = fixture.host.recover().await.unwrap();
            assert!(report.complete() && report.orphans.is_empty(), "{milliseconds} ms: {report:?}");
            let report = fixture.host.recover().await.unwrap();
            assert!(!report.changed(), "{milliseconds} ms: {report:?}");
            fixture.host.remove(&spec.name).await.unwrap();
            assert_eq!(fixture.changes().await, "");
        });
    }
    let short = runtime();
    let host = short.block_on(Host::open(fixture.sandbox.paths.clone())).unwrap();
    drop(short);
    let error = lasting.block_on(host.launch(spec.clone())).unwrap_err();
    assert!(error.to_string().contains("an operation"), "{error}");
    lasting.block_on(fixture.end());
}

/// Fifty lives leave no descriptor, no object and no file behind.
#[test]
#[ignore = "needs root: namespaces, mounts, LXC"]
fn fifty_cycles_leave_nothing() {
    if !alone("host::concurrency::fifty_cycles_leave_nothing") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let fixture = Fixture::new().await;
        let spec = spec("again");
        let mut descriptors = 0;
        for cycle in 0..50 {
            fixture.host.launch(spec.clone()).await.unwrap();
            fixture.host.remove(&spec.name).await.unwrap();
            if cycle == 0 {
                descriptors = open_descriptors();
            }
        }
        assert_eq!(fixture.changes().await, "");
        assert_eq!(open_descriptors(), descriptors);
        fixture.end().await;
    });
}

/// Sixteen processes launch and remove in one network that others change, beside one that comes and goes, and one
/// container whose interfaces all of them set: each call succeeds or says why not now, and in the end nothing is left.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn sixteen_processes_share_networks() {
    let fixture = Fixture::new().await;
    fixture.host.launch(spec("shared")).await.unwrap();
    let all = processes("host::concurrency::one_of_sixteen", PREFIX, fixture.sandbox.paths.prefix());
    tokio::task::spawn_blocking(|| wait_for(all)).await.unwrap();
    let report = fixture.host.recover().await.unwrap();
    assert!(report.complete() && !report.changed(), "{report:?}");
    let names: Vec<_> = fixture.host.list().unwrap().into_iter().map(|info| info.spec.name).collect();
    assert_eq!(names, ["shared".parse().unwrap()]);
    // Its ports are as many as it has interfaces, of all links with this prefix's mark.
    let shared = fixture.host.get(&names[0]).unwrap();
    let links = kernel::json("ip", ["-j", "-d", "link", "show", "type", "veth"]);
    assert_eq!(links.as_array().unwrap().len(), shared.spec.interfaces.len(), "{links}");
    fixture.host.remove(&names[0]).await.unwrap();
    fixture.host.remove_network(&dmz().name).await.unwrap();
    fixture.host.apply_network(&network()).await.unwrap();
    fixture.end().await;
}

/// What each of the processes of the test above does; alone, nothing.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn one_of_sixteen() {
    let Some(prefix) = std::env::var_os(PREFIX) else { return };
    let host = Host::open(Paths::new(prefix).unwrap()).await.unwrap();
    let (own, shared) = (spec(&format!("own-{}", number())), "shared".parse().unwrap());
    let end = std::time::Instant::now() + Duration::from_secs(10);
    let mut step = number() * 5;
    while std::time::Instant::now() < end {
        step += number() + 1;
        let result = match step % 9 {
            0 | 1 => host.launch(own.clone()).await.map(drop),
            2 => host.remove(&own.name).await,
            3 => host.apply_interfaces(&shared, interfaces(&[("eth0", &network())])).await.map(drop),
            4 | 5 => {
                let both = interfaces(&[("eth0", &network()), ("eth1", &dmz())]);
                host.apply_interfaces(&shared, both).await.map(drop)
            }
            6 => host.ensure_network(&dmz()).await,
            7 => host.remove_network(&dmz().name).await,
            _ => host.apply_network(&NetworkSpec { nat: step.is_multiple_of(2), ..network() }).await,
        };
        match result {
            Ok(()) | Err(Error::NotFound { .. } | Error::Busy { .. }) => {}
            Err(error) => panic!("{}: {}", step % 9, Chain(&error)),
        }
    }
    host.remove(&own.name).await.unwrap();
}
