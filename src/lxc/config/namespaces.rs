//! Namespaces (`man 7 namespaces`) that a container has not for itself: `lxc.namespace.keep`, `lxc.namespace.share.*`.
//!
//! The network's is [`LxcConfig::join_network`](crate::lxc::LxcConfig::join_network)'s.

use std::collections::BTreeMap;

use crate::lxc::config::reader::Reader;
use crate::lxc::config::render::Lines;
use crate::lxc::config::values::ConfigPath;

/// A kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Namespace {
    /// `cgroup`
    Cgroup,
    /// `ipc`
    Ipc,
    /// `pid`
    Pid,
    /// `time`
    Time,
    /// `user`
    User,
    /// `uts`: the host name.
    Uts,
}

const NAMES: [(Namespace, &str); 6] = [
    (Namespace::Cgroup, "cgroup"),
    (Namespace::Ipc, "ipc"),
    (Namespace::Pid, "pid"),
    (Namespace::Time, "time"),
    (Namespace::User, "user"),
    (Namespace::Uts, "uts"),
];

/// Where a namespace comes from that is not the container's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamespaceSource {
    /// Whoever starts the container: the host.
    Host,
    /// One that is pinned at this path.
    Pinned(ConfigPath),
}

pub(crate) fn render(namespaces: &BTreeMap<Namespace, NamespaceSource>, lines: &mut Lines) {
    let mut kept = Vec::new();
    for (namespace, name) in NAMES {
        match namespaces.get(&namespace) {
            Some(NamespaceSource::Host) => kept.push(name),
            Some(NamespaceSource::Pinned(path)) => {
                lines.add(&format!("lxc.namespace.share.{name}"), &path.to_string())
            }
            None => {}
        }
    }
    if !kept.is_empty() {
        lines.add("lxc.namespace.keep", &kept.join(" "));
    }
}

pub(crate) fn read(reader: &mut Reader<'_>) -> BTreeMap<Namespace, NamespaceSource> {
    let mut namespaces = BTreeMap::new();
    for (namespace, name) in NAMES {
        if let Some(path) = reader.path(&format!("lxc.namespace.share.{name}")) {
            namespaces.insert(namespace, NamespaceSource::Pinned(path));
        }
    }
    for entry in reader.all("lxc.namespace.keep") {
        for word in reader.text(&entry).unwrap_or_default().to_ascii_lowercase().split_ascii_whitespace() {
            match NAMES.iter().find(|(_, name)| *name == word) {
                Some((namespace, _)) => {
                    namespaces.insert(*namespace, NamespaceSource::Host);
                }
                None => reader.refuse(
                    &entry,
                    format!("a container always has a namespace `{word}` of its own: leave it out"),
                ),
            }
        }
    }
    namespaces
}
