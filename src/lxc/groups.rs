//! The control groups of a container (`man 5 lxc.container.conf`, "CGROUP").

use crate::cgroup::{Cgroup, CgroupLimits, Limit};
use crate::error::Result;

/// The group with the limits, beneath the container's.
pub(crate) const PAYLOAD: &str = "payload";
/// The group with the processes, beneath that: the container's root mounts this one and no higher one.
pub(crate) const INNER: &str = "inner";
/// The group of LXC's monitor, beneath the container's.
pub(crate) const MONITOR: &str = "monitor";
/// The group in which LXC's programs begin, beneath the container's.
const START: &str = "start";
/// How much memory LXC's programs may take beside a payload whose limits were changed: the monitor, and one for each command.
const ROOM_BYTES: u64 = 256 << 20;
/// How many processes.
const ROOM_PIDS: u64 = 1024;

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

    /// Gives the payload other limits while it runs. LXC does not hear of them: when the container reboots from inside, it makes the
    /// payload's group anew, with the limits of the start. So the group above, which stays, bounds what would harm the host.
    pub(crate) fn change_limits(&self, limits: &CgroupLimits) -> Result<()> {
        let (memory, swap, pids) = (limits.memory_max_bytes, limits.memory_swap_max_bytes, limits.pids_max);
        let bounds = |memory, swap, pids, others| CgroupLimits {
            memory_max_bytes: memory,
            memory_swap_max_bytes: swap,
            pids_max: pids,
            ..others
        };
        // Out of the way first: it never binds before the payload's own limits do.
        let free = |limit: Option<Limit>| limit.and(Some(Limit::Max));
        self.all.apply(&bounds(free(memory), free(swap), free(pids), CgroupLimits::default()))?;
        self.payload.apply(limits)?;
        let (memory, pids) = (with_room(memory, ROOM_BYTES), with_room(pids, ROOM_PIDS));
        // With the weights, as `weigh` gives them.
        self.all.apply(&bounds(memory, swap, pids, limits.weights()))
    }

    /// Gives the container the weights among `limits`: the payload's group has none beside it but the monitor's, the container's has
    /// the other containers'.
    pub(crate) fn weigh(&self, limits: &CgroupLimits) -> Result<()> {
        let weights = limits.weights();
        if weights == CgroupLimits::default() { Ok(()) } else { self.all.apply(&weights) }
    }
}

fn with_room(limit: Option<Limit>, room: u64) -> Option<Limit> {
    limit.map(|limit| match limit {
        Limit::At(most) => Limit::At(most.saturating_add(room)),
        Limit::Max => Limit::Max,
    })
}
