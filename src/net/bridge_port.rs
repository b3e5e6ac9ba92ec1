//! Ports of a bridge: which links it has, and what it does with each (`man 8 bridge`, `man 8 ip-link`).
//!
//! Left out: priorities and path costs, which only bridges with a spanning tree look at; the kernel's are by speed.

use rtnetlink::packet_route::link::InfoBridgePort;
use serde::{Deserialize, Serialize};

use super::bridge_settings::BridgeSettings;
use super::change::Change;
use super::link::{self, ATTEMPTS, Link, MessageBuilder};
use super::{Bridge, LinkOwner, Netlink, PortVlans};
use crate::error::{Error, Result};
use crate::name::LinkName;

/// What a bridge does with a port. The default is the kernel's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PortSettings {
    /// Whether frames may leave through the port that they came in by. False unless given.
    pub hairpin: bool,
    /// Whether frames from other isolated ports are kept away from this one, and its own from them. False unless given.
    pub isolated: bool,
    /// Whether the bridge learns from the frames that come in which addresses are behind the port. True unless given.
    pub learning: bool,
    /// Its VLANs, of a bridge that filters them. `None` leaves them as they are: a new port is in the bridge's
    /// `default_pvid`.
    pub vlans: Option<PortVlans>,
}

impl Default for PortSettings {
    fn default() -> Self {
        Self { hairpin: false, isolated: false, learning: true, vlans: None }
    }
}

impl PortSettings {
    /// As the kernel shows those of a port, but for VLANs.
    fn of(port: &[InfoBridgePort]) -> Self {
        let mut settings = Self::default();
        for setting in port {
            match setting {
                InfoBridgePort::HairpinMode(on) => settings.hairpin = *on,
                InfoBridgePort::Isolated(on) => settings.isolated = *on,
                InfoBridgePort::Learning(on) => settings.learning = *on,
                _ => {}
            }
        }
        settings
    }

    /// What makes these of `found`, but for VLANs.
    fn lacking(&self, found: &Self) -> Vec<InfoBridgePort> {
        [
            (self.hairpin != found.hairpin).then_some(InfoBridgePort::HairpinMode(self.hairpin)),
            (self.isolated != found.isolated).then_some(InfoBridgePort::Isolated(self.isolated)),
            (self.learning != found.learning).then_some(InfoBridgePort::Learning(self.learning)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// A port that a bridge has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BridgePort {
    /// The name of the link. What others made may be called what a [`LinkName`] cannot be.
    pub name: String,
    /// Whose it is, if it bears a mark.
    pub owner: Option<LinkOwner>,
    /// Whether it is set up.
    pub up: bool,
    /// What the bridge does with it. With VLANs, if the bridge filters them.
    pub settings: PortSettings,
}

impl Bridge {
    /// Makes the link `link` of `owner` a port of this bridge, or adopts the port that it is: settings that have drifted
    /// are put right. Tells whether it changed anything.
    ///
    /// One system call looks at bridge and link, and one more changes what must be. Frames may pass between becoming a
    /// port and being given settings, some microseconds later.
    ///
    /// # Errors
    /// [`Error::Invalid`] as [`PortVlans::check`]; [`Error::NotFound`] if there is no such link, or this bridge is gone;
    /// [`Error::Differs`] if the link is not the owner's, is a bridge, is a port of something else, or if VLANs are asked
    /// for and the bridge does not filter them: all is left as it is; [`Error::Os`] if the system refuses.
    pub async fn attach(
        &self,
        net: &Netlink,
        link: &LinkName,
        owner: &LinkOwner,
        settings: &PortSettings,
    ) -> Result<bool> {
        self.attach_any(net, link, Some(owner), settings).await
    }

    /// As [`attach`](Self::attach), for a link that somebody else made, such as the host's `eth1`: from then on all that
    /// it brings belongs to the bridge. It is not set up, marked or removed by docklet, ever; it only is a port.
    ///
    /// # Errors
    /// As [`attach`](Self::attach), but for the owner; and [`Error::Differs`] if the link has addresses: the host would
    /// no longer be reached by them. Give them to the bridge.
    pub async fn attach_foreign(
        &self,
        net: &Netlink,
        link: &LinkName,
        settings: &PortSettings,
    ) -> Result<bool> {
        self.attach_any(net, link, None, settings).await
    }

    /// Makes the link `link`, whoever's it is, a port of this bridge no longer. What is not one is left as it is, and
    /// so is a link that is gone.
    ///
    /// # Errors
    /// [`Error::Os`] if the system refuses.
    pub async fn detach(&self, net: &Netlink, link: &LinkName) -> Result<()> {
        let Some(found) = net.link(link).await? else { return Ok(()) };
        if found.master != Some(self.index()) {
            return Ok(());
        }
        let message = MessageBuilder::default().index(found.index).nocontroller().build();
        net.change(Change { fine: Some(libc::ENODEV), ..link::set_link(link.as_str(), message) }).await
    }

    /// The ports it has now, whoever made them, in the order in which the links were made.
    ///
    /// # Errors
    /// [`Error::NotFound`] if this bridge is gone; [`Error::Os`] if the system refuses.
    pub async fn ports(&self, net: &Netlink) -> Result<Vec<BridgePort>> {
        let bridge = net.link_at(self.index()).await?.ok_or_else(|| self.gone())?;
        let filters = BridgeSettings::of(&bridge).filters_vlans;
        let vlans = if filters { net.bridge_vlans().await? } else { Vec::new() };
        let mut ports = net.ports(self.index()).await?;
        // Some kernels go through a table of hashes.
        ports.sort_by_key(|port| port.index);
        let ports = ports.into_iter().map(|port| BridgePort {
            settings: PortSettings {
                vlans: filters.then(|| PortVlans::of(port.index, &vlans)),
                ..PortSettings::of(&port.port)
            },
            owner: port.alias.and_then(|alias| LinkOwner::new(alias).ok()),
            name: port.name,
            up: port.up,
        });
        Ok(ports.collect())
    }

    async fn attach_any(
        &self,
        net: &Netlink,
        link: &LinkName,
        owner: Option<&LinkOwner>,
        settings: &PortSettings,
    ) -> Result<bool> {
        settings.vlans.as_ref().map_or(Ok(()), PortVlans::check)?;
        for attempt in 0..ATTEMPTS {
            link::pause(attempt).await;
            match self.attach_once(net, link, owner, settings).await {
                // It went while we were at it; there may be another of its name.
                Err(error) if error.errno() == Some(libc::ENODEV) => {}
                result => return result,
            }
        }
        Err(link::comes_and_goes(format!("link `{link}`")))
    }

    async fn attach_once(
        &self,
        net: &Netlink,
        name: &LinkName,
        owner: Option<&LinkOwner>,
        settings: &PortSettings,
    ) -> Result<bool> {
        let [bridge, link] = net.look([link::ask_at(self.index()), link::ask(name)]).await?;
        let bridge = BridgeSettings::of(&bridge.ok_or_else(|| self.gone())?);
        let link = link.ok_or_else(|| Error::NotFound { what: format!("link `{name}`") })?;
        self.check_attachable(net, name, &link, owner).await?;
        if settings.vlans.is_some() && !bridge.filters_vlans {
            return Err(Error::Differs {
                what: format!("bridge `{}`", self.name()),
                difference: format!("it does not filter VLANs, which link `{name}` was to be given"),
            });
        }
        let mut changes = Vec::new();
        if link.master.is_none() {
            changes.push(link::make_port(name.as_str(), link.index, self.index()));
        }
        let lacking = settings.lacking(&PortSettings::of(&link.port));
        if !lacking.is_empty() {
            changes.push(link::set_port(name.as_str(), link.index, lacking));
        }
        if let Some(vlans) = &settings.vlans {
            let present = match link.master {
                None => PortVlans::by_default(bridge.default_pvid.unwrap_or_default()),
                Some(_) => PortVlans::of(link.index, &net.bridge_vlans().await?),
            };
            changes.extend(vlans.changes(&present, name.as_str(), link.index));
        }
        let changed = !changes.is_empty();
        net.change_all(changes).await.map_err(link::explain_full)?;
        Ok(changed)
    }

    /// Refuses a link that must not become a port of this bridge.
    async fn check_attachable(
        &self,
        net: &Netlink,
        name: &LinkName,
        link: &Link,
        owner: Option<&LinkOwner>,
    ) -> Result<()> {
        if let Some(owner) = owner {
            link.check_ours(name, owner, &link.kind).map_err(|error| match error {
                Error::Differs { what, difference } => {
                    let difference = format!("{difference}; attach_foreign takes links of others");
                    Error::Differs { what, difference }
                }
                error => error,
            })?;
        }
        let mut differences = Vec::new();
        if link.kind == "bridge" {
            differences.push("it is a bridge, which cannot be a port of one".to_owned());
        }
        if let Some(other) = link.master.filter(|master| *master != self.index()) {
            let other = net.link_at(other).await?.map_or_else(|| other.to_string(), |other| other.name);
            differences.push(format!("it is a port of `{other}`, not of `{}`", self.name()));
        }
        if owner.is_none() && link.master.is_none() {
            let addresses = net.addresses(link.index).await?;
            differences.extend(addresses.iter().map(|address| {
                format!("it has the address {address}, which would no longer work; give it to the bridge")
            }));
        }
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::Differs { what: format!("link `{name}`"), difference: differences.join("; ") })
    }

    fn gone(&self) -> Error {
        Error::NotFound { what: format!("bridge `{}` with the number {}", self.name(), self.index()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_sent() {
        let default = PortSettings::default();
        assert_eq!(serde_json::from_str::<PortSettings>("{}").unwrap(), default);
        serde_json::from_str::<PortSettings>(r#"{"priority":1}"#).unwrap_err();
        assert_eq!(PortSettings::of(&[]), default);
        assert_eq!(default.lacking(&default), []);
        let asked = PortSettings { isolated: true, learning: false, ..default.clone() };
        assert_eq!(
            asked.lacking(&default),
            [InfoBridgePort::Isolated(true), InfoBridgePort::Learning(false)]
        );
        assert_eq!(asked.lacking(&PortSettings::of(&asked.lacking(&default))), []);
    }
}
