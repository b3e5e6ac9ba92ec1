//! Who may reach whom: address translation, port forwards and isolation in one nftables table (`man 8 nft`).

mod entry;
mod foreign;
mod forward;
mod forwarding;
mod port;
mod rules;
mod ruleset;
mod syntax;
mod table;
mod whose;

pub use foreign::{ForwardObstacle, forward_obstacles};
pub use forward::PortForward;
pub(crate) use port::number;
pub use port::{Port, Protocol};
pub use ruleset::{Denied, FirewallNetwork, Ruleset};
pub use whose::Whose;

use self::table::Table;
use super::nft;
use crate::error::{Error, Result};

/// One nftables table of the family `inet` that is docklet's alone; no other table is read or changed. All calls work in
/// the network namespace of the calling thread. Each runs the program `nft` once or twice.
///
/// ```no_run
/// use docklet::net::{Denied, Firewall, FirewallNetwork, IpNet, LinkOwner, Port, PortForward, Protocol, Ruleset};
///
/// let lan = FirewallNetwork {
///     masquerade: true,
///     host_ports: vec![Port::udp(53)?],
///     ..FirewallNetwork::new(LinkOwner::new("example/lan")?, "exbr0".parse()?, vec!["10.0.0.0/24".parse()?])
/// };
/// let web = ([10, 0, 0, 2], 80).into();
/// let ruleset = Ruleset {
///     networks: vec![lan],
///     forwards: vec![PortForward::new(LinkOwner::new("example/web")?, Protocol::Tcp, 8080, web)?],
///     denied: vec![Denied::from(IpNet::new_assert([192, 0, 2, 0].into(), 24))],
///     ..Ruleset::default()
/// };
/// Firewall::new("example")?.apply(&ruleset)?; // the same again changes nothing
/// # Ok::<(), docklet::Error>(())
/// ```
///
/// # What the table does
///
/// A *network* is what is behind one bridge of ours, the *pool* all networks together, also those of other hosts.
///
/// | from | to | |
/// |---|---|---|
/// | a network | itself | passes |
/// | a network | what is [denied](Ruleset::denied) | dropped, also if it is the host, or what a foreign rule translated to |
/// | a network | a published port, at the host's address | passes, as from outside: published is published |
/// | a network | another network of the pool | dropped, but for those it may [reach](FirewallNetwork::reach) |
/// | a network | the host | echo, neighbour discovery and its [`host_ports`](FirewallNetwork::host_ports); else dropped. The addresses that the host has in other networks are always dropped |
/// | a network | outside | passes, but for GRE and VXLAN (port 4789 and the [`tunnel_ports`](Ruleset::tunnel_ports)), also as an answer, which could pass for the host's own tunnels; and bears the host's address if it is to be [masqueraded](FirewallNetwork::masquerade) |
/// | outside | a network | dropped, but for published ports and whom it [admits](FirewallNetwork::admit) |
/// | the host | anything | passes |
///
/// What leaves a network must bear an address of that network. Answers that do always pass, also of connections that were
/// begun before a rule was there: the table decides on beginnings. Errors (of ICMP) pass as answers do, from a network only
/// about its own connections. Dropped is dropped without an answer.
///
/// A packet that this table lets through can still be dropped by another table, whatever its priority, and one that this
/// table drops is lost, whatever others say. On a host whose own rules drop forwarded packets (Docker's do), allow the
/// bridges there; [`forward_obstacles`] finds such rules.
///
/// # Published ports
///
/// A [`PortForward`] is reached from outside, from other networks, from its own network (which is masqueraded, else
/// the answer would go around the host) and by the host's own processes, under any address of the host or the one that
/// it names. Not under `127.0.0.1` and `::1`: for these the kernel would have to let packets with a loopback address leave
/// (`route_localnet`), and other machines could then reach what listens there only for the host itself.
///
/// Where the kernel gives bridged frames to the firewall (`bridge-nf-call-iptables` is 1, as it is once `br_netfilter` is
/// loaded), a container does not reach *itself* by its published port, unless its port of the bridge is in hairpin mode:
/// the kernel turns such a frame round on the bridge.
///
/// A connection is translated as its first packet was, for as long as it lasts, whatever becomes of the forward; one of UDP lasts
/// as long as somebody sends. [`settle_forwards`](crate::net::settle_forwards), after the table has changed, ends those that go
/// the old way, and [`end_connections`](crate::net::end_connections) those of an address that is given up.
/// [`Host`](crate::host::Host) calls both.
///
/// # The kernel's settings
///
/// | setting | |
/// |---|---|
/// | `net.ipv4.ip_forward` | switched on for what is masqueraded, published, reached or admitted over IPv4, and never off again: others may rely on it by then |
/// | `net.ipv6.conf.all.forwarding` | never set, since it makes a host ignore the router advertisements that it may live by; without it there is an error |
/// | `net.bridge.bridge-nf-call-iptables`, `-ip6tables` | not read or set: the table means the same with 0 and 1, since what stays on one bridge passes |
/// | `net.ipv4.conf.*.rp_filter` | not read or set; both kinds of check fit. The table itself checks where what a network sends comes from |
/// | `net.ipv4.conf.*.route_localnet` | not read or set, not needed |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firewall {
    table: String,
}

impl Firewall {
    /// Names the table: 1 to 63 bytes of letters, digits, `-` and `_`, beginning with a letter. Everything in a table of
    /// that name is taken for docklet's.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `table` breaks that rule.
    pub fn new(table: impl Into<String>) -> Result<Self> {
        let table = table.into();
        if (1..=63).contains(&table.len())
            && table.starts_with(|c: char| c.is_ascii_alphabetic())
            && table.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        {
            return Ok(Self { table });
        }
        let rule = "must have 1 to 63 letters, digits, '-' and '_', and begin with a letter";
        Err(Error::invalid("nftables table", table, rule))
    }

    /// Makes the table say exactly `ruleset`, and tells whether it did not before. A table that differs, also by a
    /// stranger's rule in it, is changed or replaced in one transaction: there is no moment without, and connections go on.
    /// Without networks there is no table. Of several callers each waits for the others.
    ///
    /// # Errors
    /// [`Error::Invalid`] if [`Ruleset::check`] says so; [`Error::Unsupported`] if `nft` is not installed, or if IPv6 is to
    /// be forwarded and the host does not; [`Error::Busy`] if another caller takes longer than 30 seconds, or `nft` longer than 20, which is ended then;
    /// [`Error::Command`] with what `nft` says if it refuses; [`Error::Os`] if forwarding cannot be switched on. The table is as
    /// it was then, or, of an `nft` that was ended, as it was to be.
    pub fn apply(&self, ruleset: &Ruleset) -> Result<bool> {
        ruleset.check()?;
        ruleset.check_forwarding()?;
        self.apply_keeping(ruleset, |_| false)
    }

    /// As [`Firewall::apply`], and what the table has that `keep` chooses stays as well: for what is written down where
    /// it cannot be read now. What `ruleset` says of an owner replaces what there was of it.
    ///
    /// On a host that does not forward IPv6 the rules hold as well: see [`Ruleset::check_forwarding`].
    ///
    /// # Errors
    /// As [`Firewall::apply`], but not for IPv6.
    pub fn apply_keeping(&self, ruleset: &Ruleset, keep: impl Fn(Whose<'_>) -> bool) -> Result<bool> {
        let _span = tracing::debug_span!("firewall", table = self.table).entered();
        ruleset.check()?;
        forwarding::switch_on(ruleset)?;
        let turn = nft::Turn::take()?;
        let current = match self.read() {
            // Not even a listing can be had of it: it is made anew.
            Err(Error::Differs { difference, .. }) => Some(Table::unreadable(difference)),
            current => current?,
        };
        let mut wanted = Table::of(ruleset);
        if let Some(current) = &current {
            let replaced = ruleset.owners();
            wanted.adopt(current, |whose| {
                !matches!(whose, Whose::Owner(owner) if replaced.contains(owner)) && keep(whose)
            });
        }
        wanted.settle();
        let wanted = (!wanted.is_empty()).then_some(wanted);
        if current == wanted {
            return Ok(false);
        }
        let update =
            current.zip(wanted.as_ref()).and_then(|(current, wanted)| current.update(wanted, &self.table));
        match update.map(|update| turn.transact(&update)) {
            // Without an update, or if somebody else has written into it since: it is made anew.
            None | Some(Err(Error::Command { .. })) => {
                let script =
                    wanted.as_ref().map_or_else(|| forget(&self.table), |wanted| self.replace(wanted));
                turn.transact(&script)?;
            }
            Some(updated) => updated?,
        }
        tracing::debug!(
            networks = ruleset.networks.len(),
            forwards = ruleset.forwards.len(),
            "table changed"
        );
        Ok(true)
    }

    /// What the table says, as the kernel has it, one sorted text per entry: `any4 tcp . 80 : 10.0.0.2 . 80 # OWNER`. `None`
    /// if there is no table.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if `nft` is not installed; [`Error::Command`] if it fails; [`Error::Differs`] if something in
    /// the table is not docklet's.
    pub fn current(&self) -> Result<Option<Vec<String>>> {
        let Some(table) = self.read()? else { return Ok(None) };
        if let Some(difference) = table.stranger() {
            return Err(differs(&self.table, &difference));
        }
        Ok(Some(table.entries()))
    }

    /// Removes the table. One that is gone is removed. Forwarding stays as it is.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if `nft` is not installed; [`Error::Command`] if it fails.
    pub fn remove(&self) -> Result<()> {
        nft::Turn::take()?.transact(&forget(&self.table))?;
        tracing::debug!(table = self.table, "table removed");
        Ok(())
    }

    /// The name of the table.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }

    fn read(&self) -> Result<Option<Table>> {
        let Some(text) = nft::list_table(&self.table)? else { return Ok(None) };
        let objects = nft::parse(&text).map_err(|reason| differs(&self.table, &reason))?;
        Ok(Some(Table::listed(&objects)))
    }

    fn replace(&self, wanted: &Table) -> String {
        format!("{}table inet {} {{\n{wanted}}}\n", forget(&self.table), self.table)
    }
}

fn differs(table: &str, difference: &str) -> Error {
    Error::Differs {
        what: format!("nftables table `inet {table}`"),
        difference: format!("not docklet's: {difference}"),
    }
}

/// Deletes the table, whether or not there is one: only one that exists can be deleted, and making it twice is fine.
fn forget(table: &str) -> String {
    format!("add table inet {table}\ndelete table inet {table}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_named() {
        Firewall::new("docklet-0123abcd").unwrap();
        for bad in ["", "0a", "a b", "a;b", "a\n", &"x".repeat(64)] {
            let message = Firewall::new(bad).unwrap_err().to_string();
            assert!(message.starts_with("invalid nftables table"), "{message}");
        }
    }

    #[test]
    fn the_table_is_replaced_as_a_whole() {
        let script = Firewall::new("t").unwrap().replace(&Table::of(&Ruleset::default()));
        assert!(script.starts_with("add table inet t\ndelete table inet t\ntable inet t {\n"), "{script}");
        assert!(script.ends_with("}\n}\n"), "{script}");
    }
}
