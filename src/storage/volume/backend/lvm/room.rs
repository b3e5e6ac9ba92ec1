//! What a volume group and its thin pool may still promise (`man 7 lvmthin` on data and metadata space).

use super::command;
use super::report::{Group, Layout, LogicalVolume};
use super::volumes::LogicalVolumes;
use crate::error::{Error, Result};
use crate::storage::volume::space::{ProvisionRatio, Room};
use crate::storage::volume::spec::Allocation;

/// Above this a thin pool's metadata has no room for another volume, in hundredths of a percent.
const METADATA_FULL: u32 = 9_000;

impl LogicalVolumes {
    pub(super) fn room(&self, group: &Group, allocation: Allocation) -> Result<Room> {
        if allocation == Allocation::Preallocated {
            return Ok(Room { available_bytes: group.free_bytes, ..Room::default() });
        }
        let pool = self.thin_pool(group)?;
        let mut room = Room { held_bytes: pool.held_bytes(), ..Room::default() };
        room.available_bytes = pool.size_bytes.saturating_sub(room.held_bytes);
        let thin =
            group.volumes.iter().filter(|found| found.layout == Layout::Thin && found.pool == pool.name);
        room.promised_bytes = thin.map(|found| found.size_bytes).fold(0, u64::saturating_add);
        Ok(room)
    }

    fn thin_pool<'a>(&self, group: &'a Group) -> Result<&'a LogicalVolume> {
        let Some(name) = &self.record.lvm.thin_pool else { return Err(self.no_thin_pool()) };
        group.find(name.as_str()).filter(|found| found.layout == Layout::ThinPool).ok_or_else(|| {
            Error::NotFound { what: format!("thin pool `{name}` in volume group `{}`", group.name) }
        })
    }

    pub(super) fn no_thin_pool(&self) -> Error {
        Error::Unsupported {
            what: format!("a sparse volume in volume group `{}`", self.record.lvm.volume_group),
            needs: "it takes a thin pool: name one in `LvmPool::thin_pool`, or ask for a preallocated volume"
                .to_owned(),
        }
    }

    /// Whether `bytes` more can be promised. What is preallocated is taken at once, whatever the pool's ratio.
    pub(super) fn check_room(
        &self,
        group: &Group,
        allocation: Allocation,
        bytes: u64,
        what: &str,
    ) -> Result<()> {
        let room = self.room(group, allocation)?;
        if allocation == Allocation::Preallocated {
            return room.check(ProvisionRatio::ONE, bytes, what);
        }
        if let Some(full) = self.thin_pool(group)?.metadata.filter(|full| *full >= METADATA_FULL) {
            return Err(Error::NoSpace {
                what: format!(
                    "{what} (the thin pool's metadata is {} % full; see `lvextend --poolmetadatasize`)",
                    full / 100
                ),
                needed_bytes: bytes,
                available_bytes: 0,
            });
        }
        room.check(self.directory.ratio, bytes, what)
    }

    /// A command's failure, as [`Error::NoSpace`] about `what` if that is what it is.
    pub(super) fn full_or(&self, error: Error, group: &Group, needed_bytes: u64, what: &str) -> Error {
        if !command::is_full(&error) {
            return error;
        }
        Error::NoSpace { what: format!("{what} ({error})"), needed_bytes, available_bytes: group.free_bytes }
    }
}
