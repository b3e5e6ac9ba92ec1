//! Names that are valid by construction.
//!
//! A name a person chooses ([`ContainerName`], [`VolumeName`], …) is a file name and a host name at most. What the
//! kernel sees is built from an [`ObjectId`], never from a person's text: interface names end at 15 bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The longest name a person can choose, in bytes: one DNS label (RFC 1035).
const LABEL_MAX: usize = 63;
/// The longest interface name, in bytes (`IFNAMSIZ` less the terminating zero).
const LINK_MAX: usize = 15;
/// The longest domain name, in bytes (RFC 1035, less the length byte and the root).
const DOMAIN_MAX: usize = 253;
/// The longest name of a volume group or a thin pool, in bytes: the device mapper doubles hyphens, and ends at 127.
const LVM_MAX: usize = 40;

fn check_label(what: &'static str, text: &str) -> Result<()> {
    let rule = if text.is_empty() || text.len() > LABEL_MAX {
        "must have 1 to 63 bytes"
    } else if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        "only a-z, 0-9 and '-' are allowed"
    } else if text.starts_with('-') || text.ends_with('-') {
        "must begin and end with a letter or digit"
    } else {
        return Ok(());
    };
    Err(Error::invalid(what, text, rule))
}

fn check_link(what: &'static str, text: &str) -> Result<()> {
    let rule = if text.is_empty() || text.len() > LINK_MAX {
        "must have 1 to 15 bytes"
    } else if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        "only letters, digits, '-', '_' and '.' are allowed"
    } else if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        "must begin with a letter or digit"
    } else if matches!(text, "all" | "default" | "lo") {
        "is reserved by the kernel"
    } else {
        return Ok(());
    };
    Err(Error::invalid(what, text, rule))
}

/// A domain name (RFC 1035), which may have underscores (RFC 2782), without a dot at the end.
fn check_domain(what: &'static str, text: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let rule = if text.is_empty() || text.len() > DOMAIN_MAX {
        "must have 1 to 253 bytes"
    } else if text.split('.').any(|label| label.is_empty() || label.len() > LABEL_MAX) {
        "its parts between dots must have 1 to 63 bytes"
    } else if !text.split('.').all(|label| label.bytes().all(plain)) {
        "only letters, digits, '-', '_' and dots are allowed"
    } else if text.split('.').any(|label| label.starts_with('-') || label.ends_with('-')) {
        "its parts between dots must not begin or end with '-'"
    } else {
        return Ok(());
    };
    Err(Error::invalid(what, text, rule))
}

/// The rules of `man 8 lvm`, and short enough for what the device mapper makes of a group's and a volume's name.
fn check_lvm(what: &'static str, text: &str) -> Result<()> {
    let reserved = ["snapshot", "pvmove"].iter().any(|start| text.starts_with(start))
        || [
            "_cdata", "_cmeta", "_mimage", "_mlog", "_pmspare", "_rimage", "_rmeta", "_tdata", "_tmeta",
            "_vorigin",
        ]
        .iter()
        .any(|part| text.contains(part));
    let rule = if text.is_empty() || text.len() > LVM_MAX {
        "must have 1 to 40 bytes"
    } else if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'_' | b'.' | b'-')) {
        "only letters, digits, '+', '_', '.' and '-' are allowed"
    } else if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        "must begin with a letter or digit"
    } else if reserved {
        "is reserved by LVM"
    } else {
        return Ok(());
    };
    Err(Error::invalid(what, text, rule))
}

fn check_id(what: &'static str, text: &str) -> Result<()> {
    if text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(());
    }
    Err(Error::invalid(what, text, "must be 16 lower-case hexadecimal digits"))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text` and takes it as a name.
            ///
            /// # Errors
            /// [`Error::Invalid`] with the rule that `text` breaks.
            pub fn new(text: impl Into<String>) -> Result<Self> {
                let text = text.into();
                $check($what, &text)?;
                Ok(Self(text))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    };
}

name!(
    /// What a person calls a container; also its host name. One DNS label: 1 to 63 bytes of `a-z`, `0-9` and `-`.
    ContainerName, "container name", check_label
);
name!(
    /// What a person calls a network. The same rules as for [`ContainerName`].
    NetworkName, "network name", check_label
);
name!(
    /// What a person calls an image. The same rules as for [`ContainerName`].
    ImageName, "image name", check_label
);
name!(
    /// What a person who owns things is called. The same rules as for [`ContainerName`]. It is not an account of the host.
    UserName, "user name", check_label
);
name!(
    /// What a cluster is called. The same rules as for [`ContainerName`].
    ClusterName, "cluster name", check_label
);
name!(
    /// What a machine of a cluster is called. The same rules as for [`ContainerName`].
    NodeName, "node name", check_label
);
name!(
    /// What a user calls a set of containers in a cluster. The same rules as for [`ContainerName`].
    VirtualClusterName, "virtual cluster name", check_label
);
name!(
    /// A property of a cluster's machine, or what it is there: "disk", "ssd". The same rules as for [`ContainerName`].
    Label, "label", check_label
);
name!(
    /// What a volume is called. The same rules as for [`ContainerName`].
    VolumeName, "volume name", check_label
);
name!(
    /// What a snapshot of a volume is called, within its volume. The same rules as for [`ContainerName`].
    SnapshotName, "snapshot name", check_label
);
name!(
    /// The name of a network interface: 1 to 15 bytes of letters, digits, `-`, `_` and `.` (`man 8 ip-link`).
    LinkName, "interface name", check_link
);
name!(
    /// A domain of the domain name system: labels of 1 to 63 letters, digits, `-` and `_` with dots between them.
    DomainName, "domain name", check_domain
);
name!(
    /// The name of an LVM volume group: 1 to 40 bytes of letters, digits, `+`, `_`, `.` and `-` (`man 8 lvm`).
    VolumeGroupName, "volume group name", check_lvm
);
name!(
    /// The name of an LVM thin pool. The same rules as for [`VolumeGroupName`].
    ThinPoolName, "thin pool name", check_lvm
);
name!(
    /// The identity of an object that docklet makes: 64 random bits as 16 hexadecimal digits. Never reused.
    ObjectId, "object id", check_id
);

impl LinkName {
    /// `eth0`, which a container's first interface is called by custom.
    #[must_use]
    pub fn eth0() -> Self {
        Self("eth0".to_owned())
    }

    /// The name of an interface that is named after a hash: `prefix`, of at most three letters, and twelve hexadecimal digits.
    pub(crate) fn of_hash(prefix: &'static str, hash: [u8; 6]) -> Self {
        Self(format!("{prefix}{}", hash.map(|byte| format!("{byte:02x}")).concat()))
    }
}

impl ObjectId {
    /// The name of the interface that belongs to this object: `dk` and the id's last 13 digits.
    #[must_use]
    pub fn link_name(&self) -> LinkName {
        LinkName(format!("dk{}", &self.0[3..]))
    }

    /// The volume that belongs to this object is called by its id.
    #[must_use]
    pub fn volume_name(&self) -> VolumeName {
        VolumeName(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_checked() {
        for good in ["a", "web-1", "0", &"x".repeat(63)] {
            assert_eq!(ContainerName::new(good).unwrap().as_str(), good);
        }
        for (bad, rule) in [
            ("", "1 to 63 bytes"),
            (&*"x".repeat(64), "1 to 63 bytes"),
            ("Web", "only a-z"),
            ("a/b", "only a-z"),
            ("..", "only a-z"),
            ("a b", "only a-z"),
            ("a\nb", "only a-z"),
            ("ä", "only a-z"),
            ("-a", "begin and end"),
            ("a-", "begin and end"),
        ] {
            let message = ContainerName::new(bad).unwrap_err().to_string();
            assert!(message.starts_with("invalid container name"), "{message}");
            assert!(message.contains(rule), "{message}");
        }
    }

    #[test]
    fn links_are_checked() {
        LinkName::new("br0").unwrap();
        LinkName::new("x".repeat(15)).unwrap();
        for bad in ["", &*"x".repeat(16), "a/b", "a:b", "a b", ".", "..", "lo", "all", "%d", "-x"] {
            LinkName::new(bad).unwrap_err();
        }
    }

    #[test]
    fn domains_are_checked() {
        for good in ["lan", "example.org", "_sip.Example.org", "a-b.c", &"x".repeat(63)] {
            DomainName::new(good).unwrap();
        }
        for bad in ["", ".", "a.", ".a", "a..b", "-a.b", "a-.b", "a b", "a\nb", "ä.de", &"x".repeat(64)] {
            DomainName::new(bad).unwrap_err();
        }
    }

    #[test]
    fn volume_groups_are_checked() {
        for good in ["vg0", "a.b+c_d-e", &"x".repeat(40)] {
            VolumeGroupName::new(good).unwrap();
        }
        for bad in ["", "-x", ".", "..", "a/b", "a b", "a@b", "snapshot1", "x_tmeta", &*"x".repeat(41)] {
            VolumeGroupName::new(bad).unwrap_err();
        }
    }

    #[test]
    fn an_id_names_its_link() {
        let id = ObjectId::new("0123456789abcdef").unwrap();
        assert_eq!(id.link_name().as_str(), "dk3456789abcdef");
        ObjectId::new("0123456789ABCDEF").unwrap_err();
    }

    #[test]
    fn a_bad_name_does_not_deserialize() {
        assert!(serde_json::from_str::<ContainerName>("\"../etc\"").is_err());
    }
}
