//! `/etc/resolv.conf` (`man 5 resolv.conf`) of each container: what its network says, or else the host's own.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use super::lines::{Layout, Lines};
use crate::error::Result;
use crate::host::record::{Manifest, NetworkRecord};
use crate::host::{Host, Resolver};
use crate::name::{ContainerName, DomainName, NetworkName};

/// The longest line is that of the domains to search.
const RESOLV_CONF: Layout = Layout { place_bytes: 512, ordered: true };
/// Where systemd-resolved says which servers it asks itself: what it gives to the host's programs is a stub on a loopback
/// address (`man 8 systemd-resolved`).
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

impl Host {
    /// Writes down whom a container asks for names. Tells whether it was told something else.
    pub(crate) fn write_resolver(&self, manifest: &Manifest) -> Result<bool> {
        let mut resolver = None;
        for attachment in manifest.spec.interfaces.values() {
            let network: NetworkRecord = self.inner.networks.open(&attachment.network)?;
            if let Some(found) = network.spec.resolver {
                resolver = Some(found);
                break;
            }
        }
        let resolver = resolver.unwrap_or_else(host_resolver);
        Lines::new(RESOLV_CONF, lines(&resolver)).write(&self.directory(manifest).resolver())
    }

    /// As [`Host::write_resolver`], for a container that has been told something; nothing for others.
    pub(crate) fn write_resolver_again(&self, manifest: &Manifest) -> Result<bool> {
        Ok(self.directory(manifest).resolver().exists() && self.write_resolver(manifest)?)
    }

    /// As [`Host::write_resolver_again`], for all containers in one of `networks` (`None`: for all). Returns those that were told
    /// something else.
    pub(crate) fn write_resolvers(
        &self,
        networks: Option<&BTreeSet<NetworkName>>,
    ) -> Result<Vec<ContainerName>> {
        let mut changed = Vec::new();
        for manifest in self.inner.manifests.all()?.records {
            let concerned = networks.is_none_or(|networks| !networks.is_disjoint(&manifest.networks()));
            if concerned && self.write_resolver_again(&manifest)? {
                changed.push(manifest.spec.name.clone());
            }
        }
        Ok(changed)
    }
}

fn lines(resolver: &Resolver) -> Vec<String> {
    let mut lines: Vec<String> =
        resolver.servers.iter().map(|server| format!("nameserver {server}")).collect();
    if !resolver.search.is_empty() {
        let domains: Vec<&str> = resolver.search.iter().map(DomainName::as_str).collect();
        lines.push(format!("search {}", domains.join(" ")));
    }
    lines
}

/// What the host itself asks, but for what only the host can reach: addresses of its loopback interface.
fn host_resolver() -> Resolver {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let own = parse(&read("/etc/resolv.conf"));
    let servers = if own.servers.is_empty() { parse(&read(UPSTREAM)).servers } else { own.servers };
    Resolver { servers, ..own }
}

fn parse(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => {
                // One with a zone (`fe80::1%eth0`) is of an interface that containers do not have.
                let server = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                resolver
                    .servers
                    .extend(server.filter(|server| !server.is_loopback() && !server.is_unspecified()));
            }
            // The last one counts.
            Some("search" | "domain") => {
                resolver.search = words.filter_map(|word| word.parse().ok()).collect()
            }
            _ => {}
        }
    }
    resolver.servers.truncate(Resolver::SERVERS_MAX);
    resolver.search.truncate(Resolver::SEARCH_MAX);
    while resolver.search_bytes() > Resolver::SEARCH_BYTES_MAX {
        resolver.search.pop();
    }
    resolver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_cannot_reach_is_left_out() {
        let text = "# comment\nnameserver 127.0.0.53\nnameserver 192.0.2.1\n\tnameserver\t2001:db8::1\nnameserver ::1\n\
                    nameserver fe80::1%eth0\nnameserver 192.0.2.2\nnameserver 192.0.2.3\noptions edns0\ndomain a\n\
                    search example.org bad..name lan\n";
        let resolver = parse(text);
        let lines = lines(&resolver);
        assert_eq!(
            lines,
            [
                "nameserver 192.0.2.1",
                "nameserver 2001:db8::1",
                "nameserver 192.0.2.2",
                "search example.org lan"
            ]
        );
        assert_eq!(parse("nameserver 127.0.0.53\n"), Resolver::default());
    }

    #[test]
    fn a_line_fits_its_place() {
        let resolver = Resolver {
            search: vec![format!("{}.org", "x".repeat(60)).parse().unwrap(); 9],
            ..Resolver::default()
        };
        let text = lines(&resolver).join("\n");
        assert!(lines(&parse(&text)).iter().all(|line| line.len() < RESOLV_CONF.place_bytes));
    }
}
