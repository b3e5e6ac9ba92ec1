//! Where a container's network comes from (`man 7 network_namespaces`): `lxc.net.*`, `lxc.namespace.share.net`.

use std::path::PathBuf;

use crate::lxc::config::reader::Reader;
use crate::lxc::config::render::Lines;
use crate::lxc::config::values::ConfigPath;

/// Where a container's network comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Network {
    /// A new namespace with a loopback interface and nothing else.
    #[default]
    Isolated,
    /// A namespace that exists, pinned at a path.
    Joined(PathBuf),
}

impl Network {
    pub(crate) fn render(&self, lines: &mut Lines) {
        match self {
            Self::Isolated => lines.add("lxc.net.0.type", "empty"),
            Self::Joined(path) => {
                // "none" leaves the namespace as it is; that it is the joined one is verified after the start.
                lines.add("lxc.net.0.type", "none");
                lines.add("lxc.namespace.share.net", &path.to_string_lossy());
            }
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let entry = reader.one("lxc.net.0.type");
        let pinned = reader.path("lxc.namespace.share.net").map(|path: ConfigPath| path.as_path().to_owned());
        match (entry.map(|entry| entry.value()), pinned) {
            (None | Some(b"empty"), None) => Self::Isolated,
            (Some(b"none"), Some(path)) => Self::Joined(path),
            (Some(b"none"), None) => {
                if let Some(entry) = entry {
                    reader.refuse(&entry, "would be the host's network: pin a namespace and write lxc.namespace.share.net = PATH, or write empty");
                }
                Self::Isolated
            }
            (Some(_), None) => {
                if let Some(entry) = entry {
                    reader.refuse(
                        &entry,
                        "has no place in a typed configuration: put the interface into a pinned namespace, then write none, and \
                         lxc.namespace.share.net = PATH",
                    );
                }
                Self::Isolated
            }
            (_, Some(path)) => {
                reader.missing(
                    "lxc.net.0.type",
                    "must be `none` where a network namespace is joined: LXC would make interfaces in it",
                );
                Self::Joined(path)
            }
        }
    }
}
