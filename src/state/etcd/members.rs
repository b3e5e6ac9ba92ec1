//! Asking one of etcd's members, and another if it does not answer (<https://etcd.io/docs/v3.4/learning/design-client/>).
//!
//! The client's own balancer spreads requests over all members, also over those that hang. Here one member is asked as long as it
//! answers, and each failure tells whether the request may be sent again.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, ResponseHeader};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout_at};

use super::super::revision::Revision;
use super::fault::{Fault, denied};
use super::spec::EtcdSpec;
use crate::error::{Error, Result};

/// How long to wait once every member has failed, before the next round.
const PAUSE: Duration = Duration::from_millis(100);

/// What may become of a request whose answer is lost.
#[derive(Debug, Clone, Copy)]
pub(super) enum Request<'a> {
    /// It changes nothing.
    Read,
    /// It changes this, and doing so twice is as good as once.
    Repeatable(&'a str),
    /// It changes this, and must not be sent twice.
    Once(&'a str),
}

/// The members of one etcd.
pub(super) struct Members {
    members: Vec<Member>,
    /// Which one is asked.
    current: AtomicUsize,
    timeout: Duration,
    /// Which etcd they are of (`etcdctl member list -w json`).
    cluster_id: OnceLock<u64>,
    /// The greatest revision that an answer had.
    seen: AtomicU64,
    /// Whether another etcd has answered in the place of this one. From then on nothing is sent any more.
    replaced: AtomicBool,
}

struct Member {
    endpoint: String,
    options: ConnectOptions,
    /// Made when it is first needed: with a user, to make it takes an answer of the member.
    client: OnceCell<Arc<Client>>,
}

impl Members {
    pub(super) fn new(spec: &EtcdSpec) -> Result<Self> {
        let options = spec.options()?;
        let member = |endpoint: &String| Member {
            endpoint: endpoint.clone(),
            options: options.clone(),
            client: OnceCell::new(),
        };
        Ok(Self {
            members: spec.endpoints.iter().map(member).collect(),
            current: AtomicUsize::new(0),
            timeout: spec.timeout(),
            cluster_id: OnceLock::new(),
            seen: AtomicU64::new(0),
            replaced: AtomicBool::new(false),
        })
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| &*member.endpoint)
    }

    /// Sends a request until it is answered: again after a failure that certainly left nothing done, and after any failure if
    /// `kind` allows it, for as long as the time-out lasts.
    pub(super) async fn ask<T, F>(&self, kind: Request<'_>, request: impl Fn(Arc<Client>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        self.ask_rounds(usize::MAX, kind, request).await
    }

    /// As [`ask`](Self::ask), each member once at most.
    pub(super) async fn ask_each<T, F>(
        &self,
        kind: Request<'_>,
        request: impl Fn(Arc<Client>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        self.ask_rounds(1, kind, request).await
    }

    async fn ask_rounds<T, F>(
        &self,
        rounds: usize,
        kind: Request<'_>,
        request: impl Fn(Arc<Client>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut failure = None;
        for failed in 1.. {
            let index = self.current.load(Ordering::Relaxed);
            let member = &self.members[index];
            let left = deadline.saturating_duration_since(Instant::now());
            // A member that hangs must not take the time of the others. What cannot be sent again has no need of them.
            let shared = failed < self.members.len() && !matches!(kind, Request::Once(_));
            let fault = match self.attempt(member, if shared { left / 2 } else { left }, &request).await {
                Ok(answer) => return Ok(answer),
                Err(Fault::Final(error)) => return Err(error),
                Err(fault) => fault,
            };
            let next = (index + 1) % self.members.len();
            let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
            let latest = member.failure(kind, fault);
            tracing::debug!(error = %latest, "a member of etcd did not answer");
            if matches!((kind, &latest), (Request::Once(_), Error::OutcomeUnknown { .. })) {
                return Err(latest);
            }
            if failure.as_ref().is_none_or(|worst| weight(&latest) >= weight(worst)) {
                failure = Some(latest);
            }
            let pause = if failed % self.members.len() == 0 { PAUSE } else { Duration::ZERO };
            if failed >= rounds.saturating_mul(self.members.len()) || Instant::now() + pause >= deadline {
                break;
            }
            sleep(pause).await;
        }
        Err(failure.unwrap_or_else(|| unreachable!("there is at least one endpoint")))
    }

    async fn attempt<T, F>(
        &self,
        member: &Member,
        limit: Duration,
        request: impl Fn(Arc<Client>) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        if self.replaced.load(Ordering::Relaxed) {
            let difference = "another one answers in its place, or an older state of it: what was read before may never have been there; connect anew";
            return Err(Fault::Final(Error::Differs { what: "etcd".into(), difference: difference.into() }));
        }
        let silent = || format!("it did not answer within {limit:?}");
        let deadline = Instant::now() + limit;
        let client = match timeout_at(deadline, self.client(member)).await {
            Ok(Ok(client)) => client,
            // Nothing was asked for yet.
            Ok(Err(Fault::Lost(reason) | Fault::Broken(reason))) => return Err(Fault::Unready(reason)),
            Ok(Err(fault)) => return Err(fault),
            Err(_) => return Err(Fault::Unready(silent())),
        };
        let answer = timeout_at(deadline, async {
            match request(Arc::clone(client)).await {
                Err(Fault::TokenExpired) => client.refresh_token().await?,
                answer => return answer,
            }
            match request(Arc::clone(client)).await {
                Err(Fault::TokenExpired) => Err(Fault::Final(denied())),
                answer => answer,
            }
        });
        answer.await.unwrap_or_else(|_| Err(Fault::Lost(silent())))
    }

    /// The member's client. The first time the member shows that it is an etcd, new enough, and the same as the others.
    async fn client<'a>(&self, member: &'a Member) -> Result<&'a Arc<Client>, Fault> {
        let connect = || async {
            match self.meet(member).await {
                // It may just have ended. Then nothing listens there any more.
                Err(Fault::Broken(_)) => {}
                met => return met,
            }
            self.meet(member).await.map_err(|fault| match fault {
                Fault::Broken(reason) => member.hangs_up(&reason),
                fault => fault,
            })
        };
        member.client.get_or_try_init(connect).await
    }

    async fn meet(&self, member: &Member) -> Result<Arc<Client>, Fault> {
        let mut client = Client::connect([&member.endpoint], Some(member.options.clone())).await?;
        let status = client.status().await?;
        let version = status.version();
        if !new_enough(version) {
            return Err(Fault::Final(Error::Unsupported {
                what: format!("a store on {}, version {version}", member.name()),
                needs: "etcd 3.4 or newer".into(),
            }));
        }
        self.check_cluster(status.header())?;
        Ok(Arc::new(client))
    }

    /// What [`revision`](Self::revision) is to be given: taken before the request is sent.
    pub(super) fn seen(&self) -> Revision {
        Revision(self.seen.load(Ordering::Relaxed))
    }

    /// The revision of an answer that knows of all that was committed before it was asked for, and so of what was `seen` then.
    pub(super) fn revision(
        &self,
        header: Option<&ResponseHeader>,
        seen: Revision,
    ) -> Result<Revision, Fault> {
        let checked = self.check_cluster(header).and_then(|revision| {
            if revision >= seen {
                return Ok(revision);
            }
            let difference = format!(
                "it is at revision {revision}, and was at {seen} before: it was replaced, or restored from a copy; connect anew"
            );
            Err(Fault::Final(Error::Differs { what: "etcd".into(), difference }))
        });
        match &checked {
            Ok(revision) => drop(self.seen.fetch_max(revision.0, Ordering::Relaxed)),
            Err(Fault::Final(Error::Differs { .. })) => self.replaced.store(true, Ordering::Relaxed),
            Err(_) => {}
        }
        checked
    }

    /// That an answer is of the same etcd as the others. What its member knows may be old.
    pub(super) fn check_cluster(&self, header: Option<&ResponseHeader>) -> Result<Revision, Fault> {
        let header = header.ok_or_else(|| Fault::Lost("an answer without a header".into()))?;
        let first = *self.cluster_id.get_or_init(|| header.cluster_id());
        if first != header.cluster_id() {
            return Err(Fault::Final(Error::Differs {
                what: "etcd".into(),
                difference: format!(
                    "an endpoint belongs to cluster {:x}, not {first:x}: name the members of one, or connect anew if it was replaced",
                    header.cluster_id()
                ),
            }));
        }
        Ok(Revision(header.revision().cast_unsigned()))
    }
}

impl Member {
    fn name(&self) -> String {
        format!("etcd at {}", self.endpoint)
    }

    /// What it means if the member takes connections, and ends each before it has said a word. With TLS 1.3 a server looks at the
    /// client's certificate when the client has already gone on.
    fn hangs_up(&self, reason: &str) -> Fault {
        if self.endpoint.starts_with("https") {
            let needs =
                "a certificate that etcd's --trusted-ca-file signed, in `tls`: it hangs up on this one";
            Fault::Untrusted(format!("{needs} ({reason})"))
        } else {
            Fault::Unready(format!(
                "it does not speak etcd's protocol, or not without TLS (https://): {reason}"
            ))
        }
    }

    fn failure(&self, kind: Request<'_>, fault: Fault) -> Error {
        let what = self.name();
        match (fault, kind) {
            (Fault::Final(error), _) => error,
            (Fault::Unready(reason), _) | (Fault::Lost(reason) | Fault::Broken(reason), Request::Read) => {
                Error::Unavailable { what, reason }
            }
            (
                Fault::Lost(reason) | Fault::Broken(reason),
                Request::Repeatable(changed) | Request::Once(changed),
            ) => Error::OutcomeUnknown { what: changed.into(), reason: format!("{what}: {reason}") },
            (Fault::Untrusted(needs), _) => Error::Denied { what, needs },
            (Fault::TokenExpired, _) => denied(),
            (Fault::TooLarge, _) => Error::Damaged {
                what: "an entry of the store".into(),
                reason: "it is larger than the store ever writes one: delete it (`etcdctl del`)".into(),
            },
        }
    }
}

/// Which of several failures is told: one that leaves it unknown what was done, whatever came after it.
fn weight(error: &Error) -> u8 {
    match error {
        Error::OutcomeUnknown { .. } => 2,
        Error::Denied { .. } => 1,
        _ => 0,
    }
}

/// Whether this is 3.4 or newer.
fn new_enough(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (3, 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (version, enough) in [
            ("3.4.23", true),
            ("3.10.0", true),
            ("4.0.0-rc1", true),
            ("3.3.27", false),
            ("2.3.8", false),
            ("", false),
        ] {
            assert_eq!(new_enough(version), enough, "{version}");
        }
    }
}
