//! Texts and paths that a line of LXC's configuration can hold (`man 5 lxc.container.conf`).

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::lxc::text;

/// A text that LXC reads back as it is: not empty (that would take back what was given), and in one line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigValue(String);

impl ConfigValue {
    /// # Errors
    /// [`Error::Invalid`] if it is empty or holds a newline, a carriage return or a zero byte.
    pub fn new(value: impl Into<String>) -> Result<Self> {
        let value = value.into();
        text::check("configuration value", &value)?;
        if value.is_empty() {
            return Err(Error::invalid(
                "configuration value",
                value,
                "must not be empty: that means to clear it",
            ));
        }
        Ok(Self(value))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConfigValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An absolute path that LXC reads back as it is: without `..`, UTF-8, in one line, at most 2048 bytes, not `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigPath(PathBuf);

impl ConfigPath {
    /// # Errors
    /// [`Error::Invalid`] if it is not as said above.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self> {
        Self::of("path", path.into())
    }

    /// The same for the path of `what`.
    pub(crate) fn of(what: &'static str, path: PathBuf) -> Result<Self> {
        let path: PathBuf = path.components().collect();
        let shown = text::check_path(what, &path)?;
        text::check(what, shown)?;
        if shown.len() > text::LINE_MAX / 2 {
            return Err(Error::invalid(what, shown, "must have at most 2048 bytes"));
        }
        Ok(Self(path))
    }

    /// The path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for ConfigPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It is UTF-8.
        self.0.display().fmt(f)
    }
}
