//! The control group in which LXC's programs are born for a container, so that they end with it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::sys::process::Program;

/// The group `start` of a container, open.
#[derive(Debug)]
pub(crate) enum Birthplace {
    /// In v2 a process is born in it.
    Dir(OwnedFd),
    /// In v1 it enters before it becomes the program.
    Procs(File),
}

impl Birthplace {
    /// Makes the `group`, if it is not there.
    pub(crate) fn ensure(group: &Cgroup) -> Result<Self> {
        group.ensure_tracking()?;
        if let Some(dir) = group.dir_for_clone()? {
            return Ok(Self::Dir(dir));
        }
        let path = group.procs_file()?;
        let file = File::options().write(true).open(&path);
        Ok(Self::Procs(file.map_err(|e| Error::os("open", path.display(), e))?))
    }

    /// `program`, to be run in it.
    pub(crate) fn of<'a>(&'a self, program: Program<'a>) -> Program<'a> {
        match self {
            Self::Dir(dir) => program.in_cgroup(dir.as_fd()),
            Self::Procs(file) => program.entering(file.as_fd()),
        }
    }
}
