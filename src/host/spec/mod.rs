//! What a person asks for: specifications, as plain data (`man 5 lxc.container.conf` for what becomes of a container's).

mod attachment;
mod container;
mod network;
mod resolver;

pub use attachment::Attachment;
pub use container::{ContainerSpec, Init, RootVolume};
pub use network::NetworkSpec;
pub use resolver::Resolver;
