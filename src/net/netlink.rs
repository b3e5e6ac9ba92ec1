//! The connection to the kernel (`man 7 netlink`, `man 7 rtnetlink`).
//!
//! The framing and the message types are those of the crate `rtnetlink`. Its request types are not used: they take the
//! end of a reply for success, even if the connection broke, and their errors print the request's bytes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rtnetlink::packet_core::{Emitable, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;

use super::NetworkNamespace;
use super::change::{self, Change};
use super::connection::Connection;
use super::link::{self, Link};
use crate::error::{Error, Result};
use crate::name::LinkName;
use crate::sys::netns;

/// How often `wait_gone` looks.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// How many messages go into one system call. The kernel answers all of them before it returns, and drops what does not
/// fit into the socket's buffer.
const MOST_AT_ONCE: usize = 32;
/// How many bytes go into one system call, unless it is one message: more than the buffer (208 KiB unless the host says
/// otherwise) the kernel does not take.
const MOST_BYTES: usize = 64 << 10;

/// A connection to the links of one network namespace. Clones share it; it is closed when the last one is dropped.
///
/// It keeps its namespace alive.
#[derive(Debug, Clone)]
pub struct Netlink {
    /// Each system call carries out what it sends, so that others could not do so meanwhile.
    pub(super) connection: Arc<Mutex<Connection>>,
}

impl Netlink {
    /// Connects to the network namespace of the thread that polls this call. In a program that uses several, say
    /// which: [`Netlink::connect_in`].
    ///
    /// # Errors
    /// [`Error::Invalid`] outside of a tokio runtime; [`Error::Os`] if the system refuses.
    pub async fn connect() -> Result<Self> {
        require_runtime()?;
        Connection::open().map(Self::new)
    }

    /// Connects to `namespace`, from wherever it is called.
    ///
    /// # Errors
    /// [`Error::Invalid`] outside of a tokio runtime; [`Error::Os`] if the system refuses.
    pub async fn connect_in(namespace: &NetworkNamespace) -> Result<Self> {
        require_runtime()?;
        let (sender, receiver) = oneshot::channel();
        // A socket belongs for ever to the namespace that its thread was in when it was made.
        netns::spawn_in(namespace.duplicate()?, move |entered| {
            drop(sender.send(entered.and_then(|()| Connection::open())));
        })?;
        let connection = receiver.await.map_err(|_| {
            Error::os("setns", namespace.path().display(), io::Error::from_raw_os_error(libc::ECONNRESET))
        })?;
        connection.map(Self::new)
    }

    fn new(connection: Connection) -> Self {
        Self { connection: Arc::new(Mutex::new(connection)) }
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
        if changes.is_empty() {
            return Ok(());
        }
        let mut messages = Vec::with_capacity(changes.len());
        let mut said = Vec::with_capacity(changes.len());
        for Change { target, message, mode, fine } in changes {
            let call = change::call(&message);
            let mut message = NetlinkMessage::from(message);
            message.header.flags = NLM_F_REQUEST | NLM_F_ACK | mode.flags();
            messages.push(message);
            said.push((call, target, fine, Ok(None)));
        }
        let sent = self.connection.lock().await.talk(&mut messages, |place, answer| {
            let (_, _, fine, said) = &mut said[place];
            match answer.map(|answer| answer.payload) {
                Some(NetlinkPayload::InnerMessage(message)) => *said = Ok(Some(message)),
                Some(NetlinkPayload::Error(answer)) => {
                    if let Some(code) =
                        answer.code.map(|code| -code.get()).filter(|code| Some(*code) != *fine)
                    {
                        *said = Err(code);
                    }
                }
                Some(_) => {}
                None => *said = Err(libc::EBADMSG),
            }
        });
        sent.map_err(|e| Error::os(said[0].0, &said[0].1, e))?;
        for (call, target, _, said) in said {
            tracing::debug!(call, target, ok = said.is_ok(), "answered");
            answers.push(said.map_err(|code| Error::os(call, target, io::Error::from_raw_os_error(code))));
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

/// What is done with a connection waits by the runtime's clock, which panics where there is none.
fn require_runtime() -> Result<()> {
    Handle::try_current()
        .map(drop)
        .map_err(|_| Error::invalid("runtime", "none", "must be called within a tokio runtime"))
}
