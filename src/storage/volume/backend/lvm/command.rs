//! Running `lvm` (`man 8 lvm`), and reading why it refused.
//!
//! A command takes 20 to 50 milliseconds and goes on when this process is killed: it ends whole or not at all. Until then
//! it has a part of its volume's lock.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tracing::debug_span;

use crate::error::{Error, Result};
use crate::sys::file;
use crate::sys::tool::{self, Limit};

/// How long a command may take: its locks can be another's, and its disks slow, but who waits is told in the end.
const TIMEOUT: Duration = Duration::from_secs(300);
/// The same of one that waits until a volume is what its snapshot was: all that has changed is copied back.
pub(super) const MERGE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Runs one command of `lvm`, without a shell and without a person to ask. Returns what it printed.
/// [`Error::Busy`] if it hangs.
pub(super) fn run<S: AsRef<OsStr>>(arguments: &[S]) -> Result<String> {
    run_with(arguments, Stdio::null())
}

/// The same with something as its standard input, which it does not read.
pub(super) fn run_with<S: AsRef<OsStr>>(arguments: &[S], input: Stdio) -> Result<String> {
    let verb =
        arguments.first().map_or_else(String::new, |verb| verb.as_ref().to_string_lossy().into_owned());
    let _entered = debug_span!("lvm", verb).entered();
    let mut command = tool::command("lvm").ok_or_else(|| Error::Unsupported {
        what: "a logical volume".to_owned(),
        needs: "the program `lvm` is missing: install the package lvm2".to_owned(),
    })?;
    command.args(arguments).stdin(input).env("LVM_SUPPRESS_FD_WARNINGS", "1");
    if !Path::new("/run/udev/control").exists() {
        // It would wait for a daemon that is not there to make the device's node.
        command.env("DM_DISABLE_UDEV", "1");
    }
    let timeout = if verb == "lvconvert" { MERGE_TIMEOUT } else { TIMEOUT };
    let output = tool::output(&mut command, Limit::Ask(timeout))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Command {
        program: format!("lvm {verb}"),
        status: output.status.to_string(),
        stderr: tool::said(&output.stderr),
    })
}

/// Makes sure that the kernel has the device mapper: loads the module if it is missing.
pub(super) fn require_device_mapper() -> Result<()> {
    let misc = Path::new("/proc/misc");
    if lists_device_mapper(&file::read(misc)?) {
        return Ok(());
    }
    if let Some(mut modprobe) = tool::command("modprobe") {
        tool::output(modprobe.arg("dm_mod"), Limit::QUICK)?;
        if lists_device_mapper(&file::read(misc)?) {
            return Ok(());
        }
    }
    Err(Error::Unsupported {
        what: "a logical volume".to_owned(),
        needs: "it takes the kernel's device mapper (CONFIG_BLK_DEV_DM): run `modprobe dm_mod`".to_owned(),
    })
}

fn lists_device_mapper(misc: &str) -> bool {
    misc.lines().any(|line| line.split_whitespace().last() == Some("device-mapper"))
}

/// Whether a command failed because the group, or the thin pool in it, is full.
pub(super) fn is_full(error: &Error) -> bool {
    const SAID: [&str; 5] = [
        "insufficient free space",
        "insufficient suitable",
        "Insufficient free space",
        "Free space in pool",
        "free space in metadata",
    ];
    matches!(error, Error::Command { stderr, .. } if SAID.iter().any(|said| stderr.contains(said)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_mapper_is_a_device_of_its_own() {
        assert!(lists_device_mapper("236 device-mapper\n237 loop-control\n"));
        assert!(!lists_device_mapper("237 loop-control\n"));
    }

    #[test]
    fn full_groups_are_told_from_other_failures() {
        let error = |stderr: &str| Error::Command {
            program: "lvm lvcreate".to_owned(),
            status: "exit status: 5".to_owned(),
            stderr: stderr.to_owned(),
        };
        assert!(is_full(&error(
            "Volume group \"vg0\" has insufficient free space (109 extents): 512 required."
        )));
        assert!(is_full(&error("Insufficient free space: 8 extents needed, but only 0 available")));
        assert!(is_full(&error(
            "Free space in pool vg0/pool is above threshold, new volumes are not allowed."
        )));
        assert!(!is_full(&error("Volume group \"vg0\" not found")));
        assert!(!is_full(&Error::NotFound { what: "insufficient free space".to_owned() }));
    }
}
