//! Mounts that come and go while a container runs (`man 2 move_mount`, `man 2 umount`).

use std::path::Path;

use super::record::{Manifest, Part};
use super::{ContainerInfo, Host};
use crate::error::Result;
use crate::lxc::{MountEntry, State};
use crate::name::ContainerName;

impl Host {
    /// Gives a container exactly these mounts, whether it runs or not: those that it has besides go, those that it lacks come.
    /// Others are left as they are, and files that are open there stay open; but one beneath a target that changes goes and
    /// comes again.
    ///
    /// ```no_run
    /// use docklet::host::Host;
    /// use docklet::lxc::MountEntry;
    /// use docklet::name::ContainerName;
    ///
    /// # async fn example(host: &Host) -> docklet::Result<()> {
    /// let web: ContainerName = "web".parse()?;
    /// let mut mounts = host.get(&web)?.spec.mounts;
    /// mounts.push(MountEntry::bind("/srv/data", "/srv/data")?.id_mapped().create_dir());
    /// let info = host.apply_mounts(&web, mounts).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The manifest is written first: cut off anywhere, [`Host::recover`] goes on from there to the new mounts. A container that
    /// reboots from inside has those that it was started with, until it is started again or this is called again. What it has
    /// itself unmounted, this mounts again.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) and [`Error::NotFound`](crate::Error::NotFound) as [`Host::launch`], with nothing changed; targets of a
    /// container that is down are looked for when it is started. Of a container that runs:
    /// [`Error::Busy`](crate::Error::Busy) if something inside uses a mount that is to go; [`Error::Differs`](crate::Error::Differs) if a target is a file and
    /// the source a directory, or the other way round, or the container itself has mounted something there;
    /// [`Error::Unsupported`](crate::Error::Unsupported) if a device is added or left out: stop the container for that. After any error the container has
    /// its earlier mounts again, or it is an [`Error::LeftBehind`](crate::Error::LeftBehind).
    pub async fn apply_mounts(&self, name: &ContainerName, mounts: Vec<MountEntry>) -> Result<ContainerInfo> {
        self.change(name, Part::Mounts, move |host, manifest| {
            manifest.spec.mounts = mounts;
            host.rehearse(&manifest.spec).map(drop)
        })
        .await
    }

    /// Makes a container's mounts what its manifest says, in the place of the `former` ones.
    pub(super) async fn settle_mounts(&self, manifest: &Manifest, former: &[MountEntry]) -> Result<()> {
        if self.state(manifest).await? == State::Stopped {
            return Ok(());
        }
        let (container, mounts) = (self.container(manifest)?, manifest.spec.mounts.clone());
        let leaving = leaving(former, &mounts);
        self.blocking(move |_| {
            // The upper one of two comes first, and goes last.
            leaving.iter().rev().try_for_each(|entry| container.remove_mount(entry))?;
            mounts.iter().try_for_each(|entry| container.ensure_mount(entry))
        })
        .await
    }
}

/// What of `before` is not in `after`, or lies beneath a target that changes and so must be made again.
fn leaving(before: &[MountEntry], after: &[MountEntry]) -> Vec<MountEntry> {
    let gone = before.iter().filter(|entry| !after.contains(entry));
    let new = after.iter().filter(|entry| !before.contains(entry));
    let changed: Vec<&Path> = gone.chain(new).map(MountEntry::target).collect();
    let goes = |entry: &&MountEntry| {
        !after.contains(entry) || changed.iter().any(|target| entry.target().starts_with(target))
    };
    before.iter().filter(goes).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beneath_a_change_goes_with_it() {
        let bind = |source: &str, target: &str| MountEntry::bind(source, target).unwrap();
        let (a, b, deep) = (bind("/srv/a", "/a"), bind("/srv/b", "/b"), bind("/srv/c", "/a/c"));
        let other = bind("/srv/x", "/a");
        for (before, after, expected) in [
            (vec![&a, &b], vec![&a, &b], vec![]),
            (vec![&a, &b], vec![&b, &a], vec![]),
            (vec![&a, &b], vec![&b], vec![&a]),
            (vec![&deep, &b], vec![&a, &deep, &b], vec![&deep]),
            (vec![&a, &deep, &b], vec![&deep, &b], vec![&a, &deep]),
            (vec![&a, &deep, &b], vec![&other, &deep, &b], vec![&a, &deep]),
            (vec![], vec![&a], vec![]),
        ] {
            let owned = |list: Vec<&MountEntry>| list.into_iter().cloned().collect::<Vec<_>>();
            assert_eq!(leaving(&owned(before), &owned(after)), owned(expected));
        }
    }
}
