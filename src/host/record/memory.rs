//! Records that were read before, as long as their files have not changed (`man 7 inode`, "ctime").
//!
//! A file is replaced whole, so another content is another inode, or at least a later change. What changed within the last
//! tick of the kernel's clock is not relied on: it may change once more without looking any different.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::sys::file::absent_is_none;

/// Longer than a tick, which is 10 ms at the most.
const SETTLED: Duration = Duration::from_millis(20);

/// The state of a file: two that are the same and settled have one content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    length: u64,
    /// Seconds and nanoseconds since 1970.
    changed: (i64, i64),
}

/// What was read from the files of a directory, by name.
#[derive(Debug)]
pub(super) struct Memory<R>(Mutex<HashMap<String, (Stamp, Arc<R>)>>);

impl<R> Memory<R> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    /// What the file at `path` holds: as it was `read` earlier, if it has not changed. What cannot be read is not remembered.
    pub(super) fn recall(
        &self,
        name: &str,
        path: &Path,
        read: impl FnOnce() -> Result<Option<R>>,
    ) -> Result<Option<Arc<R>>> {
        // Before it is read: what is written meanwhile is another state.
        let found = absent_is_none(fs::metadata(path)).map_err(|e| Error::os("stat", path.display(), e))?;
        let stamp = found.as_ref().map(Stamp::of);
        if let Some(stamp) = stamp
            && let Some((known, record)) = self.lock().get(name)
            && *known == stamp
        {
            return Ok(Some(Arc::clone(record)));
        }
        let record = read()?.map(Arc::new);
        match (&record, stamp.filter(|stamp| stamp.is_settled(SystemTime::now()))) {
            (Some(record), Some(stamp)) => {
                self.lock().insert(name.to_owned(), (stamp, Arc::clone(record)));
            }
            _ => drop(self.lock().remove(name)),
        }
        Ok(record)
    }

    /// Forgets all but the records of these `names`, which are sorted.
    pub(super) fn keep(&self, names: &[impl AsRef<str>]) {
        let is_there = |name: &String| names.binary_search_by(|other| other.as_ref().cmp(name)).is_ok();
        self.lock().retain(|name, _| is_there(name));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Stamp, Arc<R>)>> {
        // What it holds is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stamp {
    fn of(found: &fs::Metadata) -> Self {
        Self {
            file: (found.dev(), found.ino()),
            length: found.len(),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// Whether a change that is made from `now` on is another state. Never of a file system that counts in whole seconds.
    fn is_settled(&self, now: SystemTime) -> bool {
        let (Ok(seconds), Ok(nanos)) = (u64::try_from(self.changed.0), u32::try_from(self.changed.1)) else {
            return false;
        };
        let changed = UNIX_EPOCH + Duration::new(seconds, nanos);
        nanos != 0 && now.duration_since(changed).is_ok_and(|age| age >= SETTLED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_settled_is_relied_on() {
        let stamp = |changed| Stamp { file: (1, 2), length: 3, changed };
        let now = UNIX_EPOCH + Duration::new(1000, 0);
        for (changed, expected) in [
            ((999, 979_999_999), true),
            ((999, 980_000_001), false),
            ((999, 0), false),
            ((1000, 1), false),
            ((2000, 1), false),
            ((-1, 1), false),
            ((0, 1), true),
        ] {
            assert_eq!(stamp(changed).is_settled(now), expected, "{changed:?}");
        }
    }

    /// A record is read again exactly if its file is another one, and what is gone is forgotten.
    #[test]
    fn a_change_is_seen() {
        let path = std::env::temp_dir().join(format!("docklet-memory-{}", std::process::id()));
        let memory = Memory::new();
        let reads = std::cell::Cell::new(0);
        let recall = || {
            let read = || {
                reads.set(reads.get() + 1);
                crate::sys::file::read_if_exists(&path)
            };
            memory.recall("a", &path, read).unwrap().map(|text| (*text).clone())
        };
        let settle = || {
            let settled = || Stamp::of(&fs::metadata(&path).unwrap()).is_settled(SystemTime::now());
            while !settled() {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        assert_eq!(recall(), None);
        // As long as it is new, it is read each time.
        crate::sys::file::publish_volatile(&path, b"one").unwrap();
        assert_eq!(recall().as_deref(), Some("one"));
        for text in ["one", "two", "six"] {
            crate::sys::file::publish_volatile(&path, text.as_bytes()).unwrap();
            settle();
            assert_eq!(recall().as_deref(), Some(text));
            let before = reads.get();
            assert_eq!(recall().as_deref(), Some(text));
            assert_eq!(reads.get(), before);
        }
        fs::write(&path, "in place").unwrap();
        assert_eq!(recall().as_deref(), Some("in place"));
        fs::remove_file(&path).unwrap();
        assert_eq!(recall(), None);
        assert!(memory.lock().is_empty());
        memory
            .lock()
            .insert("b".to_owned(), (Stamp { file: (0, 0), length: 0, changed: (0, 0) }, Arc::default()));
        memory.keep(&["a", "b"]);
        assert_eq!(memory.lock().len(), 1);
        memory.keep(&["a", "c"]);
        assert!(memory.lock().is_empty());
    }
}
