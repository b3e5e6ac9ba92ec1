//! Which capabilities (`man 7 capabilities`) a container's root has: `lxc.cap.drop`, `lxc.cap.keep`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::lxc::config::reader::Reader;
use crate::lxc::config::render::Lines;
use crate::lxc::text::CAPABILITIES;

/// The capabilities that a container's root does not have by default: those that reach the whole machine
/// rather than the container's namespaces (clock, modules, raw I/O, kernel log, audit, BPF, tracing, waking the machine),
/// and opening files by handle, which leaves the root.
///
/// It keeps the others, `sys_admin` above all, which a system's init needs to mount its file systems. Those of an unprivileged
/// container hold for what belongs to its user namespace, and for nothing else.
pub const DROPPED_CAPABILITIES: [&str; 13] = [
    "audit_control",
    "audit_read",
    "block_suspend",
    "bpf",
    "dac_read_search",
    "mac_admin",
    "mac_override",
    "perfmon",
    "sys_module",
    "sys_rawio",
    "sys_time",
    "syslog",
    "wake_alarm",
];

/// A capability, by its number. As text: `sys_admin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability(u8);

impl Capability {
    /// The name, as LXC writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        CAPABILITIES[usize::from(self.0)]
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Capability {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = CAPABILITIES.iter().position(|name| *name == text);
        let number = number.or_else(|| text.parse().ok().filter(|number| *number < CAPABILITIES.len()));
        let number = number.and_then(|number| u8::try_from(number).ok());
        number.map(Self).ok_or_else(|| {
            Error::invalid(
                "capability",
                text,
                "must be one of man 7 capabilities, in small letters without CAP_: sys_admin",
            )
        })
    }
}

/// Which capabilities a container's root has. Default: all but [`DROPPED_CAPABILITIES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capabilities {
    /// All but these.
    AllBut(BTreeSet<Capability>),
    /// These only.
    Only(BTreeSet<Capability>),
}

impl Default for Capabilities {
    fn default() -> Self {
        Self::AllBut(DROPPED_CAPABILITIES.iter().filter_map(|name| name.parse().ok()).collect())
    }
}

impl Capabilities {
    pub(crate) fn render(&self, lines: &mut Lines) {
        let (key, list) = match self {
            Self::AllBut(list) => ("lxc.cap.drop", list),
            Self::Only(list) => ("lxc.cap.keep", list),
        };
        let mut names: Vec<_> = list.iter().map(|capability| capability.name()).collect();
        names.sort_unstable();
        match self {
            Self::AllBut(_) if names.is_empty() => {}
            Self::Only(_) if names.is_empty() => lines.add(key, "none"),
            _ => lines.add(key, &names.join(" ")),
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let mut list = |key| {
            let mut list = BTreeSet::new();
            let entries = reader.all(key);
            for entry in &entries {
                for word in reader.text(entry).unwrap_or_default().split_ascii_whitespace() {
                    if word == "none" {
                        list.clear();
                    } else if let Some(capability) = reader.parsed(entry, word.parse()) {
                        list.insert(capability);
                    }
                }
            }
            (!entries.is_empty()).then_some(list)
        };
        let kept = list("lxc.cap.keep");
        let dropped = list("lxc.cap.drop");
        kept.map_or_else(|| Self::AllBut(dropped.unwrap_or_default()), Self::Only)
    }
}
