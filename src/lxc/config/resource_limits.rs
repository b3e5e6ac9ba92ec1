//! Limits of a container's processes (`man 2 setrlimit`): `lxc.prlimit.*`. They hold for each process alone; those of the whole
//! container are [`CgroupLimits`](crate::cgroup::CgroupLimits).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::cgroup::Limit;
use crate::error::{Error, Result};
use crate::lxc::config::reader::Reader;
use crate::lxc::config::render::Lines;

const NAMES: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// What is limited: `nofile`, as `man 2 setrlimit` without `RLIMIT_`, in small letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource(&'static str);

impl FromStr for Resource {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let name = NAMES.iter().find(|name| **name == text);
        name.map(|name| Self(name)).ok_or_else(|| {
            Error::invalid(
                "resource",
                text,
                format!("must be one of {}: LXC does not start with another", NAMES.join(", ")),
            )
        })
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A limit that a process may raise (`soft`), and how far (`hard`), in the resource's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceLimit {
    soft: Limit,
    hard: Limit,
}

impl ResourceLimit {
    /// # Errors
    /// [`Error::Invalid`] if `soft` is above `hard`.
    pub fn new(soft: Limit, hard: Limit) -> Result<Self> {
        let limit = Self { soft, hard };
        let is_above = match (soft, hard) {
            (Limit::At(soft), Limit::At(hard)) => soft > hard,
            (Limit::Max, Limit::At(_)) => true,
            (_, Limit::Max) => false,
        };
        if is_above {
            return Err(Error::invalid(
                "resource limit",
                limit.to_string(),
                "the soft limit must not be above the hard one",
            ));
        }
        Ok(limit)
    }
}

impl fmt::Display for ResourceLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |limit| match limit {
            Limit::Max => "unlimited".to_owned(),
            Limit::At(value) => value.to_string(),
        };
        write!(f, "{}:{}", one(self.soft), one(self.hard))
    }
}

impl FromStr for ResourceLimit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || {
            let rule = "must be a number or `unlimited`, or two of them (the soft and the hard limit) with `:` between";
            Error::invalid("resource limit", text, rule)
        };
        let one = |part: &str| match part.trim() {
            "unlimited" => Ok(Limit::Max),
            part => part.parse().map(Limit::At).map_err(|_| invalid()),
        };
        let (soft, hard) = text.split_once(':').unwrap_or((text, text));
        Self::new(one(soft)?, one(hard)?)
    }
}

pub(crate) fn render(limits: &BTreeMap<Resource, ResourceLimit>, lines: &mut Lines) {
    for (resource, limit) in limits {
        lines.add(&format!("lxc.prlimit.{resource}"), &limit.to_string());
    }
}

pub(crate) fn read(reader: &mut Reader<'_>) -> BTreeMap<Resource, ResourceLimit> {
    let mut limits = BTreeMap::new();
    for (name, entry) in reader.family("lxc.prlimit.") {
        let Some(text) = reader.text(&entry).map(str::to_owned) else { continue };
        let resource = reader.parsed(&entry, name.parse());
        let limit = reader.parsed(&entry, text.parse());
        if let (Some(resource), Some(limit)) = (resource, limit) {
            limits.insert(resource, limit);
        }
    }
    limits
}
