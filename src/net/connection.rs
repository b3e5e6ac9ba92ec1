//! One netlink socket, and what the kernel answers on it (`man 7 netlink`).
//!
//! The kernel carries a message out while it is sent: its answers wait in the socket when the call returns, and the rest
//! of a list is made while what is there of it is read. So there is nothing to wait for but in the calls themselves, and
//! neither a task nor a poll between the question and the answer.

use std::io;
use std::time::Duration;

use rtnetlink::packet_core::{NetlinkBuffer, NetlinkMessage};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{Socket, protocols::NETLINK_ROUTE};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};

use crate::error::{Error, Result};

/// Room for the answers to one system call of the longest kind: the program of a port's guard, of 32 KiB, takes 64 KiB
/// and some more.
const ANSWERS_BYTES: usize = 4 << 20;
/// More than the kernel puts into one message: 32 KiB of a list.
const MESSAGE_BYTES: usize = 256 << 10;
/// No answer ever takes as long: there is something wrong with the kernel then, and that is better told than waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// `linux/netlink.h`: what ends the answers to a message, and to a question for a list.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// A socket, used by one at a time.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    /// The number of the next message. Answers bear that of the message they are to.
    next: u32,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

/// A part of an answer.
pub(super) type Answer = NetlinkMessage<RouteNetlinkMessage>;

impl Connection {
    /// In the network namespace of the calling thread, for ever.
    pub(super) fn open() -> Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE).map_err(|e| Error::os("socket", "NETLINK_ROUTE", e))?;
        // Without this the kernel ignores the index in a request for addresses, and sends those of all links.
        socket
            .set_netlink_get_strict_chk(true)
            .map_err(|e| Error::os("setsockopt", "NETLINK_GET_STRICT_CHK", e))?;
        // An error would have the request in it, of whatever length.
        socket.set_cap_ack(true).map_err(|e| Error::os("setsockopt", "NETLINK_CAP_ACK", e))?;
        match set_socket_recv_buffer_size_force(&socket, ANSWERS_BYTES) {
            // Who is not privileged on the whole host keeps the size that the host gives to all.
            Ok(()) | Err(Errno::PERM) => {}
            Err(error) => return Err(Error::os("setsockopt", "SO_RCVBUFFORCE", error)),
        }
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))
            .map_err(|e| Error::os("setsockopt", "SO_RCVTIMEO", e))?;
        Ok(Self { socket, next: 1, outgoing: Vec::new(), incoming: Vec::with_capacity(MESSAGE_BYTES) })
    }

    /// Sends `messages` in one system call, and hands over all that the kernel answers to each until it has ended all: which
    /// message it is to, by its place, and the answer, or `None` for one that cannot be read.
    pub(super) fn talk(
        &mut self,
        messages: &mut [Answer],
        mut told: impl FnMut(usize, Option<Answer>),
    ) -> io::Result<()> {
        let first = self.next;
        self.outgoing.clear();
        for message in &mut *messages {
            message.header.sequence_number = self.next;
            message.finalize();
            self.next = self.next.wrapping_add(1);
            let begin = self.outgoing.len();
            self.outgoing.resize(begin + message.buffer_len(), 0);
            message.serialize(&mut self.outgoing[begin..]);
        }
        self.socket.send(&self.outgoing, 0)?;
        let mut ended = 0;
        while ended < messages.len() {
            self.receive()?;
            let mut rest = &self.incoming[..];
            while !rest.is_empty() {
                let header = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
                let length = usize::try_from(header.length()).map_err(io::Error::other)?;
                let place = usize::try_from(header.sequence_number().wrapping_sub(first));
                let is_last = matches!(header.message_type(), NLMSG_ERROR | NLMSG_DONE);
                let answer = NetlinkMessage::deserialize(rest).ok();
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                // Others are to something that failed before all of it was read.
                let Some(place) = place.ok().filter(|place| *place < messages.len()) else { continue };
                ended += usize::from(is_last);
                told(place, answer);
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<()> {
        loop {
            self.incoming.clear();
            match self.socket.recv(&mut self.incoming, libc::MSG_TRUNC) {
                Ok(length) if length > self.incoming.len() => {
                    return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
                }
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
                }
                Err(error) => return Err(error),
            }
        }
    }
}
