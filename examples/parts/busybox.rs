//! A small image made of the host's own static busybox: all its commands, its init, and an empty `/etc`.

use std::path::Path;
use std::process::Command;

use docklet::name::ImageName;
use docklet::storage::{Image, ImageStore};
use docklet::{Error, Result};

/// Where Debian's package busybox-static puts it.
const BUSYBOX: &str = "/bin/busybox";

/// Opens the image `name`, or builds it.
pub(crate) fn ensure(images: &ImageStore, name: &ImageName) -> Result<Image> {
    images.ensure(name, |root| {
        let commands = commands()?;
        for dir in ["bin", "dev", "etc", "mnt", "proc", "root", "run", "sbin", "srv", "sys", "usr", "var"] {
            root.directory(Path::new(dir), 0o755)?;
        }
        root.directory(Path::new("tmp"), 0o1777)?;
        root.copy_file(Path::new(BUSYBOX), Path::new("bin/busybox"), 0o755)?;
        for command in &commands {
            root.symlink(Path::new("bin").join(command), "busybox")?;
        }
        root.symlink(Path::new("sbin/init"), Path::new("../bin/busybox"))?;
        // Without any line init would ask for a console; this one starts nothing.
        root.write_file(Path::new("etc/inittab"), b"::sysinit:/bin/true\n", 0o644)?;
        root.write_file(Path::new("etc/passwd"), b"root:x:0:0:root:/root:/bin/sh\n", 0o644)?;
        root.write_file(Path::new("etc/group"), b"root:x:0:\n", 0o644)
    })
}

fn commands() -> Result<Vec<String>> {
    let missing = |reason: String| Error::Unsupported {
        what: "building the busybox image".to_owned(),
        needs: format!("install the package busybox-static ({BUSYBOX}: {reason})"),
    };
    let output = Command::new(BUSYBOX).arg("--list").output().map_err(|e| missing(e.to_string()))?;
    if !output.status.success() {
        return Err(missing(output.status.to_string()));
    }
    let list = String::from_utf8_lossy(&output.stdout);
    Ok(list.lines().filter(|command| *command != "busybox").map(str::to_owned).collect())
}
