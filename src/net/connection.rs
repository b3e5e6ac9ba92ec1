//! One netlink socket, and what the kernel answers on it (`man 7 netlink`).
//!
//! The kernel carries a message out while it is sent: its answers wait in the socket when the call returns, and the rest
//! of a list is made while what is there of it is read. So there is nothing to wait for but in the calls themselves, and
//! neither a task nor a poll between the question and the answer.

use std::io;
use std::iter;
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
const HEADER_BYTES: u32 = 16;

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
        self.receive(first, messages.len())?;
        for part in parts(&self.incoming) {
            let (header, bytes) = part?;
            // Others are to something that failed before all of it was read.
            if let Some(place) = place(&header, first).filter(|place| *place < messages.len()) {
                told(place, NetlinkMessage::deserialize(bytes).ok());
            }
        }
        Ok(())
    }

    /// Reads until the answers to `count` messages from the number `first` on have ended. Nothing is made of them meanwhile:
    /// a list must be made anew if something changes before all of it is read.
    fn receive(&mut self, first: u32, count: usize) -> io::Result<()> {
        self.incoming.clear();
        let mut ended = 0;
        while ended < count {
            let begin = self.incoming.len();
            self.receive_once()?;
            for part in parts(&self.incoming[begin..]) {
                let (header, _) = part?;
                let is_last = matches!(header.message_type(), NLMSG_ERROR | NLMSG_DONE);
                ended += usize::from(is_last && place(&header, first).is_some_and(|place| place < count));
            }
        }
        Ok(())
    }

    fn receive_once(&mut self) -> io::Result<()> {
        self.incoming.reserve(MESSAGE_BYTES);
        let begin = self.incoming.len();
        loop {
            match self.socket.recv(&mut self.incoming, libc::MSG_TRUNC) {
                Ok(length) if begin + length > self.incoming.len() => {
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

/// The messages in `bytes`, one after the other.
fn parts(mut bytes: &[u8]) -> impl Iterator<Item = io::Result<(NetlinkBuffer<&[u8]>, &[u8])>> {
    iter::from_fn(move || {
        let part = bytes;
        if part.is_empty() {
            return None;
        }
        let header = NetlinkBuffer::new_checked(part).map_err(io::Error::other);
        // What follows something that cannot be read cannot be found.
        let length =
            header.as_ref().map_or(u32::MAX, |header| header.length().next_multiple_of(4).max(HEADER_BYTES));
        bytes = usize::try_from(length).ok().and_then(|length| part.get(length..)).unwrap_or_default();
        Some(header.map(|header| (header, part)))
    })
}

/// Which of the messages from the number `first` on it answers.
fn place(header: &NetlinkBuffer<&[u8]>, first: u32) -> Option<usize> {
    usize::try_from(header.sequence_number().wrapping_sub(first)).ok()
}
