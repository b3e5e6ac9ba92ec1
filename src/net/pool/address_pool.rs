//! The addresses of one network, given to its hosts one by one (RFC 791, RFC 4291).

use std::collections::VecDeque;
use std::net::IpAddr;

use serde::{Deserialize, Serialize, Serializer};

use super::block::Block;
use super::family::{Family, number};
use super::run::Run;
use super::runs::Runs;
use super::{FORMAT, check_format};
use crate::error::{Error, Result};
use crate::net::Subnet;

/// How many released addresses rest.
pub(super) const RESTING: usize = 256;

/// Gives out the addresses of one network, none of them twice.
///
/// Never given out: the network's own address (IPv6: the routers' anycast address), the broadcast address of IPv4, the
/// gateway, and what is reserved. Of the others the lowest that is free is next. Of the released ones the last 256 rest: they are
/// given out again when nothing else is free, the one that was released longest ago first.
///
/// In JSON:
///
/// ```
/// # use docklet::net::pool::AddressPool;
/// let mut pool = AddressPool::new("10.0.0.0/24".parse()?, "10.0.0.1".parse().unwrap())?;
/// pool.reserve("10.0.0.2".parse().unwrap())?;
/// let first = pool.take()?;
/// for _ in 0..200 {
///     pool.take()?;
/// }
/// pool.release(first)?;
/// assert_eq!(
///     serde_json::to_string(&pool).unwrap(),
///     r#"{"format":1,"subnet":"10.0.0.0/24","gateway":"10.0.0.1","reserved":["10.0.0.2"],"taken":["10.0.0.4-10.0.0.203"],"resting":["10.0.0.3"]}"#
/// );
/// # Ok::<(), docklet::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Stored")]
pub struct AddressPool {
    subnet: Subnet,
    gateway: IpAddr,
    reserved: Runs,
    taken: Runs,
    /// Released, the longest ago first.
    resting: VecDeque<u128>,
    /// All of the above, and the addresses that no host can have: what is not next.
    used: Runs,
}

/// As it stands in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    subnet: Subnet,
    gateway: IpAddr,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    reserved: Vec<Run>,
    #[serde(default)]
    taken: Vec<Run>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    resting: Vec<IpAddr>,
}

impl AddressPool {
    /// A pool of all addresses of `subnet` but `gateway`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `gateway` is not a host's address in `subnet`.
    pub fn new(subnet: Subnet, gateway: IpAddr) -> Result<Self> {
        subnet.interface(gateway)?;
        let mut used = Runs::default();
        let all = Block::from(subnet);
        used.insert(all.first(), all.first());
        if subnet.net().addr().is_ipv4() {
            used.insert(all.last(), all.last());
        }
        used.insert(number(gateway), number(gateway));
        let (reserved, taken, resting) = (Runs::default(), Runs::default(), VecDeque::new());
        Ok(Self { subnet, gateway, reserved, taken, resting, used })
    }

    /// The network that the addresses are of.
    #[must_use]
    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// The gateway's address.
    #[must_use]
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// What is taken, in order.
    pub fn taken(&self) -> impl Iterator<Item = IpAddr> {
        let family = self.family();
        self.taken.iter().flat_map(|(first, last)| first..=last).map(move |number| family.address(number))
    }

    /// Whether this address is taken.
    #[must_use]
    pub fn is_taken(&self, ip: IpAddr) -> bool {
        self.subnet.contains(ip) && self.taken.contains(number(ip))
    }

    /// Takes an address.
    ///
    /// # Errors
    /// [`Error::Busy`] if all are taken.
    pub fn take(&mut self) -> Result<IpAddr> {
        let all = Block::from(self.subnet);
        let next = match self.used.first_gap(all.first()).filter(|next| *next <= all.last()) {
            Some(next) => {
                self.used.insert(next, next);
                Some(next)
            }
            None => self.resting.pop_front(),
        };
        let next = next.ok_or_else(|| Error::Busy {
            what: format!("subnet {}", self.subnet),
            reason: "all its addresses are taken".to_owned(),
        })?;
        self.taken.insert(next, next);
        Ok(self.family().address(next))
    }

    /// Takes this address and no other.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not a host's address in the network, is the gateway's, or is reserved; [`Error::Busy`] if
    /// it is taken.
    pub fn take_exactly(&mut self, ip: IpAddr) -> Result<()> {
        let number = self.check(ip)?;
        if self.reserved.contains(number) {
            return Err(Error::invalid("address", ip.to_string(), "is reserved"));
        }
        self.occupy(ip)?;
        self.taken.insert(number, number);
        Ok(())
    }

    /// Keeps this address from being given out, for good. Repeating it changes nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not a host's address in the network, or is the gateway's; [`Error::Busy`] if it is taken.
    pub fn reserve(&mut self, ip: IpAddr) -> Result<()> {
        let number = self.check(ip)?;
        if !self.reserved.contains(number) {
            self.occupy(ip)?;
            self.reserved.insert(number, number);
        }
        Ok(())
    }

    /// Gives back an address that was taken.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not taken, because it was released already or never taken; [`Error::Invalid`] if it is
    /// not a host's address in the network, or is the gateway's.
    pub fn release(&mut self, ip: IpAddr) -> Result<()> {
        let number = self.check(ip)?;
        if !self.taken.remove(number) {
            return Err(Error::NotFound { what: format!("taken {}", self.what(ip)) });
        }
        self.resting.push_back(number);
        if self.resting.len() > RESTING
            && let Some(rested) = self.resting.pop_front()
        {
            self.used.remove(rested);
        }
        Ok(())
    }

    fn family(&self) -> Family {
        Family::of(self.gateway)
    }

    fn what(&self, ip: IpAddr) -> String {
        format!("address {ip} of subnet {}", self.subnet)
    }

    /// The number of an address that a host can have.
    fn check(&self, ip: IpAddr) -> Result<u128> {
        self.subnet.interface(ip)?;
        if ip == self.gateway {
            return Err(Error::invalid("address", ip.to_string(), "is the network's gateway"));
        }
        Ok(number(ip))
    }

    /// Makes an address a used one that rests no more.
    fn occupy(&mut self, ip: IpAddr) -> Result<()> {
        let number = number(ip);
        if !self.used.insert(number, number) {
            let at = self.resting.iter().position(|resting| *resting == number);
            at.and_then(|at| self.resting.remove(at))
                .ok_or_else(|| Error::Busy { what: self.what(ip), reason: "it is taken".to_owned() })?;
        }
        Ok(())
    }

    /// Runs as they were stored, now in use.
    fn read_runs(&mut self, stored: Vec<Run>) -> Result<Runs> {
        let (all, mut runs) = (Block::from(self.subnet), Runs::default());
        for run in stored {
            let inside = run
                .numbers(self.family())
                .filter(|(first, last)| all.first() <= *first && *last <= all.last())
                .filter(|(first, last)| self.used.insert(*first, *last) && runs.insert(*first, *last));
            if inside.is_none() {
                let rule = format!("must be hosts of {} that nothing else in the pool has", self.subnet);
                return Err(Error::invalid("addresses", run, rule));
            }
        }
        Ok(runs)
    }
}

impl Serialize for AddressPool {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let family = self.family();
        let runs = |runs: &Runs| runs.iter().map(|ends| Run::new(family, ends)).collect();
        let stored = Stored {
            format: FORMAT,
            subnet: self.subnet,
            gateway: self.gateway,
            reserved: runs(&self.reserved),
            taken: runs(&self.taken),
            resting: self.resting.iter().map(|number| family.address(*number)).collect(),
        };
        stored.serialize(serializer)
    }
}

impl TryFrom<Stored> for AddressPool {
    type Error = Error;

    fn try_from(stored: Stored) -> Result<Self> {
        check_format("address pool", stored.format)?;
        let mut pool = Self::new(stored.subnet, stored.gateway)?;
        pool.reserved = pool.read_runs(stored.reserved)?;
        pool.taken = pool.read_runs(stored.taken)?;
        // Taken first, so that one that is taken, or rests twice, is refused.
        for ip in &stored.resting {
            pool.take_exactly(*ip)?;
        }
        for ip in stored.resting {
            pool.release(ip)?;
        }
        Ok(pool)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn pool(subnet: &str, gateway: &str) -> AddressPool {
        AddressPool::new(subnet.parse().unwrap(), ip(gateway)).unwrap()
    }

    #[test]
    fn only_hosts_addresses_are_given_the_lowest_first() {
        let mut pool = pool("10.0.0.0/29", "10.0.0.2");
        pool.reserve(ip("10.0.0.4")).unwrap();
        pool.reserve(ip("10.0.0.4")).unwrap();
        let given: Vec<_> = std::iter::from_fn(|| pool.take().ok()).map(|ip| ip.to_string()).collect();
        assert_eq!(given, ["10.0.0.1", "10.0.0.3", "10.0.0.5", "10.0.0.6"]);
        let message = pool.take().unwrap_err().to_string();
        assert_eq!(message, "subnet 10.0.0.0/29 is busy: all its addresses are taken");
        assert!(matches!(pool.reserve(ip("10.0.0.5")).unwrap_err(), Error::Busy { .. }));
    }

    #[test]
    fn a_huge_network_is_no_work() {
        let mut pool = pool("fd00::/8", "fd00::1");
        assert_eq!(pool.take().unwrap(), ip("fd00::2"));
        pool.take_exactly(ip("fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")).unwrap();
        assert_eq!(pool.taken().count(), 2);
    }

    #[test]
    fn bad_addresses_are_refused() {
        let mut pool = pool("10.0.0.0/24", "10.0.0.1");
        pool.reserve(ip("10.0.0.9")).unwrap();
        let before = pool.clone();
        for (bad, rule) in [
            ("10.0.1.1", "must be in the network"),
            ("fd00::1", "must be in the network"),
            ("10.0.0.0", "network's own"),
            ("10.0.0.255", "broadcast"),
            ("10.0.0.1", "gateway"),
            ("10.0.0.9", "reserved"),
        ] {
            let error = pool.take_exactly(ip(bad)).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains(rule), "{error}");
            assert!(!pool.is_taken(ip(bad)));
            let error = pool.release(ip(bad)).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }) == (rule != "reserved"), "{error}");
        }
        for bad in ["10.0.1.1", "10.0.0.0", "10.0.0.255", "fd00::1"] {
            let error = AddressPool::new(pool.subnet(), ip(bad)).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{error}");
        }
        let message = pool.release(ip("10.0.0.7")).unwrap_err().to_string();
        assert_eq!(message, "taken address 10.0.0.7 of subnet 10.0.0.0/24 does not exist");
        assert_eq!(pool, before);
    }

    #[test]
    fn what_is_read_is_checked() {
        let good = json!({
            "format": 1, "subnet": "10.0.0.0/24", "gateway": "10.0.0.1", "reserved": ["10.0.0.2-10.0.0.9"],
            "taken": ["10.0.0.10-10.0.0.20", "10.0.0.30"], "resting": ["10.0.0.22", "10.0.0.21"],
        });
        let mut pool: AddressPool = serde_json::from_value(good.clone()).unwrap();
        assert_eq!(pool.take().unwrap(), ip("10.0.0.23"));
        for (field, value, complaint) in [
            ("format", json!(0), "this version reads 1"),
            ("gateway", json!("10.0.0.0"), "network's own"),
            ("gateway", json!("10.0.0.15"), "nothing else in the pool has"),
            ("reserved", json!(["10.0.0.1-10.0.0.2"]), "nothing else in the pool has"),
            ("taken", json!(["10.0.0.9-10.0.0.11"]), "nothing else in the pool has"),
            ("taken", json!(["10.0.0.11", "10.0.0.10-10.0.0.12"]), "nothing else in the pool has"),
            ("taken", json!(["10.0.0.250-10.0.0.255"]), "must be hosts"),
            ("taken", json!(["10.0.0.0"]), "must be hosts"),
            ("taken", json!(["9.0.0.0-11.0.0.0"]), "must be hosts"),
            ("taken", json!(["10.0.0.12-10.0.0.11"]), "the first and the last"),
            ("taken", json!(["::-ffff::"]), "must be hosts"),
            ("resting", json!(["10.0.0.30"]), "it is taken"),
            ("resting", json!(["10.0.0.31", "10.0.0.31"]), "it is taken"),
            ("resting", json!(["10.0.0.2"]), "reserved"),
            ("resting", json!(["10.0.1.2"]), "must be in the network"),
            ("owner", json!("me"), "unknown field"),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            let error = serde_json::from_value::<AddressPool>(bad).unwrap_err().to_string();
            assert!(error.contains(complaint), "{field}: {error}");
        }
    }
}
