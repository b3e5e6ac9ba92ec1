//! The work of a master: it follows the store, and decides while it holds the office.

use std::future::Future;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::{Master, MasterRecord, Standing};
use crate::cluster::decide::{Absences, Decision, Moment, View, due};
use crate::error::{Chain, Error, Result};
use crate::state::{Held, Key, Watch};

/// How long the office outlasts a master that is gone.
const OFFICE: Duration = Duration::from_secs(10);
/// How long to wait before the store is asked again after it failed.
const RETRY: Duration = Duration::from_millis(500);
/// How many requests wait for their turn.
const WAITING_MAX: usize = 64;
/// How many times a decision is made anew because the records changed meanwhile.
const ATTEMPTS: usize = 5;

/// Somebody's request: called with the records, it gives a decision, and what to do when that has come to its end.
pub(super) struct Request(Box<dyn Asked>);

trait Asked: Send {
    /// What to decide. `None`: it has been answered.
    fn decide(&mut self, view: &View, standing: Standing<'_>) -> Option<Decision>;
    /// It has come to its end: carried out, or not.
    fn end(self: Box<Self>, end: Result<()>);
}

struct Question<T, F> {
    decide: F,
    made: Option<T>,
    answer: Option<oneshot::Sender<Result<T>>>,
}

impl<T, F> Asked for Question<T, F>
where
    T: Send,
    F: FnMut(&View, Standing<'_>) -> Result<(T, Option<Decision>)> + Send,
{
    fn decide(&mut self, view: &View, standing: Standing<'_>) -> Option<Decision> {
        let end = match (self.decide)(view, standing) {
            Ok((made, Some(decision))) => {
                self.made = Some(made);
                return Some(decision);
            }
            Ok((made, None)) => Ok(made),
            Err(error) => Err(error),
        };
        // Nobody waits any more: then it is of no interest either.
        let _ = self.answer.take().map(|answer| answer.send(end));
        None
    }

    fn end(mut self: Box<Self>, end: Result<()>) {
        let end = end.and_then(|()| {
            self.made.take().ok_or_else(|| Error::Unavailable {
                what: "the leading master".to_owned(),
                reason: "it ended before it decided: ask again".to_owned(),
            })
        });
        let _ = self.answer.take().map(|answer| answer.send(end));
    }
}

/// Requests are taken while this lives. Those that wait at its end are told that the master is gone.
struct Open<'a>(&'a Master);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        *self.0.requests() = None;
    }
}

impl Master {
    pub(super) async fn ask<T, F>(&self, decide: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&View, Standing<'_>) -> Result<(T, Option<Decision>)> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let request = Request(Box::new(Question { decide, made: None, answer: Some(answer) }));
        let gone = || Error::Unavailable {
            what: "the master".to_owned(),
            reason: "it does not run: ask another".to_owned(),
        };
        let requests = self.requests().clone().ok_or_else(gone)?;
        requests.send(request).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Follows the store, stands for election, and decides while it leads, until `stop`.
    ///
    /// # Errors
    /// [`Error::Busy`] if it runs already; [`Error::Damaged`], [`Error::Unsupported`] or [`Error::Differs`] if a record cannot be read: no master
    /// decides on what it does not know; [`Error::Denied`].
    pub async fn run(&self, stop: impl Future<Output = ()>) -> Result<()> {
        let twice = || Error::Busy { what: "the master".to_owned(), reason: "it runs already".to_owned() };
        let mut watch = self.0.watch.try_lock().map_err(|_| twice())?;
        let (requests, mut turns) = mpsc::channel(WAITING_MAX);
        *self.requests() = Some(requests);
        let _open = Open(self);
        tokio::select! {
            error = self.follow(&mut watch) => Err(error),
            () = self.stand(&mut turns) => Ok(()),
            () = stop => Ok(()),
        }
    }

    fn requests(&self) -> MutexGuard<'_, Option<mpsc::Sender<Request>>> {
        self.0.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the mirror as the store is.
    async fn follow(&self, watch: &mut Watch) -> Error {
        loop {
            let notice = match watch.next().await {
                Ok(notice) => notice,
                Err(error) => return error,
            };
            let mut mirror = self.0.mirror.write().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = mirror.follow(notice) {
                return error;
            }
            self.0.seen.send_replace(mirror.seen());
        }
    }

    /// Stands for election again and again, and refuses requests while it does not lead.
    async fn stand(&self, turns: &mut mpsc::Receiver<Request>) {
        loop {
            let elected = self.campaign();
            tokio::pin!(elected);
            let held = loop {
                tokio::select! {
                    elected = &mut elected => break elected,
                    Some(request) = turns.recv() => request.0.end(Err(self.not_leading().await)),
                }
            };
            let end = match held {
                Ok(held) => self.lead(&held, turns).await,
                Err(error) => Err(error),
            };
            if let Err(error) = end {
                tracing::warn!(error = %Chain(&error), "does not lead");
                sleep(RETRY).await;
            }
        }
    }

    async fn campaign(&self) -> Result<Held> {
        let lease = self.0.store.lease(OFFICE).await?;
        self.0.store.campaign(&office()?, &self.0.record, &lease).await
    }

    async fn not_leading(&self) -> Error {
        let leader = match office() {
            Ok(office) => self.0.store.leader::<MasterRecord>(&office).await,
            Err(error) => Err(error),
        };
        let reason = match leader {
            Ok(Some(leader)) => format!("another master leads: ask {}", leader.value.url),
            Ok(None) => "no master leads: ask again".to_owned(),
            Err(error) => return error,
        };
        Error::Unavailable { what: "the leading master".to_owned(), reason }
    }

    /// Decides for as long as the office is held, or until the store fails.
    async fn lead(&self, held: &Held, turns: &mut mpsc::Receiver<Request>) -> Result<()> {
        tracing::info!("leads");
        let begin = Instant::now();
        let mut absences = Absences::default();
        let mut seen = self.0.seen.subscribe();
        self.catch_up().await?;
        loop {
            let now = Moment(begin.elapsed());
            self.look(|view| absences.note(view, now));
            let timing = self.0.settings.timing;
            let decisions = self.look(|view| due(view, &absences, now, &timing));
            for decision in &decisions {
                match self.carry_out(held, decision).await {
                    // Others changed something: what is due now is looked for anew.
                    Ok(()) | Err(Error::Conflict { .. }) if held.is_held() => {}
                    end => return end,
                }
            }
            if !decisions.is_empty() {
                continue;
            }
            let next = absences.next(now, &timing).map_or(OFFICE, |at| at.0.saturating_sub(now.0));
            tokio::select! {
                () = held.lost() => return Ok(()),
                Some(request) = turns.recv() => {
                    let standing = |now| Standing { absences: &absences, now, timing: &timing };
                    self.answer(held, request, || standing(Moment(begin.elapsed()))).await?;
                }
                _ = seen.changed() => {}
                () = sleep(next) => {}
            }
        }
    }

    /// Decides what somebody asks for, anew if the records changed meanwhile.
    async fn answer<'a>(
        &self,
        held: &Held,
        mut request: Request,
        standing: impl Fn() -> Standing<'a>,
    ) -> Result<()> {
        for attempt in 1.. {
            let Some(decision) = self.look(|view| request.0.decide(view, standing())) else { return Ok(()) };
            match self.carry_out(held, &decision).await {
                Ok(()) => {
                    request.0.end(Ok(()));
                    return Ok(());
                }
                Err(Error::Conflict { .. }) if attempt < ATTEMPTS && held.is_held() => {}
                Err(error) => {
                    request.0.end(Err(error));
                    // What became of it is seen before anything else is decided.
                    return self.catch_up().await;
                }
            }
        }
        Ok(())
    }

    /// Carries a decision out, and waits until it is seen here.
    async fn carry_out(&self, held: &Held, decision: &Decision) -> Result<()> {
        if decision.writes.is_empty() {
            return Ok(());
        }
        let change = {
            let mirror = self.0.mirror.read().unwrap_or_else(PoisonError::into_inner);
            mirror.transaction(decision, held.fence())?
        };
        match self.0.store.commit(change).await {
            Ok(revision) => {
                tracing::info!(reason = %decision.reason, "decided");
                self.see(revision).await
            }
            Err(error @ Error::Conflict { .. }) => {
                self.catch_up().await?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }
}

fn office() -> Result<Key> {
    Key::new("leader")
}
