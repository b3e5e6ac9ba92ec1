//! Whose input and output is limited (`Documentation/admin-guide/cgroup-v2.rst`, IO).

use std::fmt;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A block device by its path, or the one beneath a container's own volume. As text, and in JSON: `/dev/vdb`, or `volume`.
///
/// The kernel limits devices by their numbers, which are others after a reboot: they are looked up at each start and at each change.
///
/// ```
/// use docklet::cgroup::IoDevice;
/// assert_eq!("volume".parse::<IoDevice>()?, IoDevice::Volume);
/// assert_eq!("/dev/vdb".parse::<IoDevice>()?.to_string(), "/dev/vdb");
/// assert!("vdb".parse::<IoDevice>().is_err());
/// # Ok::<(), docklet::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum IoDevice {
    /// The device of the volume that takes what a container writes to its root: a loop device, or a logical volume. Only a
    /// [`Host`](crate::host::Host) knows it.
    Volume,
    /// The device at this absolute path: a whole disk, a loop device, a logical volume; not a partition.
    Path(PathBuf),
}

impl IoDevice {
    /// Its number, as the kernel's files have it: `7:3`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such device; [`Error::Invalid`] if it is no block device, a partition, or a volume that nobody
    /// has looked up.
    pub(super) fn number(&self) -> Result<String> {
        let Self::Path(path) = self else {
            return Err(Error::invalid(
                "io device",
                "volume",
                "only a container of a host has a volume: name a device by its path",
            ));
        };
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NotFound { what: format!("block device {}", path.display()) });
            }
            Err(error) => return Err(Error::os("stat", path.display(), error)),
        };
        let refused = |rule| Err(Error::invalid("io device", path.display().to_string(), rule));
        if !found.file_type().is_block_device() {
            return refused("is not a block device");
        }
        let number = format!("{}:{}", rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
        if Path::new("/sys/dev/block").join(&number).join("partition").exists() {
            return refused("is a partition: the kernel limits whole disks, so name that");
        }
        Ok(number)
    }
}

impl FromStr for IoDevice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "volume" => Ok(Self::Volume),
            path if path.starts_with('/') && !path.contains('\0') => Ok(Self::Path(path.into())),
            _ => Err(Error::invalid(
                "io device",
                text,
                "must be `volume`, or the absolute path of a block device",
            )),
        }
    }
}

impl fmt::Display for IoDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume => f.write_str("volume"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

impl TryFrom<String> for IoDevice {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<IoDevice> for String {
    fn from(device: IoDevice) -> Self {
        device.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_device_is_said() {
        for (path, rule) in [
            ("/dev/null", "is not a block device"),
            ("/", "is not a block device"),
            ("/no/such", "does not exist"),
        ] {
            let message = path.parse::<IoDevice>().unwrap().number().unwrap_err().to_string();
            assert!(message.contains(rule), "{message}");
        }
        assert!(IoDevice::Volume.number().unwrap_err().to_string().contains("name a device by its path"));
    }
}
