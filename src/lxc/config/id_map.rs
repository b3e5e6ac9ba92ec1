//! Which ids of the host a container's ids are (`man 7 user_namespaces`): `lxc.idmap`.

use crate::idmap::{IdMap, IdRange};
use crate::lxc::config::reader::Reader;
use crate::lxc::config::render::Lines;
use crate::lxc::text::number::unsigned_32;

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
