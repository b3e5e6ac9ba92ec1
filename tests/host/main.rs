//! The host tier: every test drives the real kernel, in namespaces and under a prefix of its own.
//!
//! They need root and fail without it. Run them with `make test-host`.

#![allow(clippy::print_stderr, reason = "tests speak to the person who runs them")]

mod bridge;
mod bridge_ports;
mod bridge_vlan;
#[path = "../../examples/parts/busybox.rs"]
mod busybox;
mod cgroup;
mod cgroup_limits;
mod config_text;
mod connections;
mod container;
mod debian;
mod debian_configs;
mod doctor;
mod exec;
mod exec_terminal;
mod firewall;
mod firewall_hostile;
mod firewall_traffic;
#[path = "../../src/net/traffic/frames.rs"]
mod frames;
mod groups;
mod host;
mod image;
mod image_documents;
mod image_formats;
mod image_hostile;
mod image_import;
mod image_store;
mod isolation;
mod kernel;
mod large_input;
mod layer;
mod layer_hostile;
mod layer_trees;
mod listing;
mod mount_entry;
mod mount_kinds;
mod mount_races;
mod netns;
mod overlay;
mod overlay_changes;
mod overlay_hostile;
mod overlay_mapped;
mod overlay_read_only;
mod packet;
mod port_batch;
mod port_rate;
mod sandbox;
mod scripted_root;
mod sixteen;
mod source_guard;
mod storage_errors;
mod store_full;
mod tar_archive;
mod tree;
mod tunnel;
mod unprivileged;
mod user_namespace;
mod vanishing;
mod veth;
mod veth_hostile;
mod volume;
