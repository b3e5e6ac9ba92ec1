//! Networks and ports after a crash, a reboot, or somebody's `ip link delete` (`man 7 rtnetlink`).

use std::collections::BTreeSet;
use std::time::Duration;

use super::report::Recovered;
use crate::error::{Chain, Error, Result};
use crate::host::Host;
use crate::host::record::{Manifest, NetworkRecord, Phase};
use crate::lxc::State;
use crate::name::NetworkName;
use crate::net::{NetworkNamespace, Veth, VethSpec};

/// How long a container's lock is waited for: whoever starts a program holds copies of all locks of his process for a moment.
const BRIEFLY: Duration = Duration::from_millis(200);

/// A running container whose ports are looked at: its lock, its namespace, and what its ports should be.
struct Member {
    /// Holds the container's lock.
    host: Host,
    manifest: Manifest,
    namespace: NetworkNamespace,
    specs: Vec<VethSpec>,
}

impl Host {
    /// Makes the networks whole but for the ports in them. Returns those whose ports are yet to become what they should be.
    pub(super) async fn recover_networks(&self, report: &mut Recovered) -> Result<Vec<NetworkRecord>> {
        let host = self.registry().await?;
        let mut records = Vec::new();
        host.inner.isolation.tidy()?;
        report.took("isolation", host.isolation());
        for name in host.inner.networks.names_with_left_overs()? {
            let record = host.inner.networks.tidy(&name).and_then(|()| host.inner.networks.get(&name));
            records.extend(report.took(format_args!("network `{name}`"), record).flatten());
        }
        // Before any link, and none without it: what is connected without its rules is open to all. Also without any
        // network: a removal may have been cut off before the table went.
        let mut made: BTreeSet<NetworkName> = match host.apply_firewall(None).await {
            Ok(true) => {
                report.took("connections", host.settle_all_connections().await);
                records.iter().map(|record| record.spec.name.clone()).collect()
            }
            Ok(false) => BTreeSet::new(),
            // A host without nftables has no table, and without networks it needs none.
            Err(Error::Unsupported { .. }) if records.is_empty() => BTreeSet::new(),
            Err(error) => {
                report.failures.push(format!("firewall: {}; no network is made without it", Chain(&error)));
                return Ok(Vec::new());
            }
        };
        let mut unsettled = Vec::new();
        for record in records {
            let name = record.spec.name.clone();
            let raised = host.raise_links(&record).await;
            let alone = host.check_alone(&record).await;
            report.took(format_args!("network `{name}`"), alone);
            if let Some(changed) = report.took(format_args!("network `{name}`"), raised) {
                made.extend(changed.then_some(name));
                unsettled.extend(record.unsettled.then_some(record));
            }
        }
        report.networks.extend(made.iter().map(ToString::to_string));
        report.took("networks", self.blocking(|host| host.check_forwarding(None)).await);
        Ok(unsettled)
    }

    /// Makes the ports of running containers what they should be, and with them those networks that were `unsettled`. One look
    /// tells of all ports that are.
    pub(super) async fn recover_ports(
        &self,
        unsettled: &[NetworkRecord],
        report: &mut Recovered,
    ) -> Result<()> {
        let names: BTreeSet<NetworkName> = unsettled.iter().map(|record| record.spec.name.clone()).collect();
        let mut failed = BTreeSet::new();
        let mut members = Vec::new();
        for name in self.inner.manifests.names()? {
            // Who has it now sees to it himself.
            let Ok(host) = self.clone().with_lock_timeout(BRIEFLY).locked(&name).await else {
                continue;
            };
            // One that cannot be read is reported already.
            let Ok(Some(manifest)) = host.inner.manifests.get(&name) else { continue };
            let networks = manifest.networks();
            let member = host.member(manifest).await;
            match report.took(format_args!("ports of `{name}`"), member) {
                Some(member) => members.extend(member),
                None => failed.extend(networks),
            }
        }
        let (changed, same): (Vec<_>, Vec<_>) =
            members.iter().partition(|member| !member.manifest.networks().is_disjoint(&names));
        for member in changed {
            let name = &member.manifest.spec.name;
            let applied = member.host.apply_ports(&member.manifest, &BTreeSet::new()).await;
            match report.took(format_args!("ports of `{name}`"), applied) {
                Some(()) => report
                    .ports
                    .extend(member.specs.iter().map(|spec| (name.clone(), spec.inner_name.clone()))),
                None => failed.extend(member.manifest.networks()),
            }
        }
        self.ensure_ports(&same, report).await;
        drop(members);
        if unsettled.is_empty() {
            return Ok(());
        }
        let host = self.registry().await?;
        let mut settled = unsettled.iter().filter(|record| !failed.contains(&record.spec.name));
        settled.try_for_each(|record| host.record_settled(&record.spec.name, record))
    }

    async fn ensure_ports(&self, members: &[&Member], report: &mut Recovered) {
        let mut pairs = Vec::new();
        let mut names = Vec::new();
        for member in members {
            for spec in &member.specs {
                pairs.push((&member.namespace, spec));
                names.push((member.manifest.spec.name.clone(), spec.inner_name.clone()));
            }
        }
        let net = &self.inner.netlink;
        if let Ok(veths) = Veth::ensure_all(net, &pairs).await {
            let made = names.into_iter().zip(veths).filter(|(_, veth)| veth.changed());
            report.ports.extend(made.map(|(name, _)| name));
            return;
        }
        // One by one, to tell whose it is.
        for ((name, interface), (namespace, spec)) in names.into_iter().zip(pairs) {
            let ensured = Veth::ensure(net, namespace, spec).await;
            let veth = report.took(format_args!("interface {interface} of `{name}`"), ensured);
            report.ports.extend(veth.filter(Veth::changed).map(|_| (name, interface)));
        }
    }

    /// The container whose lock is held, if it runs and has ports.
    async fn member(self, manifest: Manifest) -> Result<Option<Member>> {
        let has_ports = manifest.phase == Phase::Created && !manifest.objects.ports.is_empty();
        if !has_ports || self.state(&manifest).await? == State::Stopped {
            return Ok(None);
        }
        let namespace = NetworkNamespace::open(&self.directory(&manifest).namespace())?;
        let specs = self.recorded_veth_specs(&manifest)?;
        Ok(Some(Member { host: self, manifest, namespace, specs }))
    }
}
