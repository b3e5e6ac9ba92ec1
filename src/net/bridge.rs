//! Bridges (`man 8 ip-link`, `bridge`).

use rtnetlink::LinkBridge;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::BridgeStpState;
use serde::{Deserialize, Serialize};

use super::link::{self, ATTEMPTS, Link};
use super::netlink::{Change, Mode};
use super::{InterfaceAddress, LinkOwner, MacAddress, Mtu, Netlink};
use crate::error::{Error, Result};
use crate::name::LinkName;

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
}

impl BridgeSpec {
    /// Checks what the types alone do not: distinct addresses, and an MTU that carries them. `ensure` does it, too.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the rule that is broken.
    pub fn check(&self) -> Result<()> {
        InterfaceAddress::check_distinct(&self.addresses)?;
        Mtu::check_carries(self.mtu, &self.addresses)
    }
}

/// A bridge that exists. A plain value: dropping it does nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    name: LinkName,
    index: u32,
    mtu: u32,
    changed: bool,
}

impl Bridge {
    /// Makes the bridge, up, or adopts the one that is there: completes it if a crash left it half made, and puts
    /// right what has drifted (an address lost, down, another MTU). The spanning tree protocol is off and new ports
    /// forward at once; the hardware address is [derived](MacAddress::derive), so that it does not change with the ports.
    ///
    /// IPv6 addresses are usable at once: the search for duplicates is left out.
    ///
    /// # Errors
    /// [`Error::Invalid`] as [`BridgeSpec::check`]; [`Error::Differs`] if the link `name` is no bridge, is not the
    /// owner's, or has an address that was not asked for: it is left as it is; [`Error::Unsupported`] for an IPv6
    /// address where IPv6 is off; [`Error::Os`] if the system refuses.
    pub async fn ensure(net: &Netlink, spec: &BridgeSpec) -> Result<Self> {
        spec.check()?;
        let mut created = false;
        for attempt in 0..ATTEMPTS {
            link::pause(attempt).await;
            let result = match net.link(&spec.name).await? {
                None => match create(net, spec).await {
                    // Somebody else made it, or it is made: look at it.
                    Ok(()) => {
                        created = true;
                        continue;
                    }
                    Err(error) if error.errno() == Some(libc::EEXIST) => continue,
                    Err(error) => Err(error),
                },
                Some(link) => adopt(net, spec, &link).await,
            };
            match result {
                // Somebody removed it while we were at it.
                Err(error) if error.errno() == Some(libc::ENODEV) => {}
                result => return result.map(|bridge| Self { changed: bridge.changed || created, ..bridge }),
            }
        }
        Err(Error::Busy {
            what: format!("bridge `{}`", spec.name),
            reason: "somebody makes and removes it again and again".to_owned(),
        })
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

    /// Removes the bridge `name` of `owner`; its ports stay. One that is gone is removed. Takes 15 to 40 ms.
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

async fn create(net: &Netlink, spec: &BridgeSpec) -> Result<()> {
    let mac = MacAddress::derive(&spec.owner, spec.name.as_str());
    // Without an MTU: one set later is the bridge's own, one set here is lost with the next change of its ports.
    let message = LinkBridge::new(spec.name.as_str())
        .stp_state(BridgeStpState::Disabled)
        .forward_delay(0)
        .address(mac.octets().to_vec())
        .build();
    net.change(Change {
        call: "RTM_NEWLINK",
        target: format!("bridge `{}`", spec.name),
        message: RouteNetlinkMessage::NewLink(message),
        mode: Mode::Create,
        fine: None,
    })
    .await
}

/// Compares everything before it changes anything.
async fn adopt(net: &Netlink, spec: &BridgeSpec, found: &Link) -> Result<Bridge> {
    found.check_ours(&spec.name, &spec.owner, "bridge")?;
    let present = net.addresses(found.index).await?;
    let asked: Vec<ipnet::IpNet> = spec.addresses.iter().map(|a| (*a).into()).collect();
    let foreign: Vec<String> =
        present.iter().filter(|a| !asked.contains(a)).map(|a| format!("it has the address {a}")).collect();
    if !foreign.is_empty() {
        let asked: Vec<String> = asked.iter().map(ToString::to_string).collect();
        return Err(Error::Differs {
            what: format!("bridge `{}`", spec.name),
            difference: format!("{}; asked for: {}", foreign.join(", "), asked.join(", ")),
        });
    }
    let mut changes = found.completion(&spec.name, &spec.owner, spec.mtu);
    for address in &spec.addresses {
        if !present.contains(&(*address).into()) {
            changes.push(link::add_address(spec.name.as_str(), found.index, *address));
        }
    }
    let changed = !changes.is_empty();
    net.change_all(changes).await.map_err(link::explain_ipv6)?;
    let mtu = spec.mtu.map_or(found.mtu, Mtu::bytes);
    Ok(Bridge { name: spec.name.clone(), index: found.index, mtu, changed })
}
