//! What this host can do, and the remedy for what it cannot.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::handle::{blocking_on, require_root, runtime};
use super::ids;
use super::record::{Manifest, Records};
use crate::cgroup::{CgroupLimits, Hierarchies};
use crate::error::{Chain, Error, Result};
use crate::lxc::{LxcConfig, LxcTarget};
use crate::name::{ContainerName, LinkName};
use crate::net::{Bridge, BridgeSpec, LinkOwner, Netlink, NetworkNamespace, forward_obstacles};
use crate::paths::Paths;
use crate::storage::{OverlayRoot, PoolSpec};
use crate::sys::space::available_bytes;
use crate::sys::{self, tool};

/// The oldest kernel with all that is needed: `close_range`. (`LOOP_CONFIGURE`, `openat2`, `clone3` and pidfds are
/// older.)
const OLDEST_KERNEL: (u32, u32) = (5, 9);
/// Below this much free space the report warns.
const LITTLE_SPACE_BYTES: u64 = 1 << 30;

/// The limits that everybody needs, one by one.
const LIMITS: [(&str, &str); 4] = [
    ("memory limit", r#"{"memory_max_bytes": 67108864}"#),
    ("memory and swap limit", r#"{"memory_max_bytes": 67108864, "memory_swap_max_bytes": 0}"#),
    ("cpu limit", r#"{"cpu": {"quota_us": 50000}}"#),
    ("process limit", r#"{"pids_max": 64}"#),
];
/// Those that only who asks for them needs.
const FURTHER_LIMITS: [(&str, &str); 8] = [
    ("cpu weight", r#"{"cpu_weight": 50}"#),
    ("cpu burst", r#"{"cpu": {"quota_us": 50000, "burst_us": 1000}}"#),
    ("processors", r#"{"cpus": "0"}"#),
    ("memory high limit", r#"{"memory_high_bytes": 67108864}"#),
    ("memory oom group", r#"{"memory_oom_group": true}"#),
    ("io limit", r#"{"io": {"volume": {"read_bytes_per_second": 1048576}}}"#),
    ("io weight", r#"{"io_weight": 50}"#),
    ("huge page limit", r#"{"hugetlb_max_bytes": {"2MB": 0}}"#),
];

/// How the names of docklet's links begin.
const LINKS: &str = "dk";

/// How one check turned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// The host can do it.
    Good,
    /// The host can do it, with a restriction.
    Limited,
    /// The host cannot do it.
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at: "overlay".
    pub subject: &'static str,
    /// How it turned out.
    pub finding: Finding,
    /// What was found, and the remedy if there is something to mend.
    pub detail: String,
}

/// The report on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Doctor {
    /// Everything that was looked at.
    pub checks: Vec<Check>,
}

impl Doctor {
    /// Looks at this host. Probes are real: a bridge is made, in a network namespace of its own, and goes with it.
    ///
    /// Call it inside a tokio runtime. It needs no working host: what is missing stands in the report.
    pub async fn examine(paths: &Paths) -> Self {
        let for_probes = paths.clone();
        let mut checks = blocking(move || Ok(local_checks(&for_probes))).await.unwrap_or_else(|error| {
            vec![Check { subject: "checks", finding: Finding::Missing, detail: Chain(&error).to_string() }]
        });
        // A task of its own: what it makes it also removes when nobody waits for it any more.
        let for_bridge = paths.clone();
        let bridge = tokio::spawn(async move { probe_bridge(&for_bridge).await });
        let bridge = match bridge.await {
            Ok(result) => result.map(|()| "a bridge can be made".to_owned()),
            Err(error) => Err(Error::os("spawn", "the probe of a bridge", std::io::Error::other(error))),
        };
        checks.push(check("bridge", bridge));
        Self { checks }
    }

    /// Whether containers with limits and networks can run here.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.checks.iter().all(|check| check.finding != Finding::Missing)
    }
}

async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    blocking_on(&runtime()?, call).await
}

fn check(subject: &'static str, result: Result<String>) -> Check {
    match result {
        Ok(detail) => Check { subject, finding: Finding::Good, detail },
        Err(error) => Check { subject, finding: Finding::Missing, detail: Chain(&error).to_string() },
    }
}

fn optional(check: Check) -> Check {
    match check.finding {
        Finding::Missing => Check { finding: Finding::Limited, ..check },
        _ => check,
    }
}

fn local_checks(paths: &Paths) -> Vec<Check> {
    let mut checks = vec![check("root", root()), check("kernel", kernel()), check("prefix", prefix(paths))];
    checks.push(space(paths));
    match Hierarchies::detect() {
        Err(error) => checks.push(check("control groups", Err(error))),
        Ok(hierarchies) => {
            checks.push(check("control groups", Ok(hierarchies.layout().to_string())));
            for (subject, text) in LIMITS {
                checks.push(check(subject, probe_limit(text, &hierarchies)));
            }
            for (subject, text) in FURTHER_LIMITS {
                checks.push(optional(check(subject, probe_limit(text, &hierarchies))));
            }
            let lxc = LxcTarget::detect(&hierarchies).map(|target| format!("liblxc {}", target.version));
            checks.push(check("lxc", lxc));
        }
    }
    checks.push(check(
        "overlay",
        OverlayRoot::supported().map(|()| "overlay file systems can be mounted".to_owned()),
    ));
    checks.push(check("user namespaces", user_namespaces()));
    checks.push(check("way to containers", way(paths)));
    checks.push(check("loop devices", device("/dev/loop-control", "modprobe loop")));
    checks.push(check("apparmor", apparmor()));
    checks.push(check("mkfs.ext4", program("mkfs.ext4", "e2fsprogs")));
    // What only volumes of that kind need, and only networks with address translation.
    checks.push(optional(check("mkfs.xfs", program("mkfs.xfs", "xfsprogs"))));
    checks.push(optional(check("mkfs.btrfs", program("mkfs.btrfs", "btrfs-progs"))));
    let lvm = check("lvm", program("lvm", "lvm2"));
    checks.push(if uses_lvm(paths) { lvm } else { optional(lvm) });
    checks.push(optional(check("nftables", program("nft", "nftables"))));
    checks.push(optional(check("forwarding", forwarding())));
    checks
}

/// Whether a container's volume is a logical volume. A host without any needs no LVM.
fn uses_lvm(paths: &Paths) -> bool {
    let manifests = Records::<Manifest>::new(paths.manifests()).all();
    manifests.is_ok_and(|found| {
        found.records.iter().any(|record| matches!(record.objects.pool, Some(PoolSpec::Lvm { .. })))
    })
}

fn probe_limit(text: &str, hierarchies: &Hierarchies) -> Result<String> {
    let limits: CgroupLimits =
        serde_json::from_str(text).map_err(|error| Error::invalid("limit", text, error.to_string()))?;
    limits.check(hierarchies).map(|()| "can be limited".to_owned())
}

fn root() -> Result<String> {
    require_root().map(|()| "running as root".to_owned())
}

fn kernel() -> Result<String> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    match sys::kernel::version(&release) {
        Some(version) if version >= OLDEST_KERNEL => Ok(format!("Linux {release}")),
        _ => Err(Error::Unsupported {
            what: format!("running on Linux {release}"),
            needs: format!("install Linux {}.{} or newer", OLDEST_KERNEL.0, OLDEST_KERNEL.1),
        }),
    }
}

fn prefix(paths: &Paths) -> Result<String> {
    Ok(format!("{} can be written", paths.prefix().display()))
}

/// What all containers but privileged ones have.
fn user_namespaces() -> Result<String> {
    let map = ids::map(0)?;
    sys::userns::with_map(&map.to_string()).map(|_| "containers can have ids of their own".to_owned())
}

fn way(paths: &Paths) -> Result<String> {
    let anyone = LxcConfig::new(&ContainerName::new("check")?, paths.containers().join("check"))?;
    anyone.check_ways(ids::map(0)?.root())?;
    Ok("their roots, ordinary users of this host, get to their files".to_owned())
}

fn space(paths: &Paths) -> Check {
    match available_bytes(paths.prefix()) {
        Ok(free) => {
            let finding = if free < LITTLE_SPACE_BYTES { Finding::Limited } else { Finding::Good };
            let mut detail = format!("{} MiB free for volumes", free >> 20);
            if finding == Finding::Limited {
                detail.push_str(
                    ": one takes 1024 MiB by default; make room, or set FS_PREFIX to another file system",
                );
            }
            Check { subject: "space", finding, detail }
        }
        Err(error) => check("space", Err(error)),
    }
}

fn apparmor() -> Result<String> {
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

/// No rule of docklet's can undo that another firewall drops a packet.
fn forwarding() -> Result<String> {
    let obstacles = forward_obstacles(LINKS)?;
    let Some(obstacle) = obstacles.iter().find(|obstacle| !obstacle.names_bridges) else {
        let allowed =
            obstacles.first().map(|obstacle| format!("; {obstacle} has rules for docklet's bridges"));
        return Ok(format!("no other firewall is in the way{}", allowed.unwrap_or_default()));
    };
    let family = obstacle.chain.split(' ').next().unwrap_or_default();
    let needs = match (family, obstacle.chain.ends_with(" filter FORWARD")) {
        ("ip" | "ip6", true) => {
            let program = match obstacle.program {
                "nft" => format!("{family}tables"),
                legacy => legacy.to_owned(),
            };
            format!(
                "run `{program} -I FORWARD -i {LINKS}+ -j ACCEPT` and `{program} -I FORWARD -o {LINKS}+ -j ACCEPT` after \
                 each boot; with Docker, in its chain DOCKER-USER instead of FORWARD"
            )
        }
        _ => format!(
            "let its owner add the rules `iifname \"{LINKS}*\" accept` and `oifname \"{LINKS}*\" accept`, or, with firewalld, \
             put docklet's bridges in a zone that forwards"
        ),
    };
    let what =
        format!("reaching the outside from a container, past {obstacle}, which drops what is forwarded,");
    Err(Error::Unsupported { what, needs })
}

fn device(path: &str, remedy: &str) -> Result<String> {
    if Path::new(path).exists() {
        return Ok(format!("{path} is there"));
    }
    Err(Error::Unsupported { what: format!("using {path}"), needs: remedy.to_owned() })
}

fn program(name: &str, package: &str) -> Result<String> {
    tool::find(name).map(|path| path.display().to_string()).ok_or_else(|| Error::Unsupported {
        what: format!("running {name}"),
        needs: format!("install the package {package}"),
    })
}

async fn probe_bridge(paths: &Paths) -> Result<()> {
    let path = paths.locks().join(format!(".probe-{}", std::process::id()));
    let pinned = path.clone();
    let namespace = blocking(move || NetworkNamespace::ensure(&pinned)).await?;
    let result = async {
        let netlink = Netlink::connect_in(&namespace).await?;
        let spec = BridgeSpec::new(LinkName::new("dkprobe")?, LinkOwner::new("docklet:probe")?);
        Bridge::ensure(&netlink, &spec).await.map(drop)
    }
    .await;
    drop(namespace);
    blocking(move || NetworkNamespace::remove(&path)).await?;
    result
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
    fn the_limits_that_are_looked_at_are_limits() {
        for (subject, text) in LIMITS.into_iter().chain(FURTHER_LIMITS) {
            let limits: CgroupLimits = serde_json::from_str(text).expect(subject);
            assert_ne!(limits, CgroupLimits::default(), "{subject}");
        }
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let message = program("no-such-program", "some-package").unwrap_err().to_string();
        assert!(
            message.contains("no-such-program") && message.contains("install the package some-package"),
            "{message}"
        );
    }
}
