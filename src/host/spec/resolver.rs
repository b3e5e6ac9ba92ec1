//! Whom a network's containers ask for names (`man 5 resolv.conf`). Plain data.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::name::DomainName;

/// The resolver configuration of a network's containers.
///
/// The servers must be in reach: what a network's containers reach on the host or in other networks is
/// [its own affair](super::NetworkSpec).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolver {
    /// The name servers, asked in this order: three at most. None: no names but those of containers are found.
    #[serde(default)]
    pub servers: Vec<IpAddr>,
    /// The domains in which a short name is looked for, in this order: six at most, with 256 bytes together.
    #[serde(default)]
    pub search: Vec<DomainName>,
}

impl Resolver {
    /// What resolvers look at (`MAXNS`, and `MAXDNSRCH` and its bytes before glibc 2.26).
    pub(crate) const SERVERS_MAX: usize = 3;
    pub(crate) const SEARCH_MAX: usize = 6;
    pub(crate) const SEARCH_BYTES_MAX: usize = 256;

    /// The length of the domains with a space between them.
    pub(crate) fn search_bytes(&self) -> usize {
        self.search.iter().map(|domain| domain.as_str().len() + 1).sum::<usize>().saturating_sub(1)
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.servers.len() > Self::SERVERS_MAX {
            let rule = format!("must be at most {}: resolvers ask no more", Self::SERVERS_MAX);
            return Err(Error::invalid("number of name servers", self.servers.len().to_string(), rule));
        }
        for server in &self.servers {
            if server.is_loopback() || server.is_unspecified() || server.is_multicast() {
                let rule =
                    "must not be a loopback, unspecified or multicast address: it is asked from inside";
                return Err(Error::invalid("name server", server.to_string(), rule));
            }
        }
        if self.search.len() > Self::SEARCH_MAX || self.search_bytes() > Self::SEARCH_BYTES_MAX {
            let rule = format!(
                "must be at most {}, with {} bytes together",
                Self::SEARCH_MAX,
                Self::SEARCH_BYTES_MAX
            );
            return Err(Error::invalid("number of domains to search", self.search.len().to_string(), rule));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_resolvers_cut_off_is_refused() {
        let server: IpAddr = "192.0.2.1".parse().unwrap();
        let domain: DomainName = "example.org".parse().unwrap();
        let long: DomainName = vec!["x".repeat(60); 4].join(".").parse().unwrap();
        Resolver { servers: vec![server; 3], search: vec![domain.clone(); 6] }.check().unwrap();
        for (bad, words) in [
            (Resolver { servers: vec![server; 4], search: vec![] }, "at most 3"),
            (Resolver { servers: vec!["127.0.0.53".parse().unwrap()], search: vec![] }, "loopback"),
            (Resolver { servers: vec![], search: vec![domain; 7] }, "at most 6"),
            (Resolver { servers: vec![], search: vec![long.clone(), long] }, "256 bytes"),
        ] {
            let message = bad.check().unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }
}
