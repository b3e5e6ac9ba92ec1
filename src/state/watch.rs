//! Watching keys over whatever becomes of the connection, as etcd's clients do: from the next revision on, or, if that was
//! compacted away, from a listing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

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
    /// How many attempts to go on have failed. `None` if nothing was interrupted.
    attempts: Option<usize>,
}

enum Stage {
    /// There is no feed, and none of the history was missed as far as is known.
    Away,
    Follows(Box<dyn Feed>),
    /// What comes next was compacted away: only a listing helps.
    Behind,
}

impl Watch {
    pub(super) fn new(engine: Arc<dyn Engine>, scope: Scope, next: Revision) -> Self {
        Self { engine, scope, next, stage: Stage::Away, attempts: None }
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
                Stage::Follows(feed) => match feed.next().await {
                    Ok(batch) => {
                        self.next = batch.revision.next();
                        Some(Notice::Changed(batch))
                    }
                    Err(End::Compacted) => {
                        self.stage = Stage::Behind;
                        None
                    }
                    Err(End::Broken(error)) => {
                        self.stage = Stage::Away;
                        self.interrupted(error)?
                    }
                },
                Stage::Away => self.reopen().await?,
                Stage::Behind => self.relist().await?,
            };
            if let Some(notice) = notice {
                return Ok(notice);
            }
        }
    }

    async fn reopen(&mut self) -> Result<Option<Notice>> {
        self.pause().await;
        match self.engine.watch(self.scope.clone(), self.next).await {
            Ok(feed) => {
                self.stage = Stage::Follows(feed);
                Ok(self.attempts.take().map(|_| Notice::Resumed))
            }
            Err(error) => self.interrupted(error),
        }
    }

    async fn relist(&mut self) -> Result<Option<Notice>> {
        self.pause().await;
        match page::all(&*self.engine, &self.scope).await {
            Ok((revision, entries)) => {
                self.next = revision.next();
                self.stage = Stage::Away;
                self.attempts = None;
                Ok(Some(Notice::Relisted { revision, entries }))
            }
            Err(error) => self.interrupted(error),
        }
    }

    async fn pause(&mut self) {
        if let Some(attempts) = self.attempts {
            let pause = PAUSES_MS[attempts.min(PAUSES_MS.len() - 1)];
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Counts a failure that trying again may mend. It is told once.
    fn interrupted(&mut self, error: Error) -> Result<Option<Notice>> {
        let first = self.attempts.is_none();
        self.attempts = Some(self.attempts.map_or(0, |attempts| attempts + 1));
        match error {
            Error::Unavailable { .. } => {
                Ok(first.then(|| Notice::Interrupted { reason: Chain(&error).to_string() }))
            }
            error => Err(error),
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("scope", &self.scope).field("next", &self.next).finish_non_exhaustive()
    }
}
