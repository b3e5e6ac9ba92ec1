//! What `recover` does after things went wrong. Reboots proper belong to a machine of their own.

use std::fs;
use std::path::Path;
use std::time::Duration;

use docklet::Error;
use docklet::host::{ContainerSpec, NetworkSpec, Outcome};
use docklet::lxc::State;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::fixture::{Fixture, spec};
use super::interfaces::{dmz, interfaces};
use crate::firewall::IPV6_SWITCH;
use crate::kernel;

/// A container whose init was killed is started again, with its data, and nothing is done the second time.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_killed_container_is_started_again() {
    let fixture = Fixture::new().await;
    let spec = spec("one");
    fixture.host.launch(spec.clone()).await.unwrap();
    fixture.sh(&spec.name, "echo kept > /root/data; sync").await;
    kill_init(&fixture, "one");

    let report = fixture.host.recover().await.unwrap();
    assert_eq!(report.containers, [(spec.name.clone(), Outcome::Started)]);
    assert!(report.complete());
    assert_eq!(fixture.sh(&spec.name, "cat /root/data").await, "kept\n");
    let report = fixture.host.recover().await.unwrap();
    assert!(!report.changed(), "{report:?}");

    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}

/// All that a reboot takes is taken (by hand: a simulated one), also the bridge and the rules.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_simulated_reboot_is_recovered() {
    let fixture = Fixture::new().await;
    let (one, two) = (spec("one"), spec("two"));
    for spec in [&one, &two] {
        fixture.host.launch(spec.clone()).await.unwrap();
        fixture.sh(&spec.name, "echo kept > /root/data; sync").await;
    }
    fixture.host.stop(&two.name, Duration::from_secs(10)).await.unwrap();
    let running = fixture.host.inventory().await.unwrap();

    kill_init(&fixture, "one");
    wait_for_the_monitor(&fixture);
    for line in kernel::mounts_beneath(fixture.sandbox.paths.prefix()).into_iter().rev() {
        kernel::unmount(line.split(' ').nth(4).unwrap());
    }
    delete_bridges_and_rules();

    let report = fixture.host.recover().await.unwrap();
    assert_eq!(
        report.containers,
        [(one.name.clone(), Outcome::Started), (two.name.clone(), Outcome::Unchanged)],
        "{report:?}"
    );
    assert_eq!(report.networks, ["lan"]);
    assert_eq!(fixture.sh(&one.name, "cat /root/data; ping -c 1 -w 5 10.99.0.1 > /dev/null").await, "kept\n");
    let again = fixture.host.inventory().await.unwrap();
    assert_eq!((again.links, again.nft, again.mounts), (running.links, running.nft, running.mounts));
    let report = fixture.host.recover().await.unwrap();
    assert!(!report.changed(), "{report:?}");

    for spec in [&one, &two] {
        fixture.host.remove(&spec.name).await.unwrap();
    }
    fixture.end().await;
}

/// A host that does not forward IPv6 any more, as after a reboot without that setting: networks are kept apart all the same,
/// it is told what is missing, and what is to go can go.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn rules_hold_where_ipv6_is_not_forwarded() {
    let fixture = Fixture::new().await;
    let forward_ipv6 = |word: &str| fs::write(IPV6_SWITCH, word).unwrap();
    let rules = || kernel::run("nft", ["list", "ruleset"]);
    forward_ipv6("1");
    let both = NetworkSpec { nat: true, ..dmz() };
    fixture.host.ensure_network(&both).await.unwrap();
    let one = ContainerSpec { interfaces: interfaces(&[("eth0", &both)]), ..spec("one") };
    fixture.host.launch(one.clone()).await.unwrap();
    let whole = rules();

    forward_ipv6("0");
    delete_bridges_and_rules();
    let report = fixture.host.recover().await.unwrap();
    assert_eq!(report.networks, ["dmz", "lan"]);
    let [failure] = &report.failures[..] else { panic!("{report:?}") };
    assert!(failure.contains("net.ipv6.conf.all.forwarding=1"), "{failure}");
    assert_eq!(rules(), whole);
    let report = fixture.host.recover().await.unwrap();
    assert!(!report.changed() && !report.complete(), "{report:?}");
    // What is new and needs it is refused; what does not comes and goes.
    let other = NetworkSpec {
        nat: true,
        ..NetworkSpec::new("new".parse().unwrap(), "fd00:9::1/64".parse().unwrap())
    };
    let error = fixture.host.ensure_network(&other).await.unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert_eq!(rules(), whole);
    fixture.host.launch(spec("two")).await.unwrap();
    fixture.host.remove(&"two".parse().unwrap()).await.unwrap();

    forward_ipv6("1");
    let report = fixture.host.recover().await.unwrap();
    assert!(!report.changed() && report.complete(), "{report:?}");
    forward_ipv6("0");
    fixture.host.remove(&one.name).await.unwrap();
    fixture.host.remove_network(&both.name).await.unwrap();
    fixture.end().await;
}

/// Where the rules cannot be made, nothing is connected without them: no network, and no container in one.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn nothing_is_connected_without_rules() {
    let fixture = Fixture::new().await;
    let spec = spec("one");
    fixture.host.launch(spec.clone()).await.unwrap();
    kill_init(&fixture, "one");
    wait_for_the_monitor(&fixture);
    delete_bridges_and_rules();
    let nft = kernel::run("which", ["nft"]);
    kernel::run("mount", ["--bind", "/bin/false", nft.trim()]);
    let report = fixture.host.recover().await.unwrap();
    assert!(report.failures.iter().any(|failure| failure.starts_with("firewall: ")), "{report:?}");
    let [(_, Outcome::Failed(reason))] = &report.containers[..] else { panic!("{report:?}") };
    assert!(reason.contains("bridge"), "{reason}");
    assert_eq!(
        kernel::json("ip", ["-j", "link", "show", "type", "bridge"]).as_array().map_or(0, Vec::len),
        0
    );
    kernel::unmount(nft.trim());
    let report = fixture.host.recover().await.unwrap();
    assert_eq!(
        (report.containers.as_slice(), report.complete()),
        (&[(spec.name.clone(), Outcome::Started)][..], true)
    );
    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}

/// A volume that is gone is reported; nothing empty takes its place, and other containers come back.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn lost_data_is_reported_and_never_replaced() {
    let fixture = Fixture::new().await;
    let (lost, sound) = (spec("lost"), spec("sound"));
    for spec in [&lost, &sound] {
        fixture.host.launch(spec.clone()).await.unwrap();
    }
    let id = fixture.host.get(&lost.name).unwrap().id;
    for spec in [&lost, &sound] {
        fixture.host.stop(&spec.name, Duration::ZERO).await.unwrap();
    }
    let file = fixture.sandbox.paths.volumes().join(format!("files/{id}.img"));
    fs::remove_file(&file).unwrap();
    let error = fixture.host.start(&lost.name).await.unwrap_err().to_string();
    assert!(error.contains(&format!("volume `{id}`")) && error.contains("does not exist"), "{error}");
    fixture.host.start(&sound.name).await.unwrap();
    assert!(!file.exists());
    for spec in [&lost, &sound] {
        fixture.host.remove(&spec.name).await.unwrap();
    }
    fixture.end().await;
}

/// What carries the mark but belongs to nothing goes; what does not carry it stays.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn orphans_go_and_strangers_stay() {
    let fixture = Fixture::new().await;
    let tag = fixture.sandbox.paths.tag();
    kernel::run("ip", ["link", "add", "dkorphan", "type", "veth", "peer", "name", "dkpeer"]);
    let mark = format!("docklet:{tag}:container:0123456789abcdef");
    kernel::run("ip", ["link", "set", "dkorphan", "alias", &mark]);
    kernel::run("ip", ["link", "add", "stranger", "type", "bridge"]);
    let root = kernel::unified().unwrap_or_else(|| "/sys/fs/cgroup/pids".into());
    let group = root.join(format!("docklet/{tag}/0123456789abcdef"));
    fs::create_dir_all(&group).unwrap();

    let report = fixture.host.recover().await.unwrap();
    assert_eq!(report.orphans, ["link dkorphan", "container 0123456789abcdef"]);
    assert!(kernel::links().contains(&"stranger".to_owned()));
    assert!(!group.exists());
    assert!(!fixture.host.recover().await.unwrap().changed());
    kernel::run("ip", ["link", "delete", "stranger"]);
    fixture.end().await;
}

/// A container whose manifest was lost is ended, and all that the kernel has of it goes; its data stays for a person.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_container_without_a_manifest_keeps_its_data_only() {
    let fixture = Fixture::new().await;
    let spec = spec("one");
    let id = fixture.host.launch(spec.clone()).await.unwrap().id;
    fs::remove_file(fixture.sandbox.paths.manifests().join("one.json")).unwrap();
    let report = fixture.host.recover().await.unwrap();
    assert!(report.complete() && report.orphans.contains(&format!("container {id}")), "{report:?}");
    assert!(!fixture.host.recover().await.unwrap().changed());
    let left = fixture.host.inventory().await.unwrap();
    assert_eq!((&left.loops, &left.mounts), (&fixture.before.loops, &fixture.before.mounts));
    let volumes = fixture.sandbox.paths.volumes();
    fs::remove_file(volumes.join(format!("files/{id}.img"))).unwrap();
    let dir = fixture.sandbox.paths.containers();
    docklet::storage::remove_tree(&dir, Path::new(id.as_str())).unwrap();
    fixture.host.recover().await.unwrap();
    fixture.end().await;
}

/// While somebody supervises, a container that ends is started again; without, it stays down.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_supervised_container_comes_back() {
    let fixture = Fixture::new().await;
    let spec = spec("one");
    fixture.host.launch(spec.clone()).await.unwrap();
    let first = fixture.host.runtime(&spec.name).unwrap().init_pid().unwrap().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let host = fixture.host.clone();
    let supervisor = tokio::spawn(async move { host.supervise(async { drop(stopped.await) }).await });
    // The supervisor's own recovery is over when it watches.
    tokio::time::sleep(Duration::from_millis(500)).await;
    kill_init(&fixture, "one");
    let mut now = None;
    for _ in 0..600 {
        now = fixture.host.runtime(&spec.name).unwrap().init_pid().unwrap();
        if now.is_some_and(|pid| pid != first) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(now.is_some_and(|pid| pid != first), "not restarted");
    stop.send(()).unwrap();
    supervisor.await.unwrap().unwrap();
    assert_eq!(fixture.host.get(&spec.name).unwrap().state, State::Running);
    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}

/// A container that is removed while it is waited for with its next start is forgotten: the supervisor sleeps.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_supervisor_forgets_what_is_removed() {
    let fixture = Fixture::new().await;
    let spec = spec("one");
    fixture.host.launch(spec.clone()).await.unwrap();
    let host = fixture.host.clone();
    let supervisor = tokio::spawn(async move {
        host.supervise(tokio::time::sleep(Duration::from_secs(4))).await.unwrap();
        cpu_time()
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    fixture.host.remove(&spec.name).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let before = cpu_time();
    let spent = supervisor.await.unwrap() - before;
    assert!(spent < Duration::from_millis(200), "it was busy for {spent:?} of 2 s");
    fixture.end().await;
}

/// What this thread has used of a processor; a test's runtime has no other.
fn cpu_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

fn delete_bridges_and_rules() {
    for bridge in kernel::json("ip", ["-j", "link", "show", "type", "bridge"]).as_array().unwrap() {
        kernel::run("ip", ["link", "delete", bridge["ifname"].as_str().unwrap()]);
    }
    kernel::run("nft", ["flush", "ruleset"]);
}

fn kill_init(fixture: &Fixture, name: &str) {
    let pid = fixture
        .host
        .runtime(&name.parse().unwrap())
        .unwrap()
        .init_pid()
        .unwrap()
        .expect("a running container");
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    // All that is in it ends before it does.
    let lives = || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    kernel::wait_until("the end of init", || !lives());
}

fn wait_for_the_monitor(fixture: &Fixture) {
    for _ in 0..500 {
        if kernel::processes_naming(fixture.sandbox.paths.prefix()).is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the monitor did not end");
}
