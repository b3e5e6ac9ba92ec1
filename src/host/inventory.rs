//! Everything on this host that carries one prefix's mark, as plain text to compare.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::handle::Host;
use crate::cgroup::Cgroup;
use crate::error::{Chain, Error, Result};
use crate::lxc;
use crate::sys::{loopdev, mountinfo};

/// What a host has of one prefix. Two of them can be compared with [`Inventory::diff`].
///
/// Left out on purpose: caches, which outlive containers (`global/images`, the templates of volumes), and lock files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Loop devices with a backing file beneath the prefix.
    pub loops: BTreeSet<String>,
    /// Mounts beneath the prefix.
    pub mounts: BTreeSet<String>,
    /// Links with the prefix's mark in their alias.
    pub links: BTreeSet<String>,
    /// The rules of the prefix's nftables table, one text per table.
    pub nft: BTreeSet<String>,
    /// Control groups of the prefix's containers.
    pub cgroups: BTreeSet<String>,
    /// Processes in those control groups.
    pub processes: BTreeSet<String>,
    /// Lock files that liblxc keeps for the prefix's containers.
    pub lxc: BTreeSet<String>,
    /// Files and directories beneath `local/`, but for what is beneath a mount.
    pub files: BTreeSet<String>,
}

/// What one inventory has and another has not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryDiff {
    /// What only the later one has.
    pub added: Vec<String>,
    /// What only the earlier one has.
    pub gone: Vec<String>,
}

impl InventoryDiff {
    /// Whether both are the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.gone.is_empty()
    }
}

impl fmt::Display for InventoryDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.added {
            writeln!(f, "+ {line}")?;
        }
        for line in &self.gone {
            writeln!(f, "- {line}")?;
        }
        Ok(())
    }
}

impl Inventory {
    /// What `later` has and this one has not, and the other way round.
    #[must_use]
    pub fn diff(&self, later: &Self) -> InventoryDiff {
        let (before, after) = (self.lines(), later.lines());
        InventoryDiff {
            added: after.difference(&before).cloned().collect(),
            gone: before.difference(&after).cloned().collect(),
        }
    }

    fn lines(&self) -> BTreeSet<String> {
        self.kinds()
            .into_iter()
            .flat_map(|(kind, set)| set.iter().map(move |object| format!("{kind} {object}")))
            .collect()
    }

    fn kinds(&self) -> [(&'static str, &BTreeSet<String>); 8] {
        [
            ("loop", &self.loops),
            ("mount", &self.mounts),
            ("link", &self.links),
            ("nft", &self.nft),
            ("cgroup", &self.cgroups),
            ("process", &self.processes),
            ("lxc", &self.lxc),
            ("file", &self.files),
        ]
    }
}

impl Host {
    /// What this host has of this prefix now. Takes no lock: while operations run it may show half of one.
    ///
    /// # Errors
    /// [`Error::Os`] if the kernel's lists cannot be read.
    pub async fn inventory(&self) -> Result<Inventory> {
        let inner = &self.inner;
        let links = inner.netlink.links_owned(&self.mark_prefix()).await?;
        let mut inventory = self.blocking(move |host| host.blocking_inventory()).await?;
        inventory.links = links.into_iter().map(|(link, owner)| format!("{link} {owner}")).collect();
        Ok(inventory)
    }

    fn blocking_inventory(&self) -> Result<Inventory> {
        let inner = &self.inner;
        let prefix = inner.paths.prefix();
        let mut inventory = Inventory {
            loops: loopdev::attached_beneath(prefix)?
                .into_iter()
                .map(|(_, file)| file.display().to_string())
                .collect(),
            nft: self.rules(),
            ..Inventory::default()
        };
        for mount in mountinfo::mounts_beneath(prefix)? {
            inventory.mounts.insert(format!("{} {}", mount.target.display(), mount.filesystem));
        }
        let parent = Cgroup::new(&inner.hierarchies, format!("docklet/{}", inner.tag))?;
        for name in parent.children()? {
            let group = parent.child(&name)?;
            for pid in group.processes()? {
                inventory.processes.insert(format!("{pid} in {}", group.path()));
            }
            inventory.cgroups.insert(group.path().to_owned());
        }
        walk(&lxc::lock_directory(&inner.paths.containers()), &mut |path| {
            inventory.lxc.insert(path.display().to_string())
        })?;
        let mounted: BTreeSet<_> =
            mountinfo::mounts_beneath(prefix)?.into_iter().map(|mount| mount.target).collect();
        let isolation = inner.isolation.path();
        inventory.files.extend(isolation.exists().then(|| isolation.display().to_string()));
        for part in
            [inner.paths.manifests(), inner.paths.networks(), inner.paths.containers(), inner.paths.volumes()]
        {
            walk_unless(&part, &|path| mounted.contains(path) || is_cache(path), &mut |path| {
                inventory.files.insert(path.display().to_string())
            })?;
        }
        Ok(inventory)
    }

    /// What the prefix's table says; a table that cannot be read is one, too.
    fn rules(&self) -> BTreeSet<String> {
        let table = self.inner.firewall.table();
        match self.inner.firewall.current() {
            Ok(None) => BTreeSet::new(),
            Ok(Some(entries)) => entries
                .into_iter()
                .map(|entry| format!("inet {table} {entry}"))
                .chain([format!("inet {table}")])
                .collect(),
            // A host without nftables has no table.
            Err(Error::Unsupported { .. }) => BTreeSet::new(),
            Err(error) => [format!("inet {table}: {}", Chain(&error))].into(),
        }
    }
}

/// The templates of volumes and the pool's lock are kept: they are no container's.
fn is_cache(path: &Path) -> bool {
    matches!(path.file_name().and_then(|name| name.to_str()), Some("templates" | "pool.lock"))
}

fn walk(dir: &Path, found: &mut impl FnMut(&Path) -> bool) -> Result<()> {
    walk_unless(dir, &|_| false, found)
}

fn walk_unless(
    dir: &Path,
    skip: &impl Fn(&Path) -> bool,
    found: &mut impl FnMut(&Path) -> bool,
) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::os("readdir", dir.display(), error)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| Error::os("readdir", dir.display(), e))?;
        let path = entry.path();
        if !skip(&path) {
            found(&path);
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk_unless(&path, skip, found)?;
            }
        }
    }
    Ok(())
}
