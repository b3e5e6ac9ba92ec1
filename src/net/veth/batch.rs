//! Many pairs at once: one look at all of them, and what is missing in few messages.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd};

use futures_util::{StreamExt, stream};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};

use super::outer::{self, Outer, Wish};
use super::pair::{check_bridge, differences};
use super::{Veth, VethSpec, inner};
use crate::error::{Error, Result};
use crate::net::change::Change;
use crate::net::link::{self, Link, MOST_PORTS};
use crate::net::{Netlink, NetworkNamespace};

/// How many namespaces are entered at the same time.
const AT_ONCE: usize = 8;
/// How many pairs are made before their rules are set: a kill leaves so many that are down and without a mark.
const MADE_AT_ONCE: usize = 16;

type Pair<'a> = (&'a NetworkNamespace, &'a VethSpec);

pub(super) async fn ensure_all(net: &Netlink, pairs: &[Pair<'_>]) -> Result<Vec<Veth>> {
    let mut names = BTreeSet::new();
    for (_, spec) in pairs {
        spec.check()?;
        if !names.insert(&spec.name) {
            return Err(Error::invalid("interface name", spec.name.as_str(), "is given twice"));
        }
    }
    let found = look(net, pairs).await?;
    let mut results: Vec<Option<Result<Veth>>> = pairs.iter().map(|_| None).collect();
    let mut missing = Vec::new();
    for (position, (pair, found)) in pairs.iter().zip(&found).enumerate() {
        match found {
            Found::Whole(veth) => results[position] = Some(Ok(veth.clone())),
            Found::Missing(bridge) => missing.push((position, (pair.0, pair.1, bridge))),
            Found::Other => {}
        }
    }
    for chunk in missing.chunks(MADE_AT_ONCE) {
        let wishes: Vec<Wish<'_>> = chunk.iter().map(|(_, wish)| *wish).collect();
        for ((position, _), result) in chunk.iter().zip(make(net, &wishes).await?) {
            results[*position] = match result {
                // The pair or its bridge may have gone while we were at it.
                Err(error)
                    if link::went(&error)
                        || matches!(error.errno(), Some(libc::EINVAL | libc::EOPNOTSUPP)) =>
                {
                    None
                }
                result => result.transpose(),
            };
        }
    }
    // What has drifted, and what somebody else was at while we were.
    let all: Vec<_> = pairs.iter().zip(results).map(|(pair, result)| finish(net, *pair, result)).collect();
    stream::iter(all).buffered(AT_ONCE).collect::<Vec<_>>().await.into_iter().collect()
}

async fn finish(net: &Netlink, (namespace, spec): Pair<'_>, result: Option<Result<Veth>>) -> Result<Veth> {
    match result {
        Some(result) => result,
        None => Veth::ensure(net, namespace, spec).await,
    }
}

/// What there is of a pair.
enum Found {
    Whole(Veth),
    /// Nothing; this is its bridge.
    Missing(Link),
    /// Something that one has to look at more closely.
    Other,
}

async fn look(net: &Netlink, pairs: &[Pair<'_>]) -> Result<Vec<Found>> {
    let links: BTreeMap<String, Link> =
        net.links().await?.into_iter().map(|link| (link.name.clone(), link)).collect();
    let mut outers = Vec::with_capacity(pairs.len());
    for (_, spec) in pairs {
        let [host, shaper] =
            Veth::links(&spec.name, &spec.owner).map(|name| links.get(name.as_str()).cloned());
        outers.push(Outer { host, shaper, ..Outer::default() });
    }
    let mut present: Vec<_> = pairs
        .iter()
        .map(|(_, spec)| *spec)
        .zip(&mut outers)
        .filter(|(_, outer)| outer.host.is_some())
        .collect();
    outer::look_at_rules(net, &mut present).await?;
    let namespaces = if present.is_empty() { Vec::new() } else { namespace_ids(net, pairs).await? };
    let mut found = Vec::with_capacity(pairs.len());
    for (position, ((_, spec), outer)) in pairs.iter().zip(&outers).enumerate() {
        let Some(host) = &outer.host else {
            let bridge = check_bridge(spec, links.get(spec.bridge.as_str()).cloned())?;
            found.push(if link::is_half_made(&bridge) { Found::Other } else { Found::Missing(bridge) });
            continue;
        };
        let there = namespaces.get(position).copied().flatten();
        let whole = match links.get(spec.bridge.as_str()) {
            Some(bridge) => {
                there.is_some()
                    && host.peer_namespace == there
                    && host.check_ours(&spec.name, &spec.owner, "veth").is_ok()
                    && (outer.shaper.is_some() || spec.rates.from_container.is_none())
                    && differences(spec, bridge, host).is_empty()
                    && outer::stages(spec, bridge, outer, None)?.iter().all(Vec::is_empty)
            }
            None => false,
        };
        found.push(if whole {
            Found::Whole(Veth::new(spec.name.clone(), host.index, false))
        } else {
            Found::Other
        });
    }
    check_room(&found, &links)?;
    Ok(found)
}

/// Refuses more ports than a bridge takes, before the first of them is made.
fn check_room(found: &[Found], links: &BTreeMap<String, Link>) -> Result<()> {
    let mut coming: BTreeMap<u32, (&str, usize)> = BTreeMap::new();
    for found in found {
        if let Found::Missing(bridge) = found {
            coming.entry(bridge.index).or_insert((&bridge.name, 0)).1 += 1;
        }
    }
    for (index, (name, count)) in coming {
        let present = links.values().filter(|link| link.master == Some(index)).count();
        if present + count > MOST_PORTS {
            return Err(link::full(format!("bridge `{name}`")));
        }
    }
    Ok(())
}

/// The numbers that the kernel has for the namespaces, from where `net` is: a link's other end is told by them.
async fn namespace_ids(net: &Netlink, pairs: &[Pair<'_>]) -> Result<Vec<Option<i32>>> {
    let questions = pairs.iter().map(|(namespace, _)| {
        let mut message = NsidMessage::default();
        let descriptor = u32::try_from(namespace.as_fd().as_raw_fd()).unwrap_or_default();
        message.attributes.push(NsidAttribute::Fd(descriptor));
        let target = format!("network namespace `{}`", namespace.path().display());
        Change::new(target, RouteNetlinkMessage::GetNsId(message))
    });
    let answers = net.exchange(questions.collect()).await?;
    answers
        .into_iter()
        .map(|answer| {
            let Some(RouteNetlinkMessage::NewNsId(message)) = answer? else { return Ok(None) };
            Ok(message.attributes.into_iter().find_map(|attribute| match attribute {
                NsidAttribute::Id(id) => Some(id).filter(|id| *id >= 0),
                _ => None,
            }))
        })
        .collect()
}

/// Makes pairs that were not there. `None` for one that is there by now.
async fn make(net: &Netlink, wishes: &[Wish<'_>]) -> Result<Vec<Result<Option<Veth>>>> {
    let made = outer::make(net, wishes).await?;
    let mut results = Vec::with_capacity(wishes.len());
    let (mut fresh, mut all) = (Vec::new(), Vec::new());
    for ((_, spec, bridge), made) in wishes.iter().zip(made) {
        let stages = match made {
            Ok(mut made) if made.fresh && made.outer.host.is_some() => {
                outer::ensure_shaper(net, spec, &mut made.outer)
                    .await
                    .and_then(|()| outer::stages(spec, bridge, &made.outer, None))
                    .map(|stages| made.outer.host.map(|host| (host, stages)))
            }
            Ok(_) => Ok(None),
            Err(error) => Err(error),
        };
        match stages {
            Ok(Some((host, stages))) => {
                results.push(Ok(Some(Veth::new(spec.name.clone(), host.index, true))));
                all.push(stages);
                fresh.push(host);
            }
            Ok(None) => results.push(Ok(None)),
            Err(error) => results.push(Err(error)),
        }
    }
    let insides = configure(wishes, &results, &fresh);
    let (outer, insides) = futures_util::future::join(outer::carry_out(net, all), insides).await;
    let mut parts = outer?.into_iter().zip(insides);
    for result in results.iter_mut().filter(|result| matches!(result, Ok(Some(_)))) {
        if let Some(Err(error)) = parts.next().map(|(outer, inside)| outer.and(inside)) {
            *result = Err(error);
        }
    }
    Ok(results)
}

/// Sets the inner ends of those that were made, whose host's ends are `fresh`, in order.
async fn configure(wishes: &[Wish<'_>], results: &[Result<Option<Veth>>], fresh: &[Link]) -> Vec<Result<()>> {
    let made = wishes.iter().zip(results).filter(|(_, result)| matches!(result, Ok(Some(_))));
    let work: Vec<_> =
        made.zip(fresh).map(|(((namespace, spec, _), _), host)| complete(namespace, spec, host)).collect();
    stream::iter(work).buffered(AT_ONCE).collect().await
}

async fn complete(namespace: &NetworkNamespace, spec: &VethSpec, host: &Link) -> Result<()> {
    let inside = Netlink::connect_in(namespace).await?;
    match inner::born(host) {
        Some(inner) => inner::complete(&inside, spec, &inner).await,
        None => Err(Error::NotFound { what: format!("the inner end of veth `{}`", spec.name) }),
    }
}
