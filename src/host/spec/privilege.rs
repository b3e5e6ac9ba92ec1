//! Whether a container's root is root of the host (`man 7 user_namespaces`).

use serde::{Deserialize, Serialize};

/// What root in a container is on the host.
///
/// ```
/// # use docklet::host::Privilege;
/// let strict: Privilege = serde_json::from_str(r#"{"unprivileged": {"no_new_privileges": true}}"#).unwrap();
/// assert_eq!(strict, Privilege::Unprivileged { no_new_privileges: true });
/// assert_eq!(serde_json::from_str::<Privilege>(r#""privileged""#).unwrap(), Privilege::Privileged);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Privilege {
    /// The container has a user namespace with a range of ids of its own, which nobody else on the host has: its root is an
    /// ordinary user outside, and a stranger to the files and processes of the host and of other containers. This is the
    /// default.
    ///
    /// Directories of the host that are shown inside keep their owners: what belongs to the host's root belongs to `nobody`
    /// inside, and the container's root can write where any user can; with
    /// [`id_mapped`](crate::lxc::MountEntry::id_mapped) they are those of the same numbers.
    Unprivileged {
        /// Whether programs give no more rights than their caller has: `su` and `sudo` do not work inside then. Default:
        /// `false`.
        #[serde(default)]
        no_new_privileges: bool,
    },
    /// Root inside **is root of the host**, held back by namespaces, dropped capabilities, a list of devices and of denied
    /// system calls, and control groups. These have been overcome before, and it can write to what the kernel has for
    /// root alone and does not divide between namespaces. Only for software that is trusted like the host itself; each
    /// start is logged as a warning.
    Privileged,
}

impl Default for Privilege {
    fn default() -> Self {
        Self::Unprivileged { no_new_privileges: false }
    }
}
