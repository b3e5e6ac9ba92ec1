//! Ports of the transport protocols (`man 5 services`).

use std::fmt;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One port of one protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The protocol.
    pub protocol: Protocol,
    /// 1 to 65535.
    pub number: NonZeroU16,
}

impl Port {
    /// The TCP port `number`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is 0.
    pub fn tcp(number: u16) -> Result<Self> {
        Ok(Self { protocol: Protocol::Tcp, number: self::number(number)? })
    }

    /// The UDP port `number`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is 0.
    pub fn udp(number: u16) -> Result<Self> {
        Ok(Self { protocol: Protocol::Udp, number: self::number(number)? })
    }
}

/// The number of a port.
pub(crate) fn number(number: u16) -> Result<NonZeroU16> {
    NonZeroU16::new(number).ok_or_else(|| Error::invalid("port", number.to_string(), "must be 1 to 65535"))
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}", self.protocol, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_small_json() {
        let port: Port = serde_json::from_str(r#"{"protocol": "udp", "number": 53}"#).unwrap();
        assert_eq!(port.to_string(), "udp port 53");
        assert_eq!((port, Port::tcp(53).unwrap().protocol), (Port::udp(53).unwrap(), Protocol::Tcp));
        for zero in [Port::tcp(0), Port::udp(0)] {
            assert_eq!(zero.unwrap_err().to_string(), "invalid port \"0\": must be 1 to 65535");
        }
        for bad in [r#"{"protocol": "tcp", "number": 0}"#, r#"{"protocol": "sctp", "number": 1}"#] {
            serde_json::from_str::<Port>(bad).unwrap_err();
        }
    }
}
