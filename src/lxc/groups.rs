//! The control groups of a container (`man 5 lxc.container.conf`, "CGROUP").

use crate::cgroup::Cgroup;
use crate::error::Result;

/// The group with the limits, beneath the container's.
pub(crate) const PAYLOAD: &str = "payload";
/// The group with the processes, beneath that: the container's root mounts this one and no higher one.
pub(crate) const INNER: &str = "inner";
/// The group of LXC's monitor, beneath the container's.
pub(crate) const MONITOR: &str = "monitor";
/// The group in which LXC's programs begin, beneath the container's.
const START: &str = "start";

/// A container's group, and those in it.
#[derive(Debug, Clone)]
pub(crate) struct Groups {
    pub(crate) all: Cgroup,
    pub(crate) start: Cgroup,
    pub(crate) monitor: Cgroup,
    pub(crate) payload: Cgroup,
    pub(crate) inner: Cgroup,
}

impl Groups {
    pub(crate) fn beneath(all: Cgroup) -> Result<Self> {
        let payload = all.child(PAYLOAD)?;
        Ok(Self {
            start: all.child(START)?,
            monitor: all.child(MONITOR)?,
            inner: payload.child(INNER)?,
            payload,
            all,
        })
    }
}
