//! A volume that is made but not there yet.

use std::fs::File;

use crate::error::{Error, Result};
use crate::storage::volume::file::VolumeFile;
use crate::storage::volume::handle::Volume;
use crate::storage::volume::pool::{VolumePool, what};
use crate::storage::volume::spec::VolumeSpec;

/// A volume that is ready but has no name yet. Dropping it leaves nothing.
#[derive(Debug)]
#[must_use = "the volume does not exist before it is published"]
pub struct PreparedVolume {
    pub(super) pool: VolumePool,
    pub(super) spec: VolumeSpec,
    /// `None` if a volume of that name was there.
    pub(super) file: Option<File>,
}

impl PreparedVolume {
    /// The volume's file, under its name and on the disk; or adopts the one of that name if it is as asked.
    ///
    /// # Errors
    /// As [`VolumePool::ensure`].
    pub fn publish(mut self) -> Result<Volume> {
        for _ in 0..16 {
            if let Some(found) = VolumeFile::look(&self.pool.file(&self.spec.name), &what(&self.spec.name))? {
                return self.pool.adopt(&self.spec, &found);
            }
            let file = match self.file.take() {
                Some(file) => file,
                // The one that was there is gone.
                None => self.pool.format(&self.spec)?,
            };
            if self.pool.name(&file, &self.spec)? {
                return Ok(Volume::new(self.pool, self.spec));
            }
            // Another process was faster: look at what it made.
            self.file = Some(file);
        }
        Err(Error::Busy {
            what: what(&self.spec.name),
            reason: "others create and remove it all the time".to_owned(),
        })
    }
}
