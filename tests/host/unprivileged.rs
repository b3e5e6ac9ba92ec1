//! Containers in a user namespace that was made before them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use docklet::Error;
use docklet::idmap::IdMap;
use docklet::lxc::{ConfigPath, LxcConfig, Namespace, NamespaceSource, State};
use docklet::net::NetworkNamespace;

use crate::kernel;
use crate::sandbox::Sandbox;
use crate::scripted_root::{self, sh};

fn map(outside: u32) -> IdMap {
    IdMap::new([(0, outside, 65_536)]).expect("a map")
}

/// A root that belongs to `map`, where its container's root can get.
fn root(sandbox: &Sandbox, map: &IdMap) -> PathBuf {
    let root = scripted_root::root(sandbox, "a");
    let owner = format!("{0}:{0}", map.root());
    kernel::run("chown", ["-R", "--no-dereference", &owner, root.to_str().expect("UTF-8")]);
    root
}

fn config(root: &std::path::Path, map: &IdMap, pin: &std::path::Path) -> LxcConfig {
    let mut config = scripted_root::config(root);
    config.join_network(pin).expect("network").id_map = Some(map.clone());
    let user = ConfigPath::new(NetworkNamespace::owner_path(pin)).expect("pin");
    config.namespaces.insert(Namespace::User, NamespaceSource::Pinned(user));
    config
}

/// The namespace of that kind that a process or a pin is in.
fn number(path: impl AsRef<std::path::Path>) -> (u64, u64) {
    let found = fs::metadata(path).expect("namespace");
    (found.dev(), found.ino())
}

/// Both namespaces are those that were made beforehand; one belongs to the other, so root inside may change its network.
#[test]
#[ignore = "needs root: containers"]
fn container_joins_a_user_namespace() {
    let sandbox = Sandbox::new();
    let map = map(2_000_000_000);
    let root = root(&sandbox, &map);
    let pin = sandbox.dir("pins").join("net");
    drop(NetworkNamespace::ensure_mapped(&pin, &map).unwrap());
    let container = scripted_root::container(&sandbox);
    let init = container.start(&config(&root, &map, &pin)).unwrap().init_pid;
    assert_eq!(number(format!("/proc/{init}/ns/net")), number(&pin));
    assert_eq!(number(format!("/proc/{init}/ns/user")), number(NetworkNamespace::owner_path(&pin)));
    assert_eq!(fs::metadata(format!("/proc/{init}")).unwrap().uid(), 2_000_000_000);
    assert_eq!(sh(&container, "id -u; cut -c1-21 /proc/self/uid_map"), "0\n         0 2000000000\n");
    sh(&container, "ip link add type veth; ls /sys/class/net");
    assert_eq!(
        container.stop(std::time::Duration::from_secs(20)).unwrap(),
        docklet::lxc::StopOutcome::Graceful
    );
    assert_eq!(fs::metadata(root.join("halted")).unwrap().uid(), 2_000_000_000);
    NetworkNamespace::remove(&pin).unwrap();
    scripted_root::end(&sandbox);
}

/// A container whose ids turn out to be others than it was said does not run.
#[test]
#[ignore = "needs root: containers"]
fn container_with_other_ids_than_asked_is_refused() {
    let sandbox = Sandbox::new();
    let (asked, made) = (map(2_000_000_000), map(2_000_065_536));
    let root = root(&sandbox, &made);
    let pin = sandbox.dir("pins").join("net");
    drop(NetworkNamespace::ensure_mapped(&pin, &made).unwrap());
    let container = scripted_root::container(&sandbox);
    let error = container.start(&config(&root, &asked, &pin)).unwrap_err();
    assert!(matches!(error, Error::Differs { .. } | Error::Command { .. }), "{error}");
    assert_eq!(container.state().unwrap(), State::Stopped);
    assert!(container.payload().processes().unwrap().is_empty());
    // Without a namespace to join it is not started with the host's ids, either.
    let missing = config(&root, &asked, &sandbox.dir("pins").join("none"));
    assert!(matches!(container.start(&missing).unwrap_err(), Error::NotFound { .. }));
    NetworkNamespace::remove(&pin).unwrap();
    scripted_root::end(&sandbox);
}

/// What a crash between the two pins leaves is put right; a namespace that belongs to the host is not taken for one.
#[test]
#[ignore = "needs root: namespaces"]
fn pins_are_made_whole() {
    let sandbox = Sandbox::new();
    let map = map(2_000_000_000);
    let pin = sandbox.dir("pins").join("net");
    let owner = NetworkNamespace::owner_path(&pin);
    drop(NetworkNamespace::ensure_mapped(&pin, &map).unwrap());
    let (network, user) = (number(&pin), number(&owner));
    // The second one is missing, is only a file, or is another.
    for script in ["umount $0 && rm $0", "umount $0", "umount $0; mount --bind /proc/self/ns/user $0"] {
        kernel::run("sh", ["-c", script, owner.to_str().unwrap()]);
        drop(NetworkNamespace::ensure_mapped(&pin, &map).unwrap());
        assert_eq!((number(&pin), number(&owner)), (network, user), "{script}");
    }
    // The first one is missing: the second is of another network.
    kernel::unmount(&pin);
    drop(NetworkNamespace::ensure_mapped(&pin, &map).unwrap());
    assert_ne!(number(&owner), user);
    NetworkNamespace::remove(&pin).unwrap();
    NetworkNamespace::remove(&pin).unwrap();
    assert_eq!(fs::read_dir(pin.parent().unwrap()).unwrap().count(), 0);
    drop(NetworkNamespace::ensure(&pin).unwrap());
    let error = NetworkNamespace::ensure_mapped(&pin, &map).unwrap_err();
    assert!(error.to_string().contains("belongs to the host"), "{error}");
    // What is not ours stays.
    fs::write(&owner, "precious").unwrap();
    NetworkNamespace::remove(&pin).unwrap_err();
    assert_eq!(fs::read_to_string(&owner).unwrap(), "precious");
    fs::remove_file(&owner).unwrap();
    NetworkNamespace::remove(&pin).unwrap();
}
