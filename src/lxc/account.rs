//! Users and groups of a container, by number or by name (`man 5 passwd`, `man 5 group`).

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::sys::confined::ConfinedRoot;

/// How much of the container's file is read: it is the container's to make as long as it likes.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// A user or a group of a container. In JSON a number or a name: `1000`, `"www-data"`.
///
/// ```
/// # use docklet::lxc::Account;
/// assert_eq!(Account::from(33), serde_json::from_str("33").unwrap());
/// assert_eq!(Account::from("www-data"), serde_json::from_str("\"www-data\"").unwrap());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a user or group must be an id or a name")]
pub enum Account {
    /// By its id, as the container counts. 4294967295 is no id: to the kernel it means "as before".
    Id(u32),
    /// By its name in the container's own file.
    Name(String),
}

impl From<u32> for Account {
    fn from(id: u32) -> Self {
        Self::Id(id)
    }
}

impl From<&str> for Account {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl Account {
    /// Refuses what LXC would take for root.
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Self::Id(id) if !is_id(*id) => {
                Err(Error::invalid("user or group", id.to_string(), "must be less: it stands for no id"))
            }
            Self::Id(_) | Self::Name(_) => Ok(()),
        }
    }
}

fn is_id(id: u32) -> bool {
    id != u32::MAX
}

/// As whom a command runs. `None` is LXC's own choice: root.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
    /// The home directory of a user given by name.
    pub(crate) home: Option<String>,
}

/// Who `user` and `group` are in the container of `init`.
pub(crate) fn resolve(init: u32, user: Option<&Account>, group: Option<&Account>) -> Result<Identity> {
    let read = |path: &str| read(init, Path::new(path));
    let mut identity = match user {
        None => Identity::default(),
        Some(Account::Id(id)) => Identity { user: Some(*id), ..Identity::default() },
        Some(Account::Name(name)) => {
            find_user(&read("/etc/passwd")?, name).ok_or_else(|| unknown("user", name))?
        }
    };
    match group {
        None => {}
        Some(Account::Id(id)) => identity.group = Some(*id),
        Some(Account::Name(name)) => {
            let found = find_group(&read("/etc/group")?, name);
            identity.group = Some(found.ok_or_else(|| unknown("group", name))?);
        }
    }
    Ok(identity)
}

fn unknown(what: &str, name: &str) -> Error {
    Error::NotFound { what: format!("{what} `{name}` in the container") }
}

/// A file of the container's, which may be anything it likes: not through a link, and no more of it than is sensible.
fn read(init: u32, path: &Path) -> Result<String> {
    let failed =
        |call, e: std::io::Error| Error::os(call, format_args!("{} in the container", path.display()), e);
    let root = ConfinedRoot::open(Path::new(&format!("/proc/{init}/root")))?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match root.open_at(path, flags, Mode::empty(), false) {
        Ok(file) => File::from(file),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NotFound { what: format!("{} in the container", path.display()) });
        }
        Err(e) => return Err(failed("openat2", e)),
    };
    if !file.metadata().map_err(|e| failed("fstat", e))?.is_file() {
        return Err(failed("openat2", std::io::Error::other("it is not a regular file")));
    }
    let mut text = Vec::new();
    file.take(FILE_MAX_BYTES).read_to_end(&mut text).map_err(|e| failed("read", e))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// `name:password:uid:gid:comment:home:shell`
fn find_user(passwd: &str, name: &str) -> Option<Identity> {
    let fields = fields(passwd, name)?;
    let id = |index: usize| fields.get(index)?.parse().ok().filter(|id| is_id(*id));
    // LXC takes no variable with a control character in it.
    let home = fields.get(5).filter(|home| home.starts_with('/') && !home.contains(char::is_control));
    Some(Identity { user: Some(id(2)?), group: Some(id(3)?), home: home.map(|home| (*home).to_owned()) })
}

/// `name:password:gid:members`
fn find_group(group: &str, name: &str) -> Option<u32> {
    fields(group, name)?.get(2)?.parse().ok().filter(|id| is_id(*id))
}

/// The fields of the first line that begins with `name`.
fn fields<'a>(text: &'a str, name: &str) -> Option<Vec<&'a str>> {
    text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found() {
        let passwd = "root:x:0:0::/root:/bin/sh\nbad\nshort:x:7\nweb:x:33:34:a b:/var/www:/bin/false\nweb:x:1:1::/:\nrel:x:5:6::home:\n";
        let found = find_user(passwd, "web").unwrap();
        assert_eq!((found.user, found.group, found.home.as_deref()), (Some(33), Some(34), Some("/var/www")));
        assert_eq!(find_user(passwd, "rel").unwrap().home, None);
        for absent in ["", "we", "bad", "short", "33", "a b"] {
            assert_eq!(find_user(passwd, absent), None, "{absent}");
        }
        assert_eq!(find_group("root:x:0:\nstaff:x:50:web\n", "staff"), Some(50));
        assert_eq!(find_group("staff:x:many:\n", "staff"), None);
        // What LXC would take for root.
        assert_eq!(find_group("staff:x:4294967295:\n", "staff"), None);
        assert_eq!(find_user("web:x:4294967295:1::/:\n", "web"), None);
        assert_eq!(find_user("web:x:1:4294967295::/:\n", "web"), None);
        assert!(Account::Id(u32::MAX).check().is_err() && Account::Id(u32::MAX - 1).check().is_ok());
    }
}
