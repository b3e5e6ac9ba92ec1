//! Control groups: which hierarchy this host has, limits that are enforced or are an error, and figures.
//!
//! [`Hierarchies`] says what this host has (v1, v2, or both side by side); [`CgroupLimits`] says what a container may
//! use; [`settings`] turns the one into interface files of the other, for [`Cgroup::apply`] and for LXC's
//! configuration alike; a [`Cgroup`] is one group in every hierarchy at once.
//!
//! Only groups beneath `docklet/` are ever made, changed or removed. v1 needs a kernel from 5.11 on, where
//! limits always hold for the groups beneath too (`memory.use_hierarchy`).
//!
//! See the kernel's `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/`.

mod apply;
mod beneath;
mod controller;
mod cpu_set;
mod events;
mod freeze;
mod group;
mod hierarchy;
mod huge_page;
mod io_device;
mod io_limits;
mod io_usage;
mod kill;
mod limit;
mod limit_events;
mod limits;
mod members;
mod membership;
mod meter;
mod migration;
mod path;
mod pressure;
mod probe;
mod quota;
mod read_back;
mod remedy;
#[cfg(test)]
mod samples;
mod setting;
mod settings;
mod usage;
mod walk;
mod weight;

pub use controller::{Controller, Version};
pub use cpu_set::CpuSet;
pub use group::Cgroup;
pub use hierarchy::{Hierarchies, Hierarchy, Layout};
pub use huge_page::HugePageSize;
pub use io_device::IoDevice;
pub use io_limits::IoLimits;
pub use io_usage::IoUsage;
pub use limit::Limit;
pub use limit_events::{HitLimit, LimitEvent, LimitEvents};
pub use limits::CgroupLimits;
pub use meter::CgroupMeter;
pub(crate) use migration::wait_for_migrations;
pub(crate) use path::CgroupPath;
pub use pressure::Pressure;
pub use probe::HierarchyProbe;
pub use quota::CpuQuota;
pub use setting::Setting;
pub use settings::settings;
pub use usage::CgroupUsage;
pub use weight::{CpuWeight, IoWeight, Weight};
