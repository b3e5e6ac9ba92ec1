//! Which subnets and addresses can be had (RFC 4632).

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::error::{Error, Result};
use crate::host::NetworkSpec;
use crate::host::record::NetworkRecord;
use crate::net::{InterfaceAddress, allocate};

impl NetworkRecord {
    /// The address that was asked for, if it can be had, or a free one.
    pub(crate) fn pick_address(
        &self,
        asked: Option<IpAddr>,
        taken: &BTreeSet<IpAddr>,
    ) -> Result<InterfaceAddress> {
        let (subnet, gateway) = (self.spec.subnet()?, self.spec.gateway.ip());
        let Some(address) = asked else { return subnet.interface(allocate(subnet, gateway, taken)?) };
        if address == gateway {
            return Err(Error::invalid("address", address.to_string(), "is the network's gateway"));
        }
        if taken.contains(&address) {
            return Err(Error::Busy {
                what: format!("address {address}"),
                reason: format!("another container of network `{}` has it", self.spec.name),
            });
        }
        subnet.interface(address)
    }
}

pub(super) fn refuse_overlap(spec: &NetworkSpec, existing: &[NetworkRecord]) -> Result<()> {
    let subnet = spec.subnet()?;
    for record in existing {
        let other = record.spec.subnet()?;
        if subnet.net().contains(&other.net()) || other.net().contains(&subnet.net()) {
            let rule = format!("its subnet overlaps {other} of network `{}`", record.spec.name);
            return Err(Error::invalid("network gateway", spec.gateway.to_string(), rule));
        }
    }
    Ok(())
}
