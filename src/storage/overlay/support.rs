//! Whether this kernel has overlayfs, and loading it.

use std::path::Path;

use crate::error::{Error, Result};
use crate::sys::file;
use crate::sys::tool::{self, Limit};

/// How `modprobe overlay` went.
#[derive(Debug)]
pub(crate) enum Modprobe {
    /// There is no such program.
    Missing,
    /// It ended; what it said if it failed.
    Ended(Result<(), String>),
}

/// Makes sure that the kernel has overlayfs: loads the module if it is missing.
///
/// # Errors
/// [`Error::Unsupported`] with the module's name and how to have it after a reboot.
pub(crate) fn load() -> Result<()> {
    let filesystems = Path::new("/proc/filesystems");
    if lists_overlay(&file::read(filesystems)?) {
        return Ok(());
    }
    let modprobe = modprobe()?;
    decide(&modprobe, &file::read(filesystems)?)
}

fn modprobe() -> Result<Modprobe> {
    let Some(mut command) = tool::command("modprobe") else { return Ok(Modprobe::Missing) };
    let output = tool::output(command.arg("overlay"), Limit::QUICK)?;
    Ok(Modprobe::Ended(if output.status.success() { Ok(()) } else { Err(tool::said(&output.stderr)) }))
}

/// What follows from how `modprobe` went and what `/proc/filesystems` says afterwards.
fn decide(modprobe: &Modprobe, filesystems: &str) -> Result<()> {
    if lists_overlay(filesystems) {
        return Ok(());
    }
    let reason = match modprobe {
        Modprobe::Missing => "`modprobe` is not installed (package kmod)".to_owned(),
        Modprobe::Ended(Ok(())) => "`modprobe overlay` succeeded without effect".to_owned(),
        Modprobe::Ended(Err(said)) => format!("`modprobe overlay` failed: {said}"),
    };
    Err(Error::Unsupported {
        what: "an overlay root".to_owned(),
        needs: format!(
            "it takes the kernel module `overlay` (CONFIG_OVERLAY_FS); {reason}. Once it loads, put the line `overlay` into \
             /etc/modules-load.d/docklet.conf to have it after a reboot"
        ),
    })
}

fn lists_overlay(filesystems: &str) -> bool {
    filesystems.lines().any(|line| line.split_whitespace().last() == Some("overlay"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITH: &str = "nodev\tsysfs\nnodev\toverlay\n\text4\n";
    const WITHOUT: &str = "nodev\tsysfs\nnodev\toverlayish\n\text4\n";

    #[test]
    fn overlay_is_told_from_the_list() {
        assert!(lists_overlay(WITH));
        assert!(!lists_overlay(WITHOUT));
        assert!(!lists_overlay(""));
    }

    #[test]
    fn what_the_kernel_says_counts() {
        for modprobe in [Modprobe::Missing, Modprobe::Ended(Ok(())), Modprobe::Ended(Err("x".into()))] {
            decide(&modprobe, WITH).unwrap();
        }
    }

    #[test]
    fn the_remedy_is_named() {
        for (modprobe, reason) in [
            (Modprobe::Missing, "package kmod"),
            (Modprobe::Ended(Ok(())), "without effect"),
            (
                Modprobe::Ended(Err("FATAL: Module overlay not found".into())),
                "FATAL: Module overlay not found",
            ),
        ] {
            let message = decide(&modprobe, WITHOUT).unwrap_err().to_string();
            assert!(message.contains(reason), "{message}");
            assert!(message.contains("module `overlay`"), "{message}");
            assert!(message.contains("/etc/modules-load.d/docklet.conf"), "{message}");
        }
    }
}
