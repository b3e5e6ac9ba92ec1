//! What the thread that writes is asked for, each with where the answer goes.

use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::super::engine::Outcome;
use super::super::lease::LeaseId;
use super::super::revision::Revision;
use super::super::transaction::Transaction;
use crate::error::{Error, Result};

pub(super) struct Request {
    pub(super) order: Order,
    /// Bounds how many wait.
    pub(super) _place: OwnedSemaphorePermit,
}

pub(super) enum Order {
    Commit(Transaction, Answer<Outcome>),
    Grant(u64, Answer<(LeaseId, Duration)>),
    KeepAlive(LeaseId, Answer<Duration>),
    Revoke(LeaseId, Answer<()>),
    Compact(Revision, Answer<()>),
}

/// Where an answer goes. Whoever asked may have gone.
pub(super) type Answer<T> = oneshot::Sender<Result<T>>;

/// What became of an order.
pub(super) enum Fate {
    Decided(Outcome),
    Granted(LeaseId, Duration),
    Done,
    Refused(Error),
}

impl Order {
    /// What it is about, for errors.
    pub(super) fn subject(&self) -> String {
        match self {
            Self::Commit(transaction, _) => transaction.subject(),
            Self::Grant(..) => "a new lease".into(),
            Self::KeepAlive(id, _) | Self::Revoke(id, _) => format!("lease {id}"),
            Self::Compact(..) => "the history".into(),
        }
    }

    /// How many bytes it writes.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Commit(transaction, _) => transaction.size(),
            _ => 0,
        }
    }

    pub(super) fn answer(self, fate: Fate) {
        match (self, fate) {
            (order, Fate::Refused(error)) => order.fail(error),
            (Self::Commit(_, answer), Fate::Decided(outcome)) => drop(answer.send(Ok(outcome))),
            (Self::Grant(_, answer), Fate::Granted(id, time)) => drop(answer.send(Ok((id, time)))),
            (Self::Revoke(_, answer) | Self::Compact(_, answer), Fate::Done) => drop(answer.send(Ok(()))),
            // Each order has its kind of fate; whoever waits is told that the answer is lost.
            _ => {}
        }
    }

    pub(super) fn fail(self, error: Error) {
        match self {
            Self::Commit(_, answer) => drop(answer.send(Err(error))),
            Self::Grant(_, answer) => drop(answer.send(Err(error))),
            Self::KeepAlive(_, answer) => drop(answer.send(Err(error))),
            Self::Revoke(_, answer) | Self::Compact(_, answer) => drop(answer.send(Err(error))),
        }
    }
}
