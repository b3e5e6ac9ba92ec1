//! A volume that is made but not there yet.

use crate::error::{Error, Result};
use crate::storage::volume::backend::Draft;
use crate::storage::volume::handle::{MountedVolume, Volume};
use crate::storage::volume::pool::{VolumePool, what};
use crate::storage::volume::spec::VolumeSpec;

/// A volume that is ready but has no name yet. Dropping it leaves nothing.
#[derive(Debug)]
#[must_use = "the volume does not exist before it is published"]
pub struct PreparedVolume {
    pub(super) pool: VolumePool,
    pub(super) spec: VolumeSpec,
    /// `None` if a volume of that name was there.
    pub(super) draft: Option<Draft>,
}

impl PreparedVolume {
    /// The volume, under its name and on the disk; or adopts the one of that name if it is as asked.
    ///
    /// # Errors
    /// As [`VolumePool::ensure`].
    pub fn publish(self) -> Result<Volume> {
        self.make().map(|(volume, _)| volume)
    }

    /// As [`PreparedVolume::publish`] and [`Volume::mount`], with nobody in between: what is mounted then is known to be in
    /// nobody else's use, which saves looking around, on a host with many volumes above all.
    ///
    /// # Errors
    /// As those two.
    pub fn mount(self) -> Result<MountedVolume> {
        match self.make()? {
            (volume, Some(draft)) => volume.mount_new(&draft),
            (volume, None) => volume.mount(),
        }
    }

    /// The volume, and the draft that it was made of, if it was made here.
    fn make(mut self) -> Result<(Volume, Option<Draft>)> {
        let backend = self.pool.backend();
        for _ in 0..16 {
            let draft = match self.draft.take() {
                Some(draft) => draft,
                None => match backend.look(&self.spec.name)? {
                    Some(found) => return Ok((self.pool.adopt(&self.spec, &found)?, None)),
                    // The one that was there is gone.
                    None => backend.prepare(&self.spec)?,
                },
            };
            // False: another process was faster. Look at what it made.
            if backend.publish(&draft, &self.spec)? {
                return Ok((Volume::new(self.pool.clone(), self.spec), Some(draft)));
            }
        }
        Err(Error::Busy {
            what: what(&self.spec.name),
            reason: "others create and remove it all the time".to_owned(),
        })
    }
}
