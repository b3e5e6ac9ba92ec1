//! What a group uses, asked again and again (`Documentation/admin-guide/cgroup-v2.rst`).
//!
//! Opening an interface file takes the kernel several times as long as reading it, so the files stay open. A file of a group that was
//! removed answers with an error (ENODEV), whatever has been made at its path since: figures of two groups are never mixed up.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::group::Cgroup;
use super::usage::{CgroupUsage, Source};
use super::walk;
use crate::error::{Error, Result};

/// How many groups of one tree are kept open. What is in a container makes as many as it likes; others are looked for each time.
const GROUPS_MOST: usize = 16;
/// How often a group is looked at that is removed and made again meanwhile.
const LOOKS: usize = 8;

/// Tells what a group uses, as [`Cgroup::usage`] does, in about a third of the time from the second look on, since it keeps the files open:
/// up to 17 descriptors for a container, and more for groups within it; each takes 4 KiB of the kernel's memory.
///
/// The group may be removed and made again meanwhile: the figures are always those of the group that there is. Dropping it closes the
/// files.
///
/// ```no_run
/// # use std::time::Duration;
/// # fn example(group: &docklet::cgroup::Cgroup) -> docklet::Result<()> {
/// let mut meter = group.meter();
/// loop {
///     tracing::info!(usage = ?meter.usage()?);
///     std::thread::sleep(Duration::from_secs(1));
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct CgroupMeter {
    group: Cgroup,
    files: Vec<Kept>,
    trees: Vec<Tree>,
    /// Whether something was opened in this look.
    opened: bool,
    /// Whether something that was kept turned out to be of a group that is gone.
    stale: bool,
}

#[derive(Debug)]
struct Kept {
    root: PathBuf,
    name: String,
    file: OwnedFd,
}

/// A file of a group and of each beneath it.
#[derive(Debug)]
struct Tree {
    root: PathBuf,
    name: String,
    top: Group,
    beneath: Vec<Group>,
    /// Whether these were all, when they were looked for.
    is_whole: bool,
}

#[derive(Debug)]
struct Group {
    dir: OwnedFd,
    file: OwnedFd,
    /// How many groups were directly beneath it.
    children: u64,
}

impl Cgroup {
    /// A meter of the group, which need not exist yet. Nothing is opened before it is asked.
    #[must_use]
    pub fn meter(&self) -> CgroupMeter {
        CgroupMeter { group: self.clone(), files: Vec::new(), trees: Vec::new(), opened: false, stale: false }
    }
}

impl CgroupMeter {
    /// What the group and those beneath it use now.
    ///
    /// # Errors
    /// As [`Cgroup::usage`]; [`Error::Busy`] if the group is removed and made again all the time.
    pub fn usage(&mut self) -> Result<CgroupUsage> {
        for _ in 0..LOOKS {
            (self.opened, self.stale) = (false, false);
            let usage = CgroupUsage::gather(self).inspect_err(|_| self.forget())?;
            if self.stale {
                self.forget();
            } else if !self.opened {
                return Ok(usage);
            }
            // What was opened one after the other may be of two groups. If the next look finds all of it alive, it is of one.
        }
        Err(self.group.busy("removed and made again while it is looked at"))
    }

    /// The group it is about.
    #[must_use]
    pub fn group(&self) -> &Cgroup {
        &self.group
    }

    /// How many descriptors it holds.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.files.len() + self.trees.iter().map(|tree| 2 + 2 * tree.beneath.len()).sum::<usize>()
    }

    fn forget(&mut self) {
        self.files.clear();
        self.trees.clear();
    }

    fn dir(&self, root: &Path) -> PathBuf {
        root.join(self.group.path())
    }
}

impl Source for CgroupMeter {
    fn group(&self) -> &Cgroup {
        &self.group
    }

    fn text(&mut self, root: &Path, name: &str) -> Result<Option<String>> {
        let is_it = |kept: &Kept| kept.name == name && kept.root.as_os_str() == root.as_os_str();
        let at = match self.files.iter().position(is_it) {
            Some(at) => at,
            None => {
                // One that is not there may come: a controller of v2 is turned on when it is needed.
                let Some(file) = walk::open(&self.dir(root), name)? else { return Ok(None) };
                self.opened = true;
                self.files.push(Kept { root: root.to_owned(), name: name.to_owned(), file });
                self.files.len() - 1
            }
        };
        let text = alive(walk::content(&self.files[at].file), &mut self.stale);
        text.map_err(|error| Error::os("read", self.dir(root).join(name).display(), error))
    }

    fn sum(&mut self, root: &Path, name: &str, key: &str) -> Result<Option<u64>> {
        let is_it = |tree: &Tree| tree.name == name && tree.root.as_os_str() == root.as_os_str();
        let at = match self.trees.iter().position(is_it) {
            Some(at) => at,
            None => {
                let Some(tree) = Tree::open(&self.dir(root), root, name)? else { return Ok(None) };
                self.opened = true;
                self.trees.push(tree);
                self.trees.len() - 1
            }
        };
        let sum = self.trees[at].sum(key);
        let sum = sum.map_err(|error| Error::os("read", self.dir(root).join(name).display(), error))?;
        self.stale |= sum.is_none();
        Ok(sum)
    }
}

impl Tree {
    /// `None` if the group at `dir` has no such file.
    fn open(dir: &Path, root: &Path, name: &str) -> Result<Option<Self>> {
        let Some(file) = walk::open(dir, name)? else { return Ok(None) };
        let Some(dir) = walk::open_dir(dir)? else { return Ok(None) };
        let top = Group { dir, file, children: 0 };
        let (root, name) = (root.to_owned(), name.to_owned());
        Ok(Some(Self { root, name, top, beneath: Vec::new(), is_whole: false }))
    }

    /// What the groups that there are now have counted together; `None` if the first one is gone.
    fn sum(&mut self, key: &str) -> io::Result<Option<u64>> {
        if self.is_whole
            && let Some(sum) = self.known(key)?
        {
            return Ok(Some(sum));
        }
        walk::gone_is_none(self.look(key)).map(Option::flatten)
    }

    /// The same from what is kept; `None` if a group has come or gone since.
    fn known(&self, key: &str) -> io::Result<Option<u64>> {
        let mut sum = 0;
        for group in std::iter::once(&self.top).chain(&self.beneath) {
            if walk::children_count(&group.dir)? != group.children {
                return Ok(None);
            }
            let Some(count) = group.count(key)? else { return Ok(None) };
            sum += count;
        }
        Ok(Some(sum))
    }

    /// The same, and looks for the groups beneath the first one anew.
    fn look(&mut self, key: &str) -> io::Result<Option<u64>> {
        let Some(mut sum) = self.top.count(key)? else { return Ok(None) };
        let (mut found, mut counted) = (0, 0);
        self.beneath.clear();
        let (top, beneath, name) = (&mut self.top, &mut self.beneath, &self.name);
        let begin = top.dir.try_clone()?;
        walk::visit_from(begin, &mut |group| {
            // Before they are listed: what comes or goes meanwhile makes a difference now, or the next time.
            let children = walk::children_count(group)?;
            counted += children;
            found += 1;
            if found == 1 {
                top.children = children;
                return Ok(());
            }
            let Some(file) = walk::open_at(group, name)? else { return Ok(()) };
            let group = Group { dir: group.try_clone_to_owned()?, file, children };
            sum += group.count(key)?.unwrap_or(0);
            if beneath.len() < GROUPS_MOST {
                beneath.push(group);
            }
            Ok(())
        })?;
        // Each but the first is beneath another one.
        let known = 1 + u64::try_from(beneath.len()).unwrap_or(u64::MAX);
        self.is_whole = known == found && known == 1 + counted;
        if !self.is_whole {
            self.beneath.clear();
        }
        Ok(Some(sum))
    }
}

impl Group {
    /// `None` if it is gone.
    fn count(&self, key: &str) -> io::Result<Option<u64>> {
        let text = walk::gone_is_none(walk::content(&self.file))?;
        Ok(text.map(|text| walk::field(&text, key).unwrap_or(0)))
    }
}

/// As [`walk::gone_is_none`], and takes note if it was the group that has gone.
fn alive<T>(read: io::Result<T>, stale: &mut bool) -> io::Result<Option<T>> {
    *stale |= matches!(&read, Err(error) if error.raw_os_error() == Some(libc::ENODEV));
    walk::gone_is_none(read)
}
