//! What of the machine the report tells: kernel, boot parameters (`man 7 kernel-command-line`), file systems, ids, space.

use std::fs::{self, OpenOptions};
use std::path::Path;

use super::{Check, Finding, check};
use crate::error::{Error, Result};
use crate::host::directory::ContainerDirectory;
use crate::host::handle::require_root;
use crate::host::ids;
use crate::host::record::{Listing, Manifest};
use crate::lxc::LxcConfig;
use crate::name::ContainerName;
use crate::paths::Paths;
use crate::storage::PoolSpec;
use crate::sys::space::available_bytes;
use crate::sys::{self, tool};

/// The oldest kernel with all that is needed: `close_range`. (`LOOP_CONFIGURE`, `openat2`, `clone3` and pidfds are
/// older.)
const OLDEST_KERNEL: (u32, u32) = (5, 9);
/// The oldest one that shows an overlay's layers with other owners, as all containers but privileged ones need.
const OLDEST_FOR_IDS: (u32, u32) = (5, 19);
/// Below this much free space the report warns.
const LITTLE_SPACE_BYTES: u64 = 1 << 30;
/// Where Debian's boot parameters come from.
const GRUB: &str = "/etc/default/grub";
/// What on the kernel's command line changes what containers can have.
const PARAMETERS: [&str; 10] = [
    "apparmor=",
    "cgroup_disable=",
    "cgroup_enable=",
    "cgroup_memory=",
    "cgroup_no_v1=",
    "lsm=",
    "psi=",
    "security=",
    "swapaccount=",
    "systemd.unified_cgroup_hierarchy=",
];

/// Whether a container's volume is a logical volume. A host without any needs no LVM.
pub(super) fn uses_lvm(manifests: &Listing<Manifest>) -> bool {
    manifests.records.iter().any(|record| matches!(record.objects.pool, Some(PoolSpec::Lvm { .. })))
}

pub(super) fn root() -> Result<String> {
    require_root().map(|()| "running as root".to_owned())
}

pub(super) fn kernel() -> Check {
    judge_kernel(&rustix::system::uname().release().to_string_lossy())
}

fn judge_kernel(release: &str) -> Check {
    let version = sys::kernel::version(release);
    let needs = |(major, minor)| format!("install Linux {major}.{minor} or newer");
    let missing = |what: String, oldest| Err(Error::Unsupported { what, needs: needs(oldest) });
    if version.is_none_or(|version| version < OLDEST_KERNEL) {
        return check("kernel", missing(format!("running on Linux {release}"), OLDEST_KERNEL));
    }
    if version.is_none_or(|version| version < OLDEST_FOR_IDS) {
        return check(
            "kernel",
            missing(format!("running other than privileged containers on Linux {release}"), OLDEST_FOR_IDS),
        )
        .optional();
    }
    check("kernel", Ok(format!("Linux {release}")))
}

/// What the kernel was told of control groups and security, and whether what it is told next is what somebody wrote.
pub(super) fn boot_parameters() -> Result<String> {
    let given = fs::read_to_string("/proc/cmdline").map_err(|e| Error::os("read", "/proc/cmdline", e))?;
    judge_boot_parameters(&given, &fs::read_to_string(GRUB).unwrap_or_default())
}

fn judge_boot_parameters(given: &str, grub: &str) -> Result<String> {
    let lines = grub.lines().filter(|line| line.trim_start().starts_with("GRUB_CMDLINE_LINUX=")).count();
    if lines > 1 {
        return Err(Error::Unsupported {
            what: format!("giving the kernel what {lines} lines GRUB_CMDLINE_LINUX in {GRUB} say"),
            needs: "the last one wins: make one of them, run update-grub, reboot".to_owned(),
        });
    }
    let words: Vec<&str> = given
        .split_ascii_whitespace()
        .filter(|word| PARAMETERS.iter().any(|parameter| word.starts_with(parameter)))
        .collect();
    Ok(if words.is_empty() { "none that concern containers".to_owned() } else { words.join(" ") })
}

/// What all containers but privileged ones have.
pub(super) fn user_namespaces() -> Result<String> {
    let map = ids::map(0)?;
    sys::userns::with_map(&map.to_string()).map(|_| "containers can have ids of their own".to_owned())
}

pub(super) fn id_ranges(paths: &Paths, manifests: &Listing<Manifest>) -> Result<String> {
    match ids::free(&ids::taken(paths, manifests)?) {
        (0, all) => Err(Error::Unsupported {
            what: format!("another container with ids of its own, since none of {all} ranges is free,"),
            needs: "remove containers, or take ranges from 1879048192 on out of /etc/subuid and /etc/subgid"
                .to_owned(),
        }),
        (free, all) => Ok(format!("{free} of {all} ranges are free")),
    }
}

pub(super) fn way(paths: &Paths) -> Result<String> {
    let root = ContainerDirectory::rehearsed(paths).root();
    let anyone = LxcConfig::new(&ContainerName::new("check")?, root)?;
    anyone.check_ways(ids::map(0)?.root())?;
    Ok("their roots, ordinary users of this host, get to their files".to_owned())
}

pub(super) fn space(paths: &Paths) -> Check {
    match available_bytes(paths.prefix()) {
        Ok(free) if free < LITTLE_SPACE_BYTES => {
            let remedy = "make room, or set FS_PREFIX to a directory of another file system".to_owned();
            let detail =
                format!("{} MiB free for volumes, of which one takes 1024 by default: {remedy}", free >> 20);
            Check { subject: "space", finding: Finding::Limited, detail, remedy: Some(remedy) }
        }
        free => check("space", free.map(|free| format!("{} MiB free for volumes", free >> 20))),
    }
}

pub(super) fn apparmor() -> Result<String> {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    judge_apparmor(&enabled, fs::read_to_string("/sys/kernel/security/apparmor/profiles").ok().as_deref())
}

/// LXC refuses to start a container where AppArmor is on and LXC's own profile is not loaded.
fn judge_apparmor(enabled: &str, profiles: Option<&str>) -> Result<String> {
    let missing = |needs: &str| {
        Err(Error::Unsupported {
            what: "starting a container under AppArmor, which is on,".to_owned(),
            needs: needs.to_owned(),
        })
    };
    match profiles {
        _ if !enabled.starts_with('Y') => Ok("is off".to_owned()),
        None => missing("run `mount -t securityfs securityfs /sys/kernel/security`"),
        Some(profiles) if profiles.contains("lxc-container-default-cgns") => {
            Ok("LXC's profile is loaded".to_owned())
        }
        Some(_) => missing(
            "install the package apparmor and run `apparmor_parser -r /etc/apparmor.d/lxc-containers`",
        ),
    }
}

/// A node in `/dev` that leads to a driver: opening it loads the module where there is one.
pub(super) fn device(path: &str, remedy: &str) -> Result<String> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Ok(format!("{path} is there")),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENXIO | libc::ENODEV)) => {
            Err(Error::Unsupported { what: format!("using {path}"), needs: remedy.to_owned() })
        }
        Err(error) => Err(Error::os("open", path, error)),
    }
}

/// What the kernel has in it, or loads when it is first needed. Nothing is loaded by the look.
pub(super) fn module(name: &str, option: &str) -> Result<String> {
    if Path::new("/sys/module").join(name).exists() {
        return Ok(format!("the kernel has {name}"));
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let lists = Path::new("/lib/modules").join(&release);
    let listed = |list: &str| {
        fs::read_to_string(lists.join(list))
            .is_ok_and(|list| list.lines().any(|line| is_of_module(line, name)))
    };
    if listed("modules.builtin") {
        return Ok(format!("the kernel has {name}"));
    }
    let closed = fs::read_to_string("/proc/sys/kernel/modules_disabled").is_ok_and(|text| text.trim() == "1");
    if !closed && listed("modules.dep") {
        return Ok(format!("the kernel loads {name} when it is needed"));
    }
    Err(Error::Unsupported {
        what: format!("making a link of the module {name}"),
        needs: format!("run `modprobe {name}`; where there is no such module, a kernel with {option}"),
    })
}

/// Whether a line of `modules.builtin` or of `modules.dep` is about the module `name`, compressed or not.
fn is_of_module(line: &str, name: &str) -> bool {
    let path = line.split(':').next().unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or_default();
    file.split_once(".ko").is_some_and(|(stem, _)| stem.replace('-', "_") == name)
}

pub(super) fn program(name: &str, package: &str) -> Result<String> {
    tool::find(name).map(|path| path.display().to_string()).ok_or_else(|| Error::Unsupported {
        what: format!("running {name}"),
        needs: format!("install the package {package}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apparmor_needs_the_profile_of_lxc() {
        judge_apparmor("", None).unwrap();
        judge_apparmor("N\n", None).unwrap();
        judge_apparmor("Y\n", Some("lxc-container-default-cgns (enforce)\n")).unwrap();
        let message = judge_apparmor("Y\n", Some("man_filter (enforce)\n")).unwrap_err().to_string();
        assert!(message.contains("apparmor_parser -r"), "{message}");
        let message = judge_apparmor("Y\n", None).unwrap_err().to_string();
        assert!(message.contains("securityfs"), "{message}");
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let message = program("no-such-program", "some-package").unwrap_err().to_string();
        assert!(
            message.contains("no-such-program") && message.contains("install the package some-package"),
            "{message}"
        );
    }

    #[test]
    fn lists_of_modules_are_read() {
        for (line, expected) in [
            ("kernel/net/ipv4/ip_gre.ko", true),
            ("kernel/net/ipv4/ip_gre.ko.xz: kernel/net/ipv4/gre.ko.xz", true),
            ("kernel/net/ipv4/ip-gre.ko.zst:", true),
            ("kernel/net/ipv6/ip6_gre.ko: kernel/net/ipv4/ip_gre.ko", false),
            ("kernel/net/ipv4/gre.ko:", false),
            ("", false),
        ] {
            assert_eq!(is_of_module(line, "ip_gre"), expected, "{line}");
        }
    }

    #[test]
    fn old_kernels_are_told_apart() {
        for (release, finding) in [
            ("6.1.0-18-cloud-amd64", Finding::Good),
            ("5.19.0", Finding::Good),
            ("5.10.0-28-amd64", Finding::Limited),
            ("5.8.1", Finding::Missing),
            ("rubbish", Finding::Missing),
        ] {
            let found = judge_kernel(release);
            assert_eq!(found.finding, finding, "{found:?}");
            assert_eq!(found.remedy.is_some(), finding != Finding::Good, "{found:?}");
        }
    }

    /// The notes of many: a second line, appended, takes what the first one said from the kernel.
    #[test]
    fn boot_parameters_of_one_line_count() {
        let one = "GRUB_DEFAULT=0\n# GRUB_CMDLINE_LINUX=x\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\nGRUB_CMDLINE_LINUX=\"a\"\n";
        assert_eq!(judge_boot_parameters("quiet ro", one).unwrap(), "none that concern containers");
        let given = "quiet cgroup_enable=memory swapaccount=1 root=/dev/vda";
        assert_eq!(judge_boot_parameters(given, "").unwrap(), "cgroup_enable=memory swapaccount=1");
        let two = format!("{one}GRUB_CMDLINE_LINUX=\"cgroup_enable=memory swapaccount=1\"\n");
        let message = judge_boot_parameters(given, &two).unwrap_err().to_string();
        assert!(message.contains("update-grub"), "{message}");
    }
}
