//! Typed, validated, crash-safe building blocks for machines that run system containers.
//!
//! What a host object should be is stated as plain typed data, checked before the host is touched,
//! made real idempotently, kept through crashes and reboots, and removed without a trace.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use docklet::cgroup::{CgroupLimits, CpuQuota, Limit};
//! use docklet::host::{ContainerSpec, Host, Init, NetworkSpec};
//! use docklet::lxc::{Exec, HaltSignal, MountEntry};
//! use docklet::name::ContainerName;
//! use docklet::paths::Paths;
//!
//! # async fn example() -> docklet::Result<()> {
//! let host = Host::open(Paths::from_env()?).await?;
//! host.recover().await?; // after a crash or a reboot: whatever was written down is made true again
//!
//! let image = "busybox".parse()?;
//! host.images().ensure(&image, |root| {
//!     root.copy_file("/bin/busybox", "bin/busybox", 0o755)?; // Debian's busybox-static
//!     root.symlink("bin/sh", "busybox")?;
//!     root.symlink("sbin/init", "../bin/busybox")?;
//!     root.write_file("etc/inittab", "::sysinit:/bin/busybox true\n", 0o644)
//! })?;
//! let lan = NetworkSpec { nat: true, ..NetworkSpec::new("lan".parse()?, "10.89.0.1/24".parse()?) };
//! host.ensure_network(&lan).await?;
//!
//! let web: ContainerName = "web".parse()?;
//! let info = host
//!     .launch(ContainerSpec {
//!         limits: CgroupLimits {
//!             memory_max_bytes: Some(Limit::At(128 << 20)),
//!             memory_swap_max_bytes: Some(Limit::At(0)), // swap included: none
//!             cpu: Some(CpuQuota::cores(0.5)?),
//!             pids_max: Some(Limit::At(64)),
//!             ..CgroupLimits::default()
//!         },
//!         mounts: vec![MountEntry::bind("/srv/data", "/srv/data")?.create_dir()],
//!         init: Init { halt_signal: HaltSignal::USER2, ..Init::default() }, // what busybox's init listens to
//!         ..ContainerSpec::new(web.clone(), image).in_network(lan.name.clone())
//!     })
//!     .await?; // it runs now, and its limits have been read back
//! assert!(info.address().is_some()); // the host picked one, and keeps it for the container's life
//!
//! let output = host.exec(&web, Exec::new(["/bin/sh", "-c", "echo hello"])).await?;
//! assert!(output.status.success() && output.stdout == b"hello\n");
//!
//! host.stop(&web, Duration::from_secs(10)).await?; // its data stays; `start` runs it again
//! host.remove(&web).await?; // now it is gone
//! host.remove_network(&lan.name).await
//! # }
//! ```
//!
//! # Modules, in reading order
//!
//! Who only wants containers needs [`host`] and the plain data it takes; every other module can be used alone.
//!
//! | module | what it is | it needs |
//! |---|---|---|
//! | [`error`] | the one [`Error`]; [`error::Chain`] prints it with its causes | – |
//! | [`name`] | names and ids that are valid by construction | – |
//! | [`idmap`] | which ids of the host a container's ids are | – |
//! | [`paths`] | where files live under `FS_PREFIX` | a directory that can be written |
//! | [`storage`] | images, volumes and overlays: bytes on disk become a root | root; Linux 5.9, `loop`, `overlay`, and `ext4`, `xfs` or `btrfs` with its `mkfs`; `lvm` for volumes on LVM; 5.19 for id maps |
//! | [`net`] | bridges, veth pairs, tunnels, a firewall, namespaces, pools of addresses | `CAP_NET_ADMIN`, `CAP_SYS_ADMIN`; Linux 4.20, `bridge`, `veth`; `nft` for the firewall; tokio |
//! | [`cgroup`] | which hierarchy this host has; limits and figures | root; a controller for each limit; on v1 Linux 5.11 |
//! | [`lxc`] | a typed configuration, and one container's life | root; liblxc 5.0 with `lxc-start` and `lxc-attach` |
//! | [`host`] | the composition of all of it on one machine | all of the above |
//! | [`state`] | what the machines of a cluster agree on | a directory that can be written, or etcd 3.4; tokio |
//! | `cluster` (feature) | what many machines are to do: decisions, and masters that make them; not yet whole | [`state`] |
//!
//! [`host::Doctor`] reports which of it a host has, and the remedy for what it has not.
//!
//! # Conventions
//!
//! - **Verbs.** `ensure` makes it, or adopts what is already as asked; `open` wants it to exist; `apply` changes it in
//!   place; `remove` is content if it is gone. What exists otherwise than asked is [`Error::Differs`], and is left alone.
//! - **Nothing is undone by dropping a value.** A container outlives the process that launched it. Dropping a future of
//!   [`host`] does not stop the operation either.
//! - **Units.** Fields that end in `_bytes` are bytes, in `_us` microseconds (in JSON), in `_seconds` seconds, in `_s` and
//!   `_unix_ms` seconds and milliseconds since 1970 (UTC); all other times are [`Duration`](std::time::Duration)s, in JSON `{"secs": 1, "nanos": 0}`. Bytes of a stream are an array of numbers in JSON. No limit is `None` (left to the kernel) or [`cgroup::Limit::Max`], never 0 or -1.
//! - **Errors.** One type, with variants by what a caller can do: mend the input ([`Error::Invalid`]), make what is missing
//!   ([`Error::NotFound`]), try later ([`Error::Busy`], [`Error::Unavailable`]), read again ([`Error::Conflict`],
//!   [`Error::OutcomeUnknown`]), change the host ([`Error::Unsupported`]), call
//!   [`Host::recover`](host::Host::recover) ([`Error::LeftBehind`]). The message names the object, and the remedy if there
//!   is one.
//! - **Blocking.** [`net`] (but for its firewall and namespaces), [`host`] and [`state`] are asynchronous and want a tokio runtime
//!   with I/O and time enabled; the other modules' calls block. Methods of [`Host`](host::Host) that are not `async` only
//!   read small files.
//! - **Plain data.** What goes in can be read from JSON with serde, under the same checks; what comes out can be written.
//! - **Tracing.** Operations are `tracing` spans with their object's name or id. The library prints nothing.
//!
//! # What it does not do
//!
//! - Nothing restarts by itself: a container that ends stays down until somebody calls [`host::Host::start`] or
//!   [`host::Host::recover`], or a process runs [`host::Host::supervise`].
//! - A [privileged](host::Privilege) container holds nobody whom you do not trust: its root is root outside. The default is
//!   another: each container has ids of its own.
//! - What does not carry docklet's mark is never changed or removed, whatever its name is. Two exceptions: NAT, port
//!   forwards and what networks may reach switch `net.ipv4.ip_forward` on for the whole host, and do not take it back; and
//!   [`Bridge::attach_foreign`](net::Bridge::attach_foreign) makes a link of others a port, when it is told to.
//! - No virtual machines, no live migration, no image registry, no runtime of its own (liblxc is the runtime).
//!
//! # Features
//!
//! By default the library builds with Rust and a C compiler alone. `etcd` adds the store on etcd; its build needs `protoc` (Debian:
//! `protobuf-compiler`). `cluster` adds what decides over many machines. `full` is all there is.

pub mod cgroup;
#[cfg(feature = "cluster")]
pub mod cluster;
pub mod error;
pub mod host;
pub mod idmap;
pub mod lxc;
pub mod name;
pub mod net;
pub mod paths;
pub mod state;
pub mod storage;
mod sys;

pub use error::{Error, Result};
