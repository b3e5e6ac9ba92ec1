//! What others mount, attach or hold in the middle of our things stays theirs: the error says what to do, and the same
//! call goes on once it is done.

use std::fs;
use std::process::Command;
use std::time::Duration;

use docklet::Error;
use docklet::error::Chain;

use super::fixture::{Fixture, spec};
use crate::kernel;

#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn foreign_mounts_are_left_alone() {
    let fixture = Fixture::new().await;
    let spec = spec("one");
    for place in ["root", "theirs"] {
        let id = fixture.host.launch(spec.clone()).await.unwrap().id;
        let dir = fixture.sandbox.paths.containers().join(id.as_str()).join(place);
        fs::create_dir_all(&dir).unwrap();
        kernel::run("mount", ["-t", "tmpfs", "none", dir.to_str().unwrap()]);
        fs::write(dir.join("precious"), "").unwrap();
        let error = fixture.host.remove(&spec.name).await.unwrap_err();
        assert!(error.to_string().contains("unmount it first"), "{error}");
        assert!(dir.join("precious").exists());
        kernel::unmount(&dir);
        fixture.host.remove(&spec.name).await.unwrap();
    }
    fixture.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn foreign_loop_devices_are_left_alone() {
    let fixture = Fixture::new().await;
    let spec = spec("one");
    for options in ["-r", "-P"] {
        let id = fixture.host.launch(spec.clone()).await.unwrap().id;
        let file = fixture.sandbox.paths.volumes().join(format!("files/{id}.img"));
        let device = kernel::run("losetup", [options, "-f", "--show", file.to_str().unwrap()]);
        let error = fixture.host.remove(&spec.name).await.unwrap_err();
        assert!(matches!(error, Error::Busy { .. }), "{error}");
        assert!(error.to_string().contains("losetup -d"), "{error}");
        kernel::run("losetup", ["-d", device.trim()]);
        // It goes with its last user, and udev may be looking at it.
        while kernel::run("losetup", ["-j", file.to_str().unwrap()]).contains(device.trim()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        fixture.host.remove(&spec.name).await.unwrap();
    }
    fixture.end().await;
}

/// A process with a copy of our mounts holds the volume: it is named.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_private_copy_of_the_mounts_is_named() {
    let fixture = Fixture::new().await;
    let spec = spec("one");
    fixture.host.launch(spec.clone()).await.unwrap();
    let here = fs::read_link("/proc/thread-self/ns/mnt").unwrap();
    let mut holder = Command::new("unshare").args(["--mount", "sleep", "600"]).spawn().unwrap();
    while fs::read_link(format!("/proc/{}/ns/mnt", holder.id())).unwrap() == here
        || fs::read_to_string(format!("/proc/{}/comm", holder.id())).unwrap() != "sleep\n"
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let error = fixture.host.stop(&spec.name, Duration::ZERO).await.unwrap_err();
    let message = Chain(&error).to_string();
    assert!(matches!(error, Error::Busy { .. }), "{message}");
    assert!(message.contains(&format!("{} (sleep)", holder.id())), "{message}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    fixture.host.stop(&spec.name, Duration::ZERO).await.unwrap();
    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}
