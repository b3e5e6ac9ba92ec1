//! What must be in a container's root before LXC looks at it: init, and the targets of its mounts.
//!
//! LXC's own `create=` follows links while it makes directories, so it is not used: a link planted in the root by an
//! earlier run of the container would lead it onto the host.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, statfs};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::lxc::config::{CheckedMount, LxcConfig, Network};
use crate::lxc::mount::{Create, Ids, MountEntry, Tree};
use crate::sys::confined::ConfinedRoot;
use crate::sys::netns::NSFS_MAGIC;
use crate::sys::userns;

/// Directories that LXC mounts file systems on.
const MOUNTED_BY_LXC: [&str; 3] = ["/proc", "/sys", "/dev"];
/// The file that LXC opens in the root, from outside of the container, to keep it from becoming read-only.
const PIN: &str = "/.lxc_keep";

impl LxcConfig {
    /// What is mounted, as it is now; what is missing, and may be, is left out.
    pub(crate) fn open_mounts(&self) -> Result<Vec<Opened<'_>>> {
        let namespace = match self.mapped()? {
            Some((map, path)) => {
                let opened = File::open(path).map_err(|e| Error::os("open", path.display(), e))?;
                Some((map.root(), opened))
            }
            None => None,
        };
        let ids =
            namespace.as_ref().map(|(root, namespace)| Ids { root: *root, namespace: namespace.as_fd() });
        let mut opened = Vec::with_capacity(self.mounts.len());
        for mount in &self.mounts {
            let tree = if mount.is_own { None } else { mount.entry.tree(ids)? };
            if let Some(Tree::Node(node)) = &tree {
                let rule = node.rule(mount.entry.is_read_only());
                if !rule.is_some_and(|rule| self.devices.contains(&rule)) {
                    let difference = "the container may not use it: it is another device than it was, or is not in `devices`";
                    return Err(Error::Differs {
                        what: mount.entry.source().shown(),
                        difference: difference.to_owned(),
                    });
                }
            }
            if mount.is_own || tree.is_some() {
                opened.push(Opened { mount, tree });
            } else {
                tracing::warn!(source = %mount.entry.source().shown(), "an optional mount is left out");
            }
        }
        Ok(opened)
    }

    /// Makes the targets of the mounts, where they are missing and were asked for. No link is followed. They belong to the
    /// container's root.
    pub(crate) fn prepare_targets(&self, mounts: &[Opened<'_>]) -> Result<()> {
        match &self.id_map {
            Some(map) => userns::as_root_of_map(map.root(), || self.prepare_all(mounts)),
            None => self.prepare_all(mounts),
        }
    }

    fn prepare_all(&self, mounts: &[Opened<'_>]) -> Result<()> {
        let root = self.open_root()?;
        for (index, Opened { mount, tree }) in mounts.iter().enumerate() {
            let target = mount.entry.target();
            if target.starts_with("/dev") {
                // LXC makes it in a `/dev` of its own.
                continue;
            }
            let is_dir = tree.as_ref().map_or(mount.is_dir, Tree::is_directory);
            // Beneath another mount's target it is in that mount where the target is seen.
            let above = mounts[..index]
                .iter()
                .filter(|other| target.starts_with(other.mount.entry.target()))
                .max_by_key(|other| other.mount.entry.target().components().count());
            match above.and_then(|above| Some((&above.mount.entry, above.tree.as_ref()?.mount()?))) {
                None => prepare(&root, target, &mount.entry, is_dir)?,
                Some((above, tree)) => {
                    let rest = target.strip_prefix(above.target()).unwrap_or(target);
                    prepare(&ConfinedRoot::within(tree, above.source().shown())?, rest, &mount.entry, is_dir)?
                }
            };
        }
        Ok(())
    }

    /// Checks that the root is there and holds init.
    pub(crate) fn check_init(&self) -> Result<()> {
        let root = self.open_root()?;
        let init = Path::new(&self.init[0]);
        if self.mounts.iter().any(|mount| init.starts_with(mount.entry.target())) {
            // It comes from a mount that is not there yet.
            return Ok(());
        }
        let what = || format!("init `{}` in the root {}", init.display(), self.root.display());
        match root.open_at(init, OFlags::PATH, Mode::empty(), true) {
            Ok(fd) => {
                let stat = fstat(&fd).map_err(|e| Error::os("fstat", init.display(), e))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_mode & 0o111 == 0
                {
                    return Err(Error::invalid(
                        "init command",
                        &self.init[0],
                        "must be an executable file in the root",
                    ));
                }
                Ok(())
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Err(Error::NotFound { what: what() })
            }
            Err(e) => Err(Error::os("openat2", what(), e)),
        }
    }

    /// Checks what LXC opens in the root before it is the container's: an earlier run can have left a fifo there, for
    /// which LXC waits for ever, or a device of the host.
    pub(crate) fn check_openings(&self) -> Result<()> {
        let root = self.open_root()?;
        let openings = MOUNTED_BY_LXC.iter().map(|dir| (*dir, FileType::Directory, "a directory"));
        for (path, kind, rule) in openings.chain([(PIN, FileType::RegularFile, "a regular file")]) {
            // Without following: the last component is looked at, too.
            let found =
                match root.open_at(Path::new(path), OFlags::PATH | OFlags::NOFOLLOW, Mode::empty(), true) {
                    Ok(fd) => fstat(&fd).map_err(|e| Error::os("fstat", path, e))?,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(Error::os("openat2", path, e)),
                };
            if FileType::from_raw_mode(found.st_mode) != kind {
                return Err(Error::Differs {
                    what: format!("`{path}` in the root {}", self.root.display()),
                    difference: format!("it is not {rule}, so LXC must not open it; remove it"),
                });
            }
        }
        Ok(())
    }

    /// Checks that namespaces are pinned where some are to be joined.
    pub(crate) fn check_namespaces(&self) -> Result<()> {
        if let Network::Joined(path) = &self.network {
            check_pinned("network namespace", path)?;
        }
        self.mapped()?.map_or(Ok(()), |(_, namespace)| check_pinned("user namespace", namespace))
    }

    /// Checks that somebody whose id is `root` on the host gets to the root: LXC mounts it as the container's root.
    pub(crate) fn check_ways(&self, root: u32) -> Result<()> {
        let Some(barred) = userns::first_barred(root, std::slice::from_ref(&self.root))? else {
            return Ok(());
        };
        Err(Error::Unsupported {
            what: format!("an unprivileged container with files beneath `{}`", barred.display()),
            needs: format!(
                "its root is an ordinary user of the host, who may not search that directory: `chmod o+x {}`, or put the files \
                 elsewhere (the root is beneath FS_PREFIX)",
                barred.display()
            ),
        })
    }

    fn open_root(&self) -> Result<ConfinedRoot> {
        ConfinedRoot::open(&self.root).map_err(|error| match error.errno() {
            Some(libc::ENOENT) => Error::NotFound { what: format!("root `{}`", self.root.display()) },
            Some(libc::ENOTDIR) => Error::invalid("root", self.root.to_string_lossy(), "must be a directory"),
            _ => error,
        })
    }
}

fn check_pinned(what: &'static str, path: &Path) -> Result<()> {
    match statfs(path) {
        Ok(found) if u64::try_from(found.f_type) == Ok(NSFS_MAGIC) => Ok(()),
        Ok(_) => {
            let rule = "must be a pinned namespace (a bind mount of a file in /proc/PID/ns)";
            Err(Error::invalid(what, path.to_string_lossy(), rule))
        }
        Err(Errno::NOENT) => Err(Error::NotFound { what: format!("{what} `{}`", path.display()) }),
        Err(error) => Err(Error::os("statfs", path.display(), error)),
    }
}

/// A mount about to be made.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    pub(crate) mount: &'a CheckedMount,
    /// `None` for a file of this library's own.
    pub(crate) tree: Option<Tree>,
}

/// The place in `root` that `entry` goes to, made if it is missing and was asked for. No link is followed.
pub(crate) fn prepare(root: &ConfinedRoot, path: &Path, entry: &MountEntry, is_dir: bool) -> Result<OwnedFd> {
    let target = entry.target();
    let shown = || target.to_string_lossy().into_owned();
    let through_link = || {
        let rule = "runs through a symbolic link in the root: name the place itself";
        Error::invalid("mount target", shown(), rule)
    };
    match root.open_at(path, OFlags::PATH, Mode::empty(), false) {
        Ok(fd) => {
            let stat = fstat(&fd).map_err(|e| Error::os("fstat", target.display(), e))?;
            let found = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory if is_dir => return Ok(fd),
                FileType::RegularFile if !is_dir => return Ok(fd),
                FileType::Directory => "a directory",
                FileType::RegularFile => "a file",
                // LXC opens it, waits for a fifo for ever, and does who knows what with a device.
                _ => "neither a file nor a directory",
            };
            let source = if is_dir { "a directory" } else { "a file" };
            Err(Error::Differs {
                what: format!("mount target `{}`", target.display()),
                difference: format!("it is {found}, the source is {source}"),
            })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let made = match entry.create() {
                Some(Create::Dir) => root.create_dir_all(path),
                Some(Create::File) => root.create_file(path, 0o644).map(drop),
                None => {
                    let make = if is_dir { "create_dir" } else { "create_file" };
                    let what =
                        format!("mount target `{}` in the root (.{make}() makes it)", target.display());
                    return Err(Error::NotFound { what });
                }
            };
            tracing::debug!(target = %target.display(), "made mount target");
            made.map_err(|error| if error.errno() == Some(libc::ELOOP) { through_link() } else { error })?;
            // What was made is looked at like everything else: somebody may have been faster.
            prepare(root, path, entry, is_dir)
        }
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => Err(through_link()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            Err(Error::invalid("mount target", shown(), "runs through a file in the root"))
        }
        Err(e) => Err(Error::os("openat2", PathBuf::from(path).display(), e)),
    }
}
