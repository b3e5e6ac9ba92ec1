//! Addresses in a row, as text: `10.0.0.2-10.0.0.9`, or `10.0.0.2` for one (RFC 5952 for IPv6).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::family::{Family, number};
use crate::error::{Error, Result};

/// Addresses of one family, from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Run {
    first: IpAddr,
    last: IpAddr,
}

impl Run {
    /// `first` to `last`, which is not less.
    pub(super) fn new(family: Family, (first, last): (u128, u128)) -> Self {
        Self { first: family.address(first), last: family.address(last) }
    }

    /// First and last number, if it is of `family`.
    pub(super) fn numbers(self, family: Family) -> Option<(u128, u128)> {
        (Family::of(self.first) == family).then(|| (number(self.first), number(self.last)))
    }
}

impl TryFrom<String> for Run {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        match (first.parse::<IpAddr>(), last.parse::<IpAddr>()) {
            (Ok(first), Ok(last)) if first.is_ipv4() == last.is_ipv4() && first <= last => {
                Ok(Self { first, last })
            }
            _ => {
                let rule =
                    "must be an address, or the first and the last of several, as in 10.0.0.2-10.0.0.9";
                Err(Error::invalid("addresses", text, rule))
            }
        }
    }
}

impl From<Run> for String {
    fn from(run: Run) -> Self {
        if run.first == run.last { run.first.to_string() } else { format!("{}-{}", run.first, run.last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_text() {
        for good in ["10.0.0.2", "10.0.0.2-10.0.0.9", "fd00::2-fd00::ffff"] {
            assert_eq!(String::from(Run::try_from(good.to_owned()).unwrap()), good);
        }
        for bad in ["", "-", "10.0.0.9-10.0.0.2", "10.0.0.2-", "10.0.0.2-fd00::1", "10.0.0.0/24", "1-2-3"] {
            Run::try_from(bad.to_owned()).unwrap_err();
        }
    }
}
