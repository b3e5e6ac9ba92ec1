//! Being told of changes in directories and of files (`man 7 inotify`).

#![allow(unsafe_code)]

use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};

/// A set of watched directories and files.
#[derive(Debug)]
pub(crate) struct Watches(AsyncFd<OwnedFd>);

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// In the directory of this number the entry of this name was put or removed; or the file of this number was written.
    Changed(i32, Option<OsString>),
    /// What had this number is gone, and is not watched any more.
    Gone(i32),
    /// More has happened than the kernel keeps: anything may have.
    Lost,
}

impl Watches {
    /// Without any. Call it in a tokio runtime.
    pub(crate) fn new() -> Result<Self> {
        let fd = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|e| Error::os("inotify_init1", "a watch", e))?;
        // SAFETY: the descriptor is owned, so it stays open and the same until the registration is dropped with it.
        let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        registered.map(Self).map_err(|e| Error::os("epoll_ctl", "a watch", std::io::Error::from(e)))
    }

    /// Watches the entries of a directory: files that are moved there, and that go. Returns its number; that of one that is
    /// watched already is the same. `None` if there is none.
    pub(crate) fn directory(&self, path: &Path) -> Result<Option<i32>> {
        self.add(
            path,
            WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::DELETE | WatchFlags::ONLYDIR,
        )
    }

    /// Watches the content of a file, as a directory.
    pub(crate) fn file(&self, path: &Path) -> Result<Option<i32>> {
        self.add(path, WatchFlags::MODIFY)
    }

    fn add(&self, path: &Path, flags: WatchFlags) -> Result<Option<i32>> {
        match add_watch(self.0.get_ref(), path, flags) {
            Ok(number) => Ok(Some(number)),
            Err(Errno::NOENT | Errno::NODEV) => Ok(None),
            Err(Errno::NOSPC) => Err(Error::Unsupported {
                what: format!("watching {}", path.display()),
                needs: "raise the sysctl fs.inotify.max_user_watches".to_owned(),
            }),
            Err(error) => Err(Error::os("inotify_add_watch", path.display(), error)),
        }
    }

    /// Waits for events. Dropped half-way it has taken none.
    pub(crate) async fn next(&self) -> Result<Vec<Event>> {
        loop {
            let mut ready = self.0.readable().await.map_err(|e| Error::os("epoll_wait", "a watch", e))?;
            let events = self.take()?;
            if !events.is_empty() {
                return Ok(events);
            }
            ready.clear_ready();
        }
    }

    /// The events that are there.
    fn take(&self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(self.0.get_ref(), &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return Ok(events),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(Error::os("read", "a watch", error)),
            };
            let name = event.file_name().map(|name| OsString::from_vec(name.to_bytes().to_vec()));
            events.push(match event.events() {
                flags if flags.contains(ReadFlags::QUEUE_OVERFLOW) => Event::Lost,
                flags if flags.contains(ReadFlags::IGNORED) => Event::Gone(event.wd()),
                _ => Event::Changed(event.wd(), name),
            });
        }
    }
}
