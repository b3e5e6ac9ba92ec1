//! Raw frames (`man 7 packet`): sent and received by tests, byte for byte.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// A socket for all frames of one link, in the network namespace of the thread that opened it.
pub(crate) struct PacketSocket(File);

impl PacketSocket {
    pub(crate) fn open(link: &str) -> Self {
        let protocol = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers are passed.
        let socket = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(protocol)) };
        assert!(socket >= 0, "{}", io::Error::last_os_error());
        // SAFETY: the descriptor is new and nobody else's.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(socket) });
        let name = std::ffi::CString::new(link).unwrap();
        // SAFETY: all-zero bytes are a valid `sockaddr_ll`, which is plain data.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
        address.sll_protocol = protocol;
        // SAFETY: the name ends in zero.
        address.sll_ifindex = i32::try_from(unsafe { libc::if_nametoindex(name.as_ptr()) }).unwrap();
        assert_ne!(address.sll_ifindex, 0, "no link {link}");
        let size = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
        // SAFETY: the address is a whole `sockaddr_ll` of `size` bytes.
        let bound = unsafe { libc::bind(socket, (&raw const address).cast(), size) };
        assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        Self(file)
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        assert_eq!((&self.0).write(frame).unwrap(), frame.len());
    }

    /// All frames that arrive until there is one that ends in `last`.
    pub(crate) fn receive_until(&self, last: &[u8]) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut frames = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            match (&self.0).read(&mut buffer) {
                Ok(length) => frames.push(buffer[..length].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    assert!(Instant::now() < deadline, "it never arrived; {} others did", frames.len());
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                // The link went down for a moment.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => continue,
                Err(error) => panic!("{error}"),
            }
            if frames.last().is_some_and(|frame| frame.ends_with(last)) {
                return frames;
            }
        }
    }
}
