//! Watching keys over whatever becomes of the connection, as etcd's clients do: from the next revision on, or, if that was
//! compacted away, from a listing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::change::Batch;
use super::engine::{End, Engine, Feed};
use super::entry::Entry;
use super::key::Scope;
use super::page;
use super::revision::Revision;
use crate::error::{Chain, Error, Result};

/// How long to wait before the first and the following attempts to go on.
const PAUSES_MS: &[u64] = &[0, 20, 50, 100, 200, 500, 1_000];

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// A revision changed these keys.
    Changed(Batch),
    /// The engine broke off. The watch tries to go on; until the next notice changes may happen that are not told yet.
    Interrupted {
        /// Why, in one line.
        reason: String,
    },
    /// The watch goes on where it was interrupted; nothing was missed.
    Resumed,
    /// What happened since the last notice was compacted away. This is everything there is now; what is not in it is gone.
    Relisted {
        /// The revision of the listing. What is told next is later.
        revision: Revision,
        /// All entries, in the order of their keys.
        entries: Vec<Entry>,
    },
}

/// Changes of the keys of a scope, from [`ClusterStore::watch`](super::ClusterStore::watch): each revision once, in order, without a gap.
pub struct Watch {
    engine: Arc<dyn Engine>,
    scope: Scope,
    next: Revision,
    stage: Stage,
    /// How often it was broken off since the last batch: each pause is longer.
    failures: usize,
    /// Whether it is to be told that it goes on.
    is_interrupted: bool,
}

/// What is under way stays so when a wait for it is dropped: a caller that looks in often must not begin it anew each time.
enum Stage {
    /// There is no feed yet, and none of the history was missed as far as is known.
    Opens(BoxFuture<'static, Result<Box<dyn Feed>>>),
    Follows(Box<dyn Feed>),
    /// What comes next was compacted away: only a listing helps.
    Lists(BoxFuture<'static, Result<(Revision, Vec<Entry>)>>),
}

impl Watch {
    pub(super) fn new(engine: Arc<dyn Engine>, scope: Scope, next: Revision) -> Self {
        let stage = open(&engine, &scope, next, Duration::ZERO);
        Self { engine, scope, next, stage, failures: 0, is_interrupted: false }
    }

    /// Waits for the next notice. Dropping the future loses nothing.
    ///
    /// While the store cannot be reached it waits, and tries again at least once in a second.
    ///
    /// # Errors
    /// What trying again does not mend: [`Error::Denied`], [`Error::Damaged`]. The next call tries all the same.
    pub async fn next(&mut self) -> Result<Notice> {
        loop {
            let notice = match &mut self.stage {
                Stage::Opens(opening) => match opening.await {
                    Ok(feed) => {
                        self.stage = Stage::Follows(feed);
                        std::mem::take(&mut self.is_interrupted).then_some(Notice::Resumed)
                    }
                    Err(error) => self.interrupted(error, open)?,
                },
                Stage::Follows(feed) => match feed.next().await {
                    Ok(batch) => {
                        self.failures = 0;
                        self.next = batch.revision.next();
                        Some(Notice::Changed(batch))
                    }
                    Err(End::Compacted) => {
                        self.stage = list(&self.engine, &self.scope, self.next, Duration::ZERO);
                        None
                    }
                    Err(End::Broken(error)) => self.interrupted(error, open)?,
                },
                Stage::Lists(listing) => match listing.await {
                    Ok((revision, entries)) => {
                        self.next = revision.next();
                        self.is_interrupted = false;
                        self.stage = open(&self.engine, &self.scope, self.next, Duration::ZERO);
                        Some(Notice::Relisted { revision, entries })
                    }
                    Err(error) => self.interrupted(error, list)?,
                },
            };
            if let Some(notice) = notice {
                return Ok(notice);
            }
        }
    }

    /// Counts a failure that trying again may mend, and begins to `again`. It is told once.
    fn interrupted(&mut self, error: Error, again: Begin) -> Result<Option<Notice>> {
        let first = !std::mem::replace(&mut self.is_interrupted, true);
        let pause = Duration::from_millis(PAUSES_MS[self.failures.min(PAUSES_MS.len() - 1)]);
        self.failures += 1;
        self.stage = again(&self.engine, &self.scope, self.next, pause);
        match error {
            Error::Unavailable { .. } => {
                Ok(first.then(|| Notice::Interrupted { reason: Chain(&error).to_string() }))
            }
            error => Err(error),
        }
    }
}

type Begin = fn(&Arc<dyn Engine>, &Scope, Revision, Duration) -> Stage;

/// Goes on from `next`, after a pause.
fn open(engine: &Arc<dyn Engine>, scope: &Scope, next: Revision, pause: Duration) -> Stage {
    let (engine, scope) = (Arc::clone(engine), scope.clone());
    Stage::Opens(Box::pin(async move {
        rest(pause).await;
        engine.watch(scope, next).await
    }))
}

/// Lists what there is, after a pause, wherever the watch was.
fn list(engine: &Arc<dyn Engine>, scope: &Scope, _: Revision, pause: Duration) -> Stage {
    let (engine, scope) = (Arc::clone(engine), scope.clone());
    Stage::Lists(Box::pin(async move {
        rest(pause).await;
        page::all(&*engine, &scope).await
    }))
}

async fn rest(pause: Duration) {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("scope", &self.scope).field("next", &self.next).finish_non_exhaustive()
    }
}
