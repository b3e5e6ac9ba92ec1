//! The host tier: every test drives the real kernel, in namespaces and under a prefix of its own.
//!
//! They need root and fail without it. Run them with `make test-host`.

#![allow(clippy::print_stderr, reason = "tests speak to the person who runs them")]

#[path = "../../examples/parts/busybox.rs"]
mod busybox;
mod host;
mod cgroup;
mod kernel;
mod sandbox;
