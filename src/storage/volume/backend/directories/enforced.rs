//! Whether a file system holds projects to their limits, and what to do where it does not (`man 5 xfs`, `man 5 ext4`,
//! `man 8 tune2fs`).

use std::path::Path;

use rustix::fs::statfs;

use crate::error::{Error, Result};
use crate::sys::mountinfo;
use crate::sys::quota::ProjectQuotas;

/// [`Error::Unsupported`] with what to enable for a pool in `pool`, if `present`, a directory on its file system, shows that
/// limits are not enforced. Touches nothing.
pub(super) fn check(present: &Path, pool: &Path) -> Result<()> {
    let filesystem = name_of(present)?;
    if matches!(&*filesystem, "xfs" | "ext4") && ProjectQuotas::of(present)?.are_enforced()? {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!("a volume pool of directories in `{}`", pool.display()),
        needs: remedy(&filesystem),
    })
}

fn remedy(filesystem: &str) -> String {
    match filesystem {
        "xfs" => "project quotas: mount its xfs with the option `prjquota`, which a remount does not turn on (for the root \
                  file system the boot parameter `rootflags=prjquota`); the kernel must have CONFIG_XFS_QUOTA"
            .to_owned(),
        "ext4" => "project quotas: give its ext4 the features (`mkfs.ext4 -O project,quota -E quotatype=prjquota`, or, while \
                   it is not mounted, `tune2fs -O project,quota -Q prjquota`), and mount it with the option `prjquota`, \
                   which a remount does not turn on; the kernel must have CONFIG_QUOTA and CONFIG_QFMT_V2"
            .to_owned(),
        other => format!("a directory on xfs or ext4 with project quotas; it is on {other}, which has none"),
    }
}

/// What the file system of `present` is called.
fn name_of(present: &Path) -> Result<String> {
    let magic = statfs(present).map_err(|e| Error::os("statfs", present.display(), e))?.f_type;
    Ok(match u32::try_from(magic) {
        Ok(0x5846_5342) => "xfs".to_owned(),
        Ok(0xef53) => "ext4".to_owned(),
        _ => mountinfo::mount_of(present)?.map_or_else(|| "another".to_owned(), |mount| mount.filesystem),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_name_what_to_enable() {
        for (filesystem, parts) in [
            ("xfs", &["prjquota", "rootflags=prjquota", "CONFIG_XFS_QUOTA"][..]),
            (
                "ext4",
                &[
                    "mkfs.ext4 -O project,quota -E quotatype=prjquota",
                    "tune2fs",
                    "`prjquota`",
                    "CONFIG_QFMT_V2",
                ],
            ),
            ("btrfs", &["xfs or ext4", "on btrfs"]),
        ] {
            let text = remedy(filesystem);
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }
}
