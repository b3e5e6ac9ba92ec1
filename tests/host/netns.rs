//! Network namespaces and connections to them.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::thread;

use docklet::net::{Netlink, NetworkNamespace};
use nix::sched::{CloneFlags, setns};

use crate::kernel;
use crate::sandbox::{Sandbox, alone, open_descriptors};

/// Runs `job` on a thread in the network namespace that is pinned at `path`.
pub(crate) fn inside<T: Send>(path: &Path, job: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            setns(fs::File::open(path).expect("open"), CloneFlags::CLONE_NEWNET).expect("setns");
            job()
        });
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What `ip -j …` says in the network namespace that is pinned at `path`.
pub(crate) fn ip_inside(path: &Path, args: &[&str]) -> serde_json::Value {
    let namespace = format!("--net={}", path.display());
    kernel::json("nsenter", [&[&*namespace, "ip", "-j"], args].concat())
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).expect("stat").ino()
}

/// A restarted process finds the namespace again, by its file.
#[test]
#[ignore = "needs root: network namespaces"]
fn ensure_makes_one_and_adopts_it() {
    let sandbox = Sandbox::new();
    let pin = sandbox.dir("netns").join("a namespace");
    let here = inode(Path::new("/proc/thread-self/ns/net"));

    let first = NetworkNamespace::ensure(&pin).unwrap();
    let made = inode(&pin);
    assert_ne!(made, here);
    assert_eq!(inode(Path::new("/proc/thread-self/ns/net")), here, "the caller stays where it is");
    let mounts = kernel::mounts_beneath(&pin);
    assert!(mounts.is_empty() || mounts.len() == 1, "{mounts:?}");
    let links = ip_inside(&pin, &["link"]);
    let lo = links.as_array().unwrap().iter().find(|link| link["ifname"] == "lo").unwrap();
    assert!(lo["flags"].as_array().unwrap().contains(&"UP".into()), "{lo}");

    drop(first);
    NetworkNamespace::ensure(&pin).unwrap();
    assert_eq!(inode(&pin), made);
    assert_eq!(NetworkNamespace::open(&pin).unwrap().path(), pin);

    for _ in 0..2 {
        NetworkNamespace::remove(&pin).unwrap();
        assert!(!pin.exists());
    }
    let error = NetworkNamespace::open(&pin).unwrap_err().to_string();
    assert!(error.contains("does not exist") && error.contains("a namespace"), "{error}");
}

/// Killed between making the file and the mount, or removed by hand in part.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_file_without_a_mount_is_completed_or_removed() {
    let sandbox = Sandbox::new();
    let pin = sandbox.dir("netns").join("pin");
    fs::write(&pin, "").unwrap();
    NetworkNamespace::open(&pin).unwrap_err();
    NetworkNamespace::ensure(&pin).unwrap();
    kernel::run("mount", ["--bind", pin.to_str().unwrap(), pin.to_str().unwrap()]);
    NetworkNamespace::remove(&pin).unwrap();
    assert!(!pin.exists(), "also one that was mounted twice");

    fs::write(&pin, "").unwrap();
    NetworkNamespace::remove(&pin).unwrap();
    assert!(!pin.exists());

    NetworkNamespace::ensure(&pin).unwrap();
    kernel::unmount(pin.to_str().unwrap());
    assert_eq!(fs::metadata(&pin).unwrap().permissions().mode() & 0o777, 0o600);
    NetworkNamespace::remove(&pin).unwrap();
}

#[test]
#[ignore = "needs root: network namespaces"]
fn sixteen_at_once_make_one_namespace() {
    let sandbox = Sandbox::new();
    let pin = sandbox.dir("netns").join("pin");
    let seen: Vec<u64> = thread::scope(|scope| {
        let workers: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    let namespace = NetworkNamespace::ensure(&pin).unwrap();
                    inode(Path::new(&format!(
                        "/proc/self/fd/{}",
                        std::os::fd::AsFd::as_fd(&namespace).as_raw_fd()
                    )))
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    assert!(seen.iter().all(|inode| *inode == seen[0]), "{seen:?}");
    assert_eq!(kernel::mounts_beneath(&pin).len(), 1);
    NetworkNamespace::remove(&pin).unwrap();
}

#[test]
#[ignore = "needs root: network namespaces"]
fn bad_paths_are_refused() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("netns");
    let error = NetworkNamespace::ensure(Path::new("relative")).unwrap_err().to_string();
    assert!(error.contains("must be an absolute path"), "{error}");
    let error = NetworkNamespace::ensure(&dir.join("missing/pin")).unwrap_err();
    assert_eq!(error.errno(), Some(libc::ENOENT), "{error}");
    // A link is not followed, neither to make nor to remove.
    let target = dir.join("target");
    fs::write(&target, "precious").unwrap();
    let link = dir.join("link");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    assert_eq!(NetworkNamespace::ensure(&link).unwrap_err().errno(), Some(libc::ELOOP));
    assert_eq!(NetworkNamespace::remove(&link).unwrap_err().errno(), Some(libc::ELOOP));
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    // Neither is another kind of namespace taken for one, nor a file with something in it.
    let other = dir.join("uts");
    fs::write(&other, "").unwrap();
    kernel::run("mount", ["--bind", "/proc/self/ns/uts", other.to_str().unwrap()]);
    for foreign in [&other, &target] {
        assert!(NetworkNamespace::open(foreign).unwrap_err().to_string().contains("does not exist"));
        for result in [NetworkNamespace::ensure(foreign).map(drop), NetworkNamespace::remove(foreign)] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("neither a pinned network namespace nor an empty file"), "{error}");
        }
    }
    assert_eq!(kernel::mounts_beneath(&other).len(), 1);
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    kernel::unmount(other.to_str().unwrap());
}

/// Connections end with their last handle: their sockets and the namespaces they keep.
#[test]
#[ignore = "needs root: network namespaces"]
fn fifty_connections_leak_nothing() {
    if !alone("netns::fifty_connections_leak_nothing") {
        return;
    }
    let sandbox = Sandbox::new();
    let pin = sandbox.dir("netns").join("pin");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let before = open_descriptors();
    runtime.block_on(async {
        let namespace = NetworkNamespace::ensure(&pin).unwrap();
        for _ in 0..50 {
            let net = Netlink::connect_in(&namespace).await.unwrap();
            let again = net.clone();
            drop(net);
            assert_eq!(again.links_owned("x").await.unwrap(), []);
            Netlink::connect().await.unwrap();
        }
        drop(namespace);
        NetworkNamespace::remove(&pin).unwrap();
        assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
    });
    assert_eq!(open_descriptors(), before);
}

/// Outside of a runtime it is an error, not a panic.
#[test]
#[ignore = "needs root: network namespaces"]
fn without_a_runtime_there_is_an_error() {
    let _sandbox = Sandbox::new();
    let mut connecting = Box::pin(Netlink::connect());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match connecting.as_mut().poll(&mut context) {
        std::task::Poll::Ready(Err(error)) => {
            assert!(error.to_string().contains("within a tokio runtime"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}
