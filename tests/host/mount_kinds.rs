//! What can be mounted, and how: one container, of the host's ids or of its own, and a look from inside for each rule.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use docklet::idmap::IdMap;
use docklet::lxc::{
    ConfigPath, Container, FilesystemMount, LxcConfig, MountEntry, MountOption, Namespace, NamespaceSource,
    Propagation, Tmpfs,
};
use docklet::net::NetworkNamespace;

use crate::kernel;
use crate::sandbox::Sandbox;
use crate::scripted_root::{self, exec, sh};

/// What root is outside, in a container of its own ids.
const ROOT: u32 = 2_000_000_000;

/// A root and a configuration, privileged or not.
struct Stage {
    sandbox: Sandbox,
    root: PathBuf,
    config: LxcConfig,
    container: Container,
    pin: Option<PathBuf>,
    /// To be unmounted in the end.
    mounted: Vec<PathBuf>,
}

impl Stage {
    fn new(unprivileged: bool) -> Self {
        let sandbox = Sandbox::new();
        let root = scripted_root::root(&sandbox, "a");
        let mut config = scripted_root::config(&root);
        let container = scripted_root::container(&sandbox);
        let pin = unprivileged.then(|| {
            kernel::run(
                "chown",
                ["-R", "--no-dereference", &format!("{ROOT}:{ROOT}"), root.to_str().unwrap()],
            );
            let map = IdMap::new([(0, ROOT, 65_536)]).unwrap();
            let pin = sandbox.dir("pins").join("net");
            drop(NetworkNamespace::ensure_mapped(&pin, &map).unwrap());
            config.join_network(&pin).unwrap().id_map = Some(map);
            let user = ConfigPath::new(NetworkNamespace::owner_path(&pin)).unwrap();
            config.namespaces.insert(Namespace::User, NamespaceSource::Pinned(user));
            pin
        });
        Self { sandbox, root, config, container, pin, mounted: Vec::new() }
    }

    fn start(&self) {
        self.container.start(&self.config).unwrap_or_else(|e| panic!("{}", docklet::error::Chain(&e)));
    }

    fn sh(&self, line: &str) -> String {
        sh(&self.container, line)
    }

    /// That a line fails inside, with these words.
    fn refused(&self, line: &str, words: &str) {
        let output = exec(&self.container, &["sh", "-c", line]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(words), "{line}: {:?} {said}", output.status);
    }

    fn end(self) {
        self.container.kill().unwrap();
        let place = self.sandbox.paths.containers();
        assert_eq!(kernel::mounts_beneath(&place), Vec::<String>::new());
        if let Some(pin) = &self.pin {
            NetworkNamespace::remove(pin).unwrap();
        }
        for path in &self.mounted {
            kernel::run("umount", ["-R", path.to_str().unwrap()]);
        }
        scripted_root::end(&self.sandbox);
    }
}

fn bind(source: &Path, target: &str) -> MountEntry {
    MountEntry::bind(source, target).unwrap()
}

/// A directory with a file system beneath it, and one beneath that.
fn nested(sandbox: &Sandbox) -> PathBuf {
    let source = sandbox.dir("nested");
    for (path, name) in [("below", "one"), ("below/deeper", "two")] {
        let path = source.join(path);
        fs::create_dir_all(&path).unwrap();
        kernel::run("mount", ["-t", "tmpfs", name, path.to_str().unwrap()]);
        fs::write(path.join(name), name).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    source
}

/// A relative target has no place in an entry, and no line of LXC's has an absolute one: neither ends under LXC's own
/// directory, where it once did.
#[test]
#[ignore = "needs root: containers"]
fn mount_kinds_targets_are_never_taken_for_lxcs_own() {
    let mut stage = Stage::new(false);
    let source = stage.sandbox.dir("source");
    fs::write(source.join("here"), "").unwrap();
    let message = MountEntry::bind(&source, "data").unwrap_err().to_string();
    assert!(message.contains("must be an absolute path"), "{message}");
    // Missing, and nobody said what to make: an error that names it, and what makes it.
    stage.config.mount(bind(&source, "/not/there")).unwrap();
    let message = stage.container.start(&stage.config).unwrap_err().to_string();
    assert_eq!(message, "mount target `/not/there` in the root (.create_dir() makes it) does not exist");
    assert!(!stage.root.join("not").exists());
    stage.config = scripted_root::config(&stage.root);
    stage.config.mount(bind(&source, "/not/there").create_dir()).unwrap();
    stage.start();
    assert_eq!(stage.sh("ls /not/there"), "here\n");
    let text = fs::read_to_string(
        fs::read_dir(stage.sandbox.paths.containers())
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path()
            .join("config"),
    )
    .unwrap();
    assert!(text.contains(" not/there none rbind,optional 0 0"), "{text}");
    stage.end();
}

/// Read-only is read-only down to the last submount, for a root with all its capabilities over its own namespaces, too.
#[test]
#[ignore = "needs root: containers"]
fn mount_kinds_read_only_goes_all_the_way_down() {
    for unprivileged in [false, true] {
        let mut stage = Stage::new(unprivileged);
        let source = nested(&stage.sandbox);
        stage.config.mount(bind(&source, "/ro").recursive().read_only().create_dir()).unwrap();
        stage.config.mount(bind(&source, "/rw").recursive().create_dir()).unwrap();
        stage.start();
        assert_eq!(stage.sh("cat /ro/below/one /ro/below/deeper/two"), "onetwo");
        for path in ["/ro/x", "/ro/below/x", "/ro/below/deeper/x"] {
            stage.refused(&format!("touch {path}"), "Read-only file system");
        }
        stage.sh("touch /rw/below/written /rw/below/deeper/written");
        if unprivileged {
            stage.refused("mount -o remount,bind,rw /ro/below", "ermission denied");
            stage.refused("umount /ro/below", "nvalid argument");
        }
        stage.mounted.push(source.join("below"));
        stage.end();
    }
}

/// Owners inside are those on the disk, both ways; without the option the host's users are nobody.
#[test]
#[ignore = "needs root: containers"]
fn mount_kinds_owners_are_mapped() {
    let mut stage = Stage::new(true);
    let source = stage.sandbox.dir("source");
    fs::write(source.join("file"), "x").unwrap();
    chown(source.join("file"), Some(1000), Some(1001)).unwrap();
    stage.config.mount(bind(&source, "/mapped").id_mapped().create_dir()).unwrap();
    stage.config.mount(bind(&source, "/plain").create_dir()).unwrap();
    stage.config.mount(bind(&source.join("file"), "/file").id_mapped().create_file()).unwrap();
    // A target beneath it is made with the owner that root has there.
    stage.config.mount(bind(&source, "/mapped/in").create_dir()).unwrap();
    stage.start();
    assert_eq!(
        stage.sh("stat -c %u:%g /mapped/file /file /mapped /plain/file"),
        "1000:1001\n1000:1001\n0:0\n65534:65534\n"
    );
    stage.sh("echo y > /mapped/new; chown 5:6 /mapped/new; touch /mapped/root; chmod 600 /mapped/file");
    stage.refused("touch /plain/new", "Permission denied");
    for (name, owner) in [("new", (5, 6)), ("root", (0, 0)), ("in", (0, 0)), ("file", (1000, 1001))] {
        let found = fs::metadata(source.join(name)).unwrap();
        assert_eq!((found.uid(), found.gid()), owner, "{name}");
    }
    stage.end();
}

/// What a file system cannot map is refused before anything runs, and named.
#[test]
#[ignore = "needs root: containers"]
fn mount_kinds_owners_that_cannot_be_mapped_are_refused() {
    let mut stage = Stage::new(true);
    stage
        .config
        .mount(bind(Path::new("/proc/sys"), "/x").without_submounts().id_mapped().create_dir())
        .unwrap();
    let error = stage.container.start(&stage.config).unwrap_err();
    assert!(matches!(error, docklet::Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("a file system that can be mounted so"), "{error}");
    stage.end();
}

/// A missing source is passed over where that was said, and nothing else is.
#[test]
#[ignore = "needs root: containers"]
fn mount_kinds_optional_sources_may_be_missing() {
    let mut stage = Stage::new(false);
    let (there, missing) = (stage.sandbox.dir("there"), stage.sandbox.dir("x").join("missing"));
    fs::write(there.join("here"), "").unwrap();
    let message = stage.config.mount(bind(&missing, "/a").create_dir()).unwrap_err().to_string();
    assert!(message.contains("does not exist"), "{message}");
    stage.config.mount(bind(&missing, "/a").optional().create_dir()).unwrap();
    stage.config.mount(bind(&there, "/b").optional().create_dir()).unwrap();
    // Beneath the one that is missing it is the root's own directory.
    stage.config.mount(bind(&there, "/a/c").create_dir()).unwrap();
    stage.start();
    assert_eq!(stage.sh("ls /a /b /a/c"), "/a:\nc\n\n/a/c:\nhere\n\n/b:\nhere\n");
    assert_eq!(stage.sh("grep -c ' /a ' /proc/self/mountinfo || true").trim(), "0");
    stage.container.kill().unwrap();
    // Once it is there it is mounted, by the same configuration.
    fs::create_dir(&missing).unwrap();
    fs::write(missing.join("late"), "").unwrap();
    stage.start();
    assert_eq!(stage.sh("ls /a"), "c\nlate\n");
    stage.container.kill().unwrap();
    // A target that does not fit is an error all the same.
    stage.config.mount(bind(&there, "/etc/passwd").optional()).unwrap();
    stage.container.start(&stage.config).unwrap_err();
    stage.end();
}

/// What the host mounts later is seen where that was asked for; what the container mounts is never seen by the host.
#[test]
#[ignore = "needs root: containers"]
fn mount_kinds_mounts_spread_inwards_only() {
    for unprivileged in [false, true] {
        let mut stage = Stage::new(unprivileged);
        let source = stage.sandbox.dir("source");
        let text = source.to_str().unwrap();
        kernel::run("mount", ["--bind", text, text]);
        kernel::run("mount", ["--make-shared", text]);
        let late = stage.sandbox.dir("source/late");
        fs::set_permissions(&source, fs::Permissions::from_mode(0o777)).unwrap();
        stage.sandbox.dir("source/own");
        for (target, propagation) in [("/private", Propagation::Private), ("/slave", Propagation::Slave)] {
            stage.config.mount(bind(&source, target).propagation(propagation).create_dir()).unwrap();
        }
        stage.start();
        kernel::run("mount", ["-t", "tmpfs", "late", late.to_str().unwrap()]);
        fs::write(late.join("later"), "").unwrap();
        assert_eq!(stage.sh("ls /private/late /slave/late"), "/private/late:\n\n/slave/late:\nlater\n");
        kernel::run("umount", [&late]);
        assert_eq!(stage.sh("ls /slave/late"), "");
        stage.sh("mount -t tmpfs own /slave/own; touch /slave/own/x; mount -t tmpfs own /private/own");
        assert_eq!(fs::read_dir(source.join("own")).unwrap().count(), 0);
        stage.mounted.push(source);
        stage.end();
    }
}

/// Memory of a size that root inside cannot raise, empty at each start.
#[test]
#[ignore = "needs root: containers"]
fn mount_kinds_tmpfs_has_its_size_and_mode() {
    for unprivileged in [false, true] {
        let mut stage = Stage::new(unprivileged);
        let source = stage.sandbox.dir("source");
        fs::write(source.join("here"), "").unwrap();
        let tmpfs = Tmpfs { mode: 0o1777, ..Tmpfs::new(1 << 20) };
        let scratch = MountEntry::tmpfs(tmpfs, "/scratch").unwrap().with(MountOption::NoExec).create_dir();
        stage.config.mount(scratch).unwrap();
        // A bind mount in it has its target made there.
        stage.config.mount(bind(&source, "/scratch/deep/er").create_dir()).unwrap();
        stage.start();
        assert_eq!(stage.sh("stat -c %a:%u:%g /scratch; ls /scratch/deep/er"), "1777:0:0\nhere\n");
        stage.refused("dd if=/dev/zero of=/scratch/full bs=64k count=32", "No space left");
        assert_eq!(stage.sh("stat -c %s /scratch/full"), "1048576\n");
        stage.sh("rm /scratch/full; echo x > /scratch/x; chmod 755 /scratch/x");
        stage.refused("/scratch/x", "ermission denied");
        let options = stage.sh("grep ' /scratch ' /proc/self/mountinfo | cut -d' ' -f6");
        assert!(["nosuid", "nodev", "noexec"].iter().all(|option| options.contains(option)), "{options}");
        if unprivileged {
            stage.refused("mount -o remount,size=100m /scratch", "mount");
            stage.refused(
                "dd if=/dev/zero of=/scratch/full bs=64k count=32; rm /scratch/full && false",
                "No space left",
            );
            stage.refused("mount -o remount,bind,exec /scratch", "ermission denied");
        }
        stage.container.kill().unwrap();
        stage.start();
        assert_eq!(stage.sh("ls /scratch"), "deep\n");
        stage.end();
    }
}

/// A file system that the host mounts, with its own options, read-only or not, with mapped owners or not.
#[test]
#[ignore = "needs root: containers"]
fn mount_kinds_file_systems_are_mounted_by_the_host() {
    let mut stage = Stage::new(true);
    let image = stage.sandbox.dir("images").join("disk");
    fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    kernel::run("mkfs.ext4", ["-q", image.to_str().unwrap()]);
    let device = kernel::run("losetup", ["--find", "--show", image.to_str().unwrap()]).trim().to_owned();
    let mount = |options: &[&str]| FilesystemMount {
        filesystem: "ext4".to_owned(),
        source: device.clone(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    };
    let entry = |options: &[&str]| MountEntry::filesystem(mount(options), "/disk").unwrap().create_dir();
    stage.config.mount(entry(&["errors=remount-ro"]).id_mapped()).unwrap();
    stage.start();
    stage.sh("echo kept > /disk/file; stat -c %u /disk/file | grep -x 0");
    let line = stage.sh("grep ' /disk ' /proc/self/mountinfo");
    assert!(line.contains("ext4") && line.contains("errors=remount-ro") && line.contains("nodev"), "{line}");
    stage.container.kill().unwrap();
    let fresh = |stage: &Stage, entry: MountEntry| {
        let mut config = stage.config.clone();
        config
            .mount(MountEntry::bind("/etc", "/etc-of-host").unwrap().without_submounts().create_dir())
            .unwrap();
        let mut other = scripted_root::config(&stage.root);
        (other.id_map, other.namespaces) = (config.id_map, config.namespaces);
        other.join_network(stage.pin.as_ref().unwrap()).unwrap().mount(entry).unwrap();
        other
    };
    stage.config = fresh(&stage, entry(&["noload"]).read_only());
    stage.start();
    assert_eq!(stage.sh("cat /disk/file"), "kept\n");
    stage.refused("touch /disk/x", "Read-only file system");
    stage.container.kill().unwrap();
    // What the file system does not take is an error with the kernel's words.
    stage.config = fresh(&stage, entry(&["no_such_option=1"]));
    let message = docklet::error::Chain(&stage.container.start(&stage.config).unwrap_err()).to_string();
    assert!(message.contains("no_such_option"), "{message}");
    kernel::run("losetup", ["--detach", &device]);
    // It goes with its last user. That can be udev, which looks at it.
    kernel::wait_until("its end", || kernel::loops_beneath(&image).is_empty());
    stage.end();
}

/// A device works inside as far as it was allowed, beneath `/dev` and elsewhere; others do not.
#[test]
#[ignore = "needs root: containers"]
fn mount_kinds_devices_can_be_used() {
    for unprivileged in [false, true] {
        let mut stage = Stage::new(unprivileged);
        let device = |target: &str| MountEntry::device("/dev/kmsg", target).unwrap();
        stage.config.mount(device("/dev/net/messages").read_only()).unwrap();
        stage.config.mount(MountEntry::device("/dev/zero", "/data/zero").unwrap()).unwrap();
        stage.start();
        assert_eq!(stage.sh("head -c 3 /data/zero | tr '\\0' z"), "zzz");
        let host = fs::metadata("/dev/kmsg").unwrap();
        let expected = format!("0:0 {:o}\n", host.permissions().mode() & 0o777);
        assert_eq!(stage.sh("stat -c '%u:%g %a' /dev/net/messages"), expected);
        // To be read only, as the control group says; whether it may be is the kernel's own matter.
        stage.refused("echo x > /dev/net/messages", "not permitted");
        stage.container.kill().unwrap();
        let mut config = stage.config.clone();
        let message = config.mount(bind(Path::new("/dev/zero"), "/z").create_file()).unwrap_err().to_string();
        assert!(message.contains("is a device: use MountEntry::device"), "{message}");
        let message = MountEntry::device("/etc/passwd", "/dev/x").map(|entry| config.mount(entry).map(drop));
        assert!(message.unwrap().unwrap_err().to_string().contains("is no device"));
        // One that is not in the list of devices any more is not handed over.
        config.devices.retain(|rule| rule.to_string().starts_with("c 1:11"));
        let error = stage.container.start(&config).unwrap_err();
        assert!(matches!(error, docklet::Error::Differs { .. }), "{error}");
        stage.end();
    }
}

/// Set-user-id programs count or not, as was said.
#[test]
#[ignore = "needs root: containers"]
fn mount_kinds_options_are_taken() {
    let mut stage = Stage::new(false);
    let source = stage.sandbox.dir("source");
    fs::copy("/bin/busybox", source.join("busybox")).unwrap();
    fs::set_permissions(source.join("busybox"), fs::Permissions::from_mode(0o4755)).unwrap();
    stage.config.mount(bind(&source, "/suid").create_dir()).unwrap();
    stage.config.mount(bind(&source, "/nosuid").with(MountOption::NoSuid).create_dir()).unwrap();
    stage.config.mount(bind(&source, "/noexec").with(MountOption::NoExec).create_dir()).unwrap();
    stage.start();
    stage.refused("/noexec/busybox true", "ermission denied");
    for (target, expected) in [("/suid", "nosuid"), ("/nosuid", "")] {
        let options = stage.sh(&format!("grep ' {target} ' /proc/self/mountinfo | cut -d' ' -f6"));
        assert_eq!(options.contains("nosuid"), expected.is_empty(), "{target} {options}");
    }
    stage.end();
}
