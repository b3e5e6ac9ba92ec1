//! A bridge, a network namespace with a wire to it, and a ping from one to the other. Needs root; leaves nothing.
//!
//! ```text
//! cargo run --example bridge
//! ```

#![allow(clippy::print_stderr, reason = "an example speaks to the person who runs it")]

#[macro_use]
#[path = "parts/say.rs"]
mod say;

use std::error::Error;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use docklet::error::Chain;
use docklet::name::LinkName;
use docklet::net::{Bridge, BridgeSpec, LinkOwner, Netlink, NetworkNamespace, Veth, VethSpec};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bridge: {}", Chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let id = std::process::id();
    let bridge = BridgeSpec {
        addresses: vec!["10.213.0.1/24".parse()?],
        ..BridgeSpec::new(
            LinkName::new(format!("dkbr{id}"))?,
            LinkOwner::new(format!("docklet-example/{id}/bridge"))?,
        )
    };
    let veth = VethSpec {
        addresses: vec!["10.213.0.2/24".parse()?],
        gateways: vec!["10.213.0.1".parse()?],
        ..VethSpec::new(
            LinkName::new(format!("dkve{id}"))?,
            LinkOwner::new(format!("docklet-example/{id}/veth"))?,
            bridge.name.clone(),
            LinkName::new("eth0")?,
        )
    };
    let pin = std::env::temp_dir().join(format!("docklet-example-{id}.netns"));

    let net = Netlink::connect().await?;
    let result = show(&net, &bridge, &veth, &pin).await;

    // Whatever happened: what is gone is removed, so this can be repeated.
    Veth::remove(&net, &veth.name, &veth.owner).await?;
    NetworkNamespace::remove(&pin)?;
    Bridge::remove(&net, &bridge.name, &bridge.owner).await?;
    say!("left behind: {:?}", net.links_owned(&format!("docklet-example/{id}/")).await?);
    result
}

async fn show(net: &Netlink, bridge: &BridgeSpec, veth: &VethSpec, pin: &Path) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    Bridge::ensure(net, bridge).await?;
    say!("{:>10.3?}  bridge {}", start.elapsed(), bridge.name);

    let start = Instant::now();
    let namespace = NetworkNamespace::ensure(pin)?;
    say!("{:>10.3?}  network namespace {}", start.elapsed(), pin.display());

    let start = Instant::now();
    Veth::ensure(net, &namespace, veth).await?;
    say!("{:>10.3?}  veth {} with its other end inside", start.elapsed(), veth.name);

    let start = Instant::now();
    Veth::ensure(net, &namespace, veth).await?;
    say!("{:>10.3?}  the same again: adopted", start.elapsed());

    let inside = format!("--net={}", pin.display());
    let ping =
        Command::new("nsenter").args([&inside, "ping", "-c", "1", "-W", "2", "10.213.0.1"]).output()?;
    say!("{}", String::from_utf8_lossy(&ping.stdout).trim_end());

    // The pair goes with its namespace, sooner than by a deletion.
    let start = Instant::now();
    NetworkNamespace::remove(pin)?;
    drop(namespace);
    net.wait_gone(&veth.name, Duration::from_secs(5)).await?;
    say!("{:>10.3?}  namespace removed, and the veth with it", start.elapsed());
    Ok(())
}
