//! A port of the host that leads to a container (`man 8 nft`, "NAT STATEMENTS"). Plain data.

use std::net::IpAddr;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::net::{Protocol, port_number};

/// A published port: who connects to the host there, from outside or from any container, reaches the container.
///
/// ```
/// use docklet::host::{Attachment, Forward};
///
/// let web = Forward::tcp(8080, 80)?; // port 8080 of the host leads to port 80 of the container
/// let inner = Forward { host_address: Some([192, 0, 2, 1].into()), ..Forward::udp(53, 5353)? };
/// let eth0 = Attachment { forwards: vec![web, inner], ..Attachment::new("lan".parse()?) };
/// # Ok::<(), docklet::Error>(())
/// ```
///
/// No two containers of a host have the same one, and a process of the host that listens there is an error. It stays
/// published while the container is stopped. When it is withdrawn, or leads elsewhere, its connections end. Not reached under `127.0.0.1` and `::1`: see [`PortForward`](crate::net::PortForward).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// The protocol.
    pub protocol: Protocol,
    /// The address of the host under which it is reached; then of this family alone. Default: all of them but loopback, of
    /// each family in which the interface has an address.
    #[serde(default)]
    pub host_address: Option<IpAddr>,
    /// The port there, 1 to 65535.
    pub host_port: NonZeroU16,
    /// The container's port, 1 to 65535.
    pub port: NonZeroU16,
}

impl Forward {
    /// TCP: the port `host_port` of the host, under any of its addresses, leads to `port`.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if one of them is 0.
    pub fn tcp(host_port: u16, port: u16) -> Result<Self> {
        Self::new(Protocol::Tcp, host_port, port)
    }

    /// UDP: the port `host_port` of the host, under any of its addresses, leads to `port`.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if one of them is 0.
    pub fn udp(host_port: u16, port: u16) -> Result<Self> {
        Self::new(Protocol::Udp, host_port, port)
    }

    fn new(protocol: Protocol, host_port: u16, port: u16) -> Result<Self> {
        let (host_port, port) = (port_number(host_port)?, port_number(port)?);
        Ok(Self { protocol, host_address: None, host_port, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_numbers_but_0() {
        let written = r#"{"protocol": "tcp", "host_port": 8080, "port": 80}"#;
        assert_eq!(Forward::tcp(8080, 80).unwrap(), serde_json::from_str(written).unwrap());
        assert_eq!(Forward::udp(8080, 80).unwrap().protocol, Protocol::Udp);
        for bad in [Forward::tcp(0, 80), Forward::udp(8080, 0)] {
            assert_eq!(bad.unwrap_err().to_string(), "invalid port \"0\": must be 1 to 65535");
        }
    }
}
