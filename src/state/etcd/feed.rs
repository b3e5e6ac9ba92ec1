//! A watch of etcd (<https://etcd.io/docs/v3.4/learning/api/#watch-api>) as whole revisions.
//!
//! A task reads what etcd sends, so that a watch nobody asks does not fill the connection that it shares with all requests.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::{PbEvent, PbWatchResponse};
use etcd_client::{Client, EventType, WatchOptions, WatchStream};
use futures_util::future::BoxFuture;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::super::change::{Batch, Change};
use super::super::engine::{End, Feed};
use super::super::revision::Revision;
use super::fault::{Fault, denied};
use super::layout::Layout;
use crate::error::{Error, Result};

/// The largest message that is taken. etcd is asked to send no larger ones than requests may be, 1.5 MiB unless it is told otherwise.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// How many bytes wait for a slow reader.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// How long a slow reader may hold up etcd's messages, before the feed ends.
const PATIENCE: Duration = Duration::from_secs(1);

/// Opens a watch of etcd's keys from `first` to before `end`.
pub(super) async fn open(
    client: Arc<Client>,
    first: String,
    end: String,
    from: i64,
) -> Result<WatchStream, Fault> {
    // One revision more than is asked for: etcd tells of a watch that begins before what was compacted, but of one that begins just
    // there it loses the deletions without a word.
    let start = from.saturating_sub(1).max(1);
    let options = WatchOptions::new().with_range(end).with_start_revision(start).with_fragment();
    let mut watch = client.watch_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut stream = watch.watch(first, Some(options)).await?;
    match stream.message().await? {
        // etcd 3.4 says of an expired token, too, that permission is denied.
        Some(answer) if answer.cancel_reason().contains("permission denied") => Err(Fault::TokenExpired),
        Some(answer) if answer.cancel_reason().contains("auth token") => Err(Fault::TokenExpired),
        Some(answer) if answer.created() && !answer.canceled() => Ok(stream),
        Some(answer) => Err(Fault::Lost(format!("etcd refused a watch: {}", answer.cancel_reason()))),
        None => Err(Fault::Lost("etcd ended a watch".into())),
    }
}

type Message = (Result<Batch, End>, Option<OwnedSemaphorePermit>);

/// The feed of one watch.
pub(super) struct EtcdFeed {
    messages: UnboundedReceiver<Message>,
    reader: AbortHandle,
}

impl EtcdFeed {
    pub(super) fn new(stream: WatchStream, layout: Layout, from: Revision) -> Self {
        let (told, messages) = mpsc::unbounded_channel();
        let reader = tokio::spawn(async move {
            let end = read(stream, Revisions { layout, from, open: None }, &told).await;
            let _ = told.send((Err(end), None));
        });
        Self { messages, reader: reader.abort_handle() }
    }
}

impl Drop for EtcdFeed {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Feed for EtcdFeed {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, End>> {
        Box::pin(async {
            let (message, _room) =
                self.messages.recv().await.unwrap_or_else(|| (Err(broken("it has ended")), None));
            message
        })
    }
}

fn broken(reason: &str) -> End {
    End::Broken(Error::Unavailable { what: "the watch on etcd".into(), reason: reason.into() })
}

/// Passes on what the stream brings, until it ends.
async fn read(mut stream: WatchStream, mut revisions: Revisions, told: &UnboundedSender<Message>) -> End {
    let room = Arc::new(Semaphore::new(WAITING_BYTES_MAX));
    loop {
        let message = match stream.message().await {
            Ok(Some(message)) => message.0,
            Ok(None) => return broken("etcd ended it"),
            Err(error) => {
                return match Fault::from(error) {
                    Fault::Final(error) => End::Broken(error),
                    Fault::Unready(reason)
                    | Fault::Untrusted(reason)
                    | Fault::Lost(reason)
                    | Fault::Broken(reason) => broken(&reason),
                    Fault::TokenExpired => End::Broken(denied()),
                    Fault::TooLarge => broken("a revision is too large"),
                };
            }
        };
        if message.compact_revision > 0 {
            return End::Compacted;
        }
        if message.canceled {
            return broken(&format!("etcd cancelled it: {}", message.cancel_reason));
        }
        for (batch, bytes) in revisions.of(message) {
            let bytes = u32::try_from(bytes.min(WAITING_BYTES_MAX)).unwrap_or(u32::MAX);
            match timeout(PATIENCE, Arc::clone(&room).acquire_many_owned(bytes)).await {
                Ok(permit) => {
                    let _ = told.send((Ok(batch), permit.ok()));
                }
                Err(_) => return broken("more changes wait to be read than it holds"),
            }
        }
    }
}

/// Puts the events of messages together to revisions. A message may hold several, and, as a fragment, a part of one.
struct Revisions {
    layout: Layout,
    from: Revision,
    open: Option<(Batch, usize)>,
}

impl Revisions {
    /// The revisions that are whole with this message, and their sizes in bytes.
    fn of(&mut self, message: PbWatchResponse) -> Vec<(Batch, usize)> {
        let mut whole = Vec::new();
        for event in message.events {
            let Some((revision, change, bytes)) = self.change(event) else { continue };
            match &mut self.open {
                Some((batch, size)) if batch.revision == revision => {
                    batch.changes.push(change);
                    *size += bytes;
                }
                open => whole.extend(open.replace((Batch { revision, changes: vec![change] }, bytes))),
            }
        }
        if !message.fragment {
            whole.extend(self.open.take());
        }
        whole
    }

    fn change(&self, event: PbEvent) -> Option<(Revision, Change, usize)> {
        let deleted = event.r#type() == EventType::Delete;
        let found = event.kv?;
        let revision = Revision(found.mod_revision.cast_unsigned());
        if revision < self.from {
            return None;
        }
        let bytes = found.key.len() + found.value.len();
        let change = if deleted {
            self.layout.strip(&found.key).map(Change::Deleted)
        } else {
            self.layout.entry(found).map(Change::Put)
        };
        // A listing tells of it as an error. Here it would come again for ever, even once it was deleted.
        let change = change.inspect_err(|error| tracing::warn!(%error, "a change is passed over")).ok()?;
        Some((revision, change, bytes))
    }
}
