//! The host's side of a pair: its end, the device that holds back what comes out (`ifb`), and the rules of both.

use std::os::fd::{AsFd, AsRawFd};

use rtnetlink::LinkVeth;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoBridgePort, InfoData, InfoKind, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::tc::TcMessage;

use super::VethSpec;
use crate::error::{Error, Result};
use crate::name::LinkName;
use crate::net::change::{Change, Mode};
use crate::net::inet;
use crate::net::link::{self, Link, MessageBuilder};
use crate::net::traffic::{self, Bucket, Filter};
use crate::net::{MacAddress, Mtu, Netlink, NetworkNamespace};

/// What there is of a pair on the host.
#[derive(Debug, Default, Clone)]
pub(super) struct Outer {
    pub(super) host: Option<Link>,
    pub(super) shaper: Option<Link>,
    pub(super) guard: Option<Vec<u8>>,
    pub(super) redirect: Option<u32>,
    pub(super) bucket: Option<Bucket>,
    pub(super) shaper_bucket: Option<Bucket>,
}

/// A pair that was asked for, and what is there after the attempt to make it.
pub(super) struct Made {
    /// Whether it was made now.
    pub(super) fresh: bool,
    pub(super) outer: Outer,
}

/// A pair to be made: where its inner end will be, what it should be, and its bridge.
pub(super) type Wish<'a> = (&'a NetworkNamespace, &'a VethSpec, &'a Link);

/// Changes in their order: rules, another bridge, isolation there, and what completes the link, which sets it up. A part is
/// begun when the one before it has succeeded.
pub(super) type Stages = [Vec<Change>; 4];

/// Makes all, in as few system calls as fit, and looks at what is there then.
pub(super) async fn make(net: &Netlink, wishes: &[Wish<'_>]) -> Result<Vec<Result<Made>>> {
    let mut changes = Vec::new();
    for (namespace, spec, bridge) in wishes {
        let shaper = VethSpec::shaper_name(&spec.name, &spec.owner);
        changes.extend([creation(namespace, spec, bridge), link::ask(&spec.name), link::ask(&shaper)]);
    }
    let mut answers = net.exchange(changes).await?.into_iter();
    let mut next = || answers.next().unwrap_or(Ok(None));
    let made = wishes.iter().map(|_| {
        let (made, host, shaper) = (next(), next(), next());
        let fresh = match made {
            Ok(_) => true,
            Err(error) if error.errno() == Some(libc::EEXIST) => false,
            Err(error) => return Err(link::explain_full(error)),
        };
        let [host, shaper] = [host?, shaper?].map(|told| told.and_then(Link::told));
        Ok(Made { fresh, outer: Outer { host, shaper, ..Outer::default() } })
    });
    Ok(made.collect())
}

/// One message makes both ends, in their places. The kernel takes no alias here; the hardware address is the mark until
/// there is one. The host's end is down: nothing comes through before the rules are there. Nor does the kernel take an
/// inner end that is up (ENOTCONN: it is not tied to the other one yet).
fn creation(namespace: &NetworkNamespace, spec: &VethSpec, bridge: &Link) -> Change {
    let mtu = spec.mtu.map_or(bridge.mtu, Mtu::bytes);
    let mut inner = MessageBuilder::default()
        .name(spec.inner_name.to_string())
        .address(MacAddress::derive(&spec.owner, spec.inner_name.as_str()).octets().to_vec())
        .mtu(mtu)
        .build();
    inner.attributes.push(LinkAttribute::NetNsFd(namespace.as_fd().as_raw_fd()));
    let message = LinkVeth::new(spec.name.as_str(), spec.inner_name.as_str())
        .address(MacAddress::derive(&spec.owner, spec.name.as_str()).octets().to_vec())
        .mtu(mtu)
        .controller(bridge.index)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(inner)))
        .build();
    let message = RouteNetlinkMessage::NewLink(message);
    Change { mode: Mode::Create, ..Change::new(format!("veth `{}`", spec.name), message) }
}

/// What there is of the pair.
pub(super) async fn look(net: &Netlink, spec: &VethSpec) -> Result<Outer> {
    let shaper = VethSpec::shaper_name(&spec.name, &spec.owner);
    let [host, shaper] = net.look([link::ask(&spec.name), link::ask(&shaper)]).await?;
    Ok(Outer { host, shaper, ..Outer::default() })
}

/// Reads the rules of pairs whose links are known.
pub(super) async fn look_at_rules(net: &Netlink, pairs: &mut [(&VethSpec, &mut Outer)]) -> Result<()> {
    let mut questions = Vec::new();
    for (spec, outer) in pairs.iter() {
        let index = outer.host.as_ref().map_or(0, |host| host.index);
        questions
            .extend([Filter::Guard, Filter::Redirect].map(|filter| filter.ask(spec.name.as_str(), index)));
    }
    let mut answers = net.exchange(questions).await?.into_iter();
    let mut next = || match answers.next().unwrap_or(Ok(None)) {
        Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) => Ok(None),
        answer => answer,
    };
    for (_, outer) in pairs.iter_mut() {
        outer.guard = next()?.as_ref().and_then(traffic::guard);
        outer.redirect = next()?.as_ref().and_then(traffic::redirect);
    }
    let limited = |link: &Option<Link>| link.as_ref().is_some_and(|link| link.queue == "tbf");
    if !pairs.iter().any(|(_, outer)| limited(&outer.host) || limited(&outer.shaper)) {
        return Ok(());
    }
    // The kernel has no question for one link's that all versions answer.
    let message = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    let found = net.dump(message).await?;
    let buckets: Vec<(u32, Bucket)> = found.iter().filter_map(traffic::bucket).collect();
    let of = |link: &Option<Link>| {
        let index = link.as_ref()?.index;
        buckets.iter().find(|(of, _)| *of == index).map(|(_, bucket)| *bucket)
    };
    for (_, outer) in pairs.iter_mut() {
        (outer.bucket, outer.shaper_bucket) = (of(&outer.host), of(&outer.shaper));
    }
    Ok(())
}

/// Makes the device that holds back what comes out, if one is asked for and there is none. Whose the one that is there
/// is, is checked.
pub(super) async fn ensure_shaper(net: &Netlink, spec: &VethSpec, outer: &mut Outer) -> Result<()> {
    let name = VethSpec::shaper_name(&spec.name, &spec.owner);
    if spec.rates.from_container.is_some() && outer.shaper.is_none() {
        let message = MessageBuilder::new_with_info_kind(InfoKind::Ifb)
            .name(name.to_string())
            .address(MacAddress::derive(&spec.owner, name.as_str()).octets().to_vec())
            .build();
        let creation = Change {
            mode: Mode::Create,
            fine: &[libc::EEXIST],
            ..Change::new(format!("ifb `{name}`"), RouteNetlinkMessage::NewLink(message))
        };
        let mut answers = net.exchange(vec![creation, link::ask(&name)]).await?.into_iter();
        answers.next().transpose().map_err(|error| explain_shaper(error, &name))?;
        outer.shaper = answers.next().transpose()?.flatten().and_then(Link::told);
        if outer.shaper.is_none() {
            return Err(link::gone(name.as_str()));
        }
    }
    outer.shaper.as_ref().map_or(Ok(()), |shaper| shaper.check_ours(&name, &spec.owner, "ifb"))
}

/// What the host's side lacks of `spec`, on `bridge`: nothing if all is as it should be.
pub(super) fn stages(spec: &VethSpec, bridge: &Link, outer: &Outer, mtu: Option<Mtu>) -> Result<Stages> {
    let Some(mut host) = outer.host.clone() else { return Ok(Stages::default()) };
    let name = spec.name.as_str();
    let isolation = link::set_port(name, host.index, vec![InfoBridgePort::Isolated(spec.isolated)]);
    let mut rules = rules(spec, &host, outer, mtu)?;
    let (mut moving, mut isolating) = (Vec::new(), Vec::new());
    if host.master == Some(bridge.index) {
        if spec.isolated != host.is_isolated() {
            rules.push(isolation);
        }
    } else {
        // Only a port can be isolated, and a new one is not: it is down until then.
        if spec.isolated && host.up {
            moving.push(link::set_link(name, MessageBuilder::default().index(host.index).down().build()));
            host.up = false;
        }
        moving.push(link::make_port(name, host.index, bridge.index));
        if spec.isolated {
            isolating.push(isolation);
        }
    }
    let mut completion = host.completion(&spec.name, &spec.owner, mtu);
    if !host.up {
        // A bridge's port has no use for an address of its own.
        completion.insert(0, inet::without_link_local(name, host.index));
    }
    Ok([rules, moving, isolating, completion])
}

fn rules(spec: &VethSpec, host: &Link, outer: &Outer, mtu: Option<Mtu>) -> Result<Vec<Change>> {
    let (name, index) = (spec.name.as_str(), host.index);
    let mtu = mtu.map_or_else(|| Mtu::new(host.mtu), Ok)?;
    let mut changes = Vec::new();
    let program = spec.program();
    let looks = outer.guard.is_some() || outer.redirect.is_some();
    if (program.is_some() || spec.rates.from_container.is_some()) && !looks {
        changes.push(traffic::add_ingress(name, index));
    }
    match (&program, &outer.guard) {
        (Some(program), found) if found.as_ref() != Some(&traffic::bytes(program)) => {
            changes.push(traffic::set_guard(name, index, program));
        }
        (None, Some(_)) => changes.push(Filter::Guard.remove(name, index)),
        _ => {}
    }
    match spec.rates.to_container {
        Some(rate) if outer.bucket != Some(Bucket::new(rate, mtu)) => {
            changes.push(traffic::set_bucket(name, index, rate, mtu));
        }
        None if outer.bucket.is_some() => changes.push(traffic::remove_bucket(name, index)),
        _ => {}
    }
    let shaper_name = VethSpec::shaper_name(&spec.name, &spec.owner);
    match (spec.rates.from_container, &outer.shaper) {
        (Some(rate), Some(shaper)) => {
            if outer.shaper_bucket != Some(Bucket::new(rate, mtu)) {
                changes.push(traffic::set_bucket(shaper_name.as_str(), shaper.index, rate, mtu));
            }
            changes.extend(shaper.completion(&shaper_name, &spec.owner, None));
            if outer.redirect != Some(shaper.index) {
                changes.push(traffic::set_redirect(name, index, shaper.index));
            }
        }
        (None, shaper) => {
            if outer.redirect.is_some() {
                changes.push(Filter::Redirect.remove(name, index));
            }
            changes.extend(shaper.iter().map(|shaper| link::deletion(&shaper_name, shaper.index)));
        }
        (Some(_), None) => {}
    }
    Ok(changes)
}

/// Carries out the stages of several pairs together. Who fails in one is left out of those that follow.
pub(super) async fn carry_out(net: &Netlink, pairs: Vec<Stages>) -> Result<Vec<Result<()>>> {
    let mut results: Vec<Result<()>> = pairs.iter().map(|_| Ok(())).collect();
    let mut pairs: Vec<_> = pairs.into_iter().map(IntoIterator::into_iter).collect();
    for _ in 0..Stages::default().len() {
        let mut changes = Vec::new();
        let mut counts = Vec::new();
        for (pair, result) in pairs.iter_mut().zip(&results) {
            let stage = pair.next().filter(|_| result.is_ok()).unwrap_or_default();
            counts.push(stage.len());
            changes.extend(stage);
        }
        let mut answers = net.exchange(changes).await?.into_iter();
        for (result, count) in results.iter_mut().zip(counts) {
            for answer in answers.by_ref().take(count) {
                if let (Err(error), Ok(())) = (answer, &result) {
                    *result = Err(explain_traffic_control(error));
                }
            }
        }
    }
    Ok(results)
}

/// Says what a kernel lacks that does not make the device.
fn explain_shaper(error: Error, name: &LinkName) -> Error {
    match error.errno() {
        Some(libc::EOPNOTSUPP) => Error::Unsupported {
            what: format!("ifb `{name}`"),
            needs: "CONFIG_IFB (modprobe ifb)".to_owned(),
        },
        _ => error,
    }
}

/// Says what a kernel lacks that does not take a port's rules.
fn explain_traffic_control(error: Error) -> Error {
    match &error {
        Error::Os { call: "RTM_NEWQDISC" | "RTM_NEWTFILTER", target, .. }
            if matches!(error.errno(), Some(libc::ENOENT | libc::EOPNOTSUPP)) =>
        {
            let needs = "CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF, CONFIG_NET_SCH_TBF and CONFIG_NET_ACT_MIRRED, \
                         built in or as modules";
            Error::Unsupported { what: target.clone(), needs: needs.to_owned() }
        }
        // The kernel lets others in while it loads a module for it, and has given its number away by then.
        Error::Os { call: "RTM_NEWTFILTER", target, .. } if error.errno() == Some(libc::ENOSPC) => {
            Error::Busy { what: target.clone(), reason: "somebody else is making it".to_owned() }
        }
        _ => link::explain_full(error),
    }
}
