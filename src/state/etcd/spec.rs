//! How etcd is reached (`man 1 etcd`): its members, and what they are shown to let this program in.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::name::ClusterName;

const TIMEOUT_MS: u64 = 4_000;
/// How often a connection that watches is asked for a sign of life. etcd cuts off whoever asks more often than once in 5 seconds
/// (`--grpc-keepalive-min-time`), and whoever asks without a stream open at all: there the time-out of the next request does it.
const SIGN_OF_LIFE: Duration = Duration::from_secs(6);

/// Where the store of a cluster is, for [`ClusterStore::etcd`](crate::state::ClusterStore::etcd).
///
/// ```
/// # use docklet::state::EtcdSpec;
/// let spec: EtcdSpec = serde_json::from_str(r#"{ "cluster": "lab", "endpoints": ["http://127.0.0.1:2379"] }"#)?;
/// assert_eq!(spec.timeout_ms, 4_000);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdSpec {
    /// Which cluster's store: its keys are beneath `/docklet/CLUSTER/`.
    pub cluster: ClusterName,
    /// The members' client addresses: `https://10.0.0.1:2379`. At least one; they are tried in this order. All of one etcd.
    pub endpoints: Vec<String>,
    /// For `https`. Default: none, and then all endpoints must be `http`.
    #[serde(default)]
    pub tls: Option<EtcdTls>,
    /// Who to be, where etcd has authentication on. Default: nobody, or whom the client certificate names.
    #[serde(default)]
    pub user: Option<EtcdUser>,
    /// How long a call waits at most, in milliseconds: 500 to 60,000. Default: 4,000.
    #[serde(default = "timeout_default")]
    pub timeout_ms: u64,
}

/// Files with certificates, as PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdTls {
    /// Whoever signed etcd's certificates (its `--trusted-ca-file`).
    pub ca: PathBuf,
    /// This program's own certificate. Default: none, for an etcd without `--client-cert-auth`.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// The key of `certificate`. Both or none.
    #[serde(default)]
    pub key: Option<PathBuf>,
}

/// A user of etcd (`etcdctl user add`). It needs a role that may read and write `/docklet/CLUSTER/` and all beneath.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdUser {
    /// The name.
    pub name: String,
    /// The password. `Debug` does not show it.
    pub password: String,
}

impl fmt::Debug for EtcdUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdUser").field("name", &self.name).finish_non_exhaustive()
    }
}

fn timeout_default() -> u64 {
    TIMEOUT_MS
}

impl EtcdSpec {
    /// The store of `cluster` at these endpoints, without TLS and user.
    pub fn new(cluster: ClusterName, endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        Self { cluster, endpoints, tls: None, user: None, timeout_ms: TIMEOUT_MS }
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// The rules that need no server, and the files: what the client is to be told.
    pub(super) fn options(&self) -> Result<ConnectOptions> {
        if !(500..=60_000).contains(&self.timeout_ms) {
            return Err(Error::invalid("timeout_ms", self.timeout_ms.to_string(), "must be 500 to 60,000"));
        }
        if self.endpoints.is_empty() {
            return Err(Error::invalid("endpoints", "[]", "names at least one: http://127.0.0.1:2379"));
        }
        for endpoint in &self.endpoints {
            self.check_endpoint(endpoint)?;
        }
        let timeout = self.timeout();
        let mut options = ConnectOptions::new()
            .with_connect_timeout(timeout / 2)
            .with_keep_alive(SIGN_OF_LIFE, timeout)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true);
        if let Some(user) = &self.user {
            // The client sends a request again only if etcd refused its token, which it looks at first of all.
            options = options.with_user(&user.name, &user.password).with_auto_token_refresh(true);
        }
        if let Some(tls) = &self.tls {
            options = options.with_tls(tls.options()?);
        }
        Ok(options)
    }

    fn check_endpoint(&self, endpoint: &str) -> Result<()> {
        let refused = |rule: &str| Err(Error::invalid("endpoint", endpoint, rule));
        let (rest, tls) = match (endpoint.strip_prefix("http://"), endpoint.strip_prefix("https://")) {
            (Some(rest), None) => (rest, false),
            (None, Some(rest)) => (rest, true),
            _ => return refused("begins with http:// or https://"),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        let port = rest
            .rsplit_once(':')
            .and_then(|(host, port)| port.parse::<u16>().ok().filter(|_| !host.is_empty()));
        if port.is_none() || !rest.chars().all(plain) {
            return refused("is a host and a port, without a path: https://10.0.0.1:2379");
        }
        match (tls, &self.tls) {
            (true, None) => {
                refused("is https: give `tls`, with the file of the authority that signed its certificate")
            }
            (false, Some(_)) => refused("is http, but `tls` is given: use https://, or leave `tls` out"),
            _ => Ok(()),
        }
    }
}

impl EtcdTls {
    fn options(&self) -> Result<TlsOptions> {
        let options = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&self.ca, "CERTIFICATE")?));
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                let identity =
                    Identity::from_pem(read(certificate, "CERTIFICATE")?, read(key, "PRIVATE KEY")?);
                Ok(options.identity(identity))
            }
            (None, None) => Ok(options),
            (Some(_), None) => Err(half("a `certificate` without a `key`")),
            (None, Some(_)) => Err(half("a `key` without a `certificate`")),
        }
    }
}

fn half(given: &str) -> Error {
    Error::invalid("tls", given, "they go together: give both or none")
}

/// A PEM file that holds at least one `kind`.
fn read(path: &Path, kind: &str) -> Result<Vec<u8>> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::os("read", path.display(), error))?;
    if !text.lines().any(|line| line.starts_with("-----BEGIN ") && line.ends_with(&format!("{kind}-----"))) {
        let rule = format!("is no PEM file with a {kind}");
        return Err(Error::invalid("tls", path.display().to_string(), rule));
    }
    Ok(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(endpoints: &[&str]) -> EtcdSpec {
        EtcdSpec::new(ClusterName::new("lab").unwrap(), endpoints.iter().copied())
    }

    #[test]
    fn endpoints_are_checked() {
        spec(&["http://127.0.0.1:2379", "http://[::1]:2379", "http://etcd-1.lan:2379"]).options().unwrap();
        for bad in [
            &[][..],
            &["127.0.0.1:2379"],
            &["http://127.0.0.1"],
            &["http://:2379"],
            &["http://a:70000"],
            &["http://u:p@a:2379"],
            &["http://a:2379/v3"],
            &["https://a:2379"],
            &["unix:///run/etcd"],
        ] {
            spec(bad).options().unwrap_err();
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let mut spec = spec(&["http://a:1"]);
        spec.user = Some(EtcdUser { name: "lab".into(), password: "opensesame".into() });
        let text = format!("{spec:?}");
        assert!(text.contains("lab") && !text.contains("opensesame"), "{text}");
    }

    #[test]
    fn json_needs_only_cluster_and_endpoints() {
        let read: EtcdSpec = serde_json::from_str(r#"{"cluster":"lab","endpoints":["http://a:1"]}"#).unwrap();
        assert_eq!(read, spec(&["http://a:1"]));
        serde_json::from_str::<EtcdSpec>(r#"{"cluster":"lab","endpoints":[],"tsl":null}"#).unwrap_err();
    }
}
