//! The firewall's table: what `nft` has of it, however it came to be so. (`firewall_traffic` has what packets meet.)

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::Duration;

use docklet::Error;
use docklet::host::{Doctor, Finding};
use docklet::name::LinkName;
use docklet::net::{
    Denied, Firewall, FirewallNetwork, LinkOwner, Port, PortForward, Protocol, Ruleset, Whose,
    forward_obstacles,
};
use docklet::paths::Paths;
use serde_json::{Value, json};

use crate::kernel;
use crate::sandbox::Sandbox;

pub(crate) const IPV4_SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";
pub(crate) const IPV6_SWITCH: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

pub(crate) fn table(sandbox: &Sandbox) -> Firewall {
    table_of(sandbox.paths.prefix())
}

/// The table of the sandbox with that prefix.
pub(crate) fn table_of(prefix: &Path) -> Firewall {
    Firewall::new(format!("docklet-{}", Paths::new(prefix).unwrap().tag())).unwrap()
}

pub(crate) fn owner(name: &str) -> LinkOwner {
    LinkOwner::new(format!("docklet-test/{name}")).unwrap()
}

/// A network that is masqueraded.
pub(crate) fn network(bridge: &str, subnets: &[&str]) -> FirewallNetwork {
    let subnets = subnets.iter().map(|subnet| subnet.parse().unwrap()).collect();
    let network = FirewallNetwork::new(owner(bridge), LinkName::new(bridge).unwrap(), subnets);
    FirewallNetwork { masquerade: true, ..network }
}

pub(crate) fn port(protocol: Protocol, number: u16) -> Port {
    Port { protocol, number: number.try_into().unwrap() }
}

pub(crate) fn forward(
    protocol: Protocol,
    host_address: Option<&str>,
    host_port: u16,
    to: &str,
) -> PortForward {
    PortForward {
        owner: owner(to),
        protocol,
        host_address: host_address.map(|ip| ip.parse().unwrap()),
        host_port: host_port.try_into().unwrap(),
        to: to.parse().unwrap(),
    }
}

/// Two networks with everything that can be said of one.
fn everything() -> Ruleset {
    let full = FirewallNetwork {
        reach: vec!["10.0.2.0/24".parse().unwrap(), "10.77.0.0/16".parse().unwrap()],
        admit: vec!["203.0.113.0/24".parse().unwrap(), "203.0.113.7/32".parse().unwrap()],
        host_ports: vec![port(Protocol::Udp, 53), port(Protocol::Tcp, 53)],
        ..network("bra", &["10.0.1.0/24"])
    };
    Ruleset {
        networks: vec![full, network("brb", &["10.0.2.0/24"])],
        forwards: vec![
            forward(Protocol::Tcp, None, 80, "10.0.1.2:8080"),
            forward(Protocol::Udp, Some("192.0.2.1"), 80, "10.0.2.2:80"),
        ],
        pool: vec!["10.0.0.0/14".parse().unwrap(), "10.77.0.0/16".parse().unwrap()],
        denied: vec![
            Denied { net: "192.0.2.9/32".parse().unwrap(), port: None },
            Denied { net: "192.0.2.0/24".parse().unwrap(), port: Some(port(Protocol::Tcp, 2379)) },
        ],
        tunnel_ports: [8472.try_into().unwrap()].into(),
    }
}

fn listing(firewall: &Firewall) -> String {
    kernel::run("nft", ["-a", "list", "table", "inet", firewall.table()])
}

/// A rule set of somebody else, which drops what is forwarded.
fn add_foreign_table(sandbox: &Sandbox) {
    let foreign = "table inet somebody {\nset s { type ipv4_addr; elements = { 192.0.2.1 } }\n\
                   chain c {\ntype filter hook forward priority 0; policy drop;\ncounter accept\n}\n}\n\
                   table ip nat {\nchain x {\ntype nat hook prerouting priority -100;\n}\n}\n";
    let file = sandbox.dir("nft").join("foreign");
    fs::write(&file, foreign).unwrap();
    kernel::run("nft", ["-f", file.to_str().unwrap()]);
}

/// The table is exactly what was asked for, however often, and nobody else's changes by a byte.
#[test]
#[ignore = "needs root: network namespace, nftables"]
fn the_table_is_replaced_and_removed_alone() {
    let sandbox = Sandbox::new();
    let firewall = table(&sandbox);
    add_foreign_table(&sandbox);
    let before = kernel::run("nft", ["-a", "list", "ruleset"]);
    fs::write(IPV4_SWITCH, "0").unwrap();
    assert_eq!(firewall.current().unwrap(), None);
    firewall.remove().unwrap();
    assert!(!firewall.apply(&Ruleset::default()).unwrap());

    let all = everything();
    assert!(firewall.apply(&all).unwrap());
    assert_eq!(fs::read_to_string(IPV4_SWITCH).unwrap().trim(), "1");
    let text = listing(&firewall);
    for line in [
        "type nat hook postrouting priority srcnat; policy accept;",
        "type filter hook forward priority filter; policy accept;",
        "tcp . 80 comment \"docklet-test/10.0.1.2:8080\" : 10.0.1.2 . 8080",
        "192.0.2.1 . udp . 80 comment \"docklet-test/10.0.2.2:80\" : 10.0.2.2 . 80",
        "\"bra\" . 10.0.2.0/24 comment \"docklet-test/bra\"",
        "192.0.2.0/24 . tcp . 2379",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!firewall.apply(&all).unwrap());
    assert_eq!(listing(&firewall), text, "nothing was written: the handles are the same");
    let said = firewall.current().unwrap().unwrap();
    assert!(
        said.contains(&"any4 tcp . 80 : 10.0.1.2 . 8080 # docklet-test/10.0.1.2:8080".to_owned()),
        "{said:?}"
    );
    assert!(!said.iter().any(|entry| entry.contains("203.0.113.7")), "it is in a larger range: {said:?}");

    let less = Ruleset { forwards: vec![all.forwards[0].clone()], ..all.clone() };
    assert!(firewall.apply(&less).unwrap());
    assert!(!listing(&firewall).contains("10.0.2.2"));
    let others = |text: &str| text[..text.find("table inet docklet").unwrap_or(text.len())].to_owned();
    assert_eq!(others(&kernel::run("nft", ["-a", "list", "ruleset"])), before);
    // What is the host's own says nothing without a network.
    assert!(firewall.apply(&Ruleset { networks: vec![], forwards: vec![], ..all.clone() }).unwrap());
    assert_eq!(firewall.current().unwrap(), None);
    assert!(firewall.apply(&all).unwrap());
    firewall.remove().unwrap();
    firewall.remove().unwrap();
    assert_eq!(kernel::run("nft", ["-a", "list", "ruleset"]), before);
    assert_eq!(fs::read_to_string(IPV4_SWITCH).unwrap().trim(), "1", "never taken back");
}

/// What stays of an earlier table is chosen: an owner's, what is said for all networks, ports of tunnels. The rest goes.
#[test]
#[ignore = "needs root: network namespace, nftables"]
fn what_cannot_be_known_stays() {
    let sandbox = Sandbox::new();
    let firewall = table(&sandbox);
    let all = everything();
    let less = Ruleset {
        networks: vec![all.networks[1].clone()],
        forwards: vec![],
        pool: vec![],
        denied: vec![],
        tunnel_ports: [].into(),
    };
    let one = Ruleset { networks: vec![all.networks[0].clone()], ..less.clone() };
    let of_host = Ruleset { pool: all.pool.clone(), denied: all.denied.clone(), ..less.clone() };
    let with_tunnels = Ruleset { tunnel_ports: all.tunnel_ports.clone(), ..less.clone() };
    let entries = |ruleset: &Ruleset| {
        firewall.apply(ruleset).unwrap();
        firewall.current().unwrap().unwrap()
    };
    let kept = |keep: fn(Whose<'_>) -> bool| {
        firewall.apply(&all).unwrap();
        assert!(firewall.apply_keeping(&less, keep).unwrap());
        assert!(!firewall.apply_keeping(&less, keep).unwrap());
        firewall.current().unwrap().unwrap()
    };
    let (host, tunnels, nothing) =
        (kept(|whose| whose == Whose::Host), kept(|whose| whose == Whose::Tunnels), kept(|_| false));
    assert_eq!(host, entries(&of_host));
    assert_eq!(tunnels, entries(&with_tunnels));
    assert_eq!(nothing, entries(&less));
    let owned = kept(|whose| matches!(whose, Whose::Owner(found) if *found == owner("bra")));
    let both = Ruleset { networks: vec![one.networks[0].clone(), less.networks[0].clone()], ..less.clone() };
    assert_eq!(owned, entries(&both));
    firewall.remove().unwrap();
}

/// A program that hangs, stopped by somebody or by its disk, holds nobody up for ever, and changes nothing.
#[test]
#[ignore = "needs root: namespaces, nftables"]
fn a_program_that_hangs_is_ended() {
    let sandbox = Sandbox::new();
    let firewall = table(&sandbox);
    let all = everything();
    firewall.apply(&all).unwrap();
    let before = listing(&firewall);
    let less = Ruleset { forwards: vec![], ..all.clone() };
    let (real, hanging) = (sandbox.dir("nft").join("real"), sandbox.dir("nft").join("hanging"));
    fs::copy("/usr/sbin/nft", &real).unwrap();
    let pid = sandbox.dir("nft").join("pid");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = -j ] && exec {} \"$@\"\necho $$ > {}\nkill -STOP $$\n",
        real.display(),
        pid.display()
    );
    fs::write(&hanging, script).unwrap();
    kernel::run("chmod", ["0755", hanging.to_str().unwrap()]);
    kernel::run("mount", ["--bind", hanging.to_str().unwrap(), "/usr/sbin/nft"]);
    let error = firewall.apply(&less).unwrap_err();
    kernel::unmount("/usr/sbin/nft");
    assert!(
        matches!(&error, Error::Busy { what, .. } if what == "the program nft" || what.ends_with("/nft")),
        "{error}"
    );
    assert!(error.to_string().contains("was ended"), "{error}");
    let stopped = format!("/proc/{}", fs::read_to_string(pid).unwrap().trim());
    assert!(!std::path::Path::new(&stopped).exists(), "it is gone");
    assert_eq!(listing(&firewall), before);
    assert!(firewall.apply(&less).unwrap(), "nobody has its lock any more");
    firewall.remove().unwrap();
}

/// Another process writes into the table, or takes from it: the next time it is as it should be.
#[test]
#[ignore = "needs root: network namespace, nftables"]
fn what_strangers_do_to_the_table_is_undone() {
    let sandbox = Sandbox::new();
    let firewall = table(&sandbox);
    let all = everything();
    firewall.apply(&all).unwrap();
    let stateless = || kernel::run("nft", ["list", "table", "inet", firewall.table()]);
    let whole = stateless();
    let name = firewall.table();
    let handle = |text: &str| {
        let text = listing(&firewall).lines().find(|line| line.contains(text)).unwrap().to_owned();
        text.rsplit(' ').next().unwrap().to_owned()
    };
    let drop_rule = handle("oifname @bridges drop");
    for command in [
        format!("insert rule inet {name} forward accept"),
        format!("add rule inet {name} input counter"),
        format!("add rule inet {name} input ct state new accept comment \"docklet-test/bra\""),
        format!("delete rule inet {name} forward handle {drop_rule}"),
        format!("flush chain inet {name} forward"),
        format!("flush set inet {name} denied4"),
        format!("delete element inet {name} any4 {{ tcp . 80 }}"),
        format!("add element inet {name} admit4 {{ \"brb\" . 0.0.0.0/0 }}"),
        format!("add element inet {name} host_ports {{ \"brb\" . tcp . 22 comment \"docklet-test/brb\" }}"),
        format!("add chain inet {name} input {{ policy drop; }}"),
        format!("add chain inet {name} extra {{ type filter hook forward priority -200; }}"),
        format!("add set inet {name} extra {{ type ipv4_addr; }}"),
        format!("add counter inet {name} extra"),
        format!("add table inet {name} {{ flags dormant; }}"),
        format!("delete table inet {name}"),
        "flush ruleset".to_owned(),
    ] {
        kernel::run("nft", [&command]);
        assert!(firewall.apply(&all).unwrap(), "{command}");
        assert_eq!(stateless(), whole, "{command}");
        assert!(!firewall.apply(&all).unwrap(), "{command}");
    }
    kernel::run("nft", [format!("add rule inet {name} input counter")]);
    let error = firewall.current().unwrap_err();
    assert!(matches!(error, Error::Differs { .. }), "{error}");
    assert!(error.to_string().contains("counter"), "{error}");
    firewall.remove().unwrap();
}

/// A record that cannot be read keeps its rules, whatever else changes; and it can be said which.
#[test]
#[ignore = "needs root: network namespace, nftables"]
fn entries_of_chosen_owners_stay() {
    let sandbox = Sandbox::new();
    let firewall = table(&sandbox);
    let mut all = everything();
    all.forwards.push(forward(Protocol::Tcp, None, 81, "10.0.1.3:81"));
    firewall.apply(&all).unwrap();
    let before = firewall.current().unwrap().unwrap();
    // A stranger's rule does not make docklet forget whose entries are in the table.
    kernel::run("nft", [format!("add rule inet {} input counter", firewall.table())]);

    let lost = [owner("bra"), owner("10.0.1.2:8080")];
    let is_lost = |whose: Whose<'_>| matches!(whose, Whose::Owner(owner) if lost.contains(owner));
    let known = Ruleset {
        networks: vec![all.networks[1].clone()],
        forwards: vec![all.forwards[1].clone()],
        ..all.clone()
    };
    assert!(firewall.apply_keeping(&known, is_lost).unwrap());
    let gone = owner("10.0.1.3:81");
    let expected: Vec<_> = before.into_iter().filter(|entry| !entry.ends_with(gone.as_str())).collect();
    assert_eq!(firewall.current().unwrap().unwrap(), expected);
    assert!(!firewall.apply_keeping(&known, is_lost).unwrap());
    // What is asked for replaces what was kept.
    let mut back = known.clone();
    back.networks.push(network("bra", &["10.0.1.0/24"]));
    assert!(firewall.apply_keeping(&back, |_| true).unwrap());
    assert!(!firewall.current().unwrap().unwrap().iter().any(|entry| entry.starts_with("reach4")));
    assert!(firewall.apply(&known).unwrap());
    assert!(!firewall.apply(&known).unwrap());
    firewall.remove().unwrap();
}

/// IPv6 forwarding changes what a host believes of its routers, so the host's owner decides.
#[test]
#[ignore = "needs root: network namespace, nftables"]
fn ipv6_needs_a_host_that_forwards() {
    let sandbox = Sandbox::new();
    let firewall = table(&sandbox);
    let ruleset =
        Ruleset { networks: vec![network("bra", &["10.0.1.0/24", "fd00:1::/64"])], ..Ruleset::default() };
    fs::write(IPV6_SWITCH, "0").unwrap();
    fs::write(IPV4_SWITCH, "0").unwrap();
    let error = firewall.apply(&ruleset).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("net.ipv6.conf.all.forwarding=1"), "{error}");
    assert_eq!(firewall.current().unwrap(), None);
    assert_eq!(fs::read_to_string(IPV4_SWITCH).unwrap().trim(), "0", "nothing was touched");
    // What stays behind the bridge needs none.
    let mut closed = ruleset.clone();
    closed.networks[0].masquerade = false;
    assert!(firewall.apply(&closed).unwrap());
    assert_eq!(fs::read_to_string(IPV4_SWITCH).unwrap().trim(), "0");
    fs::write(IPV6_SWITCH, "1").unwrap();
    assert!(firewall.apply(&ruleset).unwrap());
    assert!(!firewall.apply(&ruleset).unwrap());
    firewall.remove().unwrap();
}

/// What does not make sense is refused, and the host is as it was.
#[test]
#[ignore = "needs root: network namespace, nftables"]
fn bad_rulesets_change_nothing() {
    let sandbox = Sandbox::new();
    let firewall = table(&sandbox);
    let all = everything();
    firewall.apply(&all).unwrap();
    let before = kernel::run("nft", ["-a", "list", "ruleset"]);
    for bad in [
        forward(Protocol::Tcp, None, 81, "192.0.2.7:80"),
        forward(Protocol::Tcp, None, 80, "10.0.2.9:80"),
        forward(Protocol::Tcp, Some("192.0.2.1"), 80, "10.0.2.9:80"),
        forward(Protocol::Tcp, Some("127.0.0.1"), 81, "10.0.2.9:80"),
        forward(Protocol::Tcp, Some("::1"), 81, "10.0.2.9:80"),
    ] {
        let mut asked = all.clone();
        asked.forwards.push(bad);
        let error = firewall.apply(&asked).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert_eq!(kernel::run("nft", ["-a", "list", "ruleset"]), before, "{error}");
    }
    firewall.remove().unwrap();
}

/// A forward would take away what a process of the host listens for.
#[test]
#[ignore = "needs root: network namespace"]
fn a_port_that_the_host_uses_is_told() {
    let _sandbox = Sandbox::new();
    let busy = |forward: &PortForward| match PortForward::check_unused([forward]) {
        Ok(()) => false,
        Err(error @ Error::Busy { .. }) => {
            assert!(error.to_string().contains(&forward.host_port.to_string()), "{error}");
            true
        }
        Err(error) => panic!("{error}"),
    };
    kernel::run("ip", ["address", "add", "192.0.2.1/24", "dev", "lo"]);
    let tcp = TcpListener::bind("192.0.2.1:0").unwrap();
    let number = tcp.local_addr().unwrap().port();
    let at = |protocol, ip: Option<&str>| forward(protocol, ip, number, "10.0.1.2:80");
    assert!(busy(&at(Protocol::Tcp, None)) && busy(&at(Protocol::Tcp, Some("192.0.2.1"))));
    assert!(!busy(&at(Protocol::Udp, None)) && !busy(&at(Protocol::Tcp, Some("192.0.2.2"))));
    let udp = UdpSocket::bind(("0.0.0.0", number)).unwrap();
    assert!(busy(&at(Protocol::Udp, None)) && busy(&at(Protocol::Udp, Some("192.0.2.2"))));
    drop((tcp, udp));
    // Another test's child may hold copies until it has begun its program.
    let freed = |protocol| {
        (0..10_000).any(|_| {
            thread::sleep(Duration::from_millis(1));
            !busy(&at(protocol, None))
        })
    };
    assert!(freed(Protocol::Tcp) && freed(Protocol::Udp));
    let six = TcpListener::bind(("::", number)).unwrap();
    assert!(busy(&at(Protocol::Tcp, None)) && busy(&forward(Protocol::Tcp, None, number, "[fd00::2]:80")));
    drop(six);
    assert!(freed(Protocol::Tcp));
    // It is not reached from elsewhere, so nothing is taken away from it.
    let _local = TcpListener::bind(("127.0.0.1", number)).unwrap();
    assert!(!busy(&at(Protocol::Tcp, None)));
}

/// The kernel lists ranges as they were written, also at the ends of the address space and side by side.
#[test]
#[ignore = "needs root: network namespace, nftables"]
fn odd_ranges_are_read_back() {
    let sandbox = Sandbox::new();
    fs::write(IPV6_SWITCH, "1").unwrap();
    let firewall = table(&sandbox);
    for nets in [
        &["0.0.0.0/0", "::/0"][..],
        &["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"],
        &["255.255.255.255/32", "0.0.0.0/32", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", "::/128"],
        &["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/23", "10.0.0.0/8", "10.255.255.255/32"],
        &["192.0.2.9/32", "192.0.2.8/31", "2001:db8::/32", "2001:db8::1/128", "::ffff:0:0/96"],
    ] {
        let nets: Vec<ipnet::IpNet> = nets.iter().map(|net| net.parse().unwrap()).collect();
        let denied = |port| nets.iter().map(move |net| Denied { net: *net, port });
        let ruleset = Ruleset {
            networks: vec![FirewallNetwork { admit: nets.clone(), ..network("bra", &["172.16.0.0/12"]) }],
            denied: denied(None).chain(denied(Some(port(Protocol::Tcp, 65535)))).collect(),
            ..Ruleset::default()
        };
        assert!(firewall.apply(&ruleset).unwrap(), "{nets:?}");
        assert!(!firewall.apply(&ruleset).unwrap(), "{nets:?}: {:?}", firewall.current());
    }
    let longest = FirewallNetwork { owner: LinkOwner::new("~".repeat(128)).unwrap(), ..network("brb", &[]) };
    let ruleset = Ruleset { networks: vec![longest], ..Ruleset::default() };
    assert!(firewall.apply(&ruleset).unwrap() && !firewall.apply(&ruleset).unwrap());
    firewall.remove().unwrap();
}

/// Two hundred networks and a thousand forwards; and whoever is last says what the table is, as a whole.
#[test]
#[ignore = "needs root: network namespace, nftables"]
fn large_rulesets_from_several_threads() {
    let sandbox = Sandbox::new();
    let firewall = table(&sandbox);
    let large = |first: u16| Ruleset {
        networks: (0..200).map(|n| network(&format!("dk{n}"), &[&format!("10.1.{n}.0/24")])).collect(),
        forwards: (0..1000)
            .map(|n| forward(Protocol::Tcp, None, first + n, &format!("10.1.{}.{}:80", n % 200, 2 + n / 200)))
            .collect(),
        ..Ruleset::default()
    };
    let rulesets = [1000, 3000, 5000, 7000].map(large);
    thread::scope(|scope| {
        for ruleset in &rulesets {
            let firewall = &firewall;
            scope.spawn(move || {
                for _ in 0..2 {
                    firewall.apply(ruleset).unwrap();
                }
            });
        }
    });
    let found = firewall.current().unwrap().unwrap();
    assert_eq!(found.iter().filter(|entry| entry.starts_with("any4")).count(), 1000);
    let unchanged = rulesets.iter().filter(|ruleset| {
        let changed = firewall.apply(ruleset).unwrap();
        if changed {
            firewall.remove().unwrap();
        }
        !changed
    });
    assert!(unchanged.count() <= 1);
    assert!(firewall.apply(&rulesets[0]).unwrap() && !firewall.apply(&rulesets[0]).unwrap());
    firewall.remove().unwrap();
}

/// The report names the remedy, and the remedy is one.
#[tokio::test]
#[ignore = "needs root: network namespace, iptables"]
async fn a_host_that_drops_what_is_forwarded_is_diagnosed() {
    let sandbox = Sandbox::new();
    let finding = async || {
        let report = Doctor::examine(&sandbox.paths).await;
        let check = report.checks.into_iter().find(|check| check.subject == "forwarding").unwrap();
        (check.finding, check.detail)
    };
    assert_eq!(finding().await.0, Finding::Good);
    for program in ["iptables", "iptables-legacy", "ip6tables"] {
        kernel::run(program, ["-P", "FORWARD", "DROP"]);
        let (found, detail) = finding().await;
        assert_eq!(found, Finding::Limited, "{program}: {detail}");
        assert!(detail.contains("filter FORWARD") && detail.contains("DOCKER-USER"), "{detail}");
        let remedies: Vec<_> = detail.split('`').filter(|text| text.starts_with(program)).collect();
        assert_eq!(remedies.len(), 2, "{detail}");
        for remedy in remedies {
            let mut words = remedy.split(' ');
            kernel::run(words.next().unwrap(), words);
        }
        let (found, detail) = finding().await;
        assert_eq!(found, Finding::Good, "{program}: {detail}");
        assert!(detail.contains("has rules for docklet's bridges"), "{detail}");
    }
    kernel::run("nft", ["flush", "ruleset"]);
    kernel::run("nft", ["add", "table", "inet", "f"]);
    kernel::run(
        "nft",
        ["add", "chain", "inet", "f", "c", "{ type filter hook forward priority 0; policy drop; }"],
    );
    kernel::run("iptables-legacy", ["-P", "FORWARD", "ACCEPT"]);
    let (found, detail) = finding().await;
    assert_eq!(found, Finding::Limited);
    assert!(detail.contains("inet f c") && detail.contains("iifname \"dk*\" accept"), "{detail}");
}

/// Docker's default, by each of the programs that make it.
#[test]
#[ignore = "needs root: network namespace, nftables, iptables"]
fn rules_that_drop_what_is_forwarded_are_found() {
    let sandbox = Sandbox::new();
    let found = || -> Vec<Value> {
        forward_obstacles("dk").unwrap().iter().map(|found| serde_json::to_value(found).unwrap()).collect()
    };
    let obstacle = |program: &str, chain: &str, named: bool| json!({ "program": program, "chain": chain, "names_bridges": named });
    let firewall = table(&sandbox);
    firewall.apply(&everything()).unwrap();
    assert_eq!(found(), [] as [Value; 0], "ours are none");
    firewall.remove().unwrap();
    add_foreign_table(&sandbox);
    assert_eq!(found(), [obstacle("nft", "inet somebody c", false)]);
    kernel::run("nft", ["flush", "ruleset"]);

    kernel::run("iptables-nft", ["-P", "FORWARD", "DROP"]);
    assert_eq!(found(), [obstacle("nft", "ip filter FORWARD", false)]);
    for side in ["-i", "-o"] {
        kernel::run("iptables-nft", ["-I", "FORWARD", side, "dk+", "-j", "ACCEPT"]);
    }
    assert_eq!(found(), [obstacle("nft", "ip filter FORWARD", true)]);
    kernel::run("nft", ["flush", "ruleset"]);
    // As firewalld does.
    let script = "table inet f { chain forward { type filter hook forward priority 10; policy accept;
                  ct state established accept
                  counter reject with icmpx admin-prohibited
                  }\n}\n";
    fs::write(sandbox.dir("nft").join("f"), script).unwrap();
    kernel::run("nft", ["-f", sandbox.dir("nft").join("f").to_str().unwrap()]);
    assert_eq!(found(), [obstacle("nft", "inet f forward", false)]);
    kernel::run("nft", ["flush", "ruleset"]);
    assert_eq!(found(), [] as [Value; 0]);

    kernel::run("iptables-legacy", ["-P", "FORWARD", "DROP"]);
    assert_eq!(found(), [obstacle("iptables-legacy", "ip filter FORWARD", false)]);
    kernel::run("iptables-legacy", ["-I", "FORWARD", "-i", "dk+", "-j", "ACCEPT"]);
    assert_eq!(found(), [obstacle("iptables-legacy", "ip filter FORWARD", true)]);
}
