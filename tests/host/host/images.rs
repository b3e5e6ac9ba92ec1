//! Containers and the images they are made from, and become.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use docklet::Error;
use docklet::error::Chain;
use docklet::host::{ContainerSpec, Privilege};
use docklet::name::{ContainerName, ImageName};
use docklet::storage::{CollectOptions, Compression, ImageOptions};

use rustix::fs::{XattrFlags, lsetxattr};

use super::fixture::{Fixture, spec};
use crate::image::{AT_ONCE, contents};
use crate::kernel;
use crate::listing::listing;

fn image(text: &str) -> ImageName {
    text.parse().expect("a name")
}

fn offline(name: &str, image: &str) -> ContainerSpec {
    ContainerSpec { interfaces: BTreeMap::new(), image: image.parse().expect("a name"), ..spec(name) }
}

/// Its owners on the host are those inside, and it may make devices.
fn privileged(name: &str, image: &str) -> ContainerSpec {
    ContainerSpec { privilege: Privilege::Privileged, ..offline(name, image) }
}

async fn root(fixture: &Fixture, name: &ContainerName) -> PathBuf {
    let id = fixture.host.get(name).expect("container").id;
    fixture.sandbox.paths.containers().join(id.as_str()).join("root")
}

/// Every entry as the kernel tells it, but for what changes whenever a container is started on it: the root's own time, and
/// the files of names in `/etc`.
fn tree(root: &Path) -> Vec<String> {
    let mut lines = listing(root);
    lines.retain(|line| !line.starts_with("\"etc/hosts\"") && !line.starts_with("\"etc/resolv.conf\""));
    for line in lines.iter_mut().filter(|line| line.starts_with("\"\" ") || line.starts_with("\"etc\" ")) {
        let words: Vec<&str> = line.split(' ').collect();
        *line = words[..3].join(" ");
    }
    lines
}

fn assert_tree(found: &[String], expected: &[String]) {
    let new: Vec<_> = found.iter().filter(|line| !expected.contains(line)).collect();
    let missing: Vec<_> = expected.iter().filter(|line| !found.contains(line)).collect();
    assert!(new.is_empty() && missing.is_empty(), "there is {new:#?}, not {missing:#?}");
}

/// What a person does to a system: adds, changes, removes, replaces, with every kind of file.
const CHANGES: &str = r"
    set -e
    umount /etc/hosts /etc/resolv.conf; rm -r /etc; mkdir -m 0750 /etc; echo new > /etc/only; echo x:0: > /etc/group; rm /bin/ls
    echo changed >> /etc/inittab; chmod 0700 /srv; rmdir /mnt; echo file > /mnt
    mkdir -p /var/deep/er; cd /var/deep; echo data > file; ln file er/hard; ln -s ../../bin link; ln -s /nowhere dangling
    chown 1000:2000 file; cp /bin/busybox suid; chmod 6755 suid; mkfifo fifo; mknod null c 1 3
    touch 'a b' '
' 'tab	' 'umlaut-ü' \\ '*'; touch -d '1999-12-31 23:59:59' er/old
    dd if=/dev/zero of=sparse bs=1 count=1 seek=8388608 2>/dev/null
    mkdir -m 1777 empty; rm -r /root; mkdir /root; mkdir /root/again; rm -r /root/again
    mkdir /usr/a; echo 1 > /usr/a/1
";
/// The same once more, over the first: what was added goes, what was removed comes back.
const FURTHER: &str = r"
    set -e
    rm -r /usr/a; mkdir /usr/a; echo 2 > /usr/a/2; rm /mnt; mkdir /mnt; echo ls > /bin/ls; rm -r /var/deep/er
    rm /etc/only /etc/group; rm /srv/* 2>/dev/null || true; rm -r /srv
";

/// A container of the committed image is the container that was committed, file for file; so is one of a commit of that.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_committed_container_is_what_it_was() {
    let fixture = Fixture::new().await;
    let (host, one) = (&fixture.host, privileged("one", "busybox"));
    host.launch(one.clone()).await.unwrap();
    fixture.sh(&one.name, CHANGES).await;
    let source = root(&fixture, &one.name).await;
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (name, value) in [("user.note", &b"text"[..]), ("security.capability", &capability)] {
        lsetxattr(source.join("var/deep/file"), name, value, XattrFlags::empty()).unwrap();
    }
    let refused = host.commit(&one.name, &image("two"), &ImageOptions::default()).await.unwrap_err();
    assert!(
        matches!(refused, Error::Busy { .. }) && refused.to_string().contains("freeze or stop it"),
        "{refused}"
    );

    // Frozen, it is as it stands; stopped, too.
    host.freeze(&one.name).await.unwrap();
    let expected = tree(&source);
    let options = ImageOptions { description: "first".to_owned(), ..ImageOptions::default() };
    let committed = host.commit(&one.name, &image("two"), &options).await.unwrap();
    assert_eq!(committed.layers.len(), 2);
    host.unfreeze(&one.name).await.unwrap();
    host.stop(&one.name, Duration::ZERO).await.unwrap();
    let stopped = ImageOptions { compression: Compression::Zstd, ..ImageOptions::default() };
    let again = host.commit(&one.name, &image("stopped"), &stopped).await.unwrap();
    assert_eq!(
        again.content.layers[1].diff_id, committed.content.layers[1].diff_id,
        "nothing changed meanwhile"
    );
    assert!(
        kernel::loops_beneath(fixture.sandbox.paths.prefix()).is_empty(),
        "its volume was put away again"
    );

    let two = privileged("two", "two");
    host.launch(two.clone()).await.unwrap();
    assert_tree(&tree(&root(&fixture, &two.name).await), &expected);
    fixture.sh(&two.name, FURTHER).await;
    host.freeze(&two.name).await.unwrap();
    let expected = tree(&root(&fixture, &two.name).await);
    assert_eq!(host.commit(&two.name, &image("three"), &options).await.unwrap().layers.len(), 3);
    let three = privileged("three", "three");
    host.launch(three.clone()).await.unwrap();
    assert_tree(&tree(&root(&fixture, &three.name).await), &expected);
    let described = host.images().describe(&image("three")).unwrap();
    let steps: Vec<_> = described.history.iter().map(|step| step.comment.as_deref()).collect();
    assert_eq!(steps, [None, Some("first"), Some("first")]);

    for name in [&one.name, &two.name, &three.name] {
        host.remove(name).await.unwrap();
    }
    assert_eq!(host.images().verify().unwrap().damaged, Vec::<String>::new());
    fixture.end().await;
}

/// Each container has other ids on the host, and an image has none of them: it can be committed, and run with or without.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_commit_has_the_ids_of_the_inside() {
    let fixture = Fixture::new().await;
    let (host, one) = (&fixture.host, offline("one", "busybox"));
    host.launch(one.clone()).await.unwrap();
    fixture.sh(&one.name, &CHANGES.replace("mknod null c 1 3", "touch null")).await;
    let list = "find / -xdev ! -path / ! -path /etc ! -path /etc/hosts ! -path /etc/resolv.conf ! -path '/proc*' ! -path '/sys*' ! -path '/dev*' \
        -exec stat -c '%n %A %u:%g %s %Y' {} + | sort; stat -c '%A %u:%g' / /etc";
    let expected = fixture.sh(&one.name, list).await;
    assert!(expected.contains("/var/deep/file -rw-r--r-- 1000:2000"), "{expected}");
    host.stop(&one.name, Duration::ZERO).await.unwrap();
    host.commit(&one.name, &image("two"), &ImageOptions::default()).await.unwrap();
    for spec in [offline("two", "two"), privileged("three", "two")] {
        let info = host.launch(spec.clone()).await.unwrap();
        assert_ne!(info.ids, host.get(&one.name).unwrap().ids);
        assert_eq!(fixture.sh(&spec.name, list).await, expected);
        host.remove(&spec.name).await.unwrap();
    }
    host.remove(&one.name).await.unwrap();
    fixture.end().await;
}

/// An image that is moved to another content, renamed, and collected leaves its containers what they are.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_container_keeps_what_it_was_made_from() {
    let fixture = Fixture::new().await;
    let (host, one) = (&fixture.host, offline("one", "busybox"));
    host.launch(one.clone()).await.unwrap();
    fixture.sh(&one.name, "echo 1 > /etc/version; rm /bin/ls").await;
    host.stop(&one.name, Duration::ZERO).await.unwrap();
    let replace = ImageOptions { replace: true, ..ImageOptions::default() };

    let refused = host.remove_image(&image("busybox")).await.unwrap_err();
    assert!(refused.to_string().contains("container `one` was made from it"), "{refused}");
    let refused = host.commit(&one.name, &image("busybox"), &ImageOptions::default()).await.unwrap_err();
    assert!(matches!(refused, Error::Differs { .. }), "{refused}");
    let newer = host.commit(&one.name, &image("busybox"), &replace).await.unwrap();
    assert_eq!(host.images().open(&image("busybox")).unwrap(), newer);

    // Its own image has no name any more, and is kept for it; a commit still finds what it builds on.
    host.collect_garbage(&AT_ONCE).await.unwrap();
    host.start(&one.name).await.unwrap();
    fixture.sh(&one.name, "cat /etc/version; [ ! -e /bin/ls ]").await;
    host.stop(&one.name, Duration::ZERO).await.unwrap();
    host.commit(&one.name, &image("busybox"), &replace).await.unwrap();

    let two = offline("two", "busybox");
    host.launch(two.clone()).await.unwrap();
    assert_eq!(fixture.sh(&two.name, "cat /etc/version").await, "1\n");
    host.remove_image(&image("busybox")).await.unwrap_err();
    host.images().tag(&image("busybox"), &image("other"), &ImageOptions::default()).unwrap();
    host.remove_image(&image("busybox")).await.unwrap();
    host.remove_image(&image("busybox")).await.unwrap();
    host.remove(&two.name).await.unwrap();
    host.remove_image(&image("other")).await.unwrap();
    let kept = host.collect_garbage(&CollectOptions::default()).await.unwrap();
    assert_eq!((kept.blobs, kept.layers), (0, 0), "all of it is young");
    host.collect_garbage(&AT_ONCE).await.unwrap();
    assert_eq!(contents(&fixture.sandbox), (3, 1, vec![]), "what `one` needs");
    host.start(&one.name).await.unwrap();
    host.remove(&one.name).await.unwrap();
    host.collect_garbage(&AT_ONCE).await.unwrap();
    assert_eq!(contents(&fixture.sandbox), (0, 0, vec![]));
    fixture.end().await;
}

/// Lost layers are unpacked again; if their archives are lost too, that is said, and a manifest that cannot be read keeps
/// everything from being collected.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_lost_layer_is_unpacked_again() {
    let fixture = Fixture::new().await;
    let (host, one) = (&fixture.host, offline("one", "busybox"));
    host.launch(one.clone()).await.unwrap();
    host.stop(&one.name, Duration::ZERO).await.unwrap();
    let lose = || {
        let layers = fixture.sandbox.paths.layers();
        for entry in fs::read_dir(&layers).unwrap().map(|entry| entry.unwrap().file_name()) {
            if entry.to_str().unwrap().starts_with("sha256-") {
                docklet::storage::remove_tree(&layers, &PathBuf::from(entry).join("fs")).unwrap();
            }
        }
    };
    lose();
    host.start(&one.name).await.unwrap();
    fixture.sh(&one.name, "ls /").await;
    host.stop(&one.name, Duration::ZERO).await.unwrap();

    let manifest = fixture.sandbox.paths.manifests().join("bad.json");
    fs::write(&manifest, "{").unwrap();
    let refused = host.collect_garbage(&AT_ONCE).await.unwrap_err();
    assert!(matches!(refused, Error::Busy { .. }), "{refused}");
    fs::remove_file(manifest).unwrap();

    lose();
    let blobs = fixture.sandbox.paths.images().join("blobs/sha256");
    let aside = fixture.sandbox.dir("aside").join("blobs");
    fs::rename(&blobs, &aside).unwrap();
    fs::create_dir(&blobs).unwrap();
    for error in [
        host.start(&one.name).await.unwrap_err(),
        host.launch(offline("two", "busybox")).await.unwrap_err(),
        host.commit(&one.name, &image("two"), &ImageOptions::default()).await.unwrap_err(),
    ] {
        assert!(
            matches!(error, Error::Damaged { .. }) && error.to_string().contains("is missing"),
            "{error}"
        );
    }
    assert_eq!(host.images().verify().unwrap().damaged.len(), 3);
    fs::remove_dir(&blobs).unwrap();
    fs::rename(&aside, &blobs).unwrap();
    host.start(&one.name).await.unwrap();
    host.remove(&one.name).await.unwrap();
    fixture.end().await;
}

/// Containers come and go while their image's name moves from one image to another and everything unnamed is collected.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn containers_are_launched_while_their_image_is_replaced() {
    let fixture = Fixture::new().await;
    let host = &fixture.host;
    let seed = offline("seed", "busybox");
    host.launch(seed.clone()).await.unwrap();
    fixture.sh(&seed.name, "echo 1 > /etc/version").await;
    host.stop(&seed.name, Duration::ZERO).await.unwrap();
    let replace = ImageOptions { replace: true, ..ImageOptions::default() };
    host.commit(&seed.name, &image("moving"), &replace).await.unwrap();
    let launches: Vec<_> = (0..4)
        .map(|task| {
            let host = host.clone();
            tokio::spawn(async move {
                for turn in 0..4 {
                    let spec = offline(&format!("c{task}-{turn}"), "moving");
                    host.launch(spec.clone()).await.map_err(|e| format!("launch: {}", Chain(&e)))?;
                    host.stop(&spec.name, Duration::ZERO)
                        .await
                        .map_err(|e| format!("stop: {}", Chain(&e)))?;
                    host.start(&spec.name).await.map_err(|e| format!("start: {}", Chain(&e)))?;
                    host.remove(&spec.name).await.map_err(|e| format!("remove: {}", Chain(&e)))?;
                }
                Ok::<_, String>(())
            })
        })
        .collect();
    let mut turns = 0;
    while !launches.iter().all(tokio::task::JoinHandle::is_finished) {
        host.commit(&seed.name, &image("moving"), &replace).await.unwrap();
        host.collect_garbage(&AT_ONCE).await.unwrap();
        turns += 1;
    }
    for launch in launches {
        assert_eq!(launch.await.unwrap(), Ok(()));
    }
    assert!(turns > 1);
    host.remove(&seed.name).await.unwrap();
    assert_eq!(host.images().verify().unwrap().damaged, Vec::<String>::new());
    fixture.end().await;
}
