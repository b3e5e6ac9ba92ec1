//! What this host can do, and the remedy for what it cannot.

mod machine;
mod network;
mod runtime;

use serde::Serialize;

use super::handle::{blocking_on, runtime as current_runtime};
use super::record::{Manifest, Records};
use crate::error::{Chain, Error, Result};
use crate::paths::Paths;
use crate::storage::OverlayRoot;

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
    /// What was found, in one line for people; the remedy is in it where there is something to mend.
    pub detail: String,
    /// What mends it, alone. `None` if nothing has to be mended, or no remedy is known.
    pub remedy: Option<String>,
}

impl Check {
    /// The same of what containers can do without.
    fn optional(self) -> Self {
        match self.finding {
            Finding::Missing => Self { finding: Finding::Limited, ..self },
            _ => self,
        }
    }
}

/// The report on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Doctor {
    /// Everything that was looked at.
    pub checks: Vec<Check>,
}

impl Doctor {
    /// Looks at this host. Probes are real: a bridge is made, in a network namespace of its own, and goes
    /// with it; liblxc reads a configuration. Whether there can be tunnels is told by the kernel's modules alone, and none is loaded.
    ///
    /// Call it inside a tokio runtime. It needs no working host: what is missing stands in the report.
    pub async fn examine(paths: &Paths) -> Self {
        let for_probes = paths.clone();
        let mut checks = blocking(move || Ok(local_checks(&for_probes)))
            .await
            .unwrap_or_else(|error| vec![check("checks", Err(error))]);
        // A task of its own: what it makes it also removes when nobody waits for it any more.
        let for_links = paths.clone();
        let links = tokio::spawn(async move { network::links(&for_links).await });
        checks.push(network::subnets(paths).await);
        checks.extend(links.await.unwrap_or_else(|error| {
            let error = std::io::Error::other(error);
            vec![check("bridge", Err(Error::os("spawn", "the probe of links", error)))]
        }));
        Self { checks }
    }

    /// Whether containers with limits and networks can run here.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.checks.iter().all(|check| check.finding != Finding::Missing)
    }
}

async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    blocking_on(&current_runtime()?, call).await
}

fn check(subject: &'static str, result: Result<String>) -> Check {
    match result {
        Ok(detail) => Check { subject, finding: Finding::Good, detail, remedy: None },
        Err(error) => {
            let detail = Chain(&error).to_string();
            let remedy = if let Error::Unsupported { needs, .. } = error { Some(needs) } else { None };
            Check { subject, finding: Finding::Missing, detail, remedy }
        }
    }
}

fn local_checks(paths: &Paths) -> Vec<Check> {
    let manifests = Records::<Manifest>::new(paths.manifests()).all();
    let uses_lvm = manifests.as_ref().is_ok_and(machine::uses_lvm);
    let of_volumes = |check: Check| if uses_lvm { check } else { check.optional() };
    let mut checks = vec![
        check("root", machine::root()),
        machine::kernel(),
        check("boot parameters", machine::boot_parameters()).optional(),
        // Whoever has `Paths` could make them.
        check("prefix", Ok(format!("{} can be written", paths.prefix().display()))),
        machine::space(paths),
    ];
    checks.extend(runtime::groups_and_lxc(paths));
    let overlay = OverlayRoot::supported().map(|()| "overlay file systems can be mounted".to_owned());
    let ranges = manifests.and_then(|manifests| machine::id_ranges(paths, &manifests));
    let mapper = machine::device("/dev/mapper/control", "modprobe dm_mod (the kernel's CONFIG_BLK_DEV_DM)");
    checks.extend([
        check("overlay", overlay),
        check("user namespaces", machine::user_namespaces()),
        check("id ranges", ranges),
        check("way to containers", machine::way(paths)),
        check("loop devices", machine::device("/dev/loop-control", "modprobe loop")),
        check("apparmor", machine::apparmor()),
        check("mkfs.ext4", machine::program("mkfs.ext4", "e2fsprogs")),
        // What only volumes of that kind need, and only networks with address translation.
        check("mkfs.xfs", machine::program("mkfs.xfs", "xfsprogs")).optional(),
        check("mkfs.btrfs", machine::program("mkfs.btrfs", "btrfs-progs")).optional(),
        of_volumes(check("lvm", machine::program("lvm", "lvm2"))),
        of_volumes(check("device mapper", mapper)),
    ]);
    checks.extend(network::at_rest());
    checks
}
