//! Mounts of a container that starts or runs (`man 5 proc_pid_mountinfo`, `man 2 move_mount`, `man 2 umount`).

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::fchdir;

use super::place::{Place, Shown};
use super::{Ids, MountEntry, MountSource, Submounts};
use crate::error::{Error, Result};
use crate::idmap::IdMap;
use crate::lxc::config;
use crate::lxc::container::Container;
use crate::lxc::root::{self, Opened};
use crate::sys::confined::ConfinedRoot;
use crate::sys::mntns::{self, Graft};
use crate::sys::mountinfo::{self, Mount};
use crate::sys::{file, userns, wait};

/// How long a mount may be busy: who only looks at it is gone sooner, and so is a program that some thread of this one starts,
/// which has copies of our descriptors for a moment.
const BUSY_PATIENCE: Duration = Duration::from_millis(300);
/// How often a mount that a container moves about is looked for.
const TAKE_BACK_TRIES: usize = 1000;

/// The namespaces of a container that runs.
struct Inside {
    init: u32,
    mounts: File,
    user: File,
    /// What its root is on the host; 0 if it is privileged.
    root: u32,
}

impl Container {
    /// The lines of its configuration for these mounts.
    pub(crate) fn mount_lines(&self, mounts: &[Opened<'_>]) -> Result<Vec<String>> {
        let place = Place::of(&self.dir());
        let line = |opened: &Opened<'_>| match opened.tree {
            Some(_) => config::prepared(&place.path_of(&opened.mount.entry), &opened.mount.entry),
            None => config::by_lxc(&opened.mount.entry),
        };
        mounts.iter().map(line).collect()
    }

    /// Makes them ready for LXC.
    pub(crate) fn place_mounts(&self, mounts: &[Opened<'_>], map: Option<&IdMap>) -> Result<()> {
        let place = Place::of(&self.dir());
        let trees = || mounts.iter().filter_map(|opened| Some((&opened.mount.entry, opened.tree.as_ref()?)));
        if trees().next().is_some() {
            place.ensure()?;
        }
        for (entry, tree) in trees() {
            entry.restrict(tree)?;
            place.put(entry, tree, map.map_or(0, IdMap::root))?;
        }
        Ok(())
    }

    /// Checks that each of them is where it should be: LXC passes over some without a word.
    pub(crate) fn verify_mounts(&self, init: u32, mounts: &[Opened<'_>]) -> Result<()> {
        let prepared: Vec<&MountEntry> =
            mounts.iter().filter(|opened| opened.tree.is_some()).map(|opened| &opened.mount.entry).collect();
        if prepared.is_empty() {
            return Ok(());
        }
        let (place, ours, inside) = (Place::of(&self.dir()), mountinfo::mounts()?, mounts_of(init)?);
        for entry in prepared {
            let is_there = place.shown(&ours, entry)?.is_some_and(|shown| {
                inside.iter().any(|mount| mount.target == entry.target() && shown.is(mount))
            });
            if !is_there {
                return Err(Error::Differs {
                    what: format!("mount target `{}`", entry.target().display()),
                    difference: format!("`{}` is not mounted on it inside", entry.source().shown()),
                });
            }
        }
        Ok(())
    }

    /// Mounts something in the container while it runs; nothing if it is there already. An optional source that is missing is
    /// left out. It lasts until the container reboots from inside, or is stopped: a later start has it if its configuration does.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it does not run; as [`LxcConfig::mount`](crate::lxc::LxcConfig::mount) and
    /// [`Container::start`] for the entry; [`Error::Differs`] if the container has
    /// something else mounted there; [`Error::Unsupported`] for a device, which takes a start.
    pub fn ensure_mount(&self, entry: &MountEntry) -> Result<()> {
        let inside = self.inside()?;
        let place = Place::of(&self.dir());
        let shown = place.shown(&mountinfo::mounts()?, entry)?;
        if let Some(shown) = &shown
            && inside.has(entry, shown)?
        {
            return Ok(());
        }
        if is_device(entry) {
            return Err(Error::Unsupported {
                what: format!("giving the device `{}` to a container that runs", entry.source().shown()),
                needs: "its control group is told at its start which devices it may open: stop it, apply the mounts, start it"
                    .to_owned(),
            });
        }
        if shown.is_none() {
            let Some(tree) = entry.tree(inside.ids())? else { return Ok(()) };
            entry.restrict(&tree)?;
            place.ensure()?;
            place.put(entry, &tree, inside.root)?;
        }
        let grafted = self.graft(entry, &inside, &place);
        if grafted.is_err() && shown.is_none() {
            // The error is what there is to tell. What was there before is for the next reboot from inside.
            let _ = place.remove(entry);
        }
        grafted
    }

    fn graft(&self, entry: &MountEntry, inside: &Inside, place: &Place) -> Result<()> {
        let before = mounts_of(inside.init)?;
        let differs = |difference: &str| Error::Differs {
            what: format!("mount target `{}`", entry.target().display()),
            difference: difference.to_owned(),
        };
        if before.iter().any(|mount| mount.target == entry.target()) {
            return Err(differs("the container has something else mounted on it"));
        }
        let path = place.path_of(entry);
        let is_dir = fs::metadata(&path).map_err(|e| Error::os("stat", path.display(), e))?.is_dir();
        let make = || root::prepare(&ConfinedRoot::open(Path::new("/"))?, entry.target(), entry, is_dir);
        let target = mntns::within(inside.mounts.as_fd(), || match inside.root {
            0 => make(),
            id => userns::as_root_of_map(id, make),
        })?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(place.path(), flags, Mode::empty())
            .map_err(|e| Error::os("open", place.path().display(), e))?;
        let graft = Graft {
            directory: directory.as_fd(),
            name: &Place::name(entry),
            user: inside.ids().map(|ids| ids.namespace),
            mounts: inside.mounts.as_fd(),
            target: target.as_fd(),
        };
        graft.attach()?;
        let shown = place.shown(&mountinfo::mounts()?, entry)?.ok_or_else(|| differs("it went meanwhile"))?;
        if inside.has(entry, &shown)? {
            tracing::debug!(target = %entry.target().display(), "mounted inside");
            return Ok(());
        }
        inside.take_back(&shown, &before)?;
        Err(differs("the container moved it while it was mounted on"))
    }

    /// Takes a mount away from the container while it runs. What is not at its target is gone: where the container has bound or
    /// moved it itself, it keeps it until it is stopped.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the container does not run; [`Error::Busy`] if a process inside uses the mount, or something is
    /// mounted on it: it stays; [`Error::Unsupported`] for a device. One that shows submounts goes as a whole, whoever uses it:
    /// the kernel does not part them, and files that are open there stay open.
    pub fn remove_mount(&self, entry: &MountEntry) -> Result<()> {
        let inside = self.inside()?;
        let place = Place::of(&self.dir());
        if let Some(shown) = place.shown(&mountinfo::mounts()?, entry)?
            && inside.has(entry, &shown)?
        {
            if is_device(entry) {
                return Err(Error::Unsupported {
                    what: format!(
                        "taking the device `{}`, which the mounts leave out, from a container that runs",
                        entry.source().shown()
                    ),
                    needs: "its control group allows it until the container stops, whatever is mounted: leave it among the mounts, or \
                            stop the container, apply the mounts, start it"
                        .to_owned(),
                });
            }
            inside.unmount(entry, &shown)?;
        }
        place.remove(entry)
    }

    fn inside(&self) -> Result<Inside> {
        let running = self.must_run()?;
        let init = running.init.pid;
        let namespaces = PathBuf::from(format!("/proc/{init}/ns"));
        let open = |kind: &str| open(&namespaces.join(kind));
        let (mounts, user) = (open("mnt"), open("user"));
        let map = file::read(Path::new(&format!("/proc/{init}/uid_map")));
        // All of this is of that process only if it still is: its number may be another's by now.
        if running.init.open()?.is_none() {
            return Err(self.not_running());
        }
        Ok(Inside { init, mounts: mounts?, user: user?, root: root_outside(&map?) })
    }
}

impl Inside {
    fn ids(&self) -> Option<Ids<'_>> {
        (self.root != 0).then(|| Ids { root: self.root, namespace: self.user.as_fd() })
    }

    /// Whether `entry`, which is `shown`, is mounted.
    fn has(&self, entry: &MountEntry, shown: &Shown) -> Result<bool> {
        Ok(mounts_of(self.init)?.iter().any(|mount| mount.target == entry.target() && shown.is(mount)))
    }

    fn unmount(&self, entry: &MountEntry, shown: &Shown) -> Result<()> {
        let target = entry.target();
        let busy = |reason: &str| Error::Busy {
            what: format!("mount on `{}` in the container", target.display()),
            reason: reason.to_owned(),
        };
        let mounts = mounts_of(self.init)?;
        let topmost = mounts.iter().rev().find(|mount| mount.target == target);
        let Some(mount) = topmost.filter(|mount| shown.is(mount)) else {
            return Err(busy("the container has mounted something over it"));
        };
        // Submounts are locked to it.
        let is_whole = entry.submounts() == Submounts::Include
            && mounts.iter().any(|other| other.target != target && other.target.starts_with(target));
        let flags = if is_whole { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        let done =
            wait::until_true(wait::deadline(BUSY_PATIENCE), || match self.unmount_one(mount, flags)? {
                // The container was faster.
                Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(true),
                Err(Errno::BUSY) => Ok(false),
                Err(error) => Err(Error::os("umount2", target.display(), error)),
            })?;
        if done { Ok(()) } else { Err(busy("a process inside uses it, or something is mounted beneath it")) }
    }

    /// Takes away what came beside `before` and is `shown`, wherever the container has moved it to.
    fn take_back(&self, shown: &Shown, before: &[Mount]) -> Result<()> {
        let is_new = |mount: &&Mount| shown.is(mount) && !before.iter().any(|old| old.id == mount.id);
        for _ in 0..TAKE_BACK_TRIES {
            let mounts = mounts_of(self.init)?;
            let Some(mount) = mounts.iter().find(is_new) else { return Ok(()) };
            // It may be moved again at any time; then this is another try.
            let _ = self.unmount_one(mount, UnmountFlags::DETACH);
        }
        Err(Error::Busy {
            what: "a mount in the container".to_owned(),
            reason: "the container moves it from place to place: stop it".to_owned(),
        })
    }

    /// Unmounts exactly `mount`, if it is where it was.
    fn unmount_one(&self, mount: &Mount, flags: UnmountFlags) -> Result<rustix::io::Result<()>> {
        let target = &mount.target;
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Ok(Err(Errno::INVAL));
        };
        mntns::within(self.mounts.as_fd(), || {
            let parent = ConfinedRoot::open(Path::new("/"))?
                .open_at(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty(), false)
                .map_err(|e| Error::os("openat2", target.display(), e))?;
            let found =
                statx(&parent, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, StatxFlags::MNT_ID)
                    .map_err(|e| Error::os("statx", target.display(), e))?;
            // Kernels before 5.8 do not tell.
            if StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID)
                && found.stx_mnt_id != mount.id
            {
                return Ok(Err(Errno::INVAL));
            }
            // This thread alone goes there.
            fchdir(parent).map_err(|e| Error::os("fchdir", target.display(), e))?;
            Ok(unmount(name, flags | UnmountFlags::NOFOLLOW))
        })
    }
}

fn is_device(entry: &MountEntry) -> bool {
    matches!(entry.source(), MountSource::Device(_))
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| Error::os("open", path.display(), e))
}

/// What is mounted in the namespace of the process `init`.
fn mounts_of(init: u32) -> Result<Vec<Mount>> {
    let path = format!("/proc/{init}/mountinfo");
    fs::read(&path).map(|text| mountinfo::parse(&text)).map_err(|e| Error::os("read", path, e))
}

/// What root is outside, by a `uid_map`.
fn root_outside(map: &str) -> u32 {
    let fields = |line: &str| line.split_ascii_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>();
    let of_root = |line: &str| fields(line).ok().filter(|fields| fields.first() == Some(&0));
    map.lines().find_map(of_root).and_then(|fields| fields.get(1).copied()).unwrap_or(0)
}
