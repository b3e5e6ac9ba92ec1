//! What is wrong with a configuration (`man 5 lxc.container.conf`): where, why, and what to write instead.

use std::fmt;
use std::path::PathBuf;

use crate::error::Error;

/// How many problems are kept; of what follows only the number is.
const KEPT_MAX: usize = 1000;
/// How many characters of a value are shown.
const SHOWN_MAX: usize = 120;

/// One line of a configuration that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigProblem {
    /// The included file it is in; `None` for the text itself.
    pub file: Option<PathBuf>,
    /// The line, from 1. Zero if it is about something that no line says.
    pub line: usize,
    /// The byte of the line, from 1, where the key or the value begins that is meant.
    pub column: usize,
    /// The key, or what stands in its place.
    pub key: String,
    /// The value as LXC reads it; a long one is cut.
    pub value: String,
    /// The rule that is broken, or what to write instead.
    pub rule: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}, ", file.display())?;
        }
        if self.line > 0 {
            write!(f, "line {}, column {}: ", self.line, self.column)?;
        }
        write!(f, "`{}`", self.key)?;
        if !self.value.is_empty() {
            write!(f, " = {:?}", self.value)?;
        }
        write!(f, ": {}", self.rule)
    }
}

/// Everything that is wrong with a configuration. There is at least one. First what no line says, then by lines, then those of
/// included files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.shown())]
pub struct ConfigProblems {
    list: Vec<ConfigProblem>,
    more: usize,
}

impl ConfigProblems {
    /// The problems; the first 1000 if there are more.
    #[must_use]
    pub fn list(&self) -> &[ConfigProblem] {
        &self.list
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list.len() + self.more
    }

    /// The same as an [`Error::Invalid`].
    #[must_use]
    pub fn into_error(self) -> Error {
        let first = self.list.first().map(|problem| problem.key.clone()).unwrap_or_default();
        Error::invalid("LXC configuration", first, self.to_string())
    }

    fn shown(&self) -> String {
        let texts: Vec<_> = self.list.iter().take(20).map(ToString::to_string).collect();
        let more = self.count() - texts.len();
        let tail = if more > 0 { format!("; and {more} more") } else { String::new() };
        format!("{}{tail}", texts.join("; "))
    }
}

/// Problems as they are found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    list: Vec<ConfigProblem>,
    more: usize,
}

impl Found {
    pub(crate) fn add(&mut self, problem: ConfigProblem) {
        if self.list.len() < KEPT_MAX {
            self.list.push(problem);
        } else {
            self.more += 1;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// A problem that no line has.
    pub(crate) fn add_whole(&mut self, key: &str, rule: impl Into<String>) {
        self.add(ConfigProblem {
            file: None,
            line: 0,
            column: 0,
            key: key.to_owned(),
            value: String::new(),
            rule: rule.into(),
        });
    }

    pub(crate) fn into_result(self) -> Result<(), ConfigProblems> {
        if self.list.is_empty() { Ok(()) } else { Err(self.into_problems()) }
    }

    pub(crate) fn into_problems(mut self) -> ConfigProblems {
        self.list.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        ConfigProblems { list: self.list, more: self.more }
    }
}

/// `bytes` for a person.
pub(crate) fn shown(bytes: &[u8]) -> String {
    // Cut before it is decoded: a value can be as long as the file.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN_MAX)]);
    let mut cut: String = text.chars().take(SHOWN_MAX).collect();
    if cut.len() < bytes.len() && text.chars().count() > SHOWN_MAX {
        cut.push('…');
    }
    cut
}
