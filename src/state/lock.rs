//! Locks and elections: one queue of leased keys, whose first one holds, as in etcd's recipes
//! (<https://etcd.io/docs/v3.4/dev-guide/api_concurrency_reference_v3/>).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::change::Change;
use super::entry::Entry;
use super::key::{Key, Scope};
use super::lease::{Lease, LeaseId};
use super::record::Record;
use super::revision::Revision;
use super::store::ClusterStore;
use super::transaction::Transaction;
use super::watch::Notice;
use crate::error::{Error, Result};

/// How long to wait before what was given up is cleared away again.
const RETRY: Duration = Duration::from_secs(1);

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

/// What stands under the key of a place that was given up before it was known whether it was made. It may yet be asked for, by what lies
/// somewhere on the way: then the key is there already, or the lease is gone.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenUp {}

impl Record for GivenUp {
    const KIND: &'static str = "given-up place";
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
    /// As [`ClusterStore::delete`]. It is tried again while the store is open, and it is given back with the end of the lease in any case.
    pub async fn release(self) -> Result<()> {
        let key = self.fence.key.clone();
        let mut place =
            Place { store: self.store.clone(), key: Some(key), lease: self.lease.id(), made: true };
        self.store.delete(&self.fence.key).await?;
        place.key = None;
        Ok(())
    }
}

/// A place in the queue, which is given up when it is dropped.
struct Place {
    store: ClusterStore,
    /// `None` if there is nothing to give up.
    key: Option<Key>,
    lease: LeaseId,
    /// Whether it was made for certain: then it need only be deleted, and cannot come again.
    made: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let change = if self.made {
            Transaction::new().delete(&key)
        } else {
            match Transaction::new().put_leased(&key, &GivenUp {}, self.lease) {
                Ok(change) => change,
                Err(error) => return tracing::error!(%key, %error, "a place stays until its lease ends"),
            }
        };
        runtime.spawn(clear(self.store.clone(), change));
    }
}

/// Carries out what gives a place up, however long the store cannot be reached, until it is closed.
async fn clear(mut store: ClusterStore, change: Transaction) {
    loop {
        match store.commit(change.clone()).await {
            // Without its lease it is not there, and will not be.
            Ok(_) | Err(Error::NotFound { .. }) => return,
            Err(Error::Unavailable { .. } | Error::OutcomeUnknown { .. } | Error::NoSpace { .. }) => {}
            Err(error) => return tracing::warn!(%error, "a place in a queue stays until its lease ends"),
        }
        let engine = Arc::downgrade(&store.engine);
        drop(store);
        tokio::time::sleep(RETRY).await;
        let Some(engine) = engine.upgrade() else { return };
        store = ClusterStore { engine };
    }
}

impl ClusterStore {
    /// Waits for the lock called `name`, and takes it for as long as `lease` lives. Whoever came first has it first, also of two
    /// with one lease. Set a time limit with `tokio::time::timeout`: dropping the future gives the place in the queue up, as soon as the
    /// store can be reached. No place is made after that, even if the request for it still lies somewhere.
    ///
    /// The queue is made of leased keys `name/NUMBER`, of 16 hexadecimal digits: a name has at most 495 bytes. A place that was given up
    /// before it was known whether it was made leaves its key, which is in nobody's way, until the lease ends.
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
        let turn = async {
            let (place, fence) = self.queue_up(name, record, lease).await?;
            self.wait_for_turn(name, &fence.key, fence.revision).await?;
            Ok((place, fence))
        };
        let (mut place, fence) = tokio::select! {
            turn = turn => turn?,
            () = lease.lost() => {
                return Err(Error::Conflict {
                    what: format!("a place in the queue `{name}`"),
                    reason: "its lease was lost: begin again".into(),
                });
            }
        };
        place.key = None;
        Ok(Held { store: self.clone(), fence, lease: lease.clone() })
    }

    /// Who holds the office called `name`. `None` if nobody does.
    ///
    /// It is read when it is called, with all that was committed before, and may be over a moment later: act on it under its
    /// [`Fence`], which is the entry's key and the revision that made it. A holder that is dead, or cut off, is still told until its
    /// lease ends, though it cannot be at work any more; so is one that has learned that its lease is lost, for the last eighth of the
    /// lease. After that it is the next of the queue at once, or `None` until somebody campaigns.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; and as [`Stored::decode`](super::Stored::decode).
    pub async fn leader<T: Record>(&self, name: &Key) -> Result<Option<Entry<T>>> {
        let queue = self.queue(name).await?.1;
        let places = queue.into_iter().filter(|entry| is_place(name, entry));
        places.min_by_key(|entry| entry.created).map(Entry::decode).transpose()
    }

    /// Makes a place. One that may have been made or not is given up for another one: it could come a second time.
    async fn queue_up<T: Record>(&self, name: &Key, record: &T, lease: &Lease) -> Result<(Place, Fence)> {
        match self.make_place(name, record, lease).await {
            Err(Error::OutcomeUnknown { .. }) => self.make_place(name, record, lease).await,
            place => place,
        }
    }

    async fn make_place<T: Record>(&self, name: &Key, record: &T, lease: &Lease) -> Result<(Place, Fence)> {
        let key = name.join(format!("{:016x}", random()?))?;
        let change = Transaction::new().if_absent(&key).put_leased(&key, record, lease.id())?;
        let mut place = Place { store: self.clone(), key: Some(key.clone()), lease: lease.id(), made: false };
        match self.commit(change).await {
            Ok(revision) => {
                place.made = true;
                Ok((place, Fence { key, revision }))
            }
            Err(error) => {
                if !matches!(error, Error::OutcomeUnknown { .. }) {
                    place.key = None;
                }
                Err(error)
            }
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
                        match change {
                            Change::Deleted(key) if key == *own => return Err(gone(own, "it was deleted")),
                            Change::Put(entry) if is_place(name, &entry) => {}
                            change => drop(before.remove(change.key())),
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

/// Whether an entry beneath `name` stands in the queue of that name: other data may be there, other queues, and places given up.
fn is_place(name: &Key, entry: &Entry) -> bool {
    let number = entry.key.as_str().strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix('/'));
    let is_number = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_given_up = || entry.value.kind(&entry.key).is_ok_and(|kind| kind == GivenUp::KIND);
    entry.lease.is_some() && number.is_some_and(is_number) && !is_given_up()
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
