//! What a bridge does with frames, as the kernel shows it and is told (`man 8 ip-link`, "BRIDGE Type Support").

use rtnetlink::packet_route::link::{BridgeStpState, InfoBridge, InfoData};

use super::link::Link;
use super::{BridgeSpec, VlanId};

/// Hundredths of a second in a second: the unit of a bridge's times (`USER_HZ`).
const HUNDREDTHS: u32 = 100;
/// The kernel's own wait before a port of a bridge with the spanning tree protocol forwards (802.1D).
const STP_DELAY: u32 = 15 * HUNDREDTHS;

/// The settings of a bridge that docklet knows of.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct BridgeSettings {
    stp: bool,
    /// In hundredths of a second.
    forward_delay: u32,
    ageing: u32,
    pub(super) filters_vlans: bool,
    /// 0: none. `None` if this kernel knows nothing of VLANs on bridges.
    pub(super) default_pvid: Option<u16>,
}

impl BridgeSettings {
    /// Of a link that is a bridge.
    pub(super) fn of(link: &Link) -> Self {
        let mut settings = Self::default();
        let Some(InfoData::Bridge(data)) = &link.data else { return settings };
        for setting in data {
            match setting {
                InfoBridge::StpState(state) => settings.stp = *state != BridgeStpState::Disabled,
                InfoBridge::ForwardDelay(delay) => settings.forward_delay = *delay,
                InfoBridge::AgeingTime(ageing) => settings.ageing = *ageing,
                InfoBridge::VlanFiltering(filtering) => settings.filters_vlans = *filtering,
                InfoBridge::VlanDefaultPvid(pvid) => settings.default_pvid = Some(*pvid),
                _ => {}
            }
        }
        settings
    }

    /// What a new bridge is told.
    pub(super) fn at_birth(spec: &BridgeSpec) -> Vec<InfoBridge> {
        let mut data = if spec.stp {
            vec![InfoBridge::ForwardDelay(STP_DELAY), InfoBridge::StpState(BridgeStpState::KernelStp)]
        } else {
            // A port forwards at once.
            vec![InfoBridge::ForwardDelay(0), InfoBridge::StpState(BridgeStpState::Disabled)]
        };
        data.extend(spec.ageing_seconds.map(|seconds| InfoBridge::AgeingTime(seconds * HUNDREDTHS)));
        data.extend(spec.vlan_filtering.iter().flat_map(|vlan| {
            [InfoBridge::VlanDefaultPvid(number(vlan.default_pvid)), InfoBridge::VlanFiltering(true)]
        }));
        data
    }

    /// What a bridge with these settings must be told to be as `spec` says, in as many messages.
    pub(super) fn repairs(self, spec: &BridgeSpec) -> Vec<Vec<InfoBridge>> {
        let mut first = Vec::new();
        let mut second = Vec::new();
        match (self.stp, spec.stp) {
            (false, true) => {
                first.push(InfoBridge::ForwardDelay(STP_DELAY));
                first.push(InfoBridge::StpState(BridgeStpState::KernelStp));
            }
            (true, false) => {
                first.push(InfoBridge::StpState(BridgeStpState::Disabled));
                // The kernel looks at the delay before it switches the protocol off, and wants 2 s with it.
                second.push(InfoBridge::ForwardDelay(0));
            }
            (false, false) if self.forward_delay != 0 => first.push(InfoBridge::ForwardDelay(0)),
            _ => {}
        }
        // The kernel counts in ticks, and may show a hundredth less than it was told.
        let shown = self.ageing.saturating_add(HUNDREDTHS / 2) / HUNDREDTHS;
        if let Some(seconds) = spec.ageing_seconds.filter(|seconds| *seconds != shown) {
            first.push(InfoBridge::AgeingTime(seconds * HUNDREDTHS));
        }
        if let Some(vlan) = spec.vlan_filtering {
            let pvid = number(vlan.default_pvid);
            if self.default_pvid != Some(pvid) {
                first.push(InfoBridge::VlanDefaultPvid(pvid));
            }
        }
        if self.filters_vlans != spec.vlan_filtering.is_some() {
            first.push(InfoBridge::VlanFiltering(spec.vlan_filtering.is_some()));
        }
        [first, second].into_iter().filter(|data| !data.is_empty()).collect()
    }
}

fn number(vlan: Option<VlanId>) -> u16 {
    vlan.map_or(0, VlanId::number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{LinkOwner, VlanFiltering};

    fn spec() -> BridgeSpec {
        BridgeSpec::new("br0".parse().unwrap(), LinkOwner::new("docklet/t").unwrap())
    }

    /// The settings of a bridge that was told `data`.
    fn told(data: Vec<InfoBridge>) -> BridgeSettings {
        BridgeSettings::of(&Link { data: Some(InfoData::Bridge(data)), ..Link::default() })
    }

    #[test]
    fn what_was_asked_needs_no_repair() {
        let all = [
            spec(),
            BridgeSpec { stp: true, ..spec() },
            BridgeSpec { ageing_seconds: Some(30), ..spec() },
            BridgeSpec { vlan_filtering: Some(VlanFiltering { default_pvid: None }), ..spec() },
        ];
        for spec in &all {
            assert_eq!(told(BridgeSettings::at_birth(spec)).repairs(spec), Vec::<Vec<_>>::new(), "{spec:?}");
        }
        for found in &all {
            for asked in &all {
                let mut settings = told(BridgeSettings::at_birth(found));
                for data in settings.repairs(asked) {
                    let now = told(data.clone());
                    // The kernel's rule while the spanning tree protocol is on: 2 s at least.
                    let delays = data.iter().any(|d| matches!(d, InfoBridge::ForwardDelay(_)));
                    assert!(!delays || !settings.stp || now.forward_delay >= 2 * HUNDREDTHS, "{data:?}");
                    if data.iter().any(|d| matches!(d, InfoBridge::StpState(_))) {
                        settings.stp = now.stp;
                    }
                }
                assert_eq!(settings.stp, asked.stp, "{found:?} {asked:?}");
            }
        }
    }

    #[test]
    fn ticks_do_not_count_as_drift() {
        let asked = BridgeSpec { ageing_seconds: Some(300), ..spec() };
        for (shown, repairs) in [(30_000, 0), (29_999, 0), (30_001, 0), (29_900, 1), (0, 1)] {
            let found = told(vec![InfoBridge::AgeingTime(shown)]);
            assert_eq!(found.repairs(&asked).len(), repairs, "{shown}");
        }
    }
}
