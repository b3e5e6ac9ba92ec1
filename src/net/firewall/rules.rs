//! The chains and sets of the table, which are always the same (`man 8 nft`). What differs is in the sets, so that a packet
//! meets as many rules with a thousand networks as with one.
//!
//! The texts are as [`syntax`](super::syntax) renders what `nft` lists: they are compared.

/// A set or a map.
pub(super) struct Set {
    pub(super) name: &'static str,
    /// "set" or "map".
    pub(super) kind: &'static str,
    /// The types of a key, and of what a map maps it to.
    pub(super) types: &'static str,
    /// Whether it has ranges of addresses.
    pub(super) interval: bool,
}

/// A base chain.
pub(super) struct Chain {
    /// Also its hook.
    pub(super) name: &'static str,
    /// "nat" or "filter".
    pub(super) kind: &'static str,
    pub(super) priority: i32,
    pub(super) rules: &'static [&'static str],
}

const fn set(name: &'static str, types: &'static str) -> Set {
    Set { name, kind: "set", types, interval: false }
}

const fn ranges(name: &'static str, types: &'static str) -> Set {
    Set { name, kind: "set", types, interval: true }
}

const fn map(name: &'static str, types: &'static str) -> Set {
    Set { name, kind: "map", types, interval: false }
}

pub(super) const SETS: &[Set] = &[
    set("bridges", "ifname"),
    // A rule cannot compare two interfaces: what stays on one bridge.
    set("same", "ifname . ifname"),
    ranges("own4", "ifname . ipv4_addr"),
    ranges("own6", "ifname . ipv6_addr"),
    ranges("reach4", "ifname . ipv4_addr"),
    ranges("reach6", "ifname . ipv6_addr"),
    ranges("admit4", "ifname . ipv4_addr"),
    ranges("admit6", "ifname . ipv6_addr"),
    ranges("masquerade4", "ipv4_addr"),
    ranges("masquerade6", "ipv6_addr"),
    ranges("pool4", "ipv4_addr"),
    ranges("pool6", "ipv6_addr"),
    ranges("denied4", "ipv4_addr"),
    ranges("denied6", "ipv6_addr"),
    ranges("denied_ports4", "ipv4_addr . inet_proto . inet_service"),
    ranges("denied_ports6", "ipv6_addr . inet_proto . inet_service"),
    set("host_ports", "ifname . inet_proto . inet_service"),
    set("tunnel_ports", "inet_service"),
    map("at4", "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service"),
    map("at6", "ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service"),
    map("any4", "inet_proto . inet_service : ipv4_addr . inet_service"),
    map("any6", "inet_proto . inet_service : ipv6_addr . inet_service"),
];

/// An error (of ICMP) about a connection that begins and ends in other networks, or at the host: who sends it cannot have
/// seen it, and the host would translate it and lead it there.
const RELATED4: &str = "iifname @bridges ct state related iifname . ct original ip saddr != @own4 \
    iifname . ct reply ip saddr != @own4 drop";
const RELATED6: &str = "iifname @bridges ct state related iifname . ct original ip6 saddr != @own6 \
    iifname . ct reply ip6 saddr != @own6 drop";

pub(super) const CHAINS: &[Chain] = &[
    Chain {
        name: "prerouting",
        kind: "nat",
        priority: -100,
        rules: &[
            "dnat ip to ip daddr . meta l4proto . th dport map @at4",
            "dnat ip6 to ip6 daddr . meta l4proto . th dport map @at6",
            "fib daddr type local dnat ip to meta l4proto . th dport map @any4",
            "fib daddr type local dnat ip6 to meta l4proto . th dport map @any6",
        ],
    },
    Chain {
        name: "output",
        kind: "nat",
        priority: -100,
        rules: &[
            "dnat ip to ip daddr . meta l4proto . th dport map @at4",
            "dnat ip6 to ip6 daddr . meta l4proto . th dport map @at6",
            "ip daddr != 127.0.0.0/8 fib daddr type local dnat ip to meta l4proto . th dport map @any4",
            "ip6 daddr != ::1 fib daddr type local dnat ip6 to meta l4proto . th dport map @any6",
        ],
    },
    Chain {
        name: "input",
        kind: "filter",
        priority: 0,
        rules: &[
            RELATED4,
            RELATED6,
            "ct state established,related accept",
            "iifname @bridges ip daddr @denied4 drop",
            "iifname @bridges ip6 daddr @denied6 drop",
            "iifname @bridges ip daddr . meta l4proto . th dport @denied_ports4 drop",
            "iifname @bridges ip6 daddr . meta l4proto . th dport @denied_ports6 drop",
            // All of the host's addresses are there for whoever asks, whichever interface has them.
            "iifname @bridges ip daddr @pool4 iifname . ip daddr != @own4 drop",
            "iifname @bridges ip6 daddr @pool6 iifname . ip6 daddr != @own6 drop",
            "iifname . meta l4proto . th dport @host_ports accept",
            "iifname @bridges icmp type echo-request accept",
            // Connection tracking does not follow neighbour discovery.
            "iifname @bridges icmpv6 type { echo-request, nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept",
            "iifname @bridges drop",
        ],
    },
    Chain {
        name: "forward",
        kind: "filter",
        priority: 0,
        rules: &[
            // With `br_netfilter` also frames pass here that stay on a bridge.
            "iifname . oifname @same accept",
            // Also of what seems to be an answer: it is not, from another's address.
            "iifname @bridges iifname . ip saddr != @own4 drop",
            "iifname @bridges iifname . ip6 saddr != @own6 drop",
            RELATED4,
            RELATED6,
            // It could bear the host's address, also as an answer to who asked from that port, and be taken for a frame from
            // a tunnel of the host's own.
            "iifname @bridges ip daddr != @pool4 meta l4proto gre drop",
            "iifname @bridges ip6 daddr != @pool6 meta l4proto gre drop",
            "iifname @bridges ip daddr != @pool4 udp dport @tunnel_ports drop",
            "iifname @bridges ip6 daddr != @pool6 udp dport @tunnel_ports drop",
            "ct state established,related accept",
            "iifname @bridges ip daddr @denied4 drop",
            "iifname @bridges ip6 daddr @denied6 drop",
            "iifname @bridges ip daddr . meta l4proto . th dport @denied_ports4 drop",
            "iifname @bridges ip6 daddr . meta l4proto . th dport @denied_ports6 drop",
            "oifname @bridges ct status dnat accept",
            "iifname . ip daddr @reach4 accept",
            "iifname . ip6 daddr @reach6 accept",
            "iifname @bridges oifname @bridges drop",
            "iifname @bridges ip daddr @pool4 drop",
            "iifname @bridges ip6 daddr @pool6 drop",
            "oifname . ip saddr @admit4 accept",
            "oifname . ip6 saddr @admit6 accept",
            "oifname @bridges drop",
        ],
    },
    Chain {
        name: "postrouting",
        kind: "nat",
        priority: 100,
        rules: &[
            // A network that uses what it has published itself: the answer must come back this way.
            "oifname . ip saddr @own4 ct status dnat masquerade",
            "oifname . ip6 saddr @own6 ct status dnat masquerade",
            "oifname != @bridges ip saddr @masquerade4 ip daddr != @pool4 masquerade",
            "oifname != @bridges ip6 saddr @masquerade6 ip6 daddr != @pool6 masquerade",
        ],
    },
];

impl Set {
    /// Its declaration, on one line.
    pub(super) fn declaration(&self) -> String {
        let flags = if self.interval { " flags interval;" } else { "" };
        format!("type {};{flags}", self.types)
    }
}

impl Chain {
    /// Its declaration, on one line.
    pub(super) fn declaration(&self) -> String {
        format!("type {} hook {} priority {}; policy accept;", self.kind, self.name, self.priority)
    }
}
