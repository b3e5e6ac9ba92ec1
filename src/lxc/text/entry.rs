//! One key with its value in a configuration.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use crate::lxc::text::ConfigText;
use crate::lxc::text::problem::{ConfigProblem, shown};

/// Where an entry is. A configuration has at most 4 MiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Of the files that were taken in; zero for the text itself.
    pub(crate) file: u32,
    pub(crate) line: u32,
    pub(crate) key_column: u32,
    pub(crate) value_column: u32,
    /// All that liblxc takes for this line, without what ends it.
    pub(crate) line_bytes: Range<u32>,
    pub(crate) key: Range<u32>,
    pub(crate) value: Range<u32>,
    /// Whether there is a `=`.
    pub(crate) is_whole: bool,
}

impl Place {
    pub(crate) fn problem(
        &self,
        bytes: &[u8],
        file: Option<&Path>,
        column: u32,
        rule: String,
    ) -> ConfigProblem {
        let part = |range: &Range<u32>| shown(&bytes[range.start as usize..range.end as usize]);
        ConfigProblem {
            file: file.map(Path::to_owned),
            line: self.line as usize,
            column: column as usize,
            key: part(&self.key),
            value: part(&self.value),
            rule,
        }
    }
}

/// One `key = value` of a [`ConfigText`].
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    pub(crate) text: &'a ConfigText,
    pub(crate) place: &'a Place,
}

impl<'a> Entry<'a> {
    /// The key, as `lxc.uts.name`. It need not be UTF-8.
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        self.text.part(&self.place.key)
    }

    /// The value as liblxc reads it: without the blanks around it and without one pair of quotes. It need not be UTF-8.
    #[must_use]
    pub fn value(&self) -> &'a [u8] {
        self.text.part(&self.place.value)
    }

    /// The key for a person.
    #[must_use]
    pub fn key_text(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.key())
    }

    /// The included file it is in; `None` for the text itself.
    #[must_use]
    pub fn file(&self) -> Option<&'a Path> {
        self.text.file(self.place.file)
    }

    /// The line in its file, from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.place.line as usize
    }

    /// The byte of the line where the key begins, from 1.
    #[must_use]
    pub fn key_column(&self) -> usize {
        self.place.key_column as usize
    }

    /// The byte of the line where the value begins (after a quote), from 1.
    #[must_use]
    pub fn value_column(&self) -> usize {
        self.place.value_column as usize
    }

    /// What is wrong with its key.
    pub(crate) fn bad_key(&self, rule: impl Into<String>) -> ConfigProblem {
        self.place.problem(self.text.render(), self.file(), self.place.key_column, rule.into())
    }

    /// What is wrong with its value.
    pub(crate) fn bad_value(&self, rule: impl Into<String>) -> ConfigProblem {
        self.place.problem(self.text.render(), self.file(), self.place.value_column, rule.into())
    }
}
