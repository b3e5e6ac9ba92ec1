//! What a launch takes at the least beside LXC's own part: the system calls that make the same objects, as durable, one after
//! another (`man 2 open` on `O_TMPFILE`, `man 4 loop`, `man 2 mount`, `man 7 network_namespaces`). Nothing is looked for, nothing
//! checked, and nothing could be taken back.
#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use docklet::net::NetworkNamespace;
use linux_raw_sys::loop_device::{
    LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO, LOOP_CONFIGURE, LOOP_CTL_GET_FREE, loop_config,
};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{AtFlags, CWD, SeekFrom, copy_file_range, ftruncate, linkat, seek};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

use crate::messages::Messages;

/// As long as a manifest is.
const RECORD: &[u8] = &[b' '; 1800];

pub(crate) struct Raw {
    directory: PathBuf,
    /// A formatted volume.
    template: PathBuf,
    layer: PathBuf,
    messages: Messages,
    /// Above the groups of containers, in one hierarchy.
    group: PathBuf,
}

impl Raw {
    pub(crate) fn new(
        directory: &Path,
        template: &Path,
        layer: &Path,
        messages: Messages,
        group: &Path,
    ) -> Self {
        for part in ["files", "records", "container"] {
            fs::create_dir_all(directory.join(part)).expect("directory");
        }
        fs::create_dir_all(group).expect("control group");
        Self {
            directory: directory.to_owned(),
            template: template.to_owned(),
            layer: layer.to_owned(),
            messages,
            group: group.to_owned(),
        }
    }

    /// Makes it all, tells what that took, and removes it again.
    pub(crate) fn make(&self, turn: usize) -> Duration {
        let started = Instant::now();
        self.record();
        let container = self.directory.join("container");
        let (volume, root) = (container.join("volume"), container.join("root"));
        for directory in [&volume, &root] {
            fs::create_dir(directory).expect("mkdir");
        }
        let file = self.file();
        let device = attach(&file);
        mount(&device.1, &volume, "ext4", MountFlags::NOATIME, None).expect("mount");
        drop(device);
        let (upper, work) = (volume.join("upper"), volume.join("work"));
        for directory in [&upper, &work] {
            fs::create_dir(directory).expect("mkdir");
        }
        let show = |path: &Path| path.display().to_string();
        let options =
            format!("lowerdir={},upperdir={},workdir={}", show(&self.layer), show(&upper), show(&work));
        let options = std::ffi::CString::new(options).expect("options");
        mount("overlay", &root, "overlay", MountFlags::empty(), Some(options.as_c_str())).expect("mount");
        let pin = container.join("netns");
        pin_namespace(&pin);
        let namespace = NetworkNamespace::open(&pin).expect("namespace");
        self.messages.create(&namespace, turn);
        for name in ["hosts", "resolv.conf"] {
            fs::write(container.join(name), [b' '; 384]).expect("write");
        }
        fs::create_dir(self.group.join("start")).expect("control group");
        self.record();
        let taken = started.elapsed();

        fs::remove_dir(self.group.join("start")).expect("control group");
        self.messages.remove(turn);
        drop(namespace);
        for place in [&pin, &root, &volume] {
            unmount(place, UnmountFlags::empty()).expect("umount");
        }
        drop(file);
        for file in
            [pin, container.join("hosts"), container.join("resolv.conf"), self.directory.join("files/raw")]
        {
            fs::remove_file(file).expect("unlink");
        }
        for directory in [root, volume] {
            fs::remove_dir(directory).expect("rmdir");
        }
        taken
    }

    pub(crate) fn end(&self) {
        fs::remove_dir(&self.group).expect("control group");
    }

    /// A file that is replaced, on the disk.
    fn record(&self) {
        let records = self.directory.join("records");
        let new = records.join("raw.new");
        let mut file = File::create(&new).expect("open");
        file.write_all(RECORD).expect("write");
        file.sync_data().expect("fdatasync");
        fs::rename(new, records.join("raw")).expect("rename");
        File::open(records).expect("open").sync_all().expect("fsync");
    }

    /// A copy of the template, on the disk.
    fn file(&self) -> File {
        let from = File::open(&self.template).expect("template");
        let files = self.directory.join("files");
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE);
        let to = options.open(&files).expect("O_TMPFILE");
        ftruncate(&to, seek(&from, SeekFrom::End(0)).expect("lseek")).expect("ftruncate");
        let mut position = 0;
        while let Ok(start) = seek(&from, SeekFrom::Data(position)) {
            let end = seek(&from, SeekFrom::Hole(start)).expect("lseek");
            let (mut read_at, mut write_at) = (start, start);
            while read_at < end {
                let length = usize::try_from(end - read_at).expect("length");
                copy_file_range(&from, Some(&mut read_at), &to, Some(&mut write_at), length).expect("copy");
            }
            position = end;
        }
        to.sync_all().expect("fsync");
        let own = format!("/proc/self/fd/{}", to.as_raw_fd());
        linkat(CWD, own, CWD, files.join("raw"), AtFlags::SYMLINK_FOLLOW).expect("linkat");
        File::open(files).expect("open").sync_all().expect("fsync");
        to
    }
}

/// A loop device, open, and its path.
fn attach(file: &File) -> (File, String) {
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control").expect("loop-control");
    loop {
        // SAFETY: the request takes no argument.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), u64::from(LOOP_CTL_GET_FREE)) };
        let path = format!("/dev/loop{number}");
        let device = OpenOptions::new().read(true).write(true).open(&path).expect("loop device");
        // SAFETY: the structure is plain integers and arrays of them, for which all-zero is a value.
        let mut config: loop_config = unsafe { std::mem::zeroed() };
        config.fd = file.as_raw_fd().unsigned_abs();
        config.info.lo_flags = LO_FLAGS_AUTOCLEAR as u32 | LO_FLAGS_DIRECT_IO as u32;
        // SAFETY: the request reads one `loop_config`.
        if unsafe { libc::ioctl(device.as_raw_fd(), u64::from(LOOP_CONFIGURE), &raw const config) } == 0 {
            return (device, path);
        }
        // Somebody else was faster.
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EBUSY));
    }
}

fn pin_namespace(pin: &Path) {
    File::create(pin).expect("pin");
    thread::scope(|scope| {
        let made = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
            mount_bind("/proc/thread-self/ns/net", pin).expect("bind");
        });
        made.join().expect("thread");
    });
}
