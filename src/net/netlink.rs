//! The connection to the kernel (`man 7 netlink`, `man 7 rtnetlink`).
//!
//! The framing and the message types are those of the crate `rtnetlink`. Its request types are not used: they take the
//! end of a reply for success, even if the connection broke, and their errors print the request's bytes.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use rtnetlink::packet_core::{
    Emitable, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::proto::{ConnectionHandle, new_connection};
use rtnetlink::sys::{AsyncSocket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;

use super::NetworkNamespace;
use super::link::{self, Link};
use crate::error::{Error, Result};
use crate::name::LinkName;
use crate::sys::{netns, socket};

/// How often `wait_gone` looks.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// How many messages go into one system call. The kernel answers all of them before it returns, and drops what does not
/// fit into the socket's buffer.
const MOST_AT_ONCE: usize = 32;
/// How many bytes go into one system call, unless it is one message: more than the buffer (208 KiB unless the host says
/// otherwise) the kernel does not take.
const MOST_BYTES: usize = 64 << 10;
/// Room for as many answers of the longest kind: the program of a port's guard, of 32 KiB, takes 64 KiB and some more.
const ANSWERS_BYTES: u32 = 4 << 20;

/// A connection to the links of one network namespace. Clones share it; it is closed when the last one is dropped.
///
/// It keeps its namespace alive.
#[derive(Debug, Clone)]
pub struct Netlink {
    handle: ConnectionHandle<RouteNetlinkMessage>,
    /// Held while a list is read.
    pub(super) dumping: Arc<Mutex<()>>,
}

/// One change to be sent.
#[derive(Debug)]
pub(super) struct Change {
    /// The message's name, for errors.
    pub(super) call: &'static str,
    /// The object, for errors.
    pub(super) target: String,
    pub(super) message: RouteNetlinkMessage,
    pub(super) mode: Mode,
    /// An error number that means that all is as it should be.
    pub(super) fine: Option<i32>,
}

/// What may be there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Nothing: it is made.
    Create,
    /// Anything: it is made, or replaced.
    Replace,
    /// Anything: it is made beside it, unless it is there.
    Append,
    /// The object: it is changed or deleted.
    Change,
}

impl Netlink {
    /// Connects to the network namespace of the thread that polls this call. In a program that uses several, say
    /// which: [`Netlink::connect_in`].
    ///
    /// # Errors
    /// [`Error::Invalid`] outside of a tokio runtime; [`Error::Os`] if the system refuses.
    pub async fn connect() -> Result<Self> {
        Self::open(&runtime()?)
    }

    /// Connects to `namespace`, from wherever it is called.
    ///
    /// # Errors
    /// [`Error::Invalid`] outside of a tokio runtime; [`Error::Os`] if the system refuses.
    pub async fn connect_in(namespace: &NetworkNamespace) -> Result<Self> {
        let runtime = runtime()?;
        let (sender, receiver) = oneshot::channel();
        // A socket belongs for ever to the namespace that its thread was in when it was made.
        netns::spawn_in(namespace.duplicate()?, move |entered| {
            drop(sender.send(entered.and_then(|()| Self::open(&runtime))));
        })?;
        receiver.await.map_err(|_| lost("setns", namespace.path().display()))?
    }

    fn open(runtime: &Handle) -> Result<Self> {
        let _inside = runtime.enter();
        let (mut connection, handle, _) =
            new_connection(NETLINK_ROUTE).map_err(|e| Error::os("socket", "NETLINK_ROUTE", e))?;
        // Without this the kernel ignores the index in a request for addresses, and sends those of all links.
        connection
            .socket_mut()
            .socket_mut()
            .set_netlink_get_strict_chk(true)
            .map_err(|e| Error::os("setsockopt", "NETLINK_GET_STRICT_CHK", e))?;
        // An error would have the request in it, of whatever length.
        connection
            .socket_mut()
            .socket_mut()
            .set_cap_ack(true)
            .map_err(|e| Error::os("setsockopt", "NETLINK_CAP_ACK", e))?;
        socket::enlarge_receive_buffer(connection.socket_mut().socket_mut(), ANSWERS_BYTES)?;
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        // The task ends when the last handle is dropped.
        runtime.spawn(connection);
        Ok(Self { handle, dumping: Arc::default() })
    }

    pub(super) fn request(
        &self,
        messages: Vec<NetlinkMessage<RouteNetlinkMessage>>,
        call: &'static str,
        target: &dyn fmt::Display,
    ) -> Result<impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + use<>> {
        self.handle.request_batch(messages, SocketAddr::new(0, 0)).map_err(|_| lost(call, target))
    }

    /// Carries out one change.
    pub(super) async fn change(&self, change: Change) -> Result<()> {
        self.change_all(vec![change]).await
    }

    /// Carries out all changes, in their order and in one system call (or several, if there are many), and waits for all
    /// answers; the kernel carries out each, whether or not an earlier one failed. The first error is returned.
    pub(super) async fn change_all(&self, changes: Vec<Change>) -> Result<()> {
        let answers = self.exchange(changes).await?;
        answers.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    }

    /// Sends all changes and questions, and waits for what the kernel says to each: whether it was done, and the
    /// object that it tells of, if any.
    pub(super) async fn exchange(
        &self,
        changes: Vec<Change>,
    ) -> Result<Vec<Result<Option<RouteNetlinkMessage>>>> {
        let mut answers = Vec::with_capacity(changes.len());
        let (mut part, mut bytes) = (Vec::new(), 0);
        for change in changes {
            let length = change.message.buffer_len();
            if part.len() == MOST_AT_ONCE || (bytes + length > MOST_BYTES && !part.is_empty()) {
                self.exchange_once(std::mem::take(&mut part), &mut answers).await?;
                bytes = 0;
            }
            bytes += length;
            part.push(change);
        }
        self.exchange_once(part, &mut answers).await?;
        Ok(answers)
    }

    async fn exchange_once(
        &self,
        changes: Vec<Change>,
        answers: &mut Vec<Result<Option<RouteNetlinkMessage>>>,
    ) -> Result<()> {
        let Some(first) = changes.first() else { return Ok(()) };
        let first = (first.call, first.target.clone());
        let mut messages = Vec::with_capacity(changes.len());
        let mut expected = Vec::with_capacity(changes.len());
        for change in changes {
            let mut message = NetlinkMessage::from(change.message);
            message.header.flags = NLM_F_REQUEST | NLM_F_ACK | change.mode.flags();
            messages.push(message);
            expected.push((change.call, change.target, change.fine));
        }
        let mut replies = self.request(messages, first.0, &first.1)?;
        // The kernel answers in the order of the requests.
        for (call, target, fine) in expected {
            let mut told = None;
            let error = loop {
                let reply = replies.next().await.ok_or_else(|| lost(call, &target))?;
                match reply.payload {
                    NetlinkPayload::Error(answer) => break answer.code,
                    NetlinkPayload::InnerMessage(message) => told = Some(message),
                    _ => {}
                }
            };
            if let Some(code) = error.map(|code| -code.get()).filter(|code| Some(*code) != fine) {
                answers.push(Err(Error::os(call, &target, io::Error::from_raw_os_error(code))));
            } else {
                tracing::debug!(call, target, "done");
                answers.push(Ok(told));
            }
        }
        Ok(())
    }

    /// The link `name`, if there is one.
    pub(super) async fn link(&self, name: &LinkName) -> Result<Option<Link>> {
        let [link] = self.look([link::ask(name)]).await?;
        Ok(link)
    }

    /// The link with the number `index`, if there is one.
    pub(super) async fn link_at(&self, index: u32) -> Result<Option<Link>> {
        let [link] = self.look([link::ask_at(index)]).await?;
        Ok(link)
    }

    /// Looks at links, in one system call: the questions are [`link::ask`]'s. What is not there is `None`.
    pub(super) async fn look<const N: usize>(&self, wanted: [Change; N]) -> Result<[Option<Link>; N]> {
        let mut links = [const { None }; N];
        for (link, answer) in links.iter_mut().zip(self.exchange(wanted.into()).await?) {
            *link = answer?.and_then(Link::told);
        }
        Ok(links)
    }

    /// Waits until there is no link `name`.
    ///
    /// The kernel takes a veth pair down by itself, some 1 to 15 ms after the end of the namespace that one end is in.
    ///
    /// # Errors
    /// [`Error::Busy`] if it is there after `timeout`; [`Error::Os`] if the system refuses.
    pub async fn wait_gone(&self, name: &LinkName, timeout: Duration) -> Result<()> {
        let start = Instant::now();
        while self.link(name).await?.is_some() {
            if start.elapsed() >= timeout {
                return Err(Error::Busy {
                    what: format!("link `{name}`"),
                    reason: format!("still there after {timeout:?}"),
                });
            }
            // A look costs some 40 µs. The wait is an eighth longer than it need be, or a millisecond.
            tokio::time::sleep((start.elapsed() / 8).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)).await;
        }
        Ok(())
    }
}

impl Mode {
    fn flags(self) -> u16 {
        match self {
            Self::Create => NLM_F_CREATE | NLM_F_EXCL,
            Self::Replace => NLM_F_CREATE | NLM_F_REPLACE,
            Self::Append => NLM_F_CREATE | NLM_F_APPEND,
            Self::Change => 0,
        }
    }
}

fn runtime() -> Result<Handle> {
    Handle::try_current()
        .map_err(|_| Error::invalid("runtime", "none", "must be called within a tokio runtime"))
}

/// The connection ended before the answer: its runtime was shut down.
pub(super) fn lost(call: &'static str, target: impl fmt::Display) -> Error {
    Error::os(call, target, io::Error::from_raw_os_error(libc::ECONNRESET))
}
