//! Pools of addresses, for networks as in RFC 4632 (IPv4) and RFC 4291 (IPv6). Pure data: no kernel, no clock, no chance.
//!
//! A [`RangePool`] gives each tenant a network of its own out of a large one; an [`AddressPool`] gives the addresses
//! of one network to its hosts. Nothing is given to two at once. Both are values: they can be cloned, compared, and
//! kept as JSON, whose size goes by what is taken, not by how large the network is. Who shares one reads it, takes from it and
//! writes it back if nobody else has written it meanwhile (compare and swap); the same calls on the same pool have the
//! same result everywhere. Who has what is for the caller to write down, in the same step.
//!
//! ```
//! use docklet::net::pool::{AddressPool, RangePool};
//!
//! let mut cluster = RangePool::new("10.64.0.0/10".parse()?);
//! let tenant = cluster.take(24)?;
//! assert_eq!(tenant.to_string(), "10.64.0.0/24");
//! assert_eq!(cluster.take(20)?.to_string(), "10.64.16.0/20"); // never overlaps
//!
//! let mut addresses = AddressPool::new(tenant, tenant.first_host())?; // the gateway is not given out
//! addresses.reserve("10.64.0.2".parse().unwrap())?;
//! let web = addresses.take()?;
//! assert_eq!(tenant.interface(web)?.to_string(), "10.64.0.3/24");
//! addresses.release(web)?;
//! assert_ne!(addresses.take()?, web); // it rests for now
//! addresses.release(web).unwrap_err(); // and was released already
//!
//! let stored = serde_json::to_string(&addresses).unwrap();
//! assert_eq!(serde_json::from_str::<AddressPool>(&stored).unwrap(), addresses);
//! # Ok::<(), docklet::Error>(())
//! ```
//!
//! # What was released rests
//!
//! Neighbours still know who had an address, and connections to it may still arrive. So what is released is the last to be
//! given out again: as long as anything else fits, not before as many more were released as the type's documentation
//! says. It is a matter of order, not of time, and never makes a pool look full. Asked for by name
//! (`take_exactly`), it is given at once.
//!
//! # In JSON
//!
//! Runs of addresses are one entry, first to last. What is read is checked like what is taken: a pool that gives something to
//! two, or what is not its own, is refused.

mod address_pool;
mod block;
mod family;
mod free_blocks;
#[cfg(test)]
mod properties;
mod range_pool;
mod run;
mod runs;

pub use address_pool::AddressPool;
pub use range_pool::RangePool;

/// The version of the pools' JSON that this version writes. It reads this and older ones.
const FORMAT: u32 = 1;

/// Refuses what a newer version wrote: it may mean something by it that this one does not know.
fn check_format(what: &'static str, format: u32) -> crate::Result<()> {
    if (1..=FORMAT).contains(&format) {
        return Ok(());
    }
    Err(crate::Error::invalid(what, format!("format {format}"), format!("this version reads 1 to {FORMAT}")))
}
