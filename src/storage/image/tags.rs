//! The names of images: one small file for each, replaced whole (`man 2 rename`, `man 2 link`).
//!
//! A name's file tells all that starting a container takes, so nothing else is read for it.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::name::{ImageName, UserName};
use crate::storage::image::content::ImageContent;
use crate::storage::image::staging::{Staging, entries, modified};
use crate::sys::directory::make_directory;
use crate::sys::file::{publish, read_if_exists, remove_file, sync_parent};
use crate::sys::record;

/// The version of the files' format that this version writes. It reads no other yet.
const FORMAT: u32 = 1;

/// What a name stands for, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tag {
    format: u32,
    pub(crate) content: ImageContent,
    pub(crate) owner: Option<UserName>,
    pub(crate) shared_with: BTreeSet<UserName>,
    /// When the name was given, in seconds since 1970.
    pub(crate) created_s: u64,
    pub(crate) description: String,
}

impl Tag {
    pub(crate) fn new(content: ImageContent, owner: Option<UserName>, description: String) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            format: FORMAT,
            content,
            owner,
            shared_with: BTreeSet::new(),
            created_s: now.as_secs(),
            description,
        }
    }

    /// Whether `user` may start containers from it.
    pub(crate) fn is_for(&self, user: &UserName) -> bool {
        self.owner.as_ref().is_none_or(|owner| owner == user) || self.shared_with.contains(user)
    }
}

/// The names of an image store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tags {
    directory: PathBuf,
}

impl Tags {
    /// The names beneath `directory`, whose part for them is made if it is missing.
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        let tags = Self { directory: directory.join("tags") };
        make_directory(&tags.directory)?;
        Ok(tags)
    }

    fn path(&self, name: &ImageName) -> PathBuf {
        self.directory.join(format!("{name}.json"))
    }

    /// What `name` stands for; `None` if there is no such image.
    pub(crate) fn get(&self, name: &ImageName) -> Result<Option<Tag>> {
        let path = self.path(name);
        let Some(text) = read_if_exists(&path)? else { return Ok(None) };
        record::decode(&text, &path, FORMAT).map(Some)
    }

    /// What `name` stands for.
    pub(crate) fn open(&self, name: &ImageName) -> Result<Tag> {
        self.get(name)?.ok_or_else(|| Error::NotFound { what: what(name) })
    }

    /// Gives a name, durably. One that is taken is [`Error::Differs`], unless `replace` says otherwise.
    pub(crate) fn publish(
        &self,
        staging: &mut Staging,
        name: &ImageName,
        tag: &Tag,
        replace: bool,
    ) -> Result<()> {
        let path = self.path(name);
        let new = staging.global_path()?;
        publish(&new, &record::encode(tag, &path)?)?;
        if replace {
            fs::rename(&new, &path).map_err(|e| Error::os("rename", path.display(), e))?;
        } else {
            // Of two hosts that give one name only one succeeds.
            match fs::hard_link(&new, &path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(exists(name)),
                result => result.map_err(|e| Error::os("link", path.display(), e))?,
            }
        }
        sync_parent(&path)
    }

    /// Takes a name away, durably. One that is gone is taken away.
    pub(crate) fn remove(&self, name: &ImageName) -> Result<()> {
        let path = self.path(name);
        remove_file(&path)?;
        sync_parent(&path)
    }

    /// All names, sorted.
    pub(crate) fn names(&self) -> Result<Vec<ImageName>> {
        // Away with the file server that it is on: that is not a store without names, whose layers nobody needs.
        if modified(&self.directory).is_none() {
            let what = format!("directory of images' names `{}`", self.directory.display());
            return Err(Error::NotFound { what });
        }
        let stems = entries(&self.directory)?;
        // A file of another name is none of ours.
        let mut names: Vec<ImageName> =
            stems.iter().filter_map(|name| ImageName::new(name.strip_suffix(".json")?).ok()).collect();
        names.sort();
        Ok(names)
    }

    /// All names with what they stand for. One that goes meanwhile is left out.
    pub(crate) fn all(&self) -> Result<Vec<(ImageName, Tag)>> {
        let mut tags = Vec::new();
        for name in self.names()? {
            tags.extend(self.get(&name)?.map(|tag| (name, tag)));
        }
        Ok(tags)
    }
}

pub(crate) fn what(name: &ImageName) -> String {
    format!("image `{name}`")
}

/// The name is taken.
pub(crate) fn exists(name: &ImageName) -> Error {
    Error::Differs {
        what: what(name),
        difference: "a new one was to get that name: choose another, or set `ImageOptions::replace`"
            .to_owned(),
    }
}
