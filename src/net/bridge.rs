//! Bridges (`man 8 ip-link`, `bridge`). Their ports are in `bridge_port`.

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoBridge, InfoData, InfoKind};
use serde::{Deserialize, Serialize};

use super::bridge_settings::BridgeSettings;
use super::change::{Change, Mode};
use super::link::{self, ATTEMPTS, Link, MessageBuilder};
use super::{InterfaceAddress, LinkOwner, MacAddress, Mtu, Netlink, VlanFiltering, inet};
use crate::error::{Error, Result};
use crate::name::LinkName;

/// How long a bridge may remember an address at most, in seconds: more than a week, and far from where the kernel's
/// arithmetic ends.
const AGEING_MAX: u32 = 1_000_000;

/// What a bridge should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgeSpec {
    /// Its name.
    pub name: LinkName,
    /// Whose it is.
    pub owner: LinkOwner,
    /// The host's own addresses on it, which are the gateways of those behind it. None unless given.
    #[serde(default)]
    pub addresses: Vec<InterfaceAddress>,
    /// The largest packet. `None` leaves it to the kernel: 1500 bytes, or the least of the bridge's ports.
    #[serde(default)]
    pub mtu: Option<Mtu>,
    /// Whether it speaks the spanning tree protocol, for networks in which bridges are joined to rings; then it waits 15 s
    /// before a port of it forwards. Off unless given: ports forward at once.
    #[serde(default)]
    pub stp: bool,
    /// How long it remembers behind which port an address is, in seconds; 0 to 1,000,000. `None` leaves it to the kernel:
    /// 300 s. With 0 each frame goes to all ports.
    #[serde(default)]
    pub ageing_seconds: Option<u32>,
    /// How it keeps VLANs apart. Not at all unless given: it passes on frames whatever their tags.
    #[serde(default)]
    pub vlan_filtering: Option<VlanFiltering>,
}

impl BridgeSpec {
    /// The bridge `name` of `owner`, without anything else that has to be asked for.
    #[must_use]
    pub fn new(name: LinkName, owner: LinkOwner) -> Self {
        Self {
            name,
            owner,
            addresses: Vec::new(),
            mtu: None,
            stp: false,
            ageing_seconds: None,
            vlan_filtering: None,
        }
    }

    /// Checks what the types alone do not: distinct addresses, an MTU that carries them, and the time it remembers.
    /// `ensure` does it, too.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the rule that is broken.
    pub fn check(&self) -> Result<()> {
        InterfaceAddress::check_distinct(&self.addresses)?;
        Mtu::check_carries(self.mtu, &self.addresses)?;
        match self.ageing_seconds {
            Some(seconds) if seconds > AGEING_MAX => {
                Err(Error::invalid("ageing", seconds.to_string(), "must be at most 1000000 seconds"))
            }
            _ => Ok(()),
        }
    }
}

/// A bridge that exists. A plain value: dropping it does nothing.
///
/// ```no_run
/// use docklet::net::{Bridge, BridgeSpec, LinkOwner, Netlink, PortSettings, PortVlans, VlanFiltering, VlanId};
///
/// # async fn example() -> docklet::Result<()> {
/// let net = Netlink::connect().await?;
/// let spec = BridgeSpec {
///     stp: true,
///     ageing_seconds: Some(60),
///     vlan_filtering: Some(VlanFiltering { default_pvid: None }),
///     ..BridgeSpec::new("exbr1".parse()?, LinkOwner::new("example/wires")?)
/// };
/// let bridge = Bridge::ensure(&net, &spec).await?;
/// // A wire of the host's, which docklet has not made: the way out of VLAN 7 and 8.
/// let vlans = Some(PortVlans::trunk([VlanId::new(7)?, VlanId::new(8)?]));
/// bridge.attach_foreign(&net, &"eth1".parse()?, &PortSettings { vlans, ..PortSettings::default() }).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    name: LinkName,
    index: u32,
    mtu: u32,
    changed: bool,
}

impl Bridge {
    /// Makes the bridge, up, or adopts the one that is there: completes it if a crash left it half made, and puts
    /// right what has drifted: an address lost, down, another MTU, hardware address, spanning tree, ageing or VLAN
    /// filtering. The hardware address is [derived](MacAddress::derive), so that it does not change with the ports. Ports
    /// are left as they are.
    ///
    /// IPv6 addresses are usable at once: the search for duplicates is left out.
    ///
    /// Two system calls send all of it. The first has RTM_NEWLINK, which fails if there is such a link, and RTM_GETLINK.
    /// For a new bridge the second has RTM_SETLINK with an RTM_NEWADDR for each address; one that was there is asked for
    /// its addresses, and needs a third only if something is to be put right.
    ///
    /// # Errors
    /// [`Error::Invalid`] as [`BridgeSpec::check`]; [`Error::Differs`] if the link `name` is no bridge, is not the
    /// owner's, or has an address that was not asked for: it is left as it is; [`Error::Unsupported`] if this kernel has
    /// no bridges, or does not filter VLANs and is asked to: nothing is made then; and for an IPv6 address where IPv6 is
    /// off; [`Error::Os`] if the system refuses.
    pub async fn ensure(net: &Netlink, spec: &BridgeSpec) -> Result<Self> {
        spec.check()?;
        for attempt in 0..ATTEMPTS {
            link::pause(attempt).await;
            let answers = net.exchange(vec![creation(spec), link::ask(&spec.name)]).await?;
            let [made, seen] = answers.try_into().expect("an answer to each");
            let created = match made {
                Ok(_) => true,
                Err(error) if error.errno() == Some(libc::EEXIST) => false,
                Err(error) => return Err(explain(error, spec)),
            };
            // If it is gone, or goes now, somebody removed it while we were at it.
            let Some(found) = seen?.and_then(Link::told) else { continue };
            match adopt(net, spec, &found, created).await {
                Err(error) if error.errno() == Some(libc::ENODEV) => {}
                result => return result.map(|bridge| Self { changed: bridge.changed || created, ..bridge }),
            }
        }
        Err(link::comes_and_goes(format!("bridge `{}`", spec.name)))
    }

    /// The bridge `name` of `owner`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such link; [`Error::Differs`] if it is no bridge or not the owner's.
    pub async fn open(net: &Netlink, name: &LinkName, owner: &LinkOwner) -> Result<Self> {
        let link =
            net.link(name).await?.ok_or_else(|| Error::NotFound { what: format!("bridge `{name}`") })?;
        link.check_ours(name, owner, "bridge")?;
        Ok(Self { name: name.clone(), index: link.index, mtu: link.mtu, changed: false })
    }

    /// Removes the bridge `name` of `owner`; its ports stay, and are nobody's then: the
    /// `ensure` of each, or [`Bridge::attach`], makes them a new bridge's. One that is gone is removed. Takes 15 to 40 ms.
    ///
    /// # Errors
    /// [`Error::Differs`] if the link is no bridge or not the owner's: it is left as it is; [`Error::Os`] if the
    /// system refuses.
    pub async fn remove(net: &Netlink, name: &LinkName, owner: &LinkOwner) -> Result<()> {
        link::remove(net, name, owner, "bridge").await
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &LinkName {
        &self.name
    }

    /// The kernel's number for it, valid as long as it exists.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Whether [`Bridge::ensure`] made it or put something right. A bridge that was opened has not changed.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.changed
    }

    /// The largest packet it carries now, in bytes.
    #[must_use]
    pub fn mtu_bytes(&self) -> u32 {
        self.mtu
    }
}

/// Makes the bridge if there is no link of its name. It bears its owner's hardware address from the first moment on.
fn creation(spec: &BridgeSpec) -> Change {
    let mut message = bridge_message(BridgeSettings::at_birth(spec))
        .name(spec.name.as_str())
        .address(derived(spec).octets().to_vec());
    // An MTU given at birth is lost with the next change of the ports; one that is set later stays. To set the one that
    // it has would do nothing, so the bridge is born with another.
    if let Some(mtu) = spec.mtu.map(Mtu::bytes) {
        message = message.mtu(if mtu == 1500 { 1499 } else { 1500 });
    }
    let message = RouteNetlinkMessage::NewLink(message.build());
    Change { mode: Mode::Create, ..Change::new(format!("bridge `{}`", spec.name), message) }
}

/// Compares everything before it changes anything.
async fn adopt(net: &Netlink, spec: &BridgeSpec, found: &Link, created: bool) -> Result<Bridge> {
    found.check_ours(&spec.name, &spec.owner, "bridge")?;
    // One that was just made, and that nobody else has completed, has none.
    let untouched = created && found.alias.is_none() && !found.up;
    let present = if untouched { Vec::new() } else { net.addresses(found.index).await? };
    check_addresses(spec, &present)?;
    let settings = BridgeSettings::of(found);
    if spec.vlan_filtering.is_some() && settings.default_pvid.is_none() {
        return Err(no_vlans(spec));
    }
    let mut changes: Vec<Change> =
        settings.repairs(spec).into_iter().map(|data| set_bridge(spec, found.index, data)).collect();
    if found.mac != Some(derived(spec)) {
        let message = MessageBuilder::default().index(found.index).address(derived(spec).octets().to_vec());
        changes.push(link::set_link(spec.name.as_str(), message.build()));
    }
    changes.extend(found.completion(&spec.name, &spec.owner, spec.mtu));
    for address in &spec.addresses {
        if !present.contains(&(*address).into()) {
            changes.push(inet::add_address(spec.name.as_str(), found.index, *address));
        }
    }
    let changed = !changes.is_empty();
    net.change_all(changes).await.map_err(inet::explain_ipv6)?;
    let mtu = spec.mtu.map_or(found.mtu, Mtu::bytes);
    Ok(Bridge { name: spec.name.clone(), index: found.index, mtu, changed })
}

fn derived(spec: &BridgeSpec) -> MacAddress {
    MacAddress::derive(&spec.owner, spec.name.as_str())
}

/// Refuses a bridge that has an address which was not asked for.
fn check_addresses(spec: &BridgeSpec, present: &[ipnet::IpNet]) -> Result<()> {
    let asked: Vec<ipnet::IpNet> = spec.addresses.iter().map(|a| (*a).into()).collect();
    let foreign: Vec<String> =
        present.iter().filter(|a| !asked.contains(a)).map(|a| format!("it has the address {a}")).collect();
    if foreign.is_empty() {
        return Ok(());
    }
    let asked: Vec<String> = asked.iter().map(ToString::to_string).collect();
    let asked = if asked.is_empty() { "none".to_owned() } else { asked.join(", ") };
    Err(Error::Differs {
        what: format!("bridge `{}`", spec.name),
        difference: format!(
            "{}; asked for: {asked}; take it away by hand, or remove the bridge",
            foreign.join(", ")
        ),
    })
}

/// A message about a bridge that tells it `data`.
fn bridge_message(data: Vec<InfoBridge>) -> MessageBuilder {
    MessageBuilder::new_with_info_kind(InfoKind::Bridge).set_info_data(InfoData::Bridge(data))
}

fn set_bridge(spec: &BridgeSpec, index: u32, data: Vec<InfoBridge>) -> Change {
    // RTM_SETLINK does not look at what depends on the kind of a link.
    let message = RouteNetlinkMessage::NewLink(bridge_message(data).index(index).build());
    Change::new(format!("settings of bridge `{}`", spec.name), message)
}

/// Says what a kernel lacks that refuses to make a bridge.
fn explain(error: Error, spec: &BridgeSpec) -> Error {
    match error.errno() {
        Some(libc::EOPNOTSUPP) if spec.vlan_filtering.is_some() => no_vlans(spec),
        Some(libc::EOPNOTSUPP) => Error::Unsupported {
            what: format!("bridge `{}`", spec.name),
            needs: "the kernel has none: load the module `bridge` (CONFIG_BRIDGE)".to_owned(),
        },
        _ => error,
    }
}

fn no_vlans(spec: &BridgeSpec) -> Error {
    Error::Unsupported {
        what: format!("VLAN filtering on bridge `{}`", spec.name),
        needs:
            "it takes a kernel with CONFIG_BRIDGE_VLAN_FILTERING; leave `vlan_filtering` out to have a bridge without"
                .to_owned(),
    }
}
