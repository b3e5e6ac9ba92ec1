//! Containers whose root plays with their end of the pair.

use docklet::Error;
use docklet::net::{NetworkNamespace, Veth};

use crate::kernel;
use crate::netns::inside;
use crate::sandbox::Sandbox;
use crate::veth::{Network, ping, spec};

/// Root inside has taken the address that was given, and has put so many others there that nobody would read them all.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn a_container_with_many_addresses_is_told_briefly() {
    let sandbox = Sandbox::new();
    let network = Network::new(&sandbox).await;
    let net = network.net.clone();
    let pin = network.pin(1);
    let namespace = NetworkNamespace::ensure(&pin).unwrap();
    Veth::ensure(&net, &namespace, &spec(1)).await.unwrap();
    let batch = sandbox.dir("ip").join("batch");
    let lines = (0..3000).map(|n| format!("address add 10.9.{}.{}/32 dev eth0\n", n / 250, n % 250));
    let text = format!("address flush dev eth0\n{}", lines.collect::<String>());
    std::fs::write(&batch, text).unwrap();
    inside(&pin, || kernel::run("ip", ["-batch", batch.to_str().unwrap()]));
    let error = Veth::ensure(&net, &namespace, &spec(1)).await.unwrap_err();
    assert!(matches!(error, Error::Differs { .. }), "{error}");
    let message = error.to_string();
    assert!(message.len() < 1000 && message.contains("10.9.0.0/32"), "{} bytes", message.len());
    // Asked to, docklet puts it right.
    Veth::apply(&net, &namespace, &spec(1)).await.unwrap();
    Veth::ensure(&net, &namespace, &spec(1)).await.unwrap();
    assert!(ping(&pin, "10.0.0.1"));
    Veth::remove(&net, &spec(1).name, &spec(1).owner).await.unwrap();
    NetworkNamespace::remove(&pin).unwrap();
    network.end().await;
}
