//! Checks of what an overlay is to be made of, before the host is touched (kernel
//! `Documentation/filesystems/overlayfs.rst`).

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::storage::overlay::directory::Directory;
use crate::sys::kernel;

/// The most layers that an overlay can have (`OVL_MAX_STACK` of the kernel). Before kernel 6.5 all their paths together
/// must have less than 4 KiB, too.
pub(crate) const LAYERS_MAX: usize = 500;

/// The layers as they are now, each once, `max` at most.
pub(super) fn check_layers(given: &[PathBuf], max: usize) -> Result<Vec<Directory>> {
    if given.is_empty() {
        return Err(Error::invalid("overlay layers", "[]", "must have at least one layer"));
    }
    if given.len() > max {
        let value = format!("{} layers", given.len());
        return Err(Error::invalid("overlay layers", value, format!("must be at most {max}")));
    }
    let mut seen = BTreeSet::new();
    let mut layers = Vec::with_capacity(given.len());
    for layer in given {
        let invalid = |rule: &str| Error::invalid("overlay layer", layer.to_string_lossy(), rule);
        if !layer.is_absolute() {
            return Err(invalid("must be an absolute path"));
        }
        let found = Directory::resolve(layer).map_err(|error| match error.errno() {
            Some(libc::ENOENT) => invalid("must exist"),
            Some(libc::ENOTDIR) => invalid("must be a directory"),
            _ => error,
        })?;
        if !seen.insert(found.number()) {
            return Err(invalid("must not be given twice, under whatever name"));
        }
        layers.push(found);
    }
    let paths: BTreeSet<&Path> = layers.iter().map(Directory::path).collect();
    for path in &paths {
        if path.ancestors().skip(1).any(|above| paths.contains(above)) {
            let rule = "must not lie in another layer";
            return Err(Error::invalid("overlay layer", path.to_string_lossy(), rule));
        }
    }
    drop(paths);
    Ok(layers)
}

/// The kernel refuses a volume in a layer, or the other way round; an overlay on its own volume could not be unmounted.
pub(super) fn check_apart(layers: &[Directory], space: &Directory, target: &Path) -> Result<()> {
    if target.starts_with(space.path()) {
        let rule = "must not lie on the volume that it writes to";
        return Err(Error::invalid("overlay target", target.to_string_lossy(), rule));
    }
    for layer in layers.iter().map(Directory::path) {
        if space.path().starts_with(layer)
            || ["upper", "work"].iter().any(|d| layer.starts_with(space.path().join(d)))
        {
            let rule = "must lie apart from the volume that is written to";
            return Err(Error::invalid("overlay layer", layer.to_string_lossy(), rule));
        }
    }
    Ok(())
}

/// Whether the kernel of this release can put mapped layers into an overlay.
pub(super) fn check_kernel(release: &str) -> Result<()> {
    if kernel::version(release).is_none_or(|version| version >= (5, 19)) {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: "an overlay root with an id map".to_owned(),
        needs: format!(
            "it takes kernel 5.19, which mounts layers with their owners mapped; this is {release}"
        ),
    })
}

/// Makes the directory to mount on if it is missing, and returns its path without links.
pub(super) fn make_target(target: &Path) -> Result<PathBuf> {
    let invalid = |rule: &str| Error::invalid("overlay target", target.to_string_lossy(), rule);
    if !target.is_absolute() {
        return Err(invalid("must be an absolute path"));
    }
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(invalid("must end in a name"));
    };
    match DirBuilder::new().mode(0o755).create(target) {
        Ok(()) => {}
        Err(error) => match fs::symlink_metadata(target) {
            Ok(found) if found.is_dir() => {}
            Ok(found) if found.is_symlink() => return Err(invalid("must not be a link")),
            Ok(_) => return Err(invalid("must be a directory")),
            Err(_) => return Err(Error::os("mkdir", target.display(), error)),
        },
    }
    let parent = fs::canonicalize(parent).map_err(|e| Error::os("realpath", parent.display(), e))?;
    Ok(parent.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_cannot_map() {
        for (release, possible) in
            [("5.10.0-8-amd64", false), ("5.18.1", false), ("5.19.0", true), ("6.1.0-28-amd64", true)]
        {
            assert_eq!(check_kernel(release).is_ok(), possible, "{release}");
        }
        assert!(check_kernel("5.15.0").unwrap_err().to_string().contains("kernel 5.19"));
    }
}
