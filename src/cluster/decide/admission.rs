//! What users and administrators ask for: allowed and possible, or an error that says why not.
//!
//! Who may ask for what is not looked at here: whoever calls knows the user.

use std::collections::{BTreeMap, BTreeSet};

use super::due::{beside, moved};
use super::network::{member_addresses, new_network, room, set_gateways};
use super::{Absences, Decision, Moment, Need, Usage, View, Write, place};
use crate::cluster::records::{
    ContainerId, ContainerState, Member, MemberSpec, Node, NodeId, Resource, Resources, Schedule, Size,
    Timing, UserId, VirtualCluster, VirtualClusterId, Wish,
};
use crate::error::{Error, Result};
use crate::name::{ObjectId, VirtualClusterName};

/// How many members a virtual cluster has at most.
pub const MEMBERS_MAX: usize = 100;

/// A virtual cluster, with all of its members placed, or an error.
///
/// `new_id` makes ids that nothing has.
///
/// # Errors
/// [`Error::Invalid`] for what is wrong with the members; [`Error::NotFound`] if there is no such owner; [`Error::Differs`] if the name
/// is taken; [`Error::Denied`] with the quota that does not allow it; [`Error::Busy`] with what keeps each node from taking a member, or if
/// there is no network left.
pub fn create(
    view: &View,
    owner: &UserId,
    name: VirtualClusterName,
    members: Vec<MemberSpec>,
    new_id: &mut dyn FnMut() -> ObjectId,
) -> Result<(VirtualClusterId, Decision)> {
    let mut others = view.virtual_clusters.values().filter(|other| other.owner == *owner && !other.removing);
    if others.any(|other| other.name == name) {
        let difference = "its owner has another of that name: choose another name, or remove it".to_owned();
        return Err(Error::Differs { what: format!("virtual cluster `{name}`"), difference });
    }
    if members.is_empty() {
        return Err(Error::invalid("virtual cluster", name.as_str(), "must have at least one member"));
    }
    let id = VirtualClusterId(new_id());
    let network = new_network(view)?;
    let owner = owner.clone();
    let members_of = BTreeMap::new();
    let cluster =
        VirtualCluster { id: id.clone(), name, owner, network, members: members_of, removing: false };
    let cluster = with_members(view, cluster, members, new_id)?;
    let reason = format!("virtual cluster `{}` is created", cluster.name);
    Ok((id, decision(cluster, reason)))
}

/// More members for a virtual cluster, all of them or none.
///
/// # Errors
/// As [`create`].
pub fn scale_out(
    view: &View,
    id: &VirtualClusterId,
    members: Vec<MemberSpec>,
    new_id: &mut dyn FnMut() -> ObjectId,
) -> Result<Decision> {
    let cluster = with_members(view, open(view, id)?.clone(), members, new_id)?;
    let reason = format!("virtual cluster `{}` grows", cluster.name);
    Ok(decision(cluster, reason))
}

/// Removes members with their data. Those that are removed already, or none, are left out.
///
/// # Errors
/// [`Error::NotFound`] if there is no such virtual cluster.
pub fn scale_in(view: &View, id: &VirtualClusterId, members: &BTreeSet<ContainerId>) -> Result<Decision> {
    let mut cluster = open(view, id)?.clone();
    remove_members(&mut cluster, |id| members.contains(id));
    let reason = format!("virtual cluster `{}` shrinks", cluster.name);
    Ok(decision(cluster, reason))
}

/// Removes a virtual cluster with all data. One that is being removed, or is none, is left as it is: `None`.
#[must_use]
pub fn remove(view: &View, id: &VirtualClusterId) -> Option<Decision> {
    let mut cluster = open(view, id).ok()?.clone();
    remove_members(&mut cluster, |_| true);
    cluster.removing = true;
    let reason = format!("virtual cluster `{}` is removed", cluster.name);
    Some(decision(cluster, reason))
}

/// Lets members run, or not. One that ended by itself, or whose data is lost, is started anew: the latter empty.
///
/// # Errors
/// [`Error::NotFound`] if there is no such virtual cluster.
pub fn set_running(
    view: &View,
    id: &VirtualClusterId,
    members: &BTreeSet<ContainerId>,
    run: bool,
) -> Result<Decision> {
    let mut cluster = open(view, id)?.clone();
    let asked = |id: &ContainerId, member: &Member| members.contains(id) && member.wish != Wish::Remove;
    for (id, member) in cluster.members.iter_mut().filter(|(id, member)| asked(id, member)) {
        member.wish = if run { Wish::Run } else { Wish::Stop };
        if run && member.moving_to.is_none() {
            member.fence += 1;
            member.lost = false;
            if is_missing(view, id, member) {
                (member.placed, member.saved) = (member.fence, None);
            }
        }
    }
    let word = if run { "started" } else { "stopped" };
    let reason = format!("members of virtual cluster `{}` are {word}", cluster.name);
    Ok(decision(cluster, reason))
}

/// Gives a member another size, where it is. Its volume does not become smaller.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Invalid`] if the volume would become smaller; [`Error::Denied`] with the quota that does not allow it;
/// [`Error::Busy`] if its node, or the one that it moves to, has no room.
pub fn resize(view: &View, id: &VirtualClusterId, member: &ContainerId, size: Size) -> Result<Decision> {
    let mut cluster = open(view, id)?.clone();
    let found = cluster.members.get_mut(member).filter(|found| found.wish != Wish::Remove);
    let found = found.ok_or_else(|| Error::NotFound { what: format!("container {member}") })?;
    check_size(size)?;
    let former = std::mem::replace(&mut found.spec.size, size);
    if size.disk_bytes < former.disk_bytes {
        let rule = format!("must be at least {}: a volume does not become smaller", former.disk_bytes);
        return Err(Error::invalid("disk_bytes", size.disk_bytes.to_string(), rule));
    }
    let more = Resources::of(size).minus(&Resources::of(former));
    let usage = Usage::of(view);
    for node in found.nodes().filter_map(|node| view.nodes.get(node)) {
        let free = node.capacity.minus(&usage.of_node(&node.id));
        if let Some(resource) = free.lacks(&more) {
            let (wanted, left) = (more.get(resource), free.get(resource));
            let reason = format!("it needs {wanted} more {resource}, {left} are free");
            return Err(Error::Busy { what: format!("node `{}`", node.name), reason });
        }
    }
    check_quota(view, &cluster)?;
    let reason = format!("a member of virtual cluster `{}` is resized", cluster.name);
    Ok(decision(cluster, reason))
}

/// Says what may be placed on a node.
///
/// # Errors
/// [`Error::NotFound`].
pub fn set_schedule(view: &View, id: &NodeId, schedule: Schedule) -> Result<Decision> {
    let node = view.nodes.get(id).ok_or_else(|| Error::NotFound { what: format!("node {id}") })?;
    let reason = format!("node `{}` is {schedule:?}", node.name).to_lowercase();
    let writes = vec![Write::Node(Node { schedule, ..node.clone() })];
    Ok(Decision { writes, absent: BTreeMap::new(), reason })
}

/// Takes a node that is gone out of the cluster. `force`: also if containers are on it by their records. Those that may be restarted are
/// started elsewhere; the others' data is lost.
///
/// # Errors
/// [`Error::Busy`] if it is there, has not been away for long enough, or has containers.
pub fn remove_node(
    view: &View,
    id: &NodeId,
    force: bool,
    (absences, now, timing): (&Absences, Moment, &Timing),
) -> Result<Decision> {
    let Some(node) = view.nodes.get(id) else {
        return Ok(Decision { writes: vec![], absent: BTreeMap::new(), reason: "nothing".to_owned() });
    };
    let busy = |reason: String| Err(Error::Busy { what: format!("node `{}`", node.name), reason });
    if view.presences.contains_key(id) {
        return busy("it is there: drain it, and stop its worker".to_owned());
    }
    let mut absent = BTreeMap::new();
    if let Some(epoch) = view.epochs.get(id) {
        if absences.fenced(id, now, timing).is_none() {
            return busy("containers may still run on it: wait some seconds".to_owned());
        }
        absent.insert(id.clone(), *epoch);
    }
    let members = view.virtual_clusters.values().flat_map(|cluster| cluster.members.values());
    let count = members.filter(|member| member.nodes().any(|node| node == id)).count();
    if count > 0 && !force {
        return busy(format!("{count} containers are on it: force it, and what they have written is lost"));
    }
    let reason = format!("node `{}` is removed", node.name);
    Ok(Decision { writes: vec![Write::RemoveNode(id.clone())], absent, reason })
}

/// Whether the node of `member` said that its data is gone.
pub(super) fn is_missing(view: &View, id: &ContainerId, member: &Member) -> bool {
    let answer = member.node.as_ref().and_then(|node| view.answer(node, id, member.placed));
    answer.is_some_and(|status| status.state == ContainerState::Missing)
}

fn open<'a>(view: &'a View, id: &VirtualClusterId) -> Result<&'a VirtualCluster> {
    let found = view.virtual_clusters.get(id).filter(|cluster| !cluster.removing);
    found.ok_or_else(|| Error::NotFound { what: format!("virtual cluster {id}") })
}

fn decision(cluster: VirtualCluster, reason: String) -> Decision {
    Decision { writes: vec![Write::VirtualCluster(cluster)], absent: BTreeMap::new(), reason }
}

fn remove_members(cluster: &mut VirtualCluster, asked: impl Fn(&ContainerId) -> bool) {
    for (_, member) in cluster.members.iter_mut().filter(|(id, _)| asked(id)) {
        if member.wish != Wish::Remove {
            *member =
                Member { wish: Wish::Remove, moving_to: None, fence: member.fence + 1, ..member.clone() };
        }
    }
}

/// `cluster` with more members, each placed.
fn with_members(
    view: &View,
    mut cluster: VirtualCluster,
    specs: Vec<MemberSpec>,
    new_id: &mut dyn FnMut() -> ObjectId,
) -> Result<VirtualCluster> {
    let count = cluster.members.len() + specs.len();
    let most = u64::try_from(MEMBERS_MAX).unwrap_or(u64::MAX).min(room(cluster.network.subnet)? / 2);
    if u64::try_from(count).unwrap_or(u64::MAX) > most {
        return Err(Error::invalid("members", count.to_string(), format!("there can be at most {most}")));
    }
    let addresses = member_addresses(&cluster, specs.len())?;
    let mut usage = Usage::of(view);
    for (spec, address) in specs.into_iter().zip(addresses) {
        check_size(spec.size)?;
        let mut living = cluster.members.values().filter(|member| member.wish != Wish::Remove);
        if living.any(|member| member.spec.name == spec.name) {
            let rule = "another member has it: members' names differ";
            return Err(Error::invalid("member name", spec.name.as_str(), rule));
        }
        let need = Need { spec: &spec, not_on: &[], beside: &beside(&cluster) };
        let node = place(&usage, &need)
            .map_err(|reason| Error::Busy { what: format!("virtual cluster `{}`", cluster.name), reason })?;
        usage.take(&node, &spec);
        let member = Member {
            spec,
            wish: Wish::Run,
            address,
            fence: 0,
            node: None,
            placed: 0,
            moving_to: None,
            saved: None,
            lost: false,
            remains: BTreeMap::new(),
        };
        cluster.members.insert(ContainerId(new_id()), moved(&member, node));
    }
    set_gateways(&mut cluster)?;
    check_quota(view, &cluster)?;
    Ok(cluster)
}

fn check_size(size: Size) -> Result<()> {
    let fields = [
        ("cpu_millis", size.cpu_millis),
        ("memory_bytes", size.memory_bytes),
        ("disk_bytes", size.disk_bytes),
    ];
    match fields.into_iter().find(|(_, amount)| *amount == 0) {
        Some((what, _)) => Err(Error::invalid(what, "0", "must be more than 0")),
        None => Ok(()),
    }
}

/// Whether the owner may have `cluster` as it is to be, beside their others.
fn check_quota(view: &View, cluster: &VirtualCluster) -> Result<()> {
    let owner = view.users.get(&cluster.owner);
    let owner = owner.ok_or_else(|| Error::NotFound { what: format!("user {}", cluster.owner) })?;
    let others =
        view.virtual_clusters.values().filter(|other| other.owner == owner.id && other.id != cluster.id);
    let members = others.chain([cluster]).flat_map(|cluster| cluster.members.values());
    let used = members
        .filter(|member| member.wish != Wish::Remove)
        .fold(Resources::default(), |used, member| used.plus(&Resources::of(member.spec.size)));
    let limits =
        Resource::ALL.map(|resource| (resource.to_string(), used.get(resource), owner.quota.get(resource)));
    let addresses = ("addresses".to_owned(), used.containers, owner.quota.addresses);
    for (what, used, limit) in limits.into_iter().chain([addresses]) {
        if let Some(limit) = limit.filter(|limit| used > *limit) {
            return Err(Error::Denied {
                what: format!("virtual cluster `{}`", cluster.name),
                needs: format!(
                    "the quota of user `{}` is {limit} {what}, and it would be {used} with this: remove something, or ask an \
                     administrator for more",
                    owner.name
                ),
            });
        }
    }
    Ok(())
}
