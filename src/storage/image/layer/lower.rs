//! What an overlay of the layers below shows at a path (kernel `Documentation/filesystems/overlayfs.rst`).

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, Timespec, fstat, openat};
use rustix::io::Errno;

use crate::storage::image::layer::member::{Kind, Member};
use crate::storage::image::layer::tree::{DIRECTORY, mtime};
use crate::storage::image::layer::xattrs;
use crate::storage::overlay::marks::is_opaque;

/// The directory that these names lead to, with its attributes. Without layers, or where they have none: mode 0755, root's, of
/// 1970.
pub(crate) fn directory(layers: &[OwnedFd], names: &[&[u8]]) -> rustix::io::Result<Member> {
    let found = layers.iter().find_map(|layer| look(layer, names).transpose()).transpose()?.flatten();
    let Some(fd) = found else {
        let (path, mtime) = (Vec::new(), Timespec { tv_sec: 0, tv_nsec: 0 });
        return Ok(Member {
            path,
            kind: Kind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime,
            xattrs: Vec::new(),
        });
    };
    let found = fstat(&fd)?;
    let mut buffer = vec![0; xattrs::MAX];
    let mut kept = xattrs::names(&fd, &mut buffer)?;
    kept.retain(|name| xattrs::is_kept(name));
    let value = |name: Vec<u8>| xattrs::value(&fd, &name, &mut buffer).map(|value| (name, value));
    Ok(Member {
        path: Vec::new(),
        kind: Kind::Directory,
        mode: found.st_mode & 0o7777,
        uid: found.st_uid,
        gid: found.st_gid,
        mtime: mtime(&found),
        xattrs: kept.into_iter().map(value).collect::<Result<_, _>>()?,
    })
}

/// What one layer says: the directory, that there is none, or nothing, so that the next one is asked.
fn look(layer: &OwnedFd, names: &[&[u8]]) -> rustix::io::Result<Option<Option<OwnedFd>>> {
    let mut above: Option<OwnedFd> = None;
    let mut is_last = false;
    for name in names {
        let from = above.as_ref().unwrap_or(layer).as_fd();
        match openat(from, *name, DIRECTORY, Mode::empty()) {
            Ok(fd) => {
                is_last |= is_opaque(&fd)?;
                above = Some(fd);
            }
            Err(Errno::NOENT) => return Ok(is_last.then_some(None)),
            // A whiteout too.
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Some(None)),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(above))
}
