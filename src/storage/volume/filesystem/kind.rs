//! What differs between file systems, and running their programs (`man 8 mkfs`).

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::storage::volume::filesystem::superblock::Finding;
use crate::sys::tool::{self, Limit};

/// How long `mkfs` may take, for a sparse file. What a killed one leaves has no name, and so goes with its descriptor.
const MKFS_LIMIT: Limit = Limit::Kill(Duration::from_secs(600));

/// One kind of file system, on a regular file or a block device.
pub(crate) trait Kind: Sync {
    /// The smallest that can be made, in bytes, with the reason beside it in words.
    fn size_min(&self) -> (u64, &'static str);

    /// Makes an empty one in `file`, all of it, whatever is there.
    fn format(&self, file: &File) -> Result<()>;

    /// Whether `file` holds one. Changes nothing.
    fn find(&self, file: &File) -> std::io::Result<Finding>;

    /// Gives `copy`, of a template, what it must not have in common with other copies. Most mind nothing.
    fn make_unique(&self, _copy: &File, _shown: &Path) -> Result<()> {
        Ok(())
    }

    /// What of an empty one in `template` must read as it does there, holes too, for a copy on a device that held other
    /// data: in bytes, whole blocks. What a file system writes before it reads it is left out.
    fn relies_on(&self, _template: &File) -> std::io::Result<Vec<Range<u64>>> {
        Ok(Vec::new())
    }

    /// How it is mounted: an option's name, and its value if it takes one.
    fn mount_options(&self) -> &'static [(&'static str, Option<&'static str>)];

    /// What to do instead where this process may not grow a mounted one.
    fn grows_unmounted_only(&self) -> Option<GrowUnmounted> {
        None
    }

    /// Grows the mounted one that `inside` is in. Its device must have that size already. Nothing happens if it is that
    /// large.
    fn grow_mounted(&self, inside: &File, size_bytes: u64, shown: &Path) -> Result<()>;

    /// The command that mends one, for messages.
    fn mender(&self) -> &'static str;
}

/// Growing by programs, without the kernel.
pub(crate) struct GrowUnmounted {
    /// The capability that growing while it is mounted takes.
    pub(crate) lacking: &'static str,
    /// Checks the one on a device that is not mounted; [`Error::Damaged`] about what is given second.
    pub(crate) check: fn(&Path, &str) -> Result<()>,
    /// Grows it to all of the device.
    pub(crate) grow: fn(&Path) -> Result<()>,
}

/// Runs `program`, of Debian's `package`, with `options` on a file that need not have a name.
pub(crate) fn run_mkfs(program: &str, package: &str, options: &[&str], file: &File) -> Result<Output> {
    let mut command = tool::command(program).ok_or_else(|| Error::Unsupported {
        what: "formatting a volume".to_owned(),
        needs: format!("the program `{program}` is missing: install the package {package}"),
    })?;
    // Handed over as standard input, since an argument must be a name.
    let input = file.try_clone().map_err(|e| Error::os("dup", "template", e))?;
    tool::output(command.args(options).arg("/proc/self/fd/0").stdin(Stdio::from(input)), MKFS_LIMIT)
}

/// An error if `program` failed.
pub(crate) fn succeeded(program: &str, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        program: program.to_owned(),
        status: output.status.to_string(),
        stderr: tool::said(&[&output.stderr[..], &output.stdout].concat()),
    })
}
