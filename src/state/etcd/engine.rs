//! The store's operations as requests to etcd (<https://etcd.io/docs/v3.4/learning/api/>).

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::{PbKeyValue, PbRangeResponse, PbTxnOpResponse, PbTxnResponse};
use etcd_client::{Client, Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp};

use super::super::engine::{Engine, Feed, Outcome, Reply};
use super::super::key::{Key, Scope};
use super::super::lease::{self, LeaseId};
use super::super::page::{Page, Query, compacted, still_to_come};
use super::super::revision::Revision;
use super::super::store::ClusterStore;
use super::super::transaction::{Check, Condition, Transaction, Write};
use super::fault::{COMPACTED, FUTURE, Fault, says};
use super::feed::{self, EtcdFeed};
use super::layout::{FORMAT, Layout};
use super::members::{Members, Request};
use super::spec::EtcdSpec;
use crate::error::{Chain, Error, Result};

/// The largest answer that is taken. A page that is larger is read in parts.
const ANSWER_BYTES_MAX: usize = 16 << 20;

struct Etcd {
    members: Members,
    layout: Layout,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints: Vec<_> = self.members.endpoints().collect();
        f.debug_struct("Etcd").field("endpoints", &endpoints).field("prefix", &self.layout.prefix()).finish()
    }
}

impl ClusterStore {
    /// The store of a cluster on etcd 3.4 or newer. An empty one is made if there is none yet.
    ///
    /// Call it within the tokio runtime that the store is used in: its connections are tasks of it.
    ///
    /// No call waits longer than the spec's time-out. While a member does not answer, the others are asked.
    ///
    /// If another etcd takes the place of this one behind an endpoint, or an older state of it that was restored, all calls and watches
    /// end with [`Error::Differs`] from then on: connect anew, and read everything again. A change that met it first is
    /// [`Error::OutcomeUnknown`]. It is known by its cluster's id, or by a revision that is less than one that was seen; one that has the
    /// same id, and has passed that revision before the next call, is not told from this one.
    ///
    /// # Errors
    /// - [`Error::Invalid`] if the spec breaks a rule, [`Error::Os`] if a file of `tls` cannot be read.
    /// - [`Error::Unavailable`] if no member can be reached, most of them are down, or nothing there speaks etcd's protocol.
    /// - [`Error::Denied`] if a certificate, the password or a role does not suffice.
    /// - [`Error::Unsupported`] if it is no etcd, or one older than 3.4, or a newer version of this library made the store.
    /// - [`Error::Differs`] if the endpoints are of different etcds.
    pub async fn etcd(spec: &EtcdSpec) -> Result<Self> {
        let etcd = Etcd { members: Members::new(spec)?, layout: Layout::new(&spec.cluster) };
        etcd.open().await?;
        Ok(Self { engine: Arc::new(etcd) })
    }
}

/// etcd's numbers have a sign. What is beyond them is still to come.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Etcd {
    /// Reads the form of what is there, or writes it if there is nothing.
    async fn open(&self) -> Result<()> {
        let read = |client| self.found(client, self.layout.format(), GetOptions::new());
        let mut found = self.members.ask_each(Request::Read, read).await?.0.kvs;
        if found.is_empty() {
            let key = self.layout.format();
            let txn = Txn::new()
                .when([Compare::create_revision(key.as_str(), CompareOp::Equal, 0)])
                .and_then([TxnOp::put(key.as_str(), FORMAT, None)])
                .or_else([TxnOp::get(key.as_str(), None)]);
            let create = |client| self.done(client, txn.clone());
            let (answer, _) = self.members.ask(Request::Repeatable("the form of the store"), create).await?;
            found = ranges(answer).into_iter().flatten().collect();
        }
        let format = found.pop().map_or_else(|| FORMAT.into(), |found| found.value);
        if format == FORMAT.as_bytes() {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: format!(
                "the store beneath `{}`, of form {:?}",
                self.layout.prefix(),
                String::from_utf8_lossy(&format)
            ),
            needs: format!("this program knows form {FORMAT}: use a newer one"),
        })
    }

    async fn found(
        &self,
        client: Arc<Client>,
        first: String,
        options: GetOptions,
    ) -> Result<(PbRangeResponse, Revision), Fault> {
        let seen = self.members.seen();
        let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
        let answer = kv.get(first, Some(options)).await?;
        let revision = self.members.revision(answer.header(), seen)?;
        Ok((answer.0, revision))
    }

    async fn done(&self, client: Arc<Client>, txn: Txn) -> Result<(PbTxnResponse, Revision), Fault> {
        let seen = self.members.seen();
        let answer = client.kv_client().txn(txn).await?;
        match self.members.revision(answer.header(), seen) {
            // It was done, but where?
            Err(Fault::Final(error)) if answer.succeeded() => Err(Fault::Lost(Chain(&error).to_string())),
            revision => Ok((answer.0, revision?)),
        }
    }

    async fn page(&self, query: Query) -> Result<Page> {
        let (first, end) = self.layout.range(&query.scope, query.after.as_ref());
        let at = match query.at {
            // For etcd 0 is the present.
            Some(Revision(0)) => return Err(compacted()),
            at => at.map_or(0, |at| signed(at.0)),
        };
        let mut limit = query.limit;
        loop {
            let read = |client| {
                let options = GetOptions::new().with_range(end.as_str()).with_revision(at);
                let answer = self.found(client, first.clone(), options.with_limit(signed(limit as u64)));
                async move {
                    match answer.await {
                        Err(Fault::TooLarge) if limit > 1 => Ok(None),
                        answer => answer.map(Some),
                    }
                }
            };
            let answer =
                self.members.ask(Request::Read, read).await.map_err(|error| match (error, query.at) {
                    // Nothing else of a read can be wrong.
                    (Error::Invalid { .. }, Some(at)) => still_to_come(at),
                    (error, _) => error,
                });
            if let Some((answer, now)) = answer? {
                let entries =
                    answer.kvs.into_iter().map(|found| self.layout.entry(found)).collect::<Result<_>>()?;
                return Ok(Page { entries, more: answer.more, revision: query.at.unwrap_or(now) });
            }
            limit /= 2;
        }
    }

    /// `transaction` for etcd. If it is refused, etcd tells what it has of each key of [`checked`].
    fn txn(&self, transaction: &Transaction) -> Txn {
        let compare = |check: &Check| {
            let key = self.layout.key(&check.key);
            // For etcd a key that is not there was made at 0.
            let number = |revision: Revision| if revision.0 == 0 { -1 } else { signed(revision.0) };
            match check.condition {
                Condition::Absent => Compare::create_revision(key, CompareOp::Equal, 0),
                Condition::CreatedAt(at) => Compare::create_revision(key, CompareOp::Equal, number(at)),
                Condition::ModifiedAt(at) => Compare::mod_revision(key, CompareOp::Equal, number(at)),
            }
        };
        let write = |write: &Write| match write {
            Write::Put { key, value, lease } => {
                let options = lease.map(|lease| PutOptions::new().with_lease(signed(lease.0)));
                TxnOp::put(self.layout.key(key), value.as_bytes(), options)
            }
            Write::Delete { key } => TxnOp::delete(self.layout.key(key), None),
        };
        let look = |key: String| TxnOp::get(key, Some(GetOptions::new().with_keys_only()));
        let mut writes: Vec<_> = transaction.writes.iter().map(write).collect();
        if writes.is_empty() {
            // etcd would answer a transaction without any operation from what one member happens to know.
            writes.push(look(self.layout.format()));
        }
        let looks = checked(transaction).into_iter().map(|key| look(self.layout.key(key)));
        Txn::new()
            .when(transaction.checks.iter().map(compare).collect::<Vec<_>>())
            .and_then(writes)
            .or_else(looks.collect::<Vec<_>>())
    }

    async fn transact(&self, transaction: &Transaction) -> Result<Outcome> {
        let subject = transaction.subject();
        let kind = if transaction.writes.is_empty() { Request::Read } else { Request::Once(&subject) };
        let txn = self.txn(transaction);
        let answer = self.members.ask(kind, |client| self.done(client, txn.clone())).await;
        let (answer, revision) = answer.map_err(|error| match error {
            Error::NotFound { .. } => {
                Error::NotFound { what: format!("a lease of the transaction of {subject}") }
            }
            error => error,
        })?;
        if answer.succeeded {
            return Ok(Outcome::Committed(revision));
        }
        let found: HashMap<&Key, _> = checked(transaction).into_iter().zip(ranges(answer)).collect();
        let holds = |check: &Check| {
            let entry = found.get(&check.key).and_then(|found| found.first());
            check.condition.holds(entry.map(|entry| {
                (
                    Revision(entry.create_revision.cast_unsigned()),
                    Revision(entry.mod_revision.cast_unsigned()),
                )
            }))
        };
        let refused: BTreeSet<&Key> =
            transaction.checks.iter().filter(|check| !holds(check)).map(|check| &check.key).collect();
        Ok(Outcome::Refused(refused.into_iter().cloned().collect()))
    }

    async fn follow(&self, scope: Scope, from: Revision) -> Result<Box<dyn Feed>> {
        let (first, end) = self.layout.range(&scope, None);
        let open = |client: Arc<Client>| {
            let stream = feed::open(Arc::clone(&client), first.clone(), end.clone(), signed(from.0));
            let look = self.found(client, self.layout.format(), GetOptions::new().with_keys_only());
            async move {
                let stream = stream.await?;
                // Another etcd in the place of this one would let a watch wait for a revision that was here long ago.
                look.await?;
                Ok(stream)
            }
        };
        let stream = self.members.ask(Request::Read, open).await?;
        Ok(Box::new(EtcdFeed::new(stream, self.layout.clone(), from)))
    }

    async fn renew(&self, id: LeaseId) -> Result<Duration> {
        let what = format!("lease {id}");
        let renew = |client: Arc<Client>| async move {
            let (mut keeper, mut answers) = client.lease_client().keep_alive(signed(id.0)).await?;
            // The client keeps the time in the first answer to itself.
            keeper.keep_alive().await.map_err(|error| Fault::Lost(error.to_string()))?;
            let answer = answers.message().await?.ok_or_else(|| Fault::Lost("the stream ended".into()))?;
            self.members.check_cluster(answer.header())?;
            match u64::try_from(answer.ttl()) {
                Ok(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
                _ => Err(Fault::Final(lease::gone(id))),
            }
        };
        self.members.ask(Request::Repeatable(&what), renew).await.map_err(|error| match error {
            Error::NotFound { .. } => lease::gone(id),
            error => error,
        })
    }
}

/// The keys that a transaction checks, each once.
fn checked(transaction: &Transaction) -> BTreeSet<&Key> {
    transaction.checks.iter().map(|check| &check.key).collect()
}

/// What a transaction's reads found.
fn ranges(answer: PbTxnResponse) -> Vec<Vec<PbKeyValue>> {
    let responses = answer.responses.into_iter().filter_map(|response| response.response);
    let found = |response| match response {
        PbTxnOpResponse::ResponseRange(range) => Some(range.kvs),
        _ => None,
    };
    responses.filter_map(found).collect()
}

impl Engine for Etcd {
    fn read(&self, query: Query) -> Reply<'_, Page> {
        Box::pin(self.page(query))
    }

    fn commit<'a>(&'a self, transaction: &'a Transaction) -> Reply<'a, Outcome> {
        Box::pin(self.transact(transaction))
    }

    fn watch(&self, scope: Scope, from: Revision) -> Reply<'_, Box<dyn Feed>> {
        Box::pin(self.follow(scope, from))
    }

    fn grant(&self, seconds: u64) -> Reply<'_, (LeaseId, Duration)> {
        Box::pin(self.members.ask(
            Request::Repeatable("a new lease"),
            move |client: Arc<Client>| async move {
                let answer = client.lease_client().grant(signed(seconds), None).await?;
                self.members.check_cluster(answer.header())?;
                let given = Duration::from_secs(answer.ttl().cast_unsigned());
                Ok((LeaseId(answer.id().cast_unsigned()), given))
            },
        ))
    }

    fn keep_alive(&self, lease: LeaseId) -> Reply<'_, Duration> {
        Box::pin(self.renew(lease))
    }

    fn revoke(&self, lease: LeaseId) -> Reply<'_, ()> {
        Box::pin(async move {
            let what = format!("lease {lease}");
            let revoke = |client: Arc<Client>| async move {
                client.lease_client().revoke(signed(lease.0)).await?;
                Ok(())
            };
            match self.members.ask(Request::Repeatable(&what), revoke).await {
                Err(Error::NotFound { .. }) => Ok(()),
                answer => answer,
            }
        })
    }

    fn compact(&self, revision: Revision) -> Reply<'_, ()> {
        Box::pin(async move {
            let compact = |client: Arc<Client>| async move {
                match client.kv_client().compact(signed(revision.0), None).await {
                    Err(error) if says(&error, COMPACTED) => Ok(()),
                    Err(error) if says(&error, FUTURE) => {
                        let rule =
                            "is still to come: nothing later than the store's revision can be forgotten";
                        Err(Error::invalid("revision to compact", revision.to_string(), rule).into())
                    }
                    answer => answer.map(drop).map_err(Fault::from),
                }
            };
            self.members.ask(Request::Repeatable("the store's history"), compact).await
        })
    }
}
