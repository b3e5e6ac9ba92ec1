//! The one nftables table of all networks (`man 8 nft`): what it says is computed from all records and manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::error::{Error, Result};
use crate::host::record::{Listing, Manifest, NetworkRecord, Phase};
use crate::host::{Host, IsolationSpec};
use crate::name::NetworkName;
use crate::net::{Denied, FirewallNetwork, LinkOwner, PortForward, Ruleset, Subnet, Whose};

/// What the table is to say.
struct Rules {
    ruleset: Ruleset,
    /// Whose entries are known: what the table has of them besides goes.
    known: BTreeSet<LinkOwner>,
    /// Whether there may be others, of whom nothing can be read now: what the table has of them stays.
    others: bool,
    /// Whether there may be other tunnels, likewise.
    other_tunnels: bool,
    /// Whether what holds for all networks cannot be read now, likewise.
    other_isolation: bool,
}

impl Rules {
    fn of(
        networks: &Listing<NetworkRecord>,
        manifests: &Listing<Manifest>,
        isolation: Option<IsolationSpec>,
    ) -> Result<Self> {
        let other_isolation = isolation.is_none();
        let other_tunnels = other_isolation || !networks.unreadable.is_empty();
        let IsolationSpec { pool, denied, tunnel_ports } = isolation.unwrap_or_default();
        let mut subnets: BTreeMap<&NetworkName, Vec<Subnet>> = BTreeMap::new();
        for record in &networks.records {
            subnets.insert(&record.spec.name, record.spec.subnets()?);
        }
        let (pool, denied) = (pool.into_iter().collect(), denied.into_iter().collect());
        let mut ruleset = Ruleset { pool, denied, tunnel_ports, ..Ruleset::default() };
        let mut known = BTreeSet::new();
        for record in &networks.records {
            let spec = &record.spec;
            let (owner, bridge) = (record.owner.clone(), record.bridge.clone());
            ruleset.networks.push(FirewallNetwork {
                masquerade: spec.nat,
                reach: spec.reach.iter().filter_map(|name| subnets.get(name)).flatten().copied().collect(),
                admit: spec.admit.clone(),
                host_ports: spec.host_ports.clone(),
                ..FirewallNetwork::new(owner, bridge, subnets[&spec.name].clone())
            });
            ruleset.tunnel_ports.extend(spec.span.iter().filter_map(|span| span.topology.udp_port()));
            known.insert(record.owner.clone());
        }
        for manifest in &manifests.records {
            // What leads into a network that cannot be read stays as it is.
            if manifest.networks().iter().all(|network| subnets.contains_key(network)) {
                known.extend(manifest.all_ports().map(|port| port.owner.clone()));
                if manifest.phase != Phase::Removing {
                    ruleset.forwards.extend(forwards(manifest)?);
                }
            }
        }
        let others = !networks.unreadable.is_empty() || !manifests.unreadable.is_empty();
        Ok(Self { ruleset, known, others, other_tunnels, other_isolation })
    }

    /// Denies everything: what is to be denied is not known.
    fn close(&mut self) {
        let everything = [IpNet::from(Ipv4Net::default()), IpNet::from(Ipv6Net::default())];
        self.ruleset.denied = everything.map(|net| Denied { net, port: None }).to_vec();
    }

    /// Whether an entry of the table may be of what cannot be read now.
    fn keeps(&self, whose: Whose<'_>) -> bool {
        match whose {
            Whose::Owner(owner) => self.others && !self.known.contains(owner),
            Whose::Host => self.other_isolation,
            Whose::Tunnels => self.other_tunnels,
        }
    }
}

impl Host {
    /// Checks that the rules of a container or a network that is not written down yet go with all others, and that the table
    /// can be read: without that nothing new could be taken back. The caller holds the registry's lock, as for all below.
    pub(crate) fn check_rules(
        &self,
        manifest: Option<&Manifest>,
        network: Option<&NetworkRecord>,
    ) -> Result<()> {
        let (mut own, mut published) = (Vec::new(), BTreeSet::new());
        if let Some(manifest) = manifest {
            own = forwards(manifest)?;
            let earlier = self.inner.manifests.get(&manifest.spec.name)?;
            if let Some(earlier) = earlier.filter(|earlier| earlier.id == manifest.id) {
                published.extend(forwards(&earlier)?);
            }
            // Others' manifests, of which there may be hundreds, say nothing about it then.
            if own.is_empty() && published.is_empty() {
                return Ok(());
            }
        }
        let (mut networks, mut manifests) = (self.inner.networks.all()?, self.inner.manifests.all()?);
        let isolation = self.isolation().ok();
        networks.records.retain(|other| network.is_none_or(|network| network.spec.name != other.spec.name));
        networks.records.extend(network.cloned().map(Arc::new));
        manifests.records.retain(|other| manifest.is_none_or(|manifest| manifest.id != other.id));
        refuse_published(&own, &manifests.records)?;
        manifests.records.extend(manifest.cloned().map(Arc::new));
        Rules::of(&networks, &manifests, isolation)?.ruleset.check()?;
        // One that is there already is what would be found.
        PortForward::check_unused(own.iter().filter(|forward| !published.contains(*forward)))?;
        Ruleset { forwards: own, ..Ruleset::default() }.check_forwarding()?;
        self.check_table()
    }

    /// The same for what is to hold for all networks.
    pub(super) fn check_isolation(&self, spec: &IsolationSpec) -> Result<()> {
        let (networks, manifests) = (self.inner.networks.all()?, self.inner.manifests.all()?);
        Rules::of(&networks, &manifests, Some(spec.clone()))?.ruleset.check()?;
        self.check_table()
    }

    fn check_table(&self) -> Result<()> {
        match self.inner.firewall.current() {
            // Somebody else wrote into it: it will be made anew.
            Ok(_) | Err(Error::Differs { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Checks that the host forwards what a network needs forwarded, or all that is written down.
    pub(crate) fn check_forwarding(&self, network: Option<&NetworkRecord>) -> Result<()> {
        let mut ruleset =
            Rules::of(&self.inner.networks.all()?, &self.inner.manifests.all()?, self.isolation().ok())?
                .ruleset;
        if let Some(network) = network {
            ruleset.networks.retain(|other| other.owner == network.owner);
            ruleset.forwards.clear();
        }
        ruleset.check_forwarding()
    }

    /// Makes the table say what is written down, leaving out one network. Tells whether it said something else. Holds also on a
    /// host that does not forward IPv6, since what keeps networks apart must not depend on that.
    pub(crate) async fn apply_firewall(&self, without: Option<&NetworkRecord>) -> Result<bool> {
        let without = without.cloned();
        self.blocking(move |host| {
            let (mut networks, manifests) = (host.inner.networks.all()?, host.inner.manifests.all()?);
            networks.records.retain(|record| without.as_ref() != Some(&**record));
            let firewall = &host.inner.firewall;
            let mut rules = Rules::of(&networks, &manifests, host.isolation().ok())?;
            rules.known.extend(without.map(|record| record.owner));
            // Without a table that is whole, nothing tells what it was.
            if rules.other_isolation && !matches!(firewall.current(), Ok(Some(_))) {
                rules.close();
            }
            firewall.apply_keeping(&rules.ruleset, |whose| rules.keeps(whose))
        })
        .await
    }

    /// Publishes what a new container asks for. For one that exists it is done: it stays published while that is down.
    pub(crate) async fn raise_forwards(&self, manifest: &Manifest) -> Result<()> {
        match manifest.phase {
            Phase::Creating => {
                self.apply_forwards(manifest).await?;
                self.settle_new_connections(manifest).await
            }
            Phase::Created | Phase::Removing => Ok(()),
        }
    }

    /// Makes the table say what is written down, for a container that publishes something; nothing for others.
    pub(crate) async fn apply_forwards(&self, manifest: &Manifest) -> Result<()> {
        if manifest.spec.interfaces.values().all(|attachment| attachment.forwards.is_empty()) {
            return Ok(());
        }
        self.registry().await?.apply_firewall(None).await.map(drop)
    }
}

/// Refuses a forward that another container has already, by that container's name: what the rules know is its mark.
fn refuse_published(own: &[PortForward], others: &[Arc<Manifest>]) -> Result<()> {
    if own.is_empty() {
        return Ok(());
    }
    let mut published: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for other in others.iter().filter(|other| other.phase != Phase::Removing) {
        // What is wrong with another one is not for this one to tell.
        for forward in forwards(other).unwrap_or_default() {
            published.entry(forward.host_port).or_default().push((forward, &other.spec.name));
        }
    }
    for forward in own {
        let there = published.get(&forward.host_port).map(Vec::as_slice).unwrap_or_default();
        if let Some((taken, name)) = there.iter().find(|(taken, _)| forward.conflicts(taken)) {
            let rule = format!("is published already by container `{name}`: {taken}");
            return Err(Error::invalid("port forward", forward.to_string(), rule));
        }
    }
    Ok(())
}

/// The ports that a container publishes.
pub(super) fn forwards(manifest: &Manifest) -> Result<Vec<PortForward>> {
    let mut forwards = Vec::new();
    for (name, attachment) in &manifest.spec.interfaces {
        let Some(port) = manifest.objects.ports.get(name) else { continue };
        for forward in &attachment.forwards {
            let fits = |address: std::net::IpAddr| {
                forward.host_address.is_none_or(|host_address| host_address.is_ipv4() == address.is_ipv4())
            };
            let targets: Vec<_> =
                port.addresses.iter().map(|address| address.ip()).filter(|ip| fits(*ip)).collect();
            if targets.is_empty() {
                let address = forward.host_address.map(|address| address.to_string()).unwrap_or_default();
                let rule = format!("interface `{name}` has no address of its family");
                return Err(Error::invalid("address of a port forward", address, rule));
            }
            forwards.extend(targets.into_iter().map(|target| PortForward {
                owner: port.owner.clone(),
                protocol: forward.protocol,
                host_address: forward.host_address,
                host_port: forward.host_port,
                to: (target, forward.port.get()).into(),
            }));
        }
    }
    Ok(forwards)
}
