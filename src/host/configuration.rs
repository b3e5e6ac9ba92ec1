//! From a specification to the runtime's configuration (`man 5 lxc.container.conf`).

use std::path::Path;

use super::directory::ContainerDirectory;
use super::handle::Host;
use super::spec::{ContainerSpec, Privilege};
use crate::cgroup::CgroupLimits;
use crate::error::Result;
use crate::idmap::IdMap;
use crate::lxc::{ConfigPath, LxcConfig, Namespace, NamespaceSource};
use crate::net::NetworkNamespace;

/// The configuration of the container in `directory`, whose root is mounted at `root`: it joins the namespaces that are
/// pinned there, and makes neither interfaces nor ids. `limits` are those of `spec`, with the volume's device found. `ids` is
/// `None` for a privileged container, and where only the rules are to be checked.
pub(crate) fn configuration(
    spec: &ContainerSpec,
    root: &Path,
    directory: &ContainerDirectory,
    limits: &CgroupLimits,
    ids: Option<&IdMap>,
) -> Result<LxcConfig> {
    let mut config = LxcConfig::new(&spec.name, root)?;
    config.init(&spec.init.command)?.halt_signal(spec.init.halt_signal);
    config.limits(limits);
    config.devices.extend(spec.devices.iter().cloned());
    for (key, value) in &spec.environment {
        config.environment(key, value)?;
    }
    for mount in &spec.mounts {
        config.mount(mount.clone())?;
    }
    if let Privilege::Unprivileged { no_new_privileges } = spec.privilege {
        config.process.no_new_privileges = no_new_privileges;
    }
    if let Some(max_bytes) = spec.console_max_bytes {
        config.console_log(directory.console_log(), max_bytes)?;
    }
    let namespace = directory.namespace();
    if let Some(ids) = ids {
        let pin = ConfigPath::new(NetworkNamespace::owner_path(&namespace))?;
        config.namespaces.insert(Namespace::User, NamespaceSource::Pinned(pin));
        config.id_map = Some(ids.clone());
    }
    config.join_network(namespace)?;
    Ok(config)
}

impl Host {
    /// Checks every rule of the configuration of `spec` by building it once, over a root that is made later.
    pub(super) fn rehearse(&self, spec: &ContainerSpec) -> Result<LxcConfig> {
        let directory = ContainerDirectory::rehearsed(&self.inner.paths);
        let limits = spec.limits.clone().without_volume();
        configuration(spec, &directory.root(), &directory, &limits, None)
    }
}
