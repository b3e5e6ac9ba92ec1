//! What a configuration is rendered for: this host's liblxc and its control groups.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::cgroup::{Hierarchies, Hierarchy};
use crate::error::{Error, Result};
use crate::sys::process::{Ended, Program, Stream};
use crate::sys::tool;

/// A version of liblxc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LxcVersion {
    /// 5 in 5.0.2.
    pub major: u32,
    /// 0 in 5.0.2.
    pub minor: u32,
    /// 2 in 5.0.2.
    pub patch: u32,
}

impl fmt::Display for LxcVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The LXC and the control groups that a [`LxcConfig`](crate::lxc::LxcConfig) is rendered for.
#[derive(Debug, Clone)]
pub struct LxcTarget {
    /// The version of liblxc.
    pub version: LxcVersion,
    /// This host's hierarchies.
    pub hierarchies: Hierarchies,
    /// `lxc-start`.
    pub lxc_start: PathBuf,
    /// `lxc-attach`.
    pub lxc_attach: PathBuf,
    /// The system calls that Debian's lxc denies to privileged containers, if the file is there.
    pub seccomp: Option<PathBuf>,
    /// Whether the kernel has AppArmor on.
    pub apparmor: bool,
}

pub(crate) const SECCOMP: &str = "/usr/share/lxc/config/common.seccomp";

impl LxcTarget {
    /// Finds LXC's programs and asks `lxc-start --version`. Do it once, not for each container.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming the package if LXC is not installed, or if its version is unknown or older than
    /// 5.0 (which cannot keep a container out of the group with its limits); [`Error::Command`] if it does not answer.
    pub fn detect(hierarchies: &Hierarchies) -> Result<Self> {
        let lxc_start = find("lxc-start")?;
        let lxc_attach = find("lxc-attach")?;
        let text = ask_version(&lxc_start)?;
        let version = parse_version(&text).ok_or_else(|| Error::Unsupported {
            what: format!("liblxc {:?}", text.trim()),
            needs: "it takes liblxc 5.0 or later (Debian: apt install lxc)".to_owned(),
        })?;
        if version < (LxcVersion { major: 5, minor: 0, patch: 0 }) {
            return Err(Error::Unsupported {
                what: format!("liblxc {version}"),
                needs: "it takes liblxc 5.0 or later, which knows lxc.cgroup.dir.container.inner (Debian 12 and later have it)".to_owned(),
            });
        }
        let seccomp = Path::new(SECCOMP).is_file().then(|| PathBuf::from(SECCOMP));
        let apparmor =
            fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"));
        Ok(Self { version, hierarchies: hierarchies.clone(), lxc_start, lxc_attach, seccomp, apparmor })
    }

    /// The v1 hierarchy with the device rules. In v2 they are not a controller's.
    pub(crate) fn devices(&self) -> Option<&Hierarchy> {
        self.hierarchies.mounts().iter().find(|hierarchy| hierarchy.has("devices"))
    }
}

fn find(program: &str) -> Result<PathBuf> {
    tool::find(program).ok_or_else(|| Error::Unsupported {
        what: "running containers".to_owned(),
        needs: format!("the program `{program}` is missing: install LXC (Debian: apt install lxc)"),
    })
}

fn ask_version(lxc_start: &Path) -> Result<String> {
    let program =
        Program::new(lxc_start)?.arg("--version")?.streams([Stream::Null, Stream::Pipe, Stream::Null]);
    let mut child = program.spawn()?;
    let ended = child.wait_timeout(Duration::from_secs(20))?;
    let mut text = String::new();
    if let (Some(Ended::Exited(0)), Some(stdout)) = (ended, &mut child.stdout) {
        // A pipe holds more than a version; the program has ended.
        File::read_to_string(stdout, &mut text).map_err(|e| Error::os("read", lxc_start.display(), e))?;
        return Ok(text);
    }
    child.kill();
    Err(Error::Command {
        program: format!("{} --version", lxc_start.display()),
        status: ended.map_or_else(|| "no answer in 20 s".to_owned(), Ended::shown),
        stderr: "reinstall the package lxc".to_owned(),
    })
}

fn parse_version(text: &str) -> Option<LxcVersion> {
    // "5.0.2", "6.0.0~rc1", "4.0.12-devel"
    let mut numbers = text.trim().split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let mut next = || numbers.next()?.ok();
    let major = next()?;
    let minor = next()?;
    Some(LxcVersion { major, minor, patch: next().unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_parsed() {
        for (text, expected) in [
            ("5.0.2\n", Some((5, 0, 2))),
            ("6.0.0~rc1", Some((6, 0, 0))),
            ("7.1", Some((7, 1, 0))),
            ("4.0.12-devel", Some((4, 0, 12))),
            ("lxc", None),
            ("", None),
        ] {
            let found = parse_version(text).map(|v| (v.major, v.minor, v.patch));
            assert_eq!(found, expected, "{text}");
        }
    }
}
