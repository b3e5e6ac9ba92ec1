//! What keeps a container's processes from system calls and files beside capabilities: seccomp (`man 2 seccomp`), AppArmor, and
//! `PR_SET_NO_NEW_PRIVS`.

use crate::error::{Error, Result};
use crate::lxc::config::reader::Reader;
use crate::lxc::config::render::Lines;
use crate::lxc::config::values::{ConfigPath, ConfigValue};
use crate::lxc::target::{LxcTarget, SECCOMP};

/// The list of system calls that are denied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Seccomp {
    /// The one that Debian's package brings (`/usr/share/lxc/config/common.seccomp`), where it is there.
    #[default]
    Standard,
    /// A file in LXC's form (`man 5 lxc.container.conf`, SECCOMP CONFIGURATION).
    Profile(ConfigPath),
    /// None: every system call goes.
    Off,
}

/// AppArmor's profile. It is an error where the kernel has AppArmor not on, unless it is [`AppArmor::Standard`] or
/// [`AppArmor::Unconfined`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AppArmor {
    /// LXC's own (`lxc-container-default-cgns`), where AppArmor is on.
    #[default]
    Standard,
    /// None.
    Unconfined,
    /// One that LXC makes for this container.
    Generated {
        /// Whether containers may run in it.
        nesting: bool,
    },
    /// One that is loaded.
    Profile(ConfigValue),
}

impl Seccomp {
    pub(crate) fn render(&self, target: &LxcTarget, lines: &mut Lines) {
        match self {
            Self::Standard => {
                if let Some(profile) = &target.seccomp {
                    lines.add("lxc.seccomp.profile", &profile.to_string_lossy());
                }
            }
            Self::Profile(path) => lines.add("lxc.seccomp.profile", &path.to_string()),
            Self::Off => {}
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        match reader.path("lxc.seccomp.profile") {
            None => Self::Off,
            Some(path) if path.to_string() == SECCOMP => Self::Standard,
            Some(path) => Self::Profile(path),
        }
    }
}

impl AppArmor {
    pub(crate) fn render(&self, target: &LxcTarget, lines: &mut Lines) -> Result<()> {
        let profile = match self {
            Self::Standard => return Ok(()),
            Self::Unconfined => {
                lines.add("lxc.apparmor.profile", "unconfined");
                return Ok(());
            }
            Self::Generated { .. } => "generated",
            Self::Profile(name) => name.as_str(),
        };
        if !target.apparmor {
            return Err(Error::Unsupported {
                what: format!("confining a container with AppArmor's profile {profile:?}"),
                needs:
                    "AppArmor is not on, and LXC would start the container without it: boot with apparmor=1 \
                        security=apparmor and a kernel that has it, or ask for no profile"
                        .to_owned(),
            });
        }
        lines.add("lxc.apparmor.profile", profile);
        if matches!(self, Self::Generated { nesting: true }) {
            lines.add("lxc.apparmor.allow_nesting", "1");
        }
        Ok(())
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let nesting = reader.one("lxc.apparmor.allow_nesting");
        let nests = nesting.is_some_and(|entry| reader.flag(&entry));
        let Some(entry) = reader.one("lxc.apparmor.profile") else {
            if let (Some(entry), true) = (nesting, nests) {
                reader.refuse(
                    &entry,
                    "is for a profile that LXC makes: write lxc.apparmor.profile = generated",
                );
            }
            return Self::Standard;
        };
        let Some(name) = reader.value(&entry) else { return Self::Standard };
        match name.as_str() {
            "generated" => return Self::Generated { nesting: nests },
            _ if nests => reader.refuse(&entry, "must be `generated` where lxc.apparmor.allow_nesting is on"),
            "unconfined" => return Self::Unconfined,
            _ => {}
        }
        Self::Profile(name)
    }
}
