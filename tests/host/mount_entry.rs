//! Every rule of a bind mount's paths, refused with its reason or seen from inside a running container.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use docklet::error::Chain;
use docklet::lxc::{LxcConfig, MountEntry, Propagation};

use crate::kernel;
use crate::sandbox::Sandbox;
use crate::scripted_root::{self, exec, sh};

fn bind(source: &Path, target: &str) -> MountEntry {
    MountEntry::bind(source, target).unwrap()
}

/// What LXC could split, strip, unquote, expand or take for a comment.
const ODD: [&str; 16] = [
    "a b",
    "tab\there",
    "comma,ro,optional",
    "quote\"'\"",
    "#hash",
    "back\\slash\\040",
    "colon:dir:",
    "new\nline",
    "new\nlxc.hook.start = x",
    " lead and trail ",
    "\ttab\t",
    "=equals = x",
    "%n %p$HOME*?",
    "\x01\x0b\x0c\x7f",
    "ünïcode☃",
    "create=dir",
];

#[test]
#[ignore = "needs root: containers"]
fn mount_entry_odd_names_arrive() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let container = scripted_root::container(&sandbox);
    let mut config = scripted_root::config(&root);
    for (number, name) in ODD.iter().enumerate() {
        let source = sandbox.dir("sources").join(name);
        fs::create_dir(&source).unwrap();
        fs::write(source.join(name), number.to_string()).unwrap();
        config.mount(bind(&source, &format!("/data/{name}")).create_dir()).unwrap();
        config
            .mount(bind(&source.join(name), &format!("/data/file {name}")).read_only().create_file())
            .unwrap();
    }
    container.start(&config).unwrap();
    for (number, name) in ODD.iter().enumerate() {
        for path in [format!("/data/{name}/{name}"), format!("/data/file {name}")] {
            let output = exec(&container, &["cat", &path]);
            assert_eq!(String::from_utf8(output.stdout).unwrap(), number.to_string(), "{path:?}");
        }
    }
    // Nothing but these, and nothing in the root itself.
    assert_eq!(fs::read_dir(root.join("data")).unwrap().count(), 2 * ODD.len());
    let mounts = sh(&container, "grep -c ' /data/' /proc/self/mountinfo");
    assert_eq!(mounts.trim(), (2 * ODD.len()).to_string());
    container.kill().unwrap();
    for name in ODD {
        assert_eq!(fs::read_dir(root.join("data").join(name)).unwrap().count(), 0, "{name:?}");
    }
    scripted_root::end(&sandbox);
}

/// The root's own path may be odd, too.
#[test]
#[ignore = "needs root: containers"]
fn mount_entry_targets_lie_in_an_odd_root() {
    let sandbox = Sandbox::new();
    let source = sandbox.dir("source");
    fs::write(source.join("here"), "").unwrap();
    for name in ["a b:c,d", "overlay:x", " \"q\" ", "#x=y", "back\\slash", "sandbox"] {
        let root = scripted_root::root(&sandbox, name);
        let container = scripted_root::container(&sandbox);
        let mut config = scripted_root::config(&root);
        // A target that looks like a path of the host, the root's own among them.
        let inner = format!("{}/deep", root.display());
        config.mount(bind(&source, "/data/x").create_dir()).unwrap();
        config.mount(bind(&source, &inner).create_dir()).unwrap();
        container.start(&config).unwrap_or_else(|e| panic!("{name:?}: {}", Chain(&e)));
        assert_eq!(sh(&container, "ls /data/x"), "here\n", "{name:?}");
        assert_eq!(exec(&container, &["ls", &inner]).stdout, b"here\n", "{name:?}");
        container.kill().unwrap();
    }
    scripted_root::end(&sandbox);
}

#[test]
#[ignore = "needs root: containers"]
fn mount_entry_read_only_refuses_writes() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let source = sandbox.dir("source");
    fs::write(source.join("file"), "x").unwrap();
    let container = scripted_root::container(&sandbox);
    let mut config = scripted_root::config(&root);
    config.mount(bind(&source, "/ro").read_only().create_dir()).unwrap();
    config.mount(bind(&source, "/rw").create_dir()).unwrap();
    config.mount(bind(&source.join("file"), "/etc/file").read_only().create_file()).unwrap();
    container.start(&config).unwrap();
    for line in ["touch /ro/new", "echo y > /ro/file", "echo y > /etc/file", "rm /ro/file"] {
        let output = exec(&container, &["sh", "-c", line]);
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("Read-only file system"),
            "{line}: {output:?}"
        );
    }
    sh(&container, "echo y > /rw/file");
    assert_eq!(sh(&container, "cat /ro/file /etc/file"), "y\ny\n");
    container.kill().unwrap();
    scripted_root::end(&sandbox);
}

#[test]
#[ignore = "needs root: containers"]
fn mount_entry_submounts_are_shown_hidden_or_refused() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let source = sandbox.dir("source");
    let below = sandbox.dir("source/below");
    kernel::run("mount", ["-t", "tmpfs", "submount", below.to_str().unwrap()]);
    // What the host mounts later follows into the container only where it was asked for.
    kernel::run("mount", ["--bind", source.to_str().unwrap(), source.to_str().unwrap()]);
    kernel::run("mount", ["--make-shared", source.to_str().unwrap()]);
    kernel::run("mount", ["-t", "tmpfs", "submount", below.to_str().unwrap()]);
    fs::write(below.join("sub"), "").unwrap();
    let late = sandbox.dir("source/late");
    let mut config = scripted_root::config(&root);
    let message = config.mount(bind(&source, "/all").create_dir()).unwrap_err().to_string();
    assert!(message.contains("has submounts (") && message.contains("/source/below)"), "{message}");
    assert!(message.contains(".recursive() to show them or .without_submounts() to hide them"), "{message}");
    config.mount(bind(&source, "/all").recursive().propagation(Propagation::Slave).create_dir()).unwrap();
    config.mount(bind(&source, "/now").recursive().create_dir()).unwrap();
    config.mount(bind(&source, "/own").without_submounts().create_dir()).unwrap();
    config.mount(bind(&source, "/own-ro").without_submounts().read_only().create_dir()).unwrap();
    let container = scripted_root::container(&sandbox);
    container.start(&config).unwrap();
    assert_eq!(sh(&container, "ls /all/below /now/below"), "/all/below:\nsub\n\n/now/below:\nsub\n");
    assert_eq!(sh(&container, "ls -A /own/below; ls -A /own-ro/below"), "");
    kernel::run("mount", ["-t", "tmpfs", "late", late.to_str().unwrap()]);
    fs::write(late.join("later"), "").unwrap();
    assert_eq!(sh(&container, "ls /all/late"), "later\n");
    assert_eq!(sh(&container, "ls -A /own/late; ls -A /own-ro/late; ls -A /now/late"), "");
    // And the container's own mounts never reach the host.
    sh(&container, "mount -t tmpfs inside /all/below; mount -t tmpfs inside /own; touch /own/x /all/below/x");
    assert!(!below.join("x").exists() && !source.join("x").exists());
    container.kill().unwrap();
    kernel::run("umount", ["-R", source.to_str().unwrap()]);
    kernel::unmount(below.to_str().unwrap());
    scripted_root::end(&sandbox);
}

#[test]
#[ignore = "needs root: containers"]
fn mount_entry_nested_targets_are_made_in_the_upper_source() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let (upper, lower) = (sandbox.dir("upper"), sandbox.dir("lower"));
    fs::write(lower.join("here"), "").unwrap();
    let mut config = scripted_root::config(&root);
    config.mount(bind(&upper, "/data/up").create_dir()).unwrap();
    config.mount(bind(&lower, "/data/up/a/b").create_dir()).unwrap();
    let container = scripted_root::container(&sandbox);
    container.start(&config).unwrap();
    assert_eq!(sh(&container, "ls /data/up/a/b"), "here\n");
    container.kill().unwrap();
    assert!(upper.join("a/b").is_dir());
    assert_eq!(fs::read_dir(root.join("data/up")).unwrap().count(), 0);
    // A link in the upper source is no way out either.
    let outside = sandbox.dir("outside");
    symlink(&outside, upper.join("link")).unwrap();
    config.mount(bind(&lower, "/data/up/link/x").create_dir()).unwrap();
    let message = container.start(&config).unwrap_err().to_string();
    assert!(message.contains("runs through a symbolic link"), "{message}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    scripted_root::end(&sandbox);
}

/// What a container's root may plant for the next start.
#[test]
#[ignore = "needs root: containers"]
fn mount_entry_planted_links_lead_nowhere() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let source = sandbox.dir("source");
    let outside = sandbox.dir("outside");
    let container = scripted_root::container(&sandbox);
    symlink(&outside, root.join("absolute")).unwrap();
    symlink("../../outside", root.join("relative")).unwrap();
    symlink("/nonexistent", root.join("dangling")).unwrap();
    symlink("etc", root.join("harmless")).unwrap();
    for target in [
        "/absolute",
        "/absolute/new",
        "/relative/new",
        "/dangling",
        "/dangling/x",
        "/harmless",
        "/harmless/x",
    ] {
        let mut config = scripted_root::config(&root);
        config.mount(bind(&source, target).create_dir()).unwrap();
        let message = container.start(&config).unwrap_err().to_string();
        let expected = format!(
            "invalid mount target {target:?}: runs through a symbolic link in the root: name the place itself"
        );
        assert_eq!(message, expected);
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(!Path::new("/nonexistent").exists());
    scripted_root::end(&sandbox);
}

#[test]
#[ignore = "needs root: containers"]
fn mount_entry_targets_must_fit() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let source = sandbox.dir("source");
    let file = source.join("file");
    fs::write(&file, "x").unwrap();
    let container = scripted_root::container(&sandbox);
    let refused = |entry: MountEntry| {
        let mut config: LxcConfig = scripted_root::config(&root);
        config.mount(entry).unwrap();
        let before = kernel::run("find", [&root]);
        let message = container.start(&config).unwrap_err().to_string();
        assert_eq!(kernel::run("find", [&root]), before, "the root is as it was");
        message
    };
    let message = refused(bind(&source, "/missing"));
    assert_eq!(message, "mount target `/missing` in the root (.create_dir() makes it) does not exist");
    let message = refused(bind(&file, "/etc/missing"));
    assert_eq!(message, "mount target `/etc/missing` in the root (.create_file() makes it) does not exist");
    let message = refused(bind(&source, "/etc/passwd"));
    assert_eq!(
        message,
        "mount target `/etc/passwd` exists but differs: it is a file, the source is a directory"
    );
    let message = refused(bind(&file, "/etc").create_file());
    assert_eq!(message, "mount target `/etc` exists but differs: it is a directory, the source is a file");
    let message = refused(bind(&source, "/etc/passwd/x").create_dir());
    assert!(message.contains("runs through a file in the root"), "{message}");
    // One that fits needs no creation.
    let mut config = scripted_root::config(&root);
    config.mount(bind(&source, "/data")).unwrap().mount(bind(&file, "/etc/passwd")).unwrap();
    container.start(&config).unwrap();
    assert_eq!(sh(&container, "cat /data/file /etc/passwd"), "xx");
    container.kill().unwrap();
    scripted_root::end(&sandbox);
}

/// The longest paths that are accepted do arrive whole: LXC cuts lines in silence.
#[test]
#[ignore = "needs root: containers"]
fn mount_entry_long_paths_arrive() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let source = sandbox.dir("source");
    fs::write(source.join("here"), "").unwrap();
    let mut target = String::from("/data");
    let mut longest = None;
    for length in (100..).map(|n| n * 30) {
        while target.len() < length {
            target.push_str("/a b c d e");
        }
        match MountEntry::bind(&source, &target) {
            Ok(entry) => longest = Some((entry, target.clone())),
            Err(error) => {
                assert!(error.to_string().contains("too long"), "{error}");
                break;
            }
        }
    }
    // Each blank counts four times.
    let (entry, target) = longest
        .or_else(|| {
            let target = format!("/data{}", "/abcdefghi".repeat(330));
            Some((bind(&source, &target), target))
        })
        .unwrap();
    let mut config = scripted_root::config(&root);
    config.mount(entry.create_dir()).unwrap();
    let container = scripted_root::container(&sandbox);
    container.start(&config).unwrap();
    assert_eq!(exec(&container, &["ls", &target]).stdout, b"here\n", "{}", target.len());
    container.kill().unwrap();
    scripted_root::end(&sandbox);
}
