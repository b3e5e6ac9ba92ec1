//! One bind mount of a container (`man 5 lxc.container.conf`, `lxc.mount.entry`; `man 8 mount` on bind mounts).

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::lxc::text;
use crate::sys::mountinfo;

/// What happens to file systems that are mounted beneath the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Submounts {
    /// There must be none when the container starts.
    #[default]
    Refuse,
    /// They are shown too (`rbind`), and follow the host: what it mounts or unmounts there later changes inside too.
    Include,
    /// They are not shown, neither those of now nor later ones: the directories beneath them are.
    Hide,
}

/// What to make where the target is missing in the container's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Create {
    /// A directory. The source must be one.
    Dir,
    /// An empty file. The source must not be a directory.
    File,
}

/// A file or directory of the host that is shown inside a container.
///
/// ```
/// # use docklet::lxc::MountEntry;
/// # fn main() -> docklet::Result<()> {
/// let data = MountEntry::bind("/srv/data", "/root/data")?.recursive().create_dir();
/// assert!(MountEntry::bind("srv/data", "/root/data").is_err()); // relative
/// assert!(MountEntry::bind("/srv/data", "/root/../etc").is_err());
/// # Ok(()) }
/// ```
///
/// Rules that need no host are checked here, and when it is deserialized; the others (the source exists, `create`
/// fits it, submounts) by [`LxcConfig::mount`](crate::lxc::LxcConfig::mount).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct MountEntry {
    source: PathBuf,
    target: PathBuf,
    submounts: Submounts,
    read_only: bool,
    create: Option<Create>,
}

#[derive(Deserialize)]
#[serde(rename = "MountEntry", deny_unknown_fields)]
struct Fields {
    source: PathBuf,
    target: PathBuf,
    #[serde(default)]
    submounts: Submounts,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    create: Option<Create>,
}

impl TryFrom<Fields> for MountEntry {
    type Error = Error;

    fn try_from(fields: Fields) -> Result<Self> {
        let Fields { source, target, submounts, read_only, create } = fields;
        let entry = Self { submounts, read_only, create, ..Self::bind(source, target)? };
        entry.check()?;
        Ok(entry)
    }
}

impl MountEntry {
    /// Shows `source` of the host at `target` in the container. Both are absolute; `target` counts from the
    /// container's root.
    ///
    /// # Errors
    /// [`Error::Invalid`] if one of them is relative, is `/`, has `..`, is not UTF-8, holds a carriage return (LXC
    /// cannot express it) or is too long; or if `target` is at or beneath `/proc`, `/sys` or `/dev`, where LXC mounts
    /// file systems of its own.
    pub fn bind(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Result<Self> {
        let (source, target) = (plain(source.into()), plain(target.into()));
        for (what, path) in [("mount source", &source), ("mount target", &target)] {
            let shown = text::check_path(what, path)?;
            if shown.contains('\r') {
                return Err(Error::invalid(
                    what,
                    shown,
                    "must not contain a carriage return: LXC's configuration cannot express it",
                ));
            }
        }
        for own in ["/proc", "/sys", "/dev"] {
            if target.starts_with(own) {
                let rule = format!("must not be at or beneath {own}: LXC mounts its own file system there");
                return Err(Error::invalid("mount target", target.to_string_lossy(), rule));
            }
        }
        let entry = Self { source, target, submounts: Submounts::Refuse, read_only: false, create: None };
        if entry.render(&entry.source).len() + ROOT_MAX >= text::LINE_MAX {
            let rule = format!("is too long: source and target together are limited to about {} bytes", 3700);
            return Err(Error::invalid("mount entry", entry.source.to_string_lossy(), rule));
        }
        Ok(entry)
    }

    /// Shows what is mounted beneath the source too.
    #[must_use]
    pub fn recursive(mut self) -> Self {
        self.submounts = Submounts::Include;
        self
    }

    /// Shows the source's own file system only, whatever is mounted beneath it.
    #[must_use]
    pub fn without_submounts(mut self) -> Self {
        self.submounts = Submounts::Hide;
        self
    }

    /// Lets the container read only. Not together with [`recursive`](Self::recursive).
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Makes a directory where the target is missing.
    #[must_use]
    pub fn create_dir(mut self) -> Self {
        self.create = Some(Create::Dir);
        self
    }

    /// Makes an empty file where the target is missing.
    #[must_use]
    pub fn create_file(mut self) -> Self {
        self.create = Some(Create::File);
        self
    }

    /// What is shown.
    #[must_use]
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// Where it is shown, counted from the container's root.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    pub(crate) fn create(&self) -> Option<Create> {
        self.create
    }

    /// The rules that need no host.
    pub(crate) fn check(&self) -> Result<()> {
        if self.read_only && self.submounts == Submounts::Include {
            return Err(self.invalid(
                "recursive and read_only do not go together: submounts would stay writable; give each submount an \
                 entry of its own with .read_only(), or use .without_submounts()",
            ));
        }
        Ok(())
    }

    /// Checks the host's side. Returns the source without links, and whether it is a directory.
    pub(crate) fn check_source(&self) -> Result<(PathBuf, bool)> {
        self.check()?;
        let real = match fs::canonicalize(&self.source) {
            Ok(real) => real,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NotFound { what: format!("mount source `{}`", self.source.display()) });
            }
            Err(e) => return Err(Error::os("realpath", self.source.display(), e)),
        };
        text::check_path("mount source", &real)?;
        let is_dir = real.metadata().map_err(|e| Error::os("stat", real.display(), e))?.is_dir();
        match self.create {
            Some(Create::Dir) if !is_dir => {
                return Err(self.invalid("is not a directory: use .create_file(), not .create_dir()"));
            }
            Some(Create::File) if is_dir => {
                return Err(self.invalid("is a directory: use .create_dir(), not .create_file()"));
            }
            _ => {}
        }
        if self.submounts == Submounts::Refuse && is_dir {
            let beneath = mountinfo::mounts_beneath(&real)?;
            if let Some(mount) = beneath.iter().find(|mount| mount.target != real) {
                return Err(self.invalid(&format!(
                    "has submounts ({}): say .recursive() to show them or .without_submounts() to hide them",
                    mount.target.display()
                )));
            }
        }
        if self.render(&real).len() + ROOT_MAX >= text::LINE_MAX {
            return Err(self.invalid("is too long without its links"));
        }
        Ok((real, is_dir))
    }

    /// The value of `lxc.mount.entry`. The target is relative: liblxc puts it beneath the mounted root, where an
    /// absolute one is searched for the root's path as text, and ignored with a warning when that is not found.
    pub(crate) fn render(&self, source: &Path) -> String {
        let target = self.target.strip_prefix("/").unwrap_or(&self.target);
        let kind = match self.submounts {
            Submounts::Include => "rbind",
            // Private: a later mount of the host would appear inside otherwise.
            Submounts::Refuse | Submounts::Hide => "bind,private",
        };
        let access = if self.read_only { ",ro" } else { "" };
        format!("{} {} none {kind}{access} 0 0", escape(source), escape(target))
    }

    fn invalid(&self, rule: &str) -> Error {
        Error::invalid("mount source", self.source.to_string_lossy(), rule)
    }
}

/// Room for the place where liblxc mounts the root (`/usr/lib/TRIPLET/lxc/rootfs`), which it puts before the target.
const ROOT_MAX: usize = 256;

/// The path without `.`, doubled and trailing slashes.
fn plain(path: PathBuf) -> PathBuf {
    path.components().collect()
}

/// Escapes what `man 3 getmntent` splits at.
fn escape(path: &Path) -> String {
    let mut escaped = String::new();
    for c in path.to_string_lossy().chars() {
        match c {
            ' ' => escaped.push_str("\\040"),
            '\t' => escaped.push_str("\\011"),
            '\n' => escaped.push_str("\\012"),
            '\\' => escaped.push_str("\\134"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(source: &str, target: &str) -> String {
        MountEntry::bind(source, target).unwrap_err().to_string()
    }

    #[test]
    fn paths_are_checked() {
        for (source, target, expected) in [
            ("data", "/data", "invalid mount source \"data\": must be an absolute path"),
            ("", "/data", "invalid mount source \"\": must be an absolute path"),
            ("/srv/../etc", "/data", "invalid mount source \"/srv/../etc\": must not contain '..'"),
            ("/", "/data", "invalid mount source \"/\": must not be the root directory"),
            ("/srv", "data", "invalid mount target \"data\": must be an absolute path"),
            ("/srv", "/a/../b", "invalid mount target \"/a/../b\": must not contain '..'"),
            ("/srv", "/", "invalid mount target \"/\": must not be the root directory"),
            ("/srv", "/./", "must not be the root directory"),
            ("/srv", "/proc", "must not be at or beneath /proc"),
            ("/srv", "/sys/fs", "must not be at or beneath /sys"),
            ("/srv", "//dev/./shm", "must not be at or beneath /dev"),
            ("/srv", "/a\rb", "carriage return"),
        ] {
            let message = rule(source, target);
            assert!(message.contains(expected), "{message}");
        }
        assert!(rule("/srv", &format!("/{}", "x/".repeat(2000))).contains("too long"));
        MountEntry::bind("/srv", "/development").unwrap();
    }

    #[test]
    fn entries_are_rendered() {
        let odd = MountEntry::bind("/a b\t\\c\nd", "/#x,\"y\":'z'/").unwrap();
        for (entry, expected) in [
            (odd.clone(), "/a\\040b\\011\\134c\\012d #x,\"y\":'z' none bind,private 0 0"),
            (odd.clone().read_only(), "/a\\040b\\011\\134c\\012d #x,\"y\":'z' none bind,private,ro 0 0"),
            (odd.recursive(), "/a\\040b\\011\\134c\\012d #x,\"y\":'z' none rbind 0 0"),
        ] {
            assert_eq!(entry.render(entry.source()), expected);
        }
    }

    #[test]
    fn data_goes_through_the_same_checks() {
        let entry: MountEntry =
            serde_json::from_str(r#"{"source": "/srv//data/", "target": "/data", "create": "dir"}"#).unwrap();
        assert_eq!(entry, MountEntry::bind("/srv/data", "/data").unwrap().create_dir());
        let text = serde_json::to_string(&entry).unwrap();
        assert_eq!(serde_json::from_str::<MountEntry>(&text).unwrap(), entry);
        for (bad, expected) in [
            (r#"{"source": "srv", "target": "/data"}"#, "absolute"),
            (r#"{"source": "/srv", "target": "/data", "creat": "dir"}"#, "unknown field"),
            (
                r#"{"source": "/srv", "target": "/data", "submounts": "include", "read_only": true}"#,
                "do not go together",
            ),
        ] {
            let message = serde_json::from_str::<MountEntry>(bad).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    /// As `getmntent` reads a field.
    fn decode(field: &str) -> String {
        let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
        let mut decoded = String::new();
        let mut rest = field;
        while let Some(c) = rest.chars().next() {
            let (text, length) = match codes.iter().find(|(code, _)| rest.starts_with(code)) {
                Some((code, text)) => (*text, code.len()),
                None => (&rest[..c.len_utf8()], c.len_utf8()),
            };
            decoded.push_str(text);
            rest = &rest[length..];
        }
        decoded
    }

    proptest::proptest! {
        /// Whatever is accepted is one line of six fields that say what was asked for.
        #[test]
        fn accepted_paths_survive(source in "/\\PC{0,40}[ \t\n\\\\#\"',]{0,5}\\PC{0,9}", target in "/[^\0]{0,60}") {
            if let Ok(entry) = MountEntry::bind(&source, &target) {
                let line = entry.render(entry.source());
                proptest::prop_assert!(!line.contains(['\n', '\r', '\0']));
                let fields: Vec<_> = line.split([' ', '\t']).collect();
                proptest::prop_assert_eq!(fields.len(), 6);
                proptest::prop_assert_eq!(PathBuf::from(decode(fields[0])), entry.source());
                proptest::prop_assert_eq!(Path::new("/").join(decode(fields[1])), entry.target());
                proptest::prop_assert_eq!(&fields[2..], ["none", "bind,private", "0", "0"]);
            }
        }
    }
}
