//! Sockets (`man 7 socket`): how much of what was sent to one may wait in it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::error::{Error, Result};

/// Lets `bytes` wait in `socket` before the kernel drops what comes, if that is more than before (`SO_RCVBUFFORCE`).
///
/// Who is not privileged on the whole host keeps the size that the host gives to all.
///
/// # Errors
/// [`Error::Os`] if it is no socket.
pub(crate) fn enlarge_receive_buffer(socket: &impl AsFd, bytes: u32) -> Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&bytes)).unwrap_or_default();
    // SAFETY: the descriptor is borrowed, and the value is `length` bytes long.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const bytes).cast(),
            length,
        )
    };
    let error = io::Error::last_os_error();
    if result == 0 || error.raw_os_error() == Some(libc::EPERM) {
        return Ok(());
    }
    Err(Error::os("setsockopt", "SO_RCVBUFFORCE", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_have_a_buffer() {
        let (socket, _) = std::os::unix::net::UnixDatagram::pair().unwrap();
        enlarge_receive_buffer(&socket, 4 << 20).unwrap();
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        assert_eq!(enlarge_receive_buffer(&file, 4 << 20).unwrap_err().errno(), Some(libc::ENOTSOCK));
    }
}
