//! `/etc/hosts` (`man 5 hosts`) of each container: the containers of its networks, as long as they exist.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::lines::{Layout, Lines, read_lines};
use crate::error::Result;
use crate::host::Host;
use crate::host::record::{Manifest, Phase};
use crate::name::{ContainerName, NetworkName};
use crate::sys::lock::{FileLock, LOCK_TIMEOUT};

/// The longest line has an IPv6 address and a name of 63 bytes.
const HOSTS: Layout = Layout { place_bytes: 128, ordered: false };

impl Host {
    /// Makes the hosts files of the containers in one of `networks` (`None`: of all) say which containers there are in
    /// theirs; and the one of `starting`, which may have none yet. Returns those whose file said something else.
    pub(crate) async fn write_hosts(
        &self,
        networks: Option<BTreeSet<NetworkName>>,
        starting: Option<Manifest>,
    ) -> Result<Vec<ContainerName>> {
        self.blocking(move |host| host.write_hosts_blocking(networks.as_ref(), starting.as_ref())).await
    }

    fn write_hosts_blocking(
        &self,
        networks: Option<&BTreeSet<NetworkName>>,
        starting: Option<&Manifest>,
    ) -> Result<Vec<ContainerName>> {
        // What is written is never older than what was written before: both were read under this lock.
        let lock = self.inner.paths.locks().join(".names");
        let _names = FileLock::acquire(&lock, LOCK_TIMEOUT, "the names of containers")?;
        let listing = self.inner.manifests.all()?;
        let unreadable: BTreeSet<&str> = listing.unreadable.keys().map(String::as_str).collect();
        let (manifests, mut made) = (&listing.records, BTreeMap::new());
        let mut changed = Vec::new();
        let is_starting = |manifest: &Manifest| starting.is_some_and(|starting| starting.id == manifest.id);
        let mut there: Vec<&Manifest> =
            manifests.iter().map(Arc::as_ref).filter(|manifest| manifest.phase != Phase::Removing).collect();
        // Last, so that its file becomes as those of the others are.
        there.sort_by_key(|manifest| is_starting(manifest));
        for manifest in there {
            let own = manifest.networks();
            let path = self.directory(manifest).hosts();
            let starts = is_starting(manifest);
            if !starts && networks.is_some_and(|networks| networks.is_disjoint(&own)) {
                continue;
            }
            let write = |lines: &mut Lines| if starts { lines.write(&path) } else { lines.rewrite(&path) };
            let wrote = if own.is_empty() || !unreadable.is_empty() {
                let mut lines = lines(manifest, &own, manifests);
                // What is written down of them cannot be read, but they are there.
                lines.extend(read_lines(&path)?.into_iter().filter(|line| {
                    line.split(' ').next_back().is_some_and(|name| unreadable.contains(name))
                }));
                write(&mut Lines::new(HOSTS, lines))?
            } else {
                let lines = made
                    .entry(own)
                    .or_insert_with_key(|own| Lines::new(HOSTS, lines(manifest, own, manifests)));
                write(lines)?
            };
            if wrote {
                changed.push(manifest.spec.name.clone());
            }
        }
        Ok(changed)
    }
}

/// What the hosts file of a container says; the same for all that are in the same networks, if they are in any.
fn lines(of: &Manifest, networks: &BTreeSet<NetworkName>, manifests: &[Arc<Manifest>]) -> Vec<String> {
    let mut lines =
        vec!["127.0.0.1 localhost".to_owned(), "::1 localhost ip6-localhost ip6-loopback".to_owned()];
    for manifest in manifests.iter().filter(|manifest| manifest.phase != Phase::Removing) {
        let ports = manifest.objects.ports.values().filter(|port| networks.contains(&port.network));
        let addresses = ports.flat_map(|port| &port.addresses);
        lines.extend(addresses.map(|address| format!("{} {}", address.ip(), manifest.spec.name)));
    }
    if networks.is_empty() {
        // As Debian has it for a host without an address.
        lines.push(format!("127.0.1.1 {}", of.spec.name));
    }
    lines
}
