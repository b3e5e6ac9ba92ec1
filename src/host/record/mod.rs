//! What is written down before the host is touched: one manifest per container, one record per network, and
//! one of what holds for all networks.
//!
//! A manifest is on the disk, durably (`man 2 fsync`), before the first object of its container is made, and is the last
//! thing that goes. It records the objects' names as they were chosen, so that a later version finds what this one made.

mod ending;
mod files;
mod isolation;
mod manifest;
mod memory;
mod network;

pub(crate) use ending::Ending;
pub(crate) use files::{Listing, Records};
pub(crate) use isolation::IsolationRecord;
pub(crate) use manifest::{Former, FormerInterfaces, Manifest, Objects, Part, Phase, Port};
pub(crate) use network::NetworkRecord;
