//! Where a change of a group is seen (`Documentation/admin-guide/cgroup-v2.rst`, `cgroup-v1/freezer-subsystem.rst`).

use std::path::PathBuf;

use super::controller::Controller;
use super::group::Cgroup;

impl Cgroup {
    /// The file whose content changes when the group is frozen or unfrozen: of v2 if the group is in it, else of v1's freezer.
    pub(crate) fn changing_file(&self) -> Option<PathBuf> {
        let unified = self.unified_dir().map(|dir| dir.join("cgroup.events")).filter(|file| file.exists());
        unified.or_else(|| Some(self.v1_dir(Controller::Freezer)?.join("freezer.state")))
    }
}
