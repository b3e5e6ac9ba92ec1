//! A tracked connection, as the kernel lists it (`linux/netfilter/nfnetlink_conntrack.h`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::wire::{attribute, find, nested};

pub(super) const CTA_TUPLE_ORIG: u16 = 1;
pub(super) const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
pub(super) const CTA_TUPLE_IP: u16 = 1;
pub(super) const CTA_TUPLE_PROTO: u16 = 2;
pub(super) const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
pub(super) const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
pub(super) const CTA_PROTO_DST_PORT: u16 = 3;

/// `IPS_DST_NAT`: where it goes was translated.
const DESTINATION_TRANSLATED: u32 = 1 << 5;

/// A connection. Of a protocol without ports these are 0.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tracked {
    pub(super) protocol: u8,
    /// As it was begun.
    pub(super) there: Way,
    /// As it is answered.
    pub(super) back: Way,
    /// Whether who answers is not who was asked.
    pub(super) translated: bool,
    /// The attributes by which the kernel finds it again.
    pub(super) key: Vec<u8>,
}

/// One of its directions.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
}

impl Tracked {
    /// Of a message's attributes; `None` if it is no connection of the internet protocols.
    pub(super) fn listed(attributes: &[u8]) -> Option<Self> {
        let original = find(attributes, CTA_TUPLE_ORIG)?;
        let (protocol, there) = way(original)?;
        let (_, back) = way(find(attributes, CTA_TUPLE_REPLY)?)?;
        let status = find(attributes, CTA_STATUS).and_then(|status| status.try_into().ok());
        let mut key = nested(CTA_TUPLE_ORIG, &[original.to_vec()]);
        for kind in [CTA_ID, CTA_ZONE] {
            key.extend(find(attributes, kind).into_iter().flat_map(|value| attribute(kind, value)));
        }
        let translated = u32::from_be_bytes(status?) & DESTINATION_TRANSLATED != 0;
        Some(Self { protocol, there, back, translated, key })
    }
}

fn way(tuple: &[u8]) -> Option<(u8, Way)> {
    let (ip, protocol) = (find(tuple, CTA_TUPLE_IP)?, find(tuple, CTA_TUPLE_PROTO)?);
    let address = |four: u16, six: u16| -> Option<IpAddr> {
        match find(ip, four) {
            Some(bytes) => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
            None => Some(Ipv6Addr::from(<[u8; 16]>::try_from(find(ip, six)?).ok()?).into()),
        }
    };
    let port = |kind: u16| find(protocol, kind)?.try_into().ok().map(u16::from_be_bytes);
    let source = address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?;
    let destination = address(CTA_IP_V4_DST, CTA_IP_V6_DST)?;
    let way = Way {
        source: (source, port(CTA_PROTO_SRC_PORT).unwrap_or(0)).into(),
        destination: (destination, port(CTA_PROTO_DST_PORT).unwrap_or(0)).into(),
    };
    Some((*find(protocol, CTA_PROTO_NUM)?.first()?, way))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_read() {
        let tuple = |kind: u16, source: [u8; 4], destination: [u8; 4], ports: [u16; 2]| {
            let ip = [attribute(CTA_IP_V4_SRC, &source), attribute(CTA_IP_V4_DST, &destination)];
            let protocol = [
                attribute(CTA_PROTO_NUM, &[17]),
                attribute(CTA_PROTO_SRC_PORT, &ports[0].to_be_bytes()),
                attribute(CTA_PROTO_DST_PORT, &ports[1].to_be_bytes()),
            ];
            nested(kind, &[nested(CTA_TUPLE_IP, &ip), nested(CTA_TUPLE_PROTO, &protocol)])
        };
        let original = tuple(CTA_TUPLE_ORIG, [192, 0, 2, 7], [192, 0, 2, 1], [4000, 8000]);
        let id = attribute(CTA_ID, &[1, 2, 3, 4]);
        let parts = [
            original.clone(),
            tuple(CTA_TUPLE_REPLY, [10, 0, 0, 2], [192, 0, 2, 7], [80, 4000]),
            attribute(CTA_STATUS, &0x2e_u32.to_be_bytes()),
            id.clone(),
        ];
        let found = Tracked::listed(&parts.concat()).unwrap();
        assert_eq!((found.protocol, found.translated), (17, true));
        assert_eq!(found.there.destination.to_string(), "192.0.2.1:8000");
        assert_eq!(found.back.source.to_string(), "10.0.0.2:80");
        assert_eq!(found.key, [original, id].concat());
        assert_eq!(Tracked::listed(&parts[0]), None);
    }
}
