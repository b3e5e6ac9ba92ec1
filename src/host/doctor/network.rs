//! What of networks the report tells: links that the kernel can make (`man 8 ip-link`), and other firewalls.

use super::{Check, blocking, check, machine};
use crate::error::{Error, Result};
use crate::name::LinkName;
use crate::net::{
    Bridge, BridgeSpec, GreKey, LinkOwner, Mtu, Netlink, NetworkNamespace, Tunnel, TunnelSpec,
    TunnelTopology, Vni, forward_obstacles,
};
use crate::paths::Paths;

/// How the names of docklet's links begin.
const LINKS: &str = "dk";

pub(super) fn firewall() -> [Check; 2] {
    [
        check("nftables", machine::program("nft", "nftables")).optional(),
        check("forwarding", forwarding()).optional(),
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

/// Makes links of each kind, in a network namespace of their own, with which they go.
pub(super) async fn links(paths: &Paths) -> Vec<Check> {
    let path = paths.locks().join(format!(".probe-{}", std::process::id()));
    let pinned = path.clone();
    let mut checks = match blocking(move || NetworkNamespace::ensure(&pinned)).await {
        Ok(namespace) => in_namespace(&namespace).await,
        Err(error) => vec![check("bridge", Err(error))],
    };
    if let Err(error) = blocking(move || NetworkNamespace::remove(&path)).await {
        checks.push(check("network namespaces", Err(error)));
    }
    checks
}

async fn in_namespace(namespace: &NetworkNamespace) -> Vec<Check> {
    let bridge = bridge(namespace).await;
    let (vxlan, gre) = match &bridge {
        Ok(_) => (
            tunnel(namespace, vxlan_mesh()).await.map(|()| "networks can span hosts by VXLAN".to_owned()),
            tunnel(namespace, gre_mesh()).await.map(|()| "networks can span hosts by GRE".to_owned()),
        ),
        Err(_) => (Err(no_bridge()), Err(no_bridge())),
    };
    let made = bridge.map(|()| "a bridge can be made".to_owned());
    // What only networks that span hosts need.
    vec![check("bridge", made), check("vxlan", vxlan).optional(), check("gre", gre).optional()]
}

fn no_bridge() -> Error {
    Error::Unsupported {
        what: "a tunnel".to_owned(),
        needs: "it is a port of a bridge, which cannot be made either".to_owned(),
    }
}

async fn bridge(namespace: &NetworkNamespace) -> Result<()> {
    let netlink = Netlink::connect_in(namespace).await?;
    let bridge = |name: &str| Ok::<_, Error>(BridgeSpec::new(LinkName::new(name)?, owner()?));
    // As large as what fits through any tunnel to other hosts, which would be beyond the second one.
    let probe = BridgeSpec { mtu: Some(Mtu::new(1400)?), ..bridge("dkprobe")? };
    let beyond = BridgeSpec { addresses: vec!["192.0.2.1/24".parse()?], ..bridge("dkbeyond")? };
    for spec in [probe, beyond] {
        Bridge::ensure(&netlink, &spec).await?;
    }
    Ok(())
}

async fn tunnel(namespace: &NetworkNamespace, topology: Result<TunnelTopology>) -> Result<()> {
    let netlink = Netlink::connect_in(namespace).await?;
    let spec = TunnelSpec::new(
        owner()?,
        LinkName::new("dkprobe")?,
        std::net::Ipv4Addr::new(192, 0, 2, 1).into(),
        topology?,
    );
    Tunnel::ensure(&netlink, &spec).await?;
    Tunnel::remove(&netlink, &spec.owner).await
}

fn hosts() -> [std::net::IpAddr; 2] {
    [1, 2].map(|host| std::net::Ipv4Addr::new(192, 0, 2, host).into())
}

fn vxlan_mesh() -> Result<TunnelTopology> {
    Ok(TunnelTopology::vxlan_mesh(Vni::new(1)?, hosts()))
}

fn gre_mesh() -> Result<TunnelTopology> {
    Ok(TunnelTopology::GreMesh { key: GreKey::new(1)?, hosts: hosts().into() })
}

fn owner() -> Result<LinkOwner> {
    LinkOwner::new("docklet:probe")
}
