//! What a failed request to etcd means: whether it was certainly not carried out, or may have been.
//!
//! etcd names its errors by their text alone: `api/v3rpc/rpctypes/error.go` of its source, and the same in 3.4 to 3.6.

use std::error::Error as StdError;

use etcd_client::Error as EtcdError;
use tonic::{Code, ConnectError, Status};

use super::super::page::compacted;
use crate::error::{Chain, Error};

/// Why a request was not answered.
#[derive(Debug)]
pub(super) enum Fault {
    /// It was certainly not carried out; later, or another member may. Why, and what to look at.
    Unready(String),
    /// It was certainly not carried out: one side does not trust the other. What to give.
    Untrusted(String),
    /// etcd no longer knows who asks, and carried nothing out: a new token helps.
    TokenExpired,
    /// It may have been carried out, or may yet be. How the answer was lost.
    Lost(String),
    /// The connection ended before an answer came: as [`Lost`](Self::Lost), unless nothing ever came.
    Broken(String),
    /// The answer is larger than what is taken of one.
    TooLarge,
    /// It was certainly not carried out, and never will be as it is.
    Final(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl From<EtcdError> for Fault {
    fn from(error: EtcdError) -> Self {
        match error {
            EtcdError::GRpcStatus(status) => of_status(&status),
            // How the client tells of an answer with no time in it.
            EtcdError::LeaseKeepAliveError(_) => Self::Final(lease_gone()),
            EtcdError::InvalidArgs(reason) => {
                Self::Final(Error::invalid("etcd endpoint", reason, "is not what the client takes"))
            }
            EtcdError::TransportError(error) => Self::Final(Error::invalid(
                "tls",
                "its certificates or key",
                format!("cannot be used: {}", Chain(&error)),
            )),
            error => Self::Lost(error.to_string()),
        }
    }
}

/// Whether etcd said this.
pub(super) fn says(error: &EtcdError, text: &str) -> bool {
    matches!(error, EtcdError::GRpcStatus(status) if status.message().contains(text))
}

pub(super) const COMPACTED: &str = "required revision has been compacted";
pub(super) const FUTURE: &str = "required revision is a future revision";

/// What is told of a user without the right, or whom etcd no longer knows.
pub(super) fn denied() -> Error {
    let needs = "the user needs a role that may read and write all of the cluster's keys (`etcdctl role grant-permission --prefix`)";
    Error::Denied { what: "this request to etcd".into(), needs: needs.into() }
}

fn lease_gone() -> Error {
    Error::NotFound { what: "the lease".into() }
}

/// What a status means. The client makes some itself, out of errors of the connection: only these have a source.
fn of_status(status: &Status) -> Fault {
    match status.source() {
        Some(source) => of_connection(source),
        None if status.code() == Code::Unimplemented => Fault::Final(Error::Unsupported {
            what: "a store on this endpoint".into(),
            needs: format!("it is not etcd, or older than 3.4: it says `{}`", status.message()),
        }),
        None => of_answer(status.message()),
    }
}

/// What etcd's own words mean.
fn of_answer(message: &str) -> Fault {
    let has = |text: &str| message.contains(text);
    let unready = |reason: &str| Fault::Unready(reason.into());
    let user = |needs: &str| {
        Fault::Final(Error::Denied { what: "this request to etcd".into(), needs: needs.into() })
    };
    if has("no leader") || has("not leader") || has("raft proposal dropped") {
        unready(
            "its members have no leader: most of them must run, and reach each other (`etcdctl endpoint status --cluster`)",
        )
    } else if has("too many requests") {
        unready("it has more requests than it keeps up with")
    } else if has("not supported for learner") {
        unready(
            "it is a learner, which answers no client before it is a voting member (`etcdctl member promote`)",
        )
    } else if has("not capable") {
        unready("its members are not of one version yet")
    } else if has("invalid auth token") || has("auth store is old") {
        Fault::TokenExpired
    } else if has("authentication failed") || has("user name not found") {
        user("etcd does not know the user with this password (`etcdctl user passwd`)")
    } else if has("user name is empty") {
        user("etcd has authentication on: give `user`")
    } else if has("authentication is not enabled") {
        user("etcd has authentication off: leave `user` out, or turn it on (`etcdctl auth enable`)")
    } else if has("permission denied") {
        Fault::Final(denied())
    } else if has(COMPACTED) {
        Fault::Final(compacted())
    } else if has("decoded message length too large") {
        Fault::TooLarge
    } else if has(FUTURE) {
        Fault::Final(Error::invalid("revision", "the one asked for", "is still to come"))
    } else if has("requested lease not found") {
        Fault::Final(lease_gone())
    } else if has("too large") || has("larger than max") || has("too many operations") {
        Fault::Final(Error::invalid(
            "transaction",
            message,
            "is more than this etcd takes at once: raise its --max-request-bytes and --max-txn-ops, or use several",
        ))
    } else if has("database space exceeded") {
        // Some requests are carried out all the same, with this as their answer.
        Fault::Lost("etcd's database is full: compact and defragment it, raise its --quota-backend-bytes, then `etcdctl alarm disarm`".into())
    } else if has("corrupt cluster") {
        let reason =
            "its members differ from each other: restore it from a copy (`etcdctl snapshot restore`)";
        Fault::Final(Error::Damaged { what: "etcd's database".into(), reason: reason.into() })
    } else {
        Fault::Lost(format!("etcd says `{message}`"))
    }
}

/// What an error of the connection means.
fn of_connection(error: &(dyn StdError + 'static)) -> Fault {
    let chain: Vec<&(dyn StdError + 'static)> =
        std::iter::successors(Some(error), |&error| error.source()).collect();
    let connecting = chain.iter().any(|error| error.is::<ConnectError>());
    // The outer ones say little more than that there was an error.
    let reason = chain.last().map(ToString::to_string).unwrap_or_default();
    let all = Chain(error).to_string();
    let has = |text: &str| all.contains(text);
    // What a server says to a certificate; all else may come when a request was under way.
    let alerts = ["Certificate", "UnknownCA", "AccessDenied", "HandshakeFailure"];
    if has("received fatal alert") && alerts.iter().any(|alert| has(alert)) {
        // A server that refuses a certificate has not looked at the request.
        Fault::Untrusted(format!(
            "etcd wants a certificate that its --trusted-ca-file signed, in `tls`: {reason}"
        ))
    } else if has("invalid peer certificate") {
        Fault::Untrusted(format!(
            "the endpoint's certificate was not signed by `tls.ca`, or is another's: {reason}"
        ))
    } else if connecting && (has("InvalidContentType") || has("handshake eof")) {
        Fault::Unready(format!(
            "it does not speak TLS (use http://, or another port), or ended just now: {reason}"
        ))
    } else if connecting {
        Fault::Unready(format!("it cannot be reached: {reason}"))
    } else {
        Fault::Broken(format!("the connection broke off: {reason}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &str, expected: &str) {
        let fault = format!("{:?}", Fault::from(EtcdError::GRpcStatus(Status::unknown(message))));
        assert!(fault.starts_with(expected), "{message}: {fault}");
    }

    #[test]
    fn only_what_was_certainly_not_done_is_told_as_such() {
        check("etcdserver: no leader", "Unready");
        check("etcdserver: not leader", "Unready");
        check("etcdserver: too many requests", "Unready");
        check("raft proposal dropped", "Unready");
        check("etcdserver: rpc not supported for learner", "Unready");
        check("etcdserver: invalid auth token", "TokenExpired");
        check("etcdserver: revision of auth store is old", "TokenExpired");
        check("etcdserver: permission denied", "Final(Denied");
        check("etcdserver: user name is empty", "Final(Denied");
        check("etcdserver: authentication failed, invalid user ID or password", "Final(Denied");
        check("etcdserver: mvcc: required revision has been compacted", "Final(Conflict");
        check("etcdserver: mvcc: required revision is a future revision", "Final(Invalid");
        check("etcdserver: requested lease not found", "Final(NotFound");
        check("etcdserver: request is too large", "Final(Invalid");
        check("etcdserver: too many operations in txn request", "Final(Invalid");
        check("etcdserver: corrupt cluster", "Final(Damaged");
        for lost in [
            "etcdserver: request timed out",
            "etcdserver: request timed out, possibly due to previous leader failure",
            "etcdserver: request timed out, possibly due to connection lost",
            "etcdserver: leader changed",
            "etcdserver: server stopped",
            "etcdserver: mvcc: database space exceeded",
            "context deadline exceeded",
            "raft: stopped",
            "transport is closing",
            "",
        ] {
            check(lost, "Lost");
        }
    }

    #[test]
    fn what_was_never_sent_was_not_done() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let status = Status::from_error(Box::new(ConnectError(Box::new(refused))));
        assert!(matches!(of_status(&status), Fault::Unready(_)), "{status:?}");
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(matches!(of_status(&Status::from_error(Box::new(broken))), Fault::Broken(_)));
    }
}
