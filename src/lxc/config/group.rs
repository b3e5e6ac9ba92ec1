//! A container's control group: `lxc.cgroup.dir.*`.

use crate::error::{Error, Result};
use crate::lxc::config::reader::Reader;
use crate::lxc::config::render::Lines;
use crate::lxc::groups::{INNER, MONITOR, PAYLOAD};

/// The rules of [`LxcConfig::cgroup_dir`](crate::lxc::LxcConfig::cgroup_dir).
pub(crate) fn check(base: &str) -> Result<()> {
    let plain = |name: &str| {
        let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        !name.is_empty() && name != "." && name != ".." && name.bytes().all(safe)
    };
    if base.len() > 512 || !base.split('/').all(plain) {
        let rule = "must be a relative path of plain names: letters, digits, '-', '_', '.'";
        return Err(Error::invalid("cgroup directory", base, rule));
    }
    Ok(())
}

/// Each key with what it is for the group `base`.
fn lines_of(base: &str) -> [(&'static str, String); 4] {
    [
        ("lxc.cgroup.dir.monitor", format!("{base}/{MONITOR}")),
        // Where the monitor goes when it ends. Otherwise a group `lxc.pivot` stays at each hierarchy's root.
        ("lxc.cgroup.dir.monitor.pivot", format!("{base}/pivot")),
        ("lxc.cgroup.dir.container", format!("{base}/{PAYLOAD}")),
        // The limits stand above the container's own group: its root mounts this one and no higher one.
        ("lxc.cgroup.dir.container.inner", INNER.to_owned()),
    ]
}

pub(crate) fn render(base: &str, lines: &mut Lines) {
    for (key, value) in lines_of(base) {
        lines.add(key, &value);
    }
}

pub(crate) fn read(reader: &mut Reader<'_>) -> Option<String> {
    let entry = reader.one("lxc.cgroup.dir.container")?;
    let text = reader.text(&entry)?;
    let Some(base) = text.strip_suffix(PAYLOAD).and_then(|base| base.strip_suffix('/')) else {
        reader.refuse(
            &entry,
            format!("must be the container's group with /{PAYLOAD} after it, or be left out"),
        );
        return None;
    };
    reader.parsed(&entry, check(base))?;
    for (key, expected) in lines_of(base) {
        match reader.one(key) {
            Some(entry) if entry.value() == expected.as_bytes() => {}
            Some(entry) => reader.refuse(
                &entry,
                format!("must be {expected}, as lxc.cgroup.dir.container says, or be left out"),
            ),
            None => reader.missing(key, &format!("must be {expected}, as lxc.cgroup.dir.container says")),
        }
    }
    Some(base.to_owned())
}
