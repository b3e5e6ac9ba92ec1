//! Locks and elections: one queue of leased keys, whose first one holds, as in etcd's recipes
//! (<https://etcd.io/docs/v3.4/dev-guide/api_concurrency_reference_v3/>).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::change::Change;
use super::entry::Entry;
use super::key::{Key, Scope};
use super::lease::Lease;
use super::record::Record;
use super::revision::Revision;
use super::store::ClusterStore;
use super::transaction::Transaction;
use super::watch::Notice;
use crate::error::{Error, Result};

/// That something is held, in a form that the store can check: give it to
/// [`Transaction::if_held`](super::Transaction::if_held), or its revision to whatever else is written to. Who holds it later has a
/// greater revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fence {
    /// The holder's key in the queue.
    pub key: Key,
    /// The revision that made the key.
    pub revision: Revision,
}

/// What [`ClusterStore::lock`] writes of a holder who has nothing to say.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nameless {}

impl Record for Nameless {
    const KIND: &'static str = "lock";
}

/// A lock, or an office, that is held for as long as its lease.
///
/// Dropping it gives nothing back: [`release`](Self::release) does, and so does the end of the lease.
#[derive(Debug)]
#[must_use = "it is held until the lease ends"]
pub struct Held {
    store: ClusterStore,
    fence: Fence,
    lease: Lease,
}

impl Held {
    /// What proves it to the store.
    #[must_use]
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Whether it is held for certain at this moment. What is done a moment later needs the [`fence`](Self::fence).
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.lease.is_held()
    }

    /// Waits until it is lost, which is told before another can have it (see [`Lease`]).
    pub async fn lost(&self) {
        self.lease.lost().await;
    }

    /// Lets others see `record` of the holder instead of what it stood with.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it is not held any more; and as [`ClusterStore::commit`].
    pub async fn proclaim<T: Record>(&self, record: &T) -> Result<Revision> {
        let change =
            Transaction::new().if_held(&self.fence).put_leased(&self.fence.key, record, self.lease.id())?;
        self.store.commit(change).await
    }

    /// Gives it back; the next one has it then. The lease stays.
    ///
    /// # Errors
    /// As [`ClusterStore::delete`]. It is given back with the end of the lease in any case.
    pub async fn release(self) -> Result<()> {
        self.store.delete(&self.fence.key).await.map(drop)
    }
}

/// A place in the queue, which is given up when the future that waits in it is dropped.
struct Place {
    store: ClusterStore,
    key: Option<Key>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let store = self.store.clone();
        runtime.spawn(async move {
            if let Err(error) = store.delete(&key).await {
                tracing::warn!(%key, %error, "a place in a queue stays until its lease ends");
            }
        });
    }
}

impl ClusterStore {
    /// Waits for the lock called `name`, and takes it for as long as `lease` lives. Whoever came first has it first, also of two
    /// with one lease. Set a time limit with `tokio::time::timeout`: dropping the future gives the place in the queue up.
    ///
    /// The queue is made of leased keys `name/NUMBER`, of 16 hexadecimal digits: a name has at most 495 bytes.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the name is too long; [`Error::Conflict`] or [`Error::NotFound`] if the lease is lost;
    /// [`Error::Unavailable`], [`Error::OutcomeUnknown`].
    pub async fn lock(&self, name: &Key, lease: &Lease) -> Result<Held> {
        self.campaign(name, &Nameless {}, lease).await
    }

    /// Waits for the office called `name`, and holds it for as long as `lease` lives: the same as a lock, but
    /// [`leader`](Self::leader) tells everybody the holder's `record`.
    ///
    /// # Errors
    /// As [`lock`](Self::lock); and as [`Stored::of`](super::Stored::of).
    pub async fn campaign<T: Record>(&self, name: &Key, record: &T, lease: &Lease) -> Result<Held> {
        let key = name.join(format!("{:016x}", random()?))?;
        let mut place = Place { store: self.clone(), key: Some(key.clone()) };
        let turn = async {
            let revision = self.queue_up(&key, record, lease).await?;
            self.wait_for_turn(name, &key, revision).await?;
            Ok(revision)
        };
        let revision = tokio::select! {
            revision = turn => revision?,
            () = lease.lost() => return Err(gone(&key, "its lease was lost")),
        };
        place.key = None;
        Ok(Held { store: self.clone(), fence: Fence { key, revision }, lease: lease.clone() })
    }

    /// Who holds the office called `name` now. `None` if nobody does.
    ///
    /// The holder may change any time after: act on it under its [`Fence`], which is the entry's key and the revision that made it.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; and as [`Stored::decode`](super::Stored::decode).
    pub async fn leader<T: Record>(&self, name: &Key) -> Result<Option<Entry<T>>> {
        let queue = self.queue(name).await?.1;
        let places = queue.into_iter().filter(|entry| is_place(name, entry));
        places.min_by_key(|entry| entry.created).map(Entry::decode).transpose()
    }

    /// Makes the key, once, however often the answer is lost.
    async fn queue_up<T: Record>(&self, key: &Key, record: &T, lease: &Lease) -> Result<Revision> {
        let stand = Transaction::new().if_absent(key).put_leased(key, record, lease.id())?;
        match self.commit(stand.clone()).await {
            Err(Error::OutcomeUnknown { .. }) => match self.commit(stand).await {
                // The key is nobody else's: it was the first attempt that made it.
                Err(Error::Conflict { .. }) => {
                    let made = self.get::<T>(key).await?;
                    made.map(|entry| entry.created).ok_or_else(|| gone(key, "its lease ended"))
                }
                again => again,
            },
            first => first,
        }
    }

    /// Waits until nobody is before the key that `revision` made.
    async fn wait_for_turn(&self, name: &Key, own: &Key, revision: Revision) -> Result<()> {
        let (seen, queue) = self.queue(name).await?;
        let mut before = ahead(name, queue, own, revision)?;
        let mut watch = self.watch_from(Scope::Beneath(name.clone()), seen.next());
        while !before.is_empty() {
            match watch.next().await? {
                Notice::Changed(batch) => {
                    for change in batch.changes {
                        if let Change::Deleted(key) = change {
                            if key == *own {
                                return Err(gone(own, "it was deleted"));
                            }
                            before.remove(&key);
                        }
                    }
                }
                Notice::Relisted { entries, .. } => before = ahead(name, entries, own, revision)?,
                Notice::Interrupted { .. } | Notice::Resumed => {}
            }
        }
        Ok(())
    }

    async fn queue(&self, name: &Key) -> Result<(Revision, Vec<Entry>)> {
        super::page::all(&*self.engine, &Scope::Beneath(name.clone())).await
    }
}

/// The keys that were there before `own`.
fn ahead(name: &Key, queue: Vec<Entry>, own: &Key, revision: Revision) -> Result<BTreeSet<Key>> {
    if !queue.iter().any(|entry| entry.key == *own) {
        return Err(gone(own, "it was deleted, or its lease ended"));
    }
    let before = queue.into_iter().filter(|entry| entry.created < revision && is_place(name, entry));
    Ok(before.map(|entry| entry.key).collect())
}

/// Whether an entry beneath `name` stands in the queue of that name: other data may be there, and other queues.
fn is_place(name: &Key, entry: &Entry) -> bool {
    let number = entry.key.as_str().strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix('/'));
    let is_number = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    entry.lease.is_some() && number.is_some_and(is_number)
}

fn gone(key: &Key, reason: &str) -> Error {
    Error::Conflict {
        what: format!("the place `{key}` in a queue"),
        reason: format!("{reason}: begin again"),
    }
}

fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| Error::os("getrandom", "a place in a queue", errno))?;
    Ok(u64::from_ne_bytes(bytes))
}
