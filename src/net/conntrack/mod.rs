//! Connections that the kernel tracks (`net.netfilter.nf_conntrack_*`, kernel `Documentation/networking/nf_conntrack-sysctl.rst`),
//! and which of them are to end.
//!
//! The tracker knows a connection, also one of UDP, for as long as packets come, and with it what its first packet was
//! translated to and that it was allowed. Neither rules nor addresses that change meanwhile matter to it.

mod tracked;
mod tracker;
mod wire;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;

use self::tracked::Tracked;
use self::tracker::{Question, Tracker};
use super::{PortForward, Protocol};
use crate::error::Result;
use crate::sys::file;

/// How many connections are tracked in the network namespace of the calling thread.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// How many ports, or addresses, are asked for one by one. For more, all connections are looked at once.
const MOST_QUESTIONS: usize = 16;

/// Ends the connections of `addresses`, in the network namespace of the calling thread: those that they began, and those that
/// reach them, by a published port, too. For addresses that somebody else may have next.
///
/// What was sent through such a connection is then judged and translated as if it began.
///
/// # Errors
/// [`Error::Unsupported`](crate::Error::Unsupported) if the kernel cannot be told; [`Error::Os`](crate::Error::Os) if it refuses.
pub fn end_connections(addresses: &BTreeSet<IpAddr>) -> Result<()> {
    let Some(mut tracker) = tracker()? else { return Ok(()) };
    let chosen = |found: &Tracked| {
        [found.there.source, found.back.source].iter().any(|source| addresses.contains(&source.ip()))
    };
    for question in about(addresses, &[Question::From, Question::Answers]) {
        if !tracker.forget(question)? {
            tracker.end(question, chosen)?;
        }
    }
    tracing::debug!(?addresses, "connections ended");
    Ok(())
}

/// Makes connections go where a change of published ports has them go, in the network namespace of the calling thread, once the
/// [`Firewall`](super::Firewall) has them: ends those that lead to one of `targets` by a port that is none of `forwards` any
/// more, and what is sent by UDP to one of `forwards` and goes elsewhere, as it does from before that was published. Others
/// go on. Tells how many there were.
///
/// A connection that somebody else translated to one of `targets` ends, too; what is sent on is translated again.
///
/// # Errors
/// As [`end_connections`].
pub fn settle_forwards(targets: &BTreeSet<IpAddr>, forwards: &[PortForward]) -> Result<usize> {
    let Some(mut tracker) = tracker()? else { return Ok(0) };
    let mut ended = 0;
    let withdrawn = |found: &Tracked| {
        found.translated
            && targets.contains(&found.back.source.ip())
            && !forwards.iter().any(|forward| leads(forward, found))
    };
    for question in about(targets, &[Question::Answers]) {
        ended += tracker.end(question, withdrawn)?;
    }
    let udp: Vec<_> = forwards.iter().filter(|forward| forward.protocol == Protocol::Udp).collect();
    for is_ipv4 in [true, false] {
        let of_family = || udp.iter().filter(|forward| forward.to.is_ipv4() == is_ipv4);
        let ports: BTreeSet<_> = of_family().map(|forward| forward.host_port).collect();
        let astray = |found: &Tracked| {
            let comes_by = |forward: &&&PortForward| comes_by(forward, found);
            // One that is at an address of its own comes before one that is at all of them.
            let chosen = of_family().filter(comes_by).max_by_key(|forward| forward.host_address);
            chosen.is_some_and(|forward| !leads(forward, found) && is_at_host(found))
        };
        if ports.len() > MOST_QUESTIONS {
            ended += tracker.end(Question::Udp { is_ipv4, port: None }, astray)?;
            continue;
        }
        for port in ports {
            ended += tracker.end(Question::Udp { is_ipv4, port: Some(port) }, astray)?;
        }
    }
    tracing::debug!(?targets, forwards = forwards.len(), ended, "connections ended");
    Ok(ended)
}

/// `None` if there are no connections. Asking would load the tracker where there is none.
fn tracker() -> Result<Option<Tracker>> {
    match file::read_if_exists(Path::new(COUNT))?.as_deref().map(str::trim) {
        None | Some("0") => Ok(None),
        Some(_) => Tracker::connect().map(Some),
    }
}

/// What to ask about `addresses`.
fn about(addresses: &BTreeSet<IpAddr>, kinds: &[fn(Ipv4Addr) -> Question]) -> Vec<Question> {
    let four: Vec<_> = addresses
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
        .collect();
    let mut questions: Vec<_> = if four.len() > MOST_QUESTIONS {
        vec![Question::All { is_ipv4: true }]
    } else {
        four.iter().flat_map(|address| kinds.iter().map(|kind| kind(*address))).collect()
    };
    if four.len() < addresses.len() {
        questions.push(Question::All { is_ipv4: false });
    }
    questions
}

/// Whether it was begun at what is published.
fn comes_by(forward: &PortForward, found: &Tracked) -> bool {
    let begun = found.there.destination;
    let protocol = match forward.protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Udp => libc::IPPROTO_UDP,
    };
    i32::from(found.protocol) == protocol
        && begun.port() == forward.host_port.get()
        && begun.is_ipv4() == forward.to.is_ipv4()
        && forward.host_address.is_none_or(|address| address == begun.ip())
}

/// Whether it was begun there, and is answered by whom it leads to.
fn leads(forward: &PortForward, found: &Tracked) -> bool {
    comes_by(forward, found) && found.back.source == forward.to
}

/// Whether it was begun at an address of the host, where a forward for all of these counts. Only a port of the host can be
/// bound to.
fn is_at_host(found: &Tracked) -> bool {
    let address = found.there.destination.ip();
    !address.is_loopback() && UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::tracked::Way;
    use super::*;
    use crate::net::LinkOwner;

    #[test]
    fn a_connection_is_known_by_where_it_began_and_who_answers() {
        let tracked = |begun: &str, answers: &str| Tracked {
            protocol: 17,
            there: Way { source: "192.0.2.7:4000".parse().unwrap(), destination: begun.parse().unwrap() },
            back: Way { source: answers.parse().unwrap(), destination: "192.0.2.7:4000".parse().unwrap() },
            translated: true,
            key: Vec::new(),
        };
        let mut forward = PortForward {
            owner: LinkOwner::new("box").unwrap(),
            protocol: Protocol::Udp,
            host_address: None,
            host_port: 8000.try_into().unwrap(),
            to: "10.0.0.2:80".parse().unwrap(),
        };
        let found = tracked("192.0.2.1:8000", "10.0.0.2:80");
        assert!(leads(&forward, &found));
        for other in [
            tracked("192.0.2.1:8001", "10.0.0.2:80"),
            tracked("192.0.2.1:8000", "10.0.0.3:80"),
            tracked("192.0.2.1:8000", "10.0.0.2:81"),
            Tracked { protocol: 6, ..tracked("192.0.2.1:8000", "10.0.0.2:80") },
        ] {
            assert!(!leads(&forward, &other), "{other:?}");
        }
        forward.host_address = Some("192.0.2.1".parse().unwrap());
        assert!(leads(&forward, &found));
        forward.host_address = Some("192.0.2.2".parse().unwrap());
        assert!(!leads(&forward, &found));
    }
}
