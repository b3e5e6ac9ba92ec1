//! Single decisions, each by what it is asked for. What holds over all of them, under faults, the simulation shows.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::cluster::records::*;
use crate::host::{Forward, RestartPolicy};
use crate::name::ObjectId;

fn id(number: u64) -> ObjectId {
    ObjectId::new(format!("{number:016x}")).unwrap()
}

fn node(number: u64) -> NodeId {
    NodeId(id(number))
}

fn user() -> UserId {
    UserId(id(1000))
}

/// Nodes 1 to `count`, all there, each with room for four containers of [`spec`]; and a user with a quota of six.
fn view(count: u64) -> View {
    let mut view = View::new("10.0.0.0/16".parse().unwrap(), 24);
    let quota = Quota { containers: Some(6), ..Quota::default() };
    let owner = User { id: user(), name: "ann".parse().unwrap(), role: Role::User, quota };
    view.users.insert(user(), owner);
    for number in 1..=count {
        let node = Node {
            id: node(number),
            name: format!("n{number}").parse().unwrap(),
            address: [192, 0, 2, 1].into(),
            labels: BTreeMap::new(),
            capacity: Resources { cpu_millis: 4000, memory_bytes: 400, disk_bytes: 4000, containers: 9 },
            schedule: Schedule::Open,
        };
        comes(&mut view, &node.id.clone(), 1);
        view.nodes.insert(node.id.clone(), node);
    }
    view
}

fn comes(view: &mut View, node: &NodeId, epoch: u64) {
    view.epochs.insert(node.clone(), Epoch(epoch));
    view.presences.insert(node.clone(), Presence { epoch: Epoch(epoch) });
}

fn spec(name: &str) -> MemberSpec {
    MemberSpec {
        name: name.parse().unwrap(),
        image: "base".parse().unwrap(),
        size: Size { cpu_millis: 1000, memory_bytes: 100, disk_bytes: 1000 },
        forwards: Vec::new(),
        labels: BTreeMap::new(),
        node_lost: NodeLost::Restart,
        restart: RestartPolicy::default(),
    }
}

fn specs(count: usize) -> Vec<MemberSpec> {
    (0..count).map(|number| spec(&format!("m{number}"))).collect()
}

fn create(view: &mut View, name: &str, members: Vec<MemberSpec>) -> crate::Result<VirtualClusterId> {
    let mut number = 5000 + 100 * u64::try_from(view.virtual_clusters.len()).unwrap();
    let mut new_id = || {
        number += 1;
        id(number)
    };
    let (id, decision) = admission::create(view, &user(), name.parse().unwrap(), members, &mut new_id)?;
    view.apply(&decision);
    Ok(id)
}

fn members<'a>(view: &'a View, cluster: &VirtualClusterId) -> Vec<(&'a ContainerId, &'a Member)> {
    view.virtual_clusters[cluster].members.iter().collect()
}

/// What `node` says of a container, in answer to its order.
fn says(view: &mut View, at: &NodeId, container: &ContainerId, state: ContainerState) {
    let order = &orders(view, at)[container];
    let saved = match &order.what {
        What::Save(image) => Some(image.clone()),
        _ => None,
    };
    let report = Report { epoch: view.epochs[at], number: 1 };
    let status = ContainerStatus { report, fence: order.fence, state, saved, reason: None };
    view.statuses.insert((at.clone(), container.clone()), status);
}

/// All that is due now, carried out: how many decisions that were.
fn settle(view: &mut View, absences: &Absences, now: Moment) -> usize {
    let mut count = 0;
    loop {
        let decisions = due(view, absences, now, &Timing::default());
        if decisions.is_empty() {
            return count;
        }
        decisions.iter().for_each(|decision| view.apply(decision));
        count += decisions.len();
        assert!(count < 100, "without an end");
    }
}

fn at(seconds: u64) -> Moment {
    Moment(Duration::from_secs(seconds))
}

#[test]
fn members_are_spread_over_nodes() {
    let mut view = view(3);
    let id = create(&mut view, "a", specs(6)).unwrap();
    for number in 1..=3 {
        let here = members(&view, &id).into_iter().filter(|(_, member)| member.node == Some(node(number)));
        assert_eq!(here.count(), 2);
    }
    assert_eq!(view.virtual_clusters[&id].network.gateways.len(), 3);
    assert_eq!(settle(&mut view, &Absences::default(), at(0)), 0);
}

#[test]
fn all_members_are_placed_or_none() {
    let mut view = view(1);
    let before = view.clone();
    let message = create(&mut view, "a", specs(5)).unwrap_err().to_string();
    assert!(message.contains("`m4`: 1 node with too little cpu"), "{message}");
    assert!(message.contains("it needs 1000, at most 0 are free"), "{message}");
    assert_eq!(view, before);
}

#[test]
fn what_keeps_each_node_is_told() {
    let mut view = view(4);
    view.presences.remove(&node(1));
    view.nodes.get_mut(&node(2)).unwrap().schedule = Schedule::Closed;
    view.nodes.get_mut(&node(3)).unwrap().capacity.memory_bytes = 99;
    let ssd = [("disk".parse().unwrap(), "ssd".parse().unwrap())];
    let wanted = MemberSpec { labels: ssd.clone().into(), ..spec("m") };
    let message = create(&mut view, "a", vec![wanted.clone()]).unwrap_err().to_string();
    for words in ["1 node not there", "1 node closed or drained", "2 nodes without the label disk=ssd"] {
        assert!(message.contains(words), "{message}");
    }
    view.nodes.get_mut(&node(4)).unwrap().labels = ssd.into();
    let id = create(&mut view, "a", vec![wanted]).unwrap();
    assert_eq!(members(&view, &id)[0].1.node, Some(node(4)));
}

#[test]
fn a_port_of_a_node_is_one_members() {
    let mut view = view(2);
    let web = |name| MemberSpec { forwards: vec![Forward::tcp(80, 80).unwrap()], ..spec(name) };
    let id = create(&mut view, "a", vec![web("x"), web("y")]).unwrap();
    let nodes: Vec<_> = members(&view, &id).iter().map(|(_, member)| member.node.clone()).collect();
    assert_ne!(nodes[0], nodes[1]);
    let message = create(&mut view, "b", vec![web("z")]).unwrap_err().to_string();
    assert!(message.contains("2 nodes whose port 80 is taken"), "{message}");
}

#[test]
fn what_is_asked_wrongly_is_told() {
    let mut view = view(3);
    create(&mut view, "a", specs(3)).unwrap();
    let mut check = |name: &str, members: Vec<MemberSpec>, words: &str| {
        let message = create(&mut view, name, members).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    };
    check("a", specs(1), "choose another name");
    check("b", vec![], "at least one member");
    check("b", vec![spec("x"), spec("x")], "another member has it");
    check("b", specs(101), "at most 100");
    check("b", specs(4), "the quota of user `ann` is 6 containers, and it would be 7");
    let nothing = Size { memory_bytes: 0, ..spec("x").size };
    check("b", vec![MemberSpec { size: nothing, ..spec("x") }], "must be more than 0");
}

#[test]
fn a_removed_virtual_cluster_is_gone_when_its_nodes_say_so() {
    let mut view = view(2);
    let cluster = create(&mut view, "a", specs(2)).unwrap();
    let decision = admission::remove(&view, &cluster).unwrap();
    view.apply(&decision);
    assert_eq!(admission::remove(&view, &cluster), None);
    // Its name and its quota are free at once.
    create(&mut view, "a", specs(6)).unwrap();
    assert_eq!(settle(&mut view, &Absences::default(), at(0)), 0);
    for (container, member) in view.virtual_clusters[&cluster].members.clone() {
        says(&mut view, &member.node.unwrap(), &container, ContainerState::Absent);
    }
    settle(&mut view, &Absences::default(), at(0));
    assert!(!view.virtual_clusters.contains_key(&cluster));
    assert!(view.statuses.is_empty());
}

#[test]
fn a_lost_node_is_replaced_when_nothing_runs_there_any_more() {
    let mut view = view(2);
    let cluster = create(&mut view, "a", specs(1)).unwrap();
    let (container, _) = members(&view, &cluster)[0];
    let (container, first) = (container.clone(), node(1));
    says(&mut view, &first, &container, ContainerState::Running);
    view.presences.remove(&first);
    let mut absences = Absences::default();
    absences.note(&view, at(100));
    assert_eq!(settle(&mut view, &absences, at(104)), 0);
    let decisions = due(&view, &absences, at(105), &Timing::default());
    assert_eq!(decisions[0].absent, [(first.clone(), Epoch(1))].into());
    settle(&mut view, &absences, at(105));
    let member = members(&view, &cluster)[0].1.clone();
    assert_eq!((member.node, member.fence), (Some(node(2)), 2));
    // It returns: what is left there is removed, by an order that is newer than what it knows.
    comes(&mut view, &first, 2);
    assert_eq!(orders(&view, &first)[&container], Order { fence: 2, existed: false, what: What::Remove });
    says(&mut view, &first, &container, ContainerState::Absent);
    settle(&mut view, &absences, at(106));
    assert!(orders(&view, &first).is_empty());
    assert!(members(&view, &cluster)[0].1.remains.is_empty());
}

#[test]
fn a_node_that_was_back_is_not_lost_yet() {
    let mut view = view(2);
    create(&mut view, "a", specs(1)).unwrap();
    let mut absences = Absences::default();
    view.presences.remove(&node(1));
    absences.note(&view, at(0));
    comes(&mut view, &node(1), 2);
    view.presences.remove(&node(1));
    // Nobody looked while it was there: its epoch tells.
    absences.note(&view, at(10));
    assert_eq!(settle(&mut view, &absences, at(14)), 0);
    assert_eq!(absences.next(at(14), &Timing::default()), Some(at(15)));
    assert!(settle(&mut view, &absences, at(15)) > 0);
}

#[test]
fn a_drained_node_gives_its_containers_away_with_their_data() {
    let mut view = view(2);
    let waits = MemberSpec { node_lost: NodeLost::Wait, ..spec("x") };
    let cluster = create(&mut view, "a", vec![waits]).unwrap();
    let container = members(&view, &cluster)[0].0.clone();
    says(&mut view, &node(1), &container, ContainerState::Running);
    let decision = admission::set_schedule(&view, &node(1), Schedule::Drain).unwrap();
    view.apply(&decision);
    settle(&mut view, &Absences::default(), at(0));
    let order = orders(&view, &node(1))[&container].clone();
    let What::Save(image) = order.what else { panic!("{order:?}") };
    assert!(orders(&view, &node(2)).is_empty());
    says(&mut view, &node(1), &container, ContainerState::Stopped);
    settle(&mut view, &Absences::default(), at(0));
    let member = members(&view, &cluster)[0].1;
    assert_eq!((&member.node, &member.saved), (&Some(node(2)), &Some(image)));
    assert_eq!(orders(&view, &node(1))[&container].what, What::Remove);
    assert_eq!(orders(&view, &node(2))[&container].what, What::Run);
}

#[test]
fn a_node_is_removed_when_it_is_gone_and_has_nothing() {
    let mut view = view(2);
    let waits = MemberSpec { node_lost: NodeLost::Wait, ..spec("x") };
    let cluster = create(&mut view, "a", vec![waits]).unwrap();
    let mut absences = Absences::default();
    let check = |view: &View, absences: &Absences, force, seconds, words: &str| {
        let timing = Timing::default();
        let message = admission::remove_node(view, &node(1), force, (absences, at(seconds), &timing));
        let message = message.unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    };
    check(&view, &absences, true, 0, "it is there");
    view.presences.remove(&node(1));
    absences.note(&view, at(0));
    check(&view, &absences, true, 1, "may still run");
    check(&view, &absences, false, 9, "1 containers are on it");
    let timing = Timing::default();
    let decision = admission::remove_node(&view, &node(1), true, (&absences, at(9), &timing)).unwrap();
    view.apply(&decision);
    settle(&mut view, &absences, at(9));
    let (container, member) = members(&view, &cluster)[0];
    assert!(member.lost && member.node.is_none());
    // Empty, when its user wants it so.
    let again = admission::set_running(&view, &cluster, &[container.clone()].into(), true).unwrap();
    view.apply(&again);
    settle(&mut view, &absences, at(9));
    assert_eq!(members(&view, &cluster)[0].1.node, Some(node(2)));
}

#[test]
fn a_size_changes_where_there_is_room() {
    let mut view = view(1);
    let cluster = create(&mut view, "a", specs(2)).unwrap();
    let member = members(&view, &cluster)[0].0.clone();
    let size = |memory_bytes, disk_bytes| Size { cpu_millis: 1000, memory_bytes, disk_bytes };
    let resize = |view: &View, size| admission::resize(view, &cluster, &member, size);
    let message = resize(&view, size(301, 1000)).unwrap_err().to_string();
    assert!(
        message.contains("node `n1` is busy: it needs 201 more memory (in bytes), 200 are free"),
        "{message}"
    );
    let message = resize(&view, size(100, 999)).unwrap_err().to_string();
    assert!(message.contains("a volume does not become smaller"), "{message}");
    view.apply(&resize(&view, size(300, 1000)).unwrap());
    assert_eq!(Usage::of(&view).of_node(&node(1)).memory_bytes, 400);
}

#[test]
fn a_worker_does_what_is_ordered() {
    let container = ContainerId(id(1));
    let check = |what: &What, existed, found: Option<(ContainerState, u64)>, expected: Option<Step>| {
        let orders = [(container.clone(), Order { fence: 5, existed, what: what.clone() })].into();
        let actual = found.map(|(state, fence)| {
            (container.clone(), Actual { state, fence, node_lost: NodeLost::Wait, saved: None })
        });
        let steps = steps(&orders, &actual.into_iter().collect());
        assert_eq!(steps.get(&container), expected.as_ref(), "{what:?} {existed} {found:?}");
    };
    use ContainerState::{Ended, Running, Stopped};
    let image: crate::name::ImageName = "saved".parse().unwrap();
    let save = What::Save(image.clone());
    check(&What::Run, false, None, Some(Step::Launch));
    check(&What::Run, true, None, None);
    check(&What::Run, true, Some((Stopped, 5)), Some(Step::Start));
    check(&What::Run, true, Some((Running, 5)), None);
    check(&What::Run, true, Some((Ended, 5)), None);
    check(&What::Run, true, Some((Ended, 4)), Some(Step::Start));
    check(&What::Run, true, Some((Stopped, 6)), None);
    check(&What::Stop, true, Some((Running, 5)), Some(Step::Stop));
    check(&What::Stop, true, Some((Stopped, 5)), None);
    check(&What::Stop, false, None, None);
    check(&save, true, Some((Running, 5)), Some(Step::Stop));
    check(&save, true, Some((Ended, 5)), Some(Step::Save(image)));
    check(&What::Remove, false, Some((Running, 4)), Some(Step::Remove));
    check(&What::Remove, false, Some((Running, 6)), None);
    check(&What::Remove, false, None, None);
}

proptest! {
    /// Whatever is asked for, no node is overdrawn, and who gets a place has it on a node with room.
    #[test]
    fn no_node_is_overdrawn(sizes in proptest::collection::vec((1..5000_u64, 1..500_u64, 1..5000_u64), 1..20)) {
        let mut view = view(3);
        view.users.get_mut(&user()).unwrap().quota = Quota::default();
        for (number, (cpu_millis, memory_bytes, disk_bytes)) in sizes.into_iter().enumerate() {
            let size = Size { cpu_millis, memory_bytes, disk_bytes };
            let before = Usage::of(&view);
            let fits = view.nodes.values().any(|node| {
                node.capacity.minus(&before.of_node(&node.id)).lacks(&Resources::of(size)).is_none()
            });
            let created = create(&mut view, &format!("c{number}"), vec![MemberSpec { size, ..spec("x") }]);
            prop_assert_eq!(created.is_ok(), fits);
            let usage = Usage::of(&view);
            prop_assert!(view.nodes.values().all(|node| node.capacity.lacks(&usage.of_node(&node.id)).is_none()));
        }
    }
}
