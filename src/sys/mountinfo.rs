//! The mounts this thread sees (`man 5 proc_pid_mountinfo`).

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// One mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The mount's id.
    pub(crate) id: u64,
    /// The device's number, as in `st_dev`. Of btrfs, which has numbers of its own making, it is none of a device.
    pub(crate) device: u64,
    /// The directory of the file system that is shown: `/` unless it is a bind mount.
    pub(crate) root: PathBuf,
    /// Where it is mounted.
    pub(crate) target: PathBuf,
    /// `ext4`, `overlay`, …
    pub(crate) filesystem: String,
    /// The device, or what the file system says instead.
    pub(crate) source: PathBuf,
    /// Options of the mount point, as the kernel prints them.
    pub(crate) mount_options: String,
    /// Options of the file system, as the kernel prints them.
    pub(crate) options: String,
}

/// The mounts of the calling thread's namespace, in the kernel's order: a later one covers an earlier one on the
/// same target.
pub(crate) fn mounts() -> Result<Vec<Mount>> {
    // "thread-self": a thread can be in another namespace than its process.
    let path = "/proc/thread-self/mountinfo";
    let text = fs::read(path).map_err(|e| Error::os("read", path, e))?;
    Ok(parse(&text))
}

/// The topmost mount on exactly `target`.
pub(crate) fn mount_at(target: &Path) -> Result<Option<Mount>> {
    Ok(mounts()?.into_iter().rev().find(|mount| mount.target == target))
}

/// The mount that `path`, which is absolute and without links, is on.
pub(crate) fn mount_of(path: &Path) -> Result<Option<Mount>> {
    let above = mounts()?.into_iter().filter(|mount| path.starts_with(&mount.target));
    // The last one of the longest: it covers the others.
    Ok(above.max_by_key(|mount| mount.target.components().count()))
}

/// The mounts on `path` or beneath it, in the kernel's order.
pub(crate) fn mounts_beneath(path: &Path) -> Result<Vec<Mount>> {
    Ok(mounts()?.into_iter().filter(|mount| mount.target.starts_with(path)).collect())
}

/// The mounts that a mountinfo text lists; a line of another form is skipped.
pub(crate) fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let _parent = fields.next()?;
    let (major, minor) = std::str::from_utf8(fields.next()?).ok()?.split_once(':')?;
    let device = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
    let root = unescape(fields.next()?);
    let target = unescape(fields.next()?);
    let mount_options = String::from_utf8_lossy(fields.next()?).into_owned();
    // Optional fields end with a lone "-".
    fields.find(|field| *field == b"-")?;
    let filesystem = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape(fields.next()?);
    let options = String::from_utf8_lossy(fields.next()?).into_owned();
    Some(Mount { id, device, root, target, filesystem, source, mount_options, options })
}

/// Undoes the kernel's `\ooo` for space, tab, newline and backslash.
pub(crate) fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_parsed() {
        let text = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime shared:1 master:2 - ext3 /dev/root\\134x rw,errors=continue\nrubbish\n";
        let mounts = parse(text);
        assert_eq!(
            mounts,
            [Mount {
                id: 36,
                device: rustix::fs::makedev(98, 0),
                root: "/mnt1".into(),
                target: "/mnt 2".into(),
                filesystem: "ext3".into(),
                source: "/dev/root\\x".into(),
                mount_options: "rw,noatime".into(),
                options: "rw,errors=continue".into(),
            }]
        );
    }

    #[test]
    fn this_thread_has_a_proc() {
        assert_eq!(mount_at(Path::new("/proc")).unwrap().unwrap().filesystem, "proc");
    }
}
