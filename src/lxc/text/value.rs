//! What can be said in a line of LXC's configuration (liblxc `confile.c`, `parse.c`), and how.
//!
//! The file is cut at every newline and carriage return, without any escape; blanks around a value are cut off; one
//! pair of equal quotes around a value is taken off.

use std::path::{Component, Path};

use crate::error::{Error, Result};

/// liblxc's buffers for paths and mount lines (`PATH_MAX`), with the terminating zero.
pub(crate) const LINE_MAX: usize = 4096;

/// Refuses what would end the line: a value can never become another key.
pub(crate) fn check(what: &'static str, value: &str) -> Result<()> {
    if value.contains(['\0', '\n', '\r']) {
        return Err(Error::invalid(
            what,
            value,
            "must not contain a newline, a carriage return or a zero byte: LXC's configuration cannot express them",
        ));
    }
    Ok(())
}

/// `value` so that liblxc reads exactly it: in quotes where it would otherwise lose blanks or quotes at its ends.
pub(crate) fn quoted(value: &str) -> String {
    let edge = |c: char| c.is_ascii_whitespace() || matches!(c, '"' | '\'' | '\x0b');
    if value.starts_with(edge) || value.ends_with(edge) { format!("\"{value}\"") } else { value.to_owned() }
}

/// Checks that `path` is absolute, plain (no `..`), UTF-8, and not `/`.
pub(crate) fn check_path<'a>(what: &'static str, path: &'a Path) -> Result<&'a str> {
    let invalid = |rule: &str| Error::invalid(what, path.to_string_lossy(), rule);
    let text = path.to_str().ok_or_else(|| invalid("must be UTF-8"))?;
    if !path.is_absolute() {
        return Err(invalid("must be an absolute path"));
    }
    if path.components().any(|c| c == Component::ParentDir) {
        return Err(invalid("must not contain '..'"));
    }
    if path.components().count() < 2 {
        return Err(invalid("must not be the root directory"));
    }
    if text.contains('\0') {
        return Err(invalid("must not contain a zero byte"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_that_lose_something_are_quoted() {
        for (value, expected) in [
            ("plain text", "plain text"),
            (" lead", "\" lead\""),
            ("trail\t", "\"trail\t\""),
            ("\"both\"", "\"\"both\"\""),
            ("it's", "it's"),
            ("", ""),
        ] {
            assert_eq!(quoted(value), expected);
        }
    }

    #[test]
    fn a_value_cannot_become_another_key() {
        for bad in ["a\nlxc.hook.pre-start = /bin/sh", "a\rlxc.x = y", "a\0"] {
            assert!(check("environment", bad).unwrap_err().to_string().contains("newline"), "{bad:?}");
        }
    }
}
