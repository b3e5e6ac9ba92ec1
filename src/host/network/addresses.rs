//! Which subnets and addresses can be had (RFC 4632).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::host::NetworkSpec;
use crate::host::record::NetworkRecord;
use crate::net::pool::AddressPool;
use crate::net::{InterfaceAddress, Subnet};

impl NetworkRecord {
    /// The addresses of a container's port, one in each subnet: the one that was `asked` for, if it can be had; or the one
    /// that it has had; or a free one.
    pub(super) fn pick_addresses(
        &self,
        asked: &[IpAddr],
        had: &[InterfaceAddress],
        taken: &BTreeSet<IpAddr>,
    ) -> Result<Vec<InterfaceAddress>> {
        let subnets = self.spec.subnets()?;
        for (n, address) in asked.iter().enumerate() {
            let invalid = |rule: String| Err(Error::invalid("address", address.to_string(), rule));
            if asked[..n].iter().any(|earlier| earlier.is_ipv4() == address.is_ipv4()) {
                return invalid("is a second one of its family in one network".to_owned());
            }
            if !subnets.iter().any(|subnet| subnet.first_host().is_ipv4() == address.is_ipv4()) {
                return invalid(format!("network `{}` has no subnet of its family", self.spec.name));
            }
        }
        let gateways = self.spec.gateways.iter().map(|gateway| gateway.ip());
        gateways
            .zip(subnets)
            .map(|(gateway, subnet)| self.pick_address(subnet, gateway, asked, had, taken))
            .collect()
    }

    fn pick_address(
        &self,
        subnet: Subnet,
        gateway: IpAddr,
        asked: &[IpAddr],
        had: &[InterfaceAddress],
        taken: &BTreeSet<IpAddr>,
    ) -> Result<InterfaceAddress> {
        let mut pool = AddressPool::new(subnet, gateway)?;
        for other in taken.iter().filter(|other| subnet.contains(**other)) {
            // What it refuses it does not give out either.
            let _ = pool.take_exactly(*other);
        }
        if let Some(address) = asked.iter().find(|address| address.is_ipv4() == gateway.is_ipv4()) {
            pool.take_exactly(*address)?;
            return subnet.interface(*address);
        }
        let had = had.iter().find(|had| subnet.contains(had.ip()) && pool.take_exactly(had.ip()).is_ok());
        had.map_or_else(|| subnet.interface(pool.take()?), |had| Ok(*had))
    }
}

pub(super) fn refuse_overlap(spec: &NetworkSpec, existing: &[Arc<NetworkRecord>]) -> Result<()> {
    for (gateway, subnet) in spec.gateways.iter().zip(spec.subnets()?) {
        for record in existing {
            for other in record.spec.subnets()? {
                if subnet.net().contains(&other.net()) || other.net().contains(&subnet.net()) {
                    let rule = format!("its subnet overlaps {other} of network `{}`", record.spec.name);
                    return Err(Error::invalid("network gateway", gateway.to_string(), rule));
                }
            }
        }
    }
    Ok(())
}
