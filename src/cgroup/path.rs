//! Where a control group lies beneath the roots of its hierarchies (`Documentation/admin-guide/cgroup-v2.rst`).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The first component of every path: what is not beneath it is not ours.
const OURS: &str = "docklet";

/// A path of at least two plain names, the first of them `docklet`: nothing else on the host is ever touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct CgroupPath(String);

impl CgroupPath {
    pub(crate) fn new(path: impl Into<String>) -> Result<Self> {
        let path = path.into();
        match broken_rule(&path) {
            None => Ok(Self(path)),
            Some(rule) => Err(Error::invalid("cgroup path", path, rule)),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CgroupPath {
    type Error = Error;

    fn try_from(path: String) -> Result<Self> {
        Self::new(path)
    }
}

impl From<CgroupPath> for String {
    fn from(path: CgroupPath) -> Self {
        path.0
    }
}

fn broken_rule(path: &str) -> Option<&'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if path.split('/').next() != Some(OURS) {
        Some("must be relative and begin with 'docklet': other groups are not ours")
    } else if path.split('/').any(|name| name.is_empty() || name.len() > 255) {
        Some("each component must have 1 to 255 bytes")
    // A leading dot would allow "..", and no interface file begins with "docklet".
    } else if !path.split('/').all(|name| !name.starts_with('.') && name.bytes().all(plain)) {
        Some("only letters, digits, '-', '_' and '.' are allowed, and no component begins with '.'")
    } else if !path.contains('/') {
        Some("must have at least two components")
    } else {
        None
    }
}
