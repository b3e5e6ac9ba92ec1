//! Asking for tracked connections, and having them forgotten: ctnetlink (`linux/netfilter/nfnetlink_conntrack.h`).

use std::io;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::time::Duration;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::tracked::{
    CTA_IP_V4_SRC, CTA_PROTO_DST_PORT, CTA_PROTO_NUM, CTA_TUPLE_IP, CTA_TUPLE_ORIG, CTA_TUPLE_PROTO,
    CTA_TUPLE_REPLY, Tracked,
};
use super::wire::{self, attribute, nested};
use crate::error::{Error, Result};

const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const ERROR: u16 = 2;
const DONE: u16 = 3;

const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// Which parts of a tuple count.
const SOURCE: u32 = 1 << 0;
const PROTOCOL: u32 = 1 << 3;
const DESTINATION_PORT: u32 = 1 << 5;

/// `struct nfgenmsg`.
const FAMILY_HEADER: usize = 4;
const RECEIVED_BYTES: usize = 64 << 10;
/// No answer ever takes as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which connections the kernel is asked for. (Not those of an IPv6 address: up to Linux 6.18 it answers with all but these.)
#[derive(Debug, Clone, Copy)]
pub(super) enum Question {
    /// All.
    All { is_ipv4: bool },
    /// Those that an address has begun.
    From(Ipv4Addr),
    /// Those that an address answers.
    Answers(Ipv4Addr),
    /// What is sent by UDP, to a port or to all.
    Udp { is_ipv4: bool, port: Option<NonZeroU16> },
}

/// A connection to the tracker of the network namespace of the thread that made it.
pub(super) struct Tracker {
    socket: Socket,
    sequence: u32,
}

impl Tracker {
    pub(super) fn connect() -> Result<Self> {
        let failed = |call| move |e: io::Error| Error::os(call, "NETLINK_NETFILTER", e);
        let socket = Socket::new(NETLINK_NETFILTER).map_err(failed("socket"))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connect"))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))
            .map_err(|e| Error::os("setsockopt", "SO_RCVTIMEO", e))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Has those forgotten that `question` is for and `chosen` chooses. Tells how many there were.
    pub(super) fn end(&mut self, question: Question, chosen: impl Fn(&Tracked) -> bool) -> Result<usize> {
        let mut ended = 0;
        // A kernel before 5.8 answers with all there are.
        for found in self.ask(question)?.iter().filter(|found| chosen(found)) {
            tracing::debug!(?found, "connection ended");
            ended += usize::from(self.delete(found)?);
        }
        Ok(ended)
    }

    /// Has all those forgotten that `question` is for, without a look at each: a look at the whole list takes the kernel 10 ms and
    /// more, however short it is. False if it is not about one address, or the kernel (before 6.8) cannot.
    pub(super) fn forget(&mut self, question: Question) -> Result<bool> {
        if !matches!(question, Question::From(_) | Question::Answers(_)) {
            return Ok(false);
        }
        let [family, _, resource @ ..] = family(question.is_ipv4());
        // Without the version it would be for all families, and addresses would not be compared.
        let body = [&[family, 1], &resource[..], &question.attributes()].concat();
        match self.exchange(DELETE, NLM_F_ACK, &body, |_, _| {}) {
            Ok(()) => Ok(true),
            // For such a kernel it is one connection, with its ports missing.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            Err(error) => Err(Error::os("IPCTNL_MSG_CT_DELETE", format_args!("{question:?}"), error)),
        }
    }

    fn ask(&mut self, question: Question) -> Result<Vec<Tracked>> {
        let body = [family(question.is_ipv4()).to_vec(), question.attributes()].concat();
        let mut found = Vec::new();
        let answer = self.exchange(GET, NLM_F_DUMP, &body, |kind, body| {
            if kind == NEW {
                found.extend(body.get(FAMILY_HEADER..).and_then(Tracked::listed));
            }
        });
        match answer {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                Err(Error::Unsupported {
                    what: "ending tracked connections".to_owned(),
                    needs: "the kernel lacks CONFIG_NF_CT_NETLINK, or its module nf_conntrack_netlink"
                        .to_owned(),
                })
            }
            Err(error) => Err(Error::os("IPCTNL_MSG_CT_GET", format_args!("{question:?}"), error)),
            Ok(()) => Ok(found),
        }
    }

    /// False if it has ended by itself.
    fn delete(&mut self, tracked: &Tracked) -> Result<bool> {
        let body = [&family(tracked.there.source.is_ipv4())[..], &tracked.key].concat();
        match self.exchange(DELETE, NLM_F_ACK, &body, |_, _| {}) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => {
                let way = &tracked.there;
                let target = format!("the connection of {} to {}", way.source, way.destination);
                Err(Error::os("IPCTNL_MSG_CT_DELETE", target, error))
            }
        }
    }

    /// Sends a request and hears all of the answer.
    fn exchange(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut hear: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.sequence += 1;
        self.socket.send(&wire::message(kind, NLM_F_REQUEST | flags, self.sequence, body), 0)?;
        let mut received = Vec::with_capacity(RECEIVED_BYTES);
        loop {
            received.clear();
            match self.socket.recv(&mut received, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            for (kind, body) in wire::messages(&received, self.sequence) {
                match (kind, wire::number32(body, 0).map(u32::cast_signed)) {
                    (ERROR | DONE, Some(code)) if code < 0 => {
                        return Err(io::Error::from_raw_os_error(-code));
                    }
                    (ERROR | DONE, _) => return Ok(()),
                    _ => hear(kind, body),
                }
            }
        }
    }
}

impl Question {
    fn is_ipv4(self) -> bool {
        match self {
            Self::From(_) | Self::Answers(_) => true,
            Self::All { is_ipv4 } | Self::Udp { is_ipv4, .. } => is_ipv4,
        }
    }

    /// Whom the kernel looks for.
    fn attributes(self) -> Vec<u8> {
        let of = |address: Ipv4Addr| attribute(CTA_IP_V4_SRC, &address.octets());
        let (tuple, flags_kind, parts, flags) = match self {
            Self::All { .. } => return Vec::new(),
            Self::From(address) => {
                (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS, nested(CTA_TUPLE_IP, &[of(address)]), SOURCE)
            }
            Self::Answers(address) => {
                (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS, nested(CTA_TUPLE_IP, &[of(address)]), SOURCE)
            }
            Self::Udp { port, .. } => {
                let udp = u8::try_from(libc::IPPROTO_UDP).unwrap_or_default();
                let port_flag = if port.is_some() { DESTINATION_PORT } else { 0 };
                let port = port.map(|port| attribute(CTA_PROTO_DST_PORT, &port.get().to_be_bytes()));
                let parts: Vec<_> = [attribute(CTA_PROTO_NUM, &[udp])].into_iter().chain(port).collect();
                let parts = nested(CTA_TUPLE_PROTO, &parts);
                (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS, parts, PROTOCOL | port_flag)
            }
        };
        let filter = nested(CTA_FILTER, &[attribute(flags_kind, &flags.to_ne_bytes())]);
        [nested(tuple, &[parts]), filter].concat()
    }
}

/// `struct nfgenmsg`: the family, version 0, no resource.
fn family(is_ipv4: bool) -> [u8; FAMILY_HEADER] {
    let family = if is_ipv4 { libc::AF_INET } else { libc::AF_INET6 };
    [u8::try_from(family).unwrap_or_default(), 0, 0, 0]
}
