//! What root of a container tries against the host and other containers. Each attempt is made from inside a real container, and
//! would do no harm if it succeeded; the kernel's word outside is what counts.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use docklet::host::{ContainerSpec, Privilege};
use docklet::lxc::{self, Exec, ExecOutput, MountEntry};
use docklet::name::ContainerName;

use super::fixture::{Fixture, spec};
use crate::kernel;

impl Fixture {
    async fn attempt(&self, name: &ContainerName, script: &str) -> ExecOutput {
        let exec = Exec { timeout: Some(Duration::from_secs(120)), ..Exec::new(["/bin/sh", "-c", script]) };
        self.host.exec(name, exec).await.expect("exec")
    }

    /// Asserts that the script fails inside, and returns what it said.
    async fn refused(&self, name: &ContainerName, script: &str) -> String {
        let output = self.attempt(name, &format!("exec 2>&1\n{script}")).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.code().is_some_and(|code| code != 0), "{script}: {:?} {said}", output.status);
        said
    }

    fn init_of(&self, name: &ContainerName) -> u32 {
        self.host.runtime(name).unwrap().init_pid().unwrap().expect("it runs")
    }
}

/// A container with more processes and time than the fixture's: attempts are many.
fn roomy(name: &str) -> ContainerSpec {
    let mut spec = spec(name);
    spec.limits.cpu = None;
    spec
}

/// Devices, file systems, modules, the clock: what takes a right over the whole machine.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn the_machine_is_out_of_reach() {
    let fixture = Fixture::new().await;
    let spec = roomy("a");
    fixture.host.launch(spec.clone()).await.unwrap();
    for script in [
        "mknod /root/null c 1 3",
        "mknod /root/disk b 7 0",
        "mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem",
        "mknod /dev/kmsg2 c 1 11",
        // A file system of its own would be without its ids; one of a device needs the device.
        "mount -t devtmpfs dev /mnt",
        "mount -t securityfs none /mnt",
        "mount -t debugfs none /mnt",
        "mount -t tracefs none /mnt",
        "mount -t ext4 /dev/loop0 /mnt",
        "dd if=/dev/zero of=/root/image bs=1M count=4 && mount -t ext4 -o loop /root/image /mnt",
        "insmod /bin/busybox",
        "! date -s @$(date +%s) 2>&1 | grep -q 'not permitted'",
        "dmesg",
        "head -c 1 /proc/kcore",
        "head -c 1 /dev/mem",
        "cat /proc/1/root/dev/kmsg",
        "dd if=/dev/zero of=/root/swap bs=1M count=1 && mkswap /root/swap && swapon /root/swap",
        // The host's ids cannot be had.
        "chown 70000 /root",
        "echo 0 0 1 > /proc/self/uid_map",
    ] {
        fixture.refused(&spec.name, script).await;
    }
    assert!(fixture.refused(&spec.name, "insmod /bin/busybox").await.contains("not permitted"));
    // What belongs to its namespaces works.
    fixture
        .sh(
            &spec.name,
            "mount -t tmpfs none /mnt && echo x > /mnt/x && umount /mnt && mount -t proc proc /mnt && umount /mnt
             hostname inside && ip link add br0 type bridge && ip link set br0 up && mkfifo /root/fifo && chown 33:34 /root",
        )
        .await;
    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}

/// Opens every file of `/proc/sys` and `/sys` to write, and says which it could. Nothing is written. Without a process for each:
/// there are some ten thousand.
const OPEN_ALL: &str = r#"
    mount -o remount,rw,bind /proc/sys 2>/dev/null; mount -o remount,rw /proc/sys 2>/dev/null; umount /proc/sys 2>/dev/null
    mount -o remount,rw /sys 2>/dev/null
    mkdir -p /mnt/proc /mnt/sys
    mount -t proc proc /mnt/proc && mount -t sysfs sysfs /mnt/sys
    for root in /proc/sys /sys /mnt/proc/sys /mnt/sys; do
        find $root -type f 2>/dev/null | while read -r file; do { true >> "$file"; } 2>/dev/null && echo "$file"; done
    done
    for file in /proc/sysrq-trigger /mnt/proc/sysrq-trigger /proc/irq/default_smp_affinity /mnt/proc/acpi/wakeup; do
        { true >> "$file"; } 2>/dev/null && echo "$file"
    done
    true
"#;

/// The kernel's settings: after all that root inside can do to mount them anew, it can open to write only those that its own
/// namespaces have.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn the_kernels_settings_are_out_of_reach() {
    let fixture = Fixture::new().await;
    let mut spec = roomy("a");
    spec.limits.pids_max = None;
    fixture.host.launch(spec.clone()).await.unwrap();
    let pids = || fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
    let before = pids();
    fixture.attempt(&spec.name, "umount /proc/sys; echo 5000 > /proc/sys/kernel/pid_max").await;
    assert_eq!(pids(), before);
    let opened = fixture.sh(&spec.name, OPEN_ALL).await;
    let own = |path: &str| {
        let path = path.strip_prefix("/mnt").unwrap_or(path);
        ["/proc/sys/net/", "/proc/sys/user/", "/sys/devices/virtual/net/", "/sys/class/net/", "/sys/fs/cgroup/"]
            .iter()
            .any(|own| path.starts_with(own))
            || ["domainname", "hostname", "msg", "sem", "shm", "auto_msgmni", "mq"].iter().any(|ipc| {
                path.strip_prefix("/proc/sys/kernel/").is_some_and(|name| name.starts_with(ipc))
            })
            || path.starts_with("/proc/sys/fs/mqueue/")
            // Of its process namespace; `pid_max` was the machine's before Linux 6.14, and root's alone.
            || ["/proc/sys/kernel/ns_last_pid", "/proc/sys/kernel/pid_max"].contains(&path)
    };
    let foreign: Vec<&str> = opened.lines().filter(|path| !own(path)).collect();
    assert_eq!(foreign, Vec::<&str>::new());
    // The attempts were real ones: its own network's settings are among them.
    assert!(opened.lines().any(|path| path.contains("/proc/sys/net/ipv4/")), "{opened}");
    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}

/// The control groups above its own: neither seen nor changed, whatever is mounted.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn the_hosts_control_groups_are_out_of_reach() {
    let fixture = Fixture::new().await;
    let spec = spec("a");
    fixture.host.launch(spec.clone()).await.unwrap();
    let script = r#"
        echo outside: $(cut -d: -f3 /proc/self/cgroup | sort -u)
        mkdir -p /tmp/c; cd /tmp/c
        for controller in memory pids cpu devices freezer; do
            mkdir -p $controller && mount -t cgroup -o $controller none $controller 2>/dev/null
        done
        mkdir -p unified && mount -t cgroup2 none unified 2>/dev/null
        echo mounted: $(grep -c ' /tmp/c/' /proc/mounts)
        for file in $(find . -name release_agent -o -name memory.limit_in_bytes -o -name memory.max -o -name pids.max \
            -o -name cpu.max -o -name cpu.cfs_quota_us -o -name devices.allow -o -name cgroup.subtree_control); do
            case $file in
                *release_agent) echo found: $file ;;
                *devices.allow) (echo a > $file) 2>/dev/null && echo wrote: $file ;;
                *) (echo 99999999999 > $file) 2>/dev/null ;;
            esac
        done
        ls -a */.. | grep -c docklet
        find . -type d -name docklet -o -type d -name lxc.monitor
    "#;
    let said = String::from_utf8(fixture.attempt(&spec.name, script).await.stdout).unwrap();
    // What is above its own group has no name inside.
    let own = said.lines().next().unwrap();
    assert!(own.starts_with("outside: /") && !own.contains("..") && !own.contains("docklet"), "{said}");
    assert!(!said.contains("found:") && !said.contains("wrote:") && !said.contains("./"), "{said}");
    assert!(said.contains("\n0\n"), "{said}");
    assert!(!said.contains("mounted: 0"), "none of its own groups could be looked at: {said}");
    // The limits stand above what it sees, and are what they were; the files there are the host's root's.
    let payload = fixture.host.runtime(&spec.name).unwrap().payload().clone();
    payload.verify(&spec.limits).unwrap();
    let mut looked = 0;
    for (hierarchy, file) in
        [("memory", "memory.limit_in_bytes"), ("", "memory.max"), ("pids", "pids.max"), ("", "pids.max")]
    {
        let group = Path::new("/sys/fs/cgroup").join(hierarchy).join(payload.path());
        if let Ok(found) = fs::metadata(group.join(file)) {
            looked += 1;
            assert_eq!(found.uid(), 0, "{}", group.display());
            assert_eq!(fs::metadata(&group).unwrap().uid(), 0, "{}", group.display());
        }
    }
    assert!(looked > 0);
    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}

/// Whether a process on the host with the ids `id`, and no more rights than these give, can do it.
fn as_user(id: u32, command: &[&str]) -> bool {
    let id = id.to_string();
    Command::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--inh-caps=-all", "--"])
        .args(command)
        .output()
        .expect("setpriv")
        .status
        .success()
}

/// Another container's processes and files, from inside, and by somebody who has got out with nothing but his ids.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn other_containers_are_out_of_reach() {
    let fixture = Fixture::new().await;
    let (a, b) = (roomy("a"), roomy("b"));
    let id_of = |info: &docklet::host::ContainerInfo| info.ids.as_ref().unwrap().root();
    let (one, two) =
        (fixture.host.launch(a.clone()).await.unwrap(), fixture.host.launch(b.clone()).await.unwrap());
    let (first, second) = (fixture.init_of(&a.name), fixture.init_of(&b.name));
    // Inside there is no such process.
    let attempts = format!("kill -0 {second} || kill -9 {second} || ls /proc/{second}");
    fixture.refused(&a.name, &attempts).await;
    assert!(fixture.sh(&a.name, "ls /proc | grep -c '^[0-9]'").await.trim().parse::<u32>().unwrap() < 20);
    // Outside there are all, but one's own only can be signalled, traced or looked into.
    for (id, own, other) in [(id_of(&one), first, second), (id_of(&two), second, first)] {
        assert!(as_user(id, &["kill", "-0", &own.to_string()]));
        assert!(!as_user(id, &["kill", "-0", &other.to_string()]));
        assert!(!as_user(id, &["ls", &format!("/proc/{other}/fd")]));
        assert!(!as_user(id, &["kill", "-0", &std::process::id().to_string()]));
    }
    // Each passes its own directory and nobody else's; a set-uid program in a root is out of reach for all others.
    fixture.sh(&a.name, "cp /bin/busybox /suid; chmod 4755 /suid").await;
    let root = |info: &docklet::host::ContainerInfo| {
        fixture.sandbox.paths.containers().join(info.id.as_str()).join("root").display().to_string()
    };
    let (mine, theirs) = (root(&one), root(&two));
    let suid = format!("{mine}/suid");
    assert!(as_user(id_of(&one), &["test", "-x", &suid]), "{suid}");
    for stranger in [id_of(&two), id_of(&one) + 1, 1000, 65_534] {
        assert!(!as_user(stranger, &["test", "-e", &suid]), "{stranger}");
    }
    assert!(!as_user(id_of(&one), &["ls", &theirs]));
    // Of what is the host's it owns nothing, not even of its own directory.
    let directory = Path::new(&mine).parent().unwrap().display().to_string();
    for path in ["config", "netns", "netns.user", "hosts", "resolv.conf", "started.json", "new"] {
        let script = format!("echo x >> {directory}/{path}");
        assert!(!as_user(id_of(&one), &["sh", "-c", &script]), "{path}");
    }
    assert!(!as_user(id_of(&one), &["ls", &directory]));
    for path in
        [fixture.sandbox.paths.manifests(), fixture.sandbox.paths.volumes(), fixture.sandbox.paths.images()]
    {
        assert!(!as_user(id_of(&one), &["ls", &path.display().to_string()]), "{}", path.display());
    }
    for name in [&a.name, &b.name] {
        fixture.host.remove(name).await.unwrap();
    }
    fixture.end().await;
}

/// Set-uid programs work inside, and only inside; with `no_new_privileges` they give nothing.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn new_privileges_are_an_option() {
    let fixture = Fixture::new().await;
    for (name, no_new_privileges) in [("able", false), ("strict", true)] {
        let privilege = Privilege::Unprivileged { no_new_privileges };
        let spec = ContainerSpec { privilege, ..roomy(name) };
        fixture.host.launch(spec.clone()).await.unwrap();
        // Busybox' `su` with an empty password.
        let script = "cp /bin/busybox /bin/su.new; chmod 4755 /bin/su.new; mv /bin/su.new /bin/su
            printf 'root::0:0::/root:/bin/sh\\nuser::1000:1000::/:/bin/sh\\n' > /etc/passwd";
        fixture.sh(&spec.name, script).await;
        let command = lxc::Command {
            user: Some(1000.into()),
            group: Some(1000.into()),
            ..lxc::Command::new(["/bin/su", "-c", "id -u"])
        };
        let output = fixture.host.exec(&spec.name, command.into()).await.unwrap();
        let became_root = output.stdout == b"0\n";
        assert_eq!(became_root, !no_new_privileges, "{output:?} {}", String::from_utf8_lossy(&output.stderr));
        let bit = |text: String| text.trim().ends_with('1');
        for process in ["1", "self"] {
            let status = fixture.sh(&spec.name, &format!("grep NoNewPrivs /proc/{process}/status")).await;
            assert_eq!(bit(status), no_new_privileges, "{process}");
        }
        fixture.host.remove(&spec.name).await.unwrap();
    }
    fixture.end().await;
}

/// What the host makes in a root belongs to the container's root, and no link that was planted there leads it elsewhere.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn what_the_host_writes_inside_is_the_containers() {
    let fixture = Fixture::new().await;
    let source = fixture.sandbox.dir("source");
    fs::write(source.join("file"), "shown").unwrap();
    let mut spec = roomy("a");
    spec.mounts = vec![
        MountEntry::bind(&source, "/made/by/host").unwrap().create_dir(),
        MountEntry::bind(source.join("file"), "/other/file").unwrap().create_file(),
    ];
    fixture.host.launch(spec.clone()).await.unwrap();
    fixture.sh(&spec.name, "umount /made/by/host /other/file /etc/hosts /etc/resolv.conf").await;
    let owners = "stat -c %u:%g /made /made/by /made/by/host /other /other/file /etc /etc/hosts /etc/resolv.conf | sort -u";
    assert_eq!(fixture.sh(&spec.name, owners).await, "0:0\n");
    // Only the read-only files of names are the host's: nobody's, who everybody reads and nobody writes.
    fixture.host.stop(&spec.name, Duration::ZERO).await.unwrap();
    fixture.host.start(&spec.name).await.unwrap();
    let names =
        "stat -c %U:%a /etc/hosts /etc/resolv.conf | sort -u; grep -c localhost /etc/hosts; cat /other/file";
    let said = fixture.sh(&spec.name, names).await;
    assert!(said.contains(":644") && said.ends_with("\n2\nshown"), "{said}");
    fixture.refused(&spec.name, "echo x >> /etc/hosts").await;
    fixture.refused(&spec.name, "mount -o remount,rw,bind /etc/hosts && echo x >> /etc/hosts").await;
    fixture.host.remove(&spec.name).await.unwrap();

    // Links at each place that the host writes to.
    let outside = fixture.sandbox.dir("outside");
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o777)).unwrap();
    symlink(&outside, outside.join("loop")).unwrap();
    let to = outside.display();
    for (script, starts) in [
        (format!("umount /made/by/host; rm -r /made; ln -s {to} /made"), false),
        (format!("umount /made/by/host; rmdir /made/by/host; ln -s {to} /made/by/host"), false),
        (format!("umount /other/file; rm /other/file; ln -s {to}/planted /other/file"), false),
        (format!("umount /etc/hosts; rm /etc/hosts; ln -s {to}/planted /etc/hosts"), true),
        (
            format!(
                "umount /etc/resolv.conf; rm /etc/resolv.conf; ln -s /proc/1/root{to}/planted /etc/resolv.conf"
            ),
            true,
        ),
        (format!("umount /etc/hosts /etc/resolv.conf; rm -r /etc; ln -s {to} /etc"), true),
        (format!("ln -s {to}/planted /.lxc_keep"), false),
        (format!("umount -l /dev; rm -r /dev; ln -s {to} /dev"), false),
        (format!("umount -l /proc; rm -r /proc; ln -s {to} /proc"), false),
    ] {
        fixture.host.launch(spec.clone()).await.unwrap();
        fixture.attempt(&spec.name, &script).await;
        fixture.host.stop(&spec.name, Duration::ZERO).await.unwrap();
        assert_eq!(fixture.host.start(&spec.name).await.is_ok(), starts, "{script}");
        let found: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(found, ["loop"], "{script}");
        assert_eq!(kernel::mounts_beneath(&outside), Vec::<String>::new(), "{script}");
        fixture.host.remove(&spec.name).await.unwrap();
    }
    fixture.end().await;
}
