//! How long processes waited for something (`Documentation/accounting/psi.rst`).

use std::time::Duration;

use serde::Serialize;

/// For how long processes of a group waited for one thing, since the group was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Pressure {
    /// At least one of them.
    pub some: Duration,
    /// All of them at once. Zero for processors on kernels before 5.13, which do not say.
    pub full: Duration,
}

impl Pressure {
    /// `some avg10=0.00 avg60=0.00 avg300=0.00 total=12345`, in microseconds; and a line `full …`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let total = |word: &str| {
            let line = text.lines().find(|line| line.split(' ').next() == Some(word))?;
            line.rsplit_once("total=")?.1.trim().parse().ok().map(Duration::from_micros)
        };
        Some(Self { some: total("some")?, full: total("full").unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read() {
        let text = "some avg10=0.12 avg60=0.00 avg300=0.00 total=1500\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let expected = Pressure { some: Duration::from_micros(1500), full: Duration::from_micros(7) };
        assert_eq!(Pressure::parse(text), Some(expected));
        assert_eq!(Pressure::parse("some avg10=0.00 total=3\n").unwrap().full, Duration::ZERO);
        assert_eq!(Pressure::parse(""), None);
    }
}
