//! A master: it sees the store, takes part in the election, and decides while it leads. Any number of them may run on one store.
//!
//! What it writes is one transaction for each decision, under the fence of its office and against the records that it was made from. A
//! master that is killed anywhere has done whole decisions, and the next one goes on from what the store holds.

mod keys;
mod lead;
mod mirror;
mod node;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use self::lead::Request;
use self::mirror::Mirror;
pub use self::node::{NodeLease, NodeOrders};
use super::decide::{Absences, Decision, Moment, View};
use super::records::{Settings, Timing};
use crate::error::{Error, Result};
use crate::state::{ClusterStore, Key, Record, Revision, Transaction, Watch};

/// What others see of a master: it stands under its place in the queue for the office.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MasterRecord {
    /// Where it is reached.
    pub url: String,
}

impl Record for MasterRecord {
    const KIND: &'static str = "master";
}

/// A master's part in a cluster. Clones are the same one.
#[derive(Clone)]
pub struct Master(Arc<Inner>);

struct Inner {
    store: ClusterStore,
    settings: Settings,
    record: MasterRecord,
    mirror: RwLock<Mirror>,
    /// The revision that the mirror shows: who waits for it is woken.
    seen: watch::Sender<Revision>,
    /// Where requests wait for their turn. `None`: it does not run.
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    /// What the mirror is kept by, while it runs.
    watch: tokio::sync::Mutex<Watch>,
}

impl fmt::Debug for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Master").field("record", &self.0.record).finish_non_exhaustive()
    }
}

/// What a decision may go by besides the [`View`]: who is absent, by the leading master's clock.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// Since when each node is seen absent.
    pub absences: &'a Absences,
    /// The master's clock.
    pub now: Moment,
    /// How long things take.
    pub timing: &'a Timing,
}

/// Makes a cluster in an empty store. Repeating it is fine.
///
/// # Errors
/// [`Error::Differs`] if the store holds another cluster, or the same with other settings; and as
/// [`ClusterStore::commit`].
pub async fn init(store: &ClusterStore, settings: &Settings) -> Result<()> {
    let key = settings_key()?;
    match store.commit(Transaction::new().if_absent(&key).put(&key, settings)?).await {
        Ok(_) => Ok(()),
        Err(Error::Conflict { .. }) => {
            let found = store.get::<Settings>(&key).await?;
            if found.is_some_and(|found| found.value == *settings) {
                return Ok(());
            }
            let difference = "it holds a cluster already: open that, or give another store".to_owned();
            Err(Error::Differs { what: "the store".to_owned(), difference })
        }
        Err(error) => Err(error),
    }
}

fn settings_key() -> Result<Key> {
    Key::new("cluster")
}

impl Master {
    /// A master of the cluster in `store`, which sees it as it is now. It does nothing until it [runs](Self::run).
    ///
    /// # Errors
    /// [`Error::NotFound`] if the store holds no cluster; [`Error::Unavailable`]; [`Error::Damaged`] or [`Error::Unsupported`] if a record
    /// cannot be read.
    pub async fn open(store: ClusterStore, record: MasterRecord) -> Result<Self> {
        let settings = store.get::<Settings>(&settings_key()?).await?;
        let Some(settings) = settings.map(|entry| entry.value) else {
            return Err(Error::NotFound { what: "a cluster in the store".to_owned() });
        };
        let (mirror, watch) = Mirror::open(&store, settings.clone()).await?;
        let seen = watch::Sender::new(mirror.seen());
        Ok(Self(Arc::new(Inner {
            store,
            settings,
            record,
            mirror: RwLock::new(mirror),
            seen,
            requests: Mutex::new(None),
            watch: tokio::sync::Mutex::new(watch),
        })))
    }

    /// What holds for the cluster.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Looks at all records as this master last saw them. `look` should not take long: the master waits for it.
    pub fn look<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        let mirror = self.0.mirror.read().unwrap_or_else(PoisonError::into_inner);
        look(mirror.view())
    }

    /// Decides, if this master leads: what `decide` makes of the records and of who is absent is carried out, and durable when this returns.
    ///
    /// `decide` may be called several times: when somebody else changed the records meanwhile, it is asked anew.
    ///
    /// # Errors
    /// What `decide` says; [`Error::Unavailable`] if another master leads, with where it is, or none, or the store cannot be reached;
    /// [`Error::OutcomeUnknown`].
    pub async fn decide<T, F>(&self, decide: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&View, Standing<'_>) -> Result<(T, Option<Decision>)> + Send + 'static,
    {
        self.ask(decide).await
    }

    /// Waits until this master sees the store as it is now, or later.
    async fn catch_up(&self) -> Result<()> {
        let revision = self.0.store.revision().await?;
        self.see(revision).await
    }

    /// Waits until this master sees the store as it was at `revision`, or later.
    async fn see(&self, revision: Revision) -> Result<()> {
        let mut seen = self.0.seen.subscribe();
        let waited = tokio::time::timeout(SEE_MAX, seen.wait_for(|seen| *seen >= revision)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Error::Unavailable {
                what: "the store".to_owned(),
                reason: "its changes are not told in time; or this master does not run".to_owned(),
            }),
        }
    }
}

/// How long a change may take to be told.
const SEE_MAX: std::time::Duration = std::time::Duration::from_secs(5);
