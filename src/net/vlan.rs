//! VLANs of a bridge and its ports (IEEE 802.1Q; `man 8 bridge`). Links of the kind `vlan` are none of this.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rtnetlink::packet_route::link::{
    AfSpecBridge, BridgeVlanInfo, BridgeVlanInfoFlags, LinkAttribute, LinkMessage,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};

use super::change::Change;
use super::link::MessageBuilder;
use crate::error::{Error, Result};

/// The number of a VLAN: 1 to 4094.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct VlanId(u16);

impl VlanId {
    /// Checks `number` and takes it.
    ///
    /// # Errors
    /// [`Error::Invalid`] outside of 1 to 4094: 802.1Q keeps the other two for itself.
    pub fn new(number: u16) -> Result<Self> {
        if (1..=4094).contains(&number) {
            Ok(Self(number))
        } else {
            Err(Error::invalid("VLAN", number.to_string(), "must be 1 to 4094"))
        }
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u16> for VlanId {
    type Error = Error;

    fn try_from(number: u16) -> Result<Self> {
        Self::new(number)
    }
}

impl From<VlanId> for u16 {
    fn from(vlan: VlanId) -> Self {
        vlan.0
    }
}

/// How a bridge keeps VLANs apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VlanFiltering {
    /// The VLAN of ports for which nothing else is said, and of the host itself; its frames have no tag there. 1 unless
    /// given, as in the kernel. `None`: such ports are in no VLAN, and pass nothing on.
    pub default_pvid: Option<VlanId>,
}

impl Default for VlanFiltering {
    fn default() -> Self {
        Self { default_pvid: Some(VlanId(1)) }
    }
}

/// The VLANs of a bridge's port, all of them. What is in none of them is not passed on, in either direction.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PortVlans {
    /// The VLAN of frames that come in without a tag; one of the two lists has it. `None` unless given: they are dropped.
    pub pvid: Option<VlanId>,
    /// The VLANs whose frames leave without a tag. None unless given.
    pub untagged: BTreeSet<VlanId>,
    /// The VLANs whose frames leave with their tag. None unless given.
    pub tagged: BTreeSet<VlanId>,
}

impl PortVlans {
    /// A port that knows of no tags, and is in the one VLAN `vlan`.
    #[must_use]
    pub fn access(vlan: VlanId) -> Self {
        Self { pvid: Some(vlan), untagged: BTreeSet::from([vlan]), tagged: BTreeSet::new() }
    }

    /// A port that takes part in `vlans`, each with its tag, and drops what has none.
    #[must_use]
    pub fn trunk(vlans: impl IntoIterator<Item = VlanId>) -> Self {
        Self { tagged: vlans.into_iter().collect(), ..Self::default() }
    }

    /// Checks what the types alone do not: each VLAN is in one list, and the `pvid` in one of them. What takes ports does
    /// it, too.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the rule that is broken.
    pub fn check(&self) -> Result<()> {
        if let Some(twice) = self.untagged.intersection(&self.tagged).next() {
            return Err(Error::invalid("VLAN", twice.to_string(), "cannot be both tagged and untagged"));
        }
        match self.pvid {
            Some(pvid) if !self.untagged.contains(&pvid) && !self.tagged.contains(&pvid) => {
                Err(Error::invalid("pvid", pvid.to_string(), "must be one of the port's VLANs"))
            }
            _ => Ok(()),
        }
    }

    /// What a port is in that has just been attached to a bridge with the default `pvid` (0: none).
    pub(super) fn by_default(pvid: u16) -> Self {
        VlanId::new(pvid).map(Self::access).unwrap_or_default()
    }

    /// Those of the link `index`, of what the kernel says of all ports.
    pub(super) fn of(index: u32, all: &[LinkMessage]) -> Self {
        let mut vlans = Self::default();
        let mut begin = None;
        let attributes = all.iter().filter(|m| m.header.index == index).flat_map(|m| &m.attributes);
        for attribute in attributes {
            let LinkAttribute::AfSpecBridge(entries) = attribute else { continue };
            for entry in entries {
                let AfSpecBridge::VlanInfo(info) = entry else { continue };
                if info.flags.contains(BridgeVlanInfoFlags::RangeBegin) {
                    begin = Some(info.vid);
                    continue;
                }
                for number in begin.take().unwrap_or(info.vid)..=info.vid {
                    vlans.insert(VlanId(number), info.flags);
                }
            }
        }
        vlans
    }

    fn insert(&mut self, vlan: VlanId, flags: BridgeVlanInfoFlags) {
        if flags.contains(BridgeVlanInfoFlags::Pvid) {
            self.pvid = Some(vlan);
        }
        let list =
            if flags.contains(BridgeVlanInfoFlags::Untagged) { &mut self.untagged } else { &mut self.tagged };
        list.insert(vlan);
    }

    /// Each VLAN with its flags.
    fn entries(&self) -> BTreeMap<VlanId, BridgeVlanInfoFlags> {
        let untagged = self.untagged.iter().map(|vlan| (*vlan, BridgeVlanInfoFlags::Untagged));
        let tagged = self.tagged.iter().map(|vlan| (*vlan, BridgeVlanInfoFlags::empty()));
        let mut entries: BTreeMap<_, _> = untagged.chain(tagged).collect();
        if let Some(flags) = self.pvid.and_then(|pvid| entries.get_mut(&pvid)) {
            *flags |= BridgeVlanInfoFlags::Pvid;
        }
        entries
    }

    /// What makes these of `found`, on the port `name` with the number `index`.
    pub(super) fn changes(&self, found: &Self, name: &str, index: u32) -> Vec<Change> {
        let (asked, found) = (self.entries(), found.entries());
        let info = |vlan: &VlanId, flags| AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid: vlan.0 });
        let lacking = asked.iter().filter(|(vlan, flags)| found.get(vlan) != Some(flags));
        let lacking: Vec<_> = lacking.map(|(vlan, flags)| info(vlan, *flags)).collect();
        let surplus = found.keys().filter(|vlan| !asked.contains_key(vlan));
        let surplus: Vec<_> = surplus.map(|vlan| info(vlan, BridgeVlanInfoFlags::empty())).collect();
        let message = |entries| {
            MessageBuilder::default()
                .interface_family(AddressFamily::Bridge)
                .index(index)
                .append_extra_attribute(LinkAttribute::AfSpecBridge(entries))
                .build()
        };
        let change = |message| Change::new(format!("VLANs of link `{name}`"), message);
        let mut changes = Vec::new();
        if !lacking.is_empty() {
            changes.push(change(RouteNetlinkMessage::SetLink(message(lacking))));
        }
        if !surplus.is_empty() {
            changes.push(change(RouteNetlinkMessage::DelLink(message(surplus))));
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::change;

    fn vlan(number: u16) -> VlanId {
        VlanId::new(number).unwrap()
    }

    #[test]
    fn numbers_are_checked() {
        for good in [1, 4094] {
            assert_eq!(vlan(good).number(), good);
        }
        for bad in [0, 4095, u16::MAX] {
            let message = VlanId::new(bad).unwrap_err().to_string();
            assert!(message.starts_with("invalid VLAN") && message.contains("1 to 4094"), "{message}");
        }
        assert_eq!(serde_json::from_str::<VlanFiltering>("{}").unwrap(), VlanFiltering::default());
        let none: VlanFiltering = serde_json::from_str(r#"{"default_pvid":null}"#).unwrap();
        assert_eq!(none.default_pvid, None);
        serde_json::from_str::<VlanFiltering>(r#"{"default_pvid":4095}"#).unwrap_err();
        serde_json::from_str::<PortVlans>(r#"{"vlans":[1]}"#).unwrap_err();
    }

    #[test]
    fn a_vlan_is_in_one_list_and_the_pvid_in_any() {
        PortVlans::default().check().unwrap();
        PortVlans::access(vlan(7)).check().unwrap();
        PortVlans::trunk([vlan(7), vlan(8)]).check().unwrap();
        let both = PortVlans { tagged: BTreeSet::from([vlan(7)]), ..PortVlans::access(vlan(7)) };
        assert!(both.check().unwrap_err().to_string().contains("both tagged and untagged"));
        let other = PortVlans { pvid: Some(vlan(9)), ..PortVlans::trunk([vlan(7)]) };
        assert!(other.check().unwrap_err().to_string().contains("one of the port's"));
    }

    #[test]
    fn ranges_are_read_and_only_differences_sent() {
        let info = |vid, flags| AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid });
        let mut message = MessageBuilder::default().index(3).build();
        message.attributes.push(LinkAttribute::AfSpecBridge(vec![
            info(1, BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged),
            info(10, BridgeVlanInfoFlags::RangeBegin),
            info(12, BridgeVlanInfoFlags::RangeEnd),
            info(20, BridgeVlanInfoFlags::empty()),
        ]));
        let found = PortVlans::of(3, std::slice::from_ref(&message));
        assert_eq!(found.pvid, Some(vlan(1)));
        assert_eq!(found.tagged, BTreeSet::from([10, 11, 12, 20].map(vlan)));
        assert_eq!(PortVlans::of(4, &[message]), PortVlans::default());

        assert_eq!(found.changes(&found, "p", 3).len(), 0);
        let calls = |asked: &PortVlans| -> Vec<_> {
            asked.changes(&found, "p", 3).iter().map(|sent| change::call(&sent.message)).collect()
        };
        assert_eq!(calls(&PortVlans::access(vlan(5))), ["RTM_SETLINK", "RTM_DELLINK"]);
        assert_eq!(calls(&PortVlans::default()), ["RTM_DELLINK"]);
        assert_eq!(calls(&PortVlans { pvid: None, ..found.clone() }), ["RTM_SETLINK"]);
    }
}
