//! One container's life.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use docklet::Error;
use docklet::host::{Attachment, ContainerSpec};
use docklet::lxc::{MountEntry, State};

use super::fixture::{Fixture, eth0, network, spec};
use crate::kernel;

/// The whole way: launched, limited as the kernel says, stopped, started with its data, removed without a trace.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_container_lives_and_leaves_nothing() {
    let fixture = Fixture::new().await;
    let shared = fixture.sandbox.dir("shared");
    fs::write(shared.join("file"), "from the host").unwrap();
    // The container's root is an ordinary user of the host.
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    let mut spec = spec("one");
    spec.mounts.push(MountEntry::bind(&shared, "/srv/shared").unwrap().create_dir());
    spec.environment.insert("GREETING".to_owned(), "hello world".to_owned());
    let name = spec.name.clone();

    let info = fixture.host.launch(spec).await.unwrap();
    assert_eq!(info.state, State::Running);
    let cgroup = format!("docklet/{}/{}/payload", fixture.sandbox.paths.tag(), info.id);
    let read = |v1: &str, v2: &str| {
        fs::read_to_string(format!("/sys/fs/cgroup/{v1}"))
            .or_else(|_| fs::read_to_string(format!("/sys/fs/cgroup/{v2}")))
            .unwrap()
    };
    let memory = read(&format!("memory/{cgroup}/memory.limit_in_bytes"), &format!("{cgroup}/memory.max"));
    assert_eq!(memory.trim(), (64 << 20).to_string());
    assert_eq!(read(&format!("pids/{cgroup}/pids.max"), &format!("{cgroup}/pids.max")).trim(), "64");

    assert_eq!(fixture.sh(&name, "hostname").await, "one\n");
    assert_eq!(fixture.sh(&name, "cat /srv/shared/file").await, "from the host");
    assert_eq!(
        fixture.sh(&name, "tr '\\0' '\\n' < /proc/1/environ | grep GREETING").await,
        "GREETING=hello world\n"
    );
    fixture.sh(&name, "ping -c 1 -w 5 10.99.0.1").await;
    fixture.sh(&name, "echo kept > /root/data; echo y > /srv/shared/back").await;
    assert_eq!(fs::read_to_string(shared.join("back")).unwrap(), "y\n");
    assert_eq!(kernel::loops_beneath(fixture.sandbox.paths.prefix()).len(), 1);

    fixture.host.stop(&name, Duration::from_secs(10)).await.unwrap();
    assert_eq!(fixture.host.get(&name).unwrap().state, State::Stopped);
    assert_eq!(kernel::loops_beneath(fixture.sandbox.paths.prefix()), Vec::<String>::new());
    let error = fixture.host.exec(&name, docklet::lxc::Exec::new(["true"])).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");

    let again = fixture.host.start(&name).await.unwrap();
    assert_eq!((&again.id, &again.interfaces), (&info.id, &info.interfaces));
    assert_eq!(fixture.sh(&name, "cat /root/data").await, "kept\n");

    fixture.host.remove(&name).await.unwrap();
    fixture.host.remove(&name).await.unwrap();
    assert!(matches!(fixture.host.get(&name).unwrap_err(), Error::NotFound { .. }));
    fixture.end().await;
}

/// A launch that is repeated is one container; one in other words is refused and changes nothing.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_repeated_launch_is_one_container() {
    let fixture = Fixture::new().await;
    let spec = spec("one");
    let first = fixture.host.launch(spec.clone()).await.unwrap();
    fixture.sh(&spec.name, "echo mine > /root/data").await;
    let second = fixture.host.launch(spec.clone()).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(fixture.sh(&spec.name, "cat /root/data").await, "mine\n");

    let mut other = spec.clone();
    other.volume.size_bytes *= 2;
    other.limits.pids_max = None;
    let message = fixture.host.launch(other).await.unwrap_err().to_string();
    assert!(
        message.contains("container `one` exists but differs") && message.contains("volume, limits"),
        "{message}"
    );
    assert_eq!(fixture.sh(&spec.name, "cat /root/data").await, "mine\n");
    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}

/// Two containers of one network reach each other; addresses are theirs alone.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn two_containers_share_a_network() {
    let fixture = Fixture::new().await;
    let (one, two) = (spec("one"), spec("two"));
    let first = fixture.host.launch(one.clone()).await.unwrap().address().unwrap();
    let second = fixture.host.launch(two.clone()).await.unwrap().address().unwrap();
    assert_ne!(first, second);
    fixture.sh(&one.name, &format!("ping -c 1 -w 5 {}", second.ip())).await;

    let mut third = spec("three");
    third.interfaces = eth0(Attachment { addresses: vec![second.ip()], ..Attachment::new(network().name) });
    let message = fixture.host.launch(third).await.unwrap_err().to_string();
    assert!(message.contains(&second.ip().to_string()) && message.contains("busy"), "{message}");
    let message = fixture.host.remove_network(&network().name).await.unwrap_err().to_string();
    assert!(message.contains("network `lan` is busy") && message.contains("container `"), "{message}");

    for name in [&one.name, &two.name] {
        fixture.host.remove(name).await.unwrap();
    }
    fixture.end().await;
}

/// A container without a network has loopback and nothing else.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn no_network_means_none() {
    let fixture = Fixture::new().await;
    let spec = ContainerSpec { interfaces: BTreeMap::new(), ..spec("one") };
    fixture.host.launch(spec.clone()).await.unwrap();
    let links = fixture.sh(&spec.name, "ls /sys/class/net").await;
    assert!(!links.contains("eth0"), "{links}");
    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}

/// Frozen means that no process gets anywhere.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_frozen_container_stands_still() {
    let fixture = Fixture::new().await;
    let spec = spec("one");
    fixture.host.launch(spec.clone()).await.unwrap();
    fixture.host.freeze(&spec.name).await.unwrap();
    assert_eq!(fixture.host.get(&spec.name).unwrap().state, State::Frozen);
    fixture.host.unfreeze(&spec.name).await.unwrap();
    assert_eq!(fixture.host.get(&spec.name).unwrap().state, State::Running);
    assert_eq!(fixture.sh(&spec.name, "echo on").await, "on\n");
    fixture.host.freeze(&spec.name).await.unwrap();
    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}

/// One host serves two prefixes without either seeing the other.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn two_prefixes_do_not_meet() {
    let first = Fixture::new().await;
    let beside = crate::sandbox::Sandbox::beside();
    let second = docklet::host::Host::open(beside.paths.clone()).await.unwrap();
    crate::busybox::ensure(second.images(), &"busybox".parse().unwrap()).unwrap();
    let mut lan = network();
    lan.gateways = vec!["10.98.0.1/24".parse().unwrap()];
    second.ensure_network(&lan).await.unwrap();

    let spec = spec("same-name");
    let (a, b) = tokio::join!(first.host.launch(spec.clone()), second.launch(spec.clone()));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_ne!(a.id, b.id);
    first.host.remove(&spec.name).await.unwrap();
    assert!(!first.host.recover().await.unwrap().changed());
    assert_eq!(second.get(&spec.name).unwrap().state, State::Running);
    second.remove(&spec.name).await.unwrap();
    second.remove_network(&lan.name).await.unwrap();
    first.end().await;
}
