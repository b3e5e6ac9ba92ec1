//! The tags on a logical volume that say what it is (`man 8 lvm` on tags), and its name.
//!
//! ```text
//! docklet                       made by this library
//! docklet.pool=TAG              of the pool with this tag, which is in its record
//! docklet.volume=NAME           the volume it is, or is a snapshot of
//! docklet.snapshot=NAME         only a snapshot
//! docklet.filesystem=ext4
//! docklet.allocation=sparse
//! docklet.phase=making          made, or growing
//! ```

use super::report::LogicalVolume;
use crate::name::{SnapshotName, VolumeName};
use crate::storage::Digest;
use crate::storage::volume::filesystem::Filesystem;
use crate::storage::volume::spec::Allocation;

/// On everything that is made here.
pub(super) const OURS: &str = "docklet";

const POOL: &str = "docklet.pool=";
const VOLUME: &str = "docklet.volume=";
const SNAPSHOT: &str = "docklet.snapshot=";
const FILESYSTEM: &str = "docklet.filesystem=";
const ALLOCATION: &str = "docklet.allocation=";
const PHASE: &str = "docklet.phase=";

/// How far a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It holds no file system yet: it is no volume.
    Making,
    Made,
    /// It is longer than its file system.
    Growing,
}

impl Phase {
    pub(super) fn tag(self) -> String {
        let word = match self {
            Self::Making => "making",
            Self::Made => "made",
            Self::Growing => "growing",
        };
        format!("{PHASE}{word}")
    }
}

/// What the tags of a pool's logical volume say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marked {
    pub(super) volume: VolumeName,
    pub(super) snapshot: Option<SnapshotName>,
    pub(super) filesystem: Filesystem,
    pub(super) allocation: Allocation,
    pub(super) phase: Phase,
}

impl Marked {
    /// `None` if it is not marked as the pool's with the tag `pool`, in full.
    pub(super) fn read(found: &LogicalVolume, pool: &str) -> Option<Self> {
        let value = |key: &str| found.tags.iter().find_map(|tag| tag.strip_prefix(key));
        if value(POOL)? != pool {
            return None;
        }
        let phases = [Phase::Making, Phase::Made, Phase::Growing];
        let snapshot = match value(SNAPSHOT) {
            Some(name) => Some(SnapshotName::new(name).ok()?),
            None => None,
        };
        Some(Self {
            volume: VolumeName::new(value(VOLUME)?).ok()?,
            snapshot,
            filesystem: Filesystem::ON_DEVICES
                .into_iter()
                .find(|kind| value(FILESYSTEM) == Some(&kind.to_string()))?,
            allocation: [Allocation::Sparse, Allocation::Preallocated]
                .into_iter()
                .find(|kind| value(ALLOCATION) == Some(&kind.to_string()))?,
            phase: phases.into_iter().find(|phase| found.tags.contains(&phase.tag()))?,
        })
    }

    /// The arguments that put them on a new logical volume.
    pub(super) fn arguments(&self, pool: &str) -> Vec<String> {
        let mut tags = vec![
            OURS.to_owned(),
            format!("{POOL}{pool}"),
            format!("{VOLUME}{}", self.volume),
            format!("{FILESYSTEM}{}", self.filesystem),
            format!("{ALLOCATION}{}", self.allocation),
            self.phase.tag(),
        ];
        tags.extend(self.snapshot.as_ref().map(|snapshot| format!("{SNAPSHOT}{snapshot}")));
        tags.into_iter().flat_map(|tag| ["--addtag".to_owned(), tag]).collect()
    }
}

/// What the logical volume is called: nothing that a person chose gets into a kernel's name, and none is too long.
pub(super) fn logical_name(pool: &str, volume: &VolumeName, snapshot: Option<&SnapshotName>) -> String {
    let text = format!("{pool}/{volume}/{}", snapshot.map_or("", SnapshotName::as_str));
    format!("dk{}", Digest::of(text.as_bytes()).short())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::volume::backend::lvm::report::Layout;

    #[test]
    fn tags_are_read_as_they_are_written() {
        let marked = Marked {
            volume: VolumeName::new("data").unwrap(),
            snapshot: Some(SnapshotName::new("then").unwrap()),
            filesystem: Filesystem::Xfs,
            allocation: Allocation::Preallocated,
            phase: Phase::Growing,
        };
        let arguments = marked.arguments("0123");
        let tags: Vec<String> = arguments.into_iter().filter(|argument| argument != "--addtag").collect();
        // What `man 8 lvm` allows in a tag.
        let good = |b: u8| b.is_ascii_alphanumeric() || b"_+.-/=!:&#".contains(&b);
        assert!(tags.iter().all(|tag| tag.bytes().all(good)), "{tags:?}");
        let mut found = LogicalVolume {
            name: "x".to_owned(),
            tags,
            size_bytes: 0,
            layout: Layout::Linear,
            active: true,
            origin_bytes: 0,
            pool: String::new(),
            data: None,
            metadata: None,
            invalid: false,
            merging: false,
        };
        assert_eq!(Marked::read(&found, "0123"), Some(marked));
        assert_eq!(Marked::read(&found, "012"), None, "another pool's");
        found.tags.retain(|tag| !tag.starts_with(PHASE));
        assert_eq!(Marked::read(&found, "0123"), None, "half a mark");
    }

    #[test]
    fn names_are_short_and_differ() {
        let (a, b) = (VolumeName::new("a").unwrap(), VolumeName::new("x".repeat(63)).unwrap());
        let then = SnapshotName::new("then").unwrap();
        let names = [
            logical_name("p", &a, None),
            logical_name("p", &b, None),
            logical_name("p", &a, Some(&then)),
            logical_name("q", &a, None),
        ];
        assert!(names.iter().all(|name| name.len() == 18));
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
    }
}
