//! Loop devices (`man 4 loop`): a file as a block device.
//!
//! A device is attached by one `LOOP_CONFIGURE`, so that there is no moment in which a crash leaks it, and is freed
//! by the kernel with its last user (autoclear). A device is told by the file behind it, never by its number.
//! Partitions, offsets and encryption are left out.

#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use linux_raw_sys::loop_device::{
    LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO, LO_FLAGS_READ_ONLY, LOOP_CLR_FD, LOOP_CONFIGURE,
    LOOP_CTL_GET_FREE, LOOP_GET_STATUS64, LOOP_SET_CAPACITY, LOOP_SET_STATUS64, loop_config, loop_info64,
};
use rustix::io::Errno;
use tracing::debug;

use crate::error::{Error, Result};
use crate::sys::file::absent_is_none;
use crate::sys::{ioctl, wait};

/// The major number of loop devices (kernel `Documentation/admin-guide/devices.txt`).
const LOOP_MAJOR: u32 = 7;
/// How long to try for a free device while others take the ones we are told.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(5);

/// An attached loop device, held open: it stays at least as long as this value.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    device: File,
    number: u32,
}

impl LoopDevice {
    /// Attaches `backing`, which must be open for reading and writing. The device is freed with its last user.
    pub(crate) fn attach(backing: &File, shown: &Path) -> Result<Self> {
        Self::attach_with(backing, shown, LO_FLAGS_AUTOCLEAR as u32)
    }

    /// As [`LoopDevice::attach`], but the device stays until it is [detached](LoopDevice::detach).
    pub(crate) fn attach_to_stay(backing: &File, shown: &Path) -> Result<Self> {
        Self::attach_with(backing, shown, 0)
    }

    fn attach_with(backing: &File, shown: &Path, flags: u32) -> Result<Self> {
        let control = match OpenOptions::new().read(true).write(true).open("/dev/loop-control") {
            Ok(control) => control,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(no_loop_support()),
            Err(error) => return Err(Error::os("open", "/dev/loop-control", error)),
        };
        let mut taken = Errno::BUSY;
        let attached = wait::until(wait::deadline(ATTACH_TIMEOUT), || {
            match Self::try_attach(&control, backing, flags) {
                // Others were told the same free number and won, or the device is just being freed.
                Err(error @ (Errno::BUSY | Errno::AGAIN | Errno::NXIO | Errno::NOENT)) => {
                    taken = error;
                    Ok(None)
                }
                result => result.map(Some),
            }
        });
        let device = attached
            .and_then(|device| device.ok_or(taken))
            .map_err(|e| Error::os("LOOP_CONFIGURE", shown.display(), e))?;
        debug!(device = %device.path().display(), file = %shown.display(), "attached loop device");
        Ok(device)
    }

    fn try_attach(control: &File, backing: &File, flags: u32) -> rustix::io::Result<Self> {
        // SAFETY: the request takes no argument.
        let free = unsafe { ioctl::number(control, LOOP_CTL_GET_FREE.into(), 0) }?;
        let number = u32::try_from(free).map_err(|_| Errno::NODEV)?;
        let device = open_device(number).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        // SAFETY: the structure is plain integers and arrays of them, for which all-zero is a value.
        let mut config: loop_config = unsafe { std::mem::zeroed() };
        config.fd = u32::try_from(backing.as_raw_fd()).map_err(|_| Errno::BADF)?;
        // Direct I/O: without it every block is cached twice. The kernel drops the flag where the backing file
        // system cannot do it.
        config.info.lo_flags = flags | LO_FLAGS_DIRECT_IO as u32;
        // SAFETY: the request reads one `loop_config`.
        unsafe { ioctl::structure(&device, LOOP_CONFIGURE.into(), &mut config) }?;
        Ok(Self { device, number })
    }

    /// The device that `backing` is attached to already, by whomever.
    ///
    /// A device with an offset or a size limit is [`Error::Busy`], so is a read-only one: it shows something else.
    pub(crate) fn find(backing: &File, path: &Path) -> Result<Option<Self>> {
        let wanted = backing.metadata().map_err(|e| Error::os("fstat", path.display(), e))?;
        let Some(name) = path.file_name() else { return Ok(None) };
        for number in attached_numbers(name.as_bytes())? {
            // It may be freed at any moment until we hold it, even taken for another file: so look again.
            let Ok(device) = open_device(number) else { continue };
            let Some(info) = status(&device) else { continue };
            if (info.lo_device, info.lo_inode) != (kernel_device(wanted.dev()), wanted.ino()) {
                continue;
            }
            let busy = |reason: &str| Error::Busy {
                what: format!("file `{}`", path.display()),
                reason: format!("/dev/loop{number} shows it {reason}; detach it with `losetup -d`"),
            };
            if info.lo_offset != 0 || info.lo_sizelimit != 0 {
                return Err(busy("with an offset or a size limit"));
            }
            if info.lo_flags & LO_FLAGS_READ_ONLY as u32 != 0 {
                return Err(busy("read-only"));
            }
            return Ok(Some(Self { device, number }));
        }
        Ok(None)
    }

    /// The device with the number `device` as in `st_dev`, if it is a loop device that shows `backing`.
    pub(crate) fn showing(device: u64, backing: &fs::Metadata) -> Result<Option<Self>> {
        if rustix::fs::major(device) != LOOP_MAJOR {
            return Ok(None);
        }
        let number = rustix::fs::minor(device);
        let device = match absent_is_none(open_device(number)) {
            Ok(Some(device)) => device,
            Ok(None) => return Ok(None),
            Err(error) => return Err(Error::os("open", format_args!("/dev/loop{number}"), error)),
        };
        let Some(info) = status(&device) else { return Ok(None) };
        let same = (info.lo_device, info.lo_inode) == (kernel_device(backing.dev()), backing.ino());
        Ok(same.then_some(Self { device, number }))
    }

    /// `/dev/loopN`: valid as long as this value lives.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/dev/loop{}", self.number))
    }

    /// The device's number `N`, for [`wait_until_free`].
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Whether the kernel frees the device with its last user.
    pub(crate) fn clears_with_last_user(&self) -> bool {
        status(&self.device).is_none_or(|info| info.lo_flags & LO_FLAGS_AUTOCLEAR as u32 != 0)
    }

    /// Has the kernel free the device with its last user, if whoever attached it did not.
    pub(crate) fn clear_with_last_user(&self) -> Result<()> {
        let Some(mut info) = status(&self.device) else { return Ok(()) };
        if info.lo_flags & LO_FLAGS_AUTOCLEAR as u32 != 0 {
            return Ok(());
        }
        info.lo_flags |= LO_FLAGS_AUTOCLEAR as u32;
        // SAFETY: the request reads one `loop_info64`.
        unsafe { ioctl::structure(&self.device, LOOP_SET_STATUS64.into(), &mut info) }
            .map(drop)
            .map_err(|e| Error::os("LOOP_SET_STATUS64", self.path().display(), e))
    }

    /// Detaches it, now or with its last user.
    pub(crate) fn detach(&self) -> Result<()> {
        // SAFETY: the request takes no argument.
        unsafe { ioctl::number(&self.device, LOOP_CLR_FD.into(), 0) }
            .map(drop)
            .map_err(|e| Error::os("LOOP_CLR_FD", self.path().display(), e))
    }

    /// Takes over the new length of the backing file.
    pub(crate) fn update_capacity(&self) -> Result<()> {
        // SAFETY: the request takes no argument.
        unsafe { ioctl::number(&self.device, LOOP_SET_CAPACITY.into(), 0) }
            .map(drop)
            .map_err(|e| Error::os("LOOP_SET_CAPACITY", self.path().display(), e))
    }
}

/// The number of `/dev/loopN`, as in `st_dev`.
pub(crate) fn device_number(number: u32) -> u64 {
    rustix::fs::makedev(LOOP_MAJOR, number)
}

/// `N` of `/dev/loopN`, if `device`, a number as in `st_dev`, is a loop device.
pub(crate) fn number_of(device: u64) -> Option<u32> {
    (rustix::fs::major(device) == LOOP_MAJOR).then(|| rustix::fs::minor(device))
}

/// The file behind the loop device `path`, `/dev/loopN`. `None` if it is no loop device, or has none.
pub(crate) fn backing_of(path: &Path) -> Result<Option<PathBuf>> {
    let number = path.to_str().and_then(|path| path.strip_prefix("/dev/loop")?.parse().ok());
    number.map_or(Ok(None), backing_file)
}

/// Whether `device`, a number as in `st_dev`, is a loop device that shows a file named as `path` is, even one that
/// was deleted.
pub(crate) fn shows_name(device: u64, path: &Path) -> Result<bool> {
    match path.file_name() {
        Some(name) if rustix::fs::major(device) == LOOP_MAJOR => {
            shows(rustix::fs::minor(device), name.as_bytes())
        }
        _ => Ok(false),
    }
}

/// Waits until device `number` no longer shows a file named as `path` is. False if it still does after `timeout`.
pub(crate) fn wait_until_free(number: u32, path: &Path, timeout: Duration) -> Result<bool> {
    let Some(name) = path.file_name() else { return Ok(true) };
    wait::until_true(wait::deadline(timeout), || Ok(!shows(number, name.as_bytes())?))
}

/// The numbers of the devices whose backing file has this name, in any directory.
fn attached_numbers(name: &[u8]) -> Result<Vec<u32>> {
    let mut attached = numbers()?;
    let mut failure = Ok(());
    attached.retain(|number| {
        shows(*number, name).unwrap_or_else(|error| {
            failure = Err(error);
            false
        })
    });
    failure.map(|()| attached)
}

/// The numbers of all loop devices, attached or not.
fn numbers() -> Result<Vec<u32>> {
    let shown = "/sys/block";
    let mut numbers = Vec::new();
    for entry in fs::read_dir(shown).map_err(|e| Error::os("getdents", shown, e))? {
        let entry = entry.map_err(|e| Error::os("getdents", shown, e))?.file_name();
        numbers
            .extend(entry.to_str().and_then(|n| n.strip_prefix("loop")).and_then(|n| n.parse::<u32>().ok()));
    }
    Ok(numbers)
}

/// The devices whose backing file lies beneath `dir`, with the file's name as the kernel shows it.
pub(crate) fn attached_beneath(dir: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let mut found = Vec::new();
    for number in numbers()? {
        if let Some(file) = backing_file(number)?
            && file.starts_with(dir)
        {
            found.push((number, file));
        }
    }
    Ok(found)
}

fn shows(number: u32, name: &[u8]) -> Result<bool> {
    Ok(backing_file(number)?.is_some_and(|file| file.file_name().is_some_and(|n| n.as_bytes() == name)))
}

/// The backing file of device `number`, without the kernel's remark that it was deleted. `None` if it has none.
fn backing_file(number: u32) -> Result<Option<PathBuf>> {
    // Not through the links in /sys/block: this takes half the time, and a host has many devices.
    let path = format!("/sys/devices/virtual/block/loop{number}/loop/backing_file");
    let mut buffer = [0; 4096];
    match File::open(&path).and_then(|mut file| file.read(&mut buffer)) {
        Ok(length) => {
            let file = buffer[..length].strip_suffix(b"\n").unwrap_or(&buffer[..length]);
            let file = file.strip_suffix(b" (deleted)").unwrap_or(file);
            Ok(Some(PathBuf::from(OsStr::from_bytes(file))))
        }
        // Not attached, or detached while we read it.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENXIO)) => {
            Ok(None)
        }
        Err(error) => Err(Error::os("read", path, error)),
    }
}

fn open_device(number: u32) -> io::Result<File> {
    let path = format!("/dev/loop{number}");
    let device = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let metadata = device.metadata()?;
    let is_loop = metadata.file_type().is_block_device() && rustix::fs::major(metadata.rdev()) == LOOP_MAJOR;
    if is_loop { Ok(device) } else { Err(Errno::NODEV.into()) }
}

fn status(device: &File) -> Option<loop_info64> {
    // SAFETY: the structure is plain integers and arrays of them, for which all-zero is a value.
    let mut info: loop_info64 = unsafe { std::mem::zeroed() };
    // SAFETY: the request fills one `loop_info64`, whose every value is valid.
    unsafe { ioctl::structure(device, LOOP_GET_STATUS64.into(), &mut info) }.ok()?;
    Some(info)
}

/// A device number in the kernel's own encoding (`new_encode_dev`), as `lo_device` has it.
fn kernel_device(device: u64) -> u64 {
    let (major, minor) = (u64::from(rustix::fs::major(device)), u64::from(rustix::fs::minor(device)));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

fn no_loop_support() -> Error {
    Error::Unsupported {
        what: "a loop-file volume".to_owned(),
        needs: "it takes loop devices (/dev/loop-control): run `modprobe loop`, and put `loop` into \
                /etc/modules-load.d/docklet.conf to have it after a reboot"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_encoded_as_the_kernel_does() {
        assert_eq!(kernel_device(rustix::fs::makedev(7, 3)), 0x703);
        assert_eq!(kernel_device(rustix::fs::makedev(259, 300)), 0x0011_032c | (259 << 8) & 0xf_ff00);
    }
}
