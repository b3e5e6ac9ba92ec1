//! Which devices a container may open (the kernel's `Documentation/admin-guide/cgroup-v1/devices.rst`):
//! `lxc.cgroup.devices.*` and `lxc.cgroup2.devices.*`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::cgroup::Version;
use crate::error::{Error, Result};
use crate::lxc::config::reader::Reader;
use crate::lxc::config::render::{Lines, prefix};

/// Making any node (an unpacked archive has them) but opening only these. Source: LXC's `common.conf`, without fuse.
const STANDARD: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",   // null
    "c 1:5 rwm",   // zero
    "c 1:7 rwm",   // full
    "c 1:8 rwm",   // random
    "c 1:9 rwm",   // urandom
    "c 5:0 rwm",   // tty
    "c 5:1 rwm",   // console
    "c 5:2 rwm",   // ptmx
    "c 136:* rwm", // pts
];

/// One rule of what is allowed, as the kernel writes it: `c 1:3 rwm`. The kind is `c` or `b`, `*` stands for any number, and
/// the letters are for reading, writing and making the node. Also in JSON.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceRule(String);

impl DeviceRule {
    /// What every container has: making any node, and opening null, zero, full, random, urandom, tty, console, ptmx and its
    /// terminals.
    #[must_use]
    pub fn standard() -> Vec<Self> {
        STANDARD.iter().map(|rule| Self((*rule).to_owned())).collect()
    }

    /// Whether it is in the kernel's list (v1's `devices.list`), which has one line for all that is allowed with a device.
    pub(crate) fn is_in(&self, list: &str) -> bool {
        let Some((device, access)) = self.0.rsplit_once(' ') else { return false };
        let allowed = |line: &str| {
            let (other, letters) = line.rsplit_once(' ')?;
            (other == device).then(|| access.chars().all(|letter| letters.contains(letter)))
        };
        list.lines().any(|line| allowed(line) == Some(true))
    }
}

impl FromStr for DeviceRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_number =
            |part: &str| part == "*" || part.parse::<u32>().is_ok_and(|number| part == number.to_string());
        let fits = match text.split(' ').collect::<Vec<_>>()[..] {
            ["c" | "b", device, access] => {
                let numbers = device.split_once(':');
                let letters: String =
                    ["r", "w", "m"].into_iter().filter(|letter| access.contains(letter)).collect();
                numbers.is_some_and(|(major, minor)| is_number(major) && is_number(minor))
                    && !access.is_empty()
                    && access == letters
            }
            _ => false,
        };
        if fits {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::invalid(
            "device rule",
            text,
            "must be `c` or `b`, MAJOR:MINOR with `*` for any, and some of `rwm` in this order: c 1:3 rwm",
        ))
    }
}

impl TryFrom<String> for DeviceRule {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<DeviceRule> for String {
    fn from(rule: DeviceRule) -> Self {
        rule.0
    }
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) fn render(rules: &[DeviceRule], version: Version, lines: &mut Lines) {
    // Root in the container can make device nodes: opening the host's disks is what must not work.
    let prefix = prefix(version);
    lines.add(&format!("{prefix}.devices.deny"), "a");
    for rule in rules {
        lines.add(&format!("{prefix}.devices.allow"), &rule.0);
    }
}

/// The rules. Who is mapped makes no nodes (`man 7 user_namespaces`), and so may be told nothing of them.
pub(crate) fn read(reader: &mut Reader<'_>, is_mapped: bool) -> Vec<DeviceRule> {
    let mut of_versions = Vec::new();
    for version in [Version::V1, Version::V2] {
        let prefix = prefix(version);
        let denied = reader.all(&format!("{prefix}.devices.deny"));
        let allowed = reader.all(&format!("{prefix}.devices.allow"));
        for entry in &denied {
            if entry.value() != b"a" {
                reader.refuse(entry, "must be `a`: all devices are denied but those that are allowed");
            }
        }
        if let (Some(entry), true) = (allowed.first(), denied.is_empty()) {
            reader.refuse(
                entry,
                format!("has no effect while all are allowed: write {prefix}.devices.deny = a before it"),
            );
        }
        let mut rules: Vec<DeviceRule> = Vec::new();
        for entry in &allowed {
            let rule = reader.text(entry).map(str::parse);
            rules.extend(rule.and_then(|rule| reader.parsed(entry, rule)));
        }
        if let Some(entry) = denied.first() {
            of_versions.push((rules, *entry));
        }
    }
    match of_versions.as_slice() {
        [] if is_mapped => DeviceRule::standard(),
        [] => {
            let rule = "must be there, for this or for the other version of control groups: without it the container may \
                        open every disk of the host; write lxc.cgroup2.devices.deny = a";
            reader.missing("lxc.cgroup2.devices.deny", rule);
            Vec::new()
        }
        [(rules, _)] => rules.clone(),
        [(first, _), (second, entry), ..] => {
            if first != second {
                reader.refuse(entry, "the devices allowed by lxc.cgroup and by lxc.cgroup2 must be the same");
            }
            first.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_found_in_the_list_of_the_kernel() {
        let list = "c *:* m\nb *:* m\nc 1:3 rwm\nc 10:229 rw\n";
        for (rule, expected) in [
            ("c 1:3 rwm", true),
            ("c 1:3 r", true),
            ("c *:* m", true),
            ("c 10:229 rwm", false),
            ("b 1:3 rwm", false),
            ("c 10:22 rw", false),
        ] {
            assert_eq!(rule.parse::<DeviceRule>().unwrap().is_in(list), expected, "{rule}");
        }
        assert!(serde_json::from_str::<DeviceRule>(r#""c 1:3 mr""#).is_err());
    }
}
