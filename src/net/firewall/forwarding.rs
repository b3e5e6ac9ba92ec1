//! Whether the host forwards packets (kernel `Documentation/networking/ip-sysctl.rst`, `ip_forward`, `forwarding`).

use std::path::Path;

use super::Ruleset;
use crate::error::{Error, Result};
use crate::sys::file;

const IPV4: &str = "/proc/sys/net/ipv4/ip_forward";
const IPV6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

impl Ruleset {
    /// Whether the host forwards IPv6, if anything here needs it: that is its owner's to switch on.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if it does not.
    pub fn check_forwarding(&self) -> Result<()> {
        if forwards(self, false) { require_ipv6() } else { Ok(()) }
    }
}

/// Switches on IPv4 forwarding, if `ruleset` needs it.
pub(super) fn switch_on(ruleset: &Ruleset) -> Result<()> {
    if forwards(ruleset, true) { allow_ipv4() } else { Ok(()) }
}

/// Whether anything of the family passes through the host.
fn forwards(ruleset: &Ruleset, ipv4: bool) -> bool {
    let routed = ruleset.networks.iter().any(|network| {
        let of_family = |is_ipv4: bool| is_ipv4 == ipv4;
        let own = network.subnets.iter().any(|subnet| of_family(subnet.net().addr().is_ipv4()));
        own && (network.masquerade
            || network.reach.iter().any(|subnet| of_family(subnet.net().addr().is_ipv4()))
            || network.admit.iter().any(|net| of_family(net.addr().is_ipv4())))
    });
    routed || ruleset.forwards.iter().any(|forward| forward.to.is_ipv4() == ipv4)
}

fn allow_ipv4() -> Result<()> {
    let switch = Path::new(IPV4);
    if file::read(switch)?.trim() == "0" {
        file::write_interface(switch, "1")?;
        tracing::debug!("net.ipv4.ip_forward switched on");
    }
    Ok(())
}

fn require_ipv6() -> Result<()> {
    let needs = match file::read_if_exists(Path::new(IPV6))?.as_deref().map(str::trim) {
        Some("0") => {
            "the host does not forward IPv6: set net.ipv6.conf.all.forwarding=1 with sysctl, and accept_ra=2 for an \
             interface that gets its address or route by router advertisement"
        }
        Some(_) => return Ok(()),
        None => "the kernel has no IPv6, or was booted with ipv6.disable=1",
    };
    Err(Error::Unsupported { what: "forwarding for an IPv6 network".to_owned(), needs: needs.to_owned() })
}
