//! The signal that asks a container's init to shut down (`man 7 signal`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The first real-time signal that the C library leaves to programs; `SIGRTMIN+3` means this one plus 3.
const REAL_TIME_MIN: i32 = 34;

const NAMED: &[(&str, i32)] = &[
    ("SIGHUP", libc::SIGHUP),
    ("SIGINT", libc::SIGINT),
    ("SIGQUIT", libc::SIGQUIT),
    ("SIGUSR1", libc::SIGUSR1),
    ("SIGUSR2", libc::SIGUSR2),
    ("SIGTERM", libc::SIGTERM),
    ("SIGPWR", libc::SIGPWR),
];

/// The signal that makes an init shut down. In JSON and as text: `"SIGPWR"`, `"SIGRTMIN+3"`.
///
/// | init | signal |
/// |---|---|
/// | sysvinit, OpenRC, LXC's default | `SIGPWR` |
/// | systemd | `SIGRTMIN+3` |
/// | busybox init | `SIGUSR2` (power off); `SIGTERM` means reboot |
/// | a single program | often `SIGTERM` |
///
/// An init that has no handler for it does not get it: the kernel shields a namespace's first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HaltSignal(i32);

impl HaltSignal {
    /// `SIGPWR`, LXC's default.
    pub const POWER: Self = Self(libc::SIGPWR);
    /// `SIGTERM`.
    pub const TERMINATE: Self = Self(libc::SIGTERM);
    /// `SIGUSR2`: busybox's init powers off.
    pub const USER2: Self = Self(libc::SIGUSR2);
    /// `SIGRTMIN+3`: systemd halts.
    pub const SYSTEMD_HALT: Self = Self(REAL_TIME_MIN + 3);

    /// The signal of a number, by the same rules as by name.
    pub(crate) fn from_number(number: u32) -> Result<Self> {
        let signal = i32::try_from(number).ok().filter(|number| {
            NAMED.iter().any(|(_, named)| named == number)
                || (REAL_TIME_MIN..=REAL_TIME_MIN + 30).contains(number)
        });
        signal.map_or_else(|| number.to_string().parse(), |number| Ok(Self(number)))
    }

    /// The number, as this kernel and C library count.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }
}

impl Default for HaltSignal {
    fn default() -> Self {
        Self::POWER
    }
}

impl fmt::Display for HaltSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMED.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "SIGRTMIN+{}", self.0 - REAL_TIME_MIN),
        }
    }
}

impl FromStr for HaltSignal {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some((_, number)) = NAMED.iter().find(|(name, _)| *name == text) {
            return Ok(Self(*number));
        }
        if let Some(offset) = text.strip_prefix("SIGRTMIN+").and_then(|digits| digits.parse::<i32>().ok())
            && (0..=30).contains(&offset)
        {
            return Ok(Self(REAL_TIME_MIN + offset));
        }
        let names: Vec<_> = NAMED.iter().map(|(name, _)| *name).collect();
        Err(Error::invalid(
            "halt signal",
            text,
            format!("must be one of {} or SIGRTMIN+0 to SIGRTMIN+30", names.join(", ")),
        ))
    }
}

impl TryFrom<String> for HaltSignal {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<HaltSignal> for String {
    fn from(signal: HaltSignal) -> Self {
        signal.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for text in ["SIGPWR", "SIGTERM", "SIGUSR2", "SIGRTMIN+3", "SIGRTMIN+0"] {
            assert_eq!(text.parse::<HaltSignal>().unwrap().to_string(), text);
        }
        assert_eq!(HaltSignal::SYSTEMD_HALT.to_string(), "SIGRTMIN+3");
        for bad in ["SIGKILL", "9", "sigterm", "SIGRTMIN+31", "SIGRTMIN+-1", ""] {
            assert!(bad.parse::<HaltSignal>().unwrap_err().to_string().contains("halt signal"), "{bad}");
        }
    }
}
