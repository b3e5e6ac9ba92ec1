//! Which ids of the host a container's ids are (`man 7 user_namespaces`): `lxc.idmap`.

use std::path::Path;

use crate::error::{Error, Result};
use crate::idmap::{IdMap, IdRange};
use crate::lxc::LxcConfig;
use crate::lxc::config::namespaces::{Namespace, NamespaceSource};
use crate::lxc::config::network::Network;
use crate::lxc::config::reader::Reader;
use crate::lxc::config::render::Lines;
use crate::lxc::text::number::unsigned_32;

impl LxcConfig {
    /// The map of an unprivileged container, and where the user namespace that has it is pinned.
    ///
    /// # Errors
    /// [`Error::Invalid`] if one of them is missing, or the network namespace, which must belong to the same user namespace.
    pub(crate) fn mapped(&self) -> Result<Option<(&IdMap, &Path)>> {
        let namespace = match self.namespaces.get(&Namespace::User) {
            Some(NamespaceSource::Pinned(path)) => Some(path.as_path()),
            Some(NamespaceSource::Host) | None => None,
        };
        match (&self.id_map, namespace, &self.network) {
            (None, None, _) => Ok(None),
            (Some(map), Some(namespace), Network::Joined(_)) => Ok(Some((map, namespace))),
            (Some(map), _, _) => {
                let rule = "takes a pinned user namespace that has it, and a network namespace to join that belongs to that";
                Err(Error::invalid("id map", map.to_string(), rule))
            }
            (None, Some(namespace), _) => {
                let rule = "must come with its id map";
                Err(Error::invalid("user namespace", namespace.to_string_lossy(), rule))
            }
        }
    }
}

pub(crate) fn render(map: Option<&IdMap>, lines: &mut Lines) {
    for kind in ["u", "g"] {
        for range in map.map(IdMap::ranges).unwrap_or_default() {
            lines.add("lxc.idmap", &format!("{kind} {range}"));
        }
    }
}

pub(crate) fn read(reader: &mut Reader<'_>) -> Option<IdMap> {
    let entries = reader.all("lxc.idmap");
    let (mut users, mut groups): (Vec<IdRange>, Vec<IdRange>) = (Vec::new(), Vec::new());
    for entry in &entries {
        let mut parts = entry.value().split(|b| b.is_ascii_whitespace()).filter(|part| !part.is_empty());
        let of = if parts.next() == Some(b"u") { &mut users } else { &mut groups };
        let mut number = || parts.next().and_then(unsigned_32);
        match (number(), number(), number()) {
            (Some(inside), Some(outside), Some(length)) => of.push(IdRange { inside, outside, length }),
            _ => reader.refuse(entry, "ids have at most 32 bits"),
        }
    }
    let last = entries.last()?;
    for ranges in [&mut users, &mut groups] {
        ranges.sort_by_key(|range| range.inside);
    }
    if users != groups {
        reader.refuse(
            last,
            "users and groups must have the same ranges: write each once with u and once with g",
        );
        return None;
    }
    reader.parsed(last, IdMap::new(users))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lxc::config::values::ConfigPath;
    use crate::name::ContainerName;

    #[test]
    fn a_map_comes_with_its_namespaces() {
        let map = IdMap::new([(0, 100_000, 65_536)]).unwrap();
        let pin = ConfigPath::new("/run/user").unwrap();
        let mut config = LxcConfig::new(&ContainerName::new("web").unwrap(), "/srv/web").unwrap();
        assert_eq!(config.mapped().unwrap(), None);
        config.id_map = Some(map.clone());
        let refused = |config: &LxcConfig| config.mapped().unwrap_err().to_string();
        assert!(refused(&config).contains("takes a pinned user namespace"));
        config.namespaces.insert(Namespace::User, NamespaceSource::Pinned(pin.clone()));
        assert!(refused(&config).contains("a network namespace to join"));
        config.join_network("/run/net").unwrap();
        assert_eq!(config.mapped().unwrap(), Some((&map, pin.as_path())));
        config.id_map = None;
        assert!(refused(&config).contains("must come with its id map"));
    }
}
