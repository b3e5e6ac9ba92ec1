//! Rates of traffic (`man 8 tc`, `man 8 tc-tbf`), in bits per second.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::net::Mtu;

/// What may pass at once is what passes in 10 ms.
const BURSTS_PER_SECOND: u64 = 100;
/// A packet that would wait longer than 50 ms is dropped.
const QUEUES_PER_SECOND: u64 = 20;
/// The least that may pass at once, in bytes: at low rates some whole packets.
const LEAST_BURST: u64 = 16 << 10;
/// What a packet may have before its payload, in bytes: hardware header and a VLAN tag.
const HEADERS: u64 = 18;

/// A rate in bits per second, headers of the link layer (14 bytes a packet) included: 8,000 to 400,000,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Rate(u64);

impl Rate {
    /// Checks `bits_per_second` and takes it.
    ///
    /// # Errors
    /// [`Error::Invalid`] outside of 8 kbit/s to 400 Gbit/s: below one waits for minutes, and above the kernel cannot
    /// count the queue's bytes.
    pub fn new(bits_per_second: u64) -> Result<Self> {
        if (8_000..=400_000_000_000).contains(&bits_per_second) {
            Ok(Self(bits_per_second))
        } else {
            let value = format!("{bits_per_second} bit/s");
            Err(Error::invalid("rate", value, "must be 8 kbit/s to 400 Gbit/s"))
        }
    }

    /// `megabits` million bits per second.
    ///
    /// # Errors
    /// [`Error::Invalid`] as [`Rate::new`].
    pub fn megabits(megabits: u64) -> Result<Self> {
        Self::new(megabits.saturating_mul(1_000_000))
    }

    /// The rate in bits per second.
    #[must_use]
    pub fn bits_per_second(self) -> u64 {
        self.0
    }

    /// What the kernel counts in.
    pub(super) fn bytes_per_second(self) -> u64 {
        self.0 / 8
    }

    /// How many bytes may pass at once on a link with `mtu`: those of 10 ms, 16 KiB, or one packet, whichever is most.
    pub(super) fn burst_bytes(self, mtu: Mtu) -> u32 {
        let packet = u64::from(mtu.bytes()) + HEADERS;
        let bytes = (self.bytes_per_second() / BURSTS_PER_SECOND).max(LEAST_BURST).max(packet);
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// How many bytes may wait: those of 50 ms, and a burst.
    pub(super) fn queue_bytes(self, mtu: Mtu) -> u32 {
        let bytes = self.bytes_per_second() / QUEUES_PER_SECOND + u64::from(self.burst_bytes(mtu));
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bit/s", self.0)
    }
}

impl TryFrom<u64> for Rate {
    type Error = Error;

    fn try_from(bits_per_second: u64) -> Result<Self> {
        Self::new(bits_per_second)
    }
}

impl From<Rate> for u64 {
    fn from(rate: Rate) -> Self {
        rate.0
    }
}

/// How much may go through a port. A direction left `None` has no limit.
///
/// At most 10 ms of the rate, or 16 KiB, pass at once; what waits longer than 50 ms is dropped, which tells TCP to slow
/// down. Whoever is root inside cannot change it: it is at the host's end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimits {
    /// What the container receives: a token bucket at the host's end (`man 8 tc-tbf`).
    pub to_container: Option<Rate>,
    /// What the container sends. It takes a further device of the host's: what comes in at the host's end goes through
    /// the token bucket of an intermediate functional block (`ifb`) before the bridge sees it.
    pub from_container: Option<Rate>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_checked() {
        for good in [8_000, 1_000_000, 400_000_000_000] {
            assert_eq!(Rate::new(good).unwrap().bits_per_second(), good);
        }
        for bad in [0, 7_999, 400_000_000_001, u64::MAX] {
            let message = Rate::new(bad).unwrap_err().to_string();
            assert!(message.starts_with("invalid rate") && message.contains("8 kbit/s"), "{message}");
        }
        assert_eq!(Rate::megabits(10).unwrap().to_string(), "10000000 bit/s");
        Rate::megabits(u64::MAX).unwrap_err();
        assert_eq!(serde_json::from_str::<Rate>("8000").unwrap(), Rate(8_000));
        serde_json::from_str::<Rate>("1").unwrap_err();
    }

    #[test]
    fn a_packet_always_passes_and_nothing_overflows() {
        for bits in [8_000, 1_000_000, 10_000_000_000, 400_000_000_000] {
            for mtu in [68, 1500, 65_535] {
                let (rate, mtu) = (Rate(bits), Mtu::new(mtu).unwrap());
                assert!(rate.burst_bytes(mtu) >= mtu.bytes() + 18);
                assert!(rate.queue_bytes(mtu) > rate.burst_bytes(mtu) && rate.queue_bytes(mtu) < u32::MAX);
            }
        }
        let (rate, mtu) = (Rate(80_000_000), Mtu::new(1500).unwrap());
        assert_eq!((rate.burst_bytes(mtu), rate.queue_bytes(mtu)), (100_000, 600_000));
    }
}
