//! What the kernel says of a link, whose it is, and the messages that change it.

use std::time::Duration;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoBridgePort, InfoData, InfoPortData, InfoPortKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
    LinkMessage,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::change::Change;
use super::{LinkOwner, MacAddress, Mtu, Netlink};
use crate::error::{Error, Result};
use crate::name::LinkName;

/// Builds messages about a link of any kind.
pub(super) type MessageBuilder = LinkMessageBuilder<LinkUnspec>;

/// How often to begin again when a link comes and goes under our hands.
pub(super) const ATTEMPTS: u32 = 40;

/// The most ports of one bridge (the kernel's `BR_MAX_PORTS`, and 0 is none).
pub(super) const MOST_PORTS: usize = 1023;

/// Waits before the next attempt, longer and longer: all in all about 0.7 s. The first attempts are the usual course of
/// making a link and looking at it. A name stays taken for some 10 ms after its link has gone from sight.
pub(super) async fn pause(attempt: u32) {
    if let Some(more) = attempt.checked_sub(3) {
        tokio::time::sleep(Duration::from_millis(1) * (more + 1)).await;
    }
}

/// At how many of the attempts a bridge that is being made is waited for. Then it is taken as it is: a crash may have left it
/// so, or it was made by hand.
const PATIENCE: u32 = 10;

/// Whether this looks like one that is being made. Its MTU is set when its alias is, and would not stay if it got a port
/// before that.
pub(super) fn is_half_made(bridge: &Link) -> bool {
    bridge.kind == "bridge" && bridge.alias.is_none() && !bridge.up
}

/// Says that something came or went (`ENODEV`) if the bridge is being made, for as many attempts as that is waited for.
pub(super) fn made(bridge: Link, attempt: u32) -> Result<Link> {
    if attempt < PATIENCE && is_half_made(&bridge) { Err(gone(&bridge.name)) } else { Ok(bridge) }
}

/// Whether `error` may mean that a link came or went, or went down, while we were at it: also at the hands of root inside.
pub(super) fn went(error: &Error) -> bool {
    let errors = [libc::ENODEV, libc::ENETUNREACH, libc::EHOSTUNREACH, libc::ENETDOWN];
    error.errno().is_some_and(|errno| errors.contains(&errno))
}

/// What to say when the last attempt was in vain.
pub(super) fn comes_and_goes(what: String) -> Error {
    Error::Busy { what, reason: "it comes and goes; does somebody else use it?".to_owned() }
}

/// A link as the kernel shows it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// `bridge`, `veth`, …; empty for a hardware device.
    pub(super) kind: String,
    pub(super) alias: Option<String>,
    pub(super) mac: Option<MacAddress>,
    pub(super) mtu: u32,
    pub(super) up: bool,
    /// The number of the bridge it is a port of.
    pub(super) master: Option<u32>,
    /// The number of a veth's other end, in the other end's namespace.
    pub(super) peer: Option<u32>,
    /// What the kernel says of a link of its kind.
    pub(super) data: Option<InfoData>,
    /// How its bridge treats it, if it is a bridge's port.
    pub(super) port: Vec<InfoBridgePort>,
    /// The number that this namespace has for the one of a veth's other end; none if it is this one.
    pub(super) peer_namespace: Option<i32>,
    /// How its packets queue: `noqueue`, `tbf`, …
    pub(super) queue: String,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            up: message.header.flags.contains(LinkFlags::Up),
            ..Self::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias).filter(|alias| !alias.is_empty()),
                LinkAttribute::Address(bytes) => link.mac = MacAddress::from_slice(&bytes),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Controller(master) => link.master = Some(master).filter(|master| *master != 0),
                LinkAttribute::Link(peer) => link.peer = Some(peer),
                LinkAttribute::LinkNetNsId(id) => link.peer_namespace = Some(id),
                LinkAttribute::Qdisc(queue) => link.queue = queue,
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(kind) => link.kind = kind.to_string(),
                            LinkInfo::Data(data) => link.data = Some(data),
                            LinkInfo::PortData(InfoPortData::BridgePort(port)) => link.port = port,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        link
    }
}

impl Link {
    /// The link that `message` tells of.
    pub(super) fn told(message: RouteNetlinkMessage) -> Option<Self> {
        match message {
            RouteNetlinkMessage::NewLink(message) => Some(Self::from(message)),
            _ => None,
        }
    }

    /// Whether it is a port that does not reach other ports of its kind.
    pub(super) fn is_isolated(&self) -> bool {
        self.port.contains(&InfoBridgePort::Isolated(true))
    }

    /// Refuses a link that is not `owner`'s, or not of the kind `kind`.
    pub(super) fn check_ours(&self, name: &LinkName, owner: &LinkOwner, kind: &str) -> Result<()> {
        let mut differences = Vec::new();
        if self.name != name.as_str() {
            differences.push(format!("the name is an alternative name of `{}`", self.name));
        }
        if self.kind != kind {
            let found = if self.kind.is_empty() { "a device" } else { &self.kind };
            differences.push(format!("kind is {found}, not {kind}"));
        }
        match &self.alias {
            Some(alias) if alias == owner.as_str() => {}
            // Made, but not marked yet.
            None if self.mac == Some(MacAddress::derive(owner, name.as_str())) => {}
            Some(alias) => differences.push(format!("its owner is {alias:?}, not \"{owner}\"")),
            None => differences.push(format!("it bears no owner's mark, and not that of \"{owner}\"")),
        }
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::Differs { what: format!("link `{name}`"), difference: differences.join("; ") })
    }

    /// What is missing to make a link that [is ours](Self::check_ours) marked, up, and `mtu` large.
    pub(super) fn completion(&self, name: &LinkName, owner: &LinkOwner, mtu: Option<Mtu>) -> Vec<Change> {
        let mut message = MessageBuilder::default().index(self.index);
        let mut complete = true;
        if self.alias.is_none() {
            message = message.alias(owner.as_str());
            complete = false;
        }
        if let Some(mtu) = mtu.filter(|mtu| mtu.bytes() != self.mtu) {
            message = message.mtu(mtu.bytes());
            complete = false;
        }
        if !self.up {
            message = message.up();
            complete = false;
        }
        if complete { Vec::new() } else { vec![set_link(name.as_str(), message.build())] }
    }
}

/// Asks for the link `name`.
pub(super) fn ask(name: &LinkName) -> Change {
    question(format!("link `{name}`"), MessageBuilder::default().name(name.to_string()))
}

/// Asks for the link with the number `index`, if there is one.
pub(super) fn ask_at(index: u32) -> Change {
    question(format!("link {index}"), MessageBuilder::default().index(index))
}

fn question(target: String, message: MessageBuilder) -> Change {
    let message = RouteNetlinkMessage::GetLink(brief(message).build());
    Change { fine: &[libc::ENODEV], ..Change::new(target, message) }
}

/// Asks for links without their counters, which nobody here reads.
pub(super) fn brief(message: MessageBuilder) -> MessageBuilder {
    message.append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
}

/// Changes a link that exists, found by the number in `message`.
pub(super) fn set_link(name: &str, message: LinkMessage) -> Change {
    Change::new(format!("link `{name}`"), RouteNetlinkMessage::SetLink(message))
}

/// Makes the link `index` a port of the bridge with the number `bridge`.
pub(super) fn make_port(name: &str, index: u32, bridge: u32) -> Change {
    set_link(name, MessageBuilder::default().index(index).controller(bridge).build())
}

/// Changes what its bridge does with the port `index`.
pub(super) fn set_port(name: &str, index: u32, settings: Vec<InfoBridgePort>) -> Change {
    let message = MessageBuilder::default()
        .index(index)
        .set_port_kind(InfoPortKind::Bridge)
        .set_port_data(InfoPortData::BridgePort(settings))
        .build();
    // RTM_SETLINK does not look at what depends on the kind of a link.
    Change::new(format!("port `{name}`"), RouteNetlinkMessage::NewLink(message))
}

/// Removes the link `name` if it is `owner`'s and of the kind `kind`; one that is gone is removed.
pub(super) async fn remove(net: &Netlink, name: &LinkName, owner: &LinkOwner, kind: &str) -> Result<()> {
    for attempt in 0..ATTEMPTS {
        pause(attempt).await;
        let Some(link) = net.link(name).await? else { return Ok(()) };
        link.check_ours(name, owner, kind)?;
        delete(net, name, link.index).await?;
    }
    Err(comes_and_goes(format!("link `{name}`")))
}

/// Deletes the link `index`. By number: the name may be another link's by now.
pub(super) async fn delete(net: &Netlink, name: &LinkName, index: u32) -> Result<()> {
    net.change(deletion(name, index)).await
}

/// Deletes the link `index`; one that is gone is deleted.
pub(super) fn deletion(name: &LinkName, index: u32) -> Change {
    let message = RouteNetlinkMessage::DelLink(MessageBuilder::default().index(index).build());
    Change { fine: &[libc::ENODEV], ..Change::new(format!("link `{name}`"), message) }
}

/// Says that something came or went (`ENODEV`) if what failed was about a bridge that is gone by now, or about a `port` that is
/// not its any more: of a master that it does not know, and of a port that is none, the kernel says something else.
///
/// A link loses its bridge also when somebody else fails to make it the port of one that is gone.
pub(super) async fn unless_gone<T>(
    net: &Netlink,
    bridge: &Link,
    port: Option<&Link>,
    result: Result<T>,
) -> Result<T> {
    let Err(error) = result else { return result };
    let went = match error.errno() {
        Some(libc::EINVAL | libc::EOPNOTSUPP) if net.link_at(bridge.index).await?.is_none() => true,
        Some(libc::EOPNOTSUPP) => match port {
            Some(port) => net.link_at(port.index).await?.is_none_or(|now| now.master != Some(bridge.index)),
            None => false,
        },
        _ => false,
    };
    Err(if went { gone(&bridge.name) } else { error })
}

/// Somebody has just removed it.
pub(super) fn gone(name: &str) -> Error {
    Error::os("RTM_GETLINK", format!("link `{name}`"), std::io::Error::from_raw_os_error(libc::ENODEV))
}

/// Says that a bridge has no room for what was to become its port.
pub(super) fn explain_full(error: Error) -> Error {
    match &error {
        Error::Os { target, .. } if error.errno() == Some(libc::EXFULL) => full(target.clone()),
        _ => error,
    }
}

pub(super) fn full(what: String) -> Error {
    let reason = format!("there is no room: the kernel gives a bridge at most {MOST_PORTS} ports");
    Error::Busy { what, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> (LinkName, LinkOwner, Link) {
        let (name, owner) = (LinkName::new("br0").unwrap(), LinkOwner::new("docklet/t").unwrap());
        let link = Link {
            index: 7,
            name: "br0".to_owned(),
            kind: "bridge".to_owned(),
            alias: Some("docklet/t".to_owned()),
            mac: Some(MacAddress::derive(&owner, "br0")),
            mtu: 1500,
            up: true,
            ..Link::default()
        };
        (name, owner, link)
    }

    #[test]
    fn only_marked_links_are_ours() {
        let (name, owner, link) = ours();
        link.check_ours(&name, &owner, "bridge").unwrap();
        Link { mac: None, ..link.clone() }.check_ours(&name, &owner, "bridge").unwrap();
        Link { alias: None, ..link.clone() }.check_ours(&name, &owner, "bridge").unwrap();
        for (foreign, difference) in [
            (Link { alias: None, mac: None, ..link.clone() }, "no owner's mark"),
            (Link { alias: Some("docklet/tt".to_owned()), ..link.clone() }, "its owner is \"docklet/tt\""),
            (Link { kind: "veth".to_owned(), ..link.clone() }, "kind is veth, not bridge"),
            (Link { kind: String::new(), ..link.clone() }, "kind is a device"),
            (Link { name: "eth0".to_owned(), ..link }, "alternative name of `eth0`"),
        ] {
            let message = foreign.check_ours(&name, &owner, "bridge").unwrap_err().to_string();
            assert!(message.starts_with("link `br0` exists but differs: "), "{message}");
            assert!(message.contains(difference), "{message}");
        }
    }

    #[test]
    fn a_whole_link_needs_no_completion() {
        let (name, owner, link) = ours();
        assert!(link.completion(&name, &owner, None).is_empty());
        assert!(link.completion(&name, &owner, Some(Mtu::new(1500).unwrap())).is_empty());
        assert_eq!(link.completion(&name, &owner, Some(Mtu::new(1400).unwrap())).len(), 1);
        assert_eq!(Link { up: false, alias: None, ..link }.completion(&name, &owner, None).len(), 1);
    }
}
