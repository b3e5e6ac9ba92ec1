//! Making and removing a host's part of a tunnel (`man 7 rtnetlink`).

use std::collections::BTreeSet;

use rtnetlink::packet_route::link::InfoBridgePort;

use super::TunnelSpec;
use super::arm::Arm;
use super::found::TunnelLink;
use super::peers;
use super::underlay::Underlay;
use super::wire::Wire;
use crate::error::{Error, Result};
use crate::name::LinkName;
use crate::net::link::{self, ATTEMPTS, Link};
use crate::net::{LinkOwner, Mtu, Netlink};

/// A host's part of a tunnel that exists: one tenant's bridges, on several hosts, are one network. A plain value: dropping it
/// does nothing.
///
/// ```no_run
/// # async fn example() -> docklet::Result<()> {
/// use docklet::net::{Bridge, BridgeSpec, LinkOwner, Netlink, Tunnel, TunnelSpec, TunnelTopology, Vni};
///
/// let net = Netlink::connect().await?;
/// let owner = LinkOwner::new("example/net/7")?;
/// let hosts = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
/// let mesh = TunnelTopology::vxlan_mesh(Vni::new(7)?, hosts); // the same on both
/// let tunnel = TunnelSpec::new(owner.clone(), "br7".parse()?, hosts[0], mesh); // on the other host: its own address
/// let mtu = Some(Tunnel::mtu(&net, &tunnel).await?);
/// Bridge::ensure(&net, &BridgeSpec { mtu, ..BridgeSpec::new("br7".parse()?, owner) }).await?;
/// Tunnel::ensure(&net, &tunnel).await?;
/// # Ok(())
/// # }
/// ```
///
/// # MTU
///
/// A tunnel carries the least of what its local interface and the routes to the other hosts do, less its headers. A bridge
/// drops without a word what is too large for a port, so it must not be larger, and what is plugged into it neither.
/// Where the path is narrower than the routes say, a packet of VXLAN over IPv4 is fragmented; GRE and IPv6 do not allow it.
/// Outer UDP checksums are on.
///
/// # Who can send into it
///
/// Neither VXLAN nor GRE encrypts, and neither knows its sender: who can send to a host of the underlay can write into the
/// network, and who is on the way can read. VXLAN takes frames from any address, also from none of its hosts (measured);
/// GRE goes by the sender's address, which can be forged. So the underlay must be trusted, or lie in WireGuard or IPsec;
/// and the firewall should let the UDP port, or IP protocol 47, in from the other hosts only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    owner: LinkOwner,
    links: BTreeSet<LinkName>,
    changed: bool,
}

impl Tunnel {
    /// What [`Tunnel::ensure`] gives the tunnel as its MTU: what is asked, or the most that fits between this host and the
    /// others. Nothing is made. Hosts that there is no route to now do not count.
    ///
    /// # Errors
    /// [`Error::Invalid`] as [`TunnelSpec::check`], if more is asked than fits, or if a host is this one by another
    /// address; [`Error::NotFound`] if no link of this host has the local address; [`Error::Os`] if the system refuses.
    pub async fn mtu(net: &Netlink, spec: &TunnelSpec) -> Result<Mtu> {
        spec.check()?;
        look(net, spec).await.map(|(mtu, _)| mtu)
    }

    /// Makes this host's links of the tunnel, up in their bridge, or adopts those that are there: completes what a crash
    /// left half made, and puts right what has drifted (a peer lost, down, out of the bridge, another MTU).
    ///
    /// With other hosts than before it makes and removes what those need that came and went, and touches nothing of the
    /// others. Anything else that is to be different takes a removal.
    ///
    /// The bridge must not be larger than the tunnel: give it [`Tunnel::mtu`].
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::NotFound`] as [`Tunnel::mtu`]; [`Error::NotFound`] if there is no such bridge;
    /// [`Error::Differs`] if the owner's tunnel has another kind, VNI, port, key, local address or bridge than asked,
    /// if the VNI or the key is taken, if another tunnel is a port of the bridge, if the bridge's MTU is too large, or if
    /// the way to the others leads into the bridge: all is left as it is; [`Error::Unsupported`] if the kernel knows no
    /// such links; [`Error::Busy`] if the UDP port is taken; [`Error::Os`] if the system refuses;
    /// [`Error::LeftBehind`] if links that this call made could not be removed after an error.
    pub async fn ensure(net: &Netlink, spec: &TunnelSpec) -> Result<Self> {
        spec.check()?;
        let (mtu, underlay) = look(net, spec).await?;
        let mut ensuring =
            Ensuring { net, spec, mtu, underlay, arms: spec.arms(), made: Vec::new(), changed: false };
        match ensuring.run().await {
            Ok(tunnel) => Ok(tunnel),
            Err(cause) => Err(ensuring.take_back(cause).await),
        }
    }

    /// The tunnel of `owner`. A GRE tunnel without another host has no links, and is as none.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it has no links; [`Error::Os`] if the system refuses.
    pub async fn open(net: &Netlink, owner: &LinkOwner) -> Result<Self> {
        let tunnel = Self::of(owner, TunnelLink::all(net).await?.iter())?;
        if tunnel.links.is_empty() {
            return Err(Error::NotFound { what: format!("tunnel of \"{owner}\"") });
        }
        Ok(tunnel)
    }

    /// The tunnels whose owner's mark begins with `prefix`.
    ///
    /// # Errors
    /// [`Error::Os`] if the system refuses.
    pub async fn list(net: &Netlink, prefix: &str) -> Result<Vec<Self>> {
        let all = TunnelLink::all(net).await?;
        let marks = all.iter().filter_map(|found| found.link.alias.as_deref());
        let owners: BTreeSet<LinkOwner> = marks
            .filter(|mark| mark.starts_with(prefix))
            .filter_map(|mark| LinkOwner::new(mark).ok())
            .collect();
        owners.iter().map(|owner| Self::of(owner, all.iter())).collect()
    }

    /// Removes this host's links of the tunnel of `owner`; the bridge stays. One that is gone is removed. Takes 15 to 40 ms
    /// for each link.
    ///
    /// # Errors
    /// [`Error::Os`] if the system refuses.
    pub async fn remove(net: &Netlink, owner: &LinkOwner) -> Result<()> {
        for found in TunnelLink::all(net).await?.iter().filter(|found| found.is_of(owner)) {
            delete(net, found).await?;
        }
        Ok(())
    }

    /// Whose it is.
    #[must_use]
    pub fn owner(&self) -> &LinkOwner {
        &self.owner
    }

    /// The names of this host's links of it.
    #[must_use]
    pub fn links(&self) -> &BTreeSet<LinkName> {
        &self.links
    }

    /// Whether [`Tunnel::ensure`] made or removed something, or put something right. A tunnel that was opened has not
    /// changed.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.changed
    }

    fn of<'a>(owner: &LinkOwner, found: impl Iterator<Item = &'a TunnelLink>) -> Result<Self> {
        let names = found.filter(|found| found.is_of(owner)).map(|found| LinkName::new(&*found.link.name));
        Ok(Self { owner: owner.clone(), links: names.collect::<Result<_>>()?, changed: false })
    }
}

async fn look(net: &Netlink, spec: &TunnelSpec) -> Result<(Mtu, Underlay)> {
    let underlay = Underlay::look(net, spec.local, &spec.topology.peers(spec.local)).await?;
    let mtu = spec.mtu_over(Mtu::new(underlay.mtu.min(Mtu::MAX_BYTES))?)?;
    Ok((mtu, underlay))
}

async fn delete(net: &Netlink, found: &TunnelLink) -> Result<()> {
    link::delete(net, &LinkName::new(&*found.link.name)?, found.link.index).await
}

/// One call of [`Tunnel::ensure`].
struct Ensuring<'a> {
    net: &'a Netlink,
    spec: &'a TunnelSpec,
    mtu: Mtu,
    underlay: Underlay,
    arms: Vec<Arm>,
    /// The links that this call made.
    made: Vec<Wire>,
    changed: bool,
}

impl Ensuring<'_> {
    async fn run(&mut self) -> Result<Tunnel> {
        for attempt in 0..ATTEMPTS {
            link::pause(attempt).await;
            match self.pass(attempt).await {
                Ok(Some(tunnel)) => return Ok(tunnel),
                // Links are made and will be looked at, or something came or went while we were at it.
                Ok(None) => {}
                Err(error) if matches!(error.errno(), Some(libc::ENODEV | libc::EEXIST)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(link::comes_and_goes(format!("tunnel of \"{}\"", self.spec.owner)))
    }

    /// `None`: begin again.
    ///
    /// New links are made in one pass and set up in the next, after another look: of two that make a tunnel each for one
    /// bridge at the same time, the one that looks last sees the other's, and no frame has gone round by then.
    async fn pass(&mut self, attempt: u32) -> Result<Option<Tunnel>> {
        let bridge = self.bridge(attempt).await?;
        let found = TunnelLink::all(self.net).await?;
        if let Err(difference) = self.refuse(&bridge, &found) {
            // It was perhaps another one that they are ports of by now.
            let is_there = self.net.link_at(bridge.index).await?.is_some();
            return if is_there { Err(difference) } else { Ok(None) };
        }
        let ours = || found.iter().filter(|found| found.is_of(&self.spec.owner));
        let wanted = |found: &&TunnelLink| self.arms.iter().any(|arm| arm.wire == found.wire);
        let mut again = false;
        for gone in ours().filter(|found| !wanted(found)) {
            delete(self.net, gone).await?;
            self.changed = true;
        }
        let mut links = Vec::new();
        for arm in &self.arms {
            match ours().find(|found| found.wire == arm.wire) {
                // Put back as it is it would not be isolated at first.
                Some(found) if arm.isolated && found.link.master.is_none() => {
                    delete(self.net, found).await?;
                    again = true;
                }
                Some(found) => links.push((arm, found)),
                None => {
                    let created = self.create(arm, &bridge).await;
                    link::unless_gone(self.net, &bridge, None, created).await?;
                    self.made.push(arm.wire);
                    again = true;
                }
            }
        }
        if again {
            self.changed = true;
            return Ok(None);
        }
        for (arm, found) in &links {
            let completed = self.complete(arm, found, &bridge).await;
            self.changed |= link::unless_gone(self.net, &bridge, Some(&found.link), completed).await?;
        }
        let tunnel = Tunnel::of(&self.spec.owner, links.into_iter().map(|(_, found)| found))?;
        Ok(Some(Tunnel { changed: self.changed, ..tunnel }))
    }

    async fn bridge(&self, attempt: u32) -> Result<Link> {
        let name = &self.spec.bridge;
        let bridge =
            self.net.link(name).await?.ok_or_else(|| Error::NotFound { what: format!("bridge `{name}`") })?;
        let bridge = link::made(bridge, attempt)?;
        let difference = if bridge.kind != "bridge" {
            "it is no bridge".to_owned()
        } else if self.underlay.links.contains(&bridge.index) {
            "the way to the other hosts leads into it, and the tunnel would be in itself".to_owned()
        } else if bridge.mtu > self.mtu.bytes() {
            format!("its MTU is {}, and {} fit through the tunnel: make it with that", bridge.mtu, self.mtu)
        } else {
            return Ok(bridge);
        };
        Err(Error::Differs { what: format!("link `{name}`"), difference })
    }

    /// Compares everything before anything is changed.
    fn refuse(&self, bridge: &Link, found: &[TunnelLink]) -> Result<()> {
        let TunnelSpec { owner, local, topology, .. } = self.spec;
        for other in found {
            if other.is_of(owner) {
                let mut differences = topology.differences(*local, &other.wire);
                if other.link.master.is_some_and(|master| master != bridge.index) {
                    differences.push(format!("it is a port of another bridge than `{}`", self.spec.bridge));
                }
                if !differences.is_empty() {
                    let difference = differences.join("; ");
                    return Err(Error::Differs { what: format!("tunnel of \"{owner}\""), difference });
                }
            } else if let Some(arm) = self.arms.iter().find(|arm| arm.wire.excludes(&other.wire)) {
                let difference = format!("{} has it, not \"{owner}\"", other.describe());
                return Err(Error::Differs { what: arm.wire.to_string(), difference });
            } else if other.link.master == Some(bridge.index) {
                let difference = format!(
                    "{} is a port of it: with a second tunnel frames could go round",
                    other.describe()
                );
                return Err(Error::Differs { what: format!("bridge `{}`", self.spec.bridge), difference });
            }
        }
        Ok(())
    }

    async fn create(&self, arm: &Arm, bridge: &Link) -> Result<()> {
        let owner = &self.spec.owner;
        let name = arm.wire.link_name(owner);
        match self.net.change(arm.wire.create(&name, owner, bridge.index, self.mtu.bytes())).await {
            Err(error) if error.errno() == Some(libc::EEXIST) => {
                if let Some(link) = self.net.link(&name).await? {
                    link.check_ours(&name, owner, &arm.wire.kind().to_string())?;
                }
                Err(error)
            }
            result => result.map_err(|error| link::explain_full(arm.wire.explain(error))),
        }
    }

    /// Gives a link what it lacks. Tells whether that was anything.
    async fn complete(&self, arm: &Arm, found: &TunnelLink, bridge: &Link) -> Result<bool> {
        let link = &found.link;
        let name = LinkName::new(&*link.name)?;
        let mut changed = false;
        // Alone, and first: what is not isolated must not be up.
        if link.is_isolated() != arm.isolated {
            let isolation = vec![InfoBridgePort::Isolated(arm.isolated)];
            self.net.change(link::set_port(name.as_str(), link.index, isolation)).await?;
            changed = true;
        }
        let mut changes = Vec::new();
        if link.master.is_none() {
            changes.push(link::make_port(name.as_str(), link.index, bridge.index));
        }
        if let Wire::Vxlan { .. } = arm.wire {
            changes.extend(peers::changes(self.net, link, &arm.peers).await?);
        }
        changes.extend(link.completion(&name, &self.spec.owner, Some(self.mtu)));
        changed |= !changes.is_empty();
        self.net.change_all(changes).await.map_err(|error| link::explain_full(arm.wire.explain(error)))?;
        Ok(changed)
    }

    /// Removes what this call made before it failed for `cause`. Returns the error to tell.
    async fn take_back(&self, cause: Error) -> Error {
        if self.made.is_empty() {
            return cause;
        }
        let removed = async {
            let found = TunnelLink::all(self.net).await?;
            let made = |found: &&TunnelLink| found.is_of(&self.spec.owner) && self.made.contains(&found.wire);
            for found in found.iter().filter(made) {
                delete(self.net, found).await?;
            }
            Ok::<_, Error>(())
        };
        Error::after_undoing(cause, removed.await, || format!("tunnel of \"{}\"", self.spec.owner))
    }
}
