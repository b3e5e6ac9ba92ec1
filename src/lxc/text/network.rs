//! The keys of one network of LXC: `lxc.net.NUMBER.…`. Which of them liblxc takes depends on the network's type, which
//! must be given first, since giving it forgets all others.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::lxc::text::form::{Form, Rule};
use crate::lxc::text::key::Repeated;
use crate::lxc::text::number::{Magnitude, Scanned, scan, signed, unsigned_32};

/// What a network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No type was given yet, or `empty`.
    Empty,
    Veth,
    Macvlan,
    Ipvlan,
    Vlan,
    Phys,
    None,
    /// The type was taken back.
    Cleared,
}

/// What a key of a network holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Any,
    Type,
    Flag,
    Queues,
    Word(&'static [&'static str]),
    Vlan,
    VlanOrNone,
    Number16,
    Address4,
    Address6,
    Gateway4,
    Gateway6,
    Route4,
    Route6,
}

/// A key behind the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Setting {
    name: &'static str,
    /// The type of network it is for.
    pub(crate) only: Option<Kind>,
    pub(crate) repeated: Repeated,
    value: Value,
}

const fn one(name: &'static str, only: Option<Kind>, value: Value) -> Setting {
    Setting { name, only, repeated: Repeated::Replaces, value }
}

const fn many(name: &'static str, only: Option<Kind>, value: Value) -> Setting {
    Setting { name, only, repeated: Repeated::Adds, value }
}

const VETH: Option<Kind> = Some(Kind::Veth);
const IPVLAN: Option<Kind> = Some(Kind::Ipvlan);

const SETTINGS: [Setting; 25] = [
    one("flags", None, Value::Any),
    one("hwaddr", None, Value::Any),
    many("ipv4.address", None, Value::Address4),
    one("ipv4.gateway", None, Value::Gateway4),
    many("ipv6.address", None, Value::Address6),
    one("ipv6.gateway", None, Value::Gateway6),
    one("ipvlan.isolation", IPVLAN, Value::Word(&["bridge", "private", "vepa"])),
    one("ipvlan.mode", IPVLAN, Value::Word(&["l3", "l3s", "l2"])),
    one("l2proxy", None, Value::Flag),
    one("link", None, Value::Any),
    one("macvlan.mode", Some(Kind::Macvlan), Value::Word(&["private", "vepa", "bridge", "passthru"])),
    one("mtu", None, Value::Any),
    one("name", None, Value::Any),
    one("script.down", None, Value::Any),
    one("script.up", None, Value::Any),
    one("type", None, Value::Type),
    many("veth.ipv4.route", VETH, Value::Route4),
    many("veth.ipv6.route", VETH, Value::Route6),
    one("veth.mode", VETH, Value::Word(&["bridge", "router"])),
    one("veth.n_rxqueues", VETH, Value::Queues),
    one("veth.n_txqueues", VETH, Value::Queues),
    one("veth.pair", VETH, Value::Any),
    one("veth.vlan.id", VETH, Value::VlanOrNone),
    many("veth.vlan.tagged.id", VETH, Value::Vlan),
    one("vlan.id", Some(Kind::Vlan), Value::Number16),
];

/// A key of a network, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NetKey {
    pub(crate) number: u32,
    /// `None` for the network as a whole.
    pub(crate) setting: Option<Setting>,
}

impl NetKey {
    /// What comes after `lxc.net.`.
    pub(crate) fn parse(rest: &[u8]) -> Result<Self, Rule> {
        const NUMBERED: &str =
            "the number of the network must follow lxc.net, then the setting: lxc.net.0.type";
        if !rest.first().is_some_and(u8::is_ascii_digit) {
            return Err(NUMBERED.into());
        }
        if !rest.contains(&b'.') {
            // Only as a whole, where the number may be in any form of C's.
            let number = unsigned_32(rest).ok_or(NUMBERED)?;
            return Ok(Self { number, setting: None });
        }
        let Scanned { magnitude, rest, .. } = scan(rest, 10);
        let number = match magnitude {
            Some(Magnitude::At(number)) if number < i32::MAX.unsigned_abs().into() => number,
            _ => return Err("the number of a network must be below 2147483647".into()),
        };
        let name = rest.strip_prefix(b".").ok_or(NUMBERED)?;
        let setting = SETTINGS.iter().find(|setting| setting.name.as_bytes() == name);
        let Some(setting) = setting else {
            let names: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
            return Err(format!("is no setting of a network: take one of {}", names.join(", ")).into());
        };
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        Ok(Self { number, setting: Some(*setting) })
    }
}

impl Setting {
    pub(crate) fn is_type(&self) -> bool {
        self.value == Value::Type
    }

    /// Checks a value that is not empty.
    pub(crate) fn check(&self, value: &[u8]) -> Result<(), Rule> {
        let (fits, rule) = match self.value {
            Value::Any => return Ok(()),
            Value::Flag => return Form::Number(1).check(value),
            Value::Type => (
                Kind::parse(value).is_some(),
                "must be a type: veth, macvlan, ipvlan, vlan, phys, empty or none".to_owned(),
            ),
            Value::Queues => (
                signed(value).is_some_and(|n| n > 0 && i32::try_from(n).is_ok()),
                "must be a number of at least 1".to_owned(),
            ),
            Value::Word(words) => (
                words.iter().any(|word| word.as_bytes() == value),
                format!("must be one of {}", words.join(", ")),
            ),
            Value::Vlan => (vlan(value), "must be a VLAN from 0 to 4094".to_owned()),
            Value::VlanOrNone => {
                (value == b"none" || vlan(value), "must be a VLAN from 0 to 4094, or none".to_owned())
            }
            Value::Number16 => (number_16(value).is_some(), "must be a number up to 65535".to_owned()),
            Value::Address4 => (
                address_4(value),
                "must be an IPv4 address, best with its prefix: 10.0.0.2/24; a broadcast address may follow after \
                 one blank"
                    .to_owned(),
            ),
            Value::Address6 => {
                (address_6(value), "must be an IPv6 address, best with its prefix: fd00::2/64".to_owned())
            }
            Value::Gateway4 => (
                value == b"auto" || value == b"dev" || is_v4(value),
                "must be an IPv4 address without a prefix, or auto, or dev".to_owned(),
            ),
            Value::Gateway6 => (
                value == b"auto" || value == b"dev" || is_v6(value),
                "must be an IPv6 address without a prefix, or auto, or dev".to_owned(),
            ),
            Value::Route4 => (route(value, 32, is_v4), "must be an IPv4 network: 10.1.0.0/16".to_owned()),
            Value::Route6 => (route(value, 128, is_v6), "must be an IPv6 network: fd01::/48".to_owned()),
        };
        if fits { Ok(()) } else { Err(rule.into()) }
    }
}

impl Kind {
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        Some(match value {
            b"veth" => Self::Veth,
            b"macvlan" => Self::Macvlan,
            b"ipvlan" => Self::Ipvlan,
            b"vlan" => Self::Vlan,
            b"phys" => Self::Phys,
            b"empty" => Self::Empty,
            b"none" => Self::None,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Veth => "veth",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Vlan => "vlan",
            Self::Phys => "phys",
            Self::None => "none",
            Self::Cleared => "cleared",
        }
    }
}

fn parsed<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn is_v4(value: &[u8]) -> bool {
    parsed::<Ipv4Addr>(value).is_some()
}

fn is_v6(value: &[u8]) -> bool {
    parsed::<Ipv6Addr>(value).is_some()
}

fn cut(value: &[u8], at: u8) -> (&[u8], Option<&[u8]>) {
    match value.iter().position(|b| *b == at) {
        Some(place) => (&value[..place], Some(&value[place + 1..])),
        None => (value, None),
    }
}

fn address_4(value: &[u8]) -> bool {
    let (address, broadcast) = cut(value, b' ');
    let (address, prefix) = cut(address, b'/');
    is_v4(address)
        && broadcast.is_none_or(is_v4)
        && prefix.is_none_or(|prefix| unsigned_32(prefix).is_some_and(|length| length <= 32))
}

/// liblxc does not look at how large the prefix is.
fn address_6(value: &[u8]) -> bool {
    let (address, prefix) = cut(value, b'/');
    is_v6(address) && prefix.is_none_or(|prefix| unsigned_32(prefix).is_some())
}

fn route(value: &[u8], most: u32, is_address: fn(&[u8]) -> bool) -> bool {
    let (address, prefix) = cut(value, b'/');
    is_address(address) && prefix.and_then(unsigned_32).is_some_and(|length| length <= most)
}

/// liblxc lets a minus through here, which `strtoul` makes a large number of: only `-0` is left.
fn number_16(value: &[u8]) -> Option<u16> {
    let Scanned { negative, magnitude: Some(Magnitude::At(number)), rest: [] } = scan(value, 0) else {
        return None;
    };
    let number = if negative { 0_u64.wrapping_sub(number) } else { number };
    u16::try_from(number).ok()
}

fn vlan(value: &[u8]) -> bool {
    number_16(value).is_some_and(|number| number <= 4094)
}
