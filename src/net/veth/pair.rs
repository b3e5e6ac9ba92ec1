//! A veth pair (`man 4 veth`) that exists: made, adopted, changed, removed; one, or many at once.

use futures_util::future::join;

use super::outer::{self, Made};
use super::{VethSpec, batch, inner};
use crate::error::{Error, Result};
use crate::name::LinkName;
use crate::net::link::{self, ATTEMPTS, Link};
use crate::net::{LinkOwner, MacAddress, Mtu, Netlink, NetworkNamespace};

/// A veth pair that exists. A plain value: dropping it does nothing. Two are equal if they are of the same link.
///
/// | | there is none | it is as asked | it drifted | it was made otherwise |
/// |---|---|---|---|---|
/// | [`ensure`](Self::ensure) | makes it | adopts it | puts it right | [`Error::Differs`], but guard, rates and isolation change |
/// | [`apply`](Self::apply) | [`Error::NotFound`] | leaves it | puts it right | changes it |
///
/// ```no_run
/// use std::path::Path;
///
/// use docklet::net::{Mtu, Netlink, NetworkNamespace, Rate, RateLimits, Veth, VethSpec};
///
/// # async fn example(spec: VethSpec) -> docklet::Result<()> {
/// let net = Netlink::connect().await?; // the host's namespace
/// let namespace = NetworkNamespace::open(Path::new("/run/example-web.netns"))?; // the container's
/// let rates = RateLimits { from_container: Some(Rate::megabits(10)?), ..spec.rates };
/// let spec = VethSpec { mtu: Some(Mtu::new(1400)?), rates, ..spec };
/// Veth::apply(&net, &namespace, &spec).await?; // while the container runs
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Veth {
    name: LinkName,
    index: u32,
    changed: bool,
}

impl PartialEq for Veth {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.index) == (&other.name, other.index)
    }
}

impl Eq for Veth {}

impl Veth {
    /// Makes the pair: the host's end up in its bridge, the inner end born in `namespace`, up, with its addresses and
    /// routes. Or adopts the one that is there: completes it if a crash left it half made, makes it anew if its inner
    /// end is not in `namespace` (which was made anew, then), and puts right what has drifted (down, out of
    /// the bridge, an address or a route lost, with a guard another hardware address inside). What a container has added
    /// inside stays. The bridge must be there: [`Bridge::ensure`](crate::net::Bridge::ensure) comes first.
    ///
    /// `net` is a connection to the host's namespace. IPv6 addresses are usable at once: the search for duplicates is
    /// left out.
    ///
    /// # Errors
    /// [`Error::Invalid`] as [`VethSpec::check`]; [`Error::NotFound`] if there is no such bridge;
    /// [`Error::Differs`] if the link `name` is no veth, is not the owner's, is a port of another bridge, or has another
    /// MTU, other addresses or another inner name than asked for ([`Veth::apply`] changes all but the name), or if
    /// `inner_name` is taken inside: all is left as it is;
    /// [`Error::Unsupported`] for an IPv6 address where IPv6 is off; [`Error::Os`] if the system refuses.
    pub async fn ensure(net: &Netlink, namespace: &NetworkNamespace, spec: &VethSpec) -> Result<Self> {
        settle(net, namespace, spec, Verb::Ensure).await
    }

    /// Changes the pair in place into what `spec` says, also while its container runs: addresses, gateways, MTU, bridge,
    /// guard, rates, isolation. The inner end has exactly these addresses and default routes then: those that an earlier
    /// specification gave, or the container, are taken away. The inner end's name stays what it is. No frame passes without
    /// guard or limit on the way from one to the other.
    ///
    /// # Errors
    /// [`Error::Invalid`] as [`VethSpec::check`]; [`Error::NotFound`] if there is no such pair or bridge;
    /// [`Error::Differs`] if the link is no veth or not the owner's, or its inner end is not in `namespace`: all is left as
    /// it is; [`Error::Unsupported`] and [`Error::Os`] as [`Veth::ensure`]: what was changed before stays, and the same
    /// call again goes on.
    pub async fn apply(net: &Netlink, namespace: &NetworkNamespace, spec: &VethSpec) -> Result<Self> {
        settle(net, namespace, spec, Verb::Apply).await
    }

    /// [`Veth::ensure`] for many, in as few messages as they need. The state of all is read at once: pairs that are on
    /// the host's side as they should be are left alone, nothing is written, and nobody enters their namespaces. So
    /// what has drifted *inside* such a namespace (an address or a route lost, the inner end down) is not seen; a call of
    /// [`Veth::ensure`] for that one sees it. The results are in the order of `pairs`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if one of them is, or if two have one name: nothing is touched. Otherwise the first error, as of
    /// [`Veth::ensure`]: the others are made all the same, and the same call again goes on.
    pub async fn ensure_all(net: &Netlink, pairs: &[(&NetworkNamespace, &VethSpec)]) -> Result<Vec<Self>> {
        batch::ensure_all(net, pairs).await
    }

    /// Removes the pair whose host's end is the link `name` of `owner`, and the device that held back what came out of
    /// it. What is gone is removed. Takes 15 to 45 ms for each of the two; where the namespace of the inner end ends
    /// anyway, [`Netlink::wait_gone`] is sooner, and leaves the device, if there is one, to this call.
    ///
    /// `name` may also be [that device](Veth::links) itself, which [`Netlink::links_owned`] shows.
    ///
    /// # Errors
    /// [`Error::Differs`] if the link is no veth or not the owner's: it is left as it is; [`Error::Os`] if the
    /// system refuses.
    pub async fn remove(net: &Netlink, name: &LinkName, owner: &LinkOwner) -> Result<()> {
        let names = Self::links(name, owner);
        for attempt in 0..ATTEMPTS {
            link::pause(attempt).await;
            let links = net.look(names.each_ref().map(link::ask)).await?;
            let mut deletions = Vec::new();
            for (position, (name, link)) in names.iter().zip(links).enumerate() {
                let Some(link) = link else { continue };
                let kind = if position == 1 || link.kind == SHAPER { SHAPER } else { "veth" };
                link.check_ours(name, owner, kind)?;
                deletions.push(link::deletion(name, link.index));
            }
            if deletions.is_empty() {
                return Ok(());
            }
            net.change_all(deletions).await?;
        }
        Err(link::comes_and_goes(format!("link `{name}`")))
    }

    /// The names of the links that the pair `name` of `owner` may have on the host: its end, and the device that holds
    /// back what comes out ([`RateLimits::from_container`](crate::net::RateLimits::from_container)).
    #[must_use]
    pub fn links(name: &LinkName, owner: &LinkOwner) -> [LinkName; 2] {
        [name.clone(), VethSpec::shaper_name(name, owner)]
    }

    pub(super) fn new(name: LinkName, index: u32, changed: bool) -> Self {
        Self { name, index, changed }
    }

    /// The name of the host's end.
    #[must_use]
    pub fn name(&self) -> &LinkName {
        &self.name
    }

    /// The kernel's number for the host's end, valid as long as it exists.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Whether the call that returned it made the pair, or put something right at the host's end.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.changed
    }
}

/// The kind of device that holds back what comes out.
const SHAPER: &str = "ifb";

/// How many addresses are named that were not asked for. Who is root inside can make any number of them.
const MOST_NAMED: usize = 8;

/// What may be done with a pair that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    /// Made if there is none; its addresses, its MTU and its bridge stay.
    Ensure,
    /// All of it is changed.
    Apply,
}

/// Begins again while something comes or goes under our hands.
async fn settle(net: &Netlink, namespace: &NetworkNamespace, spec: &VethSpec, verb: Verb) -> Result<Veth> {
    spec.check()?;
    for attempt in 0..ATTEMPTS {
        link::pause(attempt).await;
        match attempt_once(net, namespace, spec, verb, attempt).await {
            Ok(Some(veth)) => return Ok(veth),
            Ok(None) => {}
            Err(error) if link::went(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(link::comes_and_goes(format!("link `{}`", spec.name)))
}

/// `None`: begin again.
async fn attempt_once(
    net: &Netlink,
    namespace: &NetworkNamespace,
    spec: &VethSpec,
    verb: Verb,
    attempt: u32,
) -> Result<Option<Veth>> {
    let (inside, found) = join(Netlink::connect_in(namespace), async {
        let bridge = link::made(check_bridge(spec, net.link(&spec.bridge).await?)?, attempt)?;
        let made = match verb {
            Verb::Ensure => {
                let made = outer::make(net, &[(namespace, spec, &bridge)]).await?.remove(0);
                link::unless_gone(net, &bridge, None, made).await?
            }
            Verb::Apply => Made { fresh: false, outer: outer::look(net, spec).await? },
        };
        Ok((bridge, made))
    })
    // The way inside is opened by a thread of its own, so both take no longer than one.
    .await;
    let (bridge, Made { fresh, mut outer }) = found?;
    let inside = inside?;
    let Some(host) = outer.host.clone() else {
        return absent(net, namespace, &inside, spec, verb).await;
    };
    host.check_ours(&spec.name, &spec.owner, "veth")?;
    // The one that was just made is where it was asked for.
    let found = if fresh { inner::born(&host) } else { inner::find(&inside, &host).await? };
    let Some(inner) = found else {
        if verb == Verb::Apply {
            let elsewhere = differs(spec, "its inner end is in another namespace".to_owned());
            return unless_stale(net, &bridge, &host, elsewhere).await;
        }
        // Where the inner name is taken none can be made anew: the one that there is stays.
        if inside.link(&spec.inner_name).await?.is_some() {
            let now = net.link(&spec.name).await?;
            return if now.is_some_and(|now| now.index == host.index) {
                Err(name_taken(namespace, spec))
            } else {
                Ok(None)
            };
        }
        tracing::debug!(link = %spec.name, "its inner end is elsewhere: made anew");
        link::delete(net, &spec.name, host.index).await?;
        return Ok(None);
    };
    if !fresh {
        if verb == Verb::Ensure {
            match check_adoptable(&inside, spec, &bridge, &host, &inner).await {
                Err(error @ Error::Differs { .. }) => return unless_stale(net, &bridge, &host, error).await,
                result => result?,
            }
        }
        outer::look_at_rules(net, &mut [(spec, &mut outer)]).await?;
    }
    outer::ensure_shaper(net, spec, &mut outer).await?;
    let mtu = match verb {
        Verb::Ensure => Mtu::new(host.mtu)?,
        Verb::Apply => spec.mtu.map_or_else(|| Mtu::new(bridge.mtu), Ok)?,
    };
    let stages = outer::stages(spec, &bridge, &outer, Some(mtu))?;
    let inner_change = async {
        match verb {
            Verb::Ensure => inner::complete(&inside, spec, &inner).await,
            Verb::Apply => inner::replace(&inside, spec, &inner, mtu.bytes()).await,
        }
    };
    let changed = fresh || stages.iter().any(|stage| !stage.is_empty());
    let (outer, inner) = join(outer::carry_out(net, vec![stages]), inner_change).await;
    link::unless_gone(net, &bridge, Some(&host), outer?.remove(0)).await?;
    inner?;
    Ok(Some(Veth::new(spec.name.clone(), host.index, changed)))
}

/// A difference counts if what was compared is still there; else somebody removed it meanwhile: begin again.
async fn unless_stale(net: &Netlink, bridge: &Link, host: &Link, difference: Error) -> Result<Option<Veth>> {
    match net.look([link::ask_at(bridge.index), link::ask_at(host.index)]).await? {
        [Some(_), Some(_)] => Err(difference),
        _ => Ok(None),
    }
}

pub(super) fn check_bridge(spec: &VethSpec, found: Option<Link>) -> Result<Link> {
    let bridge = found.ok_or_else(|| Error::NotFound { what: format!("bridge `{}`", spec.bridge) })?;
    if bridge.kind == "bridge" {
        return Ok(bridge);
    }
    Err(Error::Differs { what: format!("link `{}`", spec.bridge), difference: "it is no bridge".to_owned() })
}

/// There is no host's end, though it was to be made: the name that exists was the inner one, unless somebody has just
/// removed the pair.
async fn absent(
    net: &Netlink,
    namespace: &NetworkNamespace,
    inside: &Netlink,
    spec: &VethSpec,
    verb: Verb,
) -> Result<Option<Veth>> {
    if verb == Verb::Apply {
        return Err(Error::NotFound { what: format!("veth `{}`", spec.name) });
    }
    // What is there before and after there was no host's end is not its other end.
    let Some(taken) = inside.link(&spec.inner_name).await? else { return Ok(None) };
    if net.link(&spec.name).await?.is_none() && inside.link_at(taken.index).await?.is_some() {
        return Err(name_taken(namespace, spec));
    }
    Ok(None)
}

fn name_taken(namespace: &NetworkNamespace, spec: &VethSpec) -> Error {
    Error::Differs {
        what: format!("link `{}` in `{}`", spec.inner_name, namespace.path().display()),
        difference: format!("it belongs to something else than veth `{}`", spec.name),
    }
}

/// What `ensure` does not change.
pub(super) fn differences(spec: &VethSpec, bridge: &Link, host: &Link) -> Vec<String> {
    let mut differences = Vec::new();
    if host.master.is_some_and(|master| master != bridge.index) {
        differences.push(format!("it is a port of another bridge than `{}`", spec.bridge));
    }
    if let Some(mtu) = spec.mtu.filter(|mtu| mtu.bytes() != host.mtu) {
        differences.push(format!("its MTU is {}, not {mtu}", host.mtu));
    }
    differences
}

/// Compares a pair that was there before with what is asked for.
async fn check_adoptable(
    inside: &Netlink,
    spec: &VethSpec,
    bridge: &Link,
    host: &Link,
    inner: &Link,
) -> Result<()> {
    let mut differences = differences(spec, bridge, host);
    // The hardware address tells what it was made as, whatever it is called now.
    let made_as = inner.mac.filter(|_| inner.name != spec.inner_name.as_str());
    if made_as.is_some_and(|mac| mac == MacAddress::derive(&spec.owner, &inner.name)) {
        differences.push(format!("its inner end is `{}`, not `{}`", inner.name, spec.inner_name));
    }
    let present = inside.addresses(inner.index).await?;
    let asked: Vec<ipnet::IpNet> = spec.addresses.iter().map(|address| (*address).into()).collect();
    // Those beside one that was asked for are the container's own affair.
    if !asked.is_empty() && !present.iter().any(|address| asked.contains(address)) {
        let others = present
            .iter()
            .take(MOST_NAMED)
            .map(|other| format!("it has the address {other}, which was not asked for"));
        differences.extend(others);
        if let Some(more) = present.len().checked_sub(MOST_NAMED + 1) {
            differences.push(format!("and {} more", more + 1));
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(differs(spec, differences.join("; "))) }
}

fn differs(spec: &VethSpec, difference: String) -> Error {
    Error::Differs { what: format!("veth `{}`", spec.name), difference }
}
