//! The one nftables table of all networks (`man 8 nft`): what it says is computed from all records.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::record::NetworkRecord;
use crate::name::LinkName;
use crate::net::NatNetwork;

impl Host {
    /// Makes the table say what the records say, leaving out one network. Tells whether it said something else.
    pub(crate) async fn apply_nat(&self, without: Option<&NetworkRecord>) -> Result<bool> {
        let listing = self.inner.networks.all()?;
        let mut wanted = Vec::new();
        let mut known: BTreeSet<LinkName> = without.iter().map(|record| record.bridge.clone()).collect();
        for record in listing.records {
            if record.spec.nat && !known.contains(&record.bridge) {
                let subnets = record.spec.subnets()?.into_iter();
                wanted.extend(subnets.map(|subnet| NatNetwork { subnet, bridge: record.bridge.clone() }));
            }
            known.insert(record.bridge);
        }
        let all_known = listing.unreadable.is_empty();
        let nat = self.inner.nat.clone();
        self.blocking(move || {
            if !all_known {
                // What a record that cannot be read stands for goes on working.
                let current = match nat.current() {
                    // Somebody else wrote into it: nothing in it can be relied on.
                    Ok(None) | Err(Error::Differs { .. }) => Vec::new(),
                    Ok(Some(current)) => current,
                    Err(error) => return Err(error),
                };
                wanted.extend(current.into_iter().filter(|network| !known.contains(&network.bridge)));
            }
            nat.apply(&wanted)
        })
        .await
    }

    /// Finds out that `nft` cannot be run before there is a network: taking one back would need it, too.
    pub(super) async fn check_nat(&self) -> Result<()> {
        let nat = self.inner.nat.clone();
        self.blocking(move || match nat.current() {
            // Somebody else wrote into it: it will be made anew.
            Ok(_) | Err(Error::Differs { .. }) => Ok(()),
            Err(error) => Err(error),
        })
        .await
    }
}
