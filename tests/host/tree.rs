//! The one recursive removal, where it needs mounts and flags to prove itself.

use std::fs;

use docklet::storage::remove_tree;

use crate::kernel;
use crate::sandbox::Sandbox;
use crate::volume::message;

#[test]
#[ignore = "needs root: mounts"]
fn tree_removal_stops_at_mounts() {
    let sandbox = Sandbox::new();
    let scratch = sandbox.dir("scratch");
    let precious = sandbox.dir("precious");
    fs::write(precious.join("file"), "important").expect("write");
    fs::create_dir_all(scratch.join("tree/a/mounted")).expect("mkdir");
    fs::create_dir_all(scratch.join("tree/tmpfs")).expect("mkdir");
    fs::write(scratch.join("tree/a/file"), "x").expect("write");
    let mounted = scratch.join("tree/a/mounted");
    // A bind mount of the same file system has the same device number: only the mount itself tells.
    kernel::run("mount", ["--bind".as_ref(), precious.as_os_str(), mounted.as_os_str()]);
    let refused = message(remove_tree(&scratch, "tree".as_ref()));
    assert!(refused.contains("is busy: something is mounted there"), "{refused}");
    assert_eq!(fs::read(precious.join("file")).expect("read"), b"important");
    kernel::unmount(&mounted);

    let tmpfs = scratch.join("tree/tmpfs");
    fs::create_dir_all(&tmpfs).expect("mkdir");
    kernel::run("mount", ["-t".as_ref(), "tmpfs".as_ref(), "x".as_ref(), tmpfs.as_os_str()]);
    let refused = message(remove_tree(&scratch, "tree".as_ref()));
    assert!(refused.contains("is busy: something is mounted there"), "an empty one too: {refused}");
    kernel::unmount(&tmpfs);

    let file = scratch.join("tree/file");
    fs::write(&file, "x").expect("write");
    kernel::run("mount", ["--bind".as_ref(), precious.join("file").as_os_str(), file.as_os_str()]);
    let refused = message(remove_tree(&scratch, "tree".as_ref()));
    assert!(refused.contains("is busy: something is mounted there"), "a file too: {refused}");
    kernel::unmount(&file);
    remove_tree(&scratch, "tree".as_ref()).expect("nothing is in the way any more");
    assert!(!scratch.join("tree").exists());
    assert_eq!(fs::read(precious.join("file")).expect("read"), b"important");
}

#[test]
#[ignore = "needs root: file attributes"]
fn tree_removal_names_what_is_immutable() {
    let sandbox = Sandbox::new();
    let scratch = sandbox.dir("scratch");
    fs::create_dir_all(scratch.join("tree/a/b")).expect("mkdir");
    let file = scratch.join("tree/a/b/file");
    fs::write(&file, "x").expect("write");
    kernel::run("chattr", ["+i".as_ref(), file.as_os_str()]);
    let refused = message(remove_tree(&scratch, "tree".as_ref()));
    kernel::run("chattr", ["-i".as_ref(), file.as_os_str()]);
    assert!(refused.starts_with(&format!("unlink on {} failed: ", file.display())), "{refused}");
    remove_tree(&scratch, "tree".as_ref()).expect("remove");
}
