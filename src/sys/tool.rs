//! The host's own programs that do a part of the work: `mkfs.ext4`, `resize2fs`, `modprobe`, `nft`, and where LXC's are.
//!
//! Run by the standard library, with the caller's environment and English messages. What runs during a launch is
//! [`Program`](crate::sys::process::Program)'s.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::error::{Error, Result};

/// Searched after the absolute directories of `PATH`: a daemon's often lacks the system's own.
const DIRECTORIES: [&str; 6] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin", "/opt/lxc/bin"];

/// Where `program` is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .chain(DIRECTORIES.map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// `program`, to be run; `None` if it is not installed.
pub(crate) fn command(program: &str) -> Option<Command> {
    let mut command = Command::new(find(program)?);
    command.env("LC_ALL", "C");
    Some(command)
}

/// Runs `command` and takes what it prints.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    command.output().map_err(|e| Error::os("execve", command.get_program().display(), e))
}

/// What a program printed, in one line.
pub(crate) fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_and_heard() {
        assert_eq!(find("no-such-program"), None);
        let mut sh = command("sh").unwrap();
        let output = output(sh.args(["-c", "echo a; echo b; echo $LC_ALL >&2"])).unwrap();
        assert_eq!((said(&output.stdout).as_str(), said(&output.stderr).as_str()), ("a; b", "C"));
    }
}
