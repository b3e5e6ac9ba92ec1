//! What a person asks for: specifications, as plain data (`man 5 lxc.container.conf` for what becomes of a container's).

mod attachment;
mod container;
mod forward;
mod isolation;
mod network;
mod privilege;
mod resolver;
mod restart;
mod span;

pub use attachment::Attachment;
pub use container::{ContainerSpec, Init, RootVolume};
pub use forward::Forward;
pub use isolation::IsolationSpec;
pub use network::NetworkSpec;
pub use privilege::Privilege;
pub use resolver::Resolver;
pub use restart::{Restart, RestartPolicy};
pub use span::Span;
