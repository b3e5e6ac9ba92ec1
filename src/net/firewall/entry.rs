//! The entries of the table's sets (`man 8 nft`, "SETS", "MAPS").

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::syntax;
use crate::name::LinkName;

/// A part of a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Part {
    /// An interface.
    Link(String),
    /// An address, or a range of them.
    Net(IpNet),
    /// A protocol or a port.
    Word(String),
}

/// What a set holds, or a map maps.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(pub(super) Vec<Part>);

/// What stands beside a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    /// What a map maps the key to.
    pub(super) data: Option<String>,
    /// The comment: whose it is. Nothing for what is the host's.
    pub(super) owner: Option<String>,
}

/// As `nft` reads it behind the key.
impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.owner.iter().try_for_each(|owner| write!(f, " comment \"{owner}\""))?;
        self.data.iter().try_for_each(|data| write!(f, " : {data}"))
    }
}

impl Part {
    pub(super) fn link(name: &LinkName) -> Self {
        Self::Link(name.as_str().to_owned())
    }

    pub(super) fn word(word: impl fmt::Display) -> Self {
        Self::Word(word.to_string())
    }

    fn listed(value: &Value, kind: &str) -> Option<Self> {
        let text = syntax::expression(value);
        match kind {
            "ifname" => LinkName::new(text).ok().map(|name| Self::link(&name)),
            "ipv4_addr" | "ipv6_addr" => {
                let address = text.parse::<IpAddr>().map(IpNet::from);
                address.or_else(|_| text.parse()).ok().map(Self::Net)
            }
            _ => Some(Self::Word(text)),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(name) => write!(f, "\"{name}\""),
            // Sets without ranges take no prefix.
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Net(net) => net.fmt(f),
            Self::Word(word) => f.write_str(word),
        }
    }
}

impl Key {
    /// A key of a set of these types, as `nft` lists it; `None` if it is none that is written here.
    pub(super) fn listed(value: &Value, types: &[String]) -> Option<Self> {
        let parts = syntax::parts(value);
        if parts.len() != types.len() {
            return None;
        }
        parts.iter().zip(types).map(|(part, kind)| Part::listed(part, kind)).collect::<Option<_>>().map(Self)
    }

    /// The same with ever larger ranges of addresses.
    pub(super) fn larger(&self) -> impl Iterator<Item = Self> + '_ {
        std::iter::successors(Some(self.clone()), |key| {
            let mut key = key.clone();
            let net = key.0.iter_mut().find_map(|part| match part {
                Part::Net(net) => Some(net),
                _ => None,
            })?;
            *net = net.supernet()?;
            Some(key)
        })
        .skip(1)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.iter().enumerate() {
            write!(f, "{}{part}", if index == 0 { "" } else { " . " })?;
        }
        Ok(())
    }
}

/// An entry of a set, or of a map, as `nft` lists it.
pub(super) fn listed(entry: &Value, types: &[String]) -> Option<(Key, Content)> {
    let (key, data) = match entry.as_array().map(Vec::as_slice) {
        Some([key, data]) => (key, Some(syntax::expression(data))),
        _ => (entry, None),
    };
    // Without a comment it is the bare key.
    let Some(described) = key.get("elem") else {
        return Some((Key::listed(key, types)?, Content { data, owner: None }));
    };
    let fields = described.as_object()?;
    let owner = fields.get("comment").and_then(Value::as_str).map(str::to_owned);
    // Others, such as a time limit, are a stranger's.
    let known = 1 + usize::from(owner.is_some());
    (fields.len() == known).then_some(())?;
    Some((Key::listed(&fields["val"], types)?, Content { data, owner }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn entries_are_read_back() {
        let types = ["ifname", "ipv4_addr"].map(str::to_owned);
        let prefix = json!({ "prefix": { "addr": "10.0.0.0", "len": 24 } });
        let elem = json!({ "elem": { "val": { "concat": ["br0", prefix] }, "comment": "me" } });
        let (key, content) = listed(&elem, &types).unwrap();
        assert_eq!(key.to_string(), "\"br0\" . 10.0.0.0/24");
        assert_eq!(content, Content { data: None, owner: Some("me".to_owned()) });
        let entry = json!([{ "concat": ["tcp", 80] }, { "concat": ["10.0.0.2", 8080] }]);
        let (key, content) = listed(&entry, &["inet_proto", "inet_service"].map(str::to_owned)).unwrap();
        assert_eq!(key.to_string(), "tcp . 80");
        assert_eq!(content, Content { data: Some("10.0.0.2 . 8080".to_owned()), owner: None });
        let (key, _) = listed(&json!("br0"), &["ifname".to_owned()]).unwrap();
        assert_eq!(key, Key(vec![Part::Link("br0".to_owned())]));
        for strange in [
            json!({ "elem": { "val": "br0", "timeout": 5 } }),
            json!({ "concat": ["br0", "br1"] }),
            json!("*"),
        ] {
            assert_eq!(listed(&strange, &["ifname".to_owned()]), None, "{strange}");
        }
    }

    #[test]
    fn ranges_grow() {
        let key = Key(vec![Part::Word("br0".to_owned()), Part::Net("10.0.0.2/32".parse().unwrap())]);
        let larger: Vec<_> = key.larger().map(|key| key.to_string()).collect();
        assert_eq!((larger.len(), &*larger[0], &*larger[31]), (32, "br0 . 10.0.0.2/31", "br0 . 0.0.0.0/0"));
        assert_eq!(Key(vec![Part::Word("tcp".to_owned())]).larger().count(), 0);
    }
}
