//! What of networks the report tells: links that the kernel can make (`man 8 ip-link`), other firewalls, and others' subnets.

use super::{Check, blocking, check, machine};
use crate::error::{Error, Result};
use crate::host::record::{NetworkRecord, Records};
use crate::name::LinkName;
use crate::net::{Bridge, BridgeSpec, LinkOwner, Netlink, NetworkNamespace, forward_obstacles};
use crate::paths::Paths;

/// How the names of docklet's links begin.
const LINKS: &str = "dk";

/// What is looked at without making anything.
pub(super) fn at_rest() -> [Check; 4] {
    [
        check("nftables", machine::program("nft", "nftables")).optional(),
        check("forwarding", forwarding()).optional(),
        // What only networks that span hosts need. A tunnel that is made to see whether it can be would load its module, and with
        // GRE's each network namespace has three links more from then on.
        check("vxlan", machine::module("vxlan", "CONFIG_VXLAN")).optional(),
        check("gre", machine::module("ip_gre", "CONFIG_NET_IPGRE")).optional(),
    ]
}

/// No rule of docklet's can undo that another firewall drops a packet.
fn forwarding() -> Result<String> {
    let obstacles = forward_obstacles(LINKS)?;
    let Some(obstacle) = obstacles.iter().find(|obstacle| !obstacle.names_bridges) else {
        let allowed =
            obstacles.first().map(|obstacle| format!("; {obstacle} has rules for docklet's bridges"));
        return Ok(format!("no other firewall is in the way{}", allowed.unwrap_or_default()));
    };
    let family = obstacle.chain.split(' ').next().unwrap_or_default();
    let needs = match (family, obstacle.chain.ends_with(" filter FORWARD")) {
        ("ip" | "ip6", true) => {
            let program = match obstacle.program {
                "nft" => format!("{family}tables"),
                legacy => legacy.to_owned(),
            };
            format!(
                "run `{program} -I FORWARD -i {LINKS}+ -j ACCEPT` and `{program} -I FORWARD -o {LINKS}+ -j ACCEPT` after \
                 each boot; with Docker, in its chain DOCKER-USER instead of FORWARD"
            )
        }
        _ => format!(
            "let its owner add the rules `iifname \"{LINKS}*\" accept` and `oifname \"{LINKS}*\" accept`, or, with firewalld, \
             put docklet's bridges in a zone that forwards"
        ),
    };
    let what =
        format!("reaching the outside from a container, past {obstacle}, which drops what is forwarded,");
    Err(Error::Unsupported { what, needs })
}

/// Makes a bridge, in a network namespace of its own, with which it goes.
pub(super) async fn links(paths: &Paths) -> Vec<Check> {
    let path = paths.locks().join(format!(".probe-{}", std::process::id()));
    let pinned = path.clone();
    let made = match blocking(move || NetworkNamespace::ensure(&pinned)).await {
        Ok(namespace) => bridge(&namespace).await,
        Err(error) => Err(error),
    };
    let mut checks = vec![check("bridge", made)];
    if let Err(error) = blocking(move || NetworkNamespace::remove(&path)).await {
        checks.push(check("network namespaces", Err(error)));
    }
    checks
}

async fn bridge(namespace: &NetworkNamespace) -> Result<String> {
    let netlink = Netlink::connect_in(namespace).await?;
    let spec = BridgeSpec::new(LinkName::new("dkprobe")?, LinkOwner::new("docklet:probe")?);
    Bridge::ensure(&netlink, &spec).await.map(|_| "a bridge can be made".to_owned())
}

/// Whether each of this prefix's networks has its subnets to itself.
pub(super) async fn subnets(paths: &Paths) -> Check {
    let records = Records::<NetworkRecord>::new(paths.networks());
    check("subnets", alone(&records).await).optional()
}

async fn alone(records: &Records<NetworkRecord>) -> Result<String> {
    let listing = records.all()?;
    let netlink = Netlink::connect().await?;
    for record in &listing.records {
        if let Some((subnet, rival)) = record.rival(&netlink).await? {
            return Err(Error::Unsupported {
                what: format!("network `{}` with the subnet {subnet}, while {rival},", record.spec.name),
                needs: rival.remedy(),
            });
        }
    }
    Ok(match listing.records.len() {
        0 => "there is no network yet".to_owned(),
        count => format!("{count} of docklet's networks, and nothing else of the host in them"),
    })
}
