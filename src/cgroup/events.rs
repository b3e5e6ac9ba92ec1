//! Changes of a v2 group, as a descriptor (`cgroup.events`).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::group::Cgroup;
use super::walk;
use serde::Serialize;

use crate::error::{Error, Result};

/// Tells when a group becomes empty or populated, frozen or thawed. The descriptor polls as `POLLPRI` after each
/// change (tokio: `Interest::PRIORITY`); [`CgroupEvents::read`] takes the state and waits for the next one. The kernel
/// joins changes that follow each other within 10 ms.
#[derive(Debug)]
pub struct CgroupEvents {
    file: File,
    path: PathBuf,
}

/// What [`CgroupEvents::read`] saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CgroupState {
    /// Whether a process is in the group or beneath it.
    pub populated: bool,
    /// Whether all of them stand still.
    pub frozen: bool,
}

impl Cgroup {
    /// The file whose content changes when the group is frozen or thawed: of v2 if the group is in it, else of v1's freezer.
    pub(crate) fn changing_file(&self) -> Option<PathBuf> {
        let unified = self.unified_dir().map(|dir| dir.join("cgroup.events")).filter(|file| file.exists());
        unified
            .or_else(|| Some(self.hierarchies().v1_mount("freezer")?.join(self.path()).join("freezer.state")))
    }

    /// Changes of this group from now on.
    ///
    /// # Errors
    /// [`Error::Unsupported`] on a host without v2: v1 has no such file. [`Error::NotFound`] if the group does not
    /// exist there.
    pub fn events(&self) -> Result<CgroupEvents> {
        let Some(dir) = self.unified_dir() else {
            return Err(Error::Unsupported {
                what: "waiting for changes of a cgroup".to_owned(),
                needs: "it takes a cgroup2 mount: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified".to_owned(),
            });
        };
        let path = dir.join("cgroup.events");
        match File::open(&path) {
            Ok(file) => Ok(CgroupEvents { file, path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.not_found()),
            Err(error) => Err(Error::os("open", path.display(), error)),
        }
    }
}

impl CgroupEvents {
    /// The state now. Call it once before the first wait.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the group was removed.
    pub fn read(&self) -> Result<CgroupState> {
        let mut bytes = [0; 256];
        match self.file.read_at(&mut bytes, 0) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&bytes[..length]);
                let flag = |key| walk::field(&text, key).is_some_and(|value| value != 0);
                Ok(CgroupState { populated: flag("populated"), frozen: flag("frozen") })
            }
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
                Err(Error::NotFound { what: format!("cgroup file {}", self.path.display()) })
            }
            Err(error) => Err(Error::os("read", self.path.display(), error)),
        }
    }
}

impl AsFd for CgroupEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
