//! What a tunnel should be on one host (`man 8 ip-link`).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::TunnelTopology;
use super::arm::Arm;
use crate::error::{Error, Result};
use crate::name::LinkName;
use crate::net::link::MOST_PORTS;
use crate::net::{LinkOwner, Mtu};

/// What one host has of a network over several hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelSpec {
    /// Whose it is. One owner has one tunnel; the names and the hardware addresses of its links are derived from it.
    pub owner: LinkOwner,
    /// The bridge that its links are ports of. It has no other tunnel.
    pub bridge: LinkName,
    /// Which of the hosts this one is: its address on the underlay.
    pub local: IpAddr,
    /// The network, the same on every host.
    pub topology: TunnelTopology,
    /// The largest packet of the network. `None` is the largest that fits.
    #[serde(default)]
    pub mtu: Option<Mtu>,
}

impl TunnelSpec {
    /// The part of the host `local` in `topology`, with the largest MTU that fits.
    #[must_use]
    pub fn new(owner: LinkOwner, bridge: LinkName, local: IpAddr, topology: TunnelTopology) -> Self {
        Self { owner, bridge, local, topology, mtu: None }
    }

    /// Checks what the types alone do not: addresses that hosts can have, of one family, `local` among them, a hub that
    /// is no spoke, a VNI for each spoke alone, a port that is not 0, no more links than a bridge takes. `ensure` does it,
    /// too.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the rule that is broken.
    pub fn check(&self) -> Result<()> {
        self.topology.check(self.local)?;
        let links = self.arms().len();
        if links > MOST_PORTS {
            let rule = format!("a bridge takes at most {MOST_PORTS}");
            return Err(Error::invalid("links of a tunnel", links.to_string(), rule));
        }
        Ok(())
    }

    /// The largest packet of the network over an underlay whose largest is `underlay`: less by 50 bytes (VXLAN over
    /// IPv4), 70 (VXLAN over IPv6), 42 (GRE over IPv4) or 62 (GRE over IPv6). Or what is asked, if that fits.
    ///
    /// # Errors
    /// [`Error::Invalid`] if more is asked than fits, or if the underlay is too small for anything.
    pub fn mtu_over(&self, underlay: Mtu) -> Result<Mtu> {
        let overhead = self.topology.overhead_bytes(self.local);
        let fits = Mtu::new(underlay.bytes().saturating_sub(overhead)).map_err(|_| {
            let rule = format!("leaves nothing of a packet after the tunnel's {overhead} bytes of headers");
            Error::invalid("MTU of the underlay", underlay.to_string(), rule)
        })?;
        match self.mtu {
            Some(asked) if asked > fits => Err(Error::invalid(
                "MTU",
                asked.to_string(),
                format!("must be at most {fits}: the underlay's {underlay} less {overhead} bytes of headers"),
            )),
            asked => Ok(asked.unwrap_or(fits)),
        }
    }

    /// The links that this host needs.
    pub(super) fn arms(&self) -> Vec<Arm> {
        self.topology.arms(self.local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(local: &str, topology: &str, mtu: Option<u32>) -> TunnelSpec {
        let (owner, bridge) = (LinkOwner::new("docklet/t").unwrap(), LinkName::new("br0").unwrap());
        let topology = serde_json::from_str(topology).unwrap();
        let mtu = mtu.map(|mtu| Mtu::new(mtu).unwrap());
        TunnelSpec { mtu, ..TunnelSpec::new(owner, bridge, local.parse().unwrap(), topology) }
    }

    #[test]
    fn the_mtu_is_what_the_headers_leave() {
        let vxlan = |hosts: &str| format!(r#"{{"vxlan_mesh": {{"vni": 1, "hosts": [{hosts:?}]}}}}"#);
        let gre = |hosts: &str| format!(r#"{{"gre_mesh": {{"key": 1, "hosts": [{hosts:?}]}}}}"#);
        let over = |spec: TunnelSpec, underlay: u32| spec.mtu_over(Mtu::new(underlay).unwrap());
        for (local, topology, mtu) in [
            ("10.0.0.1", vxlan("10.0.0.1"), 1450),
            ("fd00::1", vxlan("fd00::1"), 1430),
            ("10.0.0.1", gre("10.0.0.1"), 1458),
            ("fd00::1", gre("fd00::1"), 1438),
        ] {
            assert_eq!(over(spec(local, &topology, None), 1500).unwrap().bytes(), mtu);
            assert_eq!(over(spec(local, &topology, Some(mtu)), 1500).unwrap().bytes(), mtu);
            assert_eq!(over(spec(local, &topology, Some(1280)), 1500).unwrap().bytes(), 1280);
        }
        let error = over(spec("10.0.0.1", &vxlan("10.0.0.1"), Some(1451)), 1500).unwrap_err().to_string();
        assert_eq!(
            error,
            "invalid MTU \"1451\": must be at most 1450: the underlay's 1500 less 50 bytes of headers"
        );
        over(spec("10.0.0.1", &vxlan("10.0.0.1"), None), 117).unwrap_err();
        assert_eq!(over(spec("10.0.0.1", &vxlan("10.0.0.1"), None), 118).unwrap().bytes(), 68);
    }

    #[test]
    fn a_spec_is_plain_data() {
        let json = r#"{"owner": "docklet/t", "bridge": "br0", "local": "10.0.0.1",
            "topology": {"vxlan_star": {"hub": "10.0.0.1", "spokes": {"10.0.0.2": 7}}}}"#;
        let spec: TunnelSpec = serde_json::from_str(json).unwrap();
        spec.check().unwrap();
        let hosts = [1, 2].map(|host| IpAddr::from([10, 0, 0, host]));
        let vni = crate::net::Vni::new(7).unwrap();
        assert_eq!(spec.topology, TunnelTopology::vxlan_star(hosts[0], [(hosts[1], vni)]));
        let mesh = r#"{"vxlan_mesh": {"vni": 7, "hosts": ["10.0.0.1", "10.0.0.2"]}}"#;
        assert_eq!(TunnelTopology::vxlan_mesh(vni, hosts), serde_json::from_str(mesh).unwrap());
        assert_eq!(serde_json::from_str::<TunnelSpec>(&serde_json::to_string(&spec).unwrap()).unwrap(), spec);
        assert!(serde_json::from_str::<TunnelSpec>(&json.replace("\"local\"", "\"locale\"")).is_err());
    }
}
